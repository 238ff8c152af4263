"""The tab *Compare*: two ways to read the words of the picture of the tab *Segment*, side by side, and where they differ."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from seg4diff.app.desk import Desk
from seg4diff.app.fields import reading_fields, to_reading
from seg4diff.app.limits import to_words
from seg4diff.app.parts import ASKED, SHOWN, has_picture, sentences
from seg4diff.app.segment_tab import Fields
from seg4diff.errors import UserError
from seg4diff.pictures import highlight
from seg4diff.results import OVERLAY, Segmentation


class CompareTab:
    """What the tab does with what stands in its fields.

    Args:
        desk: the model.
        count: number of fields of one way to read.
    """

    def __init__(self, desk: Desk, count: int) -> None:
        self._desk, self._count = desk, count

    @sentences()
    def compare(self, upload: Any, chips: Sequence[str] | None, *fields: Any) -> tuple[Image.Image, Image.Image, Image.Image, str]:
        """Overlays of both ways, the pixels that have another label, and a table of the words."""
        picture, words = has_picture(upload), to_words(chips or ())
        if not words:
            raise UserError("there are no words to compare: type some in the tab Segment.")
        ways = fields[: self._count], fields[self._count :]
        first, second = (self._desk.segment(picture, words, to_reading(self._desk, words, *way)) for way in ways)
        differs = first.labels != second.labels
        marked = highlight(first.picture, differs)
        marked.thumbnail((OVERLAY, OVERLAY))
        return first.overlay(), second.overlay(), marked, agreement(first, second)


def agreement(first: Segmentation, second: Segmentation) -> str:
    """A table of the words with their shares of the pixels in both results, and how far their pixels agree, as HTML."""
    rows = []
    for name in first.names:
        own, other = first.mask(name), second.mask(name)
        union = int((own | other).sum())
        iou = f"{(own & other).sum() / union:.2f}" if union else "-"
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th><td>{own.mean():.1%}</td><td>{other.mean():.1%}</td><td>{iou}</td></tr>')
    share = np.mean(first.labels != second.labels)
    head = "".join(f'<th scope="col">{title}</th>' for title in ("word", "left", "right", "IoU of both"))
    caption = f"{share:.1%} of the pixels have another label."
    return f'<table class="figures"><caption>{caption}</caption><tr>{head}</tr>{"".join(rows)}</table>'


def compare_tab(desk: Desk, segment: Fields) -> None:
    """Lay out the tab inside the page that is being built."""
    gr.Markdown("The picture and words of the tab *Segment*, read in two ways.")
    start = gr.Button("Compare", variant="primary", elem_id="compare")
    ways, shown = [], []
    with gr.Row():
        for side in ("left", "right"):
            with gr.Column(min_width=300):
                shown.append(gr.Image(label=side.capitalize(), format=SHOWN, interactive=False, height=320, buttons=["fullscreen"]))
                with gr.Accordion(f"How the {side} one is read", open=True):
                    ways.append(reading_fields(desk, side))
        with gr.Column(min_width=300):
            differs = gr.Image(
                label="Where they differ", format=SHOWN, interactive=False, height=320, buttons=["fullscreen"], elem_id="differs"
            )
            table = gr.HTML(elem_id="agreement")
    tab = CompareTab(desk, len(ways[0]))
    gr.on(
        [start.click],
        tab.compare,
        [segment.picture, segment.words, *ways[0], *ways[1]],
        [*shown, differs, table],
        api_name="compare",
        show_progress_on=differs,
        **ASKED,
    )
