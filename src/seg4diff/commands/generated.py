"""The folder of `seg4diff generate`: its settings, its files, its overview."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from seg4diff.data.reading import read_image
from seg4diff.disk import read_json, save_picture, to_json, write_json, write_text
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request
from seg4diff.pictures import sheet
from seg4diff.provenance import provenance

log = logging.getLogger(__name__)

SETTINGS = "generation.json"
"""File that says what the images of a folder depend on."""
CELL, PROMPTS, PAGES, SEEDS = 288, 12, 4, 8
"""Of the contact sheets: longest side of a picture in pixels, prompts on a page, pages, seeds of a prompt, at most."""


def claim_settings(folder: Path, settings: dict[str, Any], writer: str, name: str = SETTINGS) -> dict[str, Any]:
    """Write the settings into a new folder, or compare them with those of a folder that is continued.

    Args:
        folder: the folder.
        settings: everything that its images depend on.
        writer: tells the processes apart.
        name: file of the settings.

    Returns:
        The settings of the folder. Its number of threads may be another, and is to be taken over: more threads round other partial sums.

    Raises:
        UserError: they differ.
    """
    file, ours = folder / name, json.loads(to_json(settings))
    if not file.exists():
        write_json(file, ours, writer)
        write_json(folder / "provenance.json", provenance(), writer)
    theirs = read_json(file, f"delete the folder {folder}, and make its images again")
    for key in [*ours, *(theirs.keys() - ours.keys())]:
        if key != "threads" and ours.get(key) != theirs.get(key):
            raise UserError(
                f"{folder} holds images with {key} {_short(theirs.get(key))}, and here it is {_short(ours.get(key))}: choose another "
                "folder (--out), or the same settings."
            )
    return theirs


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def to_requests(folder: Path, settings: dict[str, Any]) -> list[Request]:
    """What a folder is to hold: images/<number of the prompt, from 0>-<stem of the request>.png; images of one scale are together."""
    asked = [
        (number, Request(prompt, seed, scale))
        for scale in settings["scales"]
        for number, prompt in enumerate(settings["prompts"])
        for seed in settings["seeds"]
    ]
    return [replace(one, path=folder / "images" / f"{number:04}-{one.stem}.png") for number, one in asked]


def write_overview(folder: Path, settings: dict[str, Any], requests: Sequence[Request], writer: str) -> None:
    """Write metadata.jsonl, with a row for each image, and the contact sheets."""
    common = {key: value for key, value in settings.items() if key not in ("prompts", "seeds", "scales")}
    rows = [
        {"file_name": f"images/{one.stem}.png", "prompt": one.prompt, "seed": one.seed, "lora_scale": one.scale} | common
        for one in requests
    ]
    write_text(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), writer)
    _write_sheets(folder, settings, requests, writer)


def _write_sheets(folder: Path, settings: dict[str, Any], requests: Sequence[Request], writer: str) -> None:
    """Write sheet.png, sheet-2.png, ...: a prompt has a row of images and one of overlays; base and LoRA of a seed are side by side."""
    prompts, seeds, scales = settings["prompts"], settings["seeds"][:SEEDS], settings["scales"]
    kinds = ["images", *(["overlays"] if settings["maps"] else [])]
    at = dict(zip(product(range(len(scales)), range(len(prompts)), range(len(settings["seeds"]))), requests, strict=True))
    columns = list(product(range(len(seeds)), range(len(scales))))
    titles = [f"{_title(scales[k])} seed {seeds[s]}".strip() for s, k in columns]
    shown = range(min(len(prompts), PROMPTS * PAGES))
    for page, first in enumerate(shown[::PROMPTS]):
        numbers = shown[first : first + PROMPTS]
        cells = [[at[k, number, s].stem for s, k in columns] for number in numbers]
        pictures = [[_cell(folder / kind / f"{stem}.png") for stem in row] for row in cells for kind in kinds]
        names = [prompts[number] if kind == "images" else "" for number in numbers for kind in kinds]
        save_picture(sheet(pictures, names, titles), folder / ("sheet.png" if page == 0 else f"sheet-{page + 1}.png"), writer)
    if len(shown) < len(prompts) or len(seeds) < len(settings["seeds"]):
        log.info("the contact sheets show %d of %d prompts and %d of %d seeds", *map(len, (shown, prompts, seeds, settings["seeds"])))


def _title(scale: float | None) -> str:
    return "" if scale is None else "base," if scale == 0 else "LoRA," if scale == 1 else f"LoRA x {scale:g},"


def _cell(file: Path) -> Image.Image:
    """A picture of a contact sheet."""
    picture = read_image(file, str(file), "delete it and run the same command again")
    picture.thumbnail((CELL, CELL))
    return picture
