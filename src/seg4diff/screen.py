"""Text that people see, on the terminal and in plots, as it is: signs in names of classes, files and settings mean nothing more."""

from contextlib import AbstractContextManager

from rich.console import Console


def screen() -> Console:
    """A console to which brackets are no markup and colons no pictures."""
    return Console(markup=False, emoji=False)


def plain_text() -> AbstractContextManager[None]:
    """While it lasts, dollar signs make no formula of a text in a plot."""
    from matplotlib import rc_context

    return rc_context({"text.parse_math": False})
