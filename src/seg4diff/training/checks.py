"""Checks that stop a run that has gone wrong."""

from collections.abc import Mapping

from torch import Tensor

from seg4diff.errors import UserError

ENOUGH = 50
"""Batches without anything to align after which a run stops: it would train on the flow alone until its end."""


class AlignedCheck:
    """Stops a run whose images give the mask-alignment terms nothing to work on.

    Args:
        weights: of the terms of the loss; without weight on focal and dice nothing is checked.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._batches = 0 if weights["focal"] or weights["dice"] else None

    def __call__(self, terms: Mapping[str, Tensor]) -> None:
        """Look at the unweighted terms of one batch: without a single mask both are exactly zero.

        Raises:
            UserError: the first `ENOUGH` batches had no mask.
        """
        if self._batches is None:
            return
        if terms["focal"].item() or terms["dice"].item():
            self._batches = None
            return
        self._batches += 1
        if self._batches == ENOUGH:
            raise UserError(
                f"no image of the first {ENOUGH} batches had a mask to align: `align=names` needs masks with class names that stand in "
                "the prompt (`prompt`), `align=tokens` words in it, and all of them masks: `seg4diff check` shows which there are."
            )


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    """Stop a run whose loss is NaN or infinite; the last good checkpoint stays.

    Args:
        terms: scalar losses by name.
        step: optimiser step, for the message.
    """
    values = {name: value.item() for name, value in terms.items()}
    if not all(abs(value) < float("inf") for value in values.values()):
        raise UserError(f"the loss is not finite at step {step} ({values}): lower `lr` or use a wider dtype.")
