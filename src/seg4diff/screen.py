"""Text on the terminal and in plots is shown as it is: names of classes, files and settings are never read as markup."""

from contextlib import AbstractContextManager

from rich.console import Console


def screen() -> Console:
    """A console without markup and without emoji codes."""
    return Console(markup=False, emoji=False)


def plain_text() -> AbstractContextManager[None]:
    """Inside the context, dollar signs in the text of a plot are no formulas."""
    from matplotlib import rc_context

    return rc_context({"text.parse_math": False})
