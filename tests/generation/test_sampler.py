"""Model.generate: images of the plain pipeline, and where each word went over them."""

import numpy as np
import pytest
import torch
from tests.families import FAMILIES, PROMPTS, adapted, draw_plainly

from seg4diff.attention.guidance import perturbed_guidance
from seg4diff.attention.maps import i2t
from seg4diff.attention.seam import edit, stream
from seg4diff.backbones.lora import scaled_lora
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request
from seg4diff.model import Model
from seg4diff.presets import Preset

SIZE, STEPS, GUIDANCE = (32, 48), 3, 4.0
SAMPLING = {"steps": STEPS, "guidance": GUIDANCE, "size": SIZE}


def model_of(backbone, block=1):
    return Model(backbone, Preset.named("tiny_sd3"), block=block)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def model():
    """A LoRA on block 1 of an SD3."""
    return model_of(adapted(FAMILIES["sd3"]))


def plain(backbone, prompts, seeds):
    """What the diffusers pipeline draws by itself."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"num_inference_steps": STEPS, "height": SIZE[0], "width": SIZE[1]} | backbone._guidance_options(GUIDANCE, len(prompts))
    return pixels(draw_plainly(backbone._pipeline, prompt=list(prompts), generator=generators, **options, **backbone._text_options))


def pixels(images):
    return [np.array(getattr(image, "image", image)) for image in images]


def same(ours, expected):
    return len(ours) == len(expected) and all(np.array_equal(*pair) for pair in zip(ours, expected, strict=True))


@pytest.mark.parametrize("maps", [False, True])
def test_images_are_those_of_the_plain_pipeline(family, maps):
    """Bit for bit, whether maps are read or not: one at a time and two together."""
    model = model_of(family.model(), family.block)
    ours = model.generate(list(PROMPTS), seeds=5, maps=maps, at_once=2, **SAMPLING)
    assert same(pixels(ours), plain(model.backbone, PROMPTS, [5, 5]))
    alone = model.generate(PROMPTS[0], seeds=[7, 3], maps=maps, **SAMPLING)
    assert same(pixels(alone), [plain(model.backbone, PROMPTS[:1], [seed])[0] for seed in (7, 3)])


def test_images_of_perturbed_guidance_are_those_of_the_plain_pipeline_inside_it(family):
    """Bit for bit, with the maps of the rows that see the prompt; scale 0 and no scale are the plain pipeline."""
    model = model_of(family.model(), family.block)
    with perturbed_guidance(model.backbone, 0, 40.0):
        expected = plain(model.backbone, PROMPTS, [5, 5])
    options = {"seeds": 5, "at_once": 2, "perturbed_block": 0} | SAMPLING
    guided = model.generate(list(PROMPTS), perturbed_guidance=40, **options)
    untouched = model.generate(list(PROMPTS), perturbed_guidance=0, **options)
    assert same(pixels(guided), expected) and same(pixels(untouched), plain(model.backbone, PROMPTS, [5, 5]))
    assert not same(pixels(guided), pixels(untouched)) and all(len(drawn.maps) == 2 for drawn in guided)


def test_perturbed_guidance_takes_the_block_that_is_read_and_is_recorded_only_where_it_acts(model):
    assert model.sampling(perturbed_guidance=2.0) == model.sampling(perturbed_guidance=2.0, perturbed_block=1)
    assert model.sampling() == model.sampling(perturbed_guidance=0, perturbed_block=0)
    assert vars(model.sampling())["perturbed_block"] is None


def test_maps_are_those_of_the_prompt_at_the_step_nearest_to_the_readout(family):
    model, seen = model_of(family.model(), family.block), {}
    with stream(model.backbone, [family.block], lambda visit: seen.setdefault(visit.step, []).append((visit.prompted, visit.joint))):
        (drawn,) = model.generate(["apple leaf"], seeds=[1], **SAMPLING)
    levels = model.backbone.noise_levels()
    nearest = min(range(STEPS), key=lambda step: abs(levels[step] - 0.3))
    (maps,) = [found for prompted, joint in seen[nearest] if len(found := i2t(joint, "joint")[prompted])]
    tokens = model.backbone.encode_text(["apple leaf"]).tokens_between(0, 6, 10)
    leaf = maps[0, tokens].mean(dim=0).unflatten(-1, model.backbone.token_grid(*SIZE))
    assert list(drawn.maps) == ["apple", "leaf"] and drawn.maps["leaf"].shape == SIZE
    span = leaf.max() - leaf.min()  # the map of a random model is nearly flat: rounding is judged before it is stretched to 0 .. 1
    torch.testing.assert_close(drawn.words.maps.grid[1] * span + leaf.min(), leaf)
    assert float(drawn.words.maps.grid[1].min()) == 0 and float(drawn.words.maps.grid[1].max()) == 1


def test_a_strip_holds_the_maps_of_other_steps(model):
    (drawn,) = model.draw([Request("apple leaf", 1)], strip=[0, 2], **SAMPLING)
    alone = [model.generate("apple leaf", seeds=1, map_step=step, **SAMPLING) for step in (0, 2)]
    assert list(drawn.strip) == [0, 2] and same(pixels([drawn]), pixels(alone[:1]))
    assert all(drawn.strip[step].maps["leaf"].equal(own.maps["leaf"]) for step, own in zip((0, 2), alone, strict=True))
    with pytest.raises(UserError, match="`strip` must be a whole number from 0 to 2, found 3"):
        model.draw([Request("apple leaf", 1)], strip=[3], **SAMPLING)


def test_a_lora_at_several_scales(model):
    """0 is the base model, 1 the LoRA as it was trained; in between, diffusers' own weights of adapters; afterwards all is as before."""
    backbone, prompt = model.backbone, PROMPTS[0]
    base, half, whole, more = pixels(model.generate(prompt, lora_scale=[0, 0.5, 1, -2.0], **SAMPLING))
    assert same([whole], plain(backbone, [prompt], [0])) and len({image.tobytes() for image in (base, half, whole, more)}) == 4
    for scale, image in ((0.5, half), (-2.0, more)):
        backbone._pipeline.set_adapters(["default"], [scale])
        assert same([image], plain(backbone, [prompt], [0]))
        backbone._pipeline.set_adapters(["default"], [1.0])
    assert same([base], plain(FAMILIES["sd3"].model(), [prompt], [0]))


