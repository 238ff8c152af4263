"""evaluate.py benchmark=...: several data sets in one table, continued where it stopped, with the release's choices where asked for."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch

from seg4diff.commands import benchmark
from seg4diff.commands.benchmark import evaluate_benchmarks
from seg4diff.commands.run import evaluate, train
from seg4diff.commands.trainers import build
from seg4diff.data.geometry import Window
from seg4diff.data.sample import Batch
from seg4diff.errors import UserError
from seg4diff.evaluation import progress
from seg4diff.evaluation.callbacks import choose_extremes, picture_row
from seg4diff.evaluation.module import SplitEvaluation
from tests.conftest import REPO
from tests.data import layouts
from tests.runs import SMALL_MODEL, SMALL_RUN, compose_config, overrides, run_script

SMALL_SCENES = "{side: 32, sizes: {train: 4, validation: 4, test: 7}}"
TOY = [f"benchmark.toyworld_{name}.data.source={SMALL_SCENES}" for name in ("oracle", "vocabulary", "unsupervised")]
BATCH = [f"benchmark.toyworld_{name}.data.eval_batch_size=4" for name in ("oracle", "vocabulary", "unsupervised")]


@pytest.fixture(scope="module")
def arguments(assets, world):
    places = [f"paths.assets_dir={assets}", f"paths.data_dir={world}"]
    return [*places, *SMALL_MODEL, *TOY, *BATCH, "trainer.accelerator=cpu", "ckpt=base", "benchmark=toyworld"]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """The folder of a finished benchmark, and its figures."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, evaluate_benchmarks(compose_config("evaluate", folder, *arguments))


@pytest.fixture
def reached(finished, tmp_path):
    """A copy of the finished benchmark, as if it had been stopped before its table."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "metrics.json").unlink()
    return tmp_path


@pytest.fixture(scope="module")
def lora(assets, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, "callbacks.samples=null", "~evaluation"))
    return folder / "checkpoints" / "last-lora"


def test_every_entry_has_a_folder_and_all_have_one_table(arguments, lora, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    arguments = [argument for argument in arguments if not argument.startswith("ckpt=")]
    metrics = evaluate_benchmarks(compose_config("evaluate", tmp_path, *arguments, f"ckpt={lora}"))
    assert list(metrics["benchmarks"]) == ["toyworld_oracle", "toyworld_vocabulary", "toyworld_unsupervised"]
    protocols = [report["protocol"] for report in metrics["benchmarks"].values()]
    assert protocols == ["oracle", "vocabulary", "unsupervised"]
    for name, report in metrics["benchmarks"].items():
        assert report["images"] == 7 and list(report["miou_per_block"]) == [1], "the expert alone"
        assert metrics[f"{name}/lora/miou"] == report["lora/miou"]
        assert (tmp_path / name / "pictures" / "best-median-worst-000000.png").is_file()
        assert (tmp_path / name / "per-class.csv").is_file() and (tmp_path / name / "config.yaml").is_file()
    with (tmp_path / "benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lora/miou"]) for row in rows] == [report["lora/miou"] for report in metrics["benchmarks"].values()]
    assert json.loads((tmp_path / "metrics.json").read_text())["benchmarks"].keys() == metrics["benchmarks"].keys()
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert f"{100 * metrics['toyworld_vocabulary/lora/miou']:.1f}" in shown and "baseline" in shown


def test_a_stopped_benchmark_continues_where_it_was(arguments, finished, tmp_path, monkeypatch):
    real, seen = benchmark.evaluate_module, []

    def stops_at_the_third(entry, *rest, **options):
        seen.append(entry.evaluation.get("protocol", "unsupervised"))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(entry, *rest, **options)

    monkeypatch.setattr(benchmark, "evaluate_module", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate_benchmarks(compose_config("evaluate", tmp_path / "parts", *arguments))
    assert not (tmp_path / "parts" / "metrics.json").exists()
    continued = evaluate_benchmarks(compose_config("evaluate", tmp_path / "parts", *arguments))
    assert json.dumps(continued) == json.dumps(finished[1])
    assert seen == ["oracle", "vocabulary", "unsupervised", "unsupervised"], "what was finished is not run again"


@pytest.mark.parametrize("protocol", ["oracle", "unsupervised"])
def test_an_entry_continues_with_the_images_it_has_not_counted(protocol, arguments, lora, tmp_path, monkeypatch):
    """With a LoRA, so that both variants, their intervals and the flow loss are whole afterwards."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    arguments = [argument for argument in arguments if not argument.startswith(("ckpt=", "benchmark=", "benchmark."))]
    arguments += ["benchmark=toyworld", f"ckpt={lora}", *TOY, *(line.replace("=4", "=2") for line in BATCH)]

    def config(name):
        composed = compose_config("evaluate", tmp_path / name, *arguments)
        composed.benchmark = {f"toyworld_{protocol}": composed.benchmark[f"toyworld_{protocol}"]}
        return composed

    whole = evaluate_benchmarks(config("whole"))
    seen = stop_at_the_third_batch(monkeypatch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        evaluate_benchmarks(config("parts"))
    assert json.dumps(evaluate_benchmarks(config("parts"))) == json.dumps(whole)
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert not list((tmp_path / "parts").rglob("*.pt"))


def stop_at_the_third_batch(monkeypatch):
    """Returns the list that grows with the images of every batch of two that an evaluation meets."""
    real, seen = SplitEvaluation.test_step, []

    def stops(self, batch, batch_idx):
        seen.extend(batch.indices)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SplitEvaluation, "test_step", stops)
    return seen


