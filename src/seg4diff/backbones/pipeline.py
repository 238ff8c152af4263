"""What the model families share: a diffusers pipeline, encoders that may be loaded late, a cache before them, LoRA files."""

import copy
import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from seg4diff.backbones.autoencoder import check_tile, load_pipeline, load_tiny, reduction, use_tiles, weights_hash
from seg4diff.backbones.base import Backbone, OnStep, SamplingStep, TextCondition
from seg4diff.backbones.cache import EncodingCache, EncodingMemory, Entry, image_bytes
from seg4diff.backbones.loading import Source
from seg4diff.backbones.lora import load_lora, save_lora
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sampling import after_step, current_step
from seg4diff.disk import follow_umask
from seg4diff.errors import UserError

log = logging.getLogger(__name__)


class PipelineBackbone(Backbone):
    """A backbone around a diffusers pipeline; a family says how its own transformer is called.

    Args:
        pipeline: the pipeline; its encoders may be None where `source` can load them.
        text_length: text tokens that the pipeline is asked for.
        text_options: what else the pipeline needs to encode text.
        runtime: options for speed and memory.
        source: where the pipeline came from; None = it is complete, and its encoders may be trained.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    transformer_class: ClassVar[type[nn.Module]]
    encoders: ClassVar[tuple[str, ...]]
    """Components that turn images and prompts into what the transformer takes."""
    guides_in_one_pass: ClassVar[bool] = False
    """Whether the pipeline computes both predictions of classifier-free guidance in one pass."""
    unused: ClassVar[dict[str, None]] = {}
    """Components that the family leaves out, as arguments of `from_pretrained`."""
    length_option: ClassVar[str | None] = "max_sequence_length"
    """Argument of the pipeline that takes the number of text tokens; None = it has none."""
    lora_format: ClassVar[type[Any] | None] = None
    """What writes and reads the LoRA files of a pipeline that has no such methods of its own."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        text_length: int,
        text_options: dict[str, Any] | None = None,
        runtime: Runtime | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self.transformer = pipeline.transformer
        self.text_length, self.runtime, self._source = text_length, runtime or Runtime(), source
        self._text_options = ({self.length_option: text_length} if self.length_option else {}) | (text_options or {})
        self._vae_config = pipeline.vae.config if pipeline.vae is not None else self._origin.vae_config()
        self._adopt(pipeline)
        self._cache: EncodingCache | EncodingMemory | None = self._open_cache()
        self.runtime.apply(self.transformer, [site.block for site in self.attention_sites()])

    @classmethod
    def from_pretrained(cls, *, path: str, revision: str | None = None, runtime: Runtime | None = None, **options: Any) -> Self:
        """Load from a local folder or from the hub.

        Args:
            path: a folder in the layout of diffusers, or a hub id such as "stabilityai/stable-diffusion-3-medium-diffusers".
            revision: branch, tag or commit of a hub model.
            runtime: options for speed and memory (None = float32 and nothing else); with a cache, the encoders are loaded only
                when it lacks something.
            options: arguments of the family.

        Raises:
            UserError: the model is missing, gated or of another kind.
        """
        source, runtime = Source(path, revision), runtime or Runtime()
        source.check_class(cls.pipeline_class)
        parts: dict[str, Any] = cls.unused | (dict.fromkeys(cls.encoders) if runtime.cache is not None else {})
        if runtime.autoencoder is not None:
            parts["vae"] = load_tiny(runtime.autoencoder, source.vae_config(), runtime.dtype)
        if runtime.autoencoder_tile is not None:
            check_tile(runtime.autoencoder_tile, source.vae_config())
        transformer = source.load(cls.transformer_class, subfolder="transformer", torch_dtype=runtime.dtype, **runtime.quantization())
        pipeline = load_pipeline(source, cls.pipeline_class, runtime.dtype, transformer=transformer, **parts)
        return cls(pipeline, runtime=runtime, source=source, **options)

    @property
    def text_window(self) -> int:
        return self.text_length

    @property
    def dtype(self) -> torch.dtype:
        return self.runtime.dtype

    @property
    def source(self) -> Source | None:
        """Where the model was loaded from; None = it was made in memory."""
        return self._source

    @property
    def _origin(self) -> Source:
        assert self._source is not None, "only a pipeline with all of its encoders and without a cache may come from anywhere"
        return self._source

    def _open_cache(self) -> EncodingCache | None:
        if self.runtime.cache is None:
            return None
        text = {"max_sequence_length": self.text_length} | self._text_options
        model = self._origin.identity() | {"dtype": str(self.runtime.dtype), "text": str(text)}
        model |= {name: str(value) for name, value in self.encoding().items()}
        return EncodingCache(self.runtime.cache, model, self._origin.stamp(self.encoders))

    def remember_encodings(self, most: int) -> None:
        """Keep the encodings of the last images and prompts in memory, where there is no cache on disk: a second look encodes nothing."""
        self._cache = self._cache or EncodingMemory(most)

    def encoding(self) -> dict[str, str | int]:
        """How pictures become latents, where it is not by the model's own autoencoder on the whole picture: plain values by name."""
        vae, tile = self._pipeline.vae, self.runtime.autoencoder_tile
        found: dict[str, str | int] = {"autoencoder": weights_hash(vae)} if isinstance(vae, AutoencoderTiny) else {}
        return found if tile is None else found | {"autoencoder_tile": tile}

    def fingerprint(self) -> str:
        """As that of every backbone; it changes with `encoding` too."""
        own = super().fingerprint()
        return hashlib.sha256(f"{own}{encoding}".encode()).hexdigest()[:16] if (encoding := self.encoding()) else own

    def encodings_held(self) -> dict[str, int]:
        """Numbers of images and of prompts that the cache holds of this model; 0 without a cache."""
        return {kind: self._cache.count(kind) if self._cache else 0 for kind in ("image", "text")}

    def _adopt(self, pipeline: DiffusionPipeline) -> None:
        """Take over a pipeline.

        Encoders that were loaded are used and not owned: as part of this module they would follow it onto the accelerator, and processes
        that load them at different moments would no longer hold the same parameters.
        """
        self._pipeline = pipeline
        if self._source is not None:
            pipeline.set_progress_bar_config(disable=True)
        if self.runtime.autoencoder_tile is not None and pipeline.vae is not None:
            use_tiles(pipeline.vae, self.runtime.autoencoder_tile)
        for name in self.encoders:
            if (part := getattr(pipeline, name)) is None:
                continue
            if self._source is None:
                setattr(self, name, part)
            else:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but the encoders drop nothing out: a prompt has one embedding."""
        super().train(mode)
        for name in self.encoders:
            if (part := getattr(self._pipeline, name)) is not None:
                part.eval()
        return self

    @contextmanager
    def _encoding(self, *names: str) -> Iterator[DiffusionPipeline]:
        """The pipeline with these encoders in place, loaded now if they were not needed before.

        They run in their own dtype, whatever autocast is on: what a cache holds does not depend on how it was filled.
        """
        if any(getattr(self._pipeline, name) is None for name in self.encoders):
            log.info("loading the encoders of %s: the cache does not hold everything", self._origin.path)
            held = {name: part for name in self.encoders if (part := getattr(self._pipeline, name)) is not None}
            held |= self.unused | {"transformer": self.transformer}
            with torch.inference_mode(False):
                self._adopt(load_pipeline(self._origin, self.pipeline_class, self.runtime.dtype, **held))
        parts = [getattr(self._pipeline, name) for name in names]
        for part in parts:
            if next(part.parameters()).device != self.device:
                part.to(self.device)
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield self._pipeline
        finally:
            if self.runtime.offload_encoders:
                for part in parts:
                    part.to("cpu")

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        if self._cache is None:
            return self._encode_image(images)

        def encode(missing: list[int]) -> list[Entry]:
            return [{"latents": latents} for latents in self._encode_image(images[missing])]

        entries = self._cache.fetch("image", [image_bytes(image) for image in images], encode)
        return torch.stack([entry["latents"] for entry in entries]).to(self.device, self.runtime.dtype)

    def _encode_image(self, images: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            found = pipeline.vae.encode(images.to(self.device, pipeline.vae.dtype))
        latents = found.latents if isinstance(pipeline.vae, AutoencoderTiny) else found.latent_dist.mean
        return (latents - self._vae_shift) * self._vae_config["scaling_factor"]

    @property
    def _vae_shift(self) -> float:
        return self._vae_config["shift_factor"] or 0.0

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        with self._encoding("vae") as pipeline:
            unscaled = latents / self._vae_config["scaling_factor"] + self._vae_shift
            return pipeline.vae.decode(unscaled.to(self.device, pipeline.vae.dtype)).sample.clamp(-1, 1)

    def encode_text(self, prompts: Sequence[str]) -> TextCondition:
        offsets = [self._character_offsets(prompt) for prompt in prompts]
        for prompt, pairs in zip(prompts, offsets, strict=True):
            if len(pairs) > self.text_window:
                raise UserError(
                    f"the prompt '{prompt[:60]}{'...' if len(prompt) > 60 else ''}' has {len(pairs)} tokens with those that the tokenizer "
                    f"adds, the model takes {self.text_window}: shorten it."
                )
        different = list(dict.fromkeys(prompts))
        rows = [different.index(prompt) for prompt in prompts]
        embeddings, pooled = (part[rows] for part in self._embeddings(different))
        embeddings = embeddings[:, : self._text_axis(max(map(len, offsets)))]
        padding = torch.ones(embeddings.shape[:2], dtype=torch.bool)
        for row, pairs in enumerate(offsets):
            padding[row, : len(pairs)] = torch.tensor([start == end for start, end in pairs])
        return TextCondition(embeddings, pooled, offsets, padding.to(embeddings.device))

    def _embeddings(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, D) and pooled text (B, P) from the cache or the text encoders."""
        names = [name for name in self.encoders if name != "vae"]
        if self._cache is None:
            with self._encoding(*names) as pipeline:
                return self._embed(pipeline, prompts)

        def encode(missing: list[int]) -> list[Entry]:
            with torch.no_grad(), self._encoding(*names) as pipeline:
                embeddings, pooled = self._embed(pipeline, [prompts[k] for k in missing])
            return [{"embeddings": row, "pooled": vector} for row, vector in zip(embeddings, pooled, strict=True)]

        entries = self._cache.fetch("text", [prompt.encode() for prompt in prompts], encode)
        parts = (torch.stack([entry[name] for entry in entries]) for name in ("embeddings", "pooled"))
        embeddings, pooled = (part.to(self.device, self.runtime.dtype) for part in parts)
        return embeddings, pooled

    def fits(self, prompt: str) -> bool:
        return len(self._character_offsets(prompt)) <= self.text_window

    def check_device(self, device: torch.device) -> None:
        self.runtime.check_device(device)

    def _check_size(self, height: int, width: int, step: int, limit: int | None) -> tuple[int, int]:
        """Image tokens (rows, columns) where one token covers `step` pixels and a side has at most `limit` tokens."""
        rows, columns = height // step, width // step
        if min(rows, columns) < 1 or height % step or width % step or (limit is not None and max(rows, columns) > limit):
            most = "" if limit is None else f" and at most {limit * step}"
            raise UserError(
                f"image size {height} x {width} does not fit this model: height and width must be multiples of {step}{most}; set "
                "`image_size`."
            )
        return rows, columns

    @property
    def _vae_scale(self) -> int:
        """Pixels per latent."""
        return reduction(self._vae_config["block_out_channels"])

    def _character_offsets(self, prompt: str) -> list[tuple[int, int]]:
        """For each token of the prompt, uncut, the (start, end) characters it stands for; (0, 0) where it stands for none."""
        return self._pipeline.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]

    def _text_axis(self, longest: int) -> int | None:
        """Text tokens of a batch whose longest prompt has so many; None = always as many as `_embed` gives."""
        return None

    @abstractmethod
    def _embed(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, D) and pooled text (B, P) of prompts that fit; P = 0 where the family has none."""

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        size: tuple[int, int],
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        if len(prompts) != len(seeds):
            raise UserError(f"every image needs a seed of its own: found {len(prompts)} prompts and {len(seeds)} seeds.")
        options = {"height": size[0], "width": size[1], "num_inference_steps": steps, "latents": noise, **self._text_options}
        options |= self._guidance_options(guidance, len(prompts))
        options |= {"prompt": list(prompts), "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
        with self._encoding(*self.encoders) as pipeline:
            return self._draw(pipeline, on_step, **options)

    def _draw(self, pipeline: DiffusionPipeline, on_step: OnStep | None, **options: Any) -> list[Image.Image]:
        """Call the pipeline with these arguments, and `on_step` after each step."""
        return pipeline(callback_on_step_end=after_step(on_step), **options).images

    def _guidance_options(self, guidance: float, count: int) -> dict[str, Any]:
        """Arguments of the pipeline for this guidance scale and so many prompts."""
        return {"guidance_scale": guidance}

    def sampling_step(self) -> SamplingStep | None:
        return None if self._predicting else current_step(self._pipeline, both_halves=self.guides_in_one_pass)

    def noise_levels(self) -> list[float]:
        scheduler = self._pipeline.scheduler
        return (scheduler.timesteps / scheduler.config.num_train_timesteps).tolist()

    def save_pretrained(self, folder: Path) -> None:
        copy.deepcopy(self._pipeline).to(torch.float16).save_pretrained(folder)
        follow_umask(folder)

    def save_lora(self, folder: Path, comfyui: bool = False) -> None:
        save_lora(self, folder, (self.lora_format or self.pipeline_class).save_lora_weights, comfyui)

    def load_lora(self, path: Path) -> None:
        load_lora(self, Path(path), (self.lora_format or self.pipeline_class).lora_state_dict)
