"""What an evaluation takes over from a run and from the release."""

import pytest
from omegaconf import OmegaConf

from seg4diff.commands.inherit import take_from_release, take_from_run
from tests.runs import compose_config


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
    assert sd3.merging == flux.merging == {"contrast": "stretched", "threshold": 0.1, "rounds": 1}


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


def test_what_was_chosen_otherwise_is_no_choice_of_the_release(released):
    config = released("data=voc20", "data.source.vocabulary=coco_object")
    assert config.data.source.vocabulary == "coco_object"


def test_an_evaluation_takes_over_auto_with_the_own_dtype_of_its_backbone(tmp_path):
    run = compose_config("train", tmp_path, "backbone=sd3_medium", "runtime.compile=true")
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(run, resolve=True)), tmp_path / "config.yaml")
    config = compose_config("evaluate", tmp_path / "evaluated", f"ckpt={tmp_path}")
    take_from_run(config, tmp_path / "lora")
    model = OmegaConf.to_container(config, resolve=True)["backbone"]["model"]
    assert model["runtime"]["compile"] and model["runtime"]["dtype"] == "auto" and model["runtime"]["preferred"] == "float16"
    config.backbone.dtype = "bfloat16"
    assert config.backbone.model.runtime.preferred == "bfloat16"
