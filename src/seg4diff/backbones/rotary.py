"""Reading attention whose text tokens come first and whose queries and keys are turned by rotary position embedding (Flux and kin)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from seg4diff.backbones.base import AttentionSite, JointQK
from seg4diff.backbones.hooks import listen, listen_to_arguments, uncompile
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.errors import UserError

LONGEST_TEXT = 512
"""Text tokens that the hosts' pipelines take at most."""
PATCH = 2
"""Pixels of the autoencoder's latents per side of an image token."""


class TextFirstBackbone(PipelineBackbone):
    """A stack of double-stream blocks, whose attention has norms of its own for the text, then one of single-stream blocks.

    The norms return (B, tokens, heads, d), before the rotary embedding; in a single-stream block text and image pass one norm. A
    family sets `_text_tokens`, the T of the pass that runs, before it calls its transformer: the blocks are not told.
    """

    _text_tokens = 0

    def __init__(self, pipeline: DiffusionPipeline, *, text_length: int, **options: Any) -> None:
        if not 1 <= text_length <= LONGEST_TEXT:
            raise UserError(f"text_length must be from 1 to {LONGEST_TEXT}, found {text_length}.")
        super().__init__(pipeline, text_length=text_length, **options)

    @property
    def text_window(self) -> int:
        return self.text_length

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return self._check_size(height, width, self._vae_scale * PATCH, None)

    def attention_sites(self) -> list[AttentionSite]:
        stacks = ("transformer_blocks", "single_transformer_blocks")
        blocks = [(f"{stack}.{k}.attn", block) for stack in stacks for k, block in enumerate(getattr(self.transformer, stack))]
        return [AttentionSite(index, name, block.attn, block) for index, (name, block) in enumerate(blocks)]

    @contextmanager
    def watch(self, site: AttentionSite, keep: Callable[[Callable[[], JointQK]], None]) -> Iterator[None]:
        attention = site.module
        sources = {"query": attention.norm_q, "key": attention.norm_k}
        if getattr(attention, "norm_added_q", None) is not None:
            sources |= {"text_query": attention.norm_added_q, "text_key": attention.norm_added_k}
        rotary: list[tuple[Tensor, Tensor]] = []

        def ready(outputs: dict[str, Tensor]) -> None:
            turn, text = rotary.pop(), self._text_tokens
            keep(lambda: _split(outputs, turn, text))

        uncompile(site.block)
        with ExitStack() as stack:
            stack.enter_context(listen_to_arguments(attention, lambda arguments: rotary.append(arguments["image_rotary_emb"])))
            stack.enter_context(listen(sources, ready))
            yield


def _split(outputs: dict[str, Tensor], turn: tuple[Tensor, Tensor], text: int) -> JointQK:
    """Text and image apart and turned, as the host's attention sees them."""
    parts = {}
    for name in ("query", "key"):
        whole = outputs[name]
        if f"text_{name}" in outputs:
            parts[f"text_{name}"], parts[f"image_{name}"] = outputs[f"text_{name}"], whole
        else:
            parts[f"text_{name}"], parts[f"image_{name}"] = whole[:, :text], whole[:, text:]
    for name, part in parts.items():
        rows = slice(0, text) if name.startswith("text") else slice(text, None)
        parts[name] = apply_rotary_emb(part, (turn[0][rows], turn[1][rows]), sequence_dim=1).transpose(1, 2)
    return JointQK(**parts, scale=parts["image_query"].shape[-1] ** -0.5)
