"""What a model of the toy world draws, measured exactly at every validation."""

from typing import Any

import lightning as L

from seg4diff.tiny.answers import means
from seg4diff.tiny.prompts import held_out_prompts
from seg4diff.tiny.score import draw_and_answer


class ToyGeneration(L.Callback):
    """Draws held-out prompts of the toy world and logs the share of right answers, see `seg4diff.tiny.answers.answer`.

    Every process draws the same images; with many of them, draw fewer.

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
        self._prompts, self._seeds = held_out_prompts(count, seed), seeds
        self._options = dict[str, Any](steps=steps, guidance=guidance, size=tuple(size), at_once=at_once)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        answers = draw_and_answer(pl_module.backbone, self._prompts, self._seeds, **self._options)
        pl_module.log_dict({f"val/toy_{name}": value for name, value in means(answers).items()})
