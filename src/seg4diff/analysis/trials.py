"""What causal tests work on, and who judges the images that they generate."""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from seg4diff.errors import at_least
from seg4diff.evaluation.judges.figures import PairMetric, TextMetric
from seg4diff.evaluation.judges.networks import Clip, CLIPScore, ImageFeatures, Similarity
from seg4diff.generation.requests import Sampling

log = logging.getLogger(__name__)


@runtime_checkable  # a configuration may hold null in its place
class ExactJudge(Protocol):
    """Judges images of its own prompts without a network.

    Attributes:
        name: of its figure.
        prompts: the prompts.
    """

    name: str
    prompts: list[str]

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """A figure for each image; the larger, the more it is as its prompt says."""


class Trials:
    """How many images causal tests segment and generate, and who judges them.

    Args:
        segmented: images that are segmented under every perturbation of every block.
        generated: images that are generated so, from the same noise as without.
        steps: sampling steps.
        guidance: guidance scale.
        size: (height, width) in pixels.
        clip: folder or hub id of a CLIP model, for CLIP-I (similarity with the unperturbed image) and CLIP-T (agreement with the prompt);
            None = neither.
        dino: folder or hub id of a vision transformer such as DINOv2, for the similarity of its features; None = not measured.
        exact: judges images without a network and names their prompts; None = the prompts are those of the images that are analysed.
    """

    def __init__(
        self,
        *,
        segmented: int,
        generated: int,
        steps: int,
        guidance: float,
        size: tuple[int, int],
        clip: str | None = None,
        dino: str | None = None,
        exact: ExactJudge | None = None,
    ) -> None:
        at_least(0, segmented=segmented, generated=generated)
        self.segmented, self.generated = segmented, generated
        self.sampling = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1]))
        self.exact, self._clip, self._dino = exact, clip, dino
        self.pair_names = ["pixels", *(["CLIP-I"] if clip else []), *(["DINO"] if dino else [])]
        self.text_names = [*([exact.name] if exact else []), *(["CLIP-T"] if clip else [])]

    def skipped(self) -> dict[str, str]:
        """One sentence for each figure that is not measured."""
        lacking = {
            "similarity by CLIP": (self._clip, "`trials.clip` to a CLIP model"),
            "similarity by DINO": (self._dino, "`trials.dino` to a vision transformer"),
        }
        return {
            f"causal/{name}": f"{name} of the causal tests is skipped: set {remedy}."
            for name, (weights, remedy) in lacking.items()
            if weights is None
        }

    def judges(self, device: torch.device) -> tuple[list[PairMetric], list[TextMetric]]:
        """Those of `pair_names` and of `text_names`. Raises UserError for weights that cannot be loaded."""
        clip = None if self._clip is None else Clip(self._clip, device)
        pairs: list[PairMetric] = [pixel_distances, *([Similarity(clip.images)] if clip else [])]
        texts: list[TextMetric] = [*([self.exact] if self.exact else []), *([CLIPScore(clip)] if clip else [])]
        if self._dino is not None:
            pairs.append(Similarity(ImageFeatures(self._dino, device)))
        return pairs, texts

    def prompt(self, place: int, own: str) -> str:
        """The prompt of the image that is generated at this place of the list: the judge's, or that of the image there."""
        return own if self.exact is None else self.exact.prompts[place % len(self.exact.prompts)]


def pixel_distances(images: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
    """Root mean square difference of the pixels of each image and its reference, in [0, 1]."""
    pairs = [[np.asarray(one, dtype=np.float64) for one in both] for both in zip(images, references, strict=True)]
    return [float(np.sqrt(np.mean((own - other) ** 2)) / 255) for own, other in pairs]
