"""What a user can fix ends in one sentence and exit code 1, and nothing is overwritten."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import get_worker_info

from seg4diff.backbones.loading import load_pretrained
from seg4diff.backbones.lora import LoraSpec, add_lora
from seg4diff.commands.console import main
from seg4diff.commands.run import encode, evaluate, train
from seg4diff.commands.trainers import build
from seg4diff.data.table import TableRows
from seg4diff.errors import MissingFileError, UserError
from seg4diff.training import checks
from seg4diff.training.checkpoints import read_checkpoint
from tests.hosts import random_flux, random_sd3
from tests.runs import SMALL_MODEL, SMALL_RUN, compose_config, overrides, run_script
from tests.test_endurance import check_what_a_reader_finds

FAST = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null"]


def sentence(capsys, entry) -> str:
    """Run an entry point that must fail; return what it said."""
    with pytest.raises(SystemExit) as stop:
        main(entry)
    assert stop.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def photos(tmp_path):
    """A folder data set of two images of 32 x 48 pixels and two classes."""
    for split in ("train", "val"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        rows = []
        for k in range(2):
            Image.new("RGB", (48, 32), (90 * k, 90, 90)).save(tmp_path / "photos" / split / f"{k}.png")
            Image.fromarray(np.full((32, 48), k, dtype=np.uint8)).save(tmp_path / "photos" / split / f"{k}-mask.png")
            rows.append(json.dumps({"file_name": f"{k}.png", "mask_file_name": f"{k}-mask.png", "caption": "sand and snow"}))
        (tmp_path / "photos" / split / "metadata.jsonl").write_text("\n".join(rows))
    (tmp_path / "photos" / "classes.txt").write_text("sand\nsnow\n")
    return tmp_path / "photos"


def training(tmp_path, assets, world, *arguments):
    return lambda: train(compose_config("train", tmp_path / "out", *overrides(assets, world), *SMALL_RUN, *FAST, *arguments))


def folder_training(tmp_path, assets, photos, *arguments):
    names = ["data=folder", f"data.source.root={photos}", f"paths.assets_dir={assets}", "data.batch_size=2", "data.eval_batch_size=2"]
    return lambda: train(compose_config("train", tmp_path / "out", *names, *SMALL_MODEL, *SMALL_RUN, *FAST, *arguments))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("expert_layer=9", "block 9 does not exist: this model has 4 joint-attention blocks, 0 to 3"),
        ("lora.targets=[to_z]", "'to_z', which the attention of the adapted blocks does not have"),
        ("lora.blocks=expertt", "lora.blocks must be 'expert', 'all' or a list"),
        ("backbone.readout.normalisation=min", "readout.normalisation must be one of none, minmax, found 'min'"),
        ("data.test_split=tset", "the split must be one of train, validation, test, found 'tset'"),
        ("trainer.max_steps=-1", "trainer.max_steps must be at least 1, found -1"),
        ("backbone.readout.sigma=1.5", "readout.sigma must be in [0, 1], found 1.5"),
        ("backbone.model.path=/nowhere/model", "no model folder at /nowhere/model: set backbone.model.path"),
        ("ckpt_path=/nowhere/last.ckpt", "no checkpoint at /nowhere/last.ckpt"),
        ("runtime.dtype=fp16", "runtime.dtype must be auto or one of float32, bfloat16, float16, float64, found 'fp16'"),
        ("runtime.quantize=int3", "runtime.quantize must be null or one of int8, nf4, found 'int3'"),
        ("runtime.attention=flash", "runtime.attention=flash cannot be combined with this model"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be at least 1, found 0"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval must be above 0: trainer.limit_val_batches=0 leaves validation out"),
        ("data.batch_size=0", "data.batch_size must be at least 1, found 0"),
        ("data.eval_batch_size=0", "data.eval_batch_size must be at least 1, found 0"),
        ("data.num_workers=-1", "data.num_workers must be at least 0, found -1"),
        ("data.source.sizes.test=0", "data.source.sizes must be at least 1 for every split, found"),
        ("seed=-1", "seed must be in 0..4294967295, found -1"),
        ("model.lr=-1", "model.lr must be above 0, model.weight_decay and model.warmup_steps 0 or more, found -1"),
        ("model.warmup_steps=-1", "model.warmup_steps 0 or more, found"),
        ("model.lr=1e38", "the loss is not finite at step"),
    ],
)
def test_bad_values(argument, expected, capsys, tmp_path, assets, world):
    assert expected in sentence(capsys, training(tmp_path, assets, world, argument))


def test_encoding_without_a_folder(capsys, tmp_path, assets, world):
    config = compose_config("train", tmp_path, *overrides(assets, world), "runtime.cache=null")
    assert "mode=encode needs a folder to fill: set runtime.cache=<folder>" in sentence(capsys, lambda: encode(config))


def test_a_model_folder_of_another_class(capsys, tmp_path, assets, world):
    random_flux()._pipeline.save_pretrained(tmp_path / "flux")
    said = sentence(capsys, training(tmp_path, assets, world, f"backbone.model.path={tmp_path}/flux"))
    assert "is a FluxPipeline, but this backbone reads a StableDiffusion3Pipeline: use backbone=flux1_dev or flux1_schnell" in said


def test_unknown_experiment_lists_the_known_ones(tmp_path):
    done = run_script("train.py", tmp_path / "out", "experiment=cocolora")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Could not find 'experiment/cocolora'" in done.stderr and "coco_lora" in done.stderr


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run_script("train.py", tmp_path / "file" / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(tmp_path / "file") in done.stderr


def test_missing_data_folder(capsys, tmp_path, assets):
    said = sentence(capsys, folder_training(tmp_path, assets, tmp_path / "nothing"))
    assert f"no list of classes at {tmp_path}/nothing" in said or "no data folder at" in said


@pytest.fixture
def corrupt(photos):
    """One of the two training images, cut off."""
    file = photos / "train" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    return file


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image(workers, corrupt, capsys, tmp_path, assets, photos):
    said = sentence(capsys, folder_training(tmp_path, assets, photos, f"data.num_workers={workers}"))
    assert said.startswith(f"error: the image {corrupt} cannot be read (") and "names every such file" in said


def test_corrupt_image_within_the_budget(corrupt, capsys, caplog, tmp_path, assets, photos):
    metrics = folder_training(tmp_path, assets, photos, "data.skip_unreadable=1", "data.num_workers=1")()
    assert metrics["steps"] == 4
    assert [str(corrupt) in record.getMessage() for record in caplog.records if "takes its place" in record.getMessage()] == [True]
    (photos / "val" / "1.png").write_bytes(b"")
    said = sentence(capsys, folder_training(tmp_path / "again", assets, photos, "data.skip_unreadable=1"))
    assert f"{photos}/val/1.png cannot be read" in said, "evaluation skips nothing"


def test_loader_process_that_dies(capsys, monkeypatch, tmp_path, assets, world):
    """As when the system runs out of memory: whatever the main process is doing then, it ends in one sentence."""
    arguments = ["data.num_workers=2", "trainer.max_steps=400", "callbacks.checkpoint.every_n_train_steps=2"]
    whole = TableRows.__getitem__

    def die(rows, index):
        if get_worker_info() is not None and (tmp_path / "out/checkpoints/last.ckpt").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(rows, index)

    monkeypatch.setattr(TableRows, "__getitem__", die)
    said = sentence(capsys, training(tmp_path, assets, world, *arguments))
    assert "a process that loads data has died (DataLoader worker (pid" in said and "set data.num_workers to fewer" in said
    check_what_a_reader_finds(tmp_path / "out")


def test_mask_of_another_size(capsys, tmp_path, assets, photos):
    Image.new("L", (20, 32)).save(photos / "train" / "0-mask.png")
    assert "20 x 32 pixels, its image 48 x 32" in sentence(capsys, folder_training(tmp_path, assets, photos))


def test_mask_value_outside_the_vocabulary(capsys, tmp_path, assets, photos):
    Image.new("L", (48, 32), 7).save(photos / "train" / "0-mask.png")
    said = sentence(capsys, folder_training(tmp_path, assets, photos))
    assert "0-mask.png holds the values [7], but the vocabulary has 2 classes" in said


@pytest.mark.parametrize("size", ["30,48", "128,128"])
def test_image_size_that_the_model_cannot_take(size, capsys, tmp_path, assets, photos):
    said = sentence(capsys, folder_training(tmp_path, assets, photos, f"data.image_size=[{size}]"))
    assert f"image size {size.replace(',', ' x ')} does not fit this model: height and width must be multiples of 8 and at most 96" in said


def test_caption_that_is_no_text(capsys, tmp_path, assets, photos):
    file = photos / "val" / "metadata.jsonl"
    file.write_text(file.read_text().replace('"sand and snow"', "5"))
    assert f"the caption in line 1 of {file} must be a string or a list of strings, found '5'" in sentence(
        capsys, folder_training(tmp_path, assets, photos)
    )


def test_nothing_to_align(capsys, monkeypatch, tmp_path, assets, photos):
    monkeypatch.setattr(checks, "ENOUGH", 3)
    file = photos / "train" / "metadata.jsonl"
    file.write_text(file.read_text().replace("sand and snow", "a photo"))
    arguments = ["model.prompt=caption", "ckpt_path=last"]
    said = sentence(capsys, folder_training(tmp_path, assets, photos, *arguments))
    assert "no image of the first 3 batches had a mask to align: model.align=names needs masks with class names" in said
    folder_training(tmp_path, assets, photos, *arguments, "model.objective.mask_weight=0", "model.objective.dice_weight=0")()


def test_what_a_node_is_built_with(capsys):
    """The error comes out of Hydra's, and each of the two stood for where the other came from."""
    node = OmegaConf.create({"_target_": "seg4diff.training.ema.WeightAverage", "decay": 1.5})
    assert "found 1.5" in sentence(capsys, lambda: build(node))


