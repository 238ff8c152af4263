"""Help, mistyped keys and missing arguments of the console command and the root scripts: answered without heavy imports."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

HEAVY = ["torch", "lightning", "diffusers", "transformers", "peft"]
LOOK = f"import atexit, sys; atexit.register(lambda: print('imported:', [name for name in {HEAVY} if name in sys.modules]))"


def typed(script, *arguments):
    """Start a command; it prints at its end which heavy libraries it has imported."""
    if script == "seg4diff":
        run = "from seg4diff.commands.cli import main; main()"
    else:
        run = f"import runpy; runpy.run_path({str(REPO / script)!r}, run_name='__main__')"
    code = f"{LOOK}; sys.argv = {[script, *arguments]}; {run}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=os.environ | {"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("script", "arguments", "code", "said"),
    [
        ("seg4diff", ["--help"], 0, "segment"),
        ("seg4diff", ["segment", "--help"], 0, 'Example: seg4diff segment photo.jpg cat "traffic light"'),
        ("seg4diff", ["generate", "--help"], 0, 'Example: seg4diff generate "two fishes on water" "a cup on sand" --lora'),
        ("seg4diff", ["score", "--help"], 0, "Example: seg4diff score geneval"),
        ("seg4diff", ["segmnt"], 2, "No such command 'segmnt'"),
        ("seg4diff", ["segment"], 2, "Missing argument 'PICTURE'"),
        ("train.py", ["--help"], 0, "seg4diff is powered by Hydra"),
        ("train.py", ["model.lrr=3"], 1, "error: there is no key model.lrr: did you mean model.lr?"),
        ("train.py", ["experiment=coco_loar"], 1, "coco_lora"),
        ("evaluate.py", [], 1, "error: evaluate.py needs to know what to evaluate: add ckpt="),
        ("evaluate.py", ["ckptt=base"], 1, "error: there is no key ckptt: did you mean ckpt?"),
        ("analyze.py", ["--help"], 0, "seg4diff is powered by Hydra"),
        ("analyze.py", ["image=3"], 1, "error: there is no key image: did you mean images?"),
    ],
)
def test_the_door_is_light(script, arguments, code, said):
    done = typed(script, *arguments)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "imported: []" in done.stdout and "Traceback" not in done.stderr and "Error executing job" not in done.stderr


def test_the_root_holds_three_scripts():
    assert {file.name for file in REPO.glob("*.py")} == {"train.py", "evaluate.py", "analyze.py"}


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "seg4diff", "segment", "nowhere.png"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: there is no picture and no folder nowhere.png.\n"
