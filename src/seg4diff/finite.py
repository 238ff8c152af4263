"""Stop at NaN and infinite values, before they become a label, a loss or a figure."""

from torch import Tensor

from seg4diff.errors import UserError


def require_finite(values: Tensor, what: str) -> None:
    """Stop at the first result of a model that is damaged or whose numbers leave the range of its dtype.

    Args:
        values: any shape.
        what: what they are, in the plural, as the message calls them.

    Raises:
        UserError: a value is NaN or infinite.
    """
    if not values.isfinite().all():
        raise UserError(
            f"{what} are not finite (NaN or infinite): check the files of the model and of its LoRA, lower `lr` if it was being "
            "trained, or compute in a wider dtype (`dtype=float32`, in training also `precision=32-true`)."
        )
