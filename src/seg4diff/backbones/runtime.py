"""Options for speed and memory: dtype, quantisation, attention kernels, checkpointing, caches."""

import logging
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from seg4diff.errors import UserError, of_kind

log = logging.getLogger(__name__)

Quantization = Literal["int8", "nf4"]
DTYPES = ("float32", "bfloat16", "float16", "float64")
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
"""What Lightning's precisions of 16 bit compute in."""
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
"""What torchrun and Slurm number the processes of a machine by."""
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


def computes_fast(dtype: torch.dtype, device: str) -> bool:
    """Whether a kind of device computes in this dtype at least about as fast as in float32.

    A CPU does not in 16 bit: a matrix product takes up to a hundred times as long. (Newer ones have instructions for it, which torch does
    not reliably tell; there, name the dtype.) Nvidia's cards before Ampere only emulate bfloat16.

    Args:
        dtype: the dtype of weights or of autocast.
        device: type of a torch device, e.g. "cpu", "cuda" or "mps".
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return True
    if device == "cuda" and dtype == torch.bfloat16:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device != "cpu"


def own_device() -> str:
    """Type of the device that this machine runs models on: its accelerator, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else accelerator.type


def find_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, or else the accelerator, or the CPU.

    Where torchrun or Slurm has started several processes on this machine, each has an accelerator of its own.

    Raises:
        UserError: there is no such device.
    """
    try:
        place = torch.device(device or _accelerator_of_process() or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that it does not know or cannot reach
        raise UserError(f"`device={device}` cannot be used here ({str(error).splitlines()[0]}): choose cpu, or leave it out.") from error
    return place


def _accelerator_of_process() -> str | None:
    """The accelerator; one of several by the number that a launcher gives to this process; None where there is none."""
    if (kind := own_device()) == "cpu":
        return None
    number = next((os.environ[name] for name in LOCAL_RANKS if os.environ.get(name)), None)
    return kind if number is None else f"{kind}:{int(number) % torch.accelerator.device_count()}"


def choose_dtype(preferred: str, device: str) -> str:
    """The dtype that "auto" takes on a device: the preferred one, or float32 where that is slow, with a line in the log."""
    if computes_fast(getattr(torch, preferred), device):
        return preferred
    log.info("dtype auto: float32, because this machine's %s computes slowly in %s, the model's own", device, preferred)
    return "float32"


def choose_precision(preferred: str, device: str) -> str:
    """The trainer's precision that "auto" takes on a device: the preferred one, or 32-true where that is slow, with a line in the log."""
    if preferred not in AUTOCAST or computes_fast(AUTOCAST[preferred], device):
        return preferred
    log.info("precision auto: 32-true, because this machine's %s computes slowly in %s, the model's own", device, preferred)
    return "32-true"


