"""The tab *Segment*: a picture, words, and where they are."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from seg4diff.app.desk import Desk, Reading
from seg4diff.app.examples import Example
from seg4diff.app.limits import to_words
from seg4diff.app.parts import DEVICE, bars, colours_of, file_of, sentences
from seg4diff.app.repeat import segment_command, segment_lines
from seg4diff.results import Segmentation

OVERLAY = "all words"
"""Choice of the view that shows the regions."""
MOST_BARS = 12
"""Words that a table shows, at most: those with the largest numbers."""


@dataclass(frozen=True)
class Fields:
    """The fields of the tab that other tabs read or set."""

    picture: gr.Image
    words: gr.Dropdown
    block: gr.Slider
    reading: list[Any]


class SegmentTab:
    """What the tab does with what stands in its fields.

    Args:
        desk: the model.
        folder: files to download are written here.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._folder = desk, folder

    def reading(self, block: float, sigma: float, background: float, lora_scale: float | None = None) -> Reading:
        """What the fields say. The place of the slider nearest to the model's own noise level means this level; a level of 0 means none."""
        own = self._desk.model.readout.sigma
        options = (("background", background),) if background else ()
        return Reading(round(block), own if abs(sigma - own) < 0.005 else sigma, lora_scale if self._desk.has_lora else None, options)

    @sentences()
    def segment(self, upload: Any, chips: Sequence[str] | None, view: str | None, *fields: Any) -> tuple[Any, ...]:
        """Shown picture, its size, choices of views, legend, file of the label map, command, lines of Python; the cleared rest."""
        picture, words = file_of(upload), to_words(chips or ())
        none = gr.DownloadButton(visible=False)
        if picture is None:
            return None, None, gr.Radio(choices=[OVERLAY], value=OVERLAY), "", gr.DownloadButton(interactive=False), "", "", "", none
        found, reading = self._found(picture, words, fields)
        view = view if view in words else OVERLAY
        shown, shares = _shown(found, view), {name: float(found.mask(name).mean()) for name in found.names}
        loaded_by = self._desk.loaded_by
        return (
            shown,
            shown.size,
            gr.Radio(choices=[OVERLAY, *words], value=view),
            bars(
                _largest(shares),
                colours_of(found.names),
                "share of the pixels",
            ),
            gr.DownloadButton(value=str(self._save(found, picture, words, reading)), interactive=True),
            segment_command(picture.name, words, reading, loaded_by, self._desk.lora_blocks),
            segment_lines(picture.name, words, reading, loaded_by),
            "",
            none,
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
    def archive(self, upload: Any, chips: Sequence[str] | None, *fields: Any) -> Any:
        """A zip file of the label map, the overlay, the sheet of maps, and the maps as numbers."""
        picture = file_of(upload)
        if picture is None:
            raise gr.Error("There is no picture yet: choose one first.", duration=None, print_exception=False, title="")
        words = to_words(chips or ())
        found, reading = self._found(picture, words, fields)
        labels = self._save(found, picture, words, reading)
        folder = labels.parents[1]
        np.savez_compressed(folder / "maps.npz", labels=found.labels, **{f"map_{k}": found.maps[name] for k, name in enumerate(found.maps)})
        (folder / "words.txt").write_text("".join(f"{name}\n" for name in found.names), encoding="utf-8")
        return gr.DownloadButton(value=shutil.make_archive(str(folder), "zip", folder), visible=True)

    def _found(self, picture: Path, words: tuple[str, ...], fields: Sequence[Any]) -> tuple[Segmentation, Reading]:
        reading = self.reading(*fields)
        return self._desk.segment(picture, words, reading), reading

    def _save(self, found: Segmentation, picture: Path, words: tuple[str, ...], reading: Reading) -> Path:
        """The file of the label map, written once; overlay and maps are beside it."""
        name = hashlib.sha256(repr((str(picture), words, reading)).encode()).hexdigest()[:16]
        labels = self._folder / name / "labels" / f"{found.stem}.png"
        if not labels.exists():
            found.save(self._folder / name)
        return labels


def _shown(found: Segmentation, view: str) -> Any:
    return found.overlay() if view == OVERLAY else found.heat_of(view)


def _largest(shares: dict[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: -pair[1])[:MOST_BARS])


def segment_tab(desk: Desk, folder: Path, examples: Sequence[Example]) -> tuple[SegmentTab, Fields]:
    """Lay out the tab inside the page that is being built."""
    tab, model = SegmentTab(desk, folder), desk.model
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
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
            marked = f"Block (the model's own: {model.block})"
            block = gr.Slider(0, desk.blocks - 1, model.block, step=1, label=marked, elem_id="block")
            sigma = gr.Slider(0, 1, model.readout.sigma, step=0.01, label=f"Noise level (the model's own: {model.readout.sigma:.3g})")
            background = gr.Slider(0, 1, 0, step=0.05, label="Unlabelled pixels", info="Where no word's map reaches this level; 0: none.")
            lora_scale = gr.Slider(0, 2, 1, step=0.1, label="LoRA scale", info="0: the base model.", visible=desk.has_lora)
            gr.Examples(
                [[str(one.file), list(one.words)] for one in examples], [picture, words], visible_columns=[0], label="Examples: toy scenes"
            )
        with gr.Column(scale=3, min_width=300):
            view = gr.Radio([OVERLAY], value=OVERLAY, label="Show", elem_id="view")
            shown = gr.Image(
                label="Where the words are: click for the words of a pixel",
                format="png",
                interactive=False,
                height=460,
                elem_id="shown",
                buttons=["download", "fullscreen"],
            )
            size = gr.State()
            pixel = gr.HTML(elem_id="pixel")
            legend = gr.HTML(elem_id="legend")
            with gr.Row():
                labels = gr.DownloadButton("Label map (PNG)", interactive=False, size="sm", elem_id="labels")
                archive = gr.Button("Make an archive of everything", size="sm")
                archived = gr.DownloadButton("Archive (ZIP)", visible=False, size="sm")
            with gr.Accordion("Repeat this result", open=False):
                command = gr.Code(label="Command", language="shell", interactive=False, lines=1)
                lines = gr.Code(label="Python", language="python", interactive=False, lines=1)
    reading = [block, sigma, background, *([lora_scale] if desk.has_lora else [])]
    asked: dict[str, Any] = {
        "preprocess": False,
        "concurrency_id": DEVICE,
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "trigger_mode": "always_last",
    }

    def at_pixel(event: gr.SelectData, *values: Any) -> str:
        return tab.at_pixel(*values, event=event)

    gr.on(
        [field.change for field in (picture, words, *reading)],
        tab.segment,
        [picture, words, view, *reading],
        [shown, size, view, legend, labels, command, lines, pixel, archived],
        api_name="segment",
        show_progress_on=shown,
        **asked,
    )
    view.input(tab.show, [picture, words, view, *reading], shown, api_name="show", **asked)
    shown.select(at_pixel, [size, picture, words, *reading], pixel, api_name="pixel", **asked)
    archive.click(tab.archive, [picture, words, *reading], archived, api_name="archive", **asked)
    return tab, Fields(picture, words, block, reading)
