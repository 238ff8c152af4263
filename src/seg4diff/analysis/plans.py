"""What the figures of an analysis show: which numbers of which study stand in which panel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seg4diff.analysis.stored import Table

Columns = Mapping[str, Any]
"""What lines of a table are meant, by the values of their columns."""
PERCENT = 100.0


@dataclass(frozen=True)
class Lines:
    """A row of panels: values of whole blocks, one panel for each noise level.

    Attributes:
        axis: label of the y axis, with the unit.
        series: lines of the study's table by label.
        factor: values are multiplied by it.
        dotted: references of series of the same label, drawn in the same colour.
        limits: ends of the y axis, None = as the values need it.
        level: where a horizontal line stands.
        interval: label of the series whose mIoU has an interval of the evidence.
        bars: bars from zero, of the first series.
        log: the y axis is logarithmic.
        note: what the caption says of the row.
    """

    axis: str
    series: Mapping[str, Columns]
    factor: float = 1.0
    dotted: Mapping[str, Columns] = field(default_factory=dict)
    limits: tuple[float | None, float | None] = (0, None)
    level: float | None = None
    interval: str | None = None
    bars: bool = False
    log: bool = False
    note: str = ""


@dataclass(frozen=True)
class Heat:
    """A row of heat maps, block x head or block x noise level, in colours from 0 to the highest value of the row.

    Attributes:
        name: what is shown, beside the colours.
        columns: lines of the study's table.
        factor: values are multiplied by it.
        of: "head", a map for each noise level; "sigma", one map whose rows are the noise levels.
    """

    name: str
    columns: Columns
    factor: float = 1.0
    of: str = "head"


Plan = Sequence[Lines | Heat]


def _quantity(name: str, column: str, values: Sequence[str] | Mapping[str, str], **more: Any) -> dict[str, Columns]:
    """A series of one quantity for each value of a column, by label."""
    labels = values if isinstance(values, Mapping) else {value: value for value in values}
    return {label: {"quantity": name, column: value, **more} for label, value in labels.items()}


PARTS = {"queries": "query", "keys": "key", "values": "value"}
TOKENS = {"image tokens": "image", "text tokens": "text", "prompt alone": "prompt"}
QUADRANTS = {"image to image": "i2i", "image to text": "i2t", "text to image": "t2i", "text to text": "t2t"}
SCORES = {"mIoU": {"quantity": "miou"}, "mACC": {"quantity": "macc"}, "pACC": {"quantity": "pacc"}}
NORMALISATIONS: dict[str, Columns] = {
    "raw": {"scores": "logits", "normalisation": "none"},
    "raw, min-max": {"scores": "logits", "normalisation": "minmax"},
    "softmax": {"scores": "joint", "normalisation": "none"},
    "softmax, min-max": {"scores": "joint", "normalisation": "minmax"},
}


def _budget(first: str, second: str) -> dict[str, Any]:
    both = {label: QUADRANTS[label] for label in (first, second)}
    return {
        "series": _quantity("mass", "quadrant", both),
        "dotted": _quantity("uniform", "quadrant", both),
        "limits": (0, 1.02),
        "note": "Dotted: uniform attention.",
    }


def _features(quantity: str) -> dict[str, Any]:
    own, chance = (_quantity(quantity, "features", PARTS, by_chance=by_chance) for by_chance in (False, True))
    if quantity == "pca":  # has no reference
        return {"series": own, "limits": (0, 1)}
    return {"series": own, "dotted": chance, "limits": (0, 1), "note": "Dotted, of R²: features without any structure."}


def _shape(quantity: str) -> dict[str, Columns]:
    return _quantity(quantity, "maps", ("head mean", "single heads"))


def plans(study: str, table: Table) -> dict[str, Plan]:
    """The figures of a study by name."""
    return DERIVED[study](table) if study in DERIVED else PLANS[study]


GAIN = "Lines: 95 % interval of the gain, of the same resamples of images before and after, at the noise level of the readout."
PLANS: dict[str, dict[str, Plan]] = {
    "budget": {
        "budget": [
            Lines("share of the attention\nof image queries", **_budget("image to image", "image to text")),
            Lines("share of the attention\nof text queries", **_budget("text to text", "text to image")),
            Lines("attention per key\n(1 = uniform)", _quantity("relative", "quadrant", QUADRANTS), limits=(None, None), level=1, log=True),
        ]
    },
    "norms": {
        "norms": [Lines("mean L2 norm\nof the values", _quantity("norm", "tokens", TOKENS))],
        "norms-heads": [Heat(f"norm, {label}", {"quantity": "norm", "tokens": value}) for label, value in TOKENS.items()],
    },
    "features": {
        "features": [
            Lines("variance in three\nprincipal components", **_features("pca")),
            Lines("R² of the position", **_features("position")),
            Lines("R² of row and column,\nany function", **_features("axes")),
            Lines("R² of the true masks", **_features("masks")),
        ]
    },
    "granularity": {
        "granularity": [
            Lines("entropy\n(1 = the same everywhere)", _shape("entropy"), limits=(None, 1.01)),
            Lines("connected regions\nof a map", _shape("components")),
            Lines("area above half\nof the maximum (%)", _shape("area"), PERCENT),
        ],
        "granularity-heads": [Heat("entropy", {"quantity": "entropy", "maps": "single heads"})],
    },
    "affinity": {
        "affinity": [
            Lines("score after the\nrefinement (%)", SCORES, PERCENT, limits=(0, 100), interval="mIoU"),
            Lines("gain in mIoU\n(points)", {"gain": {"quantity": "gain"}}, PERCENT, limits=(None, None), bars=True, note=GAIN),
        ]
    },
}


def _best_guess(table: Table) -> dict[str, Any]:
    guesses = [PERCENT * row["value"] for row in table.rows if row["quantity"] == "baseline"]
    return {"level": max(guesses), "note": "Dotted: mIoU of the best guess that does not look at the image."} if guesses else {}


def _empty_prompt_plans(table: Table) -> dict[str, Plan]:
    scores = Lines("matched with the\ntrue masks (%)", SCORES, PERCENT, limits=(0, 100), interval="mIoU", **_best_guess(table))
    return {"empty-prompt": [scores, Lines("proposals of an image", {"proposals": {"quantity": "proposals"}})]}


def _segmentation_plans(table: Table) -> dict[str, Plan]:
    own = {key: table.rows[0][key] for key in ("direction", "scores", "normalisation")} if table.rows else {}
    miou = {"quantity": "miou"}
    guess = _best_guess(table)
    scores = {label: {**columns, **own} for label, columns in SCORES.items()}
    ways = {label: {**miou, "direction": "i2t", **columns} for label, columns in NORMALISATIONS.items()}
    directions: dict[str, Columns] = {
        f"{label}{end}": miou | {"direction": direction, "scores": "joint", "normalisation": kind}
        for label, direction in (("I2T", "i2t"), ("T2I", "t2i"))
        for end, kind in (("", "none"), (", min-max", "minmax"))
    }
    found: dict[str, Plan] = {
        "segmentation": [Lines("score of the\nI2T maps (%)", scores, PERCENT, limits=(0, 100), interval="mIoU", **guess)],
        "segmentation-ways": [
            Lines("mIoU (%)\nfour normalisations", ways, PERCENT, limits=(0, 100)),
            Lines("mIoU (%)\ntwo directions", directions, PERCENT, limits=(0, 100)),
        ],
        "segmentation-heads": [Heat("mIoU (%)", miou | own, PERCENT)],
    }
    if len({row["sigma"] for row in table.rows if row["sigma"] is not None}) > 2:
        found["segmentation-levels"] = [Heat("mIoU (%)", miou | own, PERCENT, of="sigma")]
    return found


def _causal_plans(table: Table) -> dict[str, Plan]:
    """While segmenting, at each noise level; while generating, which has none."""
    found: dict[str, Plan] = {}
    for task, axes in CAUSAL.items():
        own = table.where({"task": task})
        quantities = dict.fromkeys(row["quantity"] for row in own.rows if row["block"] is not None and row.get("maps") != "own")
        kinds = list(dict.fromkeys(row["perturbation"] for row in own.rows if row["perturbation"] != "none"))
        plan = []
        for quantity in quantities:
            maps = {row["maps"] for row in own.rows if row["quantity"] == quantity and row["maps"] != "own"}
            series = _quantity(quantity, "perturbation", kinds, task=task, maps=next(iter(maps)))
            change = quantity == "gain" or (task == "generating" and quantity not in axes)  # up or down: of the mIoU, of what a judge says
            kind: dict[str, Any] = {"limits": (None, None), "level": 0} if change else {"limits": (None, None), "log": True}
            plan.append(Lines(axes.get(quantity, f"change of\n{quantity}"), series, PERCENT if quantity == "gain" else 1.0, **kind))
        if plan:
            found[f"causal-{task}"] = plan
    return found


CAUSAL = {
    "segmenting": {
        "velocity": "change of the\nvelocity (relative)",
        "estimate": "change of the image,\none step (RMS, 0 to 1)",
        "gain": "change in mIoU of the\nlater blocks (points)",
    },
    "generating": {"latents": "change of the\nlatents (relative)", "pixels": "change of the\npixels (RMS, 0 to 1)"},
}
"""Labels of the y axes by quantity; what judges say is named by the judge."""
DERIVED: dict[str, Callable[[Table], dict[str, Plan]]] = {
    "segmentation": _segmentation_plans,
    "empty_prompt": _empty_prompt_plans,
    "causal": _causal_plans,
}
"""Plans that depend on what the table holds."""
