"""What many images take on SD3-medium: bytes, files, memory and hours, as arithmetic on the counts of one."""

import argparse
import math
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from seg4diff.data.sa1b import Sa1b
from speed import counts
from speed.counts import PIXELS, Size
from speed.measure import Table, number, text
from speed.scale import exponent

FOLDERS = 256
"""Folders of a cache for each kind of entry: the first two letters of a hash."""
CLASSES = 171
"""Those of COCO-Stuff."""
WEIGHT, ORDER = 4, 16
"""Bytes of a LoRA weight, and of an image in the order of the samples (two shuffled passes of 64 bit numbers)."""


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

    def memory(self, checked: float, held: float) -> dict[str, str]:
        """Of the names of the images and their order, given the bytes of a name while the files are checked and afterwards."""
        counted = self.images * counts.evaluated_image(CLASSES)
        return {
            "memory: names while files are checked": scaled(self.images * checked, "B"),
            "memory: names and order, in each process": scaled(self.images * (held + ORDER), "B"),
            "memory: the same, of a shard": scaled(min(self.images, self.shard) * (held + ORDER), "B"),
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
    for table in (work_of_one(), adapters(), plan([Job(images=images, gpus=gpus, speed=speed, **options) for images, gpus in pairs])):
        table.print(console)


def work_of_one() -> Table:
    """TFLOP of one image, along lines through SD3-medium at 1024 x 1024."""
    base = Size()
    lines = {
        "image_tokens": [replace(base, image_tokens=(side // PIXELS) ** 2) for side in (256, 384, 512, 768, 1024)],
        "text_tokens": [replace(base, text_tokens=tokens) for tokens in (77, 154, 333)],
        "blocks": [replace(base, blocks=blocks, expert=3 * blocks // 8) for blocks in (6, 12, 24)],
        "rank": [replace(base, rank=rank) for rank in (4, 16, 64)],
    }
    columns = {"segment": counts.segment, "whole pass": counts.forward, "train step": counts.train}
    columns = {"encode image": lambda size: counts.encode_image(math.isqrt(size.image_tokens) * PIXELS)} | columns
    rows = []
    for name, sizes in lines.items():
        values, label = [getattr(size, name) for size in sizes], name.replace("_", " ")
        work = {column: [count(size) / 1e12 for size in sizes] for column, count in columns.items()}
        rows += [{"by": label, "at": value} | {column: work[column][k] for column in columns} for k, value in enumerate(values)]
        rows += [{"by": label, "at": "exponent"} | {column: round(exponent(values, work[column]), 2) + 0.0 for column in columns}, {}]
    return Table(
        name="plan",
        title="TFLOP of one image on SD3-medium",
        sizes=f"Counted, not measured, through 4096 image tokens (1024 x 1024), 154 text tokens, 24 blocks and rank 16 on the expert. A "
        f"prompt takes {number(counts.encode_text() / 1e12)} more. segment: early exit at the expert, block 3/8 of the depth. train step: "
        f"forward and backward pass with mask alignment. exponent: the a of work ~ size^a.",
        columns={"by": text, "at": text} | dict.fromkeys(columns, number),
        rows=rows,
    )


def adapters() -> Table:
    """Bytes of LoRAs, and of what stands and travels with them."""
    rows = []
    for blocks in (1, 24):
        for rank in (4, 16, 64):
            weights = counts.lora_weights(Size(rank=rank), blocks)
            row = {"LoRA on": f"{blocks} of 24 blocks", "rank": rank, "weights": weights, "file, gradients": scaled(WEIGHT * weights, "B")}
            rows.append(row | {"checkpoint": scaled(3 * WEIGHT * weights, "B")})
    return Table(
        name="plan",
        title="adapters of SD3-medium",
        sizes="gradients: what each process hands over in an optimiser step. checkpoint: the LoRA and the two averages of AdamW.",
        columns={"LoRA on": text, "rank": text, "weights": number, "file, gradients": text, "checkpoint": text},
        rows=rows,
    )


def plan(jobs: list[Job]) -> Table:
    """One column for each job."""
    checked, held = name_bytes()
    columns = {f"{number(job.images)} images, {number(job.gpus)} GPUs": job for job in jobs}
    parts = {name: (job.storage(), job.memory(checked, held), job.work()) for name, job in columns.items()}
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
        f"{counts.cached_text(Size()):,} (prompt). A name takes {checked:.0f} bytes while its files are checked, then {held:.0f}.",
        columns=dict.fromkeys(("", *columns), text),
        rows=rows,
    )


def name_bytes(images: int = 20_000) -> tuple[float, float]:
    """Memory of an image's name while its files are looked for, at most, and afterwards: measured on empty files of SA-1B's layout."""
    with TemporaryDirectory() as folder:
        for k in range(images):
            for suffix in (".jpg", ".json"):
                (Path(folder) / f"sa_{k:08d}{suffix}").touch()
        source = Sa1b(root=folder, captions=None, subset=None, seed=0, smallest=0.005, most=32)
        tracemalloc.start()
        source.prepare(["train"])
        checked = tracemalloc.get_traced_memory()[1]
        keys = source.keys("train")
        tracemalloc.stop()
    return checked / images, (sys.getsizeof(keys) + sum(map(sys.getsizeof, keys))) / images


def scaled(value: float, unit: str) -> str:
    """A quantity with a decimal prefix."""
    power = min(5, max(0, math.floor(math.log10(max(value, 1)) / 3)))
    return f"{number(value / 1000**power)} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


if __name__ == "__main__":
    main()
