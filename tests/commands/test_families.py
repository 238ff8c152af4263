"""Every family through its file in conf/backbone: a tiny folder is segmented, trained on, evaluated and analysed."""

import pytest
from PIL import Image

from seg4diff.commands.analysis import analyze
from seg4diff.commands.run import evaluate, train
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.loading import load
from tests.hosts import random_flux, random_flux2
from tests.open_hosts import random_aura_flow, random_chroma, random_qwen_image, random_z_image
from tests.runs import QUICK, SMALL_WORLD, compose_config

MAKERS = {
    "aura_flow": random_aura_flow,
    "chroma": random_chroma,
    "flux1_dev": random_flux,
    "flux2_klein": random_flux2,
    "qwen_image": random_qwen_image,
    "z_image": random_z_image,
}
OTHER = {"flux2_klein": {"text_layers": (1, 2, 3)}}
"""What depends on the size of a text encoder."""
SHORT = 192
"""Text tokens: 512, as published, take a tiny model minutes."""
RUN = ["trainer.max_steps=10", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5", "trainer.accelerator=cpu", "expert_layer=1"]


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    """A random model in the layout of diffusers."""
    MAKERS[name]().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def given(name, folder, world):
    values = [
        f"backbone={name}",
        f"backbone.model.path={folder}",
        f"backbone.model.text_length={SHORT}",
        f"paths.data_dir={world}",
        "backbone.image_size=[32,32]",
        *SMALL_WORLD,
    ]
    return values + [f"+backbone.model.{key}={list(value)}" for key, value in OTHER.get(name, {}).items()]


def test_a_folder_is_recognised_and_segmented(name, folder, tmp_path):
    if OTHER.get(name):
        return  # a preset describes the published text encoder
    Image.fromarray(make_scene(0, "test", 2, 48).image[:40]).save(tmp_path / "scene.png")
    model = load(folder, like=name, block=1, image_size=(32, 48))
    found = model.segment(tmp_path / "scene.png", ["apple", "traffic cone", "small green leaf"])
    assert found.labels.shape == (40, 48) and set(found.labels.flatten().tolist()) <= {0, 1, 2}


def test_a_model_is_trained_evaluated_and_analysed(given, tmp_path):
    quick = [*QUICK, "data=toyworld", "data.image_size=[32,32]", "data.batch_size=1", "trainer.accumulate_grad_batches=1"]
    report = train(compose_config("train", tmp_path / "run", "experiment=coco_lora", *quick, *given, *RUN, "trainer.limit_val_batches=1"))
    assert (tmp_path / "run" / "checkpoints" / "last-lora" / "pytorch_lora_weights.safetensors").is_file() and report
    own = ["trainer.accelerator=cpu", "data.image_size=[32,32]", "expert_layer=1"]
    scores = evaluate(compose_config("evaluate", tmp_path / "scores", *given, *own, "ckpt=base"))
    assert len(scores["miou_per_block"]) >= 3
    found = analyze(
        compose_config("analyze", tmp_path / "analysis", *given, *own, "analysis.sigmas=[0.5]", "studies=[budget,segmentation]", "images=2")
    )
    assert set(found["studies"]) >= {"budget", "segmentation"}
