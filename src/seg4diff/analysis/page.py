"""The report of a stored analysis: figures as PNG and SVG, and one page, `report.html`, that explains and shows everything."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from seg4diff.analysis import drawing, html
from seg4diff.analysis.figures import draw, is_log, levels_of, values_of
from seg4diff.analysis.html import Element, element
from seg4diff.analysis.plans import CAUSAL, Lines, plans
from seg4diff.analysis.sections import SECTIONS
from seg4diff.analysis.sheets import Example, read_examples, sheets
from seg4diff.analysis.showed import ranked
from seg4diff.analysis.stored import Analysis, read_analysis
from seg4diff.analysis.verdict import show_verdict
from seg4diff.disk import write_text
from seg4diff.screen import plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
FIGURES = "figures"
"""Folder of the figures."""


def write_report(folder: Path) -> dict[str, Image.Image]:
    """Draw the report of the analysis in a folder, with what the folder holds alone; returns its figures by name.

    Raises:
        UserError: see `read_analysis`.
    """
    report = _Report(read_analysis(folder))
    with plain_text():
        write_text(folder / PAGE, report.page())
    return report.figures


class _Report:
    """A report that is being written.

    Args:
        analysis: the stored analysis.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.examples = analysis, read_examples(analysis)
        self.figures: dict[str, Image.Image] = {}

    def page(self) -> str:
        """The whole page."""
        own = self.analysis
        titles = {study: found["title"] for study, found in own.content["studies"].items()}
        shown = {"examples": "example images"} if self.examples else {}
        links = [element("li", element("a", title, href=f"#{study}")) for study, title in ({"verdict": "verdict"} | shown | titles).items()]
        header = element(
            "header",
            element("h1", f"Which block of {own.name} grounds words?"),
            element("p", _scope(own), class_="soft"),
            element("nav", element("ul", *links), aria_label="sections"),
        )
        verdict = element("section", element("h2", "Verdict"), *show_verdict(own, self._keep), *self._about(), id="verdict")
        pictures = [self._examples()] if self.examples else []
        main = element("main", verdict, *pictures, *(self._study(study, title) for study, title in titles.items()))
        footer = element("footer", element("p", "Drawn from the files of this folder alone; docs/analyze.md explains how to read it."))
        return html.page(f"Analysis of {own.name}", [header, main, footer])

    def _keep(self, name: str, figure: "Figure", description: str) -> Element:
        """Write a figure to files, and show it."""
        svg, self.figures[name] = drawing.write_figure(figure, self.analysis.folder / FIGURES, name)
        return html.drawn(svg, name, description)

    def _about(self) -> Iterator[Element]:
        content = self.analysis.content
        yield html.facts("The model and how it was read", _facts(self.analysis))
        if content["skipped"]:
            yield element("h3", "What was skipped")
            yield element("ul", *(element("li", sentence) for sentence in content["skipped"].values()))

    def _examples(self) -> Element:
        shown = [part for example in self.examples for part in _introduce(example)]
        return element("section", element("h2", "Example images"), *shown, id="examples")

    def _study(self, study: str, title: str) -> Element:
        own, section = self.analysis, SECTIONS[study]
        found = section.found(own)
        parts = [
            element("h2", title[:1].upper() + title[1:]),
            element("p", section.measured) if section.measured else None,
            element("p", section.formula, class_="formula") if section.formula else None,
            element("p", f"In the paper: {section.paper}.", class_="soft") if section.paper else None,
            element("p", element("strong", "On this model: "), found, class_="found") if found else None,
        ]
        for name, plan in plans(study, own.tables[study]).items():
            parts.append(self._keep(name, draw(own, study, plan), f"{title[:1].upper()}{title[1:]}: {_caption(own, study, name, plan)}"))
        parts += _tables(own, study)
        for example in self.examples:
            for name, text, figure in sheets(own, study, example):
                parts.append(self._keep(name, figure, f"Image {example.number}. {text}"))
        return element("section", *parts, id=study)


def _scope(own: Analysis) -> str:
    levels = ", ".join(f"{sigma:g}" for sigma in own.sigmas)
    scope = f"{own.blocks} blocks, {own.content['images']} images, noise levels {levels}."
    return f"{scope} Sentences and tables are of noise level {own.sigma:g}."


