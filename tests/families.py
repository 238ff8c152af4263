"""Every kind of joint-attention block as a small random model, and what tests of all of them share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from seg4diff.attention.capture import capture
from seg4diff.backbones.base import LORA_FILE, Backbone
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from tests.hosts import random_flux, random_flux2, random_sd3
from tests.open_hosts import (
    random_aura_flow,
    random_chroma,
    random_cogvideox,
    random_longcat,
    random_lumina2,
    random_prx,
    random_qwen_image,
    random_z_image,
)


def by_the_pipeline(pipeline, folder):
    pipeline.load_lora_weights(folder)


def by_the_transformer(pipeline, folder):
    """LongCat-Image's pipeline of diffusers has no method for it."""
    pipeline.transformer.load_lora_adapter(folder, weight_name=LORA_FILE)


def by_peft(pipeline, folder):
    """Neither PRX's pipeline nor its transformer has one in diffusers."""
    weights = {name.removeprefix("transformer."): own for name, own in load_file(folder / LORA_FILE).items()}
    targets = {name.partition(".lora_")[0] for name in weights}
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets)), pipeline.transformer)
    set_peft_model_state_dict(pipeline.transformer, weights)


@dataclass(frozen=True)
class Family:
    """A random model, the block under test, and what a reader of the paper would expect of it."""

    make: object
    options: dict
    block: int
    text_first: bool
    targets: tuple[str, ...]
    by_length: bool = False
    """Whether what stands behind a prompt is told from it by the prompt's length."""
    extra: int = 0
    """Tokens before the text that are neither image nor text, for the 24 image tokens of `inputs`."""
    text_attends: bool = True
    """Whether text tokens have queries."""
    load_lora: Callable = by_the_pipeline
    """How a LoRA is loaded without this package: (pipeline, folder)."""

    def query_rows(self, image: int, text: int) -> dict[str, list[int]]:
        """As `rows`, among the queries and in the output of the attention."""
        return self.rows(image, text) if self.text_attends else {"image": list(range(image)), "text": []}

    def rows(self, image: int, text: int) -> dict[str, list[int]]:
        """Where the image and text tokens stand in the model's own order; the extra tokens end the text axis."""
        before, start = (0, text + self.extra) if self.text_first else (image, 0)
        words = range(before + self.extra, before + self.extra + text)
        return {"image": list(range(start, start + image)), "text": [*words, *range(before, before + self.extra)]}

    def model(self, **options) -> Backbone:
        return self.make(**self.options, **options)


QK = ("to_q", "to_k")
FAMILIES = {
    "sd3": Family(random_sd3, {}, 1, False, QK),
    "sd3 with zero T5 tokens": Family(random_sd3, {"t5_length": 5}, 2, False, QK),
    "sd3.5 with qk-norm and dual attention": Family(random_sd3, {"qk_norm": "rms_norm", "dual": (0, 1)}, 1, False, QK),
    "flux double": Family(random_flux, {}, 1, True, QK),
    "flux without guidance": Family(random_flux, {"guided": False}, 0, True, QK),
    "flux single": Family(random_flux, {}, 2, True, QK),
    "flux2 double": Family(random_flux2, {}, 1, True, QK),
    "flux2 single": Family(random_flux2, {}, 3, True, ("to_qkv_mlp_proj",)),
    "auraflow double": Family(random_aura_flow, {}, 1, True, QK, extra=8),
    "auraflow single": Family(random_aura_flow, {}, 2, True, QK, extra=8),
    "chroma double": Family(random_chroma, {}, 1, True, QK, by_length=True),
    "chroma single": Family(random_chroma, {}, 2, True, QK, by_length=True),
    "cogvideox": Family(random_cogvideox, {}, 1, True, QK),
    "longcat double": Family(random_longcat, {}, 1, True, QK, load_lora=by_the_transformer),
    "longcat single": Family(random_longcat, {}, 2, True, QK, load_lora=by_the_transformer),
    "lumina 2": Family(random_lumina2, {}, 1, True, QK, by_length=True),
    "prx": Family(random_prx, {}, 1, True, ("img_qkv_proj",), by_length=True, text_attends=False, load_lora=by_peft),
    "qwen-image": Family(random_qwen_image, {}, 1, True, QK, by_length=True),
    "z-image": Family(random_z_image, {}, 1, False, QK, by_length=True, extra=8),
}
PROMPTS = ("apple leaf", "two stars")


class HostAttention(TorchFunctionMode):
    """Sees what the host hands to attention and what it gets back: (query, key, value, bias, output).

    All are (B, heads, tokens, d) but the bias, which is what the mask adds to the scores.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is scaled_dot_product_attention:
            kwargs = kwargs or {}
            query, key, value = (args[k] if k < len(args) else kwargs[n] for k, n in enumerate(("query", "key", "value")))
            mask = kwargs.get("attn_mask")
            if mask is None:
                mask = query.new_zeros(1)
            bias = query.new_zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
            self.calls.append((query, key, value, bias, result))
        return result


def inputs(model, prompts=PROMPTS, size=(32, 48)):
    """Noisy latents of an image that is not square, noise levels, prompts."""
    generator = torch.Generator().manual_seed(0)
    latents = model.encode_image(torch.rand(len(prompts), 3, *size, generator=generator) * 2 - 1)
    noisy = latents + torch.randn(latents.shape, generator=generator)
    return noisy, torch.linspace(0.3, 0.6, len(prompts)), model.encode_text(prompts)


def draw_plainly(pipeline, **options):
    """What a diffusers pipeline draws: images or latents, and of a clip its first frame."""
    drawn = pipeline(return_dict=False, **options)[0]
    return [clip[0] for clip in drawn] if isinstance(drawn[0], list) else drawn


def exact(model):
    """The model in float64: what is computed in two ways differs by much less than what a perturbation does."""
    model._pipeline.to(torch.float64)
    return model


def exact_velocity(model):
    noisy, sigma, condition = inputs(model)
    with torch.no_grad():
        return model.predict_velocity(noisy.double(), sigma.double(), condition)


def read(model, blocks, arguments, **options):
    with torch.no_grad(), capture(model, blocks, **options) as record:
        model.predict_velocity(*arguments)
    return record


def adapted(family, **options):
    model = family.model(**options)
    add_lora(model, LoraSpec(blocks="expert", rank=2, alpha=2, targets=family.targets), expert_layer=family.block, seed=0)
    generator = torch.Generator().manual_seed(5)
    for weight in lora_weights(model).values():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return model


def gradients(model):
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad.clone() for weight in lora_weights(model).values()]


def processors(model):
    """What computes the attention of each module."""
    return {name: module.processor for name, module in model.transformer.named_modules() if hasattr(module, "processor")}
