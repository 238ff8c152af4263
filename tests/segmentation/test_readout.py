"""Known maps give known segmentations, with height and width apart."""

import pytest
import torch
from tests.hosts import random_sd3

from seg4diff.data.sample import present_classes
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import list_names
from seg4diff.segmentation.readout import Readout, pool_words, segment

NAMES = ("apple", "traffic cone", "night sky", "zebra")


@pytest.fixture(scope="module")
def model():
    return random_sd3()


def readout(**changes) -> Readout:
    return Readout(**{"sigma": 0.3, "scores": "joint", "normalisation": "none", "seed": 0} | changes)


def images(count=2):
    return torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1  # a grid of 4 x 6 tokens


@pytest.mark.parametrize("size", [(6, 20), (20, 6), (2, 4), (64, 32)])
def test_quadrants_stay_quadrants(size):
    maps, classes = torch.zeros(4, 2, 4), [9, 2, 30, 5]
    for k in range(4):
        maps[k, k // 2, 2 * (k % 2) : 2 * (k % 2) + 2] = 1
    truth = torch.tensor([[9, 2], [30, 5]]).repeat_interleave(size[0] // 2, 0).repeat_interleave(size[1] // 2, 1)
    assert torch.equal(segment(maps, classes, size), truth)
    assert present_classes(segment(maps[:2], classes[:2], size)) == [2, 9], "only classes of the prompt are predicted"


def test_argmax_is_taken_after_the_upsampling():
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    # Column centres lie at 1/4 and 3/4 of the width: 1 - t < 3 t where the share t of the right column exceeds 1/4.
    assert segment(maps, [0, 1], (1, 16)).tolist() == [[0] * 6 + [1] * 10]


def test_class_maps_are_means_over_the_tokens_of_each_name(model):
    prompts = [list_names(NAMES, [1, 0]), list_names(NAMES, []), list_names(NAMES, [0, 2, 1])]
    condition = model.encode_text([prompt.text for prompt in prompts])
    maps = torch.randn(3, condition.embeddings.shape[1], 2 * 5)
    first, empty, last = pool_words(maps, (2, 5), condition, prompts)
    grids = maps.view(3, -1, 2, 5)
    # "traffic cone apple" and "apple night sky traffic cone"; token 0 is the start.
    torch.testing.assert_close(first, torch.stack([(grids[0, 1] + grids[0, 2]) / 2, grids[0, 3]]))
    torch.testing.assert_close(last, torch.stack([grids[2, 1], (grids[2, 2] + grids[2, 3]) / 2, (grids[2, 4] + grids[2, 5]) / 2]))
    assert empty.shape == (0, 2, 5)


def test_minmax_stretches_every_map_apart_and_keeps_its_order():
    maps = torch.randn(3, 4, 6) * torch.tensor([1e-4, 1, 50])[:, None, None]
    stretched = readout(normalisation="minmax").normalise(maps)
    torch.testing.assert_close(stretched.amin(dim=(1, 2)), torch.zeros(3))
    torch.testing.assert_close(stretched.amax(dim=(1, 2)), torch.ones(3))
    assert torch.equal(stretched.flatten(1).argsort(), maps.flatten(1).argsort())
    assert torch.equal(readout(normalisation="minmax").normalise(torch.full((1, 2, 3), 0.7)), torch.zeros(1, 2, 3))
    assert torch.equal(readout(normalisation="none").normalise(maps), maps)


def test_a_changed_patch_changes_the_map_at_its_row_and_column(model, monkeypatch):
    latents = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    latents[1] = latents[0]
    latents[1, :, 2:4, 8:10] += 3  # the token in row 1, column 4
    monkeypatch.setattr(model, "encode_image", lambda _: latents)
    prompts = [[list_names(NAMES, [0, 3])]] * 2
    # Before the first attention every token knows only its own patch.
    plain, changed = readout(sigma=0.0, scores="logits").class_maps(model, images(), prompts, [0, 0], [0])[0]
    places = (plain - changed).abs().amax(dim=0) > 1e-4
    assert places.shape == (4, 6) and places.nonzero().tolist() == [[1, 4]]


def test_an_image_meets_the_same_noise_in_any_batch_and_any_set_of_blocks(model):
    prompts = [[list_names(NAMES, [0])], [list_names(NAMES, [3, 1])]]
    both = readout().class_maps(model, images(), prompts, [4, 9], [0, 2])
    alone = readout().class_maps(model, images()[1:], prompts[1:], [9], [2])
    torch.testing.assert_close(alone[2][0], both[2][1], atol=1e-6, rtol=1e-4)
    other = readout().class_maps(model, images()[1:], prompts[1:], [4], [2])
    assert (other[2][0] - both[2][1]).abs().max() > 1e-4
    assert [tuple(maps.shape) for maps in both[0]] == [(1, 4, 6), (2, 4, 6)]


def passes(model, monkeypatch):
    """Latents and text of every pass of the transformer from now on, and what was encoded."""
    seen = {"latents": [], "embeddings": [], "images": 0}
    predict, encode = model.predict_velocity, model.encode_image

    def count_pass(latents, sigma, condition):
        seen["latents"].append(latents)
        seen["embeddings"].append(condition.embeddings)
        return predict(latents, sigma, condition)

    def count_images(pictures):
        seen["images"] += len(pictures)
        return encode(pictures)

    monkeypatch.setattr(model, "predict_velocity", count_pass)
    monkeypatch.setattr(model, "encode_image", count_images)
    return seen


@pytest.mark.parametrize("normalisation", ["none", "minmax"])
def test_maps_of_several_prompts_equal_those_of_separate_calls(model, normalisation):
    first, second = [list_names(NAMES, [0]), list_names(NAMES, [3, 1])], [list_names(NAMES, [2, 0]), list_names(NAMES, [1])]
    read = readout(normalisation=normalisation)
    joined = read.class_maps(model, images(), list(zip(first, second, strict=True)), [4, 9], [0, 2])
    apart = [read.class_maps(model, images(), [[prompt] for prompt in prompts], [4, 9], [0, 2]) for prompts in (first, second)]
    for block in (0, 2):
        for image in range(2):
            assert torch.equal(joined[block][image], torch.cat([part[block][image] for part in apart]))


def test_an_image_keeps_its_maps_whatever_prompts_the_others_have(model, monkeypatch):
    prompts = [[], [list_names(NAMES, [3]), list_names(NAMES, [1, 2]), list_names(NAMES, [0])], [list_names(NAMES, [0, 1])], []]
    seen = passes(model, monkeypatch)
    maps = readout().class_maps(model, images(4), prompts, [5, 6, 7, 8], [1])[1]
    assert [len(latents) for latents in seen["latents"]] == [2, 1, 1], "an image without prompts takes no pass"
    assert [tuple(part.shape) for part in maps] == [(0, 4, 6), (4, 4, 6), (2, 4, 6), (0, 4, 6)]
    for image in (1, 2):
        alone = readout().class_maps(model, images(4)[[image]], [prompts[image]], [5 + image], [1])[1][0]
        torch.testing.assert_close(maps[image], alone, atol=1e-6, rtol=1e-4)


def test_no_prompts_at_all_take_no_pass(model, monkeypatch):
    seen = passes(model, monkeypatch)
    assert [len(maps) for maps in readout().class_maps(model, images(), [[], []], [0, 1], [2])[2]] == [0, 0]
    assert seen["latents"] == []


def test_prompts_share_noise_and_passes_stay_as_large_as_the_batch(model, monkeypatch):
    prompts = [[list_names(NAMES, [k]) for k in range(count)] for count in (4, 1, 3)]
    seen = passes(model, monkeypatch)
    readout().class_maps(model, images(3), prompts, [4, 9, 4], [2])
    assert seen["images"] == 3 and [len(latents) for latents in seen["latents"]] == [3, 2, 2, 1]
    whole, second, third, last = seen["latents"]
    assert torch.equal(second, whole[[0, 2]]) and torch.equal(third, whole[[0, 2]]) and torch.equal(last, whole[:1])
    assert not torch.equal(seen["embeddings"][1], seen["embeddings"][2]), "each pass has its own text"


def test_one_prompt_per_image_is_one_pass(model, monkeypatch):
    seen = passes(model, monkeypatch)
    readout().class_maps(model, images(), [[list_names(NAMES, [0])], [list_names(NAMES, [3, 1])]], [4, 9], [0, 2])
    assert [len(latents) for latents in seen["latents"]] == [2] and seen["images"] == 2


@pytest.mark.parametrize("sigma", [-0.1, 1.5])
def test_noise_level_outside_the_path_is_refused(sigma):
    with pytest.raises(UserError, match=rf"readout\.sigma must be in \[0, 1\], found {sigma}"):
        readout(sigma=sigma)
