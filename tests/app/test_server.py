"""The page as it is served, through gradio's own client and by hand."""

from http.client import HTTPConnection
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from seg4diff.app.server import POLICY, served
from seg4diff.commands.segment import segment_files
from seg4diff.errors import UserError

WORDS = ["apple", "traffic cone"]
READ = (0, "expert", "none", True, 1)
"""Fields below block and noise level: unlabelled pixels, reader, refinement, LoRA and its scale."""


@pytest.fixture(scope="module")
def ask(page):
    client = Client(page.local_url, verbose=False)

    def ask(name, *values):
        return client.predict(*values, api_name=f"/{name}")

    return ask


@pytest.fixture
def get(page):
    return lambda place: httpx.get(page.local_url.rstrip("/") + place)


def test_the_label_map_is_that_of_the_command(ask, photo, load_options, tmp_path):
    label_file = Path(ask("segment", handle_file(photo), WORDS, "all words", 1, 0.3, *READ)[3]["value"])
    segment_files(photo, WORDS, out=tmp_path / "out", load_options=load_options)
    assert label_file.read_bytes() == (tmp_path / "out" / "labels" / "photo.png").read_bytes()


def test_another_block_gives_other_masks(ask, photo):
    first, second = (Path(ask("segment", handle_file(photo), WORDS, "all words", block, 0.3, *READ)[0]) for block in (1, 3))
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_file_is_one_sentence(ask, content, tmp_path):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(AppError, match=r"The image odd\.png cannot be read"):
        ask("segment", handle_file(tmp_path / "odd.png"), WORDS, "all words", 1, 0.3, *READ)


def test_too_many_words_are_one_sentence(ask, photo):
    with pytest.raises(AppError, match="This page takes at most 32 words, found 40"):
        ask("segment", handle_file(photo), [f"w{k}" for k in range(40)], "all words", 1, 0.3, *READ)


def test_images_of_a_prompt(ask):
    images, _, view, command = ask("generate", "a fish", "3", 3, 2, 0, 1)
    assert [own["caption"] for own in images] == ["seed 3, base", "seed 3, LoRA x 1"] and "fish" in [name for name, _ in view["choices"]]
    assert command.startswith("seg4diff generate 'a fish'")
    with pytest.raises(AppError, match="There is no prompt"):
        ask("generate", " ", "3", 3, 2, 0, 1)


def test_every_block(ask, photo):
    shown = ask("blocks", handle_file(photo), WORDS, 1, 0.3, *READ)
    assert [own["caption"] for own in shown] == ["block 0", "block 1, the model is read here", "block 2", "block 3"]


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../../../../etc/hostname", "pyproject.toml", "src/seg4diff/model.py", "file:///etc/hostname"]
)
def test_no_other_file_is_served(page, path):
    asking = HTTPConnection("127.0.0.1", page.server_port)  # it sends a path as it is
    asking.request("GET", f"/gradio_api/file={path}")
    assert asking.getresponse().status == 403


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.png", "https://example.org/a.png"])
def test_no_other_host_is_asked(page, get, path):
    assert get(f"/gradio_api/file={path}").status_code == 403 and get(f"/gradio_api/proxy={path}").status_code == 403
    asked = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
    assert httpx.post(f"{page.local_url}gradio_api/queue/join", json=asked).status_code == 403


@pytest.mark.parametrize("path", ["/etc/hostname", "../../etc/hostname", "/proc/self/environ"])
def test_a_file_that_was_not_uploaded_is_no_picture(page, path):
    (segment,) = [own["id"] for own in page.config["dependencies"] if own["api_name"] == "segment"]
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [upload, WORDS, "all words", 1, 0.3, *READ], "fn_index": segment, "session_hash": "odd"}
    httpx.post(f"{page.local_url}gradio_api/queue/join", json=asked).raise_for_status()
    answer = httpx.get(f"{page.local_url}gradio_api/queue/data?session_hash=odd", timeout=60).text
    assert '"success":false' in answer and "root" not in answer


def test_a_browser_stays_with_this_host(get):
    answer = get("/")
    assert answer.status_code == 200 and answer.headers["content-security-policy"] == POLICY


def test_a_large_message_is_refused(page):
    assert httpx.post(f"{page.local_url}gradio_api/queue/join", content=b" " * (2**20 + 1)).status_code == 413


def test_other_machines_need_a_password():
    with pytest.raises(UserError, match=r"`host=0.0.0.0` lets other machines in, so it needs a password"), served({}, host="0.0.0.0"):
        pass


def test_a_port_that_is_taken(page, load_options):
    port = page.server_port
    with pytest.raises(UserError, match=f"cannot be served on `port={port}`"), served(load_options, port=port):
        pass
