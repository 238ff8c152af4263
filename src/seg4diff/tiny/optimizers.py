"""Muon that orthogonalises in the dtype of the weights, and several optimizers behind the interface of one."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic step of Jordan et al. 2024: singular values in (0, 1] end within about 0.7 to 1.2 after five steps."""


class Muon(Optimizer):
    """Momentum whose matrix is orthogonalised before it is applied (Jordan et al. 2024), as torch.optim.Muon.

    torch's orthogonalises in bfloat16, which processors without such arithmetic emulate: here it took 6 of 7.3 s of a step. This one
    keeps the dtype of the gradients, and takes matrices of one shape together.

    Args:
        params: matrices.
        lr: learning rate: the spectral norm of the update of a matrix that is not taller than wide.
        weight_decay: decoupled weight decay.
        momentum: of the gradients, with Nesterov's look ahead.
    """

    def __init__(self, params: Sequence[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: nothing here needs the loss
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    same_shape[tuple(weight.shape)].append(weight)
            for (rows, columns), weights in same_shape.items():
                updates = orthogonalise(torch.stack(self._ahead(weights, group["momentum"])))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, updates.unbind(), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _ahead(self, weights: list[Tensor], momentum: float) -> list[Tensor]:
        """Take the gradients into their running means; returns the means as they will be once more of the same gradients came."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means = [self.state[weight].setdefault("momentum", torch.zeros_like(weight)) for weight in weights]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, means, momentum))


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly U V^T of each U S V^T, by Newton-Schulz steps: (K, rows, columns), in the dtype of the matrices."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(steps):
        square = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(square, square, square, beta=third, alpha=fifth), wide, beta=first)
    return wide.mT if tall else wide


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

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has two overloads
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
    muon = Muon(matrices, lr=muon_lr, weight_decay=weight_decay)
    return JointOptimizer([muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)])
