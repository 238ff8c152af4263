"""The lines that repeat a result are read by the console command and by Python as they are meant."""

import shlex

import numpy as np
import pytest
import typer
from PIL import Image

from seg4diff.app.desk import Reading
from seg4diff.app.repeat import generate_command, segment_command, segment_lines
from seg4diff.commands.cli import app


def parsed(line):
    """The arguments of the function that a command line calls."""
    program, name, *arguments = shlex.split(line)
    assert program == "seg4diff"
    return typer.main.get_command(app).commands[name].make_context(name, arguments).params


@pytest.mark.parametrize("words", [("apple", "traffic cone"), ("-x", "it's"), ('"a"', "$HOME"), ()])
def test_a_command_holds_what_was_asked(words):
    line = segment_command("a photo.png", words, Reading(3, 0.25, 1, (("background", 0.4),)), {"model": "sd3_medium", "lora": "out/x"}, {3})
    given = parsed(line)
    assert str(given["pictures"]) == "a photo.png" and tuple(given["words"] or ()) == words
    assert (given["block"], given["sigma"], given["background"], given["model"], str(given["lora"])) == (
        3,
        0.25,
        0.4,
        "sd3_medium",
        "out/x",
    )


def test_without_the_lora():
    assert parsed(segment_command("a.png", ["x"], Reading(3, 0.25, 0.0), {"lora": "out"}, {1}))["lora"] is None


@pytest.mark.parametrize("reading", [Reading(3, 0.25, 0.5), Reading(2, 0.25, 1)])
def test_what_no_command_does(reading):
    assert "use the lines of Python" in segment_command("a.png", ["x"], reading, {"lora": "out"}, {3})


@pytest.mark.parametrize("scale", [None, 1, 0.5, 0])
def test_lines_give_the_result(desk, photo, scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = desk.segment(photo, ("apple", "traffic cone"), reading := Reading(2, 0.25, scale))
    lines = segment_lines(str(photo), ("apple", "traffic cone"), reading, desk.loaded_by)
    exec(lines, {})
    assert np.array_equal(np.asarray(Image.open("out/labels/photo.png")), found.labels)


def test_a_command_that_draws():
    given = parsed(generate_command("two fishes", [0, 3], [0.0, 1.5], {"guidance": 3.0, "perturbed_guidance": None}, {"lora": "out"}))
    assert (given["prompts"], given["seeds"], given["lora_scale"], given["guidance"]) == (["two fishes"], "0,3", "0,1.5", 3.0)
