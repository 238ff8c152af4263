"""Which files make up a folder, and where a line of text ends."""

from pathlib import Path

import pytest

from seg4diff.data.files import Folder, lines_of, missing_files, parse_json


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images, one in a folder of its own; a folder that links lead to from outside, twice; hidden folders and files."""
    for name in ("root/a.jpg", "root/below/b.jpg", "elsewhere/c.jpg", "root/.thumbnails/a.jpg", "root/below/.b.jpg", "root/.git/x/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "below" / "linked again").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "root"


def keys(root: Path) -> set[str]:
    return Folder((root,), ".jpg", "the archive").keys()


def test_linked_folders_are_visited_once_and_hidden_ones_never(root):
    assert keys(root) == {"a", "below/b", "linked/c"}


@pytest.mark.parametrize("target", [".store/b", "below/.store/b", ".store"])
def test_a_link_to_a_hidden_folder_of_the_root_is_visited_once(target, root):
    (root / target).mkdir(parents=True)
    (root / target / "e.jpg").touch()
    (root / "b").symlink_to(root / target)
    (root / "b again").symlink_to(root / target)
    assert keys(root) == {"a", "below/b", "linked/c", "b/e"}


@pytest.mark.parametrize("target", [".", "below", "..", "../root"])
def test_links_that_lead_back_end_nowhere(target, root):
    (root / "below" / "back").symlink_to(root / target)
    assert sorted(Path(key).name for key in keys(root)) == ["a", "b", "c"]


def test_a_folder_that_is_itself_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert keys(tmp_path / "link") == keys(root)


@pytest.mark.parametrize("break_", ["\n", "\r\n"])
def test_only_the_end_of_a_line_ends_it(break_, tmp_path):
    lines = ["cat", "traffic\u2028light", "a\x0cb", "c\x1cd", "e\x85f", "", "last"]
    (tmp_path / "text").write_bytes(("\ufeff" + break_.join(lines) + 2 * break_).encode())
    assert lines_of(tmp_path / "text") == lines


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "1" * 5000, "nul"])
def test_what_is_no_json_is_one_kind_of_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_names_that_no_file_can_have_are_missing(tmp_path):
    (tmp_path / "a").touch()
    odd = [tmp_path / name for name in ("a\0b", "x" * 300, f"{'x' * 300}/a", "\ud800", "a/b")]
    assert missing_files([tmp_path / "a", *odd]) == odd
