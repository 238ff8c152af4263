"""`seg4diff.load(...)`: a `Model` from a name, a folder, a hub id, a run or a pipeline."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.loading import DiffusionPipeline, Source, wrong_class
from seg4diff.backbones.lora import adapted_blocks
from seg4diff.backbones.lora_files import find_lora
from seg4diff.backbones.runtime import Quantization, Runtime, choose_dtype, find_device
from seg4diff.errors import UserError, of_kind, renamed
from seg4diff.model import Model
from seg4diff.presets import Preset, names, run_config

log = logging.getLogger(__name__)


@renamed({"path": "`model`"}.get)
def load(
    model: str | Path | DiffusionPipeline | None = None,
    *,
    lora: str | Path | None = None,
    like: str | None = None,
    block: int | None = None,
    sigma: float | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    quantize: Quantization | None = None,
    cache: str | Path | None = None,
    offload_encoders: bool = False,
    autoencoder: str | Path | None = None,
    autoencoder_tile: int | None = None,
) -> Model:
    """Load a model.

    Args:
        model: name of a file in conf/backbone such as "sd3_medium"; a folder in the layout of diffusers; a hub id; the folder of a run of
            train.py, with its LoRA; or a diffusers pipeline, which is used as it is, on its device, in its dtype and with its LoRA, and
            still works afterwards. None: the model that `lora` was trained on, or else the tiny model that comes with the package.
        lora: run folder, .ckpt, LoRA folder or .pth of the authors' release.
        like: name of the preset that a model of unknown size is read like.
        block: block that is read; None: the one that the LoRA's run aligned, or else the model's expert.
        sigma: noise level in [0, 1] at which maps are read; None: that of the preset.
        image_size: (height, width) that the model sees, or one number for a square; None: that of the preset.
        device: where the model goes; None: the accelerator if there is one, and one for each process of a machine under torchrun or Slurm.
        dtype: "float32", "bfloat16" or "float16"; None or "auto": the model's own where the device computes fast in it, else float32.
        revision: branch, tag or commit of a hub model.
        quantize: "int8" or "nf4" for the transformer; see `Runtime`.
        cache: folder that keeps text embeddings and latents; see `Runtime`.
        offload_encoders: see `Runtime`.
        autoencoder: folder or hub id of an AutoencoderTiny in place of the model's autoencoder; see `Runtime`.
        autoencoder_tile: see `Runtime`.

    Raises:
        UserError: the model or the LoRA is missing, gated, of an unknown kind, or they do not fit each other.
    """
    of_kind("a file or folder", str, Path, lora=lora, cache=cache, autoencoder=autoencoder)
    of_kind("a name", str, like=like, revision=revision)
    if isinstance(model, str | Path) and lora is None and str(model) not in names() and (Path(model) / "config.yaml").is_file():
        model, lora = None, model  # the folder of a run
    adapter = None if lora is None else find_lora(lora)
    run = None if adapter is None else run_config(adapter)
    preset, source = _find(model, like, revision, run)
    if revision is not None and (source is None or source.revision != revision or Path(source.path).is_dir()):
        raise UserError("`revision` is for a hub model that is named here, not for a folder, a run or a pipeline: leave it out.")
    if source is None:
        backbone = _adopt(model, preset, given=(device, dtype, quantize, cache, offload_encoders or None, autoencoder, autoencoder_tile))
    else:
        place = find_device(device)
        runtime = Runtime(
            dtype=choose_dtype(preset.dtype, place.type) if dtype in (None, "auto") else dtype,
            quantize=quantize,
            cache=None if cache is None else str(cache),
            offload_encoders=offload_encoders,
            autoencoder=None if autoencoder is None else str(autoencoder),
            autoencoder_tile=autoencoder_tile,
        )
        runtime.check_device(place)
        backbone = preset.adapter.from_pretrained(path=source.path, revision=source.revision, runtime=runtime, **preset.options)
        backbone.to(place)
    if adapter is not None:
        block = _add_lora(backbone, adapter, run, preset, block)
        if run is not None and source is not None and not _same_place(source.path, run.backbone.model.path):
            log.warning("the LoRA %s was trained on %s, and this is %s", adapter, run.backbone.model.path, source.path)
    if source is not None or adapter is not None:
        backbone.eval()
    return Model(backbone, preset, block=block, sigma=sigma, image_size=image_size, lora=adapter)


def _adopt(pipeline: DiffusionPipeline, preset: Preset, given: tuple) -> Backbone:
    """A backbone around a pipeline that the caller has loaded."""
    if any(option is not None for option in given):
        raise UserError("a pipeline is used as it is: set its device, its dtype and its memory options on the pipeline itself.")
    runtime = Runtime(dtype=str(pipeline.transformer.dtype).removeprefix("torch."))
    return preset.adapter(pipeline, runtime=runtime, **preset.options)


def _add_lora(backbone: Backbone, adapter: Path, run: Any, preset: Preset, block: int | None) -> int | None:
    """Load an adapter; returns the block that is read, which must be one that it adapts or that its run aligned."""
    backbone.load_lora(adapter)
    aligned = None if run is None else run.get("expert_layer")
    block = aligned if block is None else block
    chosen = preset.expert if block is None else block
    if chosen not in [*adapted_blocks(backbone), aligned]:
        raise UserError(f"the LoRA {adapter} adapts the blocks {adapted_blocks(backbone)}, and block {chosen} is to be read: set `block`.")
    return block


def _same_place(one: str, other: str) -> bool:
    """Whether two paths or hub ids name one model."""
    return one == other or Path(one).resolve() == Path(other).resolve()


def _find(model: Any, like: str | None, revision: str | None, run: Any) -> tuple[Preset, Source | None]:
    """How a model is read, and where it is."""
    if not isinstance(model, str | Path | DiffusionPipeline | None):
        raise UserError(f"`model` must be a name, a folder, a hub id or a diffusers pipeline, found {model!r}.")
    named = Preset.named(like) if like is not None else None
    if isinstance(model, DiffusionPipeline):
        if named is not None and not isinstance(model, named.adapter.pipeline_class):
            raise wrong_class("this pipeline", type(model).__name__, named.adapter.pipeline_class)
        config = model.transformer.config | {"scheduler": model.scheduler.config}
        return named or Preset.recognised("this pipeline", type(model).__name__, config), None
    if model is None and run is not None:
        own = Preset.of("the run's model", run.backbone)
        return named or own, Source(own.path, own.revision)
    if model is None or str(model) in names():
        own = Preset.named("tiny_sd3" if model is None else str(model))
        return named or own, Source(own.path, revision or own.revision)
    if not Path(model).is_dir() and str(model).count("/") != 1:
        Preset.named(str(model))  # says what there is
    source = Source(str(model), revision)
    return named or Preset.recognised(f"the model {model}", *source.kind()), source
