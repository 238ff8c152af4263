"""Draw images with the plain diffusers pipeline, and read one block's attention at one step on the way."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from PIL import Image
from torch import Tensor

from seg4diff.attention.guidance import perturbed_guidance
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone, OnStep
from seg4diff.backbones.lora import scaled_lora
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request, Sampling, missing_batches
from seg4diff.inputs import CanvasPicture
from seg4diff.results import Generated, Segmentation
from seg4diff.segmentation.prompts import find_names, pool_words, prompt_words, visible_words
from seg4diff.segmentation.readout import Readout

log = logging.getLogger(__name__)


class MapReader:
    """Reads where each word goes while images are sampled.

    Args:
        backbone: the model.
        block: block that is read.
        readout: how it is read.
        step: sampling step from 0; None = the step whose noise level is nearest to that of the readout.
        words: words that are looked for; None = every word of a prompt.
        strip: further steps that are read.
    """

    def __init__(
        self, backbone: Backbone, block: int, readout: Readout, step: int | None, words: Sequence[str] | None, strip: Sequence[int] = ()
    ) -> None:
        self._backbone, self._block, self._readout, self._step = backbone, block, readout, step
        self._words, self._strip = words, strip

    def check(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Raise UserError if the step does not exist, a prompt does not fit, or a word stands in no prompt."""
        for name, step in (("map_step", 0 if self._step is None else self._step), *(("strip", step) for step in self._strip)):
            if type(step) is not int or not 0 <= step < sampling.steps:
                raise UserError(f"`{name}` must be a whole number from 0 to {sampling.steps - 1}, found {step!r}.")
        for prompt in dict.fromkeys(prompts):
            if not self._backbone.fits(prompt):
                raise UserError(
                    f"the prompt '{prompt[:60]}...' is longer than the {self._backbone.text_window} tokens that the model takes, so its "
                    "last words have no map: shorten it, or leave the maps out (maps=False, --no-maps)."
                )
        for word in self._words or ():
            if not any(find_names(prompt, [word], [0]).classes for prompt in prompts):
                raise UserError(f"'{word}' stands in none of the prompts: leave it out, or write it as they do.")

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> tuple[list[Image.Image], list[Segmentation], list[dict[int, Segmentation]]]:
        """Images, one for each prompt and seed, where the words of each prompt went over them, and where at the steps of the strip.

        Read are the rows that see the prompt: the conditional half of classifier-free guidance.
        """
        read: dict[int, Tensor] = {}

        def look(visit: Visit) -> None:
            if visit.step is not None and visit.step not in read and visit.step in (self._chosen_step(), *self._strip):
                maps = self._readout.token_maps(visit.joint, self._block)[visit.prompted]
                read.update({visit.step: maps} if len(maps) else {})

        with stream(self._backbone, [self._block], look):
            images = sample_images(self._backbone, prompts, seeds, sampling)
        found = {step: self._words_over(images, prompts, read[step], sampling.size) for step in (self._chosen_step(), *self._strip)}
        strips = [{step: found[step][k] for step in self._strip} for k in range(len(images))]
        return images, found[self._chosen_step()], strips

    def _words_over(self, images: Sequence[Image.Image], prompts: Sequence[str], maps: Tensor, size: tuple[int, int]) -> list[Segmentation]:
        """Where the words of each prompt are over its image, from the maps of all tokens (B, T, N)."""
        names = [self._words or prompt_words(prompt) for prompt in prompts]
        found = [find_names(prompt, own, range(len(own))) for prompt, own in zip(prompts, names, strict=True)]
        pooled = pool_words(maps, self._backbone.token_grid(*size), self._backbone.encode_text(prompts), found)
        words = [[own[k] for k in prompt.classes] for own, prompt in zip(names, found, strict=True)]
        return [self._over(*parts, size) for parts in zip(images, words, pooled, strict=True)]

    def _over(self, image: Image.Image, words: Sequence[str], maps: Tensor, size: tuple[int, int]) -> Segmentation:
        return CanvasPicture(image, size, "letterbox").of_words(words, maps, self._readout, visible_words(words))

    def _chosen_step(self) -> int:
        """The step that is read; the noise levels are known once a run has begun."""
        if self._step is not None:
            return self._step
        levels = self._backbone.noise_levels()
        return min(range(len(levels)), key=lambda step: abs(levels[step] - self._readout.sigma))


def draw(
    backbone: Backbone, requests: Sequence[Request], sampling: Sampling, reader: MapReader | None, *, at_once: int, share: tuple[int, int]
) -> Iterator[Generated]:
    """Draw what is missing of a list, see `Model.draw`; everything is checked before the first image."""
    if reader is not None:
        reader.check([request.prompt for request in requests], sampling)
    elif long := [request.prompt for request in requests if not backbone.fits(request.prompt)]:
        log.warning("the model sees only the beginning of %d long prompts, the first is '%s...'", len(long), long[0][:60])
    for scale in dict.fromkeys(request.scale for request in requests):
        with scaled_lora(backbone, scale):
            pass  # tried before the first image is drawn
    guided(backbone, sampling)
    own = missing_batches(requests, at_once, share)
    return (drawn for batch in own for drawn in _draw_batch(backbone, batch, sampling, reader))


def _draw_batch(backbone: Backbone, batch: Sequence[Request], sampling: Sampling, reader: MapReader | None) -> list[Generated]:
    """The images of a batch that are missing; all of it is drawn, see `requests.batches`."""
    prompts, seeds = [request.prompt for request in batch], [request.seed for request in batch]
    with scaled_lora(backbone, batch[0].scale):
        words: Sequence[Segmentation | None] = [None] * len(batch)
        strips: Sequence[Mapping[int, Segmentation]] = [{}] * len(batch)
        if reader is None:
            images = sample_images(backbone, prompts, seeds, sampling)
        else:
            images, words, strips = reader.sample(prompts, seeds, sampling)
    return [
        Generated(image, one.prompt, one.seed, one.scale, own, one.path, one.stem, strip)
        for image, one, own, strip in zip(images, batch, words, strips, strict=True)
        if one.is_missing
    ]


def guided(backbone: Backbone, sampling: Sampling) -> AbstractContextManager[None]:
    """The perturbed-I2T guidance that a way to sample asks for. Raises UserError if the block does not exist."""
    block, scale = sampling.perturbed_block, sampling.perturbed_guidance
    return nullcontext() if block is None or scale is None else perturbed_guidance(backbone, block, scale)


def sample_images(
    backbone: Backbone, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling, on_step: OnStep | None = None
) -> list[Image.Image]:
    """Images, one for each prompt and seed, drawn together; see `Backbone.sample`."""
    with guided(backbone, sampling):
        return backbone.sample(prompts, seeds=seeds, steps=sampling.steps, guidance=sampling.guidance, size=sampling.size, on_step=on_step)
