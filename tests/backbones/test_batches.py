"""Prompts of different lengths in one batch, and text that does not attend."""

import pytest
import torch
from tests.families import FAMILIES, HostAttention, inputs, read
from tests.open_hosts import random_lumina2

from seg4diff.attention.guidance import perturbed_guidance
from seg4diff.attention.maps import ABSENT, i2t, quadrant_mass, t2i_per_head
from seg4diff.attention.perturb import blur_text
from seg4diff.attention.seam import edit
from seg4diff.errors import UserError


@pytest.mark.parametrize("name", ["lumina 2", "prx", "qwen-image", "z-image"])
def test_masked_tokens_of_a_shorter_prompt_have_no_map_and_no_mass(name):
    """A batch gives each of its prompts what it has alone, however long the others are."""
    family = FAMILIES[name]
    model = family.model()
    noisy, sigma, condition = inputs(model, ("leaf", "a very long prompt with traffic cone"))
    together = read(model, [family.block], (noisy, sigma, condition))[family.block]
    present = together.text_present
    assert present[1].all() and not present[0].all()
    alone_condition = model.encode_text(["leaf"])
    alone = read(model, [family.block], (noisy[:1], sigma[:1], alone_condition))[family.block]
    assert not i2t(together, "joint")[0][~present[0]].any() and (i2t(together, "logits")[0][~present[0]] == ABSENT).all()
    torch.testing.assert_close(i2t(together, "joint")[0][present[0]], i2t(alone, "joint")[0], atol=1e-6, rtol=1e-4)
    if family.text_attends:
        torch.testing.assert_close(t2i_per_head(together)[0][:, present[0]], t2i_per_head(alone)[0], atol=1e-6, rtol=1e-4)
    for quadrant, mass in quadrant_mass(alone).items():
        torch.testing.assert_close(quadrant_mass(together)[quadrant][0], mass[0], atol=1e-6, rtol=1e-4, equal_nan=True)


def test_where_the_text_does_not_attend_two_quadrants_are_missing():
    family = FAMILIES["prx"]
    model = family.model()
    joint = read(model, [family.block], inputs(model))[family.block]
    mass = quadrant_mass(joint)
    assert mass["t2i"].isnan().all() and mass["t2t"].isnan().all()
    torch.testing.assert_close(mass["i2i"] + mass["i2t"], torch.ones_like(mass["i2i"]))
    with pytest.raises(UserError, match="only the image attends"):
        t2i_per_head(joint)


@pytest.fixture
def ragged():
    """Lumina-Image 2 with two prompts of different lengths: the image of the first stands where the second still has text."""
    model = random_lumina2()
    return model, inputs(model, ("leaf", "a very long prompt with traffic cone"))


def test_the_image_is_found_behind_each_prompt_of_a_batch(ragged):
    model, arguments = ragged
    short, long = map(len, arguments[2].offsets)
    with HostAttention() as host:
        joint = read(model, [1], arguments)[1]
    query, key, value, *_ = [call for call in host.calls if call[1].shape[2] == long + 24][1]
    for row, length in enumerate((short, long)):
        for name, whole in (("query", query), ("key", key), ("value", value)):
            assert torch.equal(getattr(joint, f"image_{name}")[row], whole[row, :, length : length + 24])
            assert torch.equal(getattr(joint, f"text_{name}")[row, :, :length], whole[row, :, :length])


def test_edits_of_a_batch_of_different_lengths_reach_each_row_at_its_place(ragged):
    model, arguments = ragged
    with torch.no_grad():
        plain = model.predict_velocity(*arguments)
        with edit(model, [0, 1], attention=lambda visit: visit.attend(visit.joint), states=lambda image, text: (image, text)):
            assert torch.equal(model.predict_velocity(*arguments), plain)
        with blur_text(model, 1):
            blurred = model.predict_velocity(*arguments)
        with perturbed_guidance(model, 1, 1.5):
            guided = model.predict_velocity(*arguments)
    assert (blurred - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(guided, plain + 1.5 * (plain - blurred), atol=1e-5, rtol=1e-4)
