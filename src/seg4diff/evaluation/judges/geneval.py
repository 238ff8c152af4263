"""Whether an image shows what a GenEval prompt asks for, from detections alone (Ghosh, Hajishirzi and Schmidt 2023, section 3).

The rules are those of the benchmark's own evaluation script. No network is known here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seg4diff.errors import UserError, at_least

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""Colours that a classifier chooses from; grey is none of them."""
RELATIONS = ("left of", "right of", "above", "below")
AXIS = 0.5
"""Share of the distance between two things that must lie along an axis, so that diagonal things have two relations."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True)
class Rules:
    """Thresholds of the benchmark; the defaults are the published ones, which were chosen for Mask2Former on COCO.

    Attributes:
        threshold: confidence that a detection must exceed.
        counting_threshold: the same for the prompts of the task "counting".
        max_objects: detections of a class that are kept, the most confident first.
        max_overlap: IoU from which the less confident of two boxes of one class is dropped; 1 = none is.
        position_threshold: overlap that is allowed before "left of" and the like hold, as a share of the summed sizes of both boxes.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("threshold", "counting_threshold", "max_overlap", "position_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"`{name}` must be in [0, 1], found {getattr(self, name)}.")
        at_least(1, max_objects=self.max_objects)


@dataclass(frozen=True)
class Detection:
    """A thing in an image.

    Attributes:
        label: its class.
        score: confidence in [0, 1].
        box: where it is.
        mask: (H, W) bool over the whole image, where the detector gives one.
    """

    label: str
    score: float
    box: Box
    mask: np.ndarray | None = None


ColoursOf = Callable[[Sequence[Detection], str], Sequence[str]]
"""(detections, their class) -> the colour of each."""


@dataclass(frozen=True)
class Clause:
    """What a prompt says about one class.

    Attributes:
        label: the class.
        count: how many.
        colour: of each; None = any.
        position: (relation, index of the clause whose things it is seen from); None = anywhere.
    """

    label: str
    count: int
    colour: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Requirements:
    """What a prompt asks for.

    Attributes:
        task: one of `TASKS`.
        include: all of these must hold, with at least `count` things each.
        exclude: none of these may hold, with `count` things or more.
    """

    task: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Requirements":
        """From a line of the benchmark's evaluation_metadata.jsonl. Raises UserError for a line of another form."""
        try:
            include, exclude = (tuple(map(_clause, metadata.get(key, ()))) for key in ("include", "exclude"))
            required = cls(metadata["tag"], include, exclude)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"a GenEval prompt has a tag and lists 'include' and 'exclude' with class and count, found {metadata}: take the lines of "
                "the benchmark's evaluation_metadata.jsonl."
            ) from error
        required.check()
        return required

    @property
    def labels(self) -> list[str]:
        """The classes that are asked about."""
        return list(dict.fromkeys(clause.label for clause in self.include + self.exclude))

    @property
    def needs_colours(self) -> bool:
        """Whether a colour is asked for."""
        return any(clause.colour is not None for clause in self.include)

    def check(self) -> None:
        """Raise UserError for a task, colour, relation or target that GenEval does not have."""
        if self.task not in TASKS:
            raise UserError(f"a GenEval prompt has one of the tags {', '.join(TASKS)}, found '{self.task}'.")
        for place, clause in enumerate(self.include):
            if clause.colour is not None and clause.colour not in COLOURS:
                raise UserError(f"GenEval knows the colours {', '.join(COLOURS)}, found '{clause.colour}'.")
            if clause.position is not None and (clause.position[0] not in RELATIONS or not 0 <= clause.position[1] < place):
                raise UserError(f"a position is one of {', '.join(RELATIONS)} of an earlier clause, found {list(clause.position)}.")


