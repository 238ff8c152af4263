"""A MAGNET training step: what mask alignment adds to flow matching, the expert's LoRA against one on all blocks, cached encoders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from seg4diff.attention.capture import capture
from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.flow import draw, interpolate, logit_normal, velocity
from seg4diff.segmentation.prompts import list_names, pool_words
from seg4diff.training.objective import MaskAlignment, named_regions
from speed.counts import PIXELS
from speed.measure import Run, Settings, Table, interleave, main, measure_memory, mebibytes, number, text, times
from speed.models import TEXT_TOKENS, WORDS, Shape, new_backbone

EXPERT = 9
REPETITIONS = 7
FLOW, ALIGNED, ALL = "flow matching, LoRA on the expert", "+ mask alignment, LoRA on the expert", "+ mask alignment, LoRA on all blocks"
CACHED, UNCACHED = "encoders cached", "encoders run in the step"

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
Reading = Callable[[Joint], Tensor]
LOGITS: Reading = partial(i2t, scores="logits")
"""Mask alignment takes the scores before the softmax."""
Encode = Callable[[], tuple[Tensor, TextCondition]]
"""Latents of the image and the encoded prompt."""


def run(settings: Settings) -> Table:
    """Time and memory of one step: forward, backward, AdamW."""
    real = Shape(blocks=24, heads=6, head_width=64, side=32, vae_widths=(32, 64, 128, 128), text_width=256, text_layers=22)
    shape = Shape(blocks=24, heads=1, head_width=16, side=4) if settings.quick else real
    repetitions = 1 if settings.quick else REPETITIONS
    example = new_example(shape.side, settings)
    encoders = new_backbone(replace(shape, blocks=2), settings)
    expert, everything = (Trainee(new_backbone(shape, settings), blocks) for blocks in ("expert", "all"))
    encoded = example.encode(encoders)
    runs = {
        FLOW: partial(expert.step, example, lambda: encoded, align=False),
        ALIGNED: partial(expert.step, example, lambda: encoded, align=True),
        ALL: partial(everything.step, example, lambda: encoded, align=True),
    }
    kept = {
        FLOW: partial(expert.loss, example, lambda: encoded, align=False),
        ALIGNED: partial(expert.loss, example, lambda: encoded, align=True),
        ALL: partial(everything.loss, example, lambda: encoded, align=True),
    }
    rows = [*compare(FLOW, [ALIGNED], runs, kept, repetitions, settings), {}]
    rows += [*compare(ALIGNED, [ALL], runs, kept, repetitions, settings), {}]
    del everything
    rows += cached_rows(expert, example, encoders, repetitions, settings)
    return Table(
        name="train_step",
        title="forward, backward and AdamW",
        sizes=f"{shape}, {shape.tokens} image and {TEXT_TOKENS} text tokens, batch 1, {len(WORDS)} classes at {example.side} x "
        f"{example.side} pixels, rank 16 on the image stream, expert block {EXPERT}; {repetitions} pairs. times as long: median "
        f"(quartiles) of the pairs, relative to the first row of each group. Encoders outside the step except in the last group: "
        f"autoencoder of widths {shape.vae_widths}, two CLIP encoders of {shape.text_layers} layers, width {shape.text_width}; the cache "
        f"is a warm folder. kept for backward: what the forward pass leaves for the backward pass.",
        columns={"step": text, "steps / s": number, "times as long": times, "peak memory": mebibytes, "kept for backward": mebibytes},
        rows=rows,
    )


@dataclass(frozen=True)
class Example:
    """Training images (B, 3, H, W) that share a label map (H, W)."""

    image: Tensor
    mask: Tensor

    @property
    def side(self) -> int:
        """Pixels along one side."""
        return self.mask.shape[-1]

    @torch.no_grad()
    def encode(self, backbone: Backbone) -> tuple[Tensor, TextCondition]:
        """What a step takes."""
        prompt = list_names(WORDS, range(len(WORDS)))
        return backbone.encode_image(self.image), backbone.encode_text([prompt.text] * len(self.image))


def new_example(tokens: int, settings: Settings, batch: int = 1) -> Example:
    """Noise as the images, one vertical stripe per class as the mask, `tokens` image tokens along one side."""
    side = tokens * PIXELS
    image = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stripes = torch.arange(side) * len(WORDS) // side
    return Example(image.to(settings.device), stripes.expand(side, side).contiguous().to(settings.device))


class Trainee:
    """A model with a LoRA and its optimiser; the calls of `MagnetModule.loss_terms`, which can also leave the block unread.

    Args:
        backbone: the model.
        blocks: "expert" or "all": where the LoRA is.
        expert: the block that is aligned.
        rank: rank of the LoRA.
        targets: projections with a LoRA.
    """

    def __init__(
        self, backbone: Backbone, blocks: str = "expert", expert: int = EXPERT, rank: int = 16, targets: Sequence[str] = TARGETS
    ) -> None:
        spec = LoraSpec(blocks=blocks, rank=rank, alpha=rank, targets=targets)
        add_lora(backbone, spec, expert, seed=0)
        self.backbone, self._expert = backbone, expert
        self._optimizer = torch.optim.AdamW(lora_weights(backbone).values(), lr=1e-4)
        self._objective = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2)
        self._sigma = logit_normal(mean=0.0, std=0.5)

    def loss(self, example: Example, encode: Encode, *, align: bool, reading: Reading = LOGITS) -> Tensor:
        """The loss of the forward pass, scalar; `reading` makes the maps that are aligned."""
        prompt = list_names(WORDS, range(len(WORDS)))
        latents, condition = encode()
        batch = len(latents)
        noise, sigma = draw(latents, range(batch), 0, self._sigma)
        with capture(self.backbone, [self._expert] if align else []) as record:
            predicted = self.backbone.predict_velocity(interpolate(latents, noise, sigma), sigma, condition)
        target = velocity(latents, noise)
        if not align:
            return mse_loss(predicted.float(), target.float())
        grid = self.backbone.token_grid(*example.mask.shape)
        logits = pool_words(reading(record[self._expert]), grid, condition, [prompt] * batch)
        return self._objective(predicted, target, logits, [named_regions(example.mask, prompt.classes)] * batch)["loss"]

    def step(self, example: Example, encode: Encode, *, align: bool, reading: Reading = LOGITS) -> None:
        """One optimiser step; gradients are gone afterwards, so that each step finds the same state."""
        self.loss(example, encode, align=align, reading=reading).backward()
        self.update()

    def update(self) -> None:
        """AdamW."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def compare(base: str, others: list[str], runs: dict[str, Run], kept: dict[str, Run], repetitions: int, settings: Settings) -> list[dict]:
    """One row for the base and one for each other run; each is warmed up first, which also makes the optimiser's state."""
    rows = {}
    for name in (base, *others):
        runs[name]()
        rows[name] = {"step": name, "peak memory": measure_memory(runs[name], settings.device).peak}
        rows[name]["kept for backward"] = measure_memory(kept[name], settings.device).kept
    for name, pairs in interleave(runs[base], {name: runs[name] for name in others}, repetitions, settings.device).items():
        rows[base]["steps / s"], rows[name]["steps / s"] = pairs.rates
        rows[name]["times as long"] = pairs.ratio
    return list(rows.values())


