"""Several optimizers behind the interface of one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Steps several optimizers over disjoint parameters together, so that schedules, clipping and checkpoints see one.

    Args:
        optimizers: the optimizers; their parameter groups are this one's.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})
        self._link_groups()

    def _link_groups(self) -> None:
        """Share the group dictionaries: a schedule that sets a learning rate here sets it there."""
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step each optimizer once; `closure`, if given, computes loss and gradients before that."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of the optimizers, in order."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._link_groups()


def muon_with_adamw(model: nn.Module, *, muon_lr: float, lr: float, weight_decay: float) -> Optimizer:
    """Muon (Jordan et al. 2024) for the matrices of stacked blocks, AdamW for embeddings, biases, norms, input and output layers.

    Args:
        model: its parameters that require a gradient are trained; a stack of blocks is an nn.ModuleList, a matrix the weight of an
            nn.Linear.
        muon_lr: learning rate of the matrices: the spectral norm of an update.
        lr: learning rate of the rest.
        weight_decay: decoupled weight decay of both.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inside = {id(layer.weight) for stack in stacks for layer in stack.modules() if isinstance(layer, nn.Linear)}
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in trainable if id(weight) in inside]
    others = [weight for weight in trainable if id(weight) not in inside]
    muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay)
    return JointOptimizer([muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)])
