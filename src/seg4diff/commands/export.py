"""`seg4diff export`: images for the prompts of a benchmark, in the benchmark's own layout; docs/generation-metrics.md shows how."""

import logging
from itertools import cycle
from pathlib import Path
from typing import Any

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.commands.drawing import claim_settings, draw_missing, file_hash, identify
from seg4diff.commands.outputs import process_share, results_folder
from seg4diff.disk import save_picture
from seg4diff.evaluation.judges.layouts import layout_of
from seg4diff.generation.requests import Request, to_seeds
from seg4diff.loading import load
from seg4diff.results import Generated

log = logging.getLogger(__name__)

SETTINGS = "export.json"
"""File that holds what the images of a folder depend on. No benchmark's judge reads it."""


def export_images(
    layout: str,
    prompts: Path,
    out: Path,
    *,
    seeds: str,
    guidance: float | None = None,
    steps: int | None = None,
    at_once: int = 1,
    load_options: dict[str, Any] | None = None,
) -> None:
    """Draw the images of a benchmark that are missing; several processes share them.

    Args:
        layout: one of `layouts.LAYOUTS`.
        prompts: the benchmark's own file of prompts.
        out: folder of the images; it may hold some of them already, of the same settings.
        seeds: of the images of each prompt, see `to_seeds`.
        guidance: see `Model.draw`.
        steps: see `Model.draw`.
        at_once: see `Model.draw`.
        load_options: arguments of `seg4diff.load`.

    Raises:
        UserError: a value is wrong, or the folder holds images of other settings.
    """
    share, kind, chosen = process_share(), layout_of(layout), to_seeds(seeds)
    samples = kind.samples(out, kind.read_prompts(prompts), len(chosen))
    requests = [Request(sample.prompt.text, seed, path=sample.path) for sample, seed in zip(samples, cycle(chosen), strict=False)]
    quiet_hosts()
    model = load(**load_options or {})
    options = {"at_once": at_once} | vars(model.sampling(guidance, steps))
    settings = {"layout": layout, "prompts": file_hash(prompts), "seeds": chosen, **options, **identify(model)}
    options |= {"maps": False}
    model.draw(requests, **options, share=share)  # finds what is wrong before anything is written
    with results_folder(out, "export", SETTINGS):
        claim_settings(out / SETTINGS, settings, f"{share[0]}-")
        if share[0] == 0:
            kind.write_index(out, samples)
        drawn = draw_missing(model, requests, options, share, _save)
        log.info("drew %d of %d images, see %s", drawn, len(requests), out)


def _save(image: Generated) -> None:
    assert image.path is not None, "every image of a layout has its file"
    save_picture(image.image, image.path)