def _clause(clause: Mapping[str, Any]) -> Clause:
    position = clause.get("position")
    placed = None if position is None else (str(position[0]), int(position[1]))
    return Clause(str(clause["class"]), int(clause["count"]), clause.get("color"), placed)


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows what is asked for, and what is wrong with it."""

    correct: bool
    reasons: tuple[str, ...]


def judge(required: Requirements, detections: Sequence[Detection], colours_of: ColoursOf, rules: Rules) -> Verdict:
    """Judge one image.

    Of a class that is asked for `count` times, colour and position are those of the `count` most confident things.

    Args:
        required: what is asked for.
        detections: everything that was found, in any order.
        colours_of: called only for clauses with a colour.
        rules: thresholds.
    """
    kept = keep(detections, rules.counting_threshold if required.task == "counting" else rules.threshold, rules)
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []  # for each clause its things, None where it does not hold
    for clause in required.include:
        found = kept.get(clause.label, [])[: clause.count]
        wrong = _missing(clause, found) or _miscoloured(clause, found, colours_of) or _misplaced(clause, found, matched, rules)
        matched.append(None if wrong else found)
        reasons += [wrong] if wrong else []
    for clause in required.exclude:
        if len(kept.get(clause.label, [])) >= clause.count:
            reasons.append(f"expected {clause.label}<{clause.count}, found {len(kept[clause.label])}")
    return Verdict(not reasons, tuple(reasons))


def _missing(clause: Clause, found: Sequence[Detection]) -> str:
    return "" if len(found) >= clause.count else f"expected {clause.label}>={clause.count}, found {len(found)}"


def _miscoloured(clause: Clause, found: Sequence[Detection], colours_of: ColoursOf) -> str:
    if clause.colour is None:
        return ""
    colours = list(colours_of(found, clause.label))
    if colours.count(clause.colour) >= clause.count:
        return ""
    return f"expected {clause.colour} {clause.label}>={clause.count}, found {', '.join(colours)}"


def _misplaced(clause: Clause, found: Sequence[Detection], matched: Sequence[Sequence[Detection] | None], rules: Rules) -> str:
    if clause.position is None:
        return ""
    relation, target = clause.position
    others = matched[target]
    if others is None:
        return f"no target for {clause.label} to be {relation}"
    for thing in found:
        for other in others:
            relations = relations_of(thing.box, other.box, rules.position_threshold)
            if relation not in relations:
                return f"expected {clause.label} {relation} target, found {' and '.join(sorted(relations)) or 'neither side'}"
    return ""


def keep(detections: Sequence[Detection], threshold: float, rules: Rules) -> dict[str, list[Detection]]:
    """The detections that count, by class, the most confident first.

    Args:
        detections: everything that was found.
        threshold: confidence that must be exceeded.
        rules: how many are kept, and how far they may overlap.
    """
    kept: dict[str, list[Detection]] = {}
    for one in sorted(detections, key=lambda one: -one.score):
        if one.score > threshold:
            kept.setdefault(one.label, []).append(one)
    return {label: _apart(own[: rules.max_objects], rules.max_overlap) for label, own in kept.items()}


def _apart(found: Sequence[Detection], max_overlap: float) -> list[Detection]:
    """Without those that cover a more confident one."""
    apart: list[Detection] = []
    for one in found:
        if max_overlap == 1 or all(iou(one.box, other.box) < max_overlap for other in apart):
            apart.append(one)
    return apart


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes whose right and bottom pixels belong to them, as in the benchmark's script."""
    shared = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def relations_of(box: Box, target: Box, position_threshold: float) -> set[str]:
    """Where a box is, seen from another: none of `RELATIONS`, one, or one for each axis.

    The distance of the centres is shortened on each axis by `position_threshold` times the summed sizes of both boxes. What is left must
    exceed `AXIS` of the whole distance.

    Args:
        box: where the thing is.
        target: where the thing is that it is seen from.
        position_threshold: see `Rules`.
    """
    ends = np.array([box, target], dtype=float).reshape(2, 2, 2)  # box, end, axis
    offset = ends[0].mean(axis=0) - ends[1].mean(axis=0)
    sizes = np.abs(ends[:, 1] - ends[:, 0]).sum(axis=0)
    shortened = np.maximum(np.abs(offset) - position_threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(shortened) < 1e-3):
        return set()
    across, down = shortened / np.linalg.norm(offset)
    holds = {"left of": across < -AXIS, "right of": across > AXIS, "above": down < -AXIS, "below": down > AXIS}
    return {relation for relation, true in holds.items() if true}
