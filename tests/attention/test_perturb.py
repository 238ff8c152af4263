"""Perturbations of every kind of block, against dense attention."""

import pytest
import torch
from tests.families import FAMILIES, draw_plainly, exact, exact_velocity
from torch.nn.functional import conv1d, pad

from seg4diff.attention.maps import i2t_per_head, text_mass
from seg4diff.attention.perturb import blur_text, blurred, remove, scale_text, text_temperature
from seg4diff.attention.seam import edit, stream
from seg4diff.errors import UserError

SIGMA, KERNEL = 9.0, 5


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.transformer.modules())


def visited(model, perturbation, block):
    """The visit of a block inside a perturbation: what enters its attention, and what the perturbation makes of it."""
    seen = []
    with perturbation, stream(model, [block], seen.append):
        exact_velocity(model)
    return seen[0]


def dense(joint, factor=1.0, blur=None):
    """Softmax over the whole matrix in float64: outputs of image and text, with perturbed weights of the image queries."""
    image_query, image_key, image_value, text_query, text_key, text_value = (
        getattr(joint, f"{kind}_{part}").double() for kind in ("image", "text") for part in ("query", "key", "value")
    )
    keys, values = torch.cat([text_key, image_key], dim=2), torch.cat([text_value, image_value], dim=2)
    tokens, outputs = text_key.shape[2], []
    for name, query, own_factor, own_blur in (("image", image_query, factor, blur), ("text", text_query, 1.0, None)):
        scores = query @ keys.transpose(-1, -2) * joint.scale
        scores[..., :tokens] *= own_factor
        if joint.bias is not None:
            scores = scores + torch.cat([joint.bias_between(name, kind) for kind in ("text", "image")], dim=-1)
        weights = scores.softmax(dim=-1)
        if own_blur is not None:
            weights[..., :tokens] = own_blur(weights[..., :tokens], present=joint.text_present)
        outputs.append(weights @ values)
    return outputs


def dense_blur(weights, sigma=SIGMA, kernel=KERNEL, present=None):
    """(..., N, T): each row convolved with a Gaussian under torch's reflect padding, then scaled to its sum; masked tokens stay at 0."""
    reach = kernel // 2
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    rows = weights.flatten(0, -2).unsqueeze(1)
    mixed = conv1d(pad(rows, (reach, reach), mode="reflect"), (taps / taps.sum())[None, None]).view_as(weights)
    mixed = mixed if present is None else mixed * present[:, None, None]
    return mixed * weights.sum(dim=-1, keepdim=True) / mixed.sum(dim=-1, keepdim=True)


