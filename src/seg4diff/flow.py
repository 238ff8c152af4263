"""Flow matching: the noising path, its velocity and the distribution of noise levels (Lipman et al. 2023; Esser et al. 2024).

sigma is in [0, 1] and 1 is pure noise.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from seg4diff.errors import above_zero, at_least

Level = TypeVar("Level", Tensor, float)
SigmaSampler = Callable[[torch.Generator], float]
"""One noise level in (0, 1) from a generator."""


def interpolate(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) * latents + sigma * noise, in the dtype of the latents.

    Latents in 16 bit are mixed in float32 and rounded once: sigma itself, rounded to bfloat16, would be another noise level.

    Args:
        latents: (B, C, h, w).
        noise: same shape, standard normal.
        sigma: (B,) in [0, 1].
    """
    wide = torch.promote_types(latents.dtype, torch.float32)
    sigma = sigma.to(wide).view(-1, *[1] * (latents.dim() - 1))
    return ((1 - sigma) * latents.to(wide) + sigma * noise.to(wide)).to(latents.dtype)


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Target of the network, d/dsigma of `interpolate`: noise - latents, in float32 or wider."""
    return noise.to(torch.promote_types(noise.dtype, torch.float32)) - latents


def shift_sigma(sigma: Level, shift: float) -> Level:
    """Move noise levels towards noise: shift * sigma / (1 + (shift - 1) * sigma) (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def shifted_uniform(*, shift: float) -> SigmaSampler:
    """Uniform noise levels, shifted towards noise. Raises UserError unless `shift` is above 0."""
    above_zero(shift=shift)
    return lambda generator: shift_sigma(float(torch.rand((), generator=generator)), shift)


def logit_normal(*, mean: float, std: float) -> SigmaSampler:
    """Sigmoid of a normal variable (Esser et al. 2024, eq. 19). Raises UserError where `std` is below 0."""
    at_least(0, std=std)
    return lambda generator: float(torch.sigmoid(mean + std * torch.randn((), generator=generator)))


def mixture(*, samplers: Sequence[SigmaSampler]) -> SigmaSampler:
    """One of several distributions for each noise level, all equally often."""
    return lambda generator: samplers[int(torch.randint(len(samplers), (), generator=generator))](generator)


def draw(latents: Tensor, sample_ids: Iterable[int], seed: int, sample_sigma: SigmaSampler) -> tuple[Tensor, Tensor]:
    """Noise and noise levels that depend on (seed, sample id) alone, not on the batch, the process or the global generator.

    A resumed step is therefore the same step, and a batch split over processes gives the same draws.

    Args:
        latents: (B, C, h, w), for the shape, device and dtype.
        sample_ids: B integers: position of each sample in the run (training) or in the data set (validation).
        seed: seed of the run.
        sample_sigma: distribution of the noise level.

    Returns:
        noise (B, C, h, w), in float32 where the latents are in 16 bit, and sigma (B,), in float32 whatever the latents are: time steps
        need the digits.
    """
    generators = [_generator(seed, sample_id) for sample_id in sample_ids]
    sigma = torch.tensor([sample_sigma(generator) for generator in generators])
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    wide = torch.promote_types(latents.dtype, torch.float32)
    return noise.to(latents.device, wide), sigma.to(latents.device)


def draw_together(latents: Tensor, sample_id: int, seed: int, sample_sigma: SigmaSampler) -> tuple[Tensor, Tensor]:
    """As `draw`, from one random stream for the whole batch: many times faster, for batches that are never split otherwise.

    Args:
        latents: (B, C, h, w), for the shape, device and dtype.
        sample_id: position in the run of the first sample of the batch.
        seed: seed of the run.
        sample_sigma: distribution of the noise level.

    Returns:
        noise (B, C, h, w), which depends on the kind of device too, and sigma (B,).
    """
    host = _generator(seed, sample_id)
    sigma = torch.tensor([sample_sigma(host) for _ in range(len(latents))])
    here = torch.Generator(latents.device).manual_seed(host.initial_seed())
    return torch.randn(latents.shape, generator=here, device=latents.device), sigma.to(latents.device)


def _generator(seed: int, sample_id: int) -> torch.Generator:
    state = np.random.SeedSequence((seed, sample_id)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
