"""The tab *Segment*: a picture, words, and where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from seg4diff.app.desk import Desk, Reading
from seg4diff.app.examples import Example
from seg4diff.app.fields import reading_fields, to_reading
from seg4diff.app.files import Files
from seg4diff.app.limits import to_words
from seg4diff.app.parts import ASKED, SHOWN, bars, colours_of, file_of, has_picture, sentences
from seg4diff.app.repeat import segment_command, segment_lines
from seg4diff.results import Segmentation

OVERLAY = "all words"
"""Choice of the view that shows the regions."""
POINT = "; point at a word to see its map"
ON_POINT = """
let timer;
const point = word => { clearTimeout(timer); timer = setTimeout(() => trigger('select', {word}), 100); };
element.addEventListener('mouseover', event => point(event.target.closest('[data-word]')?.dataset.word ?? ''));
element.addEventListener('mouseleave', () => point(''));
"""
"""What the legend does in the browser: it names the word under the pointer, "" once there is none."""
MOST_BARS = 12
"""Words that a table shows, at most: those with the largest numbers."""


@dataclass(frozen=True)
class Fields:
    """The fields of the tab that other tabs read or set.

    Attributes:
        picture: the picture.
        words: its words.
        reading: how they are read, see `reading_fields`; the first is the block.
    """

    picture: gr.Image
    words: gr.Dropdown
    reading: list[Any]


class SegmentTab:
    """What the tab does with what stands in its fields.

    Args:
        desk: the model.
        folder: files to download are written here.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._files = desk, Files(folder)

    @sentences()
    def segment(self, upload: Any, chips: Sequence[str] | None, view: str | None, *fields: Any) -> tuple[Any, ...]:
        """Shown picture, its size, views, legend, command, lines of Python, words of no pixel, three buttons."""
        picture, words = file_of(upload), to_words(chips or ())
        if picture is None:
            return None, None, gr.Radio(choices=[OVERLAY], value=OVERLAY), "", "", "", "", *[gr.Button(interactive=False)] * 3
        found, reading = self._found(picture, words, fields)
        view = view if view in words else OVERLAY
        shown, shares = _shown(found, view), {name: float(found.mask(name).mean()) for name in found.names}
        loaded_by = self._desk.loaded_by
        return (
            shown,
            shown.size,
            gr.Radio(choices=[OVERLAY, *words], value=view),
            bars(_largest(shares), colours_of(found.names), f"share of the pixels{POINT if found.maps else ''}"),
            segment_command(picture.name, words, reading, loaded_by, self._desk.lora_blocks),
            segment_lines(picture.name, words, reading, loaded_by),
            "",
            *[gr.Button(interactive=True)] * 3,
        )

    @sentences()
    def show(self, upload: Any, chips: Sequence[str] | None, view: str, *fields: Any) -> Any:
        """The regions, or the map of the word that the view names."""
        picture = file_of(upload)
        if picture is None:
            return None
        found, _ = self._found(picture, to_words(chips or ()), fields)
        return _shown(found, view if view in found.maps else OVERLAY)

    @sentences()
    def at_pixel(self, size: Any, upload: Any, chips: Sequence[str] | None, *fields: Any, event: Any) -> str:
        """The words at the pixel that was clicked, with the level of each map there."""
        picture = file_of(upload)
        if picture is None or size is None:
            return ""
        found, _ = self._found(picture, to_words(chips or ()), fields)
        column, row = (min(int(at * own / shown), own - 1) for at, own, shown in zip(event.index, found.picture.size, size, strict=True))
        label = int(found.labels[row, column])
        name = found.names[label] if label < len(found.names) else "no word"
        levels = {word: float(found.maps[word][row, column]) for word in found.maps}
        place = f"pixel {column}, {row}: {name if found.maps else f'region {name}'}"
        return bars(_largest(levels), colours_of(found.names), f"{place}; level of each map, of 0 to 1" if levels else place)

    @sentences()
    def labels(self, upload: Any, chips: Sequence[str] | None, *fields: Any) -> str:
        """The label map that `seg4diff segment` writes."""
        found, asked, _ = self._asked(upload, chips, fields)
        return str(self._files.labels(found, asked))

    @sentences()
    def coco(self, upload: Any, chips: Sequence[str] | None, *fields: Any) -> str:
        """A file of COCO with the connected parts of each word."""
        return str(self._files.coco(*self._asked(upload, chips, fields)))

    @sentences()
    def archive(self, upload: Any, chips: Sequence[str] | None, *fields: Any) -> str:
        """A zip file of label map, overlay, sheet of maps, connected parts, and the maps as numbers."""
        return str(self._files.archive(*self._asked(upload, chips, fields)))

    def _asked(self, upload: Any, chips: Sequence[str] | None, fields: Sequence[Any]) -> tuple[Segmentation, object, str]:
        picture, words = has_picture(upload), to_words(chips or ())
        found, reading = self._found(picture, words, fields)
        return found, (picture, words, reading), picture.name

    def _found(self, picture: Path, words: tuple[str, ...], fields: Sequence[Any]) -> tuple[Segmentation, Reading]:
        reading = to_reading(self._desk, words, *fields)
        return self._desk.segment(picture, words, reading), reading


