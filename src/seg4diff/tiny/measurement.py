"""Measure what a model of the toy world draws, with and without its LoRA: `python evaluate.py evaluation=generation`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import has_lora
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request, Sampling, batches
from seg4diff.generation.sampler import draw, guided
from seg4diff.pictures import sheet
from seg4diff.tiny.drawing import answers_of, by_prompt, images_of
from seg4diff.tiny.prompts import held_out_prompts
from seg4diff.tiny.record import AnswerRecord
from seg4diff.tiny.report import GenerationReport

EXAMPLES, COLUMNS = 16, 8
"""Of the sheet of examples: prompts (the first, with their first seed) and columns, at most."""


class GenerationEvaluation:
    """Draws held-out prompts and answers what the images show; needs no data set.

    Args:
        backbone: the model; where it carries a LoRA, it is measured without and with it.
        prompts: number of prompts.
        seeds: images of each prompt.
        steps: sampling steps.
        guidance: guidance scale.
        perturbed_guidance: scale of perturbed-I2T guidance, see `Model.draw`; 0 = without it.
        perturbed_block: block that it perturbs.
        size: (height, width) in pixels.
        lora_scale: factor on the LoRA: 1 = as it was trained.
        at_once: images that are drawn together. Another number may change the last bit of an image.
        base_from: folder of a measurement with the same settings, whose answers about the base model are taken; None = they are drawn.
        resamples: number of bootstrap resamples of the prompts behind the intervals.
        seed: seed of the prompts and of the resamples.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        prompts: int,
        seeds: int,
        steps: int,
        guidance: float,
        perturbed_guidance: float,
        perturbed_block: int,
        size: tuple[int, int],
        lora_scale: float,
        at_once: int,
        base_from: str | None,
        resamples: int,
        seed: int,
    ) -> None:
        if resamples < 1:
            raise UserError(f"`resamples` must be at least 1, found {resamples}.")
        self._backbone, self._seeds, self._at_once = backbone, seeds, at_once
        perturbed: dict[str, Any] = {"perturbed_guidance": perturbed_guidance, "perturbed_block": perturbed_block}
        self._sampling = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1]), **perturbed)
        guided(backbone, self._sampling)  # names a block that does not exist at once
        self._prompts = held_out_prompts(prompts, seed)
        backbone.token_grid(*self._sampling.size)
        self._scales = {"base": 0.0} | ({"lora": lora_scale} if has_lora(backbone) else {})
        self._base_from, self._resamples, self._seed = base_from, resamples, seed
        for scale in self._scales.values():
            batches([Request(text, own, scale) for text, own in images_of(self._prompts, seeds)], at_once)

    def open_record(self, folder: Path, model: Mapping[str, Any]) -> AnswerRecord:
        """The answers that a folder holds already, and those of `base_from`.

        Args:
            folder: the answers are kept there.
            model: what identifies the model, and its LoRA under the name "lora".

        Raises:
            UserError: one of the folders holds answers of other settings, or none.
        """
        record = AnswerRecord(folder, self._settings() | dict(model))
        if self._base_from is not None:
            record.take_base(Path(self._base_from))
        return record

    def run(self, record: AnswerRecord) -> GenerationReport:
        """Draw the images that the record has no answers about, and report on all of them."""
        for variant, scale in self._scales.items():
            known = record.of(variant)
            options: dict[str, Any] = {"scale": scale, "at_once": self._at_once, "known": known}
            if missing := len(self._prompts) * self._seeds - len(known):
                drawn = answers_of(self._backbone, self._prompts, self._seeds, self._sampling, **options)
                record.add(variant, track(drawn, f"drawing, {variant}", missing))
        found = {variant: by_prompt(record.of(variant), self._prompts, self._seeds) for variant in self._scales}
        about = {name: getattr(self._sampling, name) for name in ("steps", "guidance", "perturbed_guidance")}
        about |= {"prompts": len(self._prompts), "seeds": self._seeds, "lora_scale": self._scales.get("lora")}
        return GenerationReport.of(found, self._resamples, self._seed, **about)

    def _settings(self) -> dict[str, Any]:
        own = {"prompts": len(self._prompts), "seeds": self._seeds, "seed": self._seed, "at_once": self._at_once}
        return own | vars(self._sampling) | {"lora_scale": self._scales.get("lora")}

    def examples(self) -> Image.Image:
        """A sheet of the first prompts: a column for each, the base model above, the LoRA below."""
        images = images_of(self._prompts[:EXAMPLES], 1)
        rows = []
        for scale in self._scales.values():
            asked = [Request(text, seed, scale) for text, seed in images]
            rows.append([one.image for one in draw(self._backbone, asked, self._sampling, None, at_once=self._at_once, share=(0, 1))])
        names = ["base", "LoRA"][: len(rows)] if len(rows) > 1 else []
        titles = [text for text, _ in images]
        bands = [slice(first, first + COLUMNS) for first in range(0, len(titles), COLUMNS)]
        return sheet([[sheet([row[band] for row in rows], names, titles[band])] for band in bands])
