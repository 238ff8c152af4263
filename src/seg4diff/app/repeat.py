"""The command line and the lines of Python that repeat a result of the page."""

import shlex
from collections.abc import Collection, Sequence
from typing import Any

from seg4diff.app.desk import Reading


def segment_command(picture: str, words: Sequence[str], reading: Reading, loaded_by: dict[str, Any], lora_blocks: Collection[int]) -> str:
    """The command that writes the same label map.

    A LoRA that is scaled, or not read at one of `lora_blocks`, has no command: there are lines of Python.
    """
    given = {name: value for name, value in loaded_by.items() if name not in ("block", "sigma")}
    if reading.lora_scale == 0:
        given.pop("lora", None)
    elif reading.lora_scale is not None and (reading.lora_scale != 1 or reading.block not in lora_blocks):
        return "# no command scales a LoRA, or reads it at a block that it does not adapt: use the lines of Python"
    given |= {"block": reading.block, "sigma": reading.sigma} | dict(reading.options)
    return _command("segment", [picture, *words], given)


def segment_lines(picture: str, words: Sequence[str], reading: Reading, loaded_by: dict[str, Any]) -> str:
    """The lines of Python that give the same `Segmentation`."""
    place = f".at(block={reading.block!r}, sigma={reading.sigma!r})"
    arguments = [repr(picture), *([repr(list(words))] if words else []), *(f"{name}={value!r}" for name, value in reading.options)]
    call = f"seg = model.segment({', '.join(arguments)})"
    lines = ["import seg4diff", "", _load(loaded_by) + place, call, 'seg.save("out")']
    if reading.lora_scale not in (None, 1):
        lines[1:2] = ["from seg4diff.backbones.lora import scaled_lora", ""]
        lines[-2:-1] = [f"with scaled_lora(model.backbone, {reading.lora_scale!r}):", f"    {call}"]
    return "\n".join(lines)


def generate_command(
    prompt: str, seeds: Sequence[int], scales: Sequence[float | None], options: dict[str, Any], loaded_by: dict[str, Any]
) -> str:
    """The command that draws the same images."""
    scaled = {} if None in scales else {"lora_scale": ",".join(f"{scale:g}" for scale in scales)}
    given = {name: value for name, value in options.items() if value is not None}
    return _command("generate", [prompt], loaded_by | {"seeds": ",".join(map(str, seeds))} | scaled | given)


def _command(name: str, arguments: Sequence[str], options: dict[str, Any]) -> str:
    given = [part for key, value in options.items() for part in ([_option(key)] if value is True else [_option(key), str(value)])]
    dashed = any(argument.startswith("-") for argument in arguments)
    return shlex.join(["seg4diff", name, *given, "--", *arguments] if dashed else ["seg4diff", name, *arguments, *given])


def _option(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _load(given: dict[str, Any]) -> str:
    arguments = [repr(value) if name == "model" else f"{name}={value!r}" for name, value in given.items()]
    return f"model = seg4diff.load({', '.join(arguments)})"