def test_scores_of_another_setting_are_not_taken_over(arguments, reached):
    faster = "benchmark.toyworld_oracle.data.eval_batch_size=2"
    evaluate_benchmarks(compose_config("evaluate", reached, *arguments, faster))  # how it was computed does not matter
    (reached / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"backbone.*differ"):
        evaluate_benchmarks(compose_config("evaluate", reached, *arguments, "backbone.readout.sigma=0.4"))


def test_a_damaged_file_of_an_earlier_start_is_named(arguments, reached, tmp_path):
    for name in ("metrics.json", "identity.json"):
        file = reached / "toyworld_vocabulary" / name
        file.write_text(file.read_text()[:-9])
        with pytest.raises(UserError, match=rf"{file} is no JSON object: it is damaged, delete "):
            evaluate_benchmarks(compose_config("evaluate", reached, *arguments))
    for content in (b"half", pickled({"another": 1}), pickled({"images": 3, "counts": {"of another model": torch.zeros(1)}})):
        (tmp_path / "0-of-1.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"0-of-1.pt is damaged: delete it"):
            progress.Progress(tmp_path, 0, 1).restore(torch.nn.Module())


def pickled(content):
    with io.BytesIO() as file:
        torch.save(content, file)
        return file.getvalue()


def test_scores_of_which_nobody_knows_the_setting_are_not_taken(arguments, reached):
    (reached / "toyworld_oracle" / "identity.json").unlink()
    with pytest.raises(UserError, match=r"toyworld_oracle holds scores without a record of their setting"):
        evaluate_benchmarks(compose_config("evaluate", reached, *arguments))


def test_a_limit_counts_the_same_images_after_a_stop(arguments, tmp_path, monkeypatch):
    """Three batches of two are the first 6 of 7 images, whatever was counted before."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    limited = [*arguments, "+trainer.limit_test_batches=3", *(line.replace("=4", "=2") for line in BATCH)]
    whole = evaluate_benchmarks(compose_config("evaluate", tmp_path / "whole", *limited))
    stop_at_the_third_batch(monkeypatch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        evaluate_benchmarks(compose_config("evaluate", tmp_path / "parts", *limited))
    assert json.dumps(evaluate_benchmarks(compose_config("evaluate", tmp_path / "parts", *limited))) == json.dumps(whole)
    assert [report["images"] for report in whole["benchmarks"].values()] == [6, 6, 6]
    entries = [benchmark.entry_config(compose_config("evaluate", tmp_path, *more), "toyworld_oracle") for more in (arguments, limited)]
    assert [benchmark.identify(entry, None)["data"].get("eval_batch_size") for entry in entries] == [None, 2]


def test_another_lora_in_the_same_place_is_another_setting(arguments, lora, tmp_path):
    entry = benchmark.entry_config(compose_config("evaluate", tmp_path, *arguments), "toyworld_oracle")
    copy = tmp_path / "lora"
    copy.mkdir()
    (copy / lora.joinpath("pytorch_lora_weights.safetensors").name).write_bytes(b"one")
    first = benchmark.identify(entry, copy)
    (copy / "pytorch_lora_weights.safetensors").write_bytes(b"two")
    assert benchmark.identify(entry, copy) != first


def test_a_miniature_coco_through_the_paper_entry(assets, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for k in range(3):
        image, mask = layouts.COCO.pair(tmp_path / "coco", "val", k)
        values = np.full((48, 64), 255, np.uint8)
        values[:24], values[24:, : 20 + 4 * k] = 0, 16  # person, cat (category ids 1 and 17)
        layouts.write(image, mask, values)
    arguments = [f"paths.assets_dir={assets}", *SMALL_MODEL, "trainer.accelerator=cpu", "ckpt=base", "backbone.image_size=[32,32]"]
    arguments += ["benchmark=coco_object", f"benchmark.coco_object.data.source.root={tmp_path}/coco", "backbone.paper=SD3"]
    arguments += ["benchmark.coco_object.data.num_workers=0"]
    metrics = evaluate_benchmarks(compose_config("evaluate", tmp_path / "out", *arguments))
    report = metrics["benchmarks"]["coco_object"]
    assert report["images"] == 3 and set(report["base/iou_per_class"]) >= {"person", "cat"}
    shown = capsys.readouterr().out
    assert "oracle, crop" in shown and "62.0 │" in shown and "62.9 / 62.0" in shown, "the paper's base, its LoRA of COCO, that of SA-1B"


PAPER_CLASSES = {
    "voc20": 20,
    "coco_object": 80,
    "pascal_context59": 59,
    "ade20k": 150,
    "cityscapes": 19,
    "voc21_unsupervised": 21,
    "pascal_context60_unsupervised": 60,
    "coco_object_background_unsupervised": 81,
    "coco_stuff_27_unsupervised": 27,
    "cityscapes_27_unsupervised": 27,
    "ade20k_unsupervised": 150,
}


@pytest.mark.parametrize(
    "backbone", sorted(path.stem for path in (REPO / "conf" / "backbone").glob("*.yaml") if "untrained" not in path.stem)
)
def test_the_papers_rows_compose_for_every_backbone(backbone, tmp_path):
    config = compose_config("evaluate", tmp_path, "ckpt=base", "benchmark=paper", f"backbone={backbone}", "split=validation")
    assert {name: len(build(entry.data).vocabulary) for name, entry in config.benchmark.items()} == PAPER_CLASSES
    for name in config.benchmark:
        entry = benchmark.entry_config(config, name)
        assert entry.data.geometry == "crop" and entry.data.test_split == "validation"
        assert ("proposals" in entry.evaluation) == name.endswith("unsupervised") and not entry.evaluation.base_blocks
        assert list(entry.data.image_size) == list(config.backbone.image_size)


def test_all_that_is_missing_is_said_at_once(tmp_path, assets):
    arguments = ["ckpt=base", "benchmark=paper", f"paths.data_dir={tmp_path}/none", "backbone.model.path=/nowhere/model"]
    with pytest.raises(UserError) as error:
        evaluate_benchmarks(compose_config("evaluate", tmp_path, *arguments))
    parts = ["VOC_ROOT", "COCO_ROOT", "PASCAL_CONTEXT_ROOT", "ADE20K_ROOT", "CITYSCAPES_ROOT", "/nowhere/model"]
    assert [part for part in parts if str(error.value).count(part) != 1 and part != "/nowhere/model"] == []
    assert "benchmark.voc20.data.source.root or benchmark.voc21_unsupervised.data.source.root" in str(error.value)
    assert "/nowhere/model" in str(error.value) and "train2017 " not in str(error.value), "the training images are not asked for"


def test_the_choices_of_the_release_are_set_and_listed(assets, world, tmp_path, caplog):
    given = [*overrides(assets, world), "trainer.accelerator=cpu", "ckpt=base", "release_compat=true", "protocol=vocabulary"]
    caplog.set_level("INFO", "seg4diff")
    report = evaluate(compose_config("evaluate", tmp_path, *given))
    said = caplog.text
    assert "release_compat: backbone.readout.normalisation=none" in said and "release_compat: data.geometry=stretch" in said
    assert "release_compat: protocol" not in said, "the command line is stronger"
    assert report["protocol"] == "vocabulary"


def test_a_value_that_would_do_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"set benchmark\.<name>\.evaluation instead"):
        evaluate_benchmarks(compose_config("evaluate", tmp_path, "ckpt=base", "benchmark=toyworld", "evaluation=unsupervised"))
    assert not (tmp_path / "toyworld_oracle").exists()


@pytest.mark.parametrize("idle", ["geometry=letterbox", "protocol=none"])
def test_a_choice_that_no_entry_reads_is_refused(idle, tmp_path):
    with pytest.raises(UserError, match=f"{idle} has no effect: every entry of this benchmark has its own"):
        evaluate_benchmarks(compose_config("evaluate", tmp_path, "ckpt=base", "benchmark=toyworld", idle))


def test_two_processes_share_a_benchmark(arguments, finished, tmp_path):
    done = run_script("evaluate.py", tmp_path, *arguments, "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "metrics.json").read_text())
    for name, report in finished[1]["benchmarks"].items():
        for key in ("images", "base/miou", "base/miou_low", "baseline/random", "upper_bound"):
            assert two["benchmarks"][name].get(key) == report.get(key), (name, key)


def test_a_page_shows_the_best_the_middle_and_the_worst():
    scores = {4: 0.9, 0: 0.1, 7: 0.5, 2: float("nan"), 1: 0.7, 3: 0.5, 9: 0.2}
    assert choose_extremes(scores, 1) == [("best", 4), ("median", 3), ("worst", 0)]
    assert choose_extremes(scores, 3) == [("best", 4), ("best", 1), ("median", 3), ("median", 7), ("worst", 9), ("worst", 0)], "none twice"
    assert choose_extremes({0: 0.5, 1: 0.7}, 3) == []


def test_an_overlay_shows_an_image_without_its_padding():
    image = torch.full((3, 8, 8), -1.0)
    image[:, 2:6] = 1
    batch = Batch(
        images=image[None],
        masks=[torch.zeros(16, 32, dtype=torch.int64)],
        captions=[""],
        names=["a"],
        indices=[0],
        windows=[Window(2, 0, 4, 8)],
    )
    shown, truth = picture_row(batch, 0, ["sky"], [])
    assert shown.size == (32, 16) and shown.getextrema() == ((255, 255),) * 3, "no black bar"
    assert truth.width == 2 * truth.height
