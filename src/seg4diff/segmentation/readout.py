"""Zero-shot segmentation: one noisy forward pass per prompt, class maps from a reader, argmax (paper, section 3.4)."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import Scores, i2t
from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError, at_least
from seg4diff.finite import require_finite
from seg4diff.flow import draw, interpolate
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.presence import Presence, Unknown
from seg4diff.segmentation.prompts import Prompt
from seg4diff.segmentation.readers.base import Pass, Reader, latent_frames
from seg4diff.segmentation.readers.expert import Expert
from seg4diff.segmentation.refine import Refiner, Unrefined

Normalisation = Literal["none", "minmax"]


class Readout:
    """How maps are read from a backbone; the values before `reader` belong to the backbone's configuration.

    Args:
        sigma: noise level in [0, 1], 1 = pure noise.
        scores: content of the I2T maps, see `seg4diff.attention.maps.i2t`.
        normalisation: "minmax" scales each class map to [0, 1] before the argmax, "none" leaves it.
        seed: seed of the noise; image number k of a data set always meets the same noise.
        background: where no map of a named class, scaled to [0, 1], reaches this value, a pixel is background; only for
            vocabularies that have such a class. It has no map of its own, because its name describes nothing.
        heads: attention heads whose mean the I2T maps are; None = all of them (the paper).
        reader: how class maps are read from a pass; None = the expert's I2T maps (the paper).
        presence: which of the classes are in the image; None = any may be (the paper).
        refine: what becomes of them at the pixels of the picture; None = nothing (the paper).
    """

    def __init__(
        self,
        *,
        sigma: float,
        scores: Scores,
        normalisation: Normalisation,
        seed: int,
        background: float | None = None,
        heads: Sequence[int] | None = None,
        reader: Reader | None = None,
        presence: Presence | None = None,
        refine: Refiner | None = None,
    ) -> None:
        if not 0 <= sigma <= 1:
            raise UserError(f"`sigma` must be in [0, 1], found {sigma}.")
        for name, value, choice in (("scores", scores, Scores), ("normalisation", normalisation, Normalisation)):
            if value not in get_args(choice):
                raise UserError(f"`{name}` must be one of {', '.join(get_args(choice))}, found '{value}'.")
        at_least(0, seed=seed)
        if background is not None and not (isinstance(background, int | float) and 0 <= background <= 1):
            raise UserError(f"`background` must be in [0, 1], found {background!r}.")
        if heads is not None and not heads:
            raise UserError("`heads` must name at least one attention head; leave it out for all of them.")
        self.sigma, self.scores, self.normalisation, self.seed, self.background = sigma, scores, normalisation, seed, background
        self.heads = None if heads is None else list(heads)
        self.reader, self.presence, self.refine = reader or Expert(), presence or Unknown(), refine or Unrefined()
        chosen = {"scores": scores != "joint", "heads": heads is not None}
        if odd := [name for name, changed in chosen.items() if changed and name not in self.reader.settings]:
            raise UserError(f"`{odd[0]}` has no effect on maps of this `reader`: leave it as it is, or read with the expert of one block.")
        if (scores, normalisation) == ("logits", "none") and not isinstance(self.presence, Unknown):
            raise UserError("`presence` weighs maps that are not negative: set `normalisation=minmax`, or other `scores` than logits.")

    def changed(self, **changes: Any) -> Self:
        """The same readout with other values of some arguments."""
        return type(self)(**vars(self) | changes)

    @property
    def departures(self) -> list[str]:
        """Names of reader, presence and refinement, of those that are not the paper's."""
        parts = [(self.reader, Expert), (self.presence, Unknown), (self.refine, Unrefined)]
        return [type(part).__name__ for part, papers in parts if type(part) is not papers]

    @torch.no_grad()
    def class_maps(
        self, backbone: Backbone, images: Tensor, prompts: Sequence[Sequence[Prompt]], image_ids: Sequence[int], blocks: Sequence[int]
    ) -> dict[int, list[Tensor]]:
        """Read several blocks in passes that stop at the last block that the reader needs.

        Pass number k takes the k-th prompt of every image that has one, so one prompt per image is one pass, and more prompts take
        more passes of at most B images, not more memory. All prompts of an image meet the same noisy latents; a softmax over the
        text keys knows those of its own prompt.

        Args:
            backbone: the model.
            images: (B, 3, H, W) in [-1, 1]; or clips (B, 3, F, H, W), see `Backbone.encode_image`.
            prompts: for each image its prompts; an image without any has no maps and takes no pass.
            image_ids: B numbers that seed the noise.
            blocks: block indices.

        Returns:
            For each block a list of B tensors (classes of all prompts of the image, in order, h, w). Of a clip, h holds the rows of its
            latent frames, one frame below the other.

        Raises:
            UserError: maps are not finite, or the reader cannot read this model.
        """
        noisy, sigma = self.noisy(backbone, images, image_ids)
        rows, columns = backbone.token_grid(*images.shape[-2:])
        grid = (latent_frames(noisy) * rows, columns)
        found = {block: [[noisy.new_zeros(0, *grid, dtype=torch.float32)] for _ in prompts] for block in blocks}
        for column in zip_longest(*prompts):
            asked = [row for row, prompt in enumerate(column) if prompt is not None]
            run = self._pass(backbone, noisy[asked], sigma[asked], grid, [column[row] for row in asked])
            for block, maps in self.reader.read(run, blocks):
                for row, own in zip(asked, maps, strict=True):
                    require_finite(own, f"the maps of block {block}")
                    found[block][row].append(own)
        return {block: [torch.cat(maps) for maps in per_image] for block, per_image in found.items()}

    @torch.no_grad()
    def empty_prompt_maps(
        self, backbone: Backbone, images: Tensor, image_ids: Sequence[int], blocks: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Maps of every position of the text window under the empty prompt, in one pass; see `class_maps` for the arguments.

        Yields:
            Each block and its maps (B, text window, h, w), one block after the other: those of all blocks together are large.
        """
        grid = backbone.token_grid(*images.shape[-2:])
        record = self._pass(backbone, *self.noisy(backbone, images, image_ids), grid, [Prompt("", [], [])] * len(images)).capture(blocks)
        for block in blocks:
            yield block, self.token_maps(record[block], block)[:, : backbone.text_window].unflatten(-1, grid)

    def noisy(self, backbone: Backbone, images: Tensor, image_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Latents of images (B, 3, H, W) with the noise of each, and the noise levels (B,); see `class_maps`."""
        latents = backbone.encode_image(images)
        noise, sigma = draw(latents, image_ids, self.seed, lambda _: self.sigma)
        return interpolate(latents, noise, sigma), sigma

    def _pass(self, backbone: Backbone, latents: Tensor, sigma: Tensor, grid: tuple[int, int], prompts: Sequence[Prompt]) -> Pass:
        condition = backbone.encode_text([prompt.text for prompt in prompts])
        return Pass(backbone, latents, sigma, condition, prompts, grid, self.token_maps)

    def token_maps(self, joint: Joint, block: int) -> Tensor:
        """I2T maps of every text token (B, T, N) from what enters the attention of a block. Raises UserError if they are not finite."""
        maps = i2t(joint if self.heads is None else joint.of_heads(self.heads), self.scores)
        require_finite(maps, f"the attention maps of block {block}")
        return maps

    def segment(
        self, maps: Tensor, classes: Sequence[int], frame: Frame, background: int | None = None, picture: Tensor | None = None
    ) -> Tensor:
        """Class maps (classes, h, w) -> label map (H, W) of class ids: normalise, weigh by presence, upsample, refine, argmax.

        Args:
            maps: one map per class, over the canvas.
            classes: their ids; where there are none, everything is background, or `IGNORE` if there is no such class.
            frame: the mask that the label map is to be compared with.
            background: id of the class without a name (see `background` of the class); None = every pixel has one of `classes`.
            picture: (3, H, W) in [0, 1], what the mask is of; None = there is nothing to refine by.
        """
        if not classes:
            return torch.full(frame.size, IGNORE if background is None else background, device=maps.device)
        present = self.presence(maps, classes, frame)[:, None, None]
        scaled = minmax(maps, frame) * present
        pixels = frame.upsample(scaled if self.normalisation == "minmax" else maps * present)
        ids = torch.tensor(list(classes), device=maps.device)
        labels = ids[self._refined(pixels, picture).max(dim=0).indices]  # argmax takes ten times as long on a CPU
        if background is None:
            return labels
        assert self.background is not None, "a class without a name needs a level"
        highest = (pixels if self.normalisation == "minmax" else frame.upsample(scaled)).amax(dim=0)
        highest, level = self._refined(torch.stack([highest, torch.full_like(highest, self.background)]), picture)
        return torch.where(highest < level, background, labels)

    def _refined(self, maps: Tensor, picture: Tensor | None) -> Tensor:
        return maps if picture is None else self.refine(maps, picture)


def minmax(maps: Tensor, frame: Frame) -> Tensor:
    """Each map of (classes, h, w) with its values scaled to [0, 1] over the tokens that see the image."""
    seen = frame.tokens(maps)
    low, high = seen.amin(dim=(-2, -1), keepdim=True), seen.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)
