"""seg4diff export: a benchmark's images, however often it is stopped and however many processes draw them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from seg4diff.commands.export import SETTINGS, export_images, own_share, parse_seeds
from seg4diff.errors import MissingFileError, UserError
from seg4diff.loading import load

DOG = {"tag": "single_object", "include": [{"class": "apple", "count": 1}], "prompt": "an apple"}
GRASS = {"tag": "single_object", "include": [{"class": "cup", "count": 1}], "prompt": "a cup on grass"}
SAMPLING = {"steps": 2, "guidance": 3.0, "size": (32, 48)}


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (DOG, GRASS)))
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def small(assets):
    return {"model": str(assets / "tiny-sd3"), "like": "tiny_sd3", "block": 1, "image_size": (32, 32)}


@pytest.fixture
def draw(small, prompts, tmp_path):
    """Export into `tmp_path`/<name>, which is returned."""

    def draw(name, layout="geneval", seeds="3,5", **options):
        export_images(layout, prompts, tmp_path / name, seeds=seeds, load_options=small, **SAMPLING | options)
        return tmp_path / name

    return draw


def images(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_an_image_is_what_the_pipeline_draws_for_its_prompt_and_seed(draw, small):
    out = draw("out")
    (expected,) = load(**small).backbone.sample(["a cup on grass"], seeds=[5], **SAMPLING)
    with Image.open(out / "00001/samples/00001.png") as found:
        assert found.size == (48, 32) and np.array_equal(found, expected)
    assert len({*images(out).values()}) == len(images(out)) == 4


def test_a_stopped_export_goes_on(draw):
    """What is there is not drawn again, what is missing is, and nothing is left of a process that was killed while it wrote."""
    out = draw("out")
    whole = images(out)
    kept, lost = out / "00000/samples/00000.png", out / "00001/samples/00000.png"
    lost.rename(lost.with_name(f".{lost.name}.4711.partial"))
    before = kept.stat().st_mtime_ns
    assert images(draw("out")) == whole and kept.stat().st_mtime_ns == before
    assert not [path for path in out.rglob("*") if path.name.endswith("partial")]


def test_processes_share_the_list(draw, monkeypatch):
    """Each draws a part of it; together they draw what one draws."""
    alone, parts = images(draw("alone")), []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for process in range(3):
        monkeypatch.setenv("RANK", str(process))
        parts.append(len(images(draw("together"))))
    assert parts == [2, 3, 4] and images(draw("together")) == alone


@pytest.mark.parametrize(("number", "processes"), [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")])
def test_shares_are_whole_and_do_not_meet(monkeypatch, number, processes):
    monkeypatch.setenv(processes, "4")
    shares = []
    for process in range(4):
        monkeypatch.setenv(number, str(process))
        shares.append(own_share(range(10)))
    assert sorted(item for share in shares for item in share) == list(range(10)) and max(map(len, shares)) == 3


@pytest.mark.parametrize("options", [{"seeds": "0,1"}, {"steps": 3}, {"guidance": 4.0}, {"size": None}])
def test_images_of_other_settings_are_not_mixed(draw, options):
    whole = images(draw("out"))
    with pytest.raises(UserError, match="choose another folder"):
        draw("out", **options)
    assert images(draw("out")) == whole


def test_other_prompts_are_not_mixed(draw, prompts):
    out = draw("out")
    prompts.write_text(json.dumps(GRASS) + "\n")
    with pytest.raises(UserError, match="prompts"):
        draw("out")
    assert len(images(out)) == 4 and json.loads((out / SETTINGS).read_text())["seeds"] == [3, 5]


def test_a_whole_folder_needs_no_model(draw, prompts, tmp_path, small):
    out = draw("out")
    shutil.move(small["model"], tmp_path / "gone")
    try:
        assert draw("out") == out
    finally:
        shutil.move(tmp_path / "gone", small["model"])


@pytest.mark.parametrize(("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,2,5-7", [0, 2, 5, 6, 7])])
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-3", "1,1", "0-3,2", "1.5"])
def test_what_is_no_seed(text):
    with pytest.raises(UserError, match="seeds are different whole numbers"):
        parse_seeds(text)


def test_what_does_not_exist_is_named(draw, prompts):
    with pytest.raises(UserError, match="no layout 'geneva': choose geneval, geneval2, compbench"):
        draw("out", layout="geneva")
    prompts.unlink()
    with pytest.raises(MissingFileError, match="no file"):
        draw("out")
