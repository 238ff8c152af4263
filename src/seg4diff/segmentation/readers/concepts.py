"""Names in a stream of their own, which the model does not see (ConceptAttention, arXiv 2502.04320)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seg4diff.attention.concepts import concept_outputs, entering_text
from seg4diff.errors import UserError
from seg4diff.segmentation.readers.base import ClassMaps, Pass, unstack


class Concepts:
    """Dot product of the attention's outputs for each image token and each concept, softmax over the concepts of the image.

    A single concept has no others to be compared with, so its map is the dot product itself.

    A concept is one token per name: the mean of the tokens of the name, encoded alone. It passes through the text branch of every block
    and sees the image and the other concepts; image and text see none of them. Its modulation is that of the prompt, where the paper
    has one without pooled text.

    Args:
        blocks: blocks whose maps are averaged; None = the block that is read.

    Raises:
        UserError: `blocks` is empty.
    """

    settings = ()

    def __init__(self, *, blocks: Sequence[int] | None = None) -> None:
        if blocks is not None and not blocks:
            raise UserError("`blocks` must name at least one block; null reads the block that is evaluated.")
        self._blocks = None if blocks is None else list(blocks)

    @property
    def per_block(self) -> bool:
        """See `Reader`."""
        return self._blocks is None

    def read(self, run: Pass, blocks: Sequence[int]) -> ClassMaps:
        """See `Reader`."""
        names = [prompt.names() for prompt in run.prompts]
        vectors = self._vectors(run, list(dict.fromkeys(name for own in names for name in own)))
        concepts = [torch.stack([vectors[name] for name in own]) for own in names]
        wanted = self._blocks or list(blocks)
        run.backbone.select_sites(wanted)
        lengths = torch.tensor([len(own) for own in names], device=run.latents.device)
        maps = {
            block: self._similarities(image, found, lengths)
            for block, image, found in concept_outputs(run.backbone, wanted, pad_sequence(concepts, batch_first=True), lengths, run.run)
        }
        like = [run.latents.new_zeros(len(own), *run.grid) for own in names]
        for block in blocks:
            chosen = [maps[block]] if self._blocks is None else [maps[own] for own in wanted]
            yield block, unstack(torch.stack(chosen).mean(dim=0), like)

    @staticmethod
    def _similarities(image: Tensor, concepts: Tensor, lengths: Tensor) -> Tensor:
        """Outputs (B, heads, N, d) and (B, heads, C, d) -> (B, C, N); concepts beyond the length of an image have 0."""
        scores = concepts.float().transpose(1, 2).flatten(2) @ image.float().transpose(1, 2).flatten(2).transpose(1, 2)
        absent = torch.arange(scores.shape[1], device=scores.device) >= lengths[:, None]
        shares = scores.masked_fill(absent[..., None], -torch.inf).softmax(dim=1)
        return torch.where((lengths == 1)[:, None, None], scores.masked_fill(absent[..., None], 0), shares)

    @staticmethod
    def _vectors(run: Pass, names: Sequence[str]) -> dict[str, Tensor]:
        """The token (width,) of each name, as it enters the first block."""
        found, first = {}, slice(0, 1)
        for name in names:
            condition = run.backbone.encode_text([name])
            text = entering_text(run.backbone, run.latents[first], run.sigma[first], condition)
            found[name] = text[0, condition.tokens_between(0, 0, len(name))].mean(dim=0)
        return found
