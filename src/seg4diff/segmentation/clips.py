"""Clips: their frames are pictures that the model sees together, and from its maps on they are read one by one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import Prompt
from seg4diff.segmentation.readout import Readout


def check_clip(backbone: Backbone, sizes: Sequence[tuple[int, int]], words: Sequence[Sequence[str]]) -> None:
    """Raises UserError if the model sees no clips, or if frames of these sizes and with these words each are not those of one clip."""
    if backbone.frames_at_once == 1:
        raise UserError("this model sees pictures alone: leave `clip` out, or choose a video model, such as cogvideox_2b.")
    if odd := [size for size in sizes if size != sizes[0]]:
        first, other = ("x".join(map(str, size)) for size in (sizes[0], odd[0]))
        raise UserError(f"the frames of a clip must have one size, found {first} and {other} pixels: leave `clip` out for single pictures.")
    if any(own != words[0] for own in words):
        raise UserError("the frames of a clip have the same words: give one list of words.")


def clip_maps(backbone: Backbone, readout: Readout, frames: Tensor, prompts: Sequence[Prompt], block: int) -> list[Tensor]:
    """Class maps of each frame of a clip.

    The model sees at most `Backbone.frames_at_once` frames together; a longer clip is read in pieces of so many, each by itself.

    Args:
        backbone: a video model.
        readout: how maps are read.
        frames: (F, 3, H, W) in [-1, 1], on any device; a piece at a time is brought to that of the model.
        prompts: those of the clip.
        block: index of the block.

    Returns:
        F tensors (classes, h, w).
    """
    found: list[Tensor] = []
    for piece in frames.split(backbone.frames_at_once):
        whole = _filled(piece, backbone.frames_per_latent)
        clip = whole.transpose(0, 1)[None].to(backbone.device)
        maps = readout.class_maps(backbone, clip, [prompts], [0], [block])[block][0]
        latent = torch.stack(maps.chunk((len(whole) - 1) // backbone.frames_per_latent + 1, dim=1), dim=1)
        found += in_time(latent, backbone.frames_per_latent)[:, : len(piece)].unbind(dim=1)
    return found


def in_time(maps: Tensor, step: int) -> Tensor:
    """Maps (classes, k + 1, h, w) of latent frames at each of the k `step` + 1 frames: (classes, frames, h, w).

    The first latent frame is the first frame. Each of the others is a mean over `step` frames and stands for their middle; maps are linear
    between these points in time, and constant after the last.
    """
    count = maps.shape[1] - 1
    time, middle = torch.arange(count * step + 1.0), torch.arange(count + 1.0) * step
    middle[1:] -= (step - 1) / 2
    after = torch.searchsorted(middle, time).clamp(max=count)
    before = (after - 1).clamp(min=0)
    share = ((time - middle[before]) / (middle[after] - middle[before]).clamp(min=1)).clamp(0, 1).to(maps)
    return torch.lerp(maps[:, before], maps[:, after], share.view(-1, 1, 1))


def _filled(piece: Tensor, step: int) -> Tensor:
    """The frames (F, 3, H, W), the last one repeated until there are k step + 1."""
    missing = -(len(piece) - 1) % step
    return torch.cat([piece, piece[-1:].expand(missing, -1, -1, -1)])
