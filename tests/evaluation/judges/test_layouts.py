"""Layouts of benchmarks as they document them, and folders that other programs made."""

import json

import pytest
from PIL import Image

from seg4diff.errors import MissingFileError, UserError
from seg4diff.evaluation.judges.layouts import LAYOUTS

GENEVAL, GENEVAL2, COMPBENCH = LAYOUTS["geneval"], LAYOUTS["geneval2"], LAYOUTS["compbench"]
DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
CLOCKS = {
    "tag": "counting",
    "include": [{"class": "clock", "count": 2}],
    "exclude": [{"class": "clock", "count": 3}],
    "prompt": "a photo of two clocks",
}
PIG = {"prompt": "a green backpack and a pig", "atom_count": 3, "vqa_list": [["Is the backpack green?", "Yes"]], "skills": ["attribute"]}
TOYS = {"prompt": "two metal toys", "atom_count": 3, "vqa_list": [["Are the toys metal?", "Yes"]], "skills": ["attribute"]}
BENCH, BOOK = "a green bench and a blue bowl", "The red book was on top of the shelf."


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def drawn(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def export(layout, prompts, folder, count=2):
    """A whole folder as `seg4diff export` leaves it."""
    samples = layout.samples(folder, layout.read_prompts(prompts), count)
    layout.write_index(folder, samples)
    for sample in samples:
        drawn(sample.path)
    return samples


def test_geneval_as_documented(tmp_path):
    export(GENEVAL, lines(tmp_path / "evaluation_metadata.jsonl", DOG, CLOCKS), tmp_path / "out")
    assert files(tmp_path / "out") == [
        "00000/metadata.jsonl",
        "00000/samples/00000.png",
        "00000/samples/00001.png",
        "00001/metadata.jsonl",
        "00001/samples/00000.png",
        "00001/samples/00001.png",
    ]
    assert json.loads((tmp_path / "out/00001/metadata.jsonl").read_text()) == CLOCKS


def test_geneval_of_another_program(tmp_path):
    """Names with four digits as in its README, a grid, a folder without a number, metadata over several lines."""
    for number, row in (("00000", CLOCKS), ("00012", DOG)):
        lines(tmp_path / number / "metadata.jsonl", json.dumps(row, indent=2))
        drawn(tmp_path / number / "grid.png")
        drawn(tmp_path / number / "samples" / "0003.png")
    drawn(tmp_path / "00012" / "samples" / "0001.png")
    drawn(tmp_path / "logs" / "samples" / "0000.png")
    found = GENEVAL.read(tmp_path)
    assert [(one.prompt.index, one.prompt.group, one.number) for one in found] == [
        (0, "counting", 3),
        (12, "single_object", 1),
        (12, "single_object", 3),
    ]
    assert found[1].prompt.metadata == DOG and found[1].path == tmp_path / "00012/samples/0001.png"


def test_geneval2_as_documented(tmp_path):
    """The judge looks every prompt of the benchmark's file up in one JSON object of image files."""
    data = lines(tmp_path / "data.jsonl", PIG, TOYS)
    export(GENEVAL2, data, tmp_path / "out")
    assert (tmp_path / "out/geneval2_data.jsonl").read_text() == data.read_text()
    for number in ("00000", "00001"):
        paths = json.loads((tmp_path / f"out/image_paths_{number}.json").read_text())
        assert paths == {row["prompt"]: str(tmp_path / f"out/images/{number}/{k:05}.png") for k, row in enumerate((PIG, TOYS))}


def test_geneval2_of_another_program(tmp_path):
    lines(tmp_path / "geneval2_data.jsonl", PIG, TOYS)
    drawn(tmp_path / "here" / "toys.png")
    (tmp_path / "image_paths.json").write_text(json.dumps({"two metal toys": "here/toys.png", PIG["prompt"]: "/nowhere.png"}))
    (found,) = GENEVAL2.read(tmp_path)
    assert (found.prompt.index, found.prompt.group, found.prompt.metadata, found.number) == (1, "3 atoms", TOYS, 0)
    (tmp_path / "image_paths.json").write_text(json.dumps({"another prompt": "here/toys.png"}))
    with pytest.raises(UserError, match=r"a prompt that is not in geneval2_data\.jsonl: 'another prompt'"):
        GENEVAL2.read(tmp_path)


def test_a_geneval2_folder_that_was_moved(tmp_path):
    samples = export(GENEVAL2, lines(tmp_path / "data.jsonl", PIG, TOYS), tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    found = GENEVAL2.read(moved)
    assert [one.path for one in found] == [moved / one.path.relative_to(tmp_path / "out") for one in samples]


def test_two_geneval2_files_of_one_number_are_one_set_of_images(tmp_path):
    samples = export(GENEVAL2, lines(tmp_path / "data.jsonl", PIG, TOYS), tmp_path / "out", count=1)
    (tmp_path / "out/image_paths.json").write_text((tmp_path / "out/image_paths_00000.json").read_text())
    assert GENEVAL2.read(tmp_path / "out") == samples


def test_compbench_as_documented(tmp_path):
    """<prompt>_<number over all prompts>.png; its judges sort by number and take the prompt from the name."""
    export(COMPBENCH, lines(tmp_path / "color_val.txt", BENCH, f"{BOOK}\tseen"), tmp_path / "out")
    assert files(tmp_path / "out") == [
        f"samples/{BOOK}_000002.png",
        f"samples/{BOOK}_000003.png",
        f"samples/{BENCH}_000000.png",
        f"samples/{BENCH}_000001.png",
    ]
    names = sorted((path.name for path in (tmp_path / "out/samples").iterdir()), key=lambda name: int(name.split("_")[1].split(".")[0]))
    assert [name.split("_")[0] for name in names] == [BENCH, BENCH, BOOK, BOOK]


def test_compbench_of_another_program(tmp_path):
    for number, text in ((10, BOOK), (9, BENCH), (2, BOOK)):
        drawn(tmp_path / "samples" / f"{text}_{number:06}.png")
    drawn(tmp_path / "samples" / "grid.png")
    assert [(one.prompt.text, one.number) for one in COMPBENCH.read(tmp_path)] == [(BOOK, 2), (BENCH, 9), (BOOK, 10)]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("geneval", [DOG, CLOCKS]), ("geneval2", [PIG, TOYS]), ("compbench", [BENCH, BOOK])],
    ids=["geneval", "geneval2", "compbench"],
)
def test_what_is_written_is_read_back(name, rows, tmp_path):
    layout, prompts = LAYOUTS[name], lines(tmp_path / "prompts", *rows)
    samples = export(layout, prompts, tmp_path / "out", count=3)
    assert layout.read(tmp_path / "out") == samples


