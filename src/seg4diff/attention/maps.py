"""Image-to-text (I2T) attention from recorded queries and keys, without the (N + T) x (N + T) matrix (paper, section 3.2)."""

from functools import reduce
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from seg4diff.attention.joint import Joint
from seg4diff.errors import UserError

ABSENT = -1e4
"""Score of a masked text token: its sigmoid and its softmax are 0, and it is finite."""
Scores = Literal["logits", "text", "joint"]
"""What a map holds: head-mean scores; softmax over the text keys alone; softmax over all image and text keys (the paper's)."""


def i2t(joint: Joint, scores: Scores) -> Tensor:
    """Head-mean I2T attention, (B, T, N): one map over the image tokens for every text token.

    Args:
        joint: N image and T text tokens.
        scores: "logits": q.k / sqrt(d), unbounded (training, paper section 3.5), `ABSENT` for a masked token; "text": softmax over the T
            text keys; "joint": softmax over all N + T keys, in [0, 1] with sums over T below 1 (inference, paper section 3.4).

    Raises:
        UserError: `scores` is none of these.
    """
    _check(scores)
    if scores == "logits":
        return _head_mean_logits(joint)
    mass = text_mass(joint) if scores == "joint" else None
    heads = joint.image_query.shape[1]
    # Head by head: the maps of all heads together are the largest tensor of a segmentation.
    return reduce(torch.add, (_i2t_softmax(joint, head, None if mass is None else mass[:, head]) for head in range(heads))) / heads


def i2t_per_head(joint: Joint, scores: Scores) -> Tensor:
    """I2T attention of every head, (B, heads, T, N); `scores` as in `i2t`."""
    _check(scores)
    if scores == "logits":
        return _biased(_logits(joint.text_key, joint.image_query, joint.scale), _text_bias(joint)).clamp_min(ABSENT)
    mass = text_mass(joint) if scores == "joint" else None
    return _i2t_softmax(joint, slice(None), mass)


def t2i_per_head(joint: Joint) -> Tensor:
    """Text-to-image (T2I) attention of every head, (B, heads, T, N): where each text token looks.

    Softmax over all N + T keys, in [0, 1] with sums over N below 1; 0 for a token that is masked.
    """
    scores = _biased(_logits(joint.text_query, joint.image_key, joint.scale), joint.bias_between("text", "image"))
    maps = scores.softmax(dim=-1) * (1 - text_mass(joint, of="text")).unsqueeze(-1)
    return maps if joint.text_present is None else maps * joint.text_present[:, None, :, None]


def affinity(joint: Joint, maps: Tensor) -> Tensor:
    """Image-to-image attention applied to maps: each image token gets the mean of the maps at the image tokens that it looks at.

    Softmax over the image keys alone, so each row of the operator sums to 1. It is attention with the maps as values, in O(N) memory, and
    in float32: maps are small numbers, and close to each other.

    Args:
        joint: N image tokens.
        maps: (B, C, N).

    Returns:
        (B, C, N), mean over the heads.
    """
    wide = torch.promote_types(joint.image_query.dtype, torch.float32)
    query, key = joint.image_query.to(wide), joint.image_key.to(wide)
    heads, width = query.shape[1], query.shape[-1]  # fused kernels want values as wide as the keys
    bias = joint.bias_between("image", "image")
    bias = bias if bias is None else bias.to(wide)
    spread = []
    with torch.autocast(query.device.type, enabled=False):
        for part in maps.to(wide).split(width, dim=1):
            value = pad(part, (0, 0, 0, width - part.shape[1])).transpose(1, 2).unsqueeze(1).repeat(1, heads, 1, 1)
            found = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=joint.scale).mean(dim=1)
            spread.append(found[..., : part.shape[1]].transpose(1, 2).float())
    return torch.cat(spread, dim=1)