def cached_rows(trainee: Trainee, example: Example, encoders: SD3Backbone, repetitions: int, settings: Settings) -> list[dict]:
    """A step that runs the encoders against one that finds their output in the cache folder of `Runtime`."""
    with TemporaryDirectory() as folder:
        encoders.save_pretrained(Path(folder) / "model")
        load = partial(_load, Path(folder) / "model", settings)
        encode = {CACHED: partial(example.encode, load(Path(folder) / "cache")), UNCACHED: partial(example.encode, load(None))}
        torch.testing.assert_close(encode[CACHED]()[0], encode[UNCACHED]()[0])  # fills the cache
        runs = {name: partial(trainee.step, example, function, align=True) for name, function in encode.items()}
        kept = {name: partial(trainee.loss, example, function, align=True) for name, function in encode.items()}
        return compare(CACHED, [UNCACHED], runs, kept, repetitions, settings)


def _load(model: Path, settings: Settings, cache: Path | None) -> SD3Backbone:
    runtime = Runtime(dtype=str(settings.dtype).removeprefix("torch."), cache=None if cache is None else str(cache))
    backbone = SD3Backbone.from_pretrained(path=str(model), revision=None, runtime=runtime, t5_length=TEXT_TOKENS // 2)
    return backbone.to(settings.device)


if __name__ == "__main__":
    main([run])
