"""Other ways from a picture to latents than the model's autoencoder on the whole picture: a tiny one in its place, or tiles."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, ModelMixin

from seg4diff.backbones.loading import Source
from seg4diff.errors import UserError, renamed

TILED = ("AutoencoderKL", "AutoencoderKLFlux2")
"""Classes whose tiles have one side, which can be set."""
OVERLAP = 4
"""Tiles of diffusers overlap by a quarter of their side, which must be whole latents."""


def load_tiny(weights: str, own: Mapping[str, Any], dtype: torch.dtype) -> AutoencoderTiny:
    """An AutoencoderTiny that takes the place of a model's autoencoder.

    Args:
        weights: folder or hub id.
        own: configuration of the model's autoencoder.
        dtype: dtype of the weights.

    Raises:
        UserError: it is missing or of another kind, or its latents are not those of the model.
    """
    if own.get("_class_name") != AutoencoderKL.__name__:
        raise UserError(
            f"`autoencoder` takes the place of an AutoencoderKL, and this model's is a {own.get('_class_name')}, whose latents are scaled "
            "in another way: leave it out."
        )
    source = Source(weights, None)
    with renamed({"path": "`autoencoder`"}.get), errors_only():
        found = source.autoencoder_config()
        if found.get("_class_name") != AutoencoderTiny.__name__:
            kind = found.get("_class_name", "model without a class")
            raise UserError(f"`autoencoder` must be an AutoencoderTiny, and {weights} is a {kind}: name the folder or hub id of one.")
        tiny, loaded = source.load(AutoencoderTiny, torch_dtype=dtype, output_loading_info=True)
    if loaded["missing_keys"]:
        raise UserError(f"{weights} lacks {len(loaded['missing_keys'])} parameters of an AutoencoderTiny: fetch it again.")
    pairs = {
        "latent channels": (own["latent_channels"], {tiny.config.latent_channels}),
        "pixels per latent": (reduction(own["block_out_channels"]), {reduction(blocks) for blocks in _blocks(tiny)}),
    }
    for name, (expected, values) in pairs.items():
        if values != {expected}:
            raise UserError(
                f"`autoencoder={weights}` has {' and '.join(map(str, sorted(values)))} {name}, and the model needs {expected}: choose one "
                "that was made for this model."
            )
    return tiny


def _blocks(tiny: AutoencoderTiny) -> tuple[list[int], list[int]]:
    """Channels of the stages of encoder and decoder; the picture is halved between two of them."""
    return tiny.config.encoder_block_out_channels, tiny.config.decoder_block_out_channels


def reduction(stages: list[int]) -> int:
    """Pixels per latent of an autoencoder with these stages."""
    return 2 ** (len(stages) - 1)


def check_tile(side: int, own: Mapping[str, Any]) -> None:
    """Raises UserError if the autoencoder with this configuration cannot work on tiles of so many pixels."""
    if own.get("_class_name") not in TILED:
        raise UserError(
            f"`autoencoder_tile` is for {' and '.join(TILED)}, and this autoencoder is a {own.get('_class_name')}: leave it out."
        )
    step = OVERLAP * reduction(own["block_out_channels"])
    if side < 1 or side % step:
        raise UserError(f"`autoencoder_tile` must be a multiple of {step} pixels for this model, found {side}.")


def use_tiles(vae: Any, side: int) -> None:
    """Let an autoencoder work on overlapping tiles of side x side pixels, which it blends; a smaller picture is encoded whole."""
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // reduction(vae.config.block_out_channels)


def weights_hash(vae: ModelMixin) -> str:
    """Changes with the weights of an autoencoder, and not with where they lie."""
    digest = hashlib.sha256()
    for name, weight in sorted(vae.state_dict().items()):
        digest.update(name.encode() + weight.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_pipeline(source: Source, kind: type[DiffusionPipeline], dtype: torch.dtype, **parts: Any) -> DiffusionPipeline:
    """A pipeline from its files, but for these parts; diffusers would warn of a tiny autoencoder, for which it was not saved."""
    with errors_only() if isinstance(parts.get("vae"), AutoencoderTiny) else nullcontext():
        return source.load(kind, torch_dtype=dtype, **parts)


@contextmanager
def errors_only() -> Iterator[None]:
    """Within the block, diffusers warns of nothing."""
    logging = diffusers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
