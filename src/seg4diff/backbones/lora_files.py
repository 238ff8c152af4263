"""LoRA files of other programs and our own: whose they are, what they adapt, and what is wrong with them."""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seg4diff.backbones.base import LORA_FILE
from seg4diff.backbones.release import read_release_lora
from seg4diff.errors import MissingFileError, UserError

log = logging.getLogger(__name__)

PEFT_FILE = "adapter_model.safetensors"
"""Name that peft gives the weights of a saved adapter; adapter_config.json lies in the same folder."""
COMFYUI_FILE = "comfyui.safetensors"
"""Name of the optional copy for ComfyUI, in the same folder as `LORA_FILE`."""
PREFIX = re.compile(r"^(backbone\.|transformer\.|diffusion_model\.|model\.|base_model\.|unet\.|lora_transformer_|lora_unet_|lycoris_)+")
"""What programs put before the name of a layer: the release, diffusers and peft, ComfyUI, kohya's sd-scripts, OneTrainer, SimpleTuner."""
PEFT_PREFIX = "base_model.model."
TEXT_ENCODER = re.compile(r"^(base_model\.model\.)?(text_encoder|lora_te\d?_|te\d?\.)")
PART = re.compile(
    r"^(?P<layer>.+)\.((?P<A>lora_A|lora_down|lora\.down)|(?P<B>lora_B|lora_up|lora\.up))(\.default\w*)?\.weight$"
    r"|^(?P<scaled>.+)\.(?P<alpha>alpha)$"
)
KINDS = {"lokr_": "a LoKr", "hada_": "a LoHa", "oft_": "an OFT", "dora_scale": "a DoRA", "lora_magnitude_vector": "a DoRA"}
"""What the names of tensors say about adapters that are no sum of low-rank matrices."""
OTHER_NAMES = {
    r"joint_blocks|context_block|double_blocks|single_blocks|img_attn|linear1": "names its layers as the model's original code does "
    "(kohya's sd-scripts, ComfyUI), and here they have the names of diffusers: convert it to the format of diffusers",
    r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks": "is for a UNet (Stable Diffusion 1, 2 or XL), which has no joint "
    "attention: choose a LoRA of the model that is loaded",
}
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """The update of one layer, alpha / rank * B A.

    Attributes:
        down: A, (rank, inputs), float32.
        up: B, (outputs, rank), float32.
        alpha: its scale times its rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def lora_file(path: Path) -> Path | None:
    """The file of a LoRA that is given as a folder or as the file itself; None where there is none."""
    if path.suffix in (".pth", ".safetensors") and not path.is_dir():
        return path
    return next((path / name for name in (LORA_FILE, PEFT_FILE) if (path / name).is_file()), None)


def lora_folder(checkpoint: str | Path) -> Path:
    """The LoRA folder saved next to a checkpoint: step-000100.ckpt -> step-000100-lora."""
    return Path(checkpoint).with_name(Path(checkpoint).stem + "-lora")


def find_lora(path: str | Path) -> Path:
    """The LoRA of a run folder (its last one), of a .ckpt (the one beside it), or what `read_lora` takes.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(path)
    if path.suffix == ".ckpt" and path.is_file():
        return lora_folder(path)
    if lora_file(path) is not None:
        return path
    if (path / "checkpoints" / "last.ckpt").is_file():
        return lora_folder(path / "checkpoints" / "last.ckpt")
    raise MissingFileError(
        f"{path} is neither a run folder (with checkpoints/last.ckpt), nor a .ckpt file, nor a LoRA (a folder with {LORA_FILE}, a "
        ".safetensors file, a .pth of the release)."
    )


def read_lora(path: Path, layers: Mapping[str, nn.Linear], convert: Callable[[Tensors], Tensors]) -> dict[str, Update]:
    """Read an adapter and compare it with the model; what belongs to text encoders is left out with a line in the log.

    Args:
        path: a folder with `LORA_FILE` or `PEFT_FILE`, a .safetensors file, or a .pth of the authors' release.
        layers: the linear layers of the transformer by name.
        convert: what the pipeline of diffusers makes of tensors that its family's other programs have named.

    Returns:
        The update of every adapted layer, by its name in the transformer.

    Raises:
        UserError: the file is missing, unreadable, incomplete, of another kind, not finite, or of another model.
    """
    file = lora_file(path)
    if file is None:
        raise MissingFileError(f"no LoRA at {path / LORA_FILE}: give the folder that was written beside a checkpoint.")
    weights, stated = (read_release_lora(file), dict[str, Any](lora_alpha=None)) if file.suffix == ".pth" else _read_safetensors(file)
    if stated is not None and stated.get("use_dora"):
        raise UserError(f"{file} is a DoRA, which is no sum of low-rank matrices: train or export a plain LoRA.")
    text = [name for name in weights if TEXT_ENCODER.match(name)]
    if text:
        log.info("%s: %d tensors of text encoders are left out, only the transformer is adapted", file, len(text))
    weights = {name: tensor for name, tensor in weights.items() if name not in text}
    parts = _parts(weights, file)
    places = _places(parts, layers)
    if (stranger := next((name for name, place in places.items() if place is None), None)) is not None:
        parts, places = _converted(weights, stranger, file, layers, convert)
    if len(unscaled := [name for name, own in parts.items() if "alpha" not in own]) not in (0, len(parts)):
        raise UserError(f"the LoRA {file} has an alpha for some layers and none for '{unscaled[0]}': the file is incomplete.")
    if stated is None and unscaled:
        lost = "; peft keeps it in adapter_config.json, which is not beside the file" if _is_of_peft(file, weights) else ""
        log.info("%s has no alpha: its updates are added as they are (alpha = rank), as diffusers does%s", file, lost)
    return {place: _update(parts[name], place, layers, stated or {}, file) for name, place in places.items() if place is not None}


