"""seg4diff generate: base and LoRA side by side, stopped and continued, shared by processes."""

import json
import os
import random
import shutil
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from typer.testing import CliRunner

import seg4diff
from seg4diff.attention.guidance import perturbed_guidance
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.commands.cli import app
from seg4diff.commands.generate import generate_files, read_prompts
from seg4diff.commands.segment import segment_files
from seg4diff.errors import MissingFileError, UserError
from tests.hosts import random_sd3

PROMPTS = ["two fishes on water", "a star"]


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """An adapter of block 1 of the small model that changes images."""
    backbone = random_sd3(blocks=4)
    add_lora(backbone, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q", "to_v"]), 1, seed=0)
    for weight in lora_weights(backbone).values():
        weight.data = torch.ones_like(weight)
    folder = tmp_path_factory.mktemp("lora")
    backbone.save_lora(folder)
    return folder


@pytest.fixture(scope="module")
def options(assets, lora):
    """What every run has in common: the small model, its LoRA, two prompts, two seeds."""
    small = {"model": assets / "tiny-sd3", "like": "tiny_sd3", "block": 1, "image_size": (32, 48), "lora": lora}

    def options(prompts=PROMPTS, load=None, **changed):
        return {"prompts": prompts, "seeds": "0-1", "steps": 2, "load_options": small | (load or {})} | changed

    return options


@pytest.fixture
def run(tmp_path, options):
    """Generate into `tmp_path`/<name>, which is returned."""

    def run(name="out", **changed):
        return generate_files(out=tmp_path / name, **options(**changed))

    return run


@pytest.fixture(autouse=True)
def threads():
    """A folder that is continued sets the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, options):
    """The folder of an uninterrupted run of one process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = generate_files(out=tmp_path_factory.mktemp("finished"), **options())
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def out(finished, tmp_path):
    """The folder of a run that may be changed."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def aside(run):
    """Start to generate in a process of its own, with these variables in its environment."""

    def work(environment, options):
        os.environ.update(environment)
        torch.set_num_threads(1)
        run(**options)

    def aside(environment=None, **options):
        process = get_context("fork").Process(target=work, args=(environment or {}, options))
        process.start()
        return process

    return aside


def contents(folder):
    """Every file by its name; when a run began and by what command is its own."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in (".in-use", "provenance.json"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_a_row_of_the_metadata_repeats_its_image_with_plain_diffusers(run, lora, assets):
    out = run(lora_scale="0,0.5")
    pipe = StableDiffusion3Pipeline.from_pretrained(assets / "tiny-sd3", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32)
    pipe.load_lora_weights(lora, adapter_name="lora")
    for row in rows(out):
        pipe.set_adapters("lora", row["lora_scale"])
        options = {"num_inference_steps": row["steps"], "guidance_scale": row["guidance"], "max_sequence_length": 0}
        options |= {"height": row["size"][0], "width": row["size"][1], "generator": torch.Generator().manual_seed(row["seed"])}
        with Image.open(out / row["file_name"]) as image:
            assert np.array_equal(np.array(image), np.array(pipe(row["prompt"], **options).images[0]))
    assert len(rows(out)) == 8 and {len(row["lora"]) for row in rows(out)} == {64} and rows(out)[0]["model"] == str(assets / "tiny-sd3")


def test_a_row_repeats_a_perturbed_guidance_around_the_plain_pipeline(run, assets):
    (row,) = rows(out := run(perturbed_guidance=60.0, perturbed_block=2, prompts=["a star"], seeds="3", load={"lora": None}))
    pipe = StableDiffusion3Pipeline.from_pretrained(assets / "tiny-sd3", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32)
    options = {"num_inference_steps": row["steps"], "guidance_scale": row["guidance"], "max_sequence_length": 0}
    options |= {"height": row["size"][0], "width": row["size"][1]}

    def draw():
        return np.array(pipe(row["prompt"], generator=torch.Generator().manual_seed(row["seed"]), **options).images[0])

    with perturbed_guidance(seg4diff.load(pipe, like="tiny_sd3", block=1).backbone, row["perturbed_block"], row["perturbed_guidance"]):
        guided = draw()
    with Image.open(out / row["file_name"]) as image:
        assert np.array_equal(np.array(image), guided) and not np.array_equal(guided, draw())


def test_what_is_written(run, out):
    """Predictable names, base and LoRA, overlays and maps of each, a sheet with two rows for each prompt."""
    prompts = ("0000-two-fishes-on-water", "0001-a-star")
    names = {f"{prompt}-seed{seed}-lora{scale}.png" for prompt in prompts for seed in (0, 1) for scale in (0, 1)}
    for kind in ("images", "overlays", "maps"):
        assert {file.name for file in (out / kind).iterdir()} == names
    with Image.open(out / "sheet.png") as page:
        assert page.height > 4 * 190 and page.width > 4 * 288
    before = contents(out)
    assert contents(run()) == before, "the same command again changes nothing"


def test_many_prompts_have_several_sheets_and_no_maps_are_no_files(run, caplog):
    with caplog.at_level("INFO"):
        out = run(prompts=[f"star {k}" for k in range(13)], seeds="0", steps=1, maps=False, lora_scale="0")
    assert {path.name for path in out.iterdir() if path.suffix == ".png" or path.is_dir()} == {"images", "sheet.png", "sheet-2.png"}
    assert "generated 13 images" in caplog.text


def test_a_stopped_run_draws_what_is_missing_in_the_same_batches(run):
    whole = contents(run(name="whole", at_once=3))
    out = run(at_once=3)
    for name in ("images/0001-a-star-seed0-lora1.png", "sheet.png", "metadata.jsonl"):
        (out / name).unlink()
    assert contents(run(at_once=3)) == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"guidance": 4.0}, r"out holds results with guidance 3.0, and here it is 4.0: choose another folder \(--out\)"),
        ({"perturbed_guidance": 2.0}, "out holds results with perturbed_guidance null, and here it is 2.0"),
        ({"seeds": "0-2"}, r"results with seeds \[0, 1\], and here it is \[0, 1, 2\]"),
        ({"prompts": ["a moon"]}, r"results with prompts \[\"two fishes on water\", \"a star\"\], and here it is \[\"a moon\"\]"),
        ({"lora_scale": "1"}, r"results with scales \[0.0, 1.0\], and here it is \[1.0\]"),
        ({"load": {"lora": None}, "lora_scale": "0"}, r"results with scales"),
    ],
)
def test_a_folder_of_other_settings_is_refused(run, out, change, said):
    before = contents(out)
    with pytest.raises(UserError, match=said):
        run(**change)
    assert contents(out) == before


