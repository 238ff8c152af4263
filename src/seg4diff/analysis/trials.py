"""What causal tests work on, and who judges the images that they generate."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from seg4diff.errors import UserError, at_least
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
        seed: the image at place k of the list is drawn with `seed` + k.
        clip: folder or hub id of a CLIP model, for CLIP-I (similarity with the unperturbed image) and CLIP-T (agreement with the prompt);
            None = neither.
        dino: folder or hub id of a vision transformer such as DINOv2, for the similarity of its features; None = not measured.
        exact: judges images without a network and names their prompts; None = the prompts are those of the images that are analysed.

    Attributes:
        pairs: what compares an image with the unperturbed one, by name of its figure.
        texts: what says how well an image agrees with its prompt, by name of its figure.
        skipped: one sentence for each figure that is not measured, because weights are not named or cannot be loaded.
    """

    def __init__(
        self,
        *,
        segmented: int,
        generated: int,
        steps: int,
        guidance: float,
        size: tuple[int, int],
        seed: int = 0,
        clip: str | None = None,
        dino: str | None = None,
        exact: ExactJudge | None = None,
    ) -> None:
        at_least(0, segmented=segmented, generated=generated)
        self.segmented, self.generated, self.seed, self.exact = segmented, generated, seed, exact
        self.sampling = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1]))
        self.skipped: dict[str, str] = {}
        self.pairs: dict[str, PairMetric] = {"pixels": pixel_distances}
        self.texts: dict[str, TextMetric] = {exact.name: exact} if exact else {}
        self._networks: list[Clip | ImageFeatures] = []
        if found := self._load("similarity by CLIP", Clip, clip, "`trials.clip` to a CLIP model"):
            self.pairs["CLIP-I"], self.texts["CLIP-T"] = Similarity(found.images), CLIPScore(found)
        if features := self._load("similarity by DINO", ImageFeatures, dino, "`trials.dino` to a vision transformer"):
            self.pairs["DINO"] = Similarity(features)

    def _load(self, figure: str, kind: Any, weights: str | None, remedy: str) -> Any:
        """A network on the CPU; None, and a sentence in `skipped`, if it is not there."""
        try:
            if weights is None:
                raise UserError(f"set {remedy}.")
            network = kind(weights, torch.device("cpu"))
        except UserError as error:
            self.skipped[f"causal/{figure}"] = f"{figure} of the causal tests is skipped: {error}"
            return None
        self._networks.append(network)
        return network

    def move(self, device: torch.device) -> None:
        """Bring the networks of the judges to a device."""
        for network in self._networks:
            network.to(device)

    def prompt(self, place: int, own: str) -> str:
        """The prompt of the image that is generated at this place of the list: the judge's, or that of the image there."""
        return own if self.exact is None else self.exact.prompts[place % len(self.exact.prompts)]


def pixel_distances(images: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
    """Root mean square difference of the pixels of each image and its reference, in [0, 1]."""
    pairs = [[np.asarray(one, dtype=np.float64) for one in both] for both in zip(images, references, strict=True)]
    return [float(np.sqrt(np.mean((own - other) ** 2)) / 255) for own, other in pairs]
