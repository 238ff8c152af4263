"""What a model of the toy world draws, as people read it: a table on screen, a CSV and a plot, with a row for each category."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from PIL import Image
from rich.table import Column, Table

from seg4diff.disk import whole_file
from seg4diff.evaluation.display import picture_of
from seg4diff.evaluation.report import CATEGORIES, title
from seg4diff.screen import screen
from seg4diff.tiny.answers import Answers, gains, intervals, means

COLOURS = {"base": "tab:blue", "lora": "tab:green", "gain": "tab:green"}


class Estimate(NamedTuple):
    """A mean over prompts, or a difference of two, and its 95 % interval; all in shares of 1."""

    mean: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        """In %, as in 79.3 [78.1, 80.4]; with the sign "+", every number has its sign."""
        value, low, high = (f"{100 * part:{sign}.1f}" for part in self)
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class GenerationReport:
    """Everything that a measurement found.

    Attributes:
        prompts: number of prompts.
        seeds: images of each prompt.
        steps: sampling steps.
        guidance: guidance scale.
        perturbed_guidance: scale of perturbed-I2T guidance; None = without it.
        lora_scale: factor on the LoRA; None = there is none.
        variants: by "base", and with a LoRA also "lora" and "gain", the estimate of each category that the prompts ask about.
    """

    prompts: int
    seeds: int
    steps: int
    guidance: float
    perturbed_guidance: float | None
    lora_scale: float | None
    variants: dict[str, dict[str, Estimate]]

    @classmethod
    def of(cls, answers: Mapping[str, Sequence[Sequence[Answers]]], resamples: int, seed: int, **about: Any) -> Self:
        """From the answers by variant, see `drawing.by_prompt`; the gain is paired by prompt and seed."""
        found = {}
        for variant, own in answers.items():
            bounds = intervals(own, resamples, seed)
            found[variant] = {name: Estimate(mean, *bounds[name]) for name, mean in means(own).items()}
        if "lora" in answers:
            gained = gains(answers["base"], answers["lora"], resamples, seed)
            found["gain"] = {name: Estimate(*own) for name, own in gained.items()}
        return cls(variants=found, **about)

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: "base/presence", "base/presence_low", ...; what is None is left out."""
        about = asdict(self)
        del about["variants"]
        for variant, own in self.variants.items():
            for name, (mean, low, high) in own.items():
                about |= {f"{variant}/{name}": mean, f"{variant}/{name}_low": low, f"{variant}/{name}_high": high}
        return {key: value for key, value in about.items() if value is not None}


def print_report(report: GenerationReport) -> None:
    """Print the table."""
    variants = report.variants
    scale = "" if report.lora_scale in (None, 1) else f", LoRA scale {report.lora_scale:g}"
    perturbed = f", perturbed guidance {report.perturbed_guidance:g}" if report.perturbed_guidance else ""
    heading = f"right answers in {report.prompts} prompts x {report.seeds} seeds, {report.steps} steps{scale}{perturbed} (%)"
    table = Table("", *(Column(title(variant), justify="right", no_wrap=True) for variant in variants), title=heading)
    for name in _asked(report):
        own = {variant: variants[variant].get(name) for variant in variants}
        table.add_row(title(name), *("" if one is None else one.text("+" if key == "gain" else "") for key, one in own.items()))
    screen().print(table)
    paired = " LoRA - base is paired by prompt and seed." if "gain" in variants else ""
    screen().print(
        f"In brackets: 95 % interval, bootstrap over prompts.{paired}\n"
        "Extra things: share of the images with a thing that no word names, so less is better."
    )


def write_table(report: GenerationReport, path: Path) -> None:
    """Write a CSV with one row for each category: mean and interval of each variant, in shares of 1."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", *(f"{title(variant)}{end}" for variant in report.variants for end in ("", " low", " high"))])
        for name in _asked(report):
            writer.writerow([title(name), *(value for own in report.variants.values() for value in own.get(name, [""] * 3))])


def plot(report: GenerationReport) -> Image.Image:
    """Points with their intervals by category: base and LoRA, and beside them what the LoRA adds."""
    from matplotlib.figure import Figure

    panels = [["base", "lora"], ["gain"]] if "gain" in report.variants else [["base"]]
    names = _asked(report)
    figure = Figure(figsize=(2 + 3.6 * len(panels), 4), layout="constrained", dpi=120)
    for axes, variants in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for shift, variant in enumerate(variants):
            rows = [(k + 0.25 * shift, report.variants[variant][name]) for k, name in enumerate(names) if name in report.variants[variant]]
            values, heights = [100 * own.mean for _, own in rows], [height for height, _ in rows]
            reach = [[100 * (own.mean - own.low) for _, own in rows], [100 * (own.high - own.mean) for _, own in rows]]
            axes.errorbar(values, heights, xerr=reach, fmt="o", markersize=4, capsize=2, color=COLOURS[variant], label=title(variant))
        if variants == ["gain"]:
            axes.axvline(0, color="tab:gray", linewidth=1)
            axes.set(xlabel="LoRA - base (points)")
        else:
            axes.set(xlabel="right answers (%)", xlim=(-2, 102))
            axes.legend(frameon=False, fontsize=8)
    axes.set_yticks(range(len(names)), [title(name) for name in names])
    axes.invert_yaxis()
    return picture_of(figure)


def _asked(report: GenerationReport) -> list[str]:
    """The categories that have an answer, in their order."""
    return [name for name in CATEGORIES if any(name in own for own in report.variants.values())]
