"""Checks that stop a run that has gone wrong."""

from collections.abc import Mapping

from torch import Tensor

from seg4diff.errors import UserError


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    """Stop a run whose loss is NaN or infinite; the last good checkpoint stays.

    Args:
        terms: scalar losses by name.
        step: optimiser step, for the message.
    """
    values = {name: value.item() for name, value in terms.items()}
    if not all(abs(value) < float("inf") for value in values.values()):
        raise UserError(f"the loss is not finite at step {step} ({values}): lower model.lr or use a wider dtype.")
