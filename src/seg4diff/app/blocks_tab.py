"""The tab *Blocks*: the picture of the tab *Segment* as every block reads it, and the report of a stored analysis."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from seg4diff.analysis.page import PAGE, write_report
from seg4diff.analysis.stored import read_analysis
from seg4diff.app.desk import Desk
from seg4diff.app.fields import to_reading
from seg4diff.app.limits import to_words
from seg4diff.app.parts import DEVICE, SHOWN, has_picture, sentences
from seg4diff.app.segment_tab import Fields

SIDE = 320
"""Longest side in pixels of a block's picture."""


class BlocksTab:
    """What the tab does with what stands in the fields of the tab *Segment*."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def every_block(self, upload: Any, chips: Sequence[str] | None, block: float, *fields: Any) -> Iterator[list[tuple[Image.Image, str]]]:
        """The regions of the picture in each block; they come one after the other."""
        with sentences():
            picture, words = has_picture(upload), to_words(chips or ())
            found: list[tuple[Image.Image, str]] = []
            for k in range(self._desk.blocks):
                overlay = self._desk.segment(picture, words, to_reading(self._desk, words, k, *fields)).overlay()
                overlay.thumbnail((SIDE, SIDE))
                found.append((overlay, self.caption(k)))
                yield found

    def caption(self, block: int) -> str:
        """The name of a block; the one that the model is read at is marked."""
        return f"block {block}{', the model is read here' if block == self._desk.model.block else ''}"


def report_of(folder: Path) -> str:
    """The report of a stored analysis as a frame in the page; it is drawn if it is missing.

    Raises:
        UserError: the folder holds no analysis.
    """
    name = read_analysis(folder).name
    if not (folder / PAGE).is_file():
        write_report(folder)
    content = html.escape((folder / PAGE).read_text(encoding="utf-8"))
    return f'<iframe class="report" sandbox title="analysis of {html.escape(name)}" srcdoc="{content}"></iframe>'


def blocks_tab(desk: Desk, segment: Fields, analysis: Path | None, tabs: gr.Tabs) -> None:
    """Lay out the tab inside the page that is being built."""
    tab = BlocksTab(desk)
    gr.Markdown("The picture and words of the tab *Segment*, read at every block. Choose a block to read it there.")
    with gr.Row():
        start = gr.Button("Show every block", variant="primary", elem_id="every-block")
        stop = gr.Button("Stop")
    shown = gr.Gallery(
        label="Blocks",
        columns=4,
        height="auto",
        buttons=["fullscreen"],
        object_fit="contain",
        format=SHOWN,
        interactive=False,
        allow_preview=False,
        elem_id="blocks",
    )

    def choose(event: gr.SelectData) -> tuple[Any, Any]:
        return event.index, gr.Tabs(selected="segment")

    running = start.click(
        tab.every_block,
        [segment.picture, segment.words, *segment.reading],
        shown,
        api_name="blocks",
        preprocess=False,
        concurrency_id=DEVICE,
        concurrency_limit=1,
    )
    stop.click(lambda: None, cancels=[running], api_visibility="private", queue=False)
    shown.select(choose, None, [segment.reading[0], tabs], api_visibility="private")
    if analysis is not None:
        gr.Markdown("### A stored analysis of every block")
        gr.HTML(report_of(analysis))
    else:
        gr.Markdown("`python analyze.py` measures which block grounds words; `seg4diff app --analysis <folder>` shows its report here.")