def _read_safetensors(file: Path) -> tuple[Tensors, dict[str, Any] | None]:
    """The tensors of a file, and what is stated about their scale."""
    try:
        with safe_open(file, framework="pt") as content:
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - not a dict
            metadata = (content.metadata() or {}).get("lora_adapter_metadata")
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no LoRA at {file}: give a .safetensors file, or the folder that was written beside a checkpoint."
        ) from error
    except SafetensorError as error:
        raise UserError(f"the LoRA {file} cannot be read ({error}): it is truncated or not a safetensors file.") from error
    except OSError as error:  # of the Rust library, which does not name the file
        raise UserError(f"the LoRA {file} cannot be read ({error}): check that it is a file and that its disk works.") from error
    return weights, _stated(file, weights, metadata)


def _is_of_peft(file: Path, weights: Tensors) -> bool:
    return file.name == PEFT_FILE or any(name.startswith(PEFT_PREFIX) for name in weights)


def _stated(file: Path, weights: Tensors, metadata: str | None) -> dict[str, Any] | None:
    """The configuration of peft that the metadata of a file or its neighbour hold for the transformer; None where neither does."""
    stated, neighbour, place = None, file.with_name("adapter_config.json"), "its metadata"
    try:
        if metadata is not None:
            own = {name: value for name, value in json.loads(metadata).items() if not TEXT_ENCODER.match(name)}
            stated = {name.removeprefix("transformer."): value for name, value in own.items()} or None
        if stated is None and _is_of_peft(file, weights) and neighbour.is_file():
            place = str(neighbour)
            stated = dict(json.loads(neighbour.read_text(encoding="utf-8")))
        if stated is None:
            return None
        scales = [stated.get("lora_alpha"), *(stated.get("alpha_pattern") or {}).values()]
        ranks = [stated.get("r"), *(stated.get("rank_pattern") or {}).values()]
        if any(type(number) not in (int, float) or not 0 < number < math.inf for number in [*scales, *ranks]):  # True is an int too
            raise ValueError("expected numbers above 0")
        for pattern in [*(stated.get("alpha_pattern") or {}), *(stated.get("rank_pattern") or {})]:
            re.compile(pattern)
    except (OSError, ValueError, TypeError, AttributeError, re.error) as error:
        raise UserError(f"rank and alpha of the LoRA {file} cannot be read from {place} ({error}): it is damaged.") from error
    return stated


def _parts(weights: Tensors, file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer as "A", "B" and "alpha", by the name that the file gives the layer."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    met: dict[tuple[str, str], str] = {}
    for name, tensor in weights.items():
        if kind := next((kind for sign, kind in KINDS.items() if sign in name), None):
            raise UserError(f"{file} is {kind} (it holds {name}), which is no sum of low-rank matrices: train or export a plain LoRA.")
        match = PART.match(name)
        if match is None:
            raise UserError(f"{file} holds {name}, which is no part of a LoRA: expected A and B (or down and up) of linear layers alone.")
        (part,) = (part for part in ("A", "B", "alpha") if match[part])
        layer = match["layer"] or match["scaled"]
        if (first := met.setdefault((PREFIX.sub("", layer).replace(".", "_"), part), name)) != name:
            raise UserError(f"{file} holds two LoRAs for one layer, as {first} and {name}: keep one of them in the file.")
        parts[layer][part] = tensor
    if not parts:
        raise UserError(f"the LoRA {file} adapts no layer of the transformer: it holds nothing, or text encoders alone.")
    if lonely := sorted(name for name, own in parts.items() if not {"A", "B"} <= own.keys()):
        raise UserError(
            f"{file} holds only one half of the LoRA of {len(lonely)} layers, the first is {lonely[0]}: the file is incomplete."
        )
    return parts


def _places(parts: Mapping[str, Any], layers: Mapping[str, nn.Linear]) -> dict[str, str | None]:
    """The model's name of each layer of a file, None for those that it does not have; kohya writes "_" for every "."."""
    flat = {name.replace(".", "_"): name for name in layers}
    bare = {name: PREFIX.sub("", name) for name in parts}
    return {name: own if own in layers else flat.get(own) for name, own in bare.items()}


def _converted(
    weights: Tensors, stranger: str, file: Path, layers: Mapping[str, nn.Linear], convert: Callable[[Tensors], Tensors]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str | None]]:
    """Parts and places of a file whose layers have other names, of which `stranger` is one, if diffusers can convert them."""
    reason = next((reason for sign, reason in OTHER_NAMES.items() if re.search(sign, stranger)), None)
    if reason is None:
        name = PREFIX.sub("", stranger)
        raise UserError(f"the LoRA {file} adapts '{name}', which this model does not have: load the backbone it was trained on.")
    try:
        parts = _parts({name: tensor for name, tensor in convert(weights).items() if not TEXT_ENCODER.match(name)}, file)
        places = _places(parts, layers)
    except Exception:  # whatever a converter meets in a file that it does not know
        places = {stranger: None}
    if None in places.values():
        raise UserError(f"the LoRA {file} {reason}; it adapts '{stranger}'.")
    log.info("%s: names of another program, converted by diffusers", file)
    return parts, places


