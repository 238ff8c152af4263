"""What an analysis leaves: a tidy table for each study, the evidence, and analysis.json."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from seg4diff.analysis.catalogue import STUDIES
from seg4diff.analysis.study import Findings, Row
from seg4diff.disk import follow_umask, read_json, whole_file, write_json

RESULT = "analysis.json"
VERSION = 1
"""Of what is written: raised when a program that reads it has to be changed."""
EVIDENCE = "evidence.safetensors"
PICTURES = "pictures"
"""Folder of the album, see `Album`."""


def write_tables(folder: Path, findings: Mapping[str, Findings]) -> None:
    """Write the tables and the evidence of each study into a folder."""
    for name, own in findings.items():
        _write_table(folder / f"{name}.csv", own.rows)
    with whole_file(folder / EVIDENCE) as partial:
        save_file({f"{name}/{key}": value.contiguous() for name, own in findings.items() for key, value in own.evidence.items()}, partial)
    follow_umask(folder)


def write_analysis(folder: Path, findings: Mapping[str, Findings], skipped: Mapping[str, str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write analysis.json, which says that a folder is whole; returns its content.

    Args:
        folder: the folder, which holds the tables.
        findings: by name of the study.
        skipped: a sentence for each study that was left out.
        about: the model, the settings, the number of images, the verdict and the versions.
    """
    blocks = {name: [row for row in own.rows if row["head"] is None] for name, own in findings.items()}
    content = {
        "version": VERSION,
        **about,
        "studies": {name: {"title": STUDIES[name].title, "rows": rows} for name, rows in blocks.items()},
        "skipped": dict(skipped),
    }
    write_json(folder / RESULT, content)
    return read_json(folder / RESULT)  # as whoever reads it later has it: what is missing is None, and not NaN


def _write_table(path: Path, rows: list[Row]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: "" if value is None or value != value else value for key, value in row.items()} for row in rows)


def figures(findings: Mapping[str, Findings], sigma: float) -> dict[str, float]:
    """What loggers get: the values of whole blocks at one noise level, as study/quantity/.../block."""
    found = {}
    for name, own in findings.items():
        for row in own.rows:
            if row["head"] is None and row["sigma"] == sigma and row["value"] == row["value"]:
                more = [str(row[key]) for key in row if key not in ("sigma", "block", "head", "quantity", "value")]
                found["/".join([name, *more, row["quantity"], str(row["block"])])] = row["value"]
    return found
