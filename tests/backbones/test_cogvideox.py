"""CogVideoX among models of flow matching: noise levels are time steps, and velocities are its own predictions."""

from dataclasses import replace

import pytest
import torch
from sentencepiece import SentencePieceTrainer
from tests.families import exact, inputs
from tests.open_hosts import random_cogvideox

from seg4diff.backbones.cogvideox import CogVideoXBackbone
from seg4diff.backbones.hooks import change_output, see_arguments
from seg4diff.errors import UserError
from seg4diff.flow import interpolate, velocity

STEPS = torch.tensor([100, 900])


@pytest.fixture(scope="module")
def model():
    return exact(random_cogvideox())


@pytest.fixture
def noised(model):
    """Latents of two pictures, noise, and as much of it as the time steps `STEPS` have."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 12, generator=generator, dtype=torch.float64)
    kept = model._pipeline.scheduler.alphas_cumprod[STEPS].double()
    share = ((1 - kept) / kept).sqrt()
    return latents, noise, share / (1 + share)


def predict(model, latents, noise, sigma, output):
    """The velocity where the transformer returns what `output` makes of its own, and the arguments that it got."""
    seen = []
    with torch.no_grad(), see_arguments(model.transformer, seen.append), change_output(model.transformer, lambda _, own: (output(own[0]),)):
        found = model.predict_velocity(interpolate(latents, noise, sigma), sigma, inputs(model)[2])
    return found, seen[0]


def test_the_transformer_gets_the_latents_and_the_time_step_of_its_own_schedule(model, noised):
    latents, noise, sigma = noised
    _, arguments = predict(model, latents, noise, sigma, lambda own: own)
    expected = model._pipeline.scheduler.add_noise(latents.unsqueeze(1), noise.unsqueeze(1), STEPS)
    torch.testing.assert_close(arguments["hidden_states"], expected, atol=1e-6, rtol=0)
    assert torch.equal(arguments["timestep"], STEPS)


def test_the_exact_prediction_is_the_exact_velocity(model, noised):
    latents, noise, sigma = noised
    target = model._pipeline.scheduler.get_velocity(latents.unsqueeze(1), noise.unsqueeze(1), STEPS)
    found, _ = predict(model, latents, noise, sigma, lambda _: target)
    torch.testing.assert_close(found, velocity(latents, noise), atol=1e-5, rtol=0)


def test_an_error_of_the_prediction_weighs_between_one_and_two_in_the_loss(model, noised):
    plain, off = (predict(model, *noised, lambda own, extra=extra: own + extra)[0] for extra in (0.0, 1.0))
    weight = (off - plain).square()
    kept = model._pipeline.scheduler.alphas_cumprod[STEPS].double()
    torch.testing.assert_close(weight[:, 0, 0, 0], (kept.sqrt() + (1 - kept).sqrt()).square(), atol=1e-6, rtol=0)
    assert weight.min() >= 1 and weight.max() <= 2


def test_noise_levels_from_0_to_1_have_a_time_step(model):
    steps = model._time_steps(torch.tensor([0.0, 0.01, 0.5, 1.0]))
    assert steps[:2].tolist() == [0, 0] and steps[-1] == 999
    assert 0 < steps[2] < 999 and steps.dtype == torch.int64


def test_the_noise_levels_of_a_run_begin_with_pure_noise(model):
    model.sample(["apple"], seeds=[0], steps=4, guidance=1.0, size=(32, 48))
    levels = model.noise_levels()
    assert levels[0] == 1 and levels == sorted(levels, reverse=True) and len(levels) == 4


def test_half_precision_gives_nearly_the_same_velocity_and_keeps_its_noise_level():
    whole, half = random_cogvideox(), random_cogvideox()
    half._pipeline.to(torch.float16)
    noisy, _, condition = inputs(whole)
    condition = replace(condition, embeddings=condition.embeddings.half(), pooled=condition.pooled.half())
    sigma, seen = torch.tensor([0.5884026, 0.9]), []
    with torch.no_grad(), see_arguments(half.transformer, seen.append):
        expected, found = whole.predict_velocity(noisy, sigma, inputs(whole)[2]), half.predict_velocity(noisy.half(), sigma, condition)
    assert torch.equal(seen[0]["timestep"], whole._time_steps(sigma)) and seen[0]["hidden_states"].dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_models_that_are_read_otherwise_are_refused():
    pipeline = random_cogvideox()._pipeline
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    with pytest.raises(UserError, match=r"^a CogVideoX predicts v \(v_prediction\), and the `prediction_type` of this"):
        CogVideoXBackbone(pipeline)
    pipeline.transformer.register_to_config(use_rotary_positional_embeddings=True)
    with pytest.raises(UserError, match=r"^this CogVideoX has rotary embeddings, and the adapter reads those with sinusoidal ones"):
        CogVideoXBackbone(pipeline)


def test_a_tokenizer_of_sentencepiece_alone_is_read(tmp_path):
    """The published folder has a spiece.model and no tokenizer.json."""
    random_cogvideox().save_pretrained(tmp_path)
    for file in (tmp_path / "tokenizer").glob("tokenizer.json"):
        file.unlink()
    lines, options = ["an apple", "two stars", "a leaf"], {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    with (tmp_path / "tokenizer" / "spiece.model").open("wb") as file:
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, vocab_size=18, hard_vocab_limit=False, **options)
    condition = CogVideoXBackbone.from_pretrained(path=str(tmp_path)).encode_text(["an apple"])
    inside, before = condition.tokens_between(0, 3, 8), condition.tokens_between(0, 0, 2)
    assert inside and before and max(before) < min(inside)
