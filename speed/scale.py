"""How the cost of an image grows: with resolution, text, blocks, the rank of the LoRA, and over processes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from torch.nn.functional import pad

from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.lora import base_model
from speed import counts, processes
from speed.counts import Size
from speed.measure import Run, Settings, Table, interleave, main, measure_memory, mebibytes, number, text, times
from speed.models import Inputs, Shape, new_backbone, new_inputs, read
from speed.train_step import Trainee, new_example

HEAD_WIDTH = 64


@dataclass(frozen=True)
class Cross:
    """Sizes along four lines that meet in one point.

    Attributes:
        middle: where the lines meet.
        lines: values of one attribute each, smallest first.
        repetitions: pairs of each size and the smallest of its line.
    """

    middle: Size
    lines: dict[str, tuple[int, ...]]
    repetitions: int

    def sizes(self, name: str) -> list[Size]:
        """The sizes along a line; the expert stays at 3/8 of the depth, as block 9 of 24."""
        sizes = [replace(self.middle, **{name: value}) for value in self.lines[name]]
        return [replace(size, expert=3 * size.blocks // 8) for size in sizes]


QUICK = Cross(
    Size(image_tokens=16, width=64, blocks=3, expert=1, text_features=64, pooled=64),
    {"image_tokens": (16, 36), "text_tokens": (77, 154), "blocks": (3, 6), "rank": (4, 16)},
    repetitions=1,
)
SMALL = Cross(
    Size(image_tokens=576, width=256, blocks=12, expert=4, text_features=64, pooled=64),
    {"image_tokens": (256, 576, 1024, 2304), "text_tokens": (77, 154, 333), "blocks": (6, 12, 24), "rank": (4, 16, 64)},
    repetitions=5,
)
SD3_MEDIUM = Cross(
    Size(text_features=64, pooled=64),
    {"image_tokens": (256, 576, 1024, 2304, 4096), "text_tokens": (77, 154, 333), "blocks": (6, 12, 24), "rank": (4, 16, 64)},
    repetitions=5,
)
"""Its transformer but for the width of the text that enters it."""


def run(settings: Settings) -> Table:
    """Time and memory along each line, relative to its smallest size, beside the counted work."""
    cross = QUICK if settings.quick else SD3_MEDIUM if settings.device.type == "cuda" else SMALL
    models = cache(partial(_new_trainee, settings, max(cross.lines["image_tokens"])))
    rows = []
    for name in cross.lines:
        for task in (Segmentation, Training):
            if (name, task) != ("rank", Segmentation):  # the base model is read
                rows += [*_rows(name, cross, task, models, settings), {}]
    middle = cross.middle
    return Table(
        name="scale",
        title="how the cost of an image grows",
        sizes=f"SD3 with random weights, {middle.width // HEAD_WIDTH} heads x {HEAD_WIDTH} = {middle.width} channels; through "
        f"{middle.image_tokens} image tokens, {middle.text_tokens} text tokens, {middle.blocks} blocks and rank {middle.rank} on the "
        f"expert, which is block 3/8 of the depth; batch 1, encoded before. segment: early exit, joint softmax. train step: forward, "
        f"backward and AdamW with mask alignment. times as long: median (quartiles) of {cross.repetitions} pairs, relative to the first "
        f"row of each group; times the work: the same by counted FLOPs. exponent: the a of time ~ size^a, fitted to the group; of work: "
        f"the same by counted FLOPs.",
        columns={
            "cost of": text,
            "by": text,
            "at": text,
            "images / s": number,
            "GFLOP / s": number,
            "times as long": times,
            "times the work": number,
            "exponent": number,
            "of work": number,
            "peak memory": mebibytes,
        },
        rows=rows,
    )


@dataclass(frozen=True)
class Task:
    """One image of a size on a model of that size.

    Attributes:
        title: what it is called.
        work: its FLOPs.
    """

    title: str
    work: Callable[[Size], int]
    prepare: Callable[[Trainee, Size, Inputs, Settings], Run]


def _segment(trainee: Trainee, size: Size, inputs: Inputs, settings: Settings) -> Run:
    def once() -> object:
        with base_model(trainee.backbone):
            return read(trainee.backbone, inputs, [size.expert], partial(i2t, scores="joint"), stop=True)

    return once


def _train(trainee: Trainee, size: Size, inputs: Inputs, settings: Settings) -> Run:
    example = new_example(math.isqrt(size.image_tokens), settings)
    return partial(trainee.step, example, lambda: (inputs.latents, inputs.condition), align=True)


Segmentation = Task("segment", counts.segment, _segment)
Training = Task("train step", counts.train, _train)


def _new_trainee(settings: Settings, most_tokens: int, width: int, blocks: int, expert: int, rank: int) -> Trainee:
    shape = Shape(blocks=blocks, heads=width // HEAD_WIDTH, head_width=HEAD_WIDTH, side=math.isqrt(most_tokens))
    return Trainee(new_backbone(shape, settings), expert=expert, rank=rank)


def _rows(name: str, cross: Cross, task: Task, models: Callable[..., Trainee], settings: Settings) -> list[dict]:
    """One row for each size along a line."""
    sizes, runs, rows = cross.sizes(name), [], []
    for size in sizes:
        trainee = models(size.width, size.blocks, size.expert, size.rank)
        inputs = new_inputs(trainee.backbone, math.isqrt(size.image_tokens), settings)
        runs.append(task.prepare(trainee, size, replace(inputs, condition=_with_tokens(inputs.condition, size.text_tokens)), settings))
        memory = measure_memory(runs[-1], settings.device).peak  # also warms up
        rows.append({"cost of": task.title, "by": name.replace("_", " "), "at": getattr(size, name), "peak memory": memory})
    pairs = interleave(runs[0], dict(enumerate(runs[1:], start=1)), cross.repetitions, settings.device)
    work = [task.work(size) for size in sizes]
    for k, row in enumerate(rows):
        rate = pairs[k].rates[1] if k else pairs[1].rates[0]
        row |= {"images / s": rate, "GFLOP / s": rate * work[k] / 1e9}
        if k:
            row |= {"times as long": pairs[k].ratio, "times the work": work[k] / work[0]}
    values = [row["at"] for row in rows]
    rows[-1]["exponent"] = exponent(values, [1.0, *(row["times as long"].median for row in rows[1:])])
    rows[-1]["of work"] = exponent(values, work)
    return rows


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The a of cost ~ size^a by least squares on the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _with_tokens(condition: TextCondition, tokens: int) -> TextCondition:
    """The prompt with another number of the zeros that stand for T5."""
    missing = tokens - condition.embeddings.shape[1]
    return replace(condition, embeddings=pad(condition.embeddings, (0, 0, 0, missing)), padding=pad(condition.padding, (0, missing)))


if __name__ == "__main__":
    main([run, processes.run])
