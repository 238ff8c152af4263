"""A page over a random model of four blocks with a LoRA of its block 1."""

import pytest
import torch
from PIL import Image
from tests.hosts import random_sd3

from seg4diff.app.desk import Desk
from seg4diff.app.server import served
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.loading import load


@pytest.fixture(scope="session")
def lora(tmp_path_factory):
    backbone = random_sd3(blocks=4)
    add_lora(backbone, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), 1, seed=0)
    for weight in lora_weights(backbone).values():
        weight.data = torch.ones_like(weight)
    backbone.save_lora(folder := tmp_path_factory.mktemp("lora"))
    return folder


@pytest.fixture(scope="session")
def load_options(assets, lora):
    return {"model": assets / "tiny-sd3", "lora": lora, "like": "tiny_sd3", "block": 1, "image_size": (32, 32)}


@pytest.fixture(scope="session")
def desk(load_options):
    return Desk(load(**load_options), load_options | {name: str(load_options[name]) for name in ("model", "lora")})


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(make_scene(0, "test", 2, 48).image[:20]).save(file)
    return file


@pytest.fixture(scope="session")
def page(load_options):
    with served(load_options, port=0) as page:
        yield page