def assert_outputs(visit, expected):
    for ours, theirs in zip(visit.output, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFamily:
    def test_blurred_attention_is_that_of_the_dense_matrix(self, family):
        model = exact(family.model())
        visit = visited(model, blur_text(model, family.block), family.block)
        assert_outputs(visit, dense(visit.joint, blur=dense_blur))
        assert (visit.output[0] - dense(visit.joint)[0]).abs().max() > 1e-4

    def test_a_blur_keeps_the_text_mass_of_each_image_token(self, family):
        model = exact(family.model())
        joint = visited(model, edit(model, []), family.block).joint
        mass = blurred(i2t_per_head(joint, "joint"), SIGMA, KERNEL).sum(dim=2)
        torch.testing.assert_close(mass, text_mass(joint), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
    def test_a_temperature_scales_the_text_scores_of_image_queries(self, family, factor):
        model = exact(family.model())
        visit = visited(model, text_temperature(model, family.block, factor), family.block)
        assert_outputs(visit, dense(visit.joint, factor))

    def test_scaled_text_enters_the_block(self, family):
        model, entered = exact(family.model()), {}

        def note(name):
            return edit(model, [family.block], states=lambda image, text: (entered.setdefault(name, (image, text))[0], text))

        with note("before"), scale_text(model, family.block, 2), note("after"):
            exact_velocity(model)
        image, text = entered["after"]
        assert torch.equal(image, entered["before"][0]) and torch.equal(text, 2 * entered["before"][1])

    def test_a_removed_block_passes_its_tokens_on(self, family):
        model, seen = exact(family.model()), {}
        blocks = [0, 1]

        def note(name, block):
            return edit(model, [block], states=lambda image, text: (seen.setdefault(name, image), text))

        with note("first", 0), note("third", 2), remove(model, blocks):
            exact_velocity(model)
        assert torch.equal(seen["first"], seen["third"])

    def test_a_setting_that_changes_nothing_changes_no_bit_and_adds_no_hook(self, family):
        model = exact(family.model())
        plain, before = exact_velocity(model), hooks(model)
        for idle in (blur_text(model, 1, sigma=0), scale_text(model, [0, 1], 1), text_temperature(model, family.block, 1.0)):
            with idle:
                assert hooks(model) == before and torch.equal(exact_velocity(model), plain)

    def test_every_perturbation_acts_and_is_gone_after_an_exception(self, family):
        model, block = exact(family.model()), family.block
        plain, before = exact_velocity(model), hooks(model)
        for use in (blur_text, remove, lambda *at: scale_text(*at, 0), lambda *at: text_temperature(*at, 2)):
            with pytest.raises(KeyboardInterrupt), use(model, [block, 0]):
                assert (exact_velocity(model) - plain).abs().max() > 1e-5
                raise KeyboardInterrupt
            assert hooks(model) == before and torch.equal(exact_velocity(model), plain)

    def test_a_perturbation_reaches_the_plain_pipeline(self, family):
        model = exact(family.model())

        def draw():
            options = {"num_inference_steps": 2, "height": 32, "width": 48, "output_type": "latent"}
            options |= model._guidance_options(4.0, 1) | model._text_options
            return draw_plainly(model._pipeline, prompt="apple", generator=torch.Generator().manual_seed(0), **options)

        plain = draw()
        for use in (blur_text, remove, lambda *at: scale_text(*at, 0), lambda *at: text_temperature(*at, 2)):
            with use(model, [0, family.block]):
                assert (draw() - plain).abs().max() > 1e-5
        assert torch.equal(draw(), plain)


def random_maps(tokens, dtype=torch.float64):
    return torch.rand(2, 3, tokens, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64).pow(8).to(dtype)


@pytest.mark.parametrize(("sigma", "kernel", "tokens"), [(9.0, 5, 40), (0.7, 9, 11), (2.0, 5, 3), (9.0, 1, 1)])
def test_a_blur_is_a_convolution_with_reflected_ends(sigma, kernel, tokens):
    maps = random_maps(tokens)
    expected = dense_blur(maps.transpose(-1, -2), sigma, kernel).transpose(-1, -2)
    torch.testing.assert_close(blurred(maps, sigma, kernel), expected, atol=1e-12, rtol=1e-9)


def test_a_text_of_one_token_has_nothing_to_blur():
    maps = random_maps(1)
    assert torch.equal(blurred(maps, SIGMA, KERNEL), maps)


def test_an_image_token_that_sees_no_text_still_sees_none():
    assert torch.equal(blurred(torch.zeros(1, 1, 8, 3), 9.0, 5), torch.zeros(1, 1, 8, 3))


def test_autocast_changes_no_bit_of_a_blur():
    maps = random_maps(12, torch.float32)
    expected = blurred(maps, SIGMA, KERNEL)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(blurred(maps, SIGMA, KERNEL), expected)


def test_only_the_named_blocks_are_perturbed(backbone):
    exact(backbone)
    plain = [visited(backbone, edit(backbone, []), block).output[0] for block in (0, 1)]
    found = [visited(backbone, blur_text(backbone, [1, 1]), block).output[0] for block in (0, 1)]
    assert torch.equal(found[0], plain[0]) and not torch.allclose(found[1], plain[1])


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda model: blur_text(model, 3), "block 3 does not exist: this model has 3 joint-attention blocks, 0 to 2"),
        (lambda model: remove(model, [0, -1]), "block -1 does not exist"),
        (lambda model: remove(model, []), r"`block` must be the index of a block, or several in a list, found \[\]"),
        (lambda model: scale_text(model, "all", 2), "`block` must be the index of a block, or several in a list, found 'all'"),
        (lambda model: blur_text(model, 1, sigma=-1), "`sigma` of the blur must be a number from 0, found -1"),
        (lambda model: blur_text(model, 1, sigma=float("nan")), "`sigma` of the blur must be a number from 0, found nan"),
        (lambda model: blur_text(model, 1, kernel=4), "`kernel` must be an odd number from 1, found 4"),
        (lambda model: blur_text(model, 1, kernel=-1), "`kernel` must be an odd number from 1, found -1"),
        (lambda model: scale_text(model, 1, "twice"), "`factor` must be a number from 0, found 'twice'"),
        (lambda model: text_temperature(model, 1, -2), "`factor` must be a number from 0, found -2"),
    ],
)
def test_what_cannot_be_perturbed_is_a_sentence_at_once(backbone, use, sentence):
    with pytest.raises(UserError, match=sentence):
        use(backbone)


def test_a_kernel_beyond_the_reflected_text_is_a_sentence(backbone):
    with pytest.raises(UserError, match="`kernel` must be at most 63 for a text of 32 tokens, found 65"), blur_text(backbone, 1, kernel=65):
        exact_velocity(exact(backbone))
