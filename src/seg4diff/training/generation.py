"""What a model of the toy world draws, measured exactly at every validation."""

import json
from pathlib import Path

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
        output_dir: folder of generation.jsonl, one line for each validation.
    """

    def __init__(
        self, *, count: int, seeds: int, seed: int, steps: int, guidance: float, size: list[int], at_once: int, output_dir: str
    ) -> None:
        self._prompts, self._seeds, self._file = held_out_prompts(count, seed), seeds, Path(output_dir) / "generation.jsonl"
        self._options = {"steps": steps, "guidance": guidance, "size": tuple(size), "at_once": at_once}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        answers = draw_and_answer(pl_module.backbone, self._prompts, self._seeds, **self._options)
        pl_module.log_dict({f"val/toy_{name}": value for name, value in means(answers).items()})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All figures of this validation, one line."""
        if trainer.is_global_zero:
            figures = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step} | figures) + "\n")