def _shown(found: Segmentation, view: str) -> Any:
    return found.overlay() if view == OVERLAY else found.heat_of(view)


def _largest(shares: dict[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: -pair[1])[:MOST_BARS])


def segment_tab(desk: Desk, folder: Path, examples: Sequence[Example]) -> Fields:
    """Lay out the tab inside the page that is being built."""
    tab = SegmentTab(desk, folder)
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            picture = gr.Image(
                label="Picture",
                type="filepath",
                sources=["upload", "clipboard"],
                height=260,
                elem_id="picture",
                buttons=["fullscreen"],
            )
            words = gr.Dropdown(
                sorted({word for example in examples for word in example.words}),
                value=[],
                multiselect=True,
                allow_custom_value=True,
                label="Words",
                info="Type a word and press Enter. Also name what surrounds it, such as grass. Without words there are numbered regions.",
                elem_id="words",
            )
            gr.Examples(
                [[str(one.file), list(one.words)] for one in examples], [picture, words], visible_columns=[0], label="Examples: toy scenes"
            )
        with gr.Column(scale=4, min_width=300):
            view = gr.Radio([OVERLAY], value=OVERLAY, label="Show", elem_id="view")
            shown = gr.Image(
                label="Where the words are: click for the words of a pixel",
                format=SHOWN,
                interactive=False,
                height=440,
                elem_id="shown",
                buttons=["download", "fullscreen"],
            )
            size = gr.State()
            pixel = gr.HTML(elem_id="pixel")
            legend = gr.HTML(elem_id="legend", js_on_load=ON_POINT)
            with gr.Row():
                labels = gr.Button("Label map (PNG)", interactive=False, size="sm", min_width=120, elem_id="labels")
                parts = gr.Button("Parts (COCO JSON)", interactive=False, size="sm", min_width=120, elem_id="coco")
                archive = gr.Button("All files (ZIP)", interactive=False, size="sm", min_width=120, elem_id="archive")
            made = gr.DownloadButton(visible="hidden", elem_id="made")
            with gr.Accordion("Repeat this result", open=False):
                command = gr.Code(label="Command", language="shell", interactive=False, lines=1)
                lines = gr.Code(label="Python", language="python", interactive=False, lines=1)
        with gr.Column(scale=2, min_width=260):
            reading = reading_fields(desk, "segment")

    def at_pixel(event: gr.SelectData, *values: Any) -> str:
        return tab.at_pixel(*values, event=event)

    def at_word(event: gr.EventData, upload: Any, chips: Any, view: str, *fields: Any) -> Any:
        return tab.show(upload, chips, event.word or view, *fields)

    gr.on(
        [field.change for field in (picture, words, *reading)],
        tab.segment,
        [picture, words, view, *reading],
        [shown, size, view, legend, command, lines, pixel, labels, parts, archive],
        api_name="segment",
        show_progress_on=shown,
        **ASKED,
    )
    view.input(tab.show, [picture, words, view, *reading], shown, api_name="show", **ASKED)
    legend.select(at_word, [picture, words, view, *reading], shown, api_visibility="private", **ASKED | {"show_progress": "hidden"})
    shown.select(at_pixel, [size, picture, words, *reading], pixel, api_name="pixel", **ASKED)
    for button, make, name in ((labels, tab.labels, "labels"), (parts, tab.coco, "coco"), (archive, tab.archive, "archive")):
        made_now = button.click(make, [picture, words, *reading], made, api_name=name, **ASKED)
        made_now.success(None, js="() => document.querySelector('#made').click()", api_visibility="private")
    return Fields(picture, words, reading)
