"""Whatever the cause, a result that is not finite ends every way of using a model in one sentence."""

import pytest
import torch
from PIL import Image

from seg4diff.commands.run import evaluate, train
from seg4diff.commands.segment import segment_files
from seg4diff.errors import UserError
from seg4diff.finite import require_finite
from tests.hosts import random_sd3
from tests.runs import SMALL_RUN, compose_config, overrides

MAPS, VELOCITIES = "the attention maps of block 1 are not finite", "the velocities that the model predicts are not finite"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Folders that stand in for assets/, by where the model has a NaN."""
    folders = {}
    for place in ("transformer_blocks.1.attn.add_k_proj", "proj_out"):
        model, folders[place] = random_sd3(blocks=4), tmp_path_factory.mktemp("broken")
        model.transformer.get_submodule(place).bias.data[0] = float("nan")
        model.save_pretrained(folders[place] / "tiny-sd3")
    return {"maps": folders["transformer_blocks.1.attn.add_k_proj"], "velocity": folders["proj_out"]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_is_enough(value):
    values = torch.zeros(2, 3, 4)
    require_finite(values, "zeros")
    values[1, 0, 3] = value
    with pytest.raises(UserError, match="the values of a test are not finite"):
        require_finite(values, "the values of a test")


@pytest.mark.parametrize(
    ("place", "arguments", "sentence"),
    [
        ("maps", [], MAPS),
        ("velocity", [], VELOCITIES),
        ("maps", ["evaluation=unsupervised"], MAPS),
        ("maps", ["protocol=vocabulary"], MAPS),
    ],
)
def test_an_evaluation_has_no_figure(broken, world, tmp_path, place, arguments, sentence):
    given = [*overrides(broken[place], world), "ckpt=base", "trainer.accelerator=cpu", "evaluation.base_blocks=[]", *arguments]
    with pytest.raises(UserError, match=sentence):
        evaluate(compose_config("evaluate", tmp_path, *given))
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("place", ["maps", "velocity"])
@pytest.mark.parametrize("align", ["names", "regions"])
def test_a_training_ends_at_its_first_validation(broken, world, tmp_path, place, align):
    given = [*overrides(broken[place], world), *SMALL_RUN, f"model.align={align}", "callbacks=plain"]
    with pytest.raises(UserError, match=r"the loss is not finite at step 0|the maps to be matched with masks are not finite"):
        train(compose_config("train", tmp_path, *given))


@pytest.mark.parametrize("words", [["apple", "leaf"], None])
def test_a_picture_has_no_labels(broken, tmp_path, words):
    Image.new("RGB", (40, 20), (90, 30, 200)).save(tmp_path / "picture.png")
    model = {"model": broken["maps"] / "tiny-sd3", "like": "tiny_sd3", "block": 1, "image_size": (32, 32)}
    with pytest.raises(UserError, match=MAPS):
        segment_files(tmp_path / "picture.png", words, out=tmp_path / "out", load_options=model)
    assert not (tmp_path / "out" / "labels").exists()
