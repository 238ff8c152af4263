"""The tab *Blocks*: the picture of the tab *Segment* as every block reads it, and the report of a stored analysis."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from seg4diff.analysis.page import PAGE, write_report
from seg4diff.analysis.stored import read_analysis
from seg4diff.app.desk import Desk
from seg4diff.app.limits import to_words
from seg4diff.app.parts import DEVICE, file_of, sentences
from seg4diff.app.segment_tab import Fields, SegmentTab

SIDE = 320
"""Longest side in pixels of a block's picture."""


class BlocksTab:
    """What the tab does with what stands in the fields of the tab *Segment*."""

    def __init__(self, desk: Desk, segment: SegmentTab) -> None:
        self._desk, self._segment = desk, segment

    @sentences()
    def every_block(self, upload: Any, chips: Sequence[str] | None, block: float, *fields: Any) -> list[tuple[Image.Image, str]]:
        """The regions of the picture in each block."""
        picture = file_of(upload)
        if picture is None:
            raise gr.Error("There is no picture yet: choose one in the tab Segment.", duration=None, print_exception=False, title="")
        words = to_words(chips or ())
        found = {k: self._desk.segment(picture, words, self._segment.reading(k, *fields)).overlay() for k in range(self._desk.blocks)}
        for overlay in found.values():
            overlay.thumbnail((SIDE, SIDE))
        return [(overlay, self.caption(k)) for k, overlay in found.items()]

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


def blocks_tab(desk: Desk, segment: SegmentTab, fields: Fields, analysis: Path | None, tabs: gr.Tabs) -> None:
    """Lay out the tab inside the page that is being built."""
    tab = BlocksTab(desk, segment)
    gr.Markdown("The picture and words of the tab *Segment*, read at every block. Choose a block to read it there.")
    start = gr.Button("Show every block", variant="primary", elem_id="every-block")
    shown = gr.Gallery(
        label="Blocks",
        columns=4,
        height="auto",
        buttons=["fullscreen"],
        object_fit="contain",
        format="png",
        interactive=False,
        allow_preview=False,
    )

    def choose(event: gr.SelectData) -> tuple[Any, Any]:
        return event.index, gr.Tabs(selected="segment")

    start.click(
        tab.every_block,
        [fields.picture, fields.words, *fields.reading],
        shown,
        api_name="blocks",
        preprocess=False,
        concurrency_id=DEVICE,
        concurrency_limit=1,
    )
    shown.select(choose, None, [fields.block, tabs], api_visibility="private")
    if analysis is not None:
        gr.Markdown("### A stored analysis of every block")
        gr.HTML(report_of(analysis))
    else:
        gr.Markdown("`python analyze.py` measures which block grounds words; `seg4diff app --analysis <folder>` shows its report here.")