class Runtime:
    """Options that change speed and memory, not the method.

    Args:
        dtype: torch dtype of the weights: "float32", "bfloat16", "float16" or "float64"; a LoRA stays in float32. "auto" = `preferred`
            where the machine computes fast in it, else float32.
        preferred: the model's own dtype, for "auto".
        attention: an attention backend of diffusers, e.g. "flash" or "_native_cudnn"; None = torch's own choice.
        gradient_checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        compile: run the blocks through `torch.compile`, except those whose attention has been read.
        quantize: "int8" (torchao, weight only, also on the CPU) or "nf4" (bitsandbytes) for the frozen transformer, None = neither.
        offload_encoders: keep text encoders and autoencoder on the CPU except while they are in use.
        cache: folder that keeps text embeddings and latents; what it holds needs no encoder. None = no cache.
        autoencoder: folder or hub id of an AutoencoderTiny of diffusers that takes the place of the model's autoencoder. Its latents, and
            with them maps and images, are slightly others. None = the model's own.
        autoencoder_tile: side in pixels of the overlapping tiles on which the autoencoder works, which takes less memory and more time, and
            changes latents slightly. None = the whole picture.

    Raises:
        UserError: an unknown value, or a package that the value needs is not installed.
    """

    def __init__(
        self,
        *,
        dtype: str = "float32",
        preferred: str = "float32",
        attention: str | None = None,
        gradient_checkpointing: bool = False,
        compile: bool | str = False,
        quantize: Quantization | None = None,
        offload_encoders: bool = False,
        cache: str | None = None,
        autoencoder: str | None = None,
        autoencoder_tile: int | None = None,
    ) -> None:
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"`dtype` must be auto or one of {', '.join(DTYPES)}, found '{dtype}'.")
        if preferred not in DTYPES:
            raise UserError(f"`preferred` must be one of {', '.join(DTYPES)}, found '{preferred}'.")
        for name, value in (("gradient_checkpointing", gradient_checkpointing), ("offload_encoders", offload_encoders)):
            if not isinstance(value, bool):
                raise UserError(f"`{name}` must be true or false, found '{value}'.")
        if not isinstance(compile, bool) and compile not in torch.compiler.list_backends(exclude_tags=()):
            raise UserError(f"`compile` must be true, false or a backend of torch.compile, found '{compile}'.")
        if cache is not None and not isinstance(cache, str):
            raise UserError(f"`cache` must be a folder, found '{cache}'.")
        of_kind("a folder or a hub id", str, autoencoder=autoencoder)
        of_kind("a number of pixels", int, autoencoder_tile=autoencoder_tile)
        if autoencoder is not None and autoencoder_tile is not None:
            raise UserError("`autoencoder_tile` is for the model's own autoencoder, and `autoencoder` replaces it: leave one of them out.")
        if quantize is not None and quantize not in get_args(Quantization):
            raise UserError(f"`quantize` must be one of {', '.join(get_args(Quantization))}, found '{quantize}'.")
        if quantize is not None and find_spec(PACKAGES[quantize]) is None:
            raise UserError(f"`quantize={quantize}` needs the package {PACKAGES[quantize]}: pip install {PACKAGES[quantize]}.")
        if quantize == "nf4" and not torch.accelerator.is_available():
            raise UserError("`quantize=nf4` needs an accelerator, and this machine has none: use int8, which also runs on the CPU.")
        self._auto = dtype == "auto"
        self.dtype = getattr(torch, choose_dtype(preferred, own_device()) if self._auto else dtype)
        self.quantize, self.offload_encoders = quantize, offload_encoders
        self.autoencoder, self.autoencoder_tile = autoencoder, autoencoder_tile
        self.cache = Path(cache) if cache is not None else None
        self._attention, self._checkpointing, self._compile = attention, gradient_checkpointing, compile

    def quantization(self) -> dict[str, Any]:
        """What to hand to `from_pretrained` of the transformer."""
        if self.quantize is None:
            return {}
        try:
            return {"quantization_config": self._quantization_config()}
        except (ImportError, ValueError) as error:
            raise UserError(f"`quantize={self.quantize}` cannot be used ({error}): update {PACKAGES[self.quantize]}.") from error

    def _quantization_config(self) -> Any:
        if self.quantize == "int8":
            from diffusers import TorchAoConfig
            from torchao.quantization import Int8WeightOnlyConfig

            return TorchAoConfig(Int8WeightOnlyConfig())
        from diffusers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype)

    def apply(self, transformer: ModelMixin, blocks: list[nn.Module]) -> None:
        """Set up a loaded transformer.

        Args:
            transformer: the diffusers transformer.
            blocks: its transformer blocks.

        Raises:
            UserError: the attention backend does not exist, is not installed, or cannot reach this model's attention.
        """
        if self._attention is not None:
            self._set_attention(transformer)
        if self._checkpointing:
            transformer.enable_gradient_checkpointing()
        if self._compile:
            for block in blocks:
                block.compile(**({"backend": self._compile} if isinstance(self._compile, str) else {}))

    def check_device(self, device: torch.device) -> None:
        """Try the operations that a model is made of, with these options, under the autocast that is on.

        Raises:
            UserError: the device cannot run them.
        """
        if self.quantize == "int8" and self.dtype == torch.float16 and device.type == "cpu":
            raise UserError("`quantize=int8` overflows in float16 on the CPU: set `dtype=bfloat16` or `dtype=float32`.")
        name = str(self.dtype).removeprefix("torch.")
        if self._auto and not computes_fast(self.dtype, device.type):
            raise UserError(
                f"`dtype=auto` took {name} for this machine's {own_device()}, and this run is on its {device.type}, which computes "
                "slowly in it: set `dtype=float32`."
            )
        try:
            _try_operations(self.dtype, device, self._attention)
        except (RuntimeError, TypeError, ValueError) as error:
            what = name if self._attention is None else f"{name} with `attention={self._attention}`"
            raise UserError(
                f"the device '{device}' cannot run this model in {what} ({str(error).splitlines()[0]}): set `dtype=float32` (in "
                "training also `precision=32-true`), or use another device."
            ) from error

    def _set_attention(self, transformer: ModelMixin) -> None:
        if not any(hasattr(getattr(module, "processor", None), "_attention_backend") for module in transformer.modules()):
            raise UserError(
                f"`attention={self._attention}` cannot be combined with this model: its blocks call torch's attention directly; "
                "leave it out."
            )
        try:
            transformer.set_attention_backend(self._attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"`attention={self._attention}` cannot be used ({error}): choose another, or leave it out.") from error


def _try_operations(dtype: torch.dtype, device: torch.device, attention: str | None) -> None:
    ones = partial(torch.ones, dtype=dtype, device=device)
    values = nn.functional.conv2d(ones(1, 4, 8, 16), ones(4, 4, 1, 1)).flatten(2) @ ones(128, 64)
    values = nn.functional.layer_norm(values, (64,), ones(64), ones(64)).to(dtype).unflatten(-1, (1, 64))  # (1, tokens, heads, d)
    dispatch_attention_fn(values, values, values, backend=attention)
