"""What many images take on SD3-medium: bytes, files, memory and hours, as arithmetic on the counts of one."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from speed import counts
from speed.counts import PIXELS, Size
from speed.measure import Table, number, text

FOLDERS = 256
"""Folders of a cache for each kind of entry: the first two letters of a hash."""
CLASSES = 171
"""Those of COCO-Stuff."""
WEIGHT = 4
"""Bytes of a LoRA weight."""
NAME, ORDER = sys.getsizeof("sa_00000001") + 8, 16
"""Bytes of an image's name in a list, and of an image in the order of the samples (two shuffled passes of 64 bit numbers)."""


@dataclass(frozen=True)
class Job:
    """What is planned.

    Attributes:
        images: how many.
        gpus: on how many GPUs.
        side: pixels along one side.
        passes: how often training sees each image.
        batch: images of an optimiser step on each GPU.
        prompts: different prompts for each image.
        shard: images of a folder or list that is a job of its own.
        speed: FLOPs that a GPU does in a second: its peak times what is reached of it.
    """

    images: int
    gpus: int
    side: int
    passes: float
    batch: int
    prompts: float
    shard: int
    speed: float

    def storage(self) -> dict[str, str]:
        """The cache that `train.py mode=encode` fills."""
        images, prompts = self.images * counts.cached_image(self.side), self.images * self.prompts * counts.cached_text(self._size)
        return {
            "cache: latents": scaled(images, "B"),
            "cache: prompts": scaled(prompts, "B"),
            "cache: files": number(self.images * (1 + self.prompts)),
            f"cache: latents in each of its {FOLDERS} folders": number(self.images / FOLDERS),
        }

    def memory(self) -> dict[str, str]:
        """Of the names of the images and their order, and of what an evaluation counts."""
        counted = self.images * counts.evaluated_image(CLASSES)
        return {
            "memory: names and order, in each process": scaled(self.images * (NAME + ORDER), "B"),
            "memory: the same, of a shard": scaled(min(self.images, self.shard) * (NAME + ORDER), "B"),
            f"memory: counts of an evaluation, {CLASSES} classes": scaled(counted, "B"),
        }

    def work(self) -> dict[str, str]:
        """Hours of all GPUs together and of each, and what each of them has to do."""
        size, seen = self._size, self.images * self.passes
        encode = counts.encode_image(self.side) + self.prompts * counts.encode_text()
        shards = math.ceil(self.images / self.shard)
        steps = seen / (self.batch * self.gpus)
        cached, whole = self.images * encode + seen * counts.train(size), seen * (encode + counts.train(size))
        return {
            "encode once": self._hours(self.images * encode),
            "segment, encoders included": self._hours(self.images * (encode + counts.segment(size))),
            "train, encoded once": self._hours(cached),
            "train, encoded in every step": self._hours(whole),
            "images for each GPU": number(self.images / self.gpus),
            "shards": number(shards),
            "shards for each GPU": number(shards / self.gpus),
            "optimiser steps": number(steps),
            "gradients that each GPU hands over": scaled(steps * WEIGHT * counts.lora_weights(size), "B"),
        }

    @property
    def _size(self) -> Size:
        return Size(image_tokens=(self.side // PIXELS) ** 2)

    def _hours(self, flops: float) -> str:
        hours = flops / self.speed / 3600
        return f"{number(hours)} GPU-hours, {number(hours / self.gpus)} h"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the counts of one image and the plan for many."""
    parser = argparse.ArgumentParser(prog="python -m speed.plan", description="Bytes, files, memory and hours on SD3-medium.")
    parser.add_argument("--images", type=int, nargs="+", default=(10_000, 10_000_000, 1_000_000_000), help="how many, e.g. 10_000_000")
    parser.add_argument("--gpus", type=int, nargs="+", default=(2, 64, 1024), help="one number for each number of images")
    parser.add_argument("--side", type=int, default=1024, help="pixels along one side of an image")
    parser.add_argument("--passes", type=float, default=1, help="how often training sees each image")
    parser.add_argument("--batch", type=int, default=8, help="images of an optimiser step on each GPU")
    parser.add_argument("--prompts", type=float, default=1, help="different prompts for each image")
    parser.add_argument("--shard", type=int, default=100_000, help="images of a folder or list that is a job of its own")
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of a GPU; 312: an A100 in 16 bit, by its data sheet")
    parser.add_argument("--utilisation", type=float, default=0.4, help="what is reached of the peak: an assumption, measure yours")
    options = vars(parser.parse_args(arguments))
    if len(options["images"]) != len(options["gpus"]):
        parser.error("--gpus needs one number for each number of --images.")
    speed = options.pop("peak") * options.pop("utilisation") * 1e12
    pairs = zip(options.pop("images"), options.pop("gpus"), strict=True)
    console = Console() if Console().is_terminal else Console(width=140)
    for table in (work_of_one(), plan([Job(images=images, gpus=gpus, speed=speed, **options) for images, gpus in pairs])):
        table.print(console)


def work_of_one() -> Table:
    """TFLOP of one image on SD3-medium, by its size."""
    counted = {"segment": counts.segment, "whole pass": counts.forward, "train step": counts.train}
    rows = []
    for side in (256, 384, 512, 768, 1024):
        size = Size(image_tokens=(side // PIXELS) ** 2)
        row = {"image": f"{side} x {side}", "image tokens": size.image_tokens, "encode image": counts.encode_image(side) / 1e12}
        rows.append(row | {column: count(size) / 1e12 for column, count in counted.items()})
    return Table(
        name="plan",
        title="TFLOP of one image on SD3-medium",
        sizes=f"Counted, not measured: 154 text tokens, 24 blocks, rank 16 on the expert, which is block 9. A prompt takes "
        f"{number(counts.encode_text() / 1e12)} more. segment: early exit at the expert. train step: forward and backward pass with mask "
        f"alignment.",
        columns={"image": text, "image tokens": text} | dict.fromkeys(("encode image", *counted), number),
        rows=rows,
    )


def plan(jobs: list[Job]) -> Table:
    """One column for each job."""
    columns = {f"{number(job.images)} images, {number(job.gpus)} GPUs": job for job in jobs}
    parts = {name: (job.storage(), job.memory(), job.work()) for name, job in columns.items()}
    rows = []
    for part in range(3):
        whats = next(iter(parts.values()))[part]
        rows += [{"": what} | {name: own[part][what] for name, own in parts.items()} for what in whats] + [{}]
    job = jobs[0]
    return Table(
        name="plan",
        title=f"{job.side} x {job.side} pixels",
        sizes=f"{number(job.speed / 1e12)} TFLOP/s for each GPU: --peak times --utilisation, to be replaced by what yours reaches. "
        f"{job.passes:g} passes of training, {job.batch} images of a step on each GPU, {job.prompts:g} prompts for each image, "
        f"{job.shard:,} images of a shard. A cache entry has {counts.cached_image(job.side):,} bytes (latents) or "
        f"{counts.cached_text(Size()):,} (prompt).",
        columns=dict.fromkeys(("", *columns), text),
        rows=rows,
    )


def scaled(value: float, unit: str) -> str:
    """A quantity with a decimal prefix."""
    power = min(5, max(0, math.floor(math.log10(max(value, 1)) / 3)))
    return f"{number(value / 1000**power)} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


if __name__ == "__main__":
    main()
