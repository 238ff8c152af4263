"""The one kind of error that is the user's to fix: the scripts print its sentence and exit, without a traceback."""


class UserError(ValueError):
    """Bad input. The message is one sentence: what was expected, what was found, what to do."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the run needs is not where it was looked for."""
