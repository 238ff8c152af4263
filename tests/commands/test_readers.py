"""evaluate.py and train.py with another reader, presence or refinement than the paper's; benchmark=readers; evaluation=mixture."""

import pytest

from seg4diff.commands.evaluate import _run
from seg4diff.commands.readers import evaluate_readers, fit_mixture
from seg4diff.commands.run import evaluate, train
from seg4diff.commands.train import _run as _train
from seg4diff.errors import UserError
from seg4diff.presets import plain
from seg4diff.segmentation.readers.aggregated import Aggregated
from seg4diff.segmentation.readers.bounce import Bounce
from seg4diff.segmentation.readers.concepts import Concepts
from seg4diff.segmentation.readers.expert import Expert
from seg4diff.segmentation.readers.mixture import Mixture
from seg4diff.segmentation.readers.propagated import Propagated
from seg4diff.segmentation.readers.t2i import TextToImage
from seg4diff.segmentation.readout import Readout
from tests.runs import SMALL_RUN, compose_config, overrides

FEW = ["trainer.accelerator=cpu", "callbacks.progress=null", "ckpt=base", "evaluation.base_blocks=[]", "backbone.affinity_layer=2"]


def evaluated(folder, assets, world, *arguments):
    return evaluate(compose_config("evaluate", folder, *overrides(assets, world), *FEW, *arguments))


def test_a_score_says_how_it_was_read(assets, world, tmp_path, capsys):
    """And its upper bound is refined as the maps are."""
    papers = evaluated(tmp_path / "paper", assets, world)
    assert "reading" not in papers and "Not the paper's way" not in capsys.readouterr().out
    other = evaluated(tmp_path / "other", assets, world, "reader=propagated", "refine=pamr", "refine.iterations=2")
    assert other["reading"] == "Propagated, PixelAdaptive" and other["upper_bound"] != papers["upper_bound"]
    assert "Not the paper's way to read: Propagated, PixelAdaptive" in capsys.readouterr().out


def test_a_calibrated_vocabulary(assets, world, tmp_path):
    found = evaluated(tmp_path, assets, world, "protocol=vocabulary", "presence=calibrated", "presence.images=6")
    assert found["reading"] == "Calibration" and found["protocol"] == "vocabulary"


@pytest.mark.parametrize("name", ["paper", "unsupervised"])
def test_the_papers_benchmarks_are_read_as_in_the_paper(name, tmp_path):
    config = compose_config("evaluate", tmp_path, f"benchmark={name}", "ckpt=base", "backbone=sd3_medium")
    for entry in config.benchmark.values():
        node = plain(entry.evaluation)
        assert node.get("protocol") in ("oracle", None)
        parts = [node[group]["_target_"].rpartition(".")[2] for group in ("reader", "presence", "refine") if group in node]
        assert parts == (["Expert", "Unknown", "Unrefined"] if node.get("protocol") else [])


def test_every_reader_on_a_small_world(assets, world, tmp_path):
    given = ["benchmark=readers", "benchmark.readers.presence.images=4", "benchmark.readers.resamples=10"]
    given += ["+reader@benchmark.readers.readers.mixture=mixture", "benchmark.readers.readers.mixture.weights={1: [0.5, 0.5]}"]
    arguments = [own for own in [*overrides(assets, world), *FEW] if not own.startswith("evaluation.")]
    rows = evaluate_readers(compose_config("evaluate", tmp_path, *arguments, *given))["rows"]
    assert {row["reader"] for row in rows} == {"expert", "t2i", "propagated", "concepts", "bounce", "aggregated", "mixture"}
    assert len(rows) == 7 * 3 * 3 and all(0 <= row["miou"] <= 1 for row in rows)
    assert (tmp_path / "readers.csv").is_file() and (tmp_path / "pictures" / "readers.png").is_file()


def test_a_mixture_is_fitted_on_a_split_with_labels(assets, world, tmp_path):
    arguments = [own for own in [*overrides(assets, world), *FEW] if not own.startswith("evaluation.")]
    found = fit_mixture(compose_config("evaluate", tmp_path, *arguments, "evaluation=mixture", "evaluation.most=2", "split=validation"))
    assert found["split"] == "validation" and 0 < found["grid_miou"] <= 1
    assert sum(sum(own) for own in found["weights"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation=mixture"], "fitted on labels: add split=validation"),
        (["benchmark=[toyworld,readers]"], "benchmark=readers stands alone: leave toyworld_oracle, toyworld_vocabulary"),
        (["benchmark=unsupervised", "refine=pamr", "backbone=sd3_medium"], "segmentation without words: leave it out"),
    ],
)
def test_what_has_no_meaning_is_refused(assets, world, tmp_path, arguments, message):
    places = [f"paths.assets_dir={assets}", f"paths.data_dir={world}", "trainer.accelerator=cpu", "ckpt=base"]
    with pytest.raises(UserError, match=message):
        _run(compose_config("evaluate", tmp_path, *places, *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reader=mixture"], "must hold, for each block, weights"),
        (["presence=words"], "set protocol=vocabulary"),
        (["refine=sam"], "weights"),
    ],
)
def test_a_training_says_before_it_starts_what_its_test_lacks(assets, world, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *arguments))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("argument", ["evaluation=mixture", "+benchmark=readers"])
def test_a_training_compares_no_readers(assets, world, tmp_path, argument):
    with pytest.raises(UserError, match="after the training"):
        _train(compose_config("train", tmp_path, *overrides(assets, world), argument))


MIXTURE = Mixture(weights={"0": [1.0, 0.0]})
IGNORED = [(reader, name) for reader in (TextToImage(), Bounce(), Concepts()) for name in ("scores", "heads")]
IGNORED += [(Aggregated(), "scores"), (MIXTURE, "heads")]
OTHER: dict = {"scores": "logits", "heads": [0]}


def readout(reader, name):
    return Readout(**{"sigma": 0.3, "scores": "joint", "normalisation": "minmax", "seed": 0, "reader": reader, name: OTHER[name]})


@pytest.mark.parametrize(("reader", "name"), IGNORED, ids=[f"{type(reader).__name__} {name}" for reader, name in IGNORED])
def test_a_reader_refuses_what_it_would_ignore(reader, name):
    with pytest.raises(UserError, match=f"`{name}` has no effect on maps of this `reader`"):
        readout(reader, name)


def test_a_reader_takes_what_it_reads_by():
    for reader, name in [(Expert(), "scores"), (Expert(), "heads"), (Propagated(), "heads"), (Aggregated(), "heads"), (MIXTURE, "scores")]:
        assert getattr(readout(reader, name), name) == OTHER[name]
