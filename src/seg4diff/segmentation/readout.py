"""Zero-shot read-out: one noisy forward pass per prompt, the I2T maps of a block, class maps, argmax (paper, section 3.4)."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate as resize

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import Scores, i2t
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.errors import UserError
from seg4diff.flow import draw, interpolate
from seg4diff.segmentation.prompts import Prompt, token_sets

Normalisation = Literal["none", "minmax"]


class Readout:
    """How maps are read from a backbone; its values belong to the backbone's configuration.

    Args:
        sigma: noise level in [0, 1], 1 = pure noise.
        scores: content of the maps, see `seg4diff.attention.maps.i2t`.
        normalisation: "minmax" stretches each class map to [0, 1] before the argmax, "none" leaves it.
        seed: seed of the noise; image number k of a data set always meets the same noise.
    """

    def __init__(self, *, sigma: float, scores: Scores, normalisation: Normalisation, seed: int) -> None:
        if not 0 <= sigma <= 1:
            raise UserError(f"readout.sigma must be in [0, 1], found {sigma}.")
        for name, value, choice in (("scores", scores, Scores), ("normalisation", normalisation, Normalisation)):
            if value not in get_args(choice):
                raise UserError(f"readout.{name} must be one of {', '.join(get_args(choice))}, found '{value}'.")
        self.sigma, self.scores, self.normalisation, self.seed = sigma, scores, normalisation, seed

    @torch.no_grad()
    def class_maps(
        self, backbone: Backbone, images: Tensor, prompts: Sequence[Sequence[Prompt]], image_ids: Sequence[int], blocks: Sequence[int]
    ) -> dict[int, list[Tensor]]:
        """Read several blocks in passes that stop at the last of them.

        Pass number k takes the k-th prompt of every image that has one, so one prompt per image is one pass, and more prompts take
        more passes of at most B images, not more memory. All prompts of an image meet the same noisy latents; a softmax over the
        text keys knows those of its own prompt.

        Args:
            backbone: the model.
            images: (B, 3, H, W) in [-1, 1].
            prompts: for each image its prompts; an image without any has no maps and takes no pass.
            image_ids: B numbers that seed the noise.
            blocks: block indices.

        Returns:
            For each block a list of B tensors (classes of all prompts of the image, in order, h, w).
        """
        grid = backbone.token_grid(*images.shape[-2:])
        latents = backbone.encode_image(images)
        noise, sigma = draw(latents, image_ids, self.seed, lambda _: self.sigma)
        noisy = interpolate(latents, noise, sigma)
        found = {block: [[noisy.new_zeros(0, *grid, dtype=torch.float32)] for _ in prompts] for block in blocks}
        for column in zip_longest(*prompts):
            rows = [row for row, prompt in enumerate(column) if prompt is not None]
            chosen = [column[row] for row in rows]
            condition = backbone.encode_text([prompt.text for prompt in chosen])
            with capture(backbone, blocks, stop=True) as record:
                backbone.predict_velocity(noisy[rows], sigma[rows], condition)
            for block in blocks:
                for row, maps in zip(rows, pool_words(i2t(record[block], self.scores), grid, condition, chosen), strict=True):
                    found[block][row].append(self.normalise(maps))
        return {block: [torch.cat(maps) for maps in per_image] for block, per_image in found.items()}

    def normalise(self, maps: Tensor) -> Tensor:
        """Apply the normalisation to each map of (classes, h, w)."""
        if self.normalisation == "none":
            return maps
        low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
        return (maps - low) / (high - low).clamp_min(1e-12)


def pool_words(maps: Tensor, grid: tuple[int, int], condition: TextCondition, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Mean over the tokens of each class name: token maps (B, T, N) -> B tensors (classes, h, w)."""
    maps = maps.unflatten(-1, grid)
    return [
        torch.stack([maps[row, tokens].mean(dim=0) for tokens in token_sets(condition, row, prompt)])
        if prompt.classes
        else maps.new_zeros(0, *grid)
        for row, prompt in enumerate(prompts)
    ]


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling of (classes, h, w) to (classes, H, W)."""
    return resize(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def segment(maps: Tensor, classes: Sequence[int], size: Sequence[int]) -> Tensor:
    """Class maps (classes, h, w) -> label map (H, W) of class ids: upsample, then argmax."""
    ids = torch.tensor(list(classes), device=maps.device)
    return ids[upsample(maps, size).argmax(dim=0)]
