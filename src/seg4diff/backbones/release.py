"""The authors' released LoRA, a Detectron2 checkpoint, as an adapter of diffusers."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from seg4diff.errors import MissingFileError, UserError

log = logging.getLogger(__name__)

PREFIX = "backbone.transformer."


def read_release_lora(path: Path) -> dict[str, Tensor]:
    """Read the adapter of a release checkpoint; nothing in the file can run code.

    Its keys are `backbone.transformer.<layer>.lora_A.default.weight`; there is no alpha, which the release sets to the rank, as
    diffusers assumes where a file says nothing.

    Returns:
        {"backbone.transformer.<layer>.lora_A.default.weight": (rank, width), ...} and the same for lora_B, by the names of the file.

    Raises:
        UserError: the file is missing, unreadable, holds no LoRA, or a layer has only one of its two halves.
    """
    if not path.is_file():
        raise MissingFileError(f"no LoRA at {path}: give the .pth file of the release.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights alone ({str(error).splitlines()[0]}): give the release's LoRA .pth.") from error
    held = content.get("model", content) if isinstance(content, dict) else {}
    held = held if isinstance(held, dict) else {}
    weights = {name: tensor for name, tensor in held.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    lora = {name: tensor for name, tensor in weights.items() if ".lora_A." in name or ".lora_B." in name}
    if not lora:
        raise UserError(f"{path} holds no LoRA: expected keys such as {PREFIX}transformer_blocks.9.attn.to_q.lora_A.default.weight.")
    if others := sorted(name for name in weights if name not in lora and not name.startswith(PREFIX)):
        log.warning(
            "%s also holds %d tensors that are no part of the transformer, %s first: they are left out. The release trains a convolution "
            "on its maps, which belongs to no adapter.",
            path,
            len(others),
            others[0],
        )
    halves = {
        side: {name.removeprefix(PREFIX).partition(f".lora_{side}.")[0] for name in lora if f".lora_{side}." in name} for side in "AB"
    }
    if lonely := sorted(halves["A"] ^ halves["B"]):
        raise UserError(
            f"{path} holds only one half of the LoRA of {len(lonely)} layers, the first is {lonely[0]}: the file is incomplete."
        )
    return lora
