"""Scenes of the toy world as latents: drawn and encoded when a run first meets them, read from one file from then on."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seg4diff.backbones.base import Backbone
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.toyworld.dataset import ToyWorld, drawing_code
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError

LONGEST_CAPTION = 248
"""Bytes of the longest caption that a scene may have; the grammar stays far below."""


@dataclass(frozen=True)
class LatentBatch:
    """What pretraining takes: no image, no mask.

    Attributes:
        latents: (B, C, h, w) on the scale of the transformer.
        captions: B strings.
    """

    latents: Tensor
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "LatentBatch":
        """Move the latents; Lightning calls this."""
        return LatentBatch(self.latents.to(device, non_blocking=non_blocking), self.captions)


class SceneLatents(Dataset):
    """Latents and captions of the training scenes, in a file that fills up as scenes are asked for.

    A row is marked as filled only once it is written, so a run that is stopped leaves nothing half done, and several runs share the file.

    Args:
        file: where they are kept; it can be deleted at any time.
        size: number of scenes.
        seed: seed of the world.
        side: image height and width in pixels.
        shape: (C, h, w) of the latents of one image.
        encode: (B, 3, side, side) in [-1, 1] -> latents.
    """

    def __init__(self, file: Path, *, size: int, seed: int, side: int, shape: Sequence[int], encode: Callable[[Tensor], Tensor]) -> None:
        self._size, self._seed, self._side, self._encode = size, seed, side, encode
        row = np.dtype([("filled", "?"), ("caption", f"S{LONGEST_CAPTION}"), ("latents", "<f2", tuple(shape))])
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as end:
            end.truncate(max(end.tell(), size * row.itemsize))  # new rows are zeros, which is not filled
        self._rows = np.memmap(file, dtype=row, mode="r+", shape=(size,))

    def __len__(self) -> int:
        return self._size

    def __getitems__(self, indices: list[int]) -> LatentBatch:
        """A batch; torch's loader hands it on as it is."""
        self._fill([index for index in indices if not self._rows["filled"][index]])
        rows = self._rows[indices]
        return LatentBatch(torch.from_numpy(rows["latents"].astype(np.float32)), [caption.decode() for caption in rows["caption"]])

    def _fill(self, missing: list[int]) -> None:
        if not missing:
            return
        scenes = [make_scene(self._seed, "train", index, self._side) for index in missing]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
        self._rows["latents"][missing] = self._encode(images).cpu().numpy()
        self._rows["caption"][missing] = [scene.caption.encode() for scene in scenes]
        self._rows["filled"][missing] = True


class LatentDataModule(SegmentationDataModule):
    """Training scenes as latents; validation and test as in `SegmentationDataModule`.

    Args:
        scenes: number of training scenes.
        root: folder of the file of latents.
        options: arguments of `SegmentationDataModule`; its source is a toy world that needs no training split.
    """

    def __init__(self, *, scenes: int, root: str, **options) -> None:
        super().__init__(**options)
        if scenes < 1:
            raise UserError(f"`scenes` must be at least 1, found {scenes}.")
        self._scenes, self._root = scenes, Path(root)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scenes that are drawn can all be read."""
        return batch

    def train_dataloader(self) -> DataLoader:
        trainer, source = self.trainer, self.source
        assert isinstance(source, ToyWorld)
        backbone = trainer.lightning_module.backbone
        with torch.no_grad():
            shape = backbone.encode_image(torch.zeros(1, 3, source.side, source.side)).shape[1:]
        # loader processes encode what they draw, and may not touch an accelerator
        encode = (copy.deepcopy(backbone).cpu() if self.num_workers else backbone).encode_image
        file = self._root / f"latents-{source.seed}-{source.side}-{_fingerprint(backbone)}.bin"
        dataset = SceneLatents(file, size=self._scenes, seed=source.seed, side=source.side, shape=shape, encode=encode)
        return DataLoader(dataset, batch_sampler=self.endless(len(dataset)), collate_fn=_as_it_is, num_workers=self.num_workers)


def _fingerprint(backbone: Backbone) -> str:
    """Of what the latents depend on: the drawing code and the autoencoder."""
    digest, vae = hashlib.sha256(drawing_code().encode()), backbone.get_submodule("vae")
    for name, weight in sorted(vae.state_dict().items()):
        digest.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    config: Any = vae.config
    digest.update(repr([config.shift_factor, config.scaling_factor]).encode())
    return digest.hexdigest()[:16]


def _as_it_is(batch: Any) -> Any:
    return batch
