"""What README and docs show is true: code runs as it stands, links and names of files lead to files."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from docs import models, tour, tradeoff
from docs.tour import BLOCK
from PIL import Image

from seg4diff.commands.trainers import build
from seg4diff.data.toyworld.scenes import make_scene
from tests.conftest import REPO
from tests.runs import compose_config

PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md")), REPO / "assets" / "tiny-sd3" / "README.md"]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"(?<![\w/.<>-])(?:src|conf|tests|speed|docs|assets)/[\w./-]+\.(?:py|md|yaml|json)")
"""A file of the repository that a page names."""
YOURS = {"conf/local/default.yaml", "conf/data/acdc.yaml", "src/seg4diff/data/acdc.py"}
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


def test_the_data_set_of_its_page_is_configured_as_shown(desk, monkeypatch):
    """The class is put where the page says, and the configuration beside those of the project."""
    page = text(REPO / "docs" / "add-a-data-set.md")
    first, second = (block["code"] for block in BLOCK.finditer(page))
    module = ModuleType("seg4diff.data.acdc")
    exec(first, vars(module))
    exec(second, vars(module))  # draws a miniature
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (desk / "conf" / "data").mkdir(parents=True)
    (desk / "conf" / "data" / "acdc.yaml").write_text(re.search(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1])
    given = ["data=acdc", f"hydra.searchpath=[file://{desk}/conf]", f"paths.data_dir={desk}", "backbone=sd3_medium"]
    data = build(compose_config("train", desk / "out", *given).data)
    data.source.prepare()
    assert data.vocabulary.names[:2] == ("road", "sidewalk") and len(data.source.rows("validation")) == 4


def test_the_table_of_models_is_that_of_the_configurations():
    """Memory, which takes a minute to count, is compared where the page is written."""
    shown = text(REPO / "docs" / "models.md")
    for row in models.rows(memory=False):
        assert "| " + " | ".join(row.values()) + " |" in shown, "run python -m docs.models"


def test_the_notebook_is_the_tour_without_outputs():
    """Its code is that of the page, which runs in `test_code_runs_as_it_stands`."""
    shown, page = json.loads(text(REPO / "docs" / "tour.ipynb")), text(REPO / "docs" / "tour.md")
    assert shown == tour.notebook(page), "run python docs/tour.py"
    code = ["".join(cell["source"]) for cell in shown["cells"] if cell["cell_type"] == "code"]
    assert code == [block["code"].strip("\n") for block in BLOCK.finditer(page) if not block["mark"]] and len(code) > 5
    assert all(cell["outputs"] == [] for cell in shown["cells"] if cell["cell_type"] == "code")


def test_recipes_are_drawn_with_what_they_gain_and_cost(tmp_path):
    for name, gain in (("paper-0", 0.05), ("paper-1", 0.06), ("light-0", 0.02)):
        run, drawn = tmp_path / "runs" / name, tmp_path / "drawn" / name
        changes = {f"gain/{own}{end}": value for own in tradeoff.CATEGORIES for end, value in (("", 0), ("_low", -0.1), ("_high", 0.1))}
        for folder, content in ((run, {"gain/miou": gain}), (drawn, {"ckpt": str(run), **changes})):
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(content))
    found = [tradeoff.read(folder)[:2] for folder in sorted((tmp_path / "drawn").iterdir())]
    assert found == [("light", 2.0), ("paper", 5.0), ("paper", 6.0)]
    tradeoff.main([*map(str, (tmp_path / "drawn").iterdir()), "--out", str(tmp_path / "figure.png")])
    assert Image.open(tmp_path / "figure.png").width > 1000
