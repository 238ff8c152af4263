"""Noise on the latents that the decoder trains with."""

import pytest
import torch
from diffusers import AutoencoderKL

from seg4diff.tiny.autoencoder import AutoencoderModule
from tests.hosts import VAE


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_noise_has_at_most_its_share_of_the_spread_of_the_latents(share):
    module = AutoencoderModule(
        vae=AutoencoderKL(**VAE), lr=1e-3, kl_weight=0.0, edge_weight=0.0, latent_noise=share, crop=8, save_to="unused"
    )
    latents = 3.0 + 5.0 * torch.randn(64, 4, 12, 20, generator=torch.Generator().manual_seed(0))
    spreads = module._noise_for(latents, torch.Generator().manual_seed(1)).std(dim=(1, 2, 3)) / 5.0
    assert spreads.max() <= share * 1.1 and spreads.mean() == pytest.approx(share / 2, abs=0.03)
