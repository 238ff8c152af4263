"""What commands share that continue a folder: seeds, what results depend on, the settings of a folder, drawing what is missing."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from seg4diff.backbones.lora_files import lora_file
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.disk import read_json, to_json, write_json
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request, missing_batches
from seg4diff.model import Model
from seg4diff.provenance import provenance
from seg4diff.results import Generated

LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def identify(model: Model) -> dict[str, Any]:
    """Everything about the model and the machine that the bits of an image depend on, as plain values."""
    backbone = model.backbone
    assert isinstance(backbone, PipelineBackbone) and backbone.source is not None, "a command loads its model by name"
    return {
        "model": backbone.source.identity()["model"],
        "revision": backbone.source.revision,
        "commit": backbone.source.commit(),
        "lora": lora_hash(model.lora),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "quantize": backbone.runtime.quantize,
        **backbone.encoding(),
        "device": backbone.device.type,
        "threads": torch.get_num_threads() if backbone.device.type == "cpu" else None,
        "versions": {name: version(name) for name in LIBRARIES},
    }


def lora_hash(lora: Path | None) -> str | None:
    """SHA-256 of the weights of a LoRA, if there is one."""
    file = None if lora is None else lora_file(lora)
    return None if file is None else file_hash(file)


def file_hash(file: Path) -> str:
    """SHA-256 of the content of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def claim_settings(file: Path, settings: Mapping[str, Any], writer: str) -> dict[str, Any]:
    """Write the settings into a new folder, or compare them with those of a folder that is continued.

    The number of threads of the folder is taken over, since another number of threads rounds other partial sums.

    Args:
        file: where the settings are; provenance.json is written beside it.
        settings: everything that the results of the folder depend on.
        writer: tells the processes apart.

    Returns:
        The settings of the folder.

    Raises:
        UserError: they differ.
    """
    ours = json.loads(to_json(settings))
    if not file.exists():
        write_json(file, ours, writer)
        write_json(file.with_name("provenance.json"), provenance(), writer)
    theirs = read_json(file, f"delete the folder {file.parent} and start again")
    for key in [*ours, *(theirs.keys() - ours.keys())]:
        if key != "threads" and ours.get(key) != theirs.get(key):
            raise UserError(
                f"{file.parent} holds results with {key} {_short(theirs.get(key))}, and here it is {_short(ours.get(key))}: choose another "
                "folder (--out), or the same settings."
            )
    if theirs.get("threads") is not None:
        torch.set_num_threads(theirs["threads"])
    return theirs


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def draw_missing(
    model: Model, requests: Sequence[Request], options: Mapping[str, Any], share: tuple[int, int], save: Callable[[Generated], None]
) -> int:
    """Draw the images of a list whose files are missing, as far as they are this process's; returns their number.

    Args:
        model: the model.
        requests: what the folder is to hold.
        options: of `Model.draw`.
        share: see `Model.draw`.
        save: writes the files of an image, that of its request last.
    """
    own = [one for batch in missing_batches(requests, options["at_once"], share) for one in batch if one.is_missing]
    for image in track(model.draw(requests, **options, share=share), "drawing", len(own)):
        save(image)
    return len(own)
