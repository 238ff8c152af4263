"""Noise on the latents that the decoder trains with."""

import pytest
import torch
from diffusers import AutoencoderKL

from seg4diff.errors import UserError
from seg4diff.tiny.autoencoder import AutoencoderModule
from tests.hosts import VAE


def autoencoder(**values):
    rates = {"lr": 1e-3, "kl_weight": 0.0, "edge_weight": 0.0, "latent_noise": 0.0, "crop": 8} | values
    return AutoencoderModule(vae=AutoencoderKL(**VAE), **rates, save_to="unused")


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_noise_has_at_most_its_share_of_the_spread_of_the_latents(share):
    module = autoencoder(latent_noise=share)
    latents = 3.0 + 5.0 * torch.randn(64, 4, 12, 20, generator=torch.Generator().manual_seed(0))
    spreads = module._noise_for(latents, torch.Generator().manual_seed(1)).std(dim=(1, 2, 3)) / 5.0
    assert spreads.max() <= share * 1.1 and spreads.mean() == pytest.approx(share / 2, abs=0.03)


@pytest.mark.parametrize("name", ["lr", "kl_weight", "edge_weight", "latent_noise", "crop"])
def test_values_below_what_they_may_be(name):
    with pytest.raises(UserError, match=f"`{name}` must be .*, found -1"):
        autoencoder(**{name: -1})


def test_a_crop_larger_than_the_images():
    with pytest.raises(UserError, match=r"`crop` must be at most the shorter side of the images \(24 x 40\), found 32"):
        autoencoder(crop=32)._random_crop(torch.zeros(1, 3, 24, 40), torch.Generator())