@pytest.mark.parametrize("protocol", ["oracle", "vocabulary"])
def test_class_name_longer_than_a_prompt(protocol, capsys, tmp_path, assets, photos):
    (photos / "classes.txt").write_text("sand\nsnow\n" + " ".join(["stone"] * 40) + "\n")
    said = sentence(capsys, folder_training(tmp_path, assets, photos, f"protocol={protocol}"))
    assert "the class name 'stone stone" in said and "is too long for the model by itself: shorten it" in said, "though no image has it"


def test_checkpoints_that_do_not_fit(capsys, tmp_path, assets, world):
    training(tmp_path, assets, world)()
    checkpoint = tmp_path / "out" / "checkpoints" / "last.ckpt"
    again = training(tmp_path, assets, world)
    assert "holds a finished run: choose another hydra.run.dir" in sentence(capsys, again)
    elsewhere = tmp_path / "elsewhere"
    for argument, expected in (("expert_layer=2", "expert_layer was 1, is 2"), ("lora.rank=4", "lora.rank was 16, is 4")):
        said = sentence(capsys, training(elsewhere, assets, world, f"ckpt_path={checkpoint}", argument))
        assert f"cannot go on as another one ({expected}): set these as they were, or start a new run in another hydra.run.dir." in said
    copy = tmp_path / "last.ckpt"  # without the run's configuration the shapes are left to compare
    torch.save({key: value for key, value in read_checkpoint(checkpoint).items() if key != "hyper_parameters"}, copy)
    said = sentence(capsys, training(elsewhere, assets, world, f"ckpt_path={copy}", "lora.rank=4"))
    assert "the checkpoint's LoRA does not fit this model" in said
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read (truncated" in sentence(capsys, training(elsewhere, assets, world, f"ckpt_path={checkpoint}"))


def test_lora_that_does_not_fit(capsys, tmp_path, assets, world):
    def evaluation(*arguments):
        return lambda: evaluate(compose_config("evaluate", tmp_path / "out", *overrides(assets, world), *arguments))

    wide = random_sd3(blocks=4, heads=3)
    add_lora(wide, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), expert_layer=1, seed=0)
    wide.save_lora(tmp_path / "wide")
    assert "was made for a 'transformer_blocks.1.attn.to_q' of width 24" in sentence(capsys, evaluation(f"ckpt={tmp_path}/wide"))
    deep = random_sd3(blocks=6)
    add_lora(deep, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), expert_layer=5, seed=0)
    deep.save_lora(tmp_path / "deep")
    assert "adapts 'transformer_blocks.5.attn.to_q', which this model does not have" in sentence(
        capsys, evaluation(f"ckpt={tmp_path}/deep")
    )
    own = random_sd3(blocks=4)
    add_lora(own, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q"]), expert_layer=2, seed=0)
    own.save_lora(tmp_path / "own")
    assert "adapts the blocks [2], expert_layer is 1" in sentence(capsys, evaluation(f"ckpt={tmp_path}/own"))
    file = tmp_path / "own" / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "truncated or not a safetensors file" in sentence(capsys, evaluation(f"ckpt={tmp_path}/own", "expert_layer=2"))
    assert "nor the word base" in sentence(capsys, evaluation("ckpt=bse"))


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (ConnectionError("no route"), "neither a folder nor complete in the local cache, and could not be fetched (no route)"),
        (GatedRepoError.__new__(GatedRepoError), "is gated: accept its licence"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "the hub has no model"),
    ],
)
def test_what_the_hub_says_reaches_the_user(cause, expected):
    class Unreachable:
        @staticmethod
        def from_pretrained(path, **options):
            raise OSError("diffusers wraps the error of the hub") from cause

    with pytest.raises(MissingFileError if "gated" not in expected else UserError, match=re.escape(expected)):
        load_pretrained(Unreachable, "owner/name", None)


def test_a_failed_start_leaves_an_existing_run_alone(tmp_path, assets, world, capsys):
    training(tmp_path, assets, world)()
    run = tmp_path / "out"
    (run / "metrics.json").unlink()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert "holds an unfinished run: continue it with" in sentence(capsys, training(tmp_path, assets, world))
    sentence(capsys, training(tmp_path, assets, world, f"ckpt_path={run}/checkpoints/last.ckpt", "expert_layer=9"))
    for arguments in ((), (f"ckpt_path={tmp_path}/of-another-run.ckpt",)):
        done = run_script("train.py", run, *arguments)
        assert done.returncode == 1 and "holds an unfinished run" in done.stderr
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
