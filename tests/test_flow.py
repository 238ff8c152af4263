"""The noising path and its draws."""

import numpy as np
import pytest
import torch

from seg4diff.errors import UserError
from seg4diff.flow import draw, interpolate, logit_normal, mixture, shift_sigma, shifted_uniform, velocity

LATENTS, NOISE = (torch.randn(3, 4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))


def test_the_path_runs_from_latents_to_noise():
    assert torch.equal(interpolate(LATENTS, NOISE, torch.zeros(3).double()), LATENTS)
    assert torch.equal(interpolate(LATENTS, NOISE, torch.ones(3).double()), NOISE)
    mixed = interpolate(LATENTS, NOISE, torch.tensor([0.0, 1.0, 0.5]).double())
    assert torch.equal(mixed[0], LATENTS[0]) and torch.equal(mixed[1], NOISE[1])


def test_velocity_is_the_derivative_of_the_path():
    sigma, step = torch.tensor([0.1, 0.5, 0.9]).double(), 1e-5
    slope = (interpolate(LATENTS, NOISE, sigma + step) - interpolate(LATENTS, NOISE, sigma - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity(LATENTS, NOISE), atol=1e-9, rtol=1e-9)


def test_shift_keeps_the_ends_and_moves_towards_noise():
    sigma = torch.linspace(0, 1, 11).double()
    torch.testing.assert_close(shift_sigma(sigma, 1.0), sigma)
    for shift in (2.0, 3.0):
        shifted = shift_sigma(sigma, shift)
        assert shifted[0] == 0 and shifted[-1] == 1
        assert (shifted[1:-1] > sigma[1:-1]).all() and (shifted.diff() > 0).all()
        torch.testing.assert_close(shift_sigma(shifted, 1 / shift), sigma)
    torch.testing.assert_close(shift_sigma(shift_sigma(sigma, 2.0), 1.5), shift_sigma(sigma, 3.0))


@pytest.mark.parametrize(
    ("sampler", "median"),
    [(shifted_uniform(shift=1.0), 0.5), (shifted_uniform(shift=3.0), 0.75), (logit_normal(mean=-1.0, std=0.5), 0.2689)],
)
def test_noise_levels_have_the_median_of_their_distribution(sampler, median):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sampler(generator) for _ in range(2000)])
    assert (drawn > 0).all() and (drawn < 1).all()
    assert float(drawn.median()) == pytest.approx(median, abs=0.03)


def test_a_mixture_draws_from_each_distribution_equally_often():
    generator = torch.Generator().manual_seed(0)
    sampler = mixture(samplers=[lambda _: 0.2, shifted_uniform(shift=5.0), lambda _: 0.9])
    drawn = [sampler(generator) for _ in range(3000)]
    assert [drawn.count(level) for level in (0.2, 0.9)] == pytest.approx([1000, 1000], abs=80)


def draw_ids(ids, seed=0):
    return draw(torch.zeros(len(ids), 4, 5, 7), ids, seed, shifted_uniform(shift=2.0))


@pytest.mark.parametrize("ids", [[8], [8, 2], [5, 1, 3, 8], [2**40, 8, 0]])
def test_a_draw_depends_on_seed_and_id_alone(ids):
    torch.manual_seed(len(ids))
    (noise, sigma), (alone, level) = draw_ids(ids), draw_ids([8])
    assert torch.equal(noise[ids.index(8)], alone[0]) and torch.equal(sigma[ids.index(8)], level[0])


def test_other_ids_and_seeds_draw_independently():
    noise, sigma = zip(*(draw_ids(list(range(20)), seed) for seed in (0, 1)), strict=True)
    noise, sigma = torch.cat(noise).flatten(1), torch.cat(sigma)
    assert len(set(sigma.tolist())) == 40
    correlation = torch.corrcoef(noise) - torch.eye(40)
    assert correlation.abs().max() < 0.45, "140 independent values per draw"
    assert float(noise.mean()) == pytest.approx(0, abs=0.05) and float(noise.std()) == pytest.approx(1, abs=0.05)


def test_global_generators_are_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw_ids([1, 2, 3])
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == numpy_before).all()


def test_noise_is_as_wide_as_the_latents_and_sigma_keeps_its_digits():
    noise, sigma = draw(LATENTS, [1, 2, 3], 0, shifted_uniform(shift=2.0))
    same, level = draw(LATENTS.float(), [1, 2, 3], 0, shifted_uniform(shift=2.0))
    assert noise.dtype == torch.float64 and sigma.dtype == torch.float32
    assert torch.equal(noise.float(), same) and torch.equal(sigma, level)
    assert draw(LATENTS.half(), [1], 0, shifted_uniform(shift=2.0))[1].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_latents_in_16_bit_are_rounded_once(dtype):
    """The noise level 0.3 is 0.30078 in bfloat16: mixed in 16 bit, the latents would have another noise level than the model is told."""
    latents = LATENTS.to(dtype)
    noise, sigma = draw(latents, [1, 2, 3], 0, lambda _: 0.3)
    level = sigma[0].double()
    assert torch.equal(interpolate(latents, noise, sigma), ((1 - level) * latents.double() + level * noise.double()).float().to(dtype))
    assert torch.equal(velocity(latents, noise), noise - latents.float()), "the target is not rounded"
    assert torch.equal(noise, draw(latents.float(), [1, 2, 3], 0, lambda _: 0.3)[0]), "nor is the noise"


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (lambda: shifted_uniform(shift=0.0), "`shift` must be above 0, found 0.0"),
        (lambda: shifted_uniform(shift=-3.0), "`shift` must be above 0, found -3.0"),
        (lambda: logit_normal(mean=0.0, std=-1.0), "`std` must be at least 0, found -1.0"),
    ],
)
def test_distributions_that_are_none(sampler, said):
    with pytest.raises(UserError, match=said):
        sampler()