def test_a_folder_in_the_making_is_read_by_its_files(tmp_path):
    """Images of two folders are paired by what their names say, not by how many there are."""
    prompts = lines(tmp_path / "prompts", BENCH, BOOK)
    samples = export(COMPBENCH, prompts, tmp_path / "out")
    samples[0].path.unlink()
    assert [(one.prompt.text, one.number) for one in COMPBENCH.read(tmp_path / "out")] == [(BENCH, 1), (BOOK, 2), (BOOK, 3)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_folder_and_no_folder(name, tmp_path):
    (tmp_path / "samples").mkdir()
    lines(tmp_path / "geneval2_data.jsonl", PIG)
    with pytest.raises(MissingFileError, match="holds no image in this layout"):
        LAYOUTS[name].read(tmp_path)
    with pytest.raises(MissingFileError, match="nowhere"):
        LAYOUTS[name].read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("geneval", ["no JSON"], "line 1 of .* must be a JSON object with prompt, found 'no JSON'"),
        ("geneval", [DOG, "[1]"], "line 2 of"),
        ("geneval", [DOG | {"tag": "taste"}], "found 'taste'"),
        ("geneval", [DOG, CLOCKS, DOG], "must be there once, found several times: a photo of a dog"),
        ("geneval2", [{"prompt": "a dog"}], "prompt and atom_count"),
        ("geneval2", [PIG | {"prompt": 3}], "prompt and atom_count"),
        ("compbench", [""], "holds no prompt"),
        ("compbench", [BENCH, BENCH], "must be there once"),
    ],
)
def test_prompts_of_another_form_are_refused(name, rows, said, tmp_path):
    with pytest.raises(UserError, match=said):
        LAYOUTS[name].read_prompts(lines(tmp_path / "prompts", *rows))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_file_of_prompts(name, tmp_path):
    with pytest.raises(MissingFileError, match="there is no file"):
        LAYOUTS[name].read_prompts(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["a snake_case dog", "cats and/or dogs", "very " * 60 + "long"])
def test_prompts_that_no_name_can_hold(text, tmp_path):
    with pytest.raises(UserError, match="part of the file's name"):
        COMPBENCH.samples(tmp_path, COMPBENCH.read_prompts(lines(tmp_path / "prompts", text)), 1)
