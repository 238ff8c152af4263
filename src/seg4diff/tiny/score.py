"""Score what a model of the toy world draws: `python -m seg4diff.tiny.score [model folder] [prompts] [seeds]`, 500 and 4 by default."""

import sys
from collections.abc import Sequence

from rich.table import Table

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.screen import screen
from seg4diff.tiny.answers import Answers, answer, intervals, means
from seg4diff.tiny.find import find
from seg4diff.tiny.prompts import ToyPrompt, held_out_prompts

FINAL_SEED = 0
"""Seed of the prompts of a final figure; what is watched during training has others."""
SAMPLING = {"steps": 28, "guidance": 3.0, "size": (96, 96), "at_once": 25}
"""How the shipped model is sampled (conf/backbone/tiny_sd3.yaml)."""


def draw_and_answer(backbone: Backbone, prompts: Sequence[ToyPrompt], seeds: int, *, at_once: int, **sampling) -> list[list[Answers]]:
    """For each prompt, the answers of its images, one for each seed; drawn `at_once` together; options as of `Backbone.sample`."""
    answers: list[list[Answers]] = [[] for _ in prompts]
    for draw in range(seeds):
        own_seeds = range(draw * len(prompts), (draw + 1) * len(prompts))
        images = []
        for first in range(0, len(prompts), at_once):
            own = slice(first, first + at_once)
            images += backbone.sample([prompt.text for prompt in prompts[own]], seeds=list(own_seeds[own]), **sampling)
        for own, prompt, image in zip(answers, prompts, images, strict=True):
            own.append(answer(prompt, find(image)))
    return answers


def main(folder: str = "assets/tiny-sd3", prompts: str = "500", seeds: str = "4") -> None:
    """Print every category with its interval."""
    backbone = SD3Backbone.from_pretrained(path=folder, t5_length=0)
    answers = draw_and_answer(backbone, held_out_prompts(int(prompts), FINAL_SEED), int(seeds), **SAMPLING)
    bounds = intervals(answers, resamples=1000, seed=0)
    table = Table("category", "%", "95 % interval over prompts", title=f"{folder}: {prompts} prompts x {seeds} seeds")
    for name, mean in means(answers).items():
        table.add_row(name, f"{100 * mean:.1f}", " - ".join(f"{100 * bound:.1f}" for bound in bounds[name]))
    screen().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
