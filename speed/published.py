"""Models of the published sizes with random weights, made on the device at hand: nothing is downloaded."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from diffusers import SchedulerMixin
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, T5Tokenizer

from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.tiny.tokenizer import build_clip_tokenizer, byte_characters
from speed import REPO
from speed.models import TEXT_TOKENS, WORDS

PUBLISHED = REPO / "tests" / "backbones" / "published"
"""One file for each conf/backbone: the configurations that its authors published."""
CHAT = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
SHRINK = 32
"""By what `quick` divides widths."""
WIDTHS = ("caption_projection_dim", "joint_attention_dim", "pooled_projection_dim", "hidden_size", "intermediate_size", "projection_dim")
WIDTHS += ("d_model", "d_ff", "cap_feat_dim", "context_in_dim", "text_embed_dim", "approximator_hidden_dim", "out_hidden_size")
HEADS = ("num_attention_heads", "num_heads", "num_key_value_heads")
LAYERS = ("num_layers", "num_single_layers", "n_layers", "num_mmdit_layers", "num_single_dit_layers", "depth")
QUICK = {"attention_head_dim": 16, "d_kv": 16, "head_dim": 16, "block_out_channels": [32, 32, 32, 32], "base_dim": 8}


def read_config(name: str) -> DictConfig:
    """The paper's recipe with this file of conf/backbone."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("train", ["experiment=coco_lora", f"backbone={name}"])


def read_facts(name: str, quick: bool) -> dict[str, Any]:
    """The published configurations of a model's parts; `quick` makes everything tiny."""
    facts = json.loads((PUBLISHED / f"{name}.json").read_text())
    return {part: _shrink(value) if quick and isinstance(value, dict) else value for part, value in facts.items()}


def build(config: DictConfig, facts: dict[str, Any], device: torch.device, runtime: Runtime) -> PipelineBackbone:
    """The model with random weights, frozen, on the device."""
    kind = get_class(config.backbone.model._target_.removesuffix(".from_pretrained"))
    options = {key: value for key, value in config.backbone.model.items() if key not in ("_target_", "path", "revision", "runtime")}
    texts = [name for name in kind.encoders if name != "vae"]
    parts: dict[str, Any] = dict.fromkeys(kind.unused)
    parts |= {name.replace("text_encoder", "tokenizer"): _tokenizer(facts[name]["_class_name"]) for name in texts}
    with made_as(device, runtime.dtype):
        parts["transformer"] = kind.transformer_class.from_config(facts["transformer"])
        parts["vae"] = getattr(diffusers, facts["vae"].get("_class_name", "AutoencoderKL")).from_config(facts["vae"])
        parts |= {name: _new_encoder(facts[name]) for name in texts}
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False).to(device, runtime.dtype)
    scheduler = new_scheduler(facts["scheduler"])
    pipeline = kind.pipeline_class(scheduler=scheduler, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return kind(pipeline, runtime=runtime, **options).eval()


@contextmanager
def made_as(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made and initialised there: 2 billion numbers take a CPU half a minute, and a GPU no time."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def new_scheduler(facts: dict[str, Any]) -> SchedulerMixin:
    """The published schedule: that of flow matching where no class is named."""
    return getattr(diffusers, facts.get("_class_name", "FlowMatchEulerDiscreteScheduler")).from_config(facts)


def _new_encoder(facts: dict[str, Any]) -> nn.Module:
    kind = getattr(transformers, facts["_class_name"])
    config = kind.config_class(**{key: value for key, value in facts.items() if key != "_class_name"})
    return kind(getattr(config, "encoder", config))  # of a model that has a decoder too, the encoder's part


def _tokenizer(encoder: str) -> PreTrainedTokenizerBase:
    """A stand-in that knows a few words, for an encoder of this class; what costs is the length to which prompts are padded."""
    if encoder.startswith("CLIP"):
        return build_clip_tokenizer(WORDS, TEXT_TOKENS // 2)
    if encoder.startswith(("T5", "UMT5")):
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -5.0)]
        return T5Tokenizer(pieces, extra_ids=0)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer({piece: k for k, piece in enumerate([*byte_characters(), *specials])}, [], chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    return tokenizer


def _shrink(facts: dict[str, Any]) -> dict[str, Any]:
    small = dict(facts)
    for key, value in facts.items():
        if isinstance(value, dict) and key.endswith(("_config", "encoder")):
            small[key] = _shrink(value)
        elif key in WIDTHS:
            small[key] = value // SHRINK
        elif key in HEADS:
            small[key] = max(1, value // 8)
        elif key in LAYERS:
            small[key] = min(value, 3)
    if "caption_projection_dim" in facts:
        small["caption_projection_dim"] = small["num_attention_heads"] * QUICK["attention_head_dim"]
    if "axes_dims" in facts:
        small |= {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [4, 6, 6]}
    if "axes_dim_rope" in facts:
        small |= {"hidden_size": 32, "num_attention_heads": 2, "num_kv_heads": 2, "axes_dim_rope": [4, 6, 6]}
    if "axes_dim" in facts:
        small |= {"hidden_size": 32, "num_heads": 2, "axes_dim": [8, 8]}
    if "mrope_section" in facts.get("rope_parameters", {}):
        small["rope_parameters"] = facts["rope_parameters"] | {"mrope_section": [4, 2, 2]}
        small |= {"hidden_size": 112, "num_attention_heads": 7, "num_key_value_heads": 1}
    if "axes_dims_rope" in facts:
        axes = len(facts["axes_dims_rope"])
        small["axes_dims_rope"] = [4] * 4 if axes == 4 else [4, 6, 6]
    return small | {key: value for key, value in QUICK.items() if key in facts}
