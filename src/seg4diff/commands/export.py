"""`seg4diff export`: images for the prompts of a benchmark, in the benchmark's own layout; docs/generation-metrics.md shows how."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.progress import track

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.lora_files import find_lora, lora_file
from seg4diff.disk import read_json, to_json, whole_file
from seg4diff.errors import UserError
from seg4diff.evaluation.judges.layouts import LAYOUTS, Layout
from seg4diff.loading import load
from seg4diff.provenance import provenance

log = logging.getLogger(__name__)

SETTINGS = "export.json"
"""File of a folder that says how its images were drawn. No benchmark's judge reads it."""
SHARES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""What launchers number the processes of a run by, and how many there are. SLURM_NTASKS is that of a job, not of srun."""

Drawing = tuple[str, int, Path]
"""(prompt, seed, file of the image)."""


def export_images(
    layout: str,
    prompts: Path,
    out: Path,
    *,
    seeds: str,
    steps: int,
    guidance: float,
    size: tuple[int, int] | None,
    load_options: dict[str, Any],
) -> None:
    """Draw the images of a benchmark that are not there yet.

    Args:
        layout: one of `LAYOUTS`.
        prompts: the benchmark's own file of prompts.
        out: folder of the images; it may hold some of them already, of the same settings.
        seeds: of the images of each prompt, see `parse_seeds`.
        steps: sampling steps.
        guidance: guidance scale.
        size: (height, width) in pixels; None = that of the model.
        load_options: arguments of `seg4diff.load`.

    Raises:
        UserError: the layout, the prompts or the seeds are none, or the folder holds images of other settings.
    """
    kind, numbers = layout_of(layout), parse_seeds(seeds)
    samples = kind.samples(out, kind.read_prompts(prompts), len(numbers))
    sampling = {"steps": steps, "guidance": guidance, "size": None if size is None else list(size)}
    model = {name: None if load_options.get(name) is None else str(load_options[name]) for name in ("model", "lora", "dtype", "quantize")}
    lora = load_options.get("lora")
    content = {"prompts": prompts, "lora file": None if lora is None else lora_file(find_lora(lora))}
    same_settings(out, {"layout": layout, "seeds": numbers} | sampling | model | {name: _hash(file) for name, file in content.items()})
    kind.write_index(out, samples)
    drawings = [(sample.prompt.text, seed, sample.path) for sample, seed in zip(samples, cycle(numbers), strict=False)]
    missing = [drawing for drawing in own_share(drawings) if not drawing[2].exists()]
    log.info("%d images, %d of them to be drawn by this process", len(samples), len(missing))
    if missing:
        quiet_hosts()
        loaded = load(**load_options)
        draw(loaded.backbone, missing, steps=steps, guidance=guidance, size=size or loaded.image_size)


def _hash(file: Path | None) -> str | None:
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def draw(backbone: Backbone, drawings: Sequence[Drawing], **sampling: Any) -> None:
    """Draw images one by one, so that each depends on its prompt and its seed alone; a file is whole or not there.

    Args:
        backbone: the model.
        drawings: what to draw.
        sampling: see `Backbone.sample`.
    """
    sweep(path for _, _, path in drawings)
    for prompt, seed, path in track(drawings, "drawing"):
        (image,) = backbone.sample([prompt], seeds=[seed], **sampling)
        with whole_file(path, f"{os.getpid()}.") as partial:
            image.save(partial, format="PNG")


def sweep(files: Iterable[Path]) -> None:
    """Remove what a killed process left of these files: judges take everything in a folder for an image."""
    own = set(files)
    for folder in {file.parent for file in own}:
        for left in folder.glob(".*.partial"):
            if folder / left.name[1:].rsplit(".", 2)[0] in own:
                left.unlink(missing_ok=True)


def layout_of(name: str) -> Layout:
    """The layout of a benchmark. Raises UserError for one that is not known."""
    if name not in LAYOUTS:
        raise UserError(f"there is no layout '{name}': choose {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def parse_seeds(text: str) -> list[int]:
    """Seeds as in "0-3" or "0,2,5-7". Raises UserError for another form, or a seed that is there twice."""
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in text.split(",")]
    seeds = [seed for part in parts if part for seed in range(int(part[1]), int(part[2] or part[1]) + 1)]
    if not all(parts) or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds are different whole numbers and ranges, as in 0-3 or 0,2,5-7, found '{text}'.")
    return seeds


def own_share(items: Iterable[Any]) -> list[Any]:
    """What this process has to do, where a launcher has started several: every so many-th item."""
    for number, processes in SHARES:
        if number in os.environ and processes in os.environ:
            return list(items)[int(os.environ[number]) :: int(os.environ[processes])]
    return list(items)


def same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write down how the images of a folder are drawn, or refuse to mix them with those of other settings."""
    file = folder / SETTINGS
    if not file.exists():
        with whole_file(file, f"{os.getpid()}.") as partial:
            partial.write_text(to_json(settings | {"provenance": provenance()}) + "\n", encoding="utf-8")
    before = read_json(file)
    other = [f"{name} {before.get(name)}, now {value}" for name, value in settings.items() if before.get(name) != value]
    if other:
        raise UserError(f"{folder} holds images of other settings ({'; '.join(other)}): choose another folder (--out).")
