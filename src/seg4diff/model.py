"""`seg4diff.load(...)` gives a `Model`, which segments pictures and shows the attention of its blocks."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from seg4diff.attention.seam import visits
from seg4diff.backbones.base import Backbone
from seg4diff.backbones.loading import DiffusionPipeline, Source
from seg4diff.backbones.lora import adapted_blocks
from seg4diff.backbones.lora_files import find_lora
from seg4diff.backbones.runtime import Quantization, Runtime, choose_dtype
from seg4diff.data.geometry import GEOMETRIES, Geometry
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError, renamed
from seg4diff.inputs import CanvasPicture, Picture, to_size, words_of_each
from seg4diff.presets import Preset, names, run_config
from seg4diff.results import BlockAttention, Segmentation, by_size
from seg4diff.segmentation.prompts import split_names
from seg4diff.segmentation.proposals import ProposalReadout, label_proposals
from seg4diff.segmentation.readout import Readout, minmax

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
) -> "Model":
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
        device: where the model goes; None: the accelerator if there is one.
        dtype: "float32", "bfloat16" or "float16"; None: the model's own where the device computes fast in
            it, else float32.
        revision: branch, tag or commit of a hub model.
        quantize: "int8" or "nf4" for the transformer; see `Runtime`.
        cache: folder that keeps text embeddings and latents; see `Runtime`.
        offload_encoders: see `Runtime`.

    Raises:
        UserError: the model or the LoRA is missing, gated, of an unknown kind, or they do not fit each other.
    """
    if isinstance(model, str | Path) and lora is None and str(model) not in names() and (Path(model) / "config.yaml").is_file():
        model, lora = None, model  # the folder of a run
    adapter = None if lora is None else find_lora(lora)
    run = None if adapter is None else run_config(adapter)
    preset, source = _find(model, like, revision, run)
    if source is None:
        backbone = _adopt(model, preset, given=(device, dtype, quantize, cache, offload_encoders or None))
    else:
        place = _device(device)
        runtime = Runtime(
            dtype=dtype or choose_dtype(preset.dtype, place.type),
            quantize=quantize,
            cache=None if cache is None else str(cache),
            offload_encoders=offload_encoders,
        )
        runtime.check_device(place)
        backbone = preset.adapter.from_pretrained(path=source.path, revision=source.revision, runtime=runtime, **preset.options).to(place)
    if adapter is not None:
        block = _add_lora(backbone, adapter, run, preset, block)
        if run is not None and source is not None and not _same_place(source.path, run.backbone.model.path):
            log.warning("the LoRA %s was trained on %s, and this is %s", adapter, run.backbone.model.path, source.path)
    return Model(backbone.eval(), preset, block=block, sigma=sigma, image_size=image_size)


def _adopt(pipeline: DiffusionPipeline, preset: Preset, given: tuple) -> Backbone:
    """A backbone around a pipeline that the caller has loaded."""
    if any(option is not None for option in given):
        raise UserError("a pipeline is used as it is: set its device, its dtype and its memory options on the pipeline itself.")
    runtime = Runtime(dtype=str(pipeline.transformer.dtype).removeprefix("torch."))
    return preset.adapter(pipeline, runtime=runtime, **preset.options)


