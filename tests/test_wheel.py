"""What a wheel holds, which is built from the source distribution, is enough: from an empty folder, without the checkout."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from seg4diff.data.toyworld.scenes import make_scene
from tests.conftest import REPO

THE_PAGE = """
import httpx
from seg4diff.app.server import served
with served({}, port=0) as page:
    assert httpx.get(page.local_url, timeout=60).status_code == 200
"""
pytestmark = pytest.mark.slow
IN_PYTHON = """
import seg4diff
assert "torch" not in __import__("sys").modules
model = seg4diff.load()
seg = model.segment("photo.png", ["flower", "grass"])
seg.labels, seg.maps["flower"], seg.overlay(), seg.plot(), seg.save("out")
model.segment("photo.png")
assert [block.block for block in model.attention("photo.png", "flower grass")] == list(range(8))
print(seg4diff.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command in an empty folder with a picture, with the package as a wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder / "dist", REPO], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    (folder / "empty").mkdir()
    Image.fromarray(make_scene(0, "test", 33, 384).image).save(folder / "empty" / "photo.png")

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *arguments], cwd=folder / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run.folder = folder
    return run


def test_a_picture_in_python(installed):
    assert str(installed.folder / "site") in installed("-c", IN_PYTHON)


def test_the_page(installed):
    installed("-c", THE_PAGE)


def test_a_picture_on_the_command_line(installed):
    installed("-m", "seg4diff", "segment", "photo.png", "flower", "traffic cone", "--out", "masks")
    assert (installed.folder / "empty" / "masks" / "labels" / "photo.png").is_file()


def test_the_configuration_is_found(installed):
    """The toy world is drawn below the present folder, and the model comes from the package."""
    sizes = "data.source.sizes={train: 4, validation: 2, test: 2}"
    installed("-m", "seg4diff", "check", "toyworld", "--out", "checked", "--set", sizes)
    assert (installed.folder / "empty" / "checked" / "check.json").is_file() and (installed.folder / "empty" / "data" / "toyworld").is_dir()
