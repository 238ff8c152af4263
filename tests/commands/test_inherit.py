"""What an evaluation takes from the run of a LoRA, and what is the caller's."""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from seg4diff.commands.inherit import inherit, other_base, relocate, take_from_release, take_from_run
from seg4diff.commands.run import evaluate, train
from tests.runs import SMALL_RUN, compose_config, overrides


@pytest.fixture(scope="module")
def run(tmp_path_factory, assets, world):
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    quiet = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null"]
    train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *quiet))
    return folder


@pytest.fixture
def evaluation(run, tmp_path):
    """The configuration of an evaluation of that run, with what it takes over."""

    def compose(*arguments, **values):
        config = compose_config("evaluate", tmp_path / "out", f"ckpt={run}", "trainer.accelerator=cpu", *arguments)
        config.update(values)
        inherit(config)
        return config

    return compose


def test_what_the_command_line_sets_is_stronger_than_the_run(evaluation, assets, world):
    config = evaluation("protocol=vocabulary", "data.eval_batch_size=2", "backbone.readout.sigma=0.4")
    assert (config.expert_layer, config.protocol, config.data.eval_batch_size, config.data.batch_size) == (1, "vocabulary", 2, 4)
    assert config.data.source.root == f"{world}/toyworld" and config.backbone.model.path == f"{assets}/tiny-sd3"
    assert config.evaluation.readout.sigma == 0.4


@pytest.mark.parametrize(
    ("argument", "data", "model"),
    [("paths.data_dir=/new", "/new", None), ("paths.assets_dir=/new", None, "/new"), ("paths.root_dir=/new", "/new/data", "/new/assets")],
)
def test_paths_are_applied(argument, data, model, evaluation, assets, world):
    config = evaluation(argument)
    assert config.data.source.root == f"{data or world}/toyworld"
    assert config.backbone.model.path == f"{model or assets}/tiny-sd3"


def test_a_call_from_python_keeps_every_value_of_the_caller(evaluation, assets, world):
    own = ["expert_layer=2", "protocol=vocabulary", *overrides(assets, world), "data.eval_batch_size=3", "paths.data_dir=/mine"]
    config = evaluation(*own, chosen=None)
    assert (config.expert_layer, config.protocol, config.data.eval_batch_size) == (2, "vocabulary", 3)
    assert config.data.source.root == "/mine/toyworld"


def test_a_call_from_python_may_name_what_it_has_chosen(evaluation):
    config = evaluation("expert_layer=2", "protocol=vocabulary", chosen=["expert_layer=2"])
    assert (config.expert_layer, config.protocol) == (2, "oracle")


def test_the_block_of_the_run_is_evaluated_from_python_too(run, tmp_path, assets, world):
    config = compose_config("evaluate", tmp_path, f"ckpt={run}", *overrides(assets, world), "evaluation.base_blocks=[]")
    config.chosen = None
    report = evaluate(config)
    assert report["expert_layer"] == 1 and "lora/miou" in report and "lora/base_model" not in report


