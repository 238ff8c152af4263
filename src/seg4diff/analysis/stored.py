"""A stored analysis, read again: tables, evidence and identity, without the model."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from seg4diff.analysis.report import EVIDENCE, PICTURES, RESULT, VERSION
from seg4diff.analysis.study import Row
from seg4diff.analysis.tallies import counts_per_image
from seg4diff.disk import read_json
from seg4diff.errors import UserError
from seg4diff.evaluation.bootstrap import percentile_interval, resampled_miou

RESAMPLES = 1000


@dataclass(frozen=True)
class Table:
    """The tidy table of a study, see `Findings.rows`.

    Attributes:
        rows: its lines.
        blocks: number of blocks of the model.
    """

    rows: list[Row]
    blocks: int

    def where(self, columns: Mapping[str, Any]) -> "Table":
        """The lines that have these values, compared as text."""
        return Table([row for row in self.rows if all(str(row.get(key)) == str(own) for key, own in columns.items())], self.blocks)

    def first(self, columns: Mapping[str, Any]) -> "Table":
        """As `where`, with the first way alone of those in which the other columns tell lines apart."""
        own = self.where(columns).rows
        ways = [{key: value for key, value in row.items() if key not in ("sigma", "block", "head", "value")} for row in own]
        return Table([row for row, way in zip(own, ways, strict=True) if way == ways[0]], self.blocks)

    def of_blocks(self, sigma: float | None) -> np.ndarray:
        """Values of whole blocks at a noise level, (B,); NaN where the table has none. None = those without a noise level."""
        values = np.full(self.blocks, np.nan)
        for row in self.rows:
            if row["sigma"] == sigma and row["head"] is None and row["block"] is not None:
                values[row["block"]] = row["value"]
        return values

    def of_heads(self, sigma: float) -> np.ndarray:
        """Values of the heads at a noise level, (H, B); NaN where the table has none."""
        heads = 1 + max((row["head"] for row in self.rows if row["head"] is not None), default=-1)
        values = np.full((heads, self.blocks), np.nan)
        for row in self.rows:
            if row["sigma"] == sigma and row["head"] is not None:
                values[row["head"], row["block"]] = row["value"]
        return values


@dataclass(frozen=True)
class Analysis:
    """What `write_analysis` left in a folder.

    Attributes:
        folder: the folder.
        content: what its analysis.json holds.
        tables: the whole table of each study, with its heads.
    """

    folder: Path
    content: dict[str, Any]
    tables: dict[str, Table]

    @property
    def sigmas(self) -> list[float]:
        """Noise levels, rising."""
        return sorted(self.content["settings"]["analysis"]["sigmas"])

    @property
    def sigma(self) -> float:
        """The noise level at which this model is read for segmentation, or the one nearest to it."""
        return min(self.sigmas, key=lambda sigma: abs(sigma - self.content["settings"]["sigma"]))

    @property
    def level(self) -> int:
        """Position of `sigma` among the noise levels as they were given, as evidence and pictures count them."""
        return self.content["settings"]["analysis"]["sigmas"].index(self.sigma)

    @property
    def blocks(self) -> int:
        """Number of joint-attention blocks."""
        return max((table.blocks for table in self.tables.values()), default=0)

    @property
    def expert(self) -> int:
        """The expert block of the settings."""
        return self.content["settings"]["expert_layer"]

    @property
    def marked(self) -> int | None:
        """The block that figures and tables mark: the finder's expert, None if it names none; without a finder the settings' expert."""
        finder = self.content.get("finder")
        return finder["expert"] if finder else self.expert

    @property
    def name(self) -> str:
        """The model, for titles: the last two parts of its hub id or folder, and whether it has a LoRA."""
        model = self.content["model"]
        return "/".join(str(model["model"]).rstrip("/").split("/")[-2:]) + (" with LoRA" if model.get("lora") else "")

    @property
    def pictures(self) -> Path:
        """Folder of the album."""
        return self.folder / PICTURES

    @property
    def miou_intervals(self) -> dict[str, np.ndarray]:
        """95 % interval of the mIoU of each block at `sigma`, (B, 2), of each study whose evidence has counts of the images."""
        return {study: np.array([percentile_interval(own) for own in blocks]) for study, blocks in self._resampled.items()}

    @property
    def gain_intervals(self) -> np.ndarray | None:
        """95 % interval of each block's gain by affinity at `sigma`, (B, 2), paired with the expert's own maps; None without these."""
        if not {"affinity", "segmentation"} <= self._resampled.keys():
            return None
        before = self._resampled["segmentation"][self.expert]
        return np.array([percentile_interval(after - before) for after in self._resampled["affinity"]])

    @cached_property
    def _resampled(self) -> dict[str, list[Tensor]]:
        """The mIoU of each block at `sigma` on the same resamples of the images, by study."""
        found = {}
        with safe_open(self.folder / EVIDENCE, "pt") as evidence:
            for key in evidence.keys():  # noqa: SIM118 - the file is no mapping
                study, kind = key.split("/", 1)
                if kind == "counts" and len(counts := evidence.get_tensor(key)):
                    classes = int(counts[:, 3].max()) + 1
                    images = (counts_per_image(counts, self.level, block, classes) for block in range(self.blocks))
                    found[study] = [resampled_miou(own, RESAMPLES, seed=0) for own in images]
        return found


def read_analysis(folder: Path) -> Analysis:
    """Read a stored analysis.

    Raises:
        UserError: the folder holds none, or one that another version of this package has written.
    """
    file = folder / RESULT
    if not file.is_file():
        raise UserError(f"{folder} holds no finished analysis ({RESULT}): give the folder of a run of analyze.py.")
    content = read_json(file, "run analyze.py again")
    if (version := content.get("version")) != VERSION:
        raise UserError(f"{file} has version {version}, but this package reads version {VERSION}: run analyze.py again.")
    rows = {name: _read_table(folder / f"{name}.csv") for name in content["studies"]}
    blocks = 1 + max((row["block"] for own in rows.values() for row in own if row["block"] is not None), default=-1)
    return Analysis(folder, content, {name: Table(own, blocks) for name, own in rows.items()})


def _read_table(file: Path) -> list[Row]:
    if not file.is_file():
        raise UserError(f"{file} is missing, but {RESULT} names it: run analyze.py again.")
    with file.open(newline="", encoding="utf-8") as lines:
        return [_typed(row) for row in csv.DictReader(lines)]


def _typed(row: dict[str, str]) -> Row:
    own: Row = {key: value or None for key, value in row.items()}
    own["sigma"] = float(row["sigma"]) if row["sigma"] else None
    own["block"], own["head"] = (int(row[key]) if row[key] else None for key in ("block", "head"))
    own["value"] = float(row["value"]) if row["value"] else float("nan")
    return own
