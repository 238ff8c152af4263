"""The tab *Generate*: images of a prompt, base beside LoRA, and where each word went."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from seg4diff.app.desk import Desk
from seg4diff.app.limits import IMAGES, STEPS, to_prompt
from seg4diff.app.parts import DEVICE, KEPT_SECONDS, SHOWN, picture_of, sentences, written
from seg4diff.app.repeat import generate_command
from seg4diff.generation.requests import to_seeds
from seg4diff.results import Generated

IMAGE, OVERLAY = "image", "all words"
"""Choices of the view besides the words of the prompt."""
STRIP, CELL = 5, 144
"""Steps in the strip of a word, at most, and longest side in pixels of a picture in it."""


class GenerateTab:
    """What the tab does with what stands in its fields.

    Args:
        desk: the model.
        folder: images are written here.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._folder = desk, folder
        self._running: dict[str | None, Event] = {}

    def draw(self, request: gr.Request, prompt: str, seeds: str, *numbers: float) -> Iterator[tuple[Any, ...]]:
        """After each image: the gallery, no strip, the images themselves, choices of views, the command. Then views can be chosen."""
        guidance, steps, perturbed = numbers[:3]
        with sentences():
            text, chosen = to_prompt(prompt), to_seeds(seeds, IMAGES)
            scales: list[float | None] = [0.0, *({float(numbers[3])} - {0.0})] if self._desk.has_lora else [None]
            options = {"guidance": guidance, "steps": round(steps), "perturbed_guidance": perturbed or None}
            command = generate_command(text, chosen, scales, options, self._desk.loaded_by)
            drawn: list[Generated] = []
            shown: list[tuple[str, str]] = []
            stop = self._running[request.session_hash] = Event()
            try:
                for image in self._desk.draw(text, chosen, scales, stop=stop, strip=spread(round(steps)), **options):
                    drawn.append(image)
                    shown.append(self._entry(image, IMAGE))
                    views = gr.Radio(choices=[IMAGE, OVERLAY, *drawn[0].maps], value=IMAGE, interactive=False)
                    yield shown, "", drawn, views, command
            finally:
                if self._running.get(request.session_hash) is stop:
                    del self._running[request.session_hash]
            # The last message is sent twice, so it holds nothing that a person may have changed in between.
            yield gr.skip(), gr.skip(), gr.skip(), gr.Radio(interactive=True), gr.skip()

    def stop(self, request: gr.Request) -> gr.Radio:
        """End what the same window of a browser draws; views of the images that are complete can be chosen."""
        if (stop := self._running.get(request.session_hash)) is not None:
            stop.set()
        return gr.Radio(interactive=True)

    @sentences()
    def show(self, drawn: Sequence[Generated] | None, view: str) -> tuple[list[tuple[str, str]], str]:
        """The gallery with another view of each image, and the strip of a word."""
        own = drawn or []
        return [self._entry(one, view) for one in own], strip_of(own, view) if own and view in own[0].maps else ""

    def _entry(self, one: Generated, view: str) -> tuple[str, str]:
        """The file of an image, its regions, or the map of a word over it, with a caption. The image alone is stored as it is."""
        if view == OVERLAY or view in one.maps:
            picture = one.words.heat_of(view) if one.words is not None and view in one.maps else one.overlay()
            return written(picture, self._folder, f"{one.stem}.{SHOWN}"), _caption(one)
        return written(one.image, self._folder, f"{one.stem}.png"), _caption(one)


def spread(steps: int) -> list[int]:
    """Steps of a strip: the first, the last and some between them."""
    return sorted({round(k * (steps - 1) / (STRIP - 1)) for k in range(STRIP)})


def strip_of(drawn: Sequence[Generated], word: str) -> str:
    """Where a word is over the steps, as HTML: a row for each image, a column for each step."""
    head = "".join(f'<th scope="col">step {step + 1}</th>' for step in drawn[0].strip)
    rows = []
    for one in drawn:
        cells = [(f"{word} at step {step + 1}, {_caption(one)}", own.heat_of(word)) for step, own in one.strip.items()]
        pictures = "".join(f"<td>{picture_of(picture, text, CELL)}</td>" for text, picture in cells)
        rows.append(f'<tr><th scope="row">{_caption(one)}</th>{pictures}</tr>')
    return f'<table class="strip"><caption>{html.escape(word)} over the steps</caption><tr><td></td>{head}</tr>{"".join(rows)}</table>'


def _caption(one: Generated) -> str:
    if one.scale is None:
        return f"seed {one.seed}"
    return f"seed {one.seed}, {f'LoRA x {one.scale:g}' if one.scale else 'base'}"


def generate_tab(desk: Desk, folder: Path) -> None:
    """Lay out the tab inside the page that is being built; images are written to the folder."""
    tab, usual = GenerateTab(desk, folder), desk.model.sampling()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(label="Prompt", placeholder="two fishes on water", lines=2, elem_id="prompt")
            seeds = gr.Textbox("0-1", label="Seeds", info="Numbers and ranges, as in 0-3 or 0,5.", elem_id="seeds")
            guidance = gr.Slider(0, 15, usual.guidance, step=0.5, label="Guidance scale")
            steps = gr.Slider(1, STEPS, usual.steps, step=1, label="Steps", elem_id="steps")
            perturbed = gr.Slider(0, 5, 0, step=0.5, label="Perturbed-I2T guidance", info="0: without it.")
            scale = gr.Slider(0, 2, 1, step=0.1, label="LoRA scale", info="Drawn beside the base model.", visible=desk.has_lora)
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=3, min_width=300):
            view = gr.Radio([IMAGE], value=IMAGE, label="Show", elem_id="generated-view")
            shown = gr.Gallery(
                label="Images",
                columns=2,
                object_fit="contain",
                height="auto",
                buttons=["download", "fullscreen"],
                interactive=False,
                elem_id="images",
            )
            strip = gr.HTML(elem_id="strip")
            with gr.Accordion("Repeat this result", open=False):
                command = gr.Code(label="Command", language="shell", interactive=False, lines=1)
    drawn = gr.State([], time_to_live=KEPT_SECONDS)
    asked = [prompt, seeds, guidance, steps, perturbed, *([scale] if desk.has_lora else [])]
    running = gr.on(
        [start.click, prompt.submit],
        tab.draw,
        asked,
        [shown, strip, drawn, view, command],
        api_name="generate",
        concurrency_id=DEVICE,
        concurrency_limit=1,
        show_progress_on=shown,
    )
    stop.click(tab.stop, None, view, cancels=[running], api_visibility="private", queue=False)
    view.input(tab.show, [drawn, view], [shown, strip], api_name="show_generated", show_progress="hidden")
