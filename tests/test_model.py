"""seg4diff.load and Model: what a person holds."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

import seg4diff
from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.calibration import calibrate
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError
from seg4diff.segmentation.readers.propagated import Propagated
from tests.hosts import random_flux, random_sd3

WORDS = ["apple", "traffic cone", "grass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random SD3 and a LoRA of its block 1, on disk."""
    path = tmp_path_factory.mktemp("models")
    backbone = random_sd3(blocks=3, qk_norm="rms_norm")
    backbone._pipeline.save_pretrained(path / "sd3")
    add_lora(backbone, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), 1, seed=0)
    for weight in lora_weights(backbone).values():
        weight.data = torch.ones_like(weight)
    backbone.save_lora(path / "lora")
    return path


@pytest.fixture
def load(folder):
    def load(model=None, **options):
        return seg4diff.load(model or folder / "sd3", **{"like": "tiny_sd3", "block": 1, "image_size": (32, 32)} | options)

    return load


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(make_scene(0, "test", 2, 48).image[:20]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, seg4diff; assert dir(seg4diff) == ['Model', 'load']; print([m for m in sys.modules if m in %r])"
    heavy = ["torch", "lightning", "diffusers", "transformers", "numpy", "hydra", "omegaconf"]
    assert subprocess.run([sys.executable, "-c", script % heavy], capture_output=True, text=True).stdout.strip() == "[]"


def test_words_in_a_picture(load, photo, tmp_path):
    seg = load().segment(photo, WORDS)
    assert seg.labels.shape == (20, 48) and set(np.unique(seg.labels)) <= {0, 1, 2} and seg.names == tuple(WORDS)
    assert list(seg.maps) == WORDS and seg.maps["apple"].shape == (20, 48)
    assert seg.maps["apple"].min() >= 0 and seg.maps["apple"].max() <= 1
    assert (seg.mask("grass") == (seg.labels == 2)).all()
    assert seg.overlay().size == (48 * 6, 20 * 6), "a small picture is enlarged, so that names can be read"
    assert len(seg.plot().axes) == 2
    seg.save(tmp_path / "out")
    with Image.open(tmp_path / "out" / "labels" / "photo.png") as written:
        assert np.array_equal(np.array(written), seg.labels)
    with pytest.raises(KeyError, match="there is no map of 'cat', only of apple, traffic cone, grass"):
        seg.maps["cat"]


def test_a_picture_may_be_a_file_an_image_an_array_or_a_tensor(load, photo):
    model, image = load(), Image.open(photo)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
    labels = [model.segment(source, WORDS).labels for source in (photo, str(photo), image, array, tensor)]
    assert all(np.array_equal(labels[0], other) for other in labels[1:])


def test_a_list_of_pictures_is_one_batch_with_words_for_each(load, photo):
    model, array = load(), make_scene(0, "test", 3, 48).image[:, :30]
    both = model.segment([photo, array], [WORDS, ["leaf"]])
    assert [seg.names for seg in both] == [tuple(WORDS), ("leaf",)] and both[1].labels.shape == (48, 30)
    alone = model.segment(photo, WORDS)
    torch.testing.assert_close(both[0].maps["apple"], alone.maps["apple"], atol=1e-4, rtol=1e-3)
    assert [seg.names for seg in model.segment([photo, array], WORDS)] == [tuple(WORDS)] * 2


def test_without_words_there_are_regions(load, photo):
    seg = load().segment(photo)
    counts = np.bincount(seg.labels.ravel())
    assert seg.names == tuple(str(k) for k in range(len(counts))) and (np.diff(counts) <= 0).all() and not seg.maps


def test_below_the_level_of_the_background_a_pixel_has_no_label(load, photo):
    seg = load().segment(photo, WORDS, background=0.6)
    reached = torch.stack([seg.maps[word] for word in WORDS]).amax(dim=0).numpy() >= 0.6
    assert 0 < reached.mean() < 1 and np.array_equal(seg.labels != 255, reached)


def test_the_blocks_of_a_pass_one_after_the_other(load, photo):
    model = load()
    found = list(model.attention(photo, "apple on grass"))
    assert [block.block for block in found] == [0, 1, 2]
    assert found[1].map("grass").shape == (4, 4) and found[1].maps_per_head().shape == (2, 32, 4, 4)
    assert abs(sum(found[1].mass()[name] for name in ("i2i", "i2t")) - 1) < 1e-6
    one = next(iter(model.attention(photo, "apple on grass", blocks=[1])))
    assert torch.equal(one.map("grass"), found[1].map("grass"))
    with pytest.raises(UserError, match="'cat' is not in the prompt 'apple on grass'"):
        one.map("cat")
    with pytest.raises(UserError, match=r"`blocks` must be 'all' or a list of this model's blocks, 0 to 2, found .7."):
        next(model.attention(photo, "apple", blocks=[7]))


@pytest.mark.parametrize("make", [random_sd3, random_flux])
def test_a_pipeline_is_used_as_it_is_and_goes_on_working(make, photo):
    own = make()
    pipe, like = own._pipeline, "tiny_sd3" if make is random_sd3 else "flux1_dev"
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "max_sequence_length": own.text_length}

    def draw():
        return np.array(pipe("apple", generator=torch.Generator().manual_seed(0), **options).images[0])

    before = draw()
    model = seg4diff.load(pipe, like=like, block=1, image_size=(32, 32))
    model.backbone.text_length = own.text_length
    latents = own.encode_image(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    maps = []
    for backbone in (own, model.backbone):
        with torch.no_grad(), capture(backbone, [1]) as record:
            backbone.predict_velocity(latents, torch.tensor([0.4]), own.encode_text(["apple leaf"]))
        maps.append(i2t(record[1], "joint"))
    assert torch.equal(*maps) and np.array_equal(draw(), before)


def test_a_pipeline_keeps_its_progress_bar_and_its_mode(load):
    pipe = random_sd3(blocks=3)._pipeline
    pipe.set_progress_bar_config(disable=False)
    pipe.transformer.train()
    load(pipe)
    assert pipe.transformer.training and not pipe.progress_bar(total=1).disable


def test_a_pipeline_of_another_class_than_it_is_to_be_read_like(load):
    sentence = "this pipeline is a StableDiffusion3Pipeline, but this backbone reads a FluxPipeline: choose the preset sd3_medium"
    with pytest.raises(UserError, match=sentence):
        load(random_sd3()._pipeline, like="flux1_dev")


def test_a_revision_of_what_is_no_hub_model_is_refused(load, folder):
    for model in (random_sd3(blocks=3)._pipeline, folder / "sd3"):
        with pytest.raises(UserError, match="`revision` is for a hub model"):
            load(model, revision="main")


def test_the_dtype_may_be_auto(load, caplog):
    with caplog.at_level("INFO"):
        assert load(like="sd3_medium", dtype="auto", device="cpu").backbone.dtype == torch.float32
    assert "dtype auto: float32, because this machine's cpu computes slowly in" in caplog.text


def test_a_pipeline_loaded_by_diffusers_gives_the_maps_of_our_own_loading(folder, load, photo):
    pipe = StableDiffusion3Pipeline.from_pretrained(folder / "sd3", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32)
    ours, theirs = load().segment(photo, WORDS), load(pipe).segment(photo, WORDS)
    assert torch.equal(ours.maps.grid, theirs.maps.grid) and np.array_equal(ours.labels, theirs.labels)


def test_a_lora_changes_the_maps(folder, load, photo):
    base, adapted = load().segment(photo, WORDS), load(lora=folder / "lora").segment(photo, WORDS)
    assert not torch.allclose(base.maps.grid, adapted.maps.grid, atol=1e-3)
    with pytest.raises(UserError, match=r"adapts the blocks \[1\], and block 2 is to be read: set `block`"):
        load(lora=folder / "lora", block=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "sd3_medum"}, "there is no model called 'sd3_medum' .did you mean sd3_medium"),
        ({"model": "no/such/folder"}, "there is no model called 'no/such/folder'"),
        ({"like": None, "block": None}, "is a StableDiffusion3Pipeline of another size than those that are known"),
        ({"like": "sd9"}, "there is no model called 'sd9'"),
        ({"lora": "nowhere"}, "nowhere is neither a run folder"),
        ({"model": 3}, "`model` must be a name, a folder, a hub id or a diffusers pipeline, found 3"),
        ({"block": 9}, "`block` must be one of this model's joint-attention blocks, 0 to 2, found 9"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(load, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load(**options)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "`words` must be a list of words, none of them empty, found"),
        (["cat", " "], "none of them empty"),
        (["cat", "cat"], "each name must be given once, but ..cat.. occur more than once"),
        ([["cat"], ["dog"]], "there are 1 pictures and 2 lists of words"),
    ],
)
def test_words_that_cannot_be_looked_for_are_a_sentence(load, photo, words, sentence):
    with pytest.raises(UserError, match=sentence):
        load().segment(photo, words)


