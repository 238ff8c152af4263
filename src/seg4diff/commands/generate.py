"""`seg4diff generate`: images of prompts, base and LoRA side by side; docs/generate.md says what is written."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.lora import has_lora
from seg4diff.commands.drawing import claim_settings, draw_missing, identify
from seg4diff.commands.outputs import process_share, results_folder
from seg4diff.commands.overview import write_overview
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request, each_once, prompts_of_file, to_seeds
from seg4diff.inputs import check_words
from seg4diff.loading import load

log = logging.getLogger(__name__)

SETTINGS = "generation.json"
"""File that holds what the images of a folder depend on."""


def generate_files(
    prompts: Sequence[str],
    *,
    prompts_file: Path | None = None,
    seeds: str = "0",
    lora_scale: str | None = None,
    out: Path | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    perturbed_guidance: float | None = None,
    perturbed_block: int | None = None,
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
        perturbed_guidance: see `Model.draw`.
        perturbed_block: see `Model.draw`.
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
    options: dict[str, Any] = {"maps": list(check_words(words, "word")) if words else maps, "map_step": map_step, "at_once": at_once}
    prompts, chosen = read_prompts(prompts, prompts_file), to_seeds(seeds)
    scales: list[float] | list[None] | None = None if lora_scale is None else to_scales(lora_scale)
    if out is None and share[1] > 1:
        raise UserError("several processes need to know their common folder: give it with --out.")
    unused = {"--word": words or None, "--map-step": map_step, "--sigma": (load_options or {}).get("sigma")}
    if not maps and (given := [option for option, value in unused.items() if value is not None]):
        raise UserError(f"{given[0]} is about the maps of words, and --no-maps says that there are none: leave one of them out.")
    quiet_hosts()
    model = load(**load_options or {})
    scales = scales or ([0.0, 1.0] if has_lora(model.backbone) else [None])
    options |= vars(model.sampling(guidance, steps, perturbed_guidance=perturbed_guidance, perturbed_block=perturbed_block))
    readout = {
        name: value for name, value in vars(model.readout).items() if name not in ("reader", "presence", "refine")
    }  # of `segment` alone
    reading = {"block": model.block, "readout": readout}
    settings = {"prompts": prompts, "seeds": chosen, "scales": scales, **options, **identify(model), **reading}
    model.draw(to_requests(Path(), settings), **options, share=share)  # finds what is wrong before anything is written
    with results_folder(out, "generate", SETTINGS) as folder:
        settings = claim_settings(folder / SETTINGS, settings, writer := f"{share[0]}-")
        requests = to_requests(folder, settings)
        drawn = draw_missing(model, requests, options, share, lambda image: image.save(folder))
        log.info("generated %d images, see %s", drawn, folder)
        if not any(request.is_missing for request in requests):
            write_overview(folder, settings, requests, writer)
    return folder


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The prompts, or those of a file. Raises UserError if there are none, or both."""
    if bool(prompts) == (file is not None):
        raise UserError("give prompts, or a file with one prompt per line (--prompts), not both.")
    return list(prompts) if file is None else prompts_of_file(file)


def to_scales(text: str) -> list[float]:
    """LoRA scales from numbers with commas between them, as in 0,0.5,1.

    Raises:
        UserError: it is nothing of that kind, or a scale is in it twice.
    """
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--lora-scale must be numbers with commas between them, as in 0,0.5,1, found '{text}'.") from error
    return each_once(scales, "--lora-scale", text)


def to_requests(folder: Path, settings: dict[str, Any]) -> list[Request]:
    """What a folder is to hold: images/<number of the prompt, from 0>-<stem of the request>.png; images of one scale are together."""
    asked = [
        (number, Request(prompt, seed, scale))
        for scale in settings["scales"]
        for number, prompt in enumerate(settings["prompts"])
        for seed in settings["seeds"]
    ]
    return [replace(one, path=folder / "images" / f"{number:04}-{one.stem}.png") for number, one in asked]