def test_a_lora_on_another_base_model_is_named(run, tmp_path, assets, world, capsys, caplog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(assets / "tiny-sd3", tmp_path / "other")
    arguments = [f"ckpt={run}", f"backbone.model.path={tmp_path}/other", "evaluation.base_blocks=[]", "trainer.accelerator=cpu"]
    report = evaluate(compose_config("evaluate", tmp_path / "out", *arguments))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["lora/base_model"] == report["lora/base_model"] == f"{assets}/tiny-sd3"
    assert written["base_model"] == f"{tmp_path}/other"
    assert f"The LoRA was trained on another model, {assets}/tiny-sd3; evaluated was {tmp_path}/other." in capsys.readouterr().out
    assert f"was trained on {assets}/tiny-sd3, and this is {tmp_path}/other" in caplog.text


def test_another_revision_is_another_model(evaluation, run, assets):
    lora = run / "checkpoints" / "last-lora"
    assert other_base(evaluation(), lora) == {}
    found = other_base(evaluation("backbone.model.revision=v2"), lora)
    assert found == {"base_model": f"{assets}/tiny-sd3 (v2)", "lora/base_model": f"{assets}/tiny-sd3"}


def test_a_place_moves_with_the_longest_path_above_it():
    moved = relocate({"a": "/x/y/z", "b": ["/x", "/xy", 1, None]}, {"/x": "/1", "/x/y": "/2"})
    assert moved == {"a": "/2/z", "b": ["/1", "/xy", 1, None]}


@pytest.fixture
def released(tmp_path):
    """The configuration of an evaluation with the release's choices."""

    def compose(*arguments):
        config = compose_config("evaluate", tmp_path, "ckpt=base", "release_compat=true", *arguments)
        OmegaConf.set_struct(config, False)
        take_from_release(config)
        return config

    return compose


def test_the_release_differs_between_the_families(released):
    sd3, flux = released("backbone=sd35_medium").backbone, released("backbone=flux1_dev").backbone
    assert (sd3.readout.sigma, sd3.model.t5_length) == (0.5150721, 77)
    assert (flux.readout.sigma, flux.model.text_length) == (0.2316793, 77)
    assert sd3.merging == flux.merging == {"contrast": "minmax", "threshold": 0.1, "rounds": 1}


def test_a_model_that_the_release_does_not_read_keeps_its_own_noise_level(released):
    assert released("backbone=flux2_klein").backbone.readout.sigma == 0.7747191


@pytest.mark.parametrize(
    ("data", "vocabulary"), [("voc20", "voc_release"), ("pascal_context60", "pascal_context_release"), ("ade20k", "ade20k")]
)
def test_the_release_has_names_of_its_own_and_resizes_without_antialiasing(released, data, vocabulary):
    config = released(f"data={data}")
    assert config.data.source.vocabulary == vocabulary and config.data.resample == "bilinear"


def test_the_entries_of_a_benchmark_follow_and_keep_what_they_measure(released):
    entries = released("benchmark=paper").benchmark
    assert entries.voc20.data.source.vocabulary == "voc_release" and entries.cityscapes.data.source.vocabulary == "cityscapes"
    assert {entry.data.resample for entry in entries.values()} == {"bilinear"} and {entry.data.geometry for entry in entries.values()} == {
        "stretch"
    }
    assert released("benchmark=toyworld_geometry").benchmark.toyworld_letterbox.data.geometry == "letterbox"


def test_every_choice_of_the_release_is_listed(released, caplog):
    with caplog.at_level("INFO"):
        released("benchmark=voc20", "backbone=sd3_medium", "benchmark.voc20.data.resample=bicubic")
    listed = [record.getMessage().removeprefix("release_compat: ") for record in caplog.records]
    assert {"geometry=stretch", "backbone.readout.heads=null", "backbone.readout.sigma=0.5150721"} <= set(listed)
    assert "benchmark.voc20.data.source.vocabulary=voc_release" in listed
    assert not [line for line in listed if line.startswith(("data.", "benchmark.voc20.data.resample", "benchmark.voc20.data.geometry"))]


def test_what_was_chosen_otherwise_is_no_choice_of_the_release(released):
    config = released("data=voc20", "data.source.vocabulary=coco_object")
    assert config.data.source.vocabulary == "coco_object"


def test_an_evaluation_takes_over_auto_with_the_own_dtype_of_its_backbone(tmp_path):
    run = compose_config("train", tmp_path, "backbone=sd3_medium", "runtime.compile=true")
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(run, resolve=True)), tmp_path / "config.yaml")
    config = compose_config("evaluate", tmp_path / "evaluated", f"ckpt={tmp_path}")
    config.chosen = []
    take_from_run(config, tmp_path / "lora")
    model = OmegaConf.to_container(config, resolve=True)["backbone"]["model"]
    assert model["runtime"]["compile"] and model["runtime"]["dtype"] == "auto" and model["runtime"]["preferred"] == "float16"
    config.backbone.dtype = "bfloat16"
    assert config.backbone.model.runtime.preferred == "bfloat16"
