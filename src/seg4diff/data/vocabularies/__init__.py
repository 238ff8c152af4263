"""The vocabularies of this folder, kept as text files: a comment that names the source, then one `id name` line per id.

Several ids may share a name: they are one class. Classes are numbered as their names first appear.
"""

import re
from importlib.resources import files
from pathlib import Path
from unicodedata import category

from seg4diff.data.files import lines_of
from seg4diff.errors import MissingFileError, UserError

COMMENT = re.compile(r"(#|//|;|%)|.* (#|//)(?!\d)")
"""A line that is a comment, or a name and a comment; `C#` and `room #3` are names."""
NUMBERED = (
    re.compile(r"""[(\["']?(?P<id>\d{1,9})(?P<sign>\s*[;|=\t)\]"']|\s*[.,:](?!\d)|\s-)?(?(sign)\s*|\s+)(?P<name>\S.*)"""),
    re.compile(r"""(?P<name>\S.*?)(?P<sign>\s*[;|=\t(\["']|(?<!\d)\s*[.,:]|-\s)?(?(sign)\s*|\s+)["']?(?P<id>\d{1,9})[)\]"']?""", re.DOTALL),
)
"""A line with a number before the name, and one with a number behind it; `3.5 inch` and `4:3 screen` are names."""
JOINERS = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
"""The characters without width that belong to the spelling of words, as in Persian."""


def read_vocabulary(name: str) -> dict[int, str]:
    """Original id -> class name of the vocabulary file `name` ("coco_stuff", ...), in the order of the file."""
    file = files(__package__) / f"{name}.txt"
    if not file.is_file():
        known = sorted(path.name.removesuffix(".txt") for path in files(__package__).iterdir() if path.name.endswith(".txt"))
        raise UserError(f"no vocabulary '{name}': set `vocabulary` to one of {', '.join(known)}.")
    lines = file.read_text(encoding="utf-8").split("\n")
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {int(key): value for key, value in pairs}


def vocabulary_words(*names: str) -> list[str]:
    """Every word of the class names of these vocabularies, each once, in the order of the files."""
    words = (word for name in names for value in read_vocabulary(name).values() for word in value.split())
    return list(dict.fromkeys(words))


def read_classes(file: Path, parameter: str) -> list[str]:
    """Your own class names: one per line, line k (from 0) names mask value k.

    Args:
        file: a text file.
        parameter: the one that names the file, for errors.

    Raises:
        UserError: lines that are no names: empty ones, comments, lists in brackets, characters that cannot be seen, and numbers before or
            behind the names, which would become part of them.
    """
    if not file.is_file():
        raise MissingFileError(
            f"no list of classes at {file}: write one class name per line, in the order of the mask values, and set `{parameter}`."
        )
    lines = [line.strip() for line in lines_of(file)]
    names = [" ".join(line.split()) for line in lines]
    if not all(names):
        raise UserError(f"line {names.index('') + 1} of {file} is empty: write one name in every line.")
    if names[0][0] + names[-1][-1] in ("[]", "{}"):
        raise UserError(f"{file} is a list in brackets, and its lines are the names: write one name in a line, without brackets.")
    if comment := next((name for name in names if COMMENT.match(name)), None):
        raise UserError(
            f"line {names.index(comment) + 1} of {file} is or has a comment, '{comment[:40]}', and whole lines are the names: remove it."
        )
    if odd := next((name for name in names if any(category(sign) in ("Cc", "Cf") for sign in JOINERS.sub("", name))), None):
        raise UserError(f"line {names.index(odd) + 1} of {file} holds characters that cannot be seen, {ascii(odd)[:60]}: type it again.")
    if place := next((place for place, form in zip(("before", "behind"), NUMBERED, strict=True) if _are_numbered(lines, form)), None):
        raise UserError(
            f"{file} has a number {place} each name, as in '{names[-1][:40]}', and whole lines are the names: write the names alone."
        )
    return names


def _are_numbered(lines: list[str], form: re.Pattern) -> bool:
    """Whether the numbers of all lines, or of all but a heading, are ids: they ascend, and without them each name is there once.

    Numbers that are set off by blanks alone may belong to the names (`2 euro`, `7 up`). They are ids where they count from 0 or 1, or where
    there are three or more.
    """
    headed = form.fullmatch(lines[0]) is None
    rows = [row for line in lines[headed:] if (row := form.fullmatch(line))]
    if not rows or len(rows) < len(lines) - headed:
        return False
    ids, names = [int(row["id"]) for row in rows], {row["name"].casefold() for row in rows}
    if ids != sorted(set(ids)) or len(names) < len(ids):
        return False
    if len(ids) == 1:
        return ids == [0] and not headed
    return len(ids) > 2 or ids in ([0, 1], [1, 2]) or all(row["sign"] for row in rows)
