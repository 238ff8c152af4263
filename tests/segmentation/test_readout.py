"""Known maps give known segmentations, with height and width apart."""

import pytest
import torch
from tests.hosts import random_sd3

from seg4diff.data.geometry import GEOMETRIES, Window, whole
from seg4diff.data.sample import IGNORE, present_classes
from seg4diff.errors import UserError
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.prompts import list_names, pool_words
from seg4diff.segmentation.readout import Readout, minmax

NAMES = ("apple", "traffic cone", "night sky", "zebra")


@pytest.fixture(scope="module")
def model():
    return random_sd3()


def readout(**changes) -> Readout:
    return Readout(**{"sigma": 0.3, "scores": "joint", "normalisation": "none", "seed": 0} | changes)


def images(count=2):
    return torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1  # a grid of 4 x 6 tokens


def frame(size, canvas=(32, 48)):
    return Frame(canvas, whole(canvas), size)


@pytest.mark.parametrize("size", [(6, 20), (20, 6), (2, 4), (64, 32)])
def test_quadrants_stay_quadrants(size):
    maps, classes = torch.zeros(4, 2, 4), [9, 2, 30, 5]
    for k in range(4):
        maps[k, k // 2, 2 * (k % 2) : 2 * (k % 2) + 2] = 1
    truth = torch.tensor([[9, 2], [30, 5]]).repeat_interleave(size[0] // 2, 0).repeat_interleave(size[1] // 2, 1)
    assert torch.equal(readout().segment(maps, classes, frame(size)), truth)
    assert present_classes(readout().segment(maps[:2], classes[:2], frame(size))) == [2, 9], "only classes of the prompt are predicted"


def test_argmax_is_taken_after_the_upsampling():
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    # Column centres lie at 1/4 and 3/4 of the width: 1 - t < 3 t where the share t of the right column exceeds 1/4.
    assert readout().segment(maps, [0, 1], frame((1, 16))).tolist() == [[0] * 6 + [1] * 10]


BACKGROUND = 7


@pytest.mark.parametrize("normalisation", ["none", "minmax"])
def test_what_no_named_class_reaches_is_background(normalisation):
    """Maps of very different size, each a ramp: the first rises to the right, the second to the left."""
    ramp = torch.linspace(0, 1, 7).expand(1, 1, 7)
    maps = torch.cat([100 * ramp, 3 + ramp.flip(-1)])
    labels = readout(normalisation=normalisation, background=0.8).segment(maps, [2, 5], frame((1, 7)), BACKGROUND)
    left = 5 if normalisation == "minmax" else 2  # without min-max the larger map wins wherever one is reached, but for its zero
    assert labels.tolist() == [[5, left, 7, 7, 7, 2, 2]]
    tops = readout(normalisation=normalisation, background=1.0).segment(maps, [2, 5], frame((1, 7)), BACKGROUND)
    assert tops.tolist() == [[5, 7, 7, 7, 7, 7, 2]], "a value that is reached is reached"
    everything = readout(normalisation=normalisation, background=0.0).segment(maps, [2, 5], frame((1, 7)), BACKGROUND)
    assert torch.equal(everything, readout(normalisation=normalisation).segment(maps, [2, 5], frame((1, 7))))


def test_without_names_everything_is_background_or_unlabelled():
    none = torch.zeros(0, 4, 6)
    assert (readout(background=0.5).segment(none, [], frame((3, 5)), BACKGROUND) == BACKGROUND).all()
    assert (readout().segment(none, [], frame((3, 5))) == IGNORE).all()


def test_what_the_maps_say_of_the_padding_does_not_matter():
    window = Window(8, 0, 16, 48)  # rows 1 and 2 of the 4 x 6 tokens
    maps = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    changed = maps.clone()
    changed[:, [0, 3]] = torch.tensor([50.0, -50.0, 9.0])[:, None, None]
    for read in (readout(), readout(normalisation="minmax"), readout(background=0.7)):
        labels = [
            read.segment(each, [0, 1, 2], Frame((32, 48), window, (30, 90)), BACKGROUND if read.background else None)
            for each in (maps, changed)
        ]
        assert torch.equal(*labels)
        alone = read.segment(maps[:, 1:3], [0, 1, 2], frame((30, 90)), BACKGROUND if read.background else None)
        assert (labels[0] != alone).float().mean() < 1e-3, "but for rounding at a border"


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


def test_minmax_of_each_map_apart_keeps_its_order():
    maps = torch.randn(3, 4, 6) * torch.tensor([1e-4, 1, 50])[:, None, None]
    scaled = minmax(maps, frame((9, 9)))
    torch.testing.assert_close(scaled.amin(dim=(1, 2)), torch.zeros(3))
    torch.testing.assert_close(scaled.amax(dim=(1, 2)), torch.ones(3))
    assert torch.equal(scaled.flatten(1).argsort(), maps.flatten(1).argsort())
    assert torch.equal(minmax(torch.full((1, 2, 3), 0.7), frame((9, 9))), torch.zeros(1, 2, 3))


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


def test_maps_of_several_prompts_equal_those_of_separate_calls(model):
    first, second = [list_names(NAMES, [0]), list_names(NAMES, [3, 1])], [list_names(NAMES, [2, 0]), list_names(NAMES, [1])]
    read = readout()
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
    with pytest.raises(UserError, match=rf"`sigma` must be in \[0, 1\], found {sigma}"):
        readout(sigma=sigma)


def test_a_seed_below_0_is_refused():
    with pytest.raises(UserError, match="`seed` must be at least 0, found -1"):
        readout(seed=-1)


@pytest.mark.parametrize("level", [-0.1, 1.5])
def test_background_level_outside_0_and_1_is_refused(level):
    with pytest.raises(UserError, match=rf"`background` must be in \[0, 1\], found {level}"):
        readout(background=level)


def test_the_mean_of_single_heads_is_the_mean_of_all(model):
    prompts = [[list_names(NAMES, [0, 1])]] * 2
    whole_mean = readout().class_maps(model, images(), prompts, [0, 1], [2])[2]
    heads = model.attention_sites()[2].module.heads
    single = [readout(heads=[head]).class_maps(model, images(), prompts, [0, 1], [2])[2] for head in range(heads)]
    for k in range(2):
        torch.testing.assert_close(sum(maps[k] for maps in single) / heads, whole_mean[k])
    assert not torch.allclose(single[0][0], single[1][0])


def test_a_head_that_is_not_there_is_named(model):
    with pytest.raises(UserError, match=r"no attention head 99: .* 0 to"):
        readout(heads=[0, 99]).class_maps(model, images(), [[list_names(NAMES, [0])]] * 2, [0, 1], [2])
    with pytest.raises(UserError, match="at least one"):
        readout(heads=[])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("normalisation", ["none", "minmax"])
def test_autocast_gives_the_labels_of_float32(model, dtype, geometry, normalisation):
    """The model computes in 16 bit; its maps are formed, enlarged and compared in float32."""
    canvas, prompt, blocks = (32, 48), list_names(NAMES, [0, 1, 2]), [1]
    part, window = GEOMETRIES[geometry]((60, 45), canvas)
    picture = window.paste(images(1)[..., : window.height, : window.width], canvas, 0.0)
    read = readout(normalisation=normalisation)

    def labels():
        maps = read.class_maps(model, picture, [[prompt]], [0], blocks)[1][0]
        return maps, read.segment(maps, prompt.classes, Frame(canvas, window, part.size))

    (maps, expected), step = labels(), torch.finfo(dtype).eps
    with torch.autocast("cpu", dtype):
        close, found = labels()
    assert close.dtype == torch.float32 and ((close - maps).abs() / maps).mean() < 3 * step
    assert (found == expected).float().mean() >= 1 - 10 * step


@pytest.mark.parametrize("layer", ["attn.to_q", "attn.add_k_proj"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scores", ["logits", "text", "joint"])
def test_maps_that_are_not_finite_are_never_read(layer, value, scores):
    broken = random_sd3()
    weight = broken.transformer.transformer_blocks[1].get_submodule(layer).weight
    weight.data[3, 2] = value
    prompts = [[list_names(NAMES, [0, 3])]]
    with pytest.raises(UserError, match="the attention maps of block 1 are not finite"):
        readout(scores=scores).class_maps(broken, images(1), prompts, [0], [0, 1])
    with pytest.raises(UserError, match="the attention maps of block 1 are not finite"):
        list(readout(scores=scores).empty_prompt_maps(broken, images(1), [0], [1]))