def _device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, or the accelerator, or the CPU."""
    try:
        place = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that it does not know or cannot reach
        raise UserError(f"`device={device}` cannot be used here ({str(error).splitlines()[0]}): choose cpu, or leave it out.") from error
    return place


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
    named = Preset.named(like) if like is not None else None
    if isinstance(model, DiffusionPipeline):
        return named or Preset.recognised("this pipeline", type(model).__name__, model.transformer.config), None
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


class Model:
    """A text-to-image transformer, and how segmentations are read from it.

    Args:
        backbone: the model.
        preset: how it is read.
        block: block that is read; None = the preset's expert.
        sigma: noise level at which maps are read; None = the preset's.
        image_size: (height, width) that the model sees; None = the preset's.

    Attributes:
        backbone: the model.
        block: block that is read.
        image_size: (height, width) that the model sees; pictures of another shape are padded.

    Raises:
        UserError: the block is not known or does not exist, or the model does not take the size.
    """

    def __init__(
        self,
        backbone: Backbone,
        preset: Preset,
        *,
        block: int | None = None,
        sigma: float | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(block, int | None) or not isinstance(sigma, int | float | None):
            raise UserError(f"`block` must be a whole number and `sigma` a number, found {block!r} and {sigma!r}.")
        chosen = preset.expert if block is None else block
        if chosen is None:
            raise UserError("no expert block is known for this model: say which block is to be read, as in `block=9`.")
        self.backbone, self.block = backbone, chosen
        self.image_size = preset.image_size if image_size is None else to_size(image_size)
        self._reading = preset.readout | ({} if sigma is None else {"sigma": sigma})
        self._merging, self._readout = preset.merging, Readout(**self._reading)
        backbone.select_sites([self.block])
        backbone.token_grid(*self.image_size)

    @torch.no_grad()
    def segment(
        self,
        pictures: Picture | Sequence[Picture],
        words: Sequence[str] | Sequence[Sequence[str]] | None = None,
        *,
        geometry: Geometry = "letterbox",
        background: float | None = None,
        threshold: float | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Find words in pictures, or regions without words.

        Args:
            pictures: one picture, or a list of them, which is one batch.
            words: what to look for; for a list of pictures also a list of words for each. None: regions, numbered from the largest.
            geometry: how a picture meets `image_size`: "letterbox" whole and padded, "stretch" whole in another shape, "crop" its centre.
            background: level in [0, 1]; where no word's map, scaled to [0, 1], reaches it, a pixel has no label. None: every pixel has
                the word whose map is highest there.
            threshold: without words, the divergence in nats below which two maps are one region; None: that of the preset.

        Returns:
            A `Segmentation`, or a list of them for a list of pictures.

        Raises:
            UserError: a picture cannot be read, or a word is empty, repeated or too long.
        """
        sources: list[Any] = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
        asked = words_of_each(words, len(sources))
        if geometry not in GEOMETRIES:
            raise UserError(f"`geometry` must be one of {', '.join(GEOMETRIES)}, found '{geometry}'.")
        placed = [CanvasPicture(source, self.image_size, geometry) for source in sources]
        found = self._regions(placed, threshold) if words is None else self._words(placed, asked, background)
        return found if isinstance(pictures, list | tuple) else found[0]

    def _words(self, placed: Sequence[CanvasPicture], asked: Sequence[Sequence[str]], background: float | None) -> list[Segmentation]:
        readout = self._readout
        if background is not None:
            readout = Readout(**self._reading | {"background": background})
        prompts = [split_names(names, range(len(names)), self.backbone.fits) for names in asked]
        images = torch.stack([one.image for one in placed]).to(self.backbone.device)
        maps = readout.class_maps(self.backbone, images, prompts, [0] * len(placed), [self.block])[self.block]
        level = None if readout.background is None else IGNORE
        return [
            one.result(own_names, readout.segment(own, range(len(own_names)), one.frame, level), minmax(own, one.frame))
            for one, own_names, own in zip(placed, asked, maps, strict=True)
        ]

    def _regions(self, placed: Sequence[CanvasPicture], threshold: float | None) -> list[Segmentation]:
        merging = self._merging | ({} if threshold is None else {"threshold": threshold})
        proposals = ProposalReadout(readout=self._readout, **merging)
        images = torch.stack([one.image for one in placed]).to(self.backbone.device)
        found = proposals.proposals(self.backbone, images, [0] * len(placed), [self.block])[self.block]
        regions = [(one, *by_size(label_proposals(own, one.frame))) for one, own in zip(placed, found, strict=True)]
        return [one.result(numbers, labels, torch.zeros(0, 1, 1)) for one, labels, numbers in regions]

    def attention(self, picture: Picture, prompt: str, *, blocks: Sequence[int] | str = "all") -> Iterator[BlockAttention]:
        """The attention of each block in one pass over a noisy picture, one block after the other; nothing is kept between them.

        Args:
            picture: the picture, padded to `image_size`.
            prompt: the text; its words can be looked up in each block.
            blocks: indices of the blocks, or "all".

        Raises:
            UserError: the picture cannot be read, the prompt is too long, or a block does not exist.
        """
        wanted = range(len(self.backbone.attention_sites())) if blocks == "all" else [int(block) for block in blocks]
        placed = CanvasPicture(picture, self.image_size, "letterbox")
        image = placed.image[None].to(self.backbone.device)
        with torch.no_grad():
            noisy, sigma = self._readout.noisy(self.backbone, image, [0])
            condition = self.backbone.encode_text([prompt])
        grid = self.backbone.token_grid(*self.image_size)
        for visit in visits(self.backbone, wanted, lambda: self.backbone.predict_velocity(noisy, sigma, condition)):
            yield BlockAttention(visit, grid, condition, prompt)
