"""The paper's recipes on miniatures of COCO-Stuff and SA-1B: the experiment files as they are, only paths and backbone are others."""

import json
import re

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError
from PIL import Image

from seg4diff.commands.run import build_model, check_recipe, evaluate, train
from seg4diff.commands.trainers import build
from seg4diff.errors import UserError
from tests.conftest import REPO
from tests.data import layouts
from tests.runs import compose_config

HEIGHT, WIDTH = 48, 64
SKY, GRASS, ROAD = 156, 123, 148
"""Pixels of stuffthingmaps: category id - 1."""
COLOURS = {SKY: (90, 140, 240), GRASS: (40, 160, 50), ROAD: (90, 90, 90)}


def scene(k):
    """A horizon: sky above grass or road, at another height in every image."""
    values = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    values[12 + 3 * (k % 8) :] = (GRASS, ROAD)[k % 2]
    noise = np.random.default_rng(k).integers(-20, 20, (HEIGHT, WIDTH, 3))
    picture = np.array([COLOURS.get(value, (0, 0, 0)) for value in range(256)])[values] + noise
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), values


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Folders of COCO-Stuff and SA-1B with eight training images each."""
    coco, sa1b = tmp_path_factory.mktemp("coco"), tmp_path_factory.mktemp("sa1b")
    for split, count in (("train", 8), ("val", 4)):
        for k in range(count):
            image, mask = layouts.COCO.pair(coco, split, k)
            picture, values = scene(k)
            layouts.write(image, mask, values)
            picture.save(image)
    captions = {}
    for k in range(8):
        picture, values = scene(k)
        masks = [values == SKY, values != SKY, np.indices(values.shape)[1] < 20, np.zeros_like(values, bool)]
        layouts.sa1b(sa1b / "sa_000000", f"sa_{k}", masks, pack=k % 2 == 0)
        picture.save(sa1b / "sa_000000" / f"sa_{k}.jpg")
        captions[f"sa_{k}"] = "the sky above the grass"
    (sa1b / "captions.json").write_text(json.dumps(captions))
    return coco, sa1b


def recipe(experiment, roots, *arguments):
    coco, sa1b = roots
    values = [f"experiment={experiment}", "backbone=tiny_sd3", "backbone.image_size=[96,128]"]
    values += [f"paths.assets_dir={REPO}/assets", "data.num_workers=0", "trainer.accelerator=cpu"]
    values += [f"data.source.root={coco}"] if experiment == "coco_lora" else [f"data.source.evaluation.root={coco}"]
    values += [] if experiment == "coco_lora" else [f"data.source.train.root={sa1b}", f"data.source.train.captions={sa1b}/captions.json"]
    return [*values, "callbacks.samples=null", "trainer.log_every_n_steps=1", *arguments]


@pytest.mark.parametrize("experiment", ["coco_lora", "sa1b_lora"])
def test_a_recipe_trains_on_a_miniature_and_evaluate_reads_the_result(experiment, roots, tmp_path):
    shorter = ["trainer.max_steps=30", "trainer.val_check_interval=60", "model.warmup_steps=2", "model.lr=0.02"]
    arguments = recipe(experiment, roots, *shorter)
    metrics = train(compose_config("train", tmp_path / "run", *arguments))
    rows = [line.split(",") for line in (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()]
    column = {name: [float(row[k]) for row in rows[1:] if row[k]] for k, name in enumerate(rows[0])}
    for name in ("train/focal", "train/dice"):
        assert np.mean(column[name][-8:]) < 0.9 * np.mean(column[name][:4]), f"{name} did not fall"
    assert metrics["images"] == 4
    report = evaluate(compose_config("evaluate", tmp_path / "again", f"ckpt={tmp_path}/run", "trainer.accelerator=cpu"))
    assert report["lora/miou"] == pytest.approx(metrics["lora/miou"], rel=1e-6) and report["images"] == 4


@pytest.mark.parametrize("experiment", ["coco_lora", "sa1b_lora"])
def test_without_data_and_weights_everything_that_is_missing_is_named(experiment, tmp_path):
    config = compose_config("train", tmp_path, f"experiment={experiment}", "backbone.model.path=/nowhere/sd3", "trainer.accelerator=cpu")
    with pytest.raises(UserError) as error:
        train(config)
    expected = [
        "no model folder at /nowhere/sd3",
        "val2017",
        "stuffthingmaps",
        "COCO_ROOT",
        *(["train2017"] if experiment == "coco_lora" else ["SA1B_ROOT"]),
    ]
    assert not [part for part in expected if part not in str(error.value)]


def test_regions_of_sa1b_reach_the_loss_without_the_padding_of_a_letterbox(roots, tmp_path):
    arguments = recipe("sa1b_lora", roots, "data.geometry=letterbox", "backbone.image_size=[128,128]")
    config = compose_config("train", tmp_path, *arguments)
    data = build(config.data)
    module = build_model(config.model, data)
    batch = next(iter(data._each_once("train", resize_mask=True)))
    from seg4diff.training.alignment import nameless_regions

    for regions in nameless_regions(batch):
        assert regions.masks.shape == (3, 128, 128), "the empty mask is left out"
        assert regions.counted.sum() == 96 * 128 and regions.counted[16:112].all()
    terms = module.loss_terms(batch, list(range(len(batch))))
    assert all(value.isfinite() for value in terms.values()) and terms["dice"] > 0


def typed(*arguments):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("train", list(arguments), return_hydra_config=True)


@pytest.mark.parametrize("data", [[], ["data=coco_stuff"]])
def test_a_model_is_not_trained_by_the_recipe_of_another(data, monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", typed("backbone=sd3_medium", *data))
    with pytest.raises(UserError, match="backbone=sd3_medium needs a recipe: add experiment=coco_lora"):
        check_recipe()
    for experiment in ("coco_lora", "quickstart"):
        monkeypatch.setattr(HydraConfig.instance(), "cfg", typed("backbone=sd3_medium", f"experiment={experiment}", *data))
        check_recipe()


def test_other_data_by_the_default_recipe_is_said(monkeypatch, caplog):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", typed("data=folder"))
    with caplog.at_level("INFO"):
        check_recipe()
    assert "data=folder by the default experiment: the tiny model and its recipe" in caplog.text


def test_a_backbone_has_exactly_the_documented_keys(tmp_path):
    """A file with them serves training and pictures; without any one of them, it does not."""
    page = (REPO / "docs" / "add-a-backbone.md").read_text()
    keys = re.findall(r"`(\w+)`", page[page.index("has the keys") : page.index("the tables of the paper, `paper`")])
    whole = OmegaConf.to_container(compose_config("train", tmp_path, "backbone=tiny_sd3").backbone)
    file = tmp_path / "backbone" / "mine.yaml"
    file.parent.mkdir()

    def resolved(names):
        OmegaConf.save({name: whole[name] for name in names}, file)
        mine = ["backbone=mine", f"hydra.searchpath=[file://{tmp_path}]", f"paths.assets_dir={REPO}/assets"]
        configs = [
            compose_config("train", tmp_path, "experiment=coco_lora", *mine),
            compose_config("evaluate", tmp_path, "ckpt=base", "evaluation=unsupervised", *mine),
        ]
        for config in configs:
            OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
        return configs

    training, pictures = resolved(keys)
    assert (
        len(build(training.backbone.model).attention_sites()) == 8
        and build(training.backbone.readout)
        and build(pictures.evaluation.proposals)
    )
    for key in keys:
        with pytest.raises((InterpolationResolutionError, ConfigKeyError)):
            [config.backbone[key] for config in resolved([name for name in keys if name != key])]
