"""The vocabularies of this folder, kept as text files: a comment that names the source, then one `id name` line per class."""

from importlib.resources import files


def read_vocabulary(name: str) -> dict[int, str]:
    """Original class id -> class name of the vocabulary file `name` ("coco_stuff", ...), in the order of the file."""
    lines = (files(__package__) / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {int(key): value for key, value in pairs}


def vocabulary_words(*names: str) -> list[str]:
    """Every word of the class names of these vocabularies, each once, in the order of the files."""
    words = (word for name in names for value in read_vocabulary(name).values() for word in value.split())
    return list(dict.fromkeys(words))