def test_folders_of_other_commands_are_refused_and_refuse(run, tmp_path):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds segmented pictures: choose another folder \(`out`\)"):
        run()
    shutil.rmtree(tmp_path / "out")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photo.png")
    run(prompts=["star"], seeds="0", steps=1)
    with pytest.raises(UserError, match=r"holds generated images: choose another folder \(`out`\)"):
        segment_files(tmp_path / "photo.png", None, out=tmp_path / "out")


def test_three_processes_draw_the_images_of_one(run, aside, finished, tmp_path, monkeypatch):
    """What one process has left undone, another start draws."""
    team = [aside({"RANK": str(k), "WORLD_SIZE": "3"}) for k in range(3)]
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0, 0, 0] and contents(tmp_path / "out") == contents(finished)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    out = run(name="one of three")
    assert len(list((out / "images").iterdir())) == 3 and not (out / "sheet.png").exists()


def kill_again_and_again(aside, folder, images, kills, **options):
    """Start a run and kill it at a random moment, so many times, each time after some more of its images."""
    moments = random.Random(0)
    for kill in range(kills):
        process = aside(**options)
        while process.is_alive() and len(list(folder.glob("images/*.png"))) <= kill * images // kills:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"the run was over after {kill} kills"
        for file in folder.rglob("[!.]*.png"):
            Image.open(file).load()


def test_a_run_that_is_killed_ends_with_the_same_files(run, aside, finished, tmp_path):
    kill_again_and_again(aside, tmp_path / "out", images=8, kills=2)
    assert contents(run()) == contents(finished)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_files(run, aside, tmp_path):
    torch.set_num_threads(1)
    options = {"seeds": "0-9", "at_once": 2}
    kill_again_and_again(aside, tmp_path / "out", images=40, kills=10, **options)
    assert contents(run(**options)) == contents(run(name="whole", **options))


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "my prompts.txt"
    file.write_bytes("\ufeffa star\r\n\r\n  two stars, one moon \r\na star\r\n".encode())
    assert read_prompts((), file) == ["a star", "two stars, one moon", "a star"]
    for prompts, given in (((), None), (("a star",), file)):
        with pytest.raises(UserError, match="give prompts, or a file with one prompt per line"):
            read_prompts(prompts, given)
    with pytest.raises(MissingFileError, match=r"there is no file of prompts .*gone\.txt: write one prompt per line"):
        read_prompts((), tmp_path / "gone.txt")
    file.write_text("\n \n")
    with pytest.raises(UserError, match=r"my prompts\.txt is empty"):
        read_prompts((), file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_scale": "half"}, "--lora-scale must be numbers with commas between them, as in 0,0.5,1, found 'half'"),
        ({"lora_scale": "1,1.0"}, "--lora-scale must hold each number once"),
        ({"lora_scale": "nan"}, "a LoRA scale must be a number"),
        ({"lora_scale": "0,1", "load": {"lora": None}}, "this model has no LoRA, so there is nothing to scale by 1"),
        ({"words": ["star"], "maps": False}, "--word is about the maps of words, and --no-maps says that there are none"),
        ({"map_step": 0, "maps": False}, "--map-step is about the maps of words, and --no-maps says that there are none"),
        ({"load": {"sigma": 0.5}, "maps": False}, "--sigma is about the maps of words, and --no-maps says that there are none"),
        ({"words": [" "]}, "`word` must be a list of words"),
        ({"words": ["cat"]}, "'cat' stands in none of the prompts"),
        ({"prompts": ["star " * 40]}, r"leave the maps out \(maps=False, --no-maps\)"),
        ({"steps": 0}, "`steps` must be a whole number from 1"),
    ],
)
def test_bad_input_writes_nothing(run, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        run(**change)
    assert not (tmp_path / "out").exists()


def test_several_processes_need_a_common_folder(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes need to know their common folder: give it with --out"):
        generate_files(["star"])


def test_the_command(tmp_path, assets):
    size = [*("--model", str(assets / "tiny-sd3")), *("--like", "tiny_sd3"), *("--block", "1"), *("--image-size", "32", "48")]
    how = [*("--seeds", "3"), *("--steps", "1"), *("--guidance", "2"), *("--word", "traffic cone"), *("--at-once", "2")]
    how += [*("--perturbed-guidance", "1.5"), *("--perturbed-block", "2")]
    done = CliRunner().invoke(app, ["generate", "a traffic cone on grass", "star", *size, *how, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    names = {file.stem for file in (tmp_path / "out" / "images").iterdir()}
    assert names == {"0000-a-traffic-cone-on-grass-seed3", "0001-star-seed3"}
    found = rows(tmp_path / "out")
    assert [row["maps"] for row in found] == [["traffic cone"]] * 2
    assert [(row["perturbed_guidance"], row["perturbed_block"]) for row in found] == [(1.5, 2)] * 2
