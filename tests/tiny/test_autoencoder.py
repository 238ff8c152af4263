"""Trainings of an autoencoder on pictures: noise on the latents, and a small one that learns the latents of another."""

import lightning as L
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.utils.data import DataLoader

from seg4diff.data.sample import Batch
from seg4diff.errors import UserError
from seg4diff.tiny.autoencoder import AutoencoderModule, StudentModule
from tests.hosts import VAE, random_tiny


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


@pytest.fixture
def student(tmp_path):
    teacher = AutoencoderKL(**VAE, shift_factor=0.1, scaling_factor=0.5)
    rates = {"lr": 1e-2, "edge_weight": 0.5, "latent_noise": 0.2, "crop": 16}
    return StudentModule(vae=random_tiny(), teacher=teacher, **rates, save_to=str(tmp_path / "vae"))


@pytest.fixture
def batch():
    coarse = torch.rand(4, 3, 6, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    return Batch(images, masks=[], captions=[""] * 4, names=[""] * 4, indices=[0] * 4)


def test_a_student_learns_the_latents_that_the_transformer_takes(student, batch, tmp_path):
    """The latents of the teacher, shifted and scaled; the teacher stays as it is, and what is saved is an autoencoder of diffusers."""
    images, before = batch.images, [weight.clone() for weight in student.teacher.parameters()]
    targets = student._targets(images)
    torch.testing.assert_close(targets, (student.teacher.encode(images).latent_dist.mean - 0.1) * 0.5)
    error = (student.vae.encode(images).latents - targets).square().mean()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_steps=60, accelerator="cpu", **quiet).fit(student, DataLoader([batch] * 60, batch_size=None))
    saved = AutoencoderTiny.from_pretrained(tmp_path / "vae")
    assert (saved.encode(images).latents - targets).square().mean() < 0.8 * error
    assert all(torch.equal(one, other) for one, other in zip(student.teacher.parameters(), before, strict=True))
