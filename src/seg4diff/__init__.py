"""Find the block of a text-to-image transformer that grounds words in regions, read segmentation from it, and align it with masks.

    import seg4diff

    model = seg4diff.load("sd3_medium")
    model.segment("photo.jpg", ["cat", "grass"]).overlay()

Importing this package imports nothing heavy; `load` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg4diff.loading import load
    from seg4diff.model import Model

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'seg4diff' has no attribute '{name}'")
    from seg4diff import loading

    return getattr(loading, name)


def __dir__() -> list[str]:
    return __all__
