"""Run the tour: `python docs/tour.py` draws the pictures of docs/tour.md and writes the same tour as a notebook."""

import ast
import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
BLOCK = re.compile(r"^(?P<mark><!-- not run: needs .+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of Python in a page; the comment before it marks one that needs what may be missing, such as gated weights."""
PICTURES = ("blocks", "masks", "causal")
"""Names that the lines of the tour give to its pictures."""
COLOURS = 128
"""Colours of a picture: few keep the files small."""


def run(page: str) -> dict[str, Any]:
    """The names that the lines of the page define, those of marked blocks left out."""
    names: dict[str, Any] = {}
    for block in BLOCK.finditer(page):
        if not block["mark"]:
            exec(compile(block["code"], "tour.md", "exec"), names)
    return names


def notebook(page: str) -> dict[str, Any]:
    """The page as a notebook without outputs: its lines draw the pictures, so that those of the page are left out."""
    cells, end = [], 0
    for block in BLOCK.finditer(page):
        cells += [("markdown", page[end : block.start()]), ("markdown" if block["mark"] else "code", block["code"])]
        if block["mark"]:
            cells[-1] = ("markdown", f"```python\n{block['code']}```")
        end = block.end()
    cells.append(("markdown", page[end:]))
    texts = [(kind, re.sub(r"^!\[.*\n\n?", "", text, flags=re.MULTILINE).strip("\n")) for kind, text in cells]
    return {
        "cells": [_cell(k, kind, text) for k, (kind, text) in enumerate(own for own in texts if own[1])],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    if kind == "code":
        ast.parse(text)
        cell |= {"execution_count": None, "outputs": []}
    return cell


def main() -> None:
    """Write docs/images/tour-*.png and docs/tour.ipynb."""
    page = (DOCS / "tour.md").read_text(encoding="utf-8")
    (DOCS / "tour.ipynb").write_text(json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    names = run(page)
    for name in PICTURES:
        names[name].quantize(COLOURS).save(DOCS / "images" / f"tour-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
