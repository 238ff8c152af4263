"""Memory that a model at its published size will take, from tensors without numbers: nothing is computed, and nothing is allocated."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from seg4diff.backbones.pipeline import PipelineBackbone
from speed.measure import Run
from speed.published import made_as

VIDEO = ("AutoencoderKLQwenImage", "AutoencoderKLCogVideoX")
"""Autoencoders of clips."""


def segment_bytes(backbone: PipelineBackbone, facts: dict[str, Any], side: int, dtype: torch.dtype) -> int:
    """Bytes at most while one picture of side x side pixels is segmented: all weights, and the autoencoder's activations.

    The pass of the transformer that follows needs less than the autoencoder: it keeps no activations, and no map of all pairs of tokens.

    Args:
        backbone: the model, on any device.
        facts: the published configurations of its parts.
        side: pixels along one side.
        dtype: of weights and activations.
    """
    weights = sum(weight.numel() for weight in backbone.parameters()) * dtype.itemsize
    return weights + encode_bytes(facts["vae"], side, dtype)


def encode_bytes(config: dict[str, Any], side: int, dtype: torch.dtype) -> int:
    """Bytes of activations at most while an autoencoder of this configuration encodes one picture."""
    kind = config.get("_class_name", "AutoencoderKL")
    with FakeTensorMode(), made_as(torch.device("cpu"), dtype):
        vae = getattr(diffusers, kind).from_config(config).requires_grad_(False)
        shape = (1, 3, 1, side, side) if kind in VIDEO else (1, 3, side, side)  # of a video, one frame
        picture = torch.empty(shape)
        return held_bytes(lambda: vae.encode(picture))


def held_bytes(run: Run) -> int:
    """Bytes of the tensors that a run holds at any moment at most, above those before it."""
    gc.collect()
    with torch.no_grad(), _Held() as held:
        run()
    return held.peak


class _Held(TorchDispatchMode):
    """Counts the bytes of the tensors that live, and the most at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given: set[int] = set()
        tree_map_only(Tensor, lambda tensor: given.add(id(tensor.untyped_storage())), (args, kwargs or {}))
        found = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, lambda tensor: self._note(tensor, given), found)
        return found

    def _note(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in given or key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
