"""The maps do not lose digits: queries and keys in 16 bit, or autocast, give the maps of float64."""

import pytest
import torch

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import affinity, i2t, i2t_per_head, t2i_per_head, text_mass

HALF = [torch.float16, torch.bfloat16]


def random_joint(dtype, std=8.0, grad=False):
    """15 image and 6 text tokens, 3 heads; scores have this standard deviation."""
    generator = torch.Generator().manual_seed(0)
    parts = [std**0.5 * torch.randn(2, 3, tokens, 32, generator=generator) for tokens in (15, 6, 15, 6, 15, 6)]
    return Joint(*(part.to(dtype).requires_grad_(grad) for part in parts), scale=32**-0.5)


def dense(joint):
    """Softmax of all image queries over text and image keys in float64: (B, heads, T, N)."""
    query, keys = joint.image_query.double(), torch.cat([joint.text_key, joint.image_key], dim=2).double()
    whole = (query @ keys.transpose(-1, -2) * joint.scale).softmax(dim=-1)
    return whole[..., : joint.text_key.shape[2]].transpose(-1, -2)


@pytest.mark.parametrize("dtype", HALF)
def test_maps_of_16_bit_queries_and_keys_are_those_of_float64(dtype):
    """Scores rounded to bfloat16 would be wrong by 2.5 % on average."""
    joint = random_joint(dtype)
    joined = dense(joint)
    over_text = joined / joined.sum(dim=2, keepdim=True)
    torch.testing.assert_close(i2t_per_head(joint, "text").double(), over_text, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(i2t(joint, "text").double(), over_text.mean(dim=1), rtol=1e-4, atol=1e-9)
    mass = text_mass(joint).double().unsqueeze(2)
    torch.testing.assert_close(i2t_per_head(joint, "joint").double(), over_text * mass, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(mass[:, :, 0], joined.sum(dim=2), rtol=8e-3, atol=1e-6)  # the mass keeps the digits of its dtype


@pytest.mark.parametrize("dtype", HALF)
def test_training_scores_and_their_gradient_are_those_of_float64(dtype):
    half = random_joint(dtype, grad=True)
    exact = Joint(*(part.detach().double().requires_grad_() for part in vars(half).values() if torch.is_tensor(part)), scale=half.scale)
    for joint in (half, exact):
        i2t(joint, "logits").square().sum().backward()
    torch.testing.assert_close(i2t(half, "logits").double(), i2t(exact, "logits").double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(i2t_per_head(half, "logits").mean(dim=1).double(), i2t(exact, "logits").double(), rtol=1e-5, atol=1e-5)
    step = torch.finfo(dtype).eps  # gradients take the dtype of the queries, rounded once
    torch.testing.assert_close(half.image_query.grad.double(), exact.image_query.grad, rtol=step, atol=1e-4)
    torch.testing.assert_close(half.text_key.grad.double(), exact.text_key.grad, rtol=step, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("scores", ["logits", "text", "joint"])
def test_autocast_changes_no_bit_of_a_map(dtype, scores):
    joint = random_joint(torch.float32)
    expected = [i2t(joint, scores), i2t_per_head(joint, scores)]
    with torch.autocast("cpu", dtype):
        found = [i2t(joint, scores), i2t_per_head(joint, scores)]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_t2i_maps_are_the_image_part_of_what_text_queries_see():
    joint = random_joint(torch.float32)
    query, keys = joint.text_query.double(), torch.cat([joint.image_key, joint.text_key], dim=2).double()
    whole = (query @ keys.transpose(-1, -2) * joint.scale).softmax(dim=-1)
    torch.testing.assert_close(t2i_per_head(joint).double(), whole[..., : joint.image_key.shape[2]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [0, 3, 32, 40])
def test_affinity_is_the_image_to_image_matrix_times_the_maps(classes):
    """The maps may be fewer or more than the keys are wide."""
    joint = random_joint(torch.float32)
    maps = torch.rand(2, classes, 15, generator=torch.Generator().manual_seed(1))
    matrix = (joint.image_query.double() @ joint.image_key.double().transpose(-1, -2) * joint.scale).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(
        affinity(joint, maps).double(), (matrix @ maps.double().transpose(1, 2)).transpose(1, 2), rtol=1e-4, atol=1e-6
    )
