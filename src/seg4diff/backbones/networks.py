"""Networks beside the model, with weights that the user names: judges of images, SAM."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskGeneration, AutoProcessor, PreTrainedModel

from seg4diff.errors import UserError


def load_network(
    what: str, kind: Any, reader: Any, weights: str, device: torch.device, *, dtype: torch.dtype | str = torch.float32, unused: str = " "
) -> tuple[PreTrainedModel, Any]:
    """A network and what prepares its input, from a folder or a hub id. A hub id is fetched once if it is not in the local cache.

    Args:
        what: what errors call it.
        kind: auto class of the network.
        reader: auto class of what prepares its input.
        weights: folder or hub id.
        device: where the network goes.
        dtype: of the network; "auto" = that of the weights.
        unused: beginning of the names of parameters that may be missing, since nothing reads them.

    Raises:
        UserError: it cannot be loaded, or parameters are missing: transformers would draw them at random.
    """
    if not Path(weights).is_dir() and (weights.count("/") != 1 or weights.startswith((".", "/", "~"))):
        raise UserError(f"there is no folder {weights}: name a folder that transformers' save_pretrained wrote, or a hub id.")
    try:
        network, loading = kind.from_pretrained(weights, dtype=dtype, output_loading_info=True, trust_remote_code=False)
        prepare = reader.from_pretrained(weights, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{weights} could not be loaded as {what} with its processor ({reason}): name other weights.") from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(unused))
    if missing:
        raise UserError(f"{weights} lacks {len(missing)} parameters of a {type(network).__name__}, such as {missing[0]}: fetch it again.")
    return network.eval().requires_grad_(False).to(device), prepare


def load_sam(weights: str) -> tuple[PreTrainedModel, Any]:
    """SAM or SAM 2 and its processor, on the CPU; see `load_network`."""
    kinds = AutoModelForMaskGeneration, AutoProcessor
    return load_network("a SAM model", *kinds, weights, torch.device("cpu"), unused="shared_image_embedding")
