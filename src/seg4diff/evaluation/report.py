"""The report of an evaluation: its figures, their names in metrics.json, and their titles in every table and plot."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seg4diff.disk import read_json
from seg4diff.errors import UserError

TITLES = {
    "base": "base",
    "lora": "LoRA",
    "gain": "LoRA - base",
    "val": "validation",
    "miou": "mIoU",
    "macc": "mACC",
    "pacc": "pACC",
    "fwiou": "fwIoU",
    "miou_union": "mIoU (any union)",
    "flow_loss": "flow loss",
    "baseline/constant": "baseline: constant class",
    "baseline/random": "baseline: random class",
    "baseline/single": "baseline: one proposal",
    "baseline/tiles": "baseline: 3 x 3 tiles",
    "upper_bound": "upper bound",
    "presence": "presence",
    "all_present": "all present",
    "ground": "ground",
    "counting": "counting",
    "two": "two things",
    "shade": "shade",
    "size": "size",
    "place": "place",
    "extra": "extra things",
    "structure": "structure",
}
"""Figure of metrics.json, or part of the name of one, -> what people read."""
CATEGORIES = ("presence", "all_present", "ground", "counting", "two", "shade", "size", "place", "extra", "structure")
"""What is asked about images of the toy world, see `seg4diff.tiny.answers.answer`, in the order of every table."""
NESTED = ("base", "lora", "gain", "baseline")
"""Fields of a report whose figures have names of two parts in metrics.json."""


def title(key: str) -> str:
    """What people read for a figure: "lora/flow_loss" is the "LoRA flow loss"."""
    return TITLES[key] if key in TITLES else " ".join(TITLES[part] for part in key.split("/"))


def as_text(key: str, value: float) -> str:
    """A figure as every table shows it: a flow loss as it is, all others in %."""
    return f"{value:.4f}" if key.endswith("flow_loss") else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Estimate:
    """A mean IoU in [0, 1], or a difference of two, and its 95 % interval.

    Attributes:
        miou: see `seg4diff.evaluation.metrics.scores`.
        miou_low: lower end of the interval.
        miou_high: upper end of the interval.
    """

    miou: float
    miou_low: float
    miou_high: float

    def text(self, sign: str = "") -> str:
        """In %, as in 79.3 [78.1, 80.4]; with the sign "+", every number has its sign."""
        value, low, high = (f"{100 * part:{sign}.1f}" for part in (self.miou, self.miou_low, self.miou_high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Score(Estimate):
    """Figures of one variant of the model, read at the expert block; see `seg4diff.evaluation.metrics.scores`.

    Attributes:
        miou_union: mean IoU over the classes that occur in ground truth or prediction.
        macc: mean recall.
        pacc: share of pixels that are right.
        fwiou: IoU weighted by pixels.
        iou_per_class: IoU by name of the class, without those that occur nowhere.
        flow_loss: mean squared error of the predicted velocity; None = not measured.
        base_model: of a LoRA, the model that it was trained on where another one is evaluated, else None.
    """

    miou_union: float
    macc: float
    pacc: float
    fwiou: float
    iou_per_class: dict[str, float]
    flow_loss: float | None = None
    base_model: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found.

    Attributes:
        protocol: "oracle" or "vocabulary" prompts, or "unsupervised".
        matching: how proposals without words were matched with classes; None = prompts name the classes.
        expert_layer: the block that `base` and `lora` were read at.
        dtype: of the weights.
        precision: of the trainer.
        images: how many were evaluated.
        base: the base model.
        lora: the model with its LoRA, if there is one.
        gain: what the LoRA adds, paired by image.
        miou_per_block: of the base model, for each block that was evaluated.
        baseline: mIoU of each image-blind baseline by name.
        upper_bound: mIoU of the true masks at the resolution of the token grid, refined as the maps are.
        base_model: the model that was evaluated, where the LoRA was trained on another one.
        reading: reader, presence and refinement, of those that are not the paper's; None = all are.
    """

    protocol: str
    matching: str | None
    expert_layer: int
    dtype: str
    precision: str
    images: int
    base: Score
    lora: Score | None
    gain: Estimate | None
    miou_per_block: dict[int, float]
    baseline: dict[str, float]
    upper_bound: float
    base_model: str | None = None
    reading: str | None = None

    @property
    def variants(self) -> dict[str, Score]:
        """What was evaluated: the base model, and the LoRA if there is one."""
        return {"base": self.base} if self.lora is None else {"base": self.base, "lora": self.lora}

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json; what is None is left out."""
        found = asdict(self)
        for name in NESTED:
            found |= {f"{name}/{part}": value for part, value in (found.pop(name) or {}).items()}
        return {key: value for key, value in found.items() if value is not None}

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any]) -> "Report":
        """The inverse of `metrics`, also after a way through JSON."""
        nested: dict[str, dict] = {name: {} for name in NESTED}
        plain: dict[str, Any] = {"matching": None}
        for key, value in metrics.items():
            name, _, part = key.partition("/")
            if part:
                nested[name][part] = value
            else:
                plain[key] = value
        plain["miou_per_block"] = {int(block): value for block, value in plain["miou_per_block"].items()}
        lora, gain = nested["lora"], nested["gain"]
        return cls(
            **plain,
            base=Score(**nested["base"]),
            lora=Score(**lora) if lora else None,
            gain=Estimate(**gain) if gain else None,
            baseline=nested["baseline"],
        )


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of metrics.json that tables, sweeps and loggers take: finite numbers, also those of every block, by name."""
    blocks = {f"miou_per_block/{block}": value for block, value in metrics.get("miou_per_block", {}).items()}
    return {key: value for key, value in {**metrics, **blocks}.items() if isinstance(value, int | float) and math.isfinite(value)}


def read_metrics(file: Path) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        UserError: the file is damaged, or its figures have the names of an earlier version.
    """
    metrics = read_json(file)
    if "ceiling/miou" in metrics:
        raise UserError(f"{file} is of an earlier version, in which figures had other names: evaluate that run again in another folder.")
    return metrics
