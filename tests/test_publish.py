"""What is published beside the package agrees with it: extras, the container, the Space."""

import re
import shlex
import tomllib

import pytest

from seg4diff.commands.cli import app as commands
from tests.conftest import REPO

EXTRAS = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
PAGES = [REPO / "README.md", REPO / "Dockerfile", REPO / "space" / "requirements.txt", *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_that_are_named_exist(page):
    named = re.findall(r"(?:seg4diff|\"\.)\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)


def test_the_container_has_what_it_copies_and_starts_a_command():
    lines = [shlex.split(line) for line in (REPO / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.startswith("COPY")]
    copied = {name for _, *sources, _ in lines for name in sources}
    kept = {line[1:] for line in (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == kept and all((REPO / name).exists() for name in copied)
    assert '"seg4diff", "app"' in (REPO / "Dockerfile").read_text(encoding="utf-8")
    assert "app" in [command.name for command in commands.registered_commands]


def test_the_space_runs_the_locked_gradio():
    locked = re.search(r"^gradio==(\S+)$", (REPO / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f"sdk_version: {locked}\n" in (REPO / "space" / "README.md").read_text(encoding="utf-8")
