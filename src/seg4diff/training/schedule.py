"""Learning-rate schedules, and the number that a sample has in a run."""

import math

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def sample_ids(trainer: L.Trainer, batch: int, batch_size: int) -> list[int]:
    """Positions of the samples of this process's batch number `batch` in the stream of the whole run.

    They are the same however many processes share a global batch.
    """
    first = (batch * trainer.world_size + trainer.global_rank) * batch_size
    return list(range(first, first + batch_size))


def warmup_stable_decay(optimizer: Optimizer, warmup_steps: int, decay_share: float, max_steps: int) -> LambdaLR:
    """Linear warm-up, constant, then a linear fall to zero over the last `decay_share` of the run."""
    decay_steps = max(1, round(decay_share * max_steps))
    return LambdaLR(optimizer, lambda step: max(0.0, min(1.0, (step + 1) / max(1, warmup_steps), (max_steps - step) / decay_steps)))


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, max_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)
