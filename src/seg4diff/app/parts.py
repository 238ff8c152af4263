"""Pieces that the tabs of the page share: errors as one sentence, uploaded files, bars."""

import html
import logging
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr
from PIL import Image

from seg4diff.errors import UserError, rename
from seg4diff.pictures import class_colours

log = logging.getLogger(__name__)

KEPT_SECONDS = 3600
"""Age at which files and images of the page, uploads included, are deleted; all of them are when the program ends."""
SHOWN = "jpeg"
"""Format of pictures that are shown, and not kept: it is written much faster than PNG."""
DEVICE = "device"
"""Name of the queue that all requests to the model wait in: one at a time has the device."""
ASKED: dict[str, Any] = {
    "preprocess": False,
    "concurrency_id": DEVICE,
    "concurrency_limit": 1,
    "show_progress": "minimal",
    "trigger_mode": "always_last",
}
"""Options of events that ask for a segmentation: the last of several that come while one runs is answered."""
LABELS = {
    "background": "the level of unlabelled pixels",
    "block": "the block",
    "guidance": "the guidance scale",
    "lora_scale": "the LoRA scale",
    "maps": "the words",
    "reader": "the reader",
    "refine": "the refinement",
    "perturbed_guidance": "the scale of perturbed guidance",
    "seeds": "the seeds",
    "sigma": "the noise level",
    "steps": "the number of steps",
}
"""What the page calls the parameters that errors name."""


@contextmanager
def sentences() -> Iterator[None]:
    """Within the block, or the function that it decorates, an error becomes one sentence in the page."""
    try:
        yield
    except gr.Error:
        raise
    except UserError as error:
        raise _shown(rename(str(error), LABELS.get)) from error
    except Exception as error:
        log.exception("the page met an error that is a bug")
        lack = type(error).__name__ == "OutOfMemoryError"
        reason = (
            "there is not enough memory for this: take a smaller picture or fewer words."
            if lack
            else "that is a bug: the terminal has more."
        )
        raise _shown(f"This did not work, and {reason}") from error


def _shown(sentence: str) -> gr.Error:
    first = sentence[:1].upper() + sentence[1:]
    return gr.Error(html.escape(first), duration=None, print_exception=False, title="")


def file_of(picture: Any) -> Path | None:
    """The uploaded file of a field for pictures, from what its event hands out without preprocessing; None where there is none.

    Gradio has checked that the file is an upload. Its preprocessing would decode the picture, which the package does in one place.
    """
    return Path(picture["path"]) if picture else None


def has_picture(picture: Any) -> Path:
    """As `file_of`, or an error where there is none."""
    file = file_of(picture)
    if file is None:
        raise UserError("there is no picture yet: choose one in the tab Segment.")
    return file


def bars(shares: Mapping[str, float], colours: Mapping[str, str], what: str) -> str:
    """A table of words with a bar for each, as HTML.

    Args:
        shares: a number in [0, 1] for each word.
        colours: the colour of each word.
        what: the heading of the numbers.
    """
    rows = []
    for name, share in shares.items():
        word, colour = html.escape(name), f"background:{colours[name]}"
        rows.append(
            f'<tr data-word="{word}"><th scope="row"><span class="swatch" style="{colour}"></span>{word}</th>'
            f'<td><span class="bar" style="width:{100 * share:.0f}%;{colour}"></span></td><td>{share:.2f}</td></tr>'
        )
    return f'<table class="bars"><caption>{html.escape(what)}</caption>{"".join(rows)}</table>'


def picture_of(picture: Image.Image, text: str, side: int) -> str:
    """A picture inside the page, as HTML.

    Args:
        picture: the picture.
        text: what a screen reader says.
        side: longest side in pixels of what is sent, at most.
    """
    small, content = picture.copy(), BytesIO()
    small.thumbnail((side, side))
    small.save(content, "PNG")
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{b64encode(content.getvalue()).decode()}">'


def written(picture: Image.Image, folder: Path, name: str) -> str:
    """The file of a picture that is shown more than once, so that it is encoded once.

    Args:
        picture: the picture.
        folder: it gets a folder for each picture.
        name: name of the file, which a browser saves it under; its suffix says the format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = Path(mkdtemp(dir=folder)) / name
    picture.save(file)
    return str(file)


def colours_of(names: tuple[str, ...]) -> dict[str, str]:
    """The colour that an overlay gives each word, as HTML writes it."""
    return {name: f"rgb({r},{g},{b})" for name, (r, g, b) in zip(names, class_colours(len(names)).tolist(), strict=True)}