@pytest.mark.parametrize("picture", [3, np.zeros((4, 4, 3)), torch.zeros(4, 4, 3), "gone.png"], ids=["int", "floats", "order", "missing"])
def test_what_is_no_picture_is_a_sentence(load, picture):
    with pytest.raises(UserError, match=r"a picture|cannot be read"):
        load().segment(picture, WORDS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "banana"}, "`device=banana` cannot be used here"),
        ({"device": "cuda"}, "`device=cuda` cannot be used here"),
        ({"image_size": "large"}, r"`image_size` must be \(height, width\) in pixels, or one number for a square, found 'large'"),
        ({"image_size": (30, 32)}, "image size 30 x 32 does not fit this model: .* set `image_size`"),
        ({"block": "1"}, "`block` must be a whole number, found '1'"),
        ({"block": True}, "`block` must be a whole number, found True"),
        ({"sigma": "a"}, "`sigma` must be a number, found 'a'"),
        ({"lora": 3}, "`lora` must be a file or folder, found 3"),
        ({"cache": ["a"]}, r"`cache` must be a file or folder, found \['a'\]"),
        ({"like": 3}, "`like` must be a name, found 3"),
        ({"revision": 3}, "`revision` must be a name, found 3"),
    ],
)
def test_arguments_of_another_kind_are_a_sentence(load, options, sentence):
    if torch.cuda.is_available() and options.get("device") == "cuda":
        pytest.skip("this machine has such a device")
    with pytest.raises(UserError, match=sentence):
        load(**options)


