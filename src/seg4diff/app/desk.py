"""What the page asks of a model, one request after the other, and remembers."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg4diff.app.limits import IMAGES, STEPS, check_picture
from seg4diff.backbones.lora import adapted_blocks, has_lora, scaled_lora
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request
from seg4diff.model import Model
from seg4diff.results import Generated, Segmentation

KEPT_RESULTS, KEPT_ENCODINGS = 16, 32
"""Segmentations, and encoded pictures and prompts, that are remembered: those used last."""


@dataclass(frozen=True)
class Reading:
    """How the words of a picture are read.

    Attributes:
        block: block that is read.
        sigma: noise level.
        lora_scale: factor on the LoRA; None where the model has none.
        options: other arguments of `Model.segment`, as pairs of name and value.
    """

    block: int
    sigma: float
    lora_scale: float | None = None
    options: tuple[tuple[str, Any], ...] = ()


class _Stopped(Exception):
    """Somebody stopped the image that is being drawn."""


class Desk:
    """A model behind a lock.

    Args:
        model: the model.
        loaded_by: arguments of `seg4diff.load` that gave it, without those that were left out.

    Attributes:
        lora_blocks: the blocks at which `seg4diff.load` reads a model with this LoRA.
    """

    def __init__(self, model: Model, loaded_by: dict[str, Any]) -> None:
        self.model, self.loaded_by, self.has_lora = model, loaded_by, has_lora(model.backbone)
        self.lora_blocks = {model.block, *adapted_blocks(model.backbone)} if self.has_lora else set()
        self.blocks = len(model.backbone.attention_sites())
        self._lock, self._results = threading.Lock(), OrderedDict[Any, Segmentation]()
        assert isinstance(model.backbone, PipelineBackbone), "the page loads its model by name"
        model.backbone.remember_encodings(KEPT_ENCODINGS)

    def segment(self, file: Path, words: Sequence[str], reading: Reading) -> Segmentation:
        """Words in a picture, or regions without words; asked for again, the same result without a pass of the model.

        Raises:
            UserError: see `Model.segment`, or the picture is larger than the page takes.
        """
        key = (file, tuple(words), reading)
        with self._lock:
            if key not in self._results:
                check_picture(file)
                model = self.model.at(block=reading.block, sigma=reading.sigma)
                with self._scaled(reading.lora_scale):
                    found = model.segment(file, list(words) or None, **dict(reading.options))
                assert isinstance(found, Segmentation), "one picture has one result"
                self._results[key] = found
                if len(self._results) > KEPT_RESULTS:
                    self._results.popitem(last=False)
            self._results.move_to_end(key)
            return self._results[key]

    def draw(
        self, prompt: str, seeds: Sequence[int], scales: Sequence[float | None], *, stop: threading.Event | None = None, **options: Any
    ) -> Iterator[Generated]:
        """Images of a prompt, one after the other: of each seed with every LoRA scale. Others may use the model between two images.

        Args:
            prompt: the prompt.
            seeds: seeds.
            scales: LoRA scales; None = the model has none.
            stop: once it is set, the image that is being drawn ends before its next sampling step, and there are no others.
            options: other arguments of `Model.draw`.

        Raises:
            UserError: see `Model.draw`, or it is more than the page takes.
        """
        requests = [Request(prompt, seed, scale) for seed in seeds for scale in scales]
        if len(requests) > IMAGES:
            raise UserError(f"this page draws at most {IMAGES} images at once, found {len(requests)}: give fewer seeds.")
        if (options.get("steps") or 1) > STEPS:
            raise UserError(f"this page takes at most {STEPS} steps, found {options['steps']}.")
        for request in requests:
            try:
                with self._lock, self._until(stop or threading.Event()):
                    drawn = list(self.model.draw([request], **options))
            except _Stopped:
                return
            yield from drawn

    @contextmanager
    def _until(self, stop: threading.Event) -> Iterator[None]:
        """Within the block the model takes no sampling step once `stop` is set; it raises `_Stopped` instead."""

        def check(*_: Any) -> None:
            if stop.is_set():
                raise _Stopped

        hook = self.model.backbone.transformer.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()

    def _scaled(self, scale: float | None) -> AbstractContextManager[None]:
        return scaled_lora(self.model.backbone, scale)
