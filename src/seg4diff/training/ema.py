"""Exponential moving average of the weights that are trained, and of no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from seg4diff.errors import UserError


class WeightAverage(L.Callback):
    """Keeps average = decay * average + (1 - decay) * weight, updated once per optimiser step.

    Validation, test and the LoRA folders beside checkpoints use the average; the checkpoint holds both, so a resumed run goes on as if
    it had never stopped. Only weights that require a gradient are copied: the frozen base has no second copy.

    Args:
        decay: in [0, 1); the average looks back over about 1 / (1 - decay) steps. Early on it is (1 + steps) / (10 + steps) where that
            is smaller, so that the start is forgotten.
    """

    def __init__(self, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"`decay` must be in [0, 1), found {decay}.")
        self._decay = decay
        self._average: dict[str, Tensor] = {}
        self._step = 0
        self._weights: dict[str, Tensor] = {}
        self._in_place = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._weights = {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}
        restored = {name: average.to(self._weights[name].device) for name, average in self._average.items()}
        self._average = restored or {name: weight.detach().clone() for name, weight in self._weights.items()}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self._step:  # accumulating
            return
        self._step = trainer.global_step
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            torch._foreach_lerp_([self._average[name] for name in self._weights], list(self._weights.values()), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the average in place of its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A stop within a validation: what is saved next must be the weights."""
        if self._in_place:
            self._swap()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The run is over and its checkpoints are written: what is tested now is the average."""
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        self._in_place = not self._in_place
        for name, weight in self._weights.items():
            kept = weight.detach().clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {"average": {name: average.cpu() for name, average in self._average.items()}, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; `on_fit_start` may come before or after."""
        self._step = state_dict["step"]
        for name, average in state_dict["average"].items():
            self._average[name] = average.to(self._weights[name].device) if name in self._weights else average.clone()
