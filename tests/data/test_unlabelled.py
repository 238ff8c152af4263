"""An image whose classes are all ignored, through a whole run: it trains the velocity alone, and no score notices it."""

import json

import numpy as np
import pytest
from tests.data import layouts
from tests.data.test_labelled import CASES
from tests.runs import SMALL_MODEL, SMALL_RUN, compose_config

from seg4diff.commands.run import evaluate, train
from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError

DATA = {"stuff": "coco_stuff", "object 81": "coco_object_background", "city 27": "cityscapes_27"}
HEIGHT, WIDTH = 32, 48


@pytest.fixture
def roots(tmp_path):
    """For each data set, two folders: with four labelled images in each split, and with a fifth one that is ignored everywhere."""

    def write(case):
        for name, count in (("plain", 4), ("unlabelled", 5)):
            for split in ("train", "val"):
                for k in range(count):
                    values = np.full((HEIGHT, WIDTH), IGNORE)
                    if k < 4:
                        values[:16], values[16:, :20] = 7, 11
                    layouts.write(*case.layout.pair(tmp_path / name, split, k), values)
                if case.layout.listed is not None:
                    names = [case.layout.name(split, k) for k in range(count)]
                    layouts.lines(tmp_path / name / case.layout.listed.format(split=split), names)
        return tmp_path / "plain", tmp_path / "unlabelled"

    return write


def small(data, root, assets):
    values = [f"data={data}", f"data.source.root={root}", f"paths.assets_dir={assets}", f"data.image_size=[{HEIGHT},{WIDTH}]"]
    values += ["data.num_workers=0", "backbone.readout.background=0.5", "trainer.accelerator=cpu", "callbacks.overlays=null"]
    return [*values, *(value for value in SMALL_MODEL if "samples" not in value)]


@pytest.mark.parametrize("name", DATA)
def test_scores_are_those_of_the_other_images(name, roots, tmp_path, assets):
    """The city of the last image of Cityscapes sorts it into the middle, and noise follows positions: there only the count is compared."""
    reports = []
    for root in roots(CASES[name]):
        config = compose_config("evaluate", tmp_path / "out" / root.name, "ckpt=base", *small(DATA[name], root, assets))
        reports.append(evaluate(config))
    assert [report["images"] for report in reports] == [4, 5]
    if name != "city 27":
        for figure in ("base/miou", "base/pacc", "baseline/random", "upper_bound"):
            assert reports[0][figure] == reports[1][figure] and np.isfinite(reports[0][figure])
    assert np.isfinite(reports[1]["base/miou"]) and np.isfinite(reports[1]["base/flow_loss"])


def logged(folder):
    """Columns of the log of a run."""
    rows = [line.split(",") for line in (folder / "csv" / "version_0" / "metrics.csv").read_text().splitlines()]
    return {name: [float(row[k]) for row in rows[1:] if row[k]] for k, name in enumerate(rows[0])}


def test_a_split_without_a_labelled_pixel_ends_in_a_sentence(roots, tmp_path, assets):
    root, _ = roots(CASES["stuff"])
    for k in range(4):
        layouts.write(*CASES["stuff"].layout.pair(root, "val", k), np.full((HEIGHT, WIDTH), IGNORE))
    with pytest.raises(UserError, match="no pixel of these images has a label, so nothing can be scored"):
        evaluate(compose_config("evaluate", tmp_path / "out", "ckpt=base", *small("coco_stuff", root, assets)))
    assert not (tmp_path / "out" / "metrics.json").exists()


QUIET = ["~evaluation", "validate_first=false", "callbacks.samples=null", "data.batch_size=1", "data.eval_batch_size=1"]


def test_it_trains_the_velocity_alone(roots, tmp_path, assets):
    _, root = roots(CASES["stuff"])
    train(compose_config("train", tmp_path / "run", *small("coco_stuff", root, assets), *SMALL_RUN, *QUIET, "trainer.max_steps=5"))
    terms = logged(tmp_path / "run")
    assert len(terms["train/dice"]) == 5 and sum(value == 0 for value in terms["train/dice"]) == 1
    assert sum(value == 0 for value in terms["train/focal"]) == 1 and min(terms["train/flow"]) > 0
    assert np.isfinite([*terms["val/loss"], *terms["val/miou"]]).all()


def test_so_does_an_image_of_sa1b_without_masks(roots, tmp_path, assets):
    root, _ = roots(CASES["stuff"])
    for k in range(3):
        layouts.sa1b(tmp_path / "sa1b", f"sa_{k}", [np.indices((HEIGHT, WIDTH))[0] < 9], pack=True)
    (tmp_path / "sa1b" / "sa_1.json").write_text(json.dumps({"annotations": []}))
    values = [value for value in small("sa1b", root, assets) if "source.root" not in value]
    values += [f"data.source.train.root={tmp_path}/sa1b", f"data.source.evaluation.root={root}", "model.align=regions"]
    train(compose_config("train", tmp_path / "run", *values, *SMALL_RUN, *QUIET, "trainer.max_steps=3"))
    terms = logged(tmp_path / "run")
    assert sorted(value == 0 for value in terms["train/dice"]) == [False, False, True] and np.isfinite(terms["train/loss"]).all()
