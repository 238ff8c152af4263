"""Small random models and data that the tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from seg4diff.backbones.scratch import new_sd3_pipeline
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.data.toyworld.captions import lexicon

REPO = Path(__file__).resolve().parents[1]


def random_sd3(*, qk_norm: str | None = None, dual: tuple[int, ...] = (), blocks: int = 3, heads: int = 2, t5_length: int = 0):
    """A random SD3 whose adaptive norms do something (their zero initialisation would hide errors)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            latent_channels=4,
            block_out_channels=[8, 8, 8],
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            norm_num_groups=4,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.1,
            scaling_factor=0.5,
            sample_size=32,
        )
    pipeline = new_sd3_pipeline(
        transformer={
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": blocks,
            "attention_head_dim": 8,
            "num_attention_heads": heads,
            "caption_projection_dim": 8 * heads,
            "pos_embed_max_size": 12,
            "qk_norm": qk_norm,
            "dual_attention_layers": dual,
        },
        vae=vae,
        text_encoder={"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        words=lexicon(),
        text_length=32,
        shift=2.0,
        pooled_text=False,
        seed=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in pipeline.transformer.parameters():
            weight.data.normal_(0, 0.2)
    return SD3Backbone(pipeline, t5_length=t5_length).eval()


@pytest.fixture
def backbone() -> SD3Backbone:
    return random_sd3()


@pytest.fixture(scope="session")
def assets(tmp_path_factory) -> Path:
    from tests.runs import make_assets

    return make_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder that keeps the drawn toy scenes of the whole test session."""
    return tmp_path_factory.mktemp("data")