def quadrant_mass(joint: Joint) -> dict[str, Tensor]:
    """Share of attention that falls into each quadrant, mean over its queries (paper, section 3.3).

    Returns:
        {"i2i", "i2t", "t2i", "t2t"}: (B, heads) each, in [0, 1]; "i2i" + "i2t" = 1 and "t2i" + "t2t" = 1. Uniform attention
        gives N / (N + T) and T / (N + T). A masked text token is neither a query nor a key.
    """
    image, text = text_mass(joint).mean(dim=-1), text_mass(joint, of="text")
    if (present := joint.text_present) is None:
        text = text.mean(dim=-1)
    else:
        text = (text * present[:, None]).sum(dim=-1) / present.sum(dim=-1, keepdim=True)
    return {"i2i": 1 - image, "i2t": image, "t2i": 1 - text, "t2t": text}


def text_mass(joint: Joint, of: Literal["image", "text"] = "image") -> Tensor:
    """Share of each query's attention that falls on the text, (B, heads, N) for image queries, (B, heads, T) for text queries.

    The softmax over all N + T keys factors into (softmax over the text keys) * (this mass). Attention itself computes the mass when
    the values are 1 on text rows and 0 on image rows, so any fused kernel serves, forward and backward, in O(N) memory.

    The kernel runs in the dtype of the queries, also under autocast. In bfloat16 it rounds the mass by 0.13 % on average; all text tokens
    of a query share that factor, so it does not change which of them is largest.

    Args:
        joint: N image and T text tokens.
        of: whose queries.
    """
    query = joint.image_query if of == "image" else joint.text_query
    key = torch.cat([joint.text_key, joint.image_key], dim=2)
    # The width of the values must equal that of the keys, or the fused kernels refuse; one channel is enough.
    value = torch.zeros_like(key)
    value[:, :, : joint.text_key.shape[2], 0] = 1
    on_text, on_image = joint.bias_between(of, "text"), joint.bias_between(of, "image")
    bias = None if on_text is None or on_image is None else torch.cat([on_text, on_image], dim=-1).to(query.dtype)
    with torch.autocast(query.device.type, enabled=False):
        return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=joint.scale)[..., 0].float()


def _check(scores: str) -> None:
    if scores not in get_args(Scores):
        raise UserError(f"`scores` must be one of {', '.join(get_args(Scores))}, found '{scores}'.")


def _logits(rows: Tensor, columns: Tensor, scale: float) -> Tensor:
    """(..., R, d) and (..., C, d) -> (..., R, C) in float32; the small side comes first and is scaled.

    The product is formed in float32 whatever the model's dtype and autocast: scores of standard deviation 8 that are rounded to bfloat16
    change their softmax by 2 %.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        return ((rows.to(wide) * scale) @ columns.to(wide).transpose(-1, -2)).float()


def _i2t_softmax(joint: Joint, heads: int | slice, mass: Tensor | None) -> Tensor:
    """Softmax over the text keys of these heads, (..., T, N), times the mass (..., N) where there is one."""
    bias = _text_bias(joint)
    if bias is not None:
        bias = bias.expand(-1, joint.text_key.shape[1], -1, -1)[:, heads]
    weights = _biased(_logits(joint.text_key[:, heads], joint.image_query[:, heads], joint.scale), bias).softmax(dim=-2)
    return weights if mass is None else weights * mass.unsqueeze(-2)


def _head_mean_logits(joint: Joint) -> Tensor:
    """mean_h(q_h . k_h) = (q . k) / heads with the heads laid side by side: one matrix product, no per-head tensor."""
    heads = joint.image_query.shape[1]
    query, key = (part.transpose(1, 2).flatten(2) for part in (joint.image_query, joint.text_key))
    bias = _text_bias(joint)
    return _biased(_logits(key, query, joint.scale / heads), None if bias is None else bias.mean(dim=1)).clamp_min(ABSENT)


def _text_bias(joint: Joint) -> Tensor | None:
    """What is added to the scores of image queries with text keys, (B, 1 or heads, T, 1 or N)."""
    bias = joint.bias_between("image", "text")
    return None if bias is None else bias.transpose(-1, -2)


def _biased(scores: Tensor, bias: Tensor | None) -> Tensor:
    return scores if bias is None else scores + bias.to(scores)
