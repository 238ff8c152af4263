"""Errors that a user can fix: the commands print their one sentence and exit, without a traceback.

An error names a parameter of the class or function that raises it in backticks: `sigma`, `sigma=0.5`, or `readout.sigma`, that of another
argument. Whoever offers the parameter under another name, as the command line does, puts this name in its place.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARAMETER = re.compile(r"`([a-z]\w*(?:\.\w+)*)(=[^`]*)?`")
"""A parameter in a message, with a value or without."""
Naming = Callable[[str], str | None]
"""What a parameter is called elsewhere; None: nothing else."""


class UserError(ValueError):
    """Bad input. The message is one sentence: what was expected, what was found, what to do."""


def at_least(least: float, **values: float) -> None:
    """Refuse parameters that are below `least`, or no numbers."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"`{name}` must be at least {least}, found {value}.")


def above_zero(**values: float) -> None:
    """Refuse parameters that are not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"`{name}` must be above 0, found {value}.")


def of_kind(what: str, *kinds: type, **values: object) -> None:
    """Refuse parameters that are of none of these types; None is a value that was left out, and a bool is no number."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise UserError(f"`{name}` must be {what}, found {value!r}.")


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the run needs is not where it was looked for."""


def rename(message: str, naming: Naming) -> str:
    """A message with other names for its parameters."""

    def name(match: re.Match) -> str:
        found = naming(match[1])
        return match[0] if found is None else f"{found}{match[2] or ''}"

    return PARAMETER.sub(name, message)


@contextmanager
def renamed(naming: Naming) -> Iterator[None]:
    """Within the block, errors name parameters as the caller knows them."""
    try:
        yield
    except UserError as error:
        error.args = (rename(str(error), naming),)
        raise
