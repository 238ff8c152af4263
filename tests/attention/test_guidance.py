"""Perturbed-I2T guidance in one pass: what separate passes give, with and without classifier-free guidance."""

import pytest
import torch
from tests.families import FAMILIES, PROMPTS, adapted, draw_plainly, exact, exact_velocity, inputs
from tests.hosts import random_flux, random_flux2, random_sd3
from tests.open_hosts import random_longcat, random_lumina2, random_qwen_image, random_z_image

from seg4diff.attention.guidance import perturbed_guidance
from seg4diff.attention.maps import i2t
from seg4diff.attention.perturb import blur_text
from seg4diff.attention.seam import stream
from seg4diff.backbones.hooks import see_arguments
from seg4diff.backbones.lora import scaled_lora
from seg4diff.errors import UserError

SIZE = (32, 48)


def blurred_velocity(model, block):
    with blur_text(model, block):
        return exact_velocity(model)


def assert_shift(guided, plain, expected, atol=1e-6):
    """The difference that guidance makes is the expected one, and large beside rounding."""
    torch.testing.assert_close(guided - plain, expected, atol=atol, rtol=1e-3)
    assert expected.abs().max() > 1e-5


def draw(model, guidance=4.0, steps=1, prompts=PROMPTS, **options):
    """Latents that the plain pipeline draws from one seed for each prompt."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    sampling = {"num_inference_steps": steps, "height": SIZE[0], "width": SIZE[1], "output_type": "latent"}
    sampling |= model._guidance_options(guidance, len(prompts)) | model._text_options
    return draw_plainly(model._pipeline, prompt=list(prompts), generator=generators, **sampling | options)


UNSCALED = {random_longcat: {"enable_cfg_renorm": False}, random_lumina2: {"cfg_normalization": False}}
"""Without scaling the guided prediction to the length of the prompted one, which is not linear."""


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFamily:
    def test_a_guided_prediction_is_made_of_a_plain_and_a_perturbed_one(self, family):
        model, block = exact(family.model()), family.block
        plain, perturbed = exact_velocity(model), blurred_velocity(model, block)
        with perturbed_guidance(model, block, 1.5):
            assert_shift(exact_velocity(model), plain, 1.5 * (plain - perturbed))
        assert torch.equal(exact_velocity(model), plain)

    @pytest.mark.parametrize("guidance", [1.0, 4.0])
    def test_a_step_of_the_plain_pipeline_is_made_of_separate_passes(self, family, guidance):
        """v_u + g (v_c - v_u) + s (v_c - v_perturbed): latents are linear in the prediction, and g = 1 is that with the prompt alone."""
        if family.make is random_qwen_image and guidance != 1:
            pytest.skip("Qwen-Image's pipeline always scales the guided prediction to the length of the prompted one, which is not linear")
        model, blocks = exact(family.model()), [0, family.block]
        # Flux.1 takes its guidance as an input; Z-Image counts from 0: v_c + g (v_c - v_u)
        alone, options = {random_flux: guidance, random_z_image: 0.0}.get(family.make, 1.0), UNSCALED.get(family.make, {})
        with blur_text(model, blocks):
            perturbed = draw(model, guidance=alone)
        plain, with_prompt = draw(model, guidance=guidance, **options), draw(model, guidance=alone)
        with perturbed_guidance(model, blocks, 2.0):
            guided = draw(model, guidance=guidance, **options)
        rounding = 2e-5 if guided.dtype == torch.float32 else 1e-6  # Z-Image's pipeline keeps its latents in float32
        assert_shift(guided, plain, 2.0 * (with_prompt - perturbed), atol=rounding)

    def test_scale_0_draws_the_bits_of_the_plain_pipeline(self, family):
        model = family.model()
        plain = draw(model, steps=2)
        with perturbed_guidance(model, family.block, 0), perturbed_guidance(model, family.block, 2, sigma=0):
            assert torch.equal(draw(model, steps=2), plain)

    def test_it_is_gone_after_an_exception(self, family):
        model = family.model()
        plain = draw(model, steps=2)

        def stop(*_):
            if model.sampling_step().index == 1:
                raise KeyboardInterrupt

        hook = model.transformer.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt), perturbed_guidance(model, family.block, 2.0):
            draw(model, steps=2)
        hook.remove()
        assert torch.equal(draw(model, steps=2), plain)


@pytest.mark.parametrize(("make", "rows"), [(random_sd3, [6]), (random_flux, [4]), (random_flux2, [4, 2])])
def test_the_copies_are_in_the_same_batch(make, rows):
    """Two images. SD3 predicts both halves of guidance in one pass, Flux.2 in two, Flux.1 has one half."""
    model, found = make(), []
    blocks = [block.attn for block in model.transformer.transformer_blocks[:1]]
    with perturbed_guidance(model, 1, 2.0), see_arguments(blocks[0], lambda arguments: found.append(len(arguments["hidden_states"]))):
        draw(model)
    assert found == rows


def test_flux_with_a_negative_prompt():
    """It is predicted in a pass of its own, later in the step."""
    model = exact(random_flux())
    options = {"negative_prompt": ["leaf", "leaf"], "true_cfg_scale": 3.0}
    with blur_text(model, 1):
        perturbed = draw(model)
    plain, with_prompt = draw(model, **options), draw(model)
    with perturbed_guidance(model, 1, 2.0):
        assert_shift(draw(model, **options), plain, 2.0 * (with_prompt - perturbed))


def test_skipped_layer_guidance_of_the_pipeline(backbone):
    """Its own prediction has a pass of its own too, and is shifted like the others."""
    model, options = exact(backbone), {"skip_guidance_layers": [0], "skip_layer_guidance_start": -1, "skip_layer_guidance_stop": 1}
    with blur_text(model, 1):
        perturbed = draw(model, guidance=1.0)
    plain, with_prompt = draw(model, **options), draw(model, guidance=1.0)
    with perturbed_guidance(model, 1, 2.0):
        assert_shift(draw(model, **options), plain, 2.0 * (with_prompt - perturbed))


def test_pipeline_calls_of_one_step_each_are_told_apart():
    """They have the same time step, and the second is no later pass of the first."""
    model = random_flux()
    with perturbed_guidance(model, 1, 2.0):
        alone = [draw(model, prompts=[prompt]) for prompt in PROMPTS]
        again = [draw(model, prompts=[prompt]) for prompt in reversed(PROMPTS)]
    assert torch.equal(alone[0], again[1]) and torch.equal(alone[1], again[0])


def test_a_prediction_after_an_interrupted_run_is_none_of_the_pipeline(backbone):
    model = exact(backbone)
    plain, perturbed = exact_velocity(model), blurred_velocity(model, 1)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model, steps=3, callback_on_step_end=stop)
    with perturbed_guidance(model, 1, 2.0):
        assert_shift(exact_velocity(model), plain, 2.0 * (plain - perturbed))


def test_as_many_images_as_tokens_do_not_change_positions():
    """Positions are one row for each token, and no row for each image: see `Backbone.unbatched`."""
    model = random_flux(text_length=6)
    with perturbed_guidance(model, 1, 2.0):
        many, one = draw(model, prompts=["apple"] * 6), draw(model, prompts=["apple"])
    torch.testing.assert_close(many[:1], one, atol=1e-5, rtol=1e-4)


def test_arguments_inside_lists_and_dicts_get_copies(backbone):
    noisy, sigma, condition = inputs(backbone)
    call = {"hidden_states": noisy, "timestep": sigma * 1000, "encoder_hidden_states": condition.embeddings}
    nested = {"pooled_projections": condition.pooled, "block_controlnet_hidden_states": [torch.zeros(2, 24, 16)] * 3}
    with torch.no_grad():
        plain = backbone.transformer(**call, **nested).sample
        with perturbed_guidance(backbone, 1, 2.0):
            guided = backbone.transformer(**call, **nested).sample
    assert guided.shape == plain.shape and (guided - plain).abs().max() > 1e-4


def test_two_guidances_add_up(backbone):
    model = exact(backbone)
    plain = exact_velocity(model)
    expected = 1.0 * (plain - blurred_velocity(model, 0)) + 2.0 * (plain - blurred_velocity(model, 1))
    with perturbed_guidance(model, 0, 1.0), perturbed_guidance(model, 1, 2.0):
        assert_shift(exact_velocity(model), plain, expected)


def test_maps_that_are_read_meanwhile_are_those_of_the_prompted_rows(backbone):
    """In the first step the noise is the same, and so are the maps; copies are not among the rows."""

    def read():
        found = []
        with stream(backbone, [1], lambda visit: found.append((visit.step, i2t(visit.joint, "joint")[visit.prompted]))):
            draw(backbone, steps=2)
        return found

    plain = read()
    with perturbed_guidance(backbone, 1, 2.0):
        guided = read()
    assert [step for step, _ in guided] == [0, 1] and {len(maps) for _, maps in guided} == {2}
    torch.testing.assert_close(guided[0][1], plain[0][1], atol=1e-6, rtol=1e-5)


def test_a_lora_is_in_both_predictions():
    model = exact(adapted(FAMILIES["sd3"]))
    for scale in (0, 0.5):
        with scaled_lora(model, scale):
            plain = exact_velocity(model)
            expected = 2.0 * (plain - blurred_velocity(model, 1))
            with perturbed_guidance(model, 1, 2.0):
                assert_shift(exact_velocity(model), plain, expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1, -1), "`scale` must be a number from 0, found -1"),
        ((1, None), "`scale` must be a number from 0, found None"),
        ((7, 1), "block 7 does not exist"),
    ],
)
def test_what_cannot_guide_is_a_sentence_at_once(backbone, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        perturbed_guidance(backbone, *arguments)