def _update(own: dict[str, Tensor], name: str, layers: Mapping[str, nn.Linear], stated: dict[str, Any], file: Path) -> Update:
    """The update of a layer, checked."""
    for part, tensor in own.items():
        if tensor.is_complex() or not (tensor.is_floating_point() or part == "alpha"):
            raise UserError(
                f"the LoRA {file} holds {tensor.dtype} for '{name}', expected floating point: give the file before it was converted."
            )
        if not tensor.float().isfinite().all():
            raise UserError(f"the LoRA {file} holds weights that are not finite, first for '{name}': its training has failed, use another.")
    down, up, layer = own["A"].float(), own["B"].float(), layers[name]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not len(down):
        raise UserError(f"the LoRA {file} has matrices for '{name}' that do not fit each other: {list(down.shape)} and {list(up.shape)}.")
    for width, expected in ((down.shape[1], layer.in_features), (up.shape[0], layer.out_features)):
        if width != expected:
            raise UserError(f"the LoRA {file} was made for a '{name}' of width {width}, this model has {expected}: load its own backbone.")
    return Update(down, up, _alpha(own, name, len(down), stated, file))


def _alpha(own: dict[str, Tensor], name: str, rank: int, stated: dict[str, Any], file: Path) -> float:
    """Alpha of a layer: its own tensor, or what the file states, or the rank."""
    if "alpha" in own:
        if own["alpha"].numel() != 1 or own["alpha"].dtype == torch.bool or own["alpha"].item() == 0:
            raise UserError(f"the LoRA {file} has {own['alpha'].tolist()} as alpha of '{name}', expected a number that is not 0.")
        return own["alpha"].item()
    if stated.get("lora_alpha") is None:
        return rank
    if (expected := _pattern(stated, "rank_pattern", name, stated["r"])) != rank:
        raise UserError(f"the LoRA {file} says that '{name}' has rank {expected}, and its matrices have rank {rank}: it is damaged.")
    alpha = _pattern(stated, "alpha_pattern", name, stated["lora_alpha"])
    return alpha * math.sqrt(rank) if stated.get("use_rslora") else alpha


def _pattern(stated: dict[str, Any], kind: str, name: str, otherwise: float) -> float:
    """What a layer has by peft's patterns of names."""
    patterns = stated.get(kind) or {}
    return patterns.get(get_pattern_key(list(patterns), name), otherwise)


def config_of(updates: Mapping[str, Update]) -> LoraConfig:
    """The configuration of peft with which these updates are what they are."""
    first = next(iter(updates.values()))
    exact = {f"^{re.escape(name)}": update for name, update in updates.items()}
    return LoraConfig(
        r=first.rank,
        lora_alpha=first.alpha,
        rank_pattern={name: update.rank for name, update in exact.items() if update.rank != first.rank},
        alpha_pattern={name: update.alpha for name, update in exact.items() if update.alpha != first.alpha},
        target_modules="|".join(map(re.escape, updates)),  # a list would also match the ends of longer names
    )


def comfyui_tensors(updates: Mapping[str, Update]) -> Tensors:
    """Tensors as ComfyUI reads them: the layers' names of diffusers, and alpha as a tensor of each, because it reads no metadata."""
    tensors: Tensors = {}
    for name, update in updates.items():
        tensors |= {f"transformer.{name}.lora_A.weight": update.down, f"transformer.{name}.lora_B.weight": update.up}
        tensors[f"transformer.{name}.alpha"] = torch.tensor(float(update.alpha))
    return tensors
