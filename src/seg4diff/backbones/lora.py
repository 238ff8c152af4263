"""Low-rank adapters (LoRA, Hu et al. 2022) on chosen joint-attention blocks, through peft."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import set_adapter_layers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from seg4diff.backbones.base import AttentionSite, Backbone
from seg4diff.backbones.lora_files import COMFYUI_FILE, Tensors, Update, comfyui_tensors, config_of, read_lora
from seg4diff.disk import follow_umask
from seg4diff.errors import UserError

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
            raise UserError(f"`blocks` must be 'expert', 'all' or a list of block indices, found '{blocks}'.")
        if rank < 1 or alpha < 1:
            raise UserError(f"`rank` and `alpha` must be at least 1, found rank {rank} and alpha {alpha}.")
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
                f"`targets` names '{target}', which the attention of the adapted blocks does not have: {sites[0].name} has "
                f"{', '.join(linear)}."
            )
    if bare := [name for name, found in layers.items() if not found]:
        raise UserError(f"`targets` names nothing that the attention of {bare[0]} has: name its projections, or set `blocks`.")
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        init_lora_weights="gaussian",
        target_modules=[f"{name}.{target}" for name, found in layers.items() for target in found],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _add_adapter(backbone.transformer, config)
    keep_in_float32(backbone)


def _add_adapter(transformer: nn.Module, config: LoraConfig) -> None:
    """As diffusers does it; a few of its transformers (PRX) take no adapters, so peft adds it itself."""
    if isinstance(transformer, PeftAdapterMixin):
        transformer.add_adapter(config)
    else:
        inject_adapter_in_model(config, transformer)


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
    set_adapter_layers(backbone.transformer, enabled=False)
    try:
        yield
    finally:
        set_adapter_layers(backbone.transformer, enabled=True)


@contextmanager
def scaled_lora(backbone: Backbone, scale: float | None) -> Iterator[None]:
    """Multiply the update of the adapter by `scale` inside the context; 0 = the base model, None = the model as it stands.

    Raises:
        UserError: there is no adapter to scale, or it cannot be scaled as it stands.
    """
    layers = [layer for layer in backbone.transformer.modules() if isinstance(layer, LoraLayer)]
    if scale is not None and any(layer.merged or layer.disable_adapters for layer in layers):
        raise UserError("the LoRA of this pipeline is fused or switched off, so it cannot be scaled: unfuse it and switch it on.")
    if scale not in (None, 0) and not layers:
        raise UserError(f"this model has no LoRA, so there is nothing to scale by {scale:g}: load one, or leave the LoRA scale out.")
    if scale == 0 and layers:
        with base_model(backbone):
            yield
        return
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers if scale is not None else ():
            for name in layer.scaling:
                layer.scaling[name] *= scale
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.scaling.update(own)


def has_lora(backbone: Backbone) -> bool:
    """Whether the backbone carries an adapter."""
    return bool(lora_weights(backbone))


def adapted_blocks(backbone: Backbone) -> list[int]:
    """Indices of the joint-attention blocks that carry an adapter."""
    names = list(lora_weights(backbone))
    return [site.index for site in backbone.attention_sites() if any(name.startswith(f"{site.name}.") for name in names)]


def load_lora(backbone: Backbone, path: Path, convert: Callable[[Tensors], Tensors]) -> None:
    """Add an adapter from a file, see `read_lora`.

    Raises:
        UserError: the file cannot be read or does not fit, or the backbone has an adapter already.
    """
    if has_lora(backbone):
        raise UserError("this backbone carries a LoRA already: load the other one into a backbone of its own.")
    layers = {name: layer for name, layer in backbone.transformer.named_modules() if isinstance(layer, nn.Linear)}
    updates = read_lora(path, layers, convert)
    with torch.random.fork_rng(devices=[]):
        _add_adapter(backbone.transformer, config_of(updates))
    weights = lora_weights(backbone)
    for name, update in updates.items():
        for side, tensor in (("A", update.down), ("B", update.up)):
            weights.pop(f"{name}.lora_{side}.default.weight").data = tensor.to(backbone.device)
    assert not weights, "peft has adapted layers that the file does not name"


def save_lora(backbone: Backbone, folder: Path, write: Callable[..., None], comfyui: bool) -> None:
    """Write the adapter, see `Backbone.save_lora`; `write` is the method `save_lora_weights` of a diffusers pipeline."""
    (name,) = backbone.transformer.peft_config
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".lora-") as partial:
        write(
            partial,
            transformer_lora_layers=get_peft_model_state_dict(backbone.transformer, adapter_name=name),
            transformer_lora_adapter_metadata=backbone.transformer.peft_config[name].to_dict(),
        )
        if comfyui:
            save_file(comfyui_tensors(updates_of(backbone)), Path(partial) / COMFYUI_FILE)
        follow_umask(Path(partial))
        for file in Path(partial).iterdir():
            os.replace(file, folder / file.name)


def updates_of(backbone: Backbone) -> dict[str, Update]:
    """The updates that the adapter makes, by the names of the layers."""
    return {
        name: Update(layer.lora_A[own].weight.detach(), layer.lora_B[own].weight.detach(), layer.scaling[own] * layer.r[own])
        for name, layer in backbone.transformer.named_modules()
        if isinstance(layer, LoraLayer)
        for own in layer.lora_A
    }
