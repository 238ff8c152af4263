"""Sample images of a run, and the progress bar."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from PIL import Image

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import base_model, has_lora, updates_of
from seg4diff.errors import at_least
from seg4diff.evaluation.callbacks import keep_picture
from seg4diff.evaluation.judges.networks import Clip, CLIPScore
from seg4diff.generation.requests import Request, Sampling
from seg4diff.generation.sampler import draw
from seg4diff.pictures import sheet


class SampleImages(L.Callback):
    """Generate images from fixed prompts and seeds at every validation, base and LoRA side by side.

    The diffusers pipeline draws them, so they are equal to plain diffusers with the same seed.

    Args:
        prompts: the prompts; the empty prompt is allowed.
        seed: prompt k starts from noise seeded by seed + k.
        steps: sampling steps.
        guidance: guidance scale.
        size: [height, width] in pixels.
        output_dir: folder for the pictures.
        at_once: images that are drawn together; a card that trains one image a step has room for one.
        clip: folder or hub id of a CLIP model; the mean CLIPScore of the samples is then logged as `val/base/clip_score` and
            `val/lora/clip_score`, without that of the empty prompt. None = no CLIPScore.
    """

    def __init__(
        self,
        *,
        prompts: Sequence[str],
        seed: int,
        steps: int,
        guidance: float,
        size: tuple[int, int],
        output_dir: str,
        at_once: int = 1,
        clip: str | None = None,
    ) -> None:
        at_least(1, at_once=at_once)
        self._weights = clip
        self._score: CLIPScore | None = None
        self._requests, self._at_once = [Request(prompt, seed + k) for k, prompt in enumerate(prompts)], at_once
        self._sampling, self._folder = Sampling(guidance=guidance, steps=steps, size=(size[0], size[1])), Path(output_dir)
        self._base: list[Image.Image] = []
        self._current: list[Image.Image] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._weights is not None and self._score is None and trainer.is_global_zero:
            self._score = CLIPScore(Clip(self._weights, torch.device("cpu")))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            keep_picture(trainer, "samples", self.draw(pl_module.backbone), self._folder)
            if scores := self.scores():
                for logger in trainer.loggers:
                    logger.log_metrics(scores, trainer.global_step)

    def draw(self, backbone: Backbone) -> Image.Image:
        """A sheet with one column per prompt: the base model above, the adapted one below."""
        adapted = has_lora(backbone)
        if adapted and not self._base:
            with base_model(backbone):
                self._base = self._sample(backbone)
        untrained = adapted and not any(update.up.any() for update in updates_of(backbone).values())
        self._current = self._base if untrained else self._sample(backbone)
        titles = [request.prompt or "(empty prompt)" for request in self._requests]
        return sheet([self._base, self._current], ["base", "LoRA"], titles) if adapted else sheet([self._current], (), titles)

    def scores(self) -> dict[str, float]:
        """Mean CLIPScore of what `draw` has drawn last; nothing without a CLIP model."""
        named = [k for k, request in enumerate(self._requests) if request.prompt]
        if self._score is None or not named:
            return {}
        prompts = [self._requests[k].prompt for k in named]
        sheets = {"lora": self._current, "base": self._base} if self._base else {"base": self._current}
        return {f"val/{name}/clip_score": fmean(self._score([own[k] for k in named], prompts)) for name, own in sheets.items()}

    def _sample(self, backbone: Backbone) -> list[Image.Image]:
        drawn = draw(backbone, self._requests, self._sampling, None, at_once=self._at_once, share=(0, 1))
        return [one.image for one in drawn]


class StepProgressBar(RichProgressBar):
    """Lightning's rich progress bar, without a number of epochs that this project's one long pass does not have."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"
