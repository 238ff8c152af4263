"""Learning-rate schedules, and the number that a sample has in a run."""

import math
import warnings
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def sample_ids(trainer: L.Trainer, batch: int, batch_size: int) -> list[int]:
    """Positions of the samples of this process's batch number `batch` in the stream of the whole run.

    They are the same however many processes share a global batch.
    """
    first = (batch * trainer.world_size + trainer.global_rank) * batch_size
    return list(range(first, first + batch_size))


class RestoredByStep(LRScheduler):
    """A schedule that takes nothing but the step from a checkpoint: its rates are those of this run's length, also at the first step.

    Libraries restore the rate that the optimiser had, which at the end of a run is 0.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the step that `state_dict` had reached."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        with warnings.catch_warnings(action="ignore"):  # the rates are asked for between two steps
            self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class FactorOfStep(RestoredByStep, LambdaLR):
    """The peak rate times a factor that depends on the step."""


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, max_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return FactorOfStep(optimizer, factor)