def test_one_number_is_a_square(load):
    assert load(image_size=32).image_size == (32, 32)


def test_a_folder_of_settings_beside_a_person_is_no_run(load, folder, tmp_path, monkeypatch):
    """A preset is a preset, and a LoRA is a LoRA, whatever other programs keep in the folders around."""
    (tmp_path / "config.yaml").write_text("other: program\n")
    monkeypatch.chdir(tmp_path)
    assert seg4diff.load("tiny_sd3").block == 1
    shutil.copytree(folder / "lora", tmp_path / "lora")
    assert load(lora=tmp_path / "lora").block == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_and_an_odd_threshold_are_refused(load, value):
    with pytest.raises(UserError, match="the values of the picture are not finite"):
        load().segment(torch.full((3, 32, 32), value), WORDS)
    with pytest.raises(UserError, match="`threshold` and `rounds` must be at least 0"):
        load().segment(torch.zeros(3, 32, 32), threshold=float("nan"))


@pytest.mark.parametrize(("scale", "found"), [(255, "from 0 to 255"), (-2, "from -2 to -0")])
def test_a_tensor_outside_of_its_range_is_refused(load, scale, found):
    tensor = torch.linspace(0, 1, 3 * 20 * 48).view(3, 20, 48)
    with pytest.raises(UserError, match=rf"a tensor must hold a picture in \[-1, 1\], found values {found}"):
        load().segment(tensor * scale, WORDS)
    assert load().segment(tensor * 1.001, WORDS).labels.shape == (20, 48), "a rounding error is none"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, photo: model.segment([]), "`pictures` is an empty list"),
        (lambda model, photo: model.segment(photo, WORDS, background="a"), r"`background` must be in \[0, 1\], found 'a'"),
        (lambda model, photo: model.segment(photo, threshold="a"), "`threshold` and `rounds` must be at least 0, found 'a'"),
        (lambda model, photo: model.segment(photo, WORDS, threshold=0.5), "`threshold` is for regions without words"),
        (lambda model, photo: model.segment(photo, background=0.5), "`background` is for the maps of words"),
        (lambda model, photo: list(model.attention(photo, "cat", blocks="12")), "`blocks` must be 'all' or a list .* found '12'"),
        (lambda model, photo: list(model.attention(photo, "cat", blocks=3)), "`blocks` must be 'all' or a list .* found 3"),
        (lambda model, photo: list(model.attention(photo, ["cat"])), r"`prompt` must be text, found \['cat'\]"),
        (lambda model, photo: model.generate("cat", maps="fish"), "`maps` must be a list of words, none of them empty, found 'fish'"),
        (lambda model, photo: model.generate("cat", maps=False, map_step=1), "`map_step` says when maps are read, and no map is read"),
        (lambda model, photo: model.generate("cat", size=100), "image size 100 x 100 does not fit this model: .*; set `size`"),
        (lambda model, photo: model.generate("cat", size="big"), r"`size` must be \(height, width\)"),
    ],
)
def test_a_wrong_argument_is_named(load, photo, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(load(), photo)


def test_words_are_read_and_refined_in_other_ways(load, photo):
    model = load()
    plain = model.segment(photo, WORDS)
    named = model.segment(photo, WORDS, reader="expert", presence="none", refine="none")
    assert (plain.labels == named.labels).all() and torch.equal(plain.maps.grid, named.maps.grid)
    other = model.segment(photo, WORDS, reader=Propagated(block=0), refine="pamr")
    assert not torch.equal(plain.maps.grid, other.maps.grid) and other.labels.shape == plain.labels.shape


def test_a_calibration_is_for_its_model_its_reader_and_its_words(load, photo, tmp_path):
    model = load()
    calibrate(model, [photo, photo.parent / "photo.png"], WORDS, reader="t2i").save(tmp_path / "words.safetensors")
    given = {"reader": "t2i", "presence": tmp_path / "words.safetensors"}
    assert model.segment(photo, WORDS, **given).labels.shape == (20, 48)
    for words, options, name in (
        (WORDS[:2], given, "vocabulary"),
        (WORDS, given | {"reader": "expert"}, "reader"),
    ):
        with pytest.raises(UserError, match=f"the calibration is of another {name} "):
            model.segment(photo, words, **options)
    with pytest.raises(UserError, match="the calibration is of another model "):
        load(lora=model_lora(tmp_path, model)).segment(photo, WORDS, **given)


def model_lora(folder, model):
    """A LoRA of the block that is read, on disk."""
    add_lora(model.backbone, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), 1, seed=0)
    model.backbone.save_lora(folder / "other")
    return folder / "other"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reader": "nose"}, "`reader` must be one of aggregated, .* found 'nose'"),
        ({"refine": "iron"}, "`refine` must be one of guided, .* found 'iron'"),
        ({"presence": "nowhere"}, "there is no calibration nowhere"),
    ],
)
def test_a_reader_or_a_refinement_that_is_not_there_is_named(load, photo, options, reason):
    with pytest.raises(UserError, match=reason):
        load().segment(photo, WORDS, **options)
    with pytest.raises(UserError, match="are for the maps of words, and there are none"):
        load().segment(photo, **options)
