"""The names that programs give the tensors of a LoRA."""

import torch

from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights, updates_of

RANK, ALPHA = 4, 6


def adapted(model, targets=("to_q", "to_out.0"), seed=0):
    """The model with an adapter that does something in its first two blocks."""
    add_lora(model, LoraSpec(blocks=[0, 1], rank=RANK, alpha=ALPHA, targets=list(targets)), expert_layer=1, seed=0)
    for k, weight in enumerate(lora_weights(model).values()):
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + k)) * 0.3
    return model


def named(model, form):
    """The adapter's tensors as `form` names them, a format string of layer, flat layer and half (A, down)."""
    tensors = {}
    for name, update in updates_of(model).items():
        for half, direction, tensor in (("A", "down", update.down), ("B", "up", update.up)):
            tensors[form.format(layer=name, flat=name.replace(".", "_"), half=half, direction=direction)] = tensor
    return tensors


def alphas(model, form, alpha=ALPHA):
    return {form.format(layer=name, flat=name.replace(".", "_")): torch.tensor(float(alpha)) for name in updates_of(model)}


FORMS = {
    "diffusers with alphas": ("transformer.{layer}.lora_{half}.weight", "transformer.{layer}.alpha"),
    "ComfyUI": ("diffusion_model.{layer}.lora_{half}.weight", "diffusion_model.{layer}.alpha"),
    "kohya": ("lora_unet_{flat}.lora_{direction}.weight", "lora_unet_{flat}.alpha"),
    "OneTrainer": ("lora_transformer_{flat}.lora_{direction}.weight", "lora_transformer_{flat}.alpha"),
    "SimpleTuner": ("transformer.base_model.model.{layer}.lora_{half}.default.weight", "transformer.base_model.model.{layer}.alpha"),
    "first diffusers": ("transformer.{layer}.lora.{direction}.weight", "transformer.{layer}.alpha"),
    "bare": ("{layer}.lora_{half}.weight", "{layer}.alpha"),
}