def test_the_lora_is_as_before_also_after_an_error(model):
    before = plain(model.backbone, PROMPTS, [1, 2])
    for scale in (0, 0.3):
        with pytest.raises(KeyError), scaled_lora(model.backbone, scale):
            raise KeyError
        assert same(plain(model.backbone, PROMPTS, [1, 2]), before)


def test_edits_of_blocks_reach_the_images(model):
    untouched = model.generate("apple", **SAMPLING)
    with edit(model.backbone, [2], skip=True):
        changed = model.generate("apple", **SAMPLING)
    assert not same(pixels([changed]), pixels([untouched]))


def test_one_of_each_is_one_image_and_lists_come_by_prompt_scale_and_seed(model, tmp_path):
    one = model.generate("apple on grass", steps=1, size=32, guidance=2)
    assert (one.prompt, one.seed, one.scale, one.image.size) == ("apple on grass", 0, None, (32, 32))
    many = model.generate(["apple", "leaf"], seeds=range(2), lora_scale=[1, 0], maps=False, steps=1, size=32, guidance=2, at_once=3)
    expected = [(prompt, scale, seed) for prompt in ("apple", "leaf") for scale in (1, 0) for seed in (0, 1)]
    assert [(drawn.prompt, drawn.scale, drawn.seed) for drawn in many] == expected
    assert dict(many[0].maps) == {} and many[0].overlay() is many[0].image and len(many[0].plot().axes) == 1
    one.save(tmp_path)
    many[1].save(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert names == {*(f"{kind}/apple-on-grass-seed0.png" for kind in ("images", "overlays", "maps")), "images/apple-seed1-lora1.png"}


def test_small_words_have_a_map_and_no_pixels(model):
    drawn = model.generate("An apple and an apple on grass", **SAMPLING)
    assert list(drawn.maps) == ["An", "apple", "and", "on", "grass"] and len(drawn.plot().axes) == 2
    assert set(np.unique(drawn.words.labels)) <= {1, 4} and drawn.words.mask("and").sum() == 0
    assert set(np.unique(model.generate("on the", **SAMPLING).words.labels)) <= {0, 1}


def test_words_of_your_own_have_a_map_where_the_prompt_names_them(model):
    first, second = model.generate(["a traffic cone on grass", "two stars"], maps=["traffic cone", "star"], **SAMPLING)
    assert list(first.maps) == ["traffic cone"] and list(second.maps) == ["star"]


def test_the_empty_prompt_has_no_words(model):
    drawn = model.generate("", **SAMPLING)
    assert dict(drawn.maps) == {} and drawn.stem == "empty-seed0" and (drawn.words.labels == 255).all()
    assert drawn.overlay().size == (48 * 6, 32 * 6) and len(drawn.plot().axes) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seeds": -1}, "a seed must be a whole number from 0 to .*, found -1"),
        ({"seeds": "7"}, "a seed must be a whole number .*, found '7'"),
        ({"prompts": [3]}, "a prompt must be text, found 3"),
        ({"lora_scale": float("nan")}, "a LoRA scale must be a number, 0 for the base model, found nan"),
        ({"guidance": "much"}, "`guidance` must be a number from 0, found 'much'"),
        ({"steps": 0}, "`steps` must be a whole number from 1, found 0"),
        ({"perturbed_guidance": -1.0}, "`perturbed_guidance` must be a number from 0, found -1.0"),
        ({"perturbed_guidance": 1.0, "perturbed_block": 9}, "block 9 does not exist: this model has 3 joint-attention blocks, 0 to 2"),
        ({"perturbed_guidance": 1.0, "perturbed_block": "expert"}, "`perturbed_block` must be the index of a block, found 'expert'"),
        ({"size": (30, 32)}, "image size 30 x 32 does not fit this model: .* set `size`"),
        ({"size": "large"}, r"`size` must be \(height, width\) in pixels, or one number for a square, found 'large'"),
        ({"map_step": 3}, "`map_step` must be a whole number from 0 to 2, found 3"),
        ({"maps": ["cat"]}, "'cat' stands in none of the prompts"),
        ({"maps": "cat"}, "`maps` must be a list of words"),
        ({"at_once": 0}, "`at_once` must be a whole number from 1, found 0"),
        ({"prompts": "apple " * 40}, r"is longer than the 32 tokens that the model takes, .*leave the maps out \(maps=False, --no-maps\)"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence_before_anything_is_drawn(model, options, sentence):
    arguments = {"prompts": "apple"} | SAMPLING | options
    with pytest.raises(UserError, match=sentence):
        model.generate(**arguments)


def test_without_a_lora_there_is_nothing_to_scale():
    model = model_of(FAMILIES["sd3"].model())
    assert model.generate("apple", lora_scale=0, **SAMPLING).scale == 0
    with pytest.raises(UserError, match=r"this model has no LoRA, so there is nothing to scale by 0\.5"):
        model.draw([Request("apple", 0), Request("apple", 0, 0.5)])


def test_a_lora_that_cannot_be_scaled_is_named(model):
    model.backbone.transformer.disable_lora()
    with pytest.raises(UserError, match="the LoRA of this pipeline is fused or switched off"):
        model.generate("apple", lora_scale=1, **SAMPLING)


def test_without_maps_a_long_prompt_is_cut_by_the_pipeline_and_named(model, caplog):
    model.generate("apple " * 40, maps=False, **SAMPLING)
    assert "the model sees only the beginning of 1 long prompts, the first is 'apple apple" in caplog.text


def test_a_list_is_continued_and_shared_in_the_same_batches(model, tmp_path):
    """An image is drawn beside the same neighbours, whatever is missing and whoever draws it."""
    asked = [Request(PROMPTS[seed % 2], seed, path=tmp_path / f"{seed}.png") for seed in range(5)]
    whole = {drawn.path: pixels([drawn])[0] for drawn in model.draw(asked, at_once=2, maps=False, **SAMPLING)}
    (tmp_path / "0.png").touch()
    (tmp_path / "4.png").touch()
    shares = [list(model.draw(asked, at_once=2, maps=False, share=(k, 3), **SAMPLING)) for k in range(3)]
    assert [[drawn.seed for drawn in share] for share in shares] == [[1], [2, 3], []]
    assert all(np.array_equal(pixels([drawn])[0], whole[drawn.path]) for share in shares for drawn in share)


def test_the_defaults_are_those_of_the_preset(model):
    without = {"perturbed_guidance": None, "perturbed_block": None}
    assert vars(model.sampling()) == {"guidance": 3.0, "steps": 28, "size": (96, 96)} | without
    small = Model(model.backbone, Preset.named("tiny_sd3"), block=1, image_size=(32, 48))
    assert vars(small.sampling(guidance=1)) == {"guidance": 1, "steps": 28, "size": (32, 48)} | without
