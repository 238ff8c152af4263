"""Score what a model of the toy world draws: `python -m seg4diff.tiny.score`, see --help."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError
from seg4diff.presets import Preset
from seg4diff.resources import assets_dir
from seg4diff.screen import screen
from seg4diff.tiny.answers import Answers, answer, intervals, means
from seg4diff.tiny.find import find
from seg4diff.tiny.prompts import ToyPrompt, held_out_prompts

FINAL_SEED = 0
"""Seed of the prompts of a final figure; what is watched during training has others."""
AT_ONCE = 25
"""Images that are drawn together."""


def draw_and_answer(backbone: Backbone, prompts: Sequence[ToyPrompt], seeds: int, *, at_once: int, **sampling) -> list[list[Answers]]:
    """For each prompt, the answers of its images, one for each seed; drawn `at_once` together; options as of `Backbone.sample`."""
    answers: list[list[Answers]] = [[] for _ in prompts]
    for draw in range(seeds):
        own_seeds = range(draw * len(prompts), (draw + 1) * len(prompts))
        images = []
        for first in range(0, len(prompts), at_once):
            own = slice(first, first + at_once)
            images += backbone.sample([prompt.text for prompt in prompts[own]], seeds=list(own_seeds[own]), **sampling)
        for given, prompt, image in zip(answers, prompts, images, strict=True):
            given.append(answer(prompt, find(image)))
    return answers


def score(folder: Path, count: int, seeds: int) -> Table:
    """One row per category, with its interval.

    Args:
        folder: of the model, which is sampled like the shipped one.
        count: number of held-out prompts.
        seeds: images of each prompt.

    Raises:
        UserError: there is no such model, or a number is out of range.
    """
    prompts = held_out_prompts(count, FINAL_SEED)
    if seeds < 1:
        raise UserError(f"the number of seeds must be at least 1, found {seeds}.")
    preset = Preset.named("tiny_sd3")
    backbone = preset.adapter.from_pretrained(path=str(folder), **preset.options)
    answers = draw_and_answer(backbone, prompts, seeds, at_once=AT_ONCE, **preset.samples)
    bounds = intervals(answers, resamples=1000, seed=0)
    table = Table("category", "%", "95 % interval over prompts", title=f"{folder}: {count} prompts x {seeds} seeds")
    for name, mean in means(answers).items():
        table.add_row(name, f"{100 * mean:.1f}", " - ".join(f"{100 * bound:.1f}" for bound in bounds[name]))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m seg4diff.tiny.score", description="Share of right answers in what a model draws.")
    parser.add_argument("--model", type=Path, default=assets_dir() / "tiny-sd3", help="folder of the model; default: tiny-sd3")
    parser.add_argument("--prompts", type=int, default=500, help="number of held-out prompts; default: 500")
    parser.add_argument("--seeds", type=int, default=4, help="images of each prompt; default: 4")
    options = parser.parse_args(arguments)
    try:
        screen().print(score(options.model, options.prompts, options.seeds))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
