"""Adapters of multi-modal diffusion transformers behind one interface."""

import logging

# Where torchao is installed, diffusers imports it, and it reports which of its extensions this machine lacks. Nothing here needs them.
for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(name).setLevel(logging.ERROR)
