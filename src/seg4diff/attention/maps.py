"""Image-to-text (I2T) attention from recorded queries and keys, without the (N + T) x (N + T) matrix (paper, section 3.2)."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from seg4diff.backbones.base import JointQK
from seg4diff.errors import UserError

Scores = Literal["logits", "text", "joint"]
"""What a map holds: head-mean scores; softmax over the text keys alone; softmax over all image and text keys (the paper's)."""


def i2t(joint: JointQK, scores: Scores) -> Tensor:
    """Head-mean I2T attention, (B, T, N): one map over the image tokens for every text token.

    Args:
        joint: N image and T text tokens.
        scores: "logits": q.k / sqrt(d), unbounded (training, paper section 3.5); "text": softmax over the T text keys;
            "joint": softmax over all N + T keys, in [0, 1] with sums over T below 1 (inference, paper section 3.4).
    """
    if scores == "logits":
        return _head_mean_logits(joint)
    return i2t_per_head(joint, scores).mean(dim=1)


def i2t_per_head(joint: JointQK, scores: Scores) -> Tensor:
    """I2T attention of every head, (B, heads, T, N); `scores` as in `i2t`."""
    if scores not in get_args(Scores):
        raise UserError(f"scores must be one of {get_args(Scores)}, found '{scores}'.")
    logits = (joint.text_key @ (joint.image_query * joint.scale).transpose(-1, -2)).float()
    if scores == "logits":
        return logits
    weights = logits.softmax(dim=-2)
    return weights if scores == "text" else weights * text_mass(joint).unsqueeze(-2)


def text_mass(joint: JointQK) -> Tensor:
    """Share of each image query's attention that falls on the text, (B, heads, N) in [0, 1].

    The softmax over all N + T keys factors into (softmax over the text keys) * (this mass). Attention itself computes the mass when
    the values are 1 on text rows and 0 on image rows, so any fused kernel serves, forward and backward, in O(N) memory.
    """
    key = torch.cat([joint.text_key, joint.image_key], dim=2)
    # The width of the values must equal that of the keys, or the fused kernels refuse; one channel is enough.
    value = torch.zeros_like(key)
    value[:, :, : joint.text_key.shape[2], 0] = 1
    return scaled_dot_product_attention(joint.image_query, key, value, scale=joint.scale)[..., 0].float()


def _head_mean_logits(joint: JointQK) -> Tensor:
    """mean_h(q_h . k_h) = (q . k) / heads with the heads laid side by side: one matrix product, no per-head tensor."""
    heads = joint.image_query.shape[1]
    query = joint.image_query.transpose(1, 2).flatten(2)
    key = joint.text_key.transpose(1, 2).flatten(2)
    return (key @ (query * (joint.scale / heads)).transpose(-1, -2)).float()  # scaled first: half precision must not overflow
