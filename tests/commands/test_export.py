"""seg4diff export: a benchmark's images, however often it is stopped and however many processes draw them."""

import json

import numpy as np
import pytest
from PIL import Image

from seg4diff.commands.export import SETTINGS, export_images
from seg4diff.errors import MissingFileError, UserError
from seg4diff.loading import load

DOG = {"tag": "single_object", "include": [{"class": "apple", "count": 1}], "prompt": "an apple"}
GRASS = {"tag": "single_object", "include": [{"class": "cup", "count": 1}], "prompt": "a cup on grass"}
SAMPLING = {"steps": 2, "guidance": 3.0}


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (DOG, GRASS)))
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def small(assets):
    return {"model": str(assets / "tiny-sd3"), "like": "tiny_sd3", "block": 1, "image_size": (32, 48)}


@pytest.fixture
def draw(small, prompts, tmp_path):
    """Export into `tmp_path`/<name>, which is returned."""

    def draw(name, layout="geneval", seeds="3,5", load=None, **options):
        export_images(layout, prompts, tmp_path / name, seeds=seeds, load_options=small | (load or {}), **SAMPLING | options)
        return tmp_path / name

    return draw


def images(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_an_image_is_what_the_pipeline_draws_for_its_prompt_and_seed(draw, small):
    out = draw("out")
    (expected,) = load(**small).backbone.sample(["a cup on grass"], seeds=[5], size=(32, 48), **SAMPLING)
    with Image.open(out / "00001/samples/00001.png") as found:
        assert found.size == (48, 32) and np.array_equal(found, expected)
    assert len({*images(out).values()}) == len(images(out)) == 4


@pytest.mark.parametrize("layout", ["geneval", "compbench"])
def test_a_stopped_export_goes_on(draw, prompts, layout):
    """What exists is not drawn again, what is missing is, and nothing is left of a process that was killed while it wrote."""
    if layout == "compbench":
        prompts.write_text("an apple\na cup on grass\n")
    out = draw("out", layout)
    whole, names = images(out), sorted(out.rglob("*"))
    kept, *_, lost = sorted(out.rglob("*.png"))
    lost.rename(lost.with_name(f".{lost.name}.partial"))
    before = kept.stat().st_mtime_ns
    assert images(draw("out", layout)) == whole and kept.stat().st_mtime_ns == before
    assert sorted(out.rglob("*")) == names


def test_processes_share_the_list(draw, monkeypatch):
    """Each draws a part of it; together they draw what one draws."""
    alone, parts = images(draw("alone")), []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for process in range(3):
        monkeypatch.setenv("RANK", str(process))
        parts.append(len(images(draw("together"))))
    assert parts == [2, 3, 4] and images(draw("together")) == alone


def test_a_process_leaves_the_index_to_the_first(draw, monkeypatch):
    """Killed writes of files that several processes write would stay."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    out = draw("out")
    assert len(images(out)) == 2 and not (out / "00001/metadata.jsonl").exists()


def test_a_prompt_is_one_batch_if_that_is_asked_for(draw):
    out, alone = draw("out", at_once=2), draw("alone")
    assert images(out).keys() == images(alone).keys() and json.loads((out / SETTINGS).read_text())["at_once"] == 2


def test_steps_and_guidance_are_those_of_the_model(draw):
    settings = json.loads((draw("out", seeds="0", steps=None, guidance=None) / SETTINGS).read_text())
    assert (settings["steps"], settings["guidance"], settings["size"]) == (28, 3.0, [32, 48])


@pytest.mark.parametrize("options", [{"seeds": "0,1"}, {"steps": 3}, {"guidance": 4.0}, {"at_once": 2}, {"load": {"image_size": (32, 32)}}])
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


@pytest.mark.parametrize(
    ("options", "said"), [({"seeds": "3-"}, "`seeds` must be"), ({"steps": 0}, "`steps` must be"), ({"at_once": 0}, "`at_once` must be")]
)
def test_bad_input_writes_nothing(draw, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        draw("out", **options)
    assert not (tmp_path / "out").exists()


def test_what_does_not_exist_is_named(draw, prompts):
    with pytest.raises(UserError, match="no layout 'geneva': choose geneval, geneval2, compbench"):
        draw("out", layout="geneva")
    prompts.unlink()
    with pytest.raises(MissingFileError, match="no file"):
        draw("out")