def _facts(own: Analysis) -> dict[str, str]:
    content, settings = own.content, own.content["settings"]
    versions = content.get("provenance", {}).get("versions", {})
    images = (
        f"{content['images']} of the split {settings['split']}" if "split" in settings else f"{content['images']}, generated by the model"
    )
    source = settings.get("data", {}).get("source", {})
    facts = {key: str(value) for key, value in content["model"].items() if str(value) != "None"}
    facts |= {"weights": facts.get("weights", "")[:16]}
    facts |= {"images": images, "data": str(source.get("_target_", "")).rpartition(".")[2], "root of the data": str(source.get("root", ""))}
    facts |= {"expert_layer": str(own.expert), "precision": str(settings.get("precision", ""))}
    facts |= {"readout": _spoken(settings["analysis"].get("readout", {}))}
    facts |= {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    return {key: value for key, value in facts.items() if value}


def _spoken(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if key != "_target_" and value is not None)


def _introduce(example: Example) -> Iterator[Element]:
    yield element("h3", f"Image {example.number}")
    prompt = element("p", "Prompt: ", element("q", example.prompt))
    pictures = [html.photo(example.image, f"Image {example.number}")]
    if example.labelled is not None:
        pictures.append(html.photo(example.labelled, f"Its masks: {', '.join(example.words)}"))
    yield prompt
    yield element("div", *pictures, class_="pair")


def _caption(own: Analysis, study: str, name: str, plan: Any) -> str:
    lines = [row for row in plan if isinstance(row, Lines)]
    if not lines:
        rows = "noise level" if plan[0].of == "sigma" else "head"
        names = "; ".join(row.name for row in plan)
        band = "" if own.marked is None else " Framed: the expert."
        return f"{names}. Colours from 0 to the highest value of a row, for each block and {rows}; hatched: missing.{band}"
    shaded = any(row.interval for row in lines) and study in own.miou_intervals
    notes = [] if own.marked is None else [f"Band: {'the expert' if own.content.get('finder') else 'the expert of the settings'}."]
    notes += ["Shaded: 95 % interval, bootstrap over images alone."] if shaded else []
    notes += dict.fromkeys(row.note for row in lines if row.note)
    sigmas = levels_of(own, study, plan)
    notes += ["A 0 is a gap on a logarithmic axis."] if any(is_log(own.tables[study], row, sigmas) for row in lines) else []
    levels = "" if list(sigmas) == [None] else " and noise level"
    task = name.removeprefix("causal-")
    if task in CAUSAL:
        count = own.content["settings"]["analysis"].get("trials", {}).get({"segmenting": "segmented", "generating": "generated"}[task])
        images = "" if count is None else f" {min(count, own.content['images'])} images"
        return f"while {task}{images}, for each block{levels}. {' '.join(notes)}"
    return f"for each block{levels}. {' '.join(notes)}"


def _tables(own: Analysis, study: str) -> Iterator[Element]:
    """Highest and lowest block of each measure; and in a fold, all blocks."""
    columns: dict[str, np.ndarray] = {}
    for plan in plans(study, own.tables[study]).values():
        sigma = own.sigma if own.sigma in levels_of(own, study, plan) else None
        for row in plan:
            if isinstance(row, Lines):
                found = values_of(own.tables[study], row.series, sigma, row.factor)
                columns |= {f"{' '.join(row.axis.split())}: {label}": values for label, values in found.items()}
    ends = []
    for label, values in columns.items():
        order = ranked(values)
        block = [f"{order[k]}" if order else "missing" for k in (0, -1)]
        value = [_number(values[order[k]]) if order else "" for k in (0, -1)]
        ends.append([label, block[0], value[0], block[1], value[1]])
    yield html.table("Highest and lowest block of each measure", ["measure", "highest", "value", "lowest", "value"], ends)
    lines = [[str(block), *(_number(values[block]) for values in columns.values())] for block in range(own.blocks)]
    every = html.table("All blocks", ["block", *columns], lines, [block == own.marked for block in range(own.blocks)])
    note = element("p", f"With heads and all noise levels: {study}.csv.", class_="soft")
    yield element("details", element("summary", "All blocks"), every, note)


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "missing"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
