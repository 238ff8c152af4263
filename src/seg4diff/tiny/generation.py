"""What a model of the toy world draws, measured exactly at every validation."""

import lightning as L

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import has_lora
from seg4diff.generation.requests import Sampling
from seg4diff.tiny.answers import means
from seg4diff.tiny.drawing import answers_of, by_prompt
from seg4diff.tiny.prompts import held_out_prompts


class ToyGeneration(L.Callback):
    """Draws held-out prompts of the toy world and logs the share of right answers, see `seg4diff.tiny.answers.answer`.

    They are `val/base/<category>`; of a model with an adapter also `val/lora/<category>`, and the base model, which stays the same, is
    drawn once. Every process draws the same images; with many of them, draw fewer.

    Args:
        count: number of prompts.
        seeds: images of each prompt.
        seed: seed of the prompts; the final figure takes another.
        steps: sampling steps.
        guidance: guidance scale.
        size: [height, width] in pixels.
        at_once: images that are drawn together.
    """

    def __init__(self, *, count: int, seeds: int, seed: int, steps: int, guidance: float, size: tuple[int, int], at_once: int) -> None:
        self._prompts, self._seeds, self._at_once = held_out_prompts(count, seed), seeds, at_once
        self._sampling = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1]))
        self._base: dict[str, float] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        backbone, adapted = pl_module.backbone, has_lora(pl_module.backbone)
        if not adapted or not self._base:
            self._base = self._means(backbone, 0)
        figures = {"base": self._base} | ({"lora": self._means(backbone, 1)} if adapted else {})
        pl_module.log_dict({f"val/{variant}/{name}": value for variant, own in figures.items() for name, value in own.items()})

    def _means(self, backbone: Backbone, scale: float) -> dict[str, float]:
        drawn = dict(answers_of(backbone, self._prompts, self._seeds, self._sampling, scale=scale, at_once=self._at_once))
        return means(by_prompt(drawn, self._prompts, self._seeds))
