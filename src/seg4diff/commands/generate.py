"""`seg4diff generate`: images of prompts, base and LoRA side by side; docs/generate.md says what is written."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.lora import has_lora
from seg4diff.backbones.lora_files import lora_file
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.commands.generated import SETTINGS, claim_settings, to_requests, write_overview
from seg4diff.commands.outputs import process_share, results_folder
from seg4diff.data.files import lines_of
from seg4diff.errors import MissingFileError, UserError
from seg4diff.generation.requests import batches
from seg4diff.loading import load
from seg4diff.model import Model

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def generate_files(
    prompts: Sequence[str],
    *,
    prompts_file: Path | None = None,
    seeds: str = "0",
    lora_scale: str | None = None,
    out: Path | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    maps: bool = True,
    words: Sequence[str] = (),
    map_step: int | None = None,
    at_once: int = 1,
    load_options: dict[str, Any] | None = None,
) -> Path:
    """Draw the images of a folder that are missing; several processes share them.

    Args:
        prompts: the prompts.
        prompts_file: a text file with one prompt per line, instead.
        seeds: see `to_seeds`.
        lora_scale: LoRA scales with commas between them; None: base and LoRA where there is a LoRA.
        out: folder of the results; None: outputs/generate/<time>.
        guidance: see `Model.draw`.
        steps: see `Model.draw`.
        maps: see `Model.draw`.
        words: the words that have a map; none = every word of the prompt.
        map_step: see `Model.draw`.
        at_once: see `Model.draw`.
        load_options: arguments of `seg4diff.load`.

    Returns:
        The folder of the results.

    Raises:
        UserError: a value is wrong, or the folder holds images of other settings.
    """
    share = process_share()
    options: dict[str, Any] = {"maps": list(words) or maps, "map_step": map_step, "at_once": at_once}
    prompts, chosen = read_prompts(prompts, prompts_file), to_seeds(seeds)
    scales: list[float] | list[None] | None = None if lora_scale is None else to_scales(lora_scale)
    if out is None and share[1] > 1:
        raise UserError("several processes need to know their common folder: give it with --out.")
    if words and not maps:
        raise UserError("--word says which words have a map, and --no-maps that none has: leave one of them out.")
    quiet_hosts()
    given = {name: value for name, value in (load_options or {}).items() if value is not None}
    model = load(**{"device": device_of(share)} | given)
    scales = scales or ([0.0, 1.0] if has_lora(model.backbone) else [None])
    options |= vars(model.sampling(guidance, steps))
    settings = {"prompts": prompts, "seeds": chosen, "scales": scales, **options, **identify(model)}
    draw = partial(model.draw, **options, share=share)
    draw(requests=to_requests(Path(), settings))  # finds what is wrong before anything is written
    with results_folder(out, "generate", SETTINGS) as folder:
        settings = claim_settings(folder, settings, writer := f"{share[0]}-")
        if settings["threads"] is not None:
            torch.set_num_threads(settings["threads"])
        requests = to_requests(folder, settings)
        own = [one for batch in batches(requests, at_once)[share[0] :: share[1]] for one in batch if one.is_missing]
        for image in track(draw(requests=requests), "generating", len(own)):
            image.save(folder)
        log.info("generated %d images, see %s", len(own), folder)
        if not any(request.is_missing for request in requests):
            write_overview(folder, settings, requests, writer)
    return folder


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The prompts, or the lines of a file that are not blank.

    Raises:
        UserError: there is none, or there are both.
    """
    if bool(prompts) == (file is not None):
        raise UserError("give prompts, or a file with one prompt per line (--prompts), not both.")
    if file is None:
        return list(prompts)
    if not file.is_file():
        raise MissingFileError(f"there is no file of prompts {file}: write one prompt per line, and give it with --prompts.")
    found = [line.strip() for line in lines_of(file) if line.strip()]
    if not found:
        raise UserError(f"the file of prompts {file} is empty: write one prompt per line.")
    return found


def to_seeds(text: str) -> list[int]:
    """Seeds from numbers and ranges, as in 0-3 or 0,5,7-9.

    Raises:
        UserError: it is nothing of that kind, or a seed is in it twice.
    """
    parts = [re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part, re.ASCII) for part in text.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part is not None]
    if len(ranges) < len(parts) or not all(ranges):
        raise UserError(f"--seeds must be numbers and ranges from the smaller to the larger, as in 0-3 or 0,5,7-9, found '{text}'.")
    return _each_once([seed for own in ranges for seed in own], "--seeds", text)


def to_scales(text: str) -> list[float]:
    """LoRA scales from numbers with commas between them, as in 0,0.5,1.

    Raises:
        UserError: it is nothing of that kind, or a scale is in it twice.
    """
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--lora-scale must be numbers with commas between them, as in 0,0.5,1, found '{text}'.") from error
    return _each_once(scales, "--lora-scale", text)


def _each_once(values: list[Any], option: str, text: str) -> list[Any]:
    if len({f"{value:g}" if isinstance(value, float) else value for value in values}) < len(values):
        raise UserError(f"{option} must hold each number once, found '{text}'.")
    return values


def device_of(share: tuple[int, int]) -> str | None:
    """The accelerator of one of several processes on a machine: each has its own. None: the choice of `load`."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if share[1] == 1 or kind is None:
        return None
    number = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"{kind.type}:{number % torch.accelerator.device_count()}"


def identify(model: Model) -> dict[str, Any]:
    """Everything about the model and the machine that the bits of an image depend on, as plain values."""
    backbone = model.backbone
    assert isinstance(backbone, PipelineBackbone) and backbone.source is not None, "a command loads its model by name"
    file = None if model.lora is None else lora_file(model.lora)
    on_cpu = backbone.device.type == "cpu"
    return {
        "model": backbone.source.identity()["model"],
        "revision": backbone.source.revision,
        "commit": backbone.source.commit(),
        "lora": None if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
        "block": model.block,
        "readout": vars(model.readout),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "quantize": backbone.runtime.quantize,
        "device": backbone.device.type,
        "threads": torch.get_num_threads() if on_cpu else None,
        "versions": {name: version(name) for name in LIBRARIES},
    }
