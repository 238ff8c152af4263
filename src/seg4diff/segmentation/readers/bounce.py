"""Attention as a Markov chain over all tokens: what reaches a word in several steps (TokenRank, arXiv 2507.17657)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import affinity, check_text_attends
from seg4diff.errors import at_least
from seg4diff.segmentation.prompts import token_sets
from seg4diff.segmentation.readers.base import ClassMaps, Pass, unstack


class Bounce:
    """Probability that a walk along the head-mean joint attention of the block, from each image token, ends at a word.

    One step is the paper's map; with two, the walk may go over any image or text token. The heads have equal weights, where TokenRank
    weighs them by the second eigenvalue of their matrices. Each step is an attention call, so no matrix is formed.

    Args:
        steps: steps of the walk.

    Raises:
        UserError: `steps` is below 1.
    """

    per_block = True
    settings = ()

    def __init__(self, *, steps: int = 2) -> None:
        at_least(1, steps=steps)
        self._steps = steps

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        record = run.capture(blocks)
        sets = [token_sets(run.condition, row, prompt) for row, prompt in enumerate(run.prompts)]
        for block in blocks:
            walked = self._walk(record[block], sets)
            yield block, unstack(walked, [walked.new_zeros(len(own), *run.grid) for own in sets])

    def _walk(self, joint: Joint, sets: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """The probabilities (B, most classes, N)."""
        check_text_attends(joint)
        images, text = joint.image_query.shape[2], joint.text_query.shape[2]
        reached = torch.zeros(len(sets), max(map(len, sets)), images + text, device=joint.image_query.device)
        for row, own in enumerate(sets):
            for k, tokens in enumerate(own):
                reached[row, k, [images + token for token in tokens]] = 1 / len(tokens)
        together: dict[str, Any] = {
            f"image_{part}": torch.cat([getattr(joint, f"{side}_{part}") for side in ("image", "text")], dim=2) for part in ("query", "key")
        }
        for _ in range(self._steps):
            reached = affinity(replace(joint, **together), reached)
        return reached[:, :, :images]
