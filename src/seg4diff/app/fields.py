"""The fields that say how words are read; the tabs *Segment* and *Compare* have them."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from seg4diff.app.desk import Desk, Reading
from seg4diff.errors import UserError, of_kind
from seg4diff.presets import Preset

UNREAD: dict[str, Any] = {"background": 0, "reader": "expert", "refine": "none"}
"""Options of `Model.segment` that have fields, and the values that mean that nothing was asked for."""


def reading_fields(desk: Desk, place: str) -> list[Any]:
    """Lay out the fields inside the page that is being built; their values are the arguments of `to_reading`.

    Args:
        desk: the model.
        place: the beginning of the names by which style and tests find them.
    """
    model = desk.model
    block = gr.Slider(
        0, desk.blocks - 1, model.block, step=1, label="Block", info=f"The model's own: {model.block}.", elem_id=f"{place}-block"
    )
    level = model.readout.sigma
    sigma = gr.Slider(0, 1, level, step=0.01, label="Noise level", info=f"1: pure noise. The model's own: {level:.3g}.")
    with gr.Row():
        reader = gr.Dropdown(
            usable(model.preset, "reader"), value=UNREAD["reader"], label="Reader", min_width=120, elem_id=f"{place}-reader"
        )
        refine = gr.Dropdown(usable(model.preset, "refine"), value=UNREAD["refine"], label="Refinement", min_width=120)
    background = gr.Slider(0, 1, 0, step=0.05, label="Unlabelled pixels", info="Where no word's map reaches this level; 0: none.")
    lora: list[Any] = []
    if desk.has_lora:
        switch = gr.Checkbox(True, label="LoRA", elem_id=f"{place}-lora")
        lora = [switch, gr.Slider(0, 2, 1, step=0.1, label="LoRA scale")]
    return [block, sigma, background, reader, refine, *lora]


def to_reading(
    desk: Desk,
    words: Sequence[str],
    block: float,
    sigma: float,
    background: float,
    reader: str,
    refine: str,
    lora: bool = True,
    lora_scale: float = 1,
) -> Reading:
    """What the fields say.

    The place of the slider nearest to the model's own noise level means this level. Without words there are no options.

    Raises:
        UserError: a value is of another kind than its field gives.
    """
    of_kind("a number", int, float, block=block, sigma=sigma, background=background, lora_scale=lora_scale)
    of_kind("a name", str, reader=reader, refine=refine)
    own = desk.model.readout.sigma
    given = {"background": background, "reader": reader, "refine": refine} if words else {}
    options = tuple((name, value) for name, value in given.items() if value != UNREAD[name])
    scale = (lora_scale if lora else 0.0) if desk.has_lora else None
    return Reading(round(block), own if abs(sigma - own) < 0.005 else sigma, scale, options)


def usable(preset: Preset, group: str) -> list[str]:
    """The files of a group that need nothing which the page cannot give: weights, or a package that is not installed."""
    found = []
    for name in preset.parts[group]:
        try:
            preset.part(group, name)
        except UserError:
            continue
        found.append(name)
    return found
