"""What README and docs show is true: code runs as it stands, links and names of files lead to files."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from seg4diff.data.toyworld.scenes import make_scene
from tests.conftest import REPO

PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md")), REPO / "assets" / "tiny-sd3" / "README.md"]
BLOCK = re.compile(r"^(?P<mark><!-- not run: needs .+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of Python; the comment before it marks one that needs what a test does not have, such as gated weights."""
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"(?<![\w/.<>-])(?:src|conf|tests|speed|docs|assets)/[\w./-]+\.(?:py|md|yaml|json)")
"""A file of the repository that a page names."""
YOURS = {"conf/local/default.yaml"}
"""Files that readers may make."""


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text(page), re.M)}


def ids(pages: list[Path]) -> list[str]:
    return [page.relative_to(REPO).as_posix() for page in pages]


WITH_CODE = [page for page in PAGES if any(not block["mark"] for block in BLOCK.finditer(text(page)))]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The folder that a reader works in: the shipped model, a photograph, and images with masks."""
    (tmp_path / "assets").symlink_to(REPO / "assets")
    scene, train = make_scene(0, "test", 33, 384), tmp_path / "my_photos" / "train"
    train.mkdir(parents=True)
    Image.fromarray(scene.image[48:-48]).save(tmp_path / "photo.jpg")
    Image.fromarray(scene.image).save(train / "001.jpg")
    Image.fromarray(scene.mask).save(train / "001.png")
    (train / "metadata.jsonl").write_text(json.dumps({"file_name": "001.jpg", "mask_file_name": "001.png"}) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", WITH_CODE, ids=ids(WITH_CODE))
def test_code_runs_as_it_stands(page, desk):
    source, names = text(page), {"__name__": "page"}
    for block in BLOCK.finditer(source):
        if not block["mark"]:
            lines = source[: block.start("code")].count("\n")
            exec(compile("\n" * lines + block["code"], page, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(text(page)):
        found = page.parent / target if target else page
        assert found.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(found), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_that_are_named_exist(page):
    assert not [name for name in NAMED.findall(text(page)) if name not in YOURS and not (REPO / name).exists()]
