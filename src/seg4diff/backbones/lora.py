"""Low-rank adapters (LoRA, Hu et al. 2022) on chosen joint-attention blocks, through peft."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seg4diff.backbones.base import LORA_FILE, AttentionSite, Backbone
from seg4diff.backbones.release import read_release_lora
from seg4diff.errors import MissingFileError, UserError

Blocks = Literal["expert", "all"] | Sequence[int]


class LoraSpec:
    """What to adapt.

    Args:
        blocks: "expert" = the expert block alone (the paper's idea), "all" = every block (the paper's text), or a list of indices.
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        targets: projections of the attention module; blocks of another kind may lack some (the single-stream blocks of Flux have no
            to_out), but none may lack all.
    """

    def __init__(self, *, blocks: Blocks, rank: int, alpha: int, targets: Sequence[str]) -> None:
        if isinstance(blocks, str) and blocks not in ("expert", "all"):
            raise UserError(f"lora.blocks must be 'expert', 'all' or a list of block indices, found '{blocks}'.")
        if rank < 1 or alpha < 1:
            raise UserError(f"lora.rank and lora.alpha must be at least 1, found rank {rank} and alpha {alpha}.")
        self.blocks, self.rank, self.alpha, self.targets = blocks, rank, alpha, list(targets)

    def block_indices(self, backbone: Backbone, expert_layer: int) -> list[int]:
        """The adapted blocks of this model."""
        if self.blocks == "expert":
            return [expert_layer]
        return list(range(len(backbone.attention_sites()))) if self.blocks == "all" else list(self.blocks)


def add_lora(backbone: Backbone, spec: LoraSpec, expert_layer: int, seed: int) -> None:
    """Freeze the backbone and add a trainable adapter; its output stays the base model's until the first step (B starts at zero).

    The adapter is float32 whatever the base is, and its weights depend on `seed` alone.

    Raises:
        UserError: a block or projection does not exist.
    """
    backbone.requires_grad_(False)
    sites = backbone.select_sites(spec.block_indices(backbone, expert_layer))
    layers = {site.name: [target for target in spec.targets if _has(site, target)] for site in sites}
    for target in spec.targets:
        if not any(target in found for found in layers.values()):
            linear = [name for name, layer in sites[0].module.named_modules() if isinstance(layer, nn.Linear)]
            raise UserError(
                f"lora.targets names '{target}', which the attention of the adapted blocks does not have: {sites[0].name} has "
                f"{', '.join(linear)}."
            )
    if bare := [name for name, found in layers.items() if not found]:
        raise UserError(f"lora.targets names nothing that the attention of {bare[0]} has: name its projections, or set lora.blocks.")
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        init_lora_weights="gaussian",
        target_modules=[f"{name}.{target}" for name, found in layers.items() for target in found],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone.transformer.add_adapter(config)
    keep_in_float32(backbone)


def keep_in_float32(backbone: Backbone) -> None:
    """Hold the adapter in float32 whatever the base is held in: its updates are smaller than a 16 bit step."""
    for weight in lora_weights(backbone).values():
        weight.data = weight.data.float()


def _has(site: AttentionSite, target: str) -> bool:
    return target in dict(site.module.named_modules())


def lora_weights(backbone: Backbone) -> dict[str, Tensor]:
    """The adapter's parameters by their names in the transformer."""
    return {name: weight for name, weight in backbone.transformer.named_parameters() if ".lora_" in name}


@contextmanager
def base_model(backbone: Backbone) -> Iterator[None]:
    """Switch the adapter off inside the context."""
    backbone.transformer.disable_lora()
    try:
        yield
    finally:
        backbone.transformer.enable_lora()


def has_lora(backbone: Backbone) -> bool:
    """Whether the backbone carries an adapter."""
    return bool(lora_weights(backbone))


def adapted_blocks(backbone: Backbone) -> list[int]:
    """Indices of the joint-attention blocks that carry an adapter."""
    names = list(lora_weights(backbone))
    return [site.index for site in backbone.attention_sites() if any(name.startswith(f"{site.name}.") for name in names)]


def lora_folder(checkpoint: str | Path) -> Path:
    """The LoRA folder that stands beside a checkpoint: step-000100.ckpt -> step-000100-lora."""
    return Path(checkpoint).with_name(Path(checkpoint).stem + "-lora")


def find_lora(path: str | Path) -> Path:
    """The LoRA of a run folder (its last one), of a .ckpt (the one beside it), a LoRA folder itself, or a .pth of the release.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(path)
    if path.suffix == ".pth":  # reading it says what is wrong with it
        return path
    if path.suffix == ".ckpt" and path.is_file():
        return lora_folder(path)
    if (path / LORA_FILE).is_file():
        return path
    if (path / "checkpoints" / "last.ckpt").is_file():
        return lora_folder(path / "checkpoints" / "last.ckpt")
    raise MissingFileError(
        f"{path} is neither a run folder (with checkpoints/last.ckpt), nor a .ckpt file, nor a LoRA folder (with {LORA_FILE}), nor a .pth "
        "of the release."
    )


def read_lora(path: Path) -> dict[str, Tensor]:
    """Tensors of a saved adapter by the names that `load_lora_weights` takes.

    Args:
        path: a folder with `LORA_FILE`, or a .pth file of the authors' release.

    Raises:
        UserError: the file is missing or unreadable.
    """
    if path.suffix == ".pth":
        return read_release_lora(path)
    file = path / LORA_FILE
    if not file.is_file():
        raise MissingFileError(f"no LoRA at {file}: give the folder that was written beside a checkpoint.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"the LoRA {file} cannot be read ({error}): it is truncated or not a safetensors file.") from error


def check_lora(backbone: Backbone, weights: dict[str, Tensor], path: Path) -> None:
    """Compare a saved adapter with the model before loading it.

    Raises:
        UserError: an adapted layer does not exist in the model or has another width.
    """
    modules = dict(backbone.transformer.named_modules())
    for name, weight in weights.items():
        layer, _, side = name.removeprefix("transformer.").removesuffix(".weight").partition(".lora_")
        if layer not in modules:
            raise UserError(f"the LoRA {path} adapts '{layer}', which this model does not have: load the backbone it was trained on.")
        module = modules[layer]
        axis, width = (1, module.in_features) if side == "A" else (0, module.out_features)
        if weight.shape[axis] != width:
            raise UserError(
                f"the LoRA {path} was made for a '{layer}' of width {weight.shape[axis]}, this model has {width}: load its own backbone."
            )
