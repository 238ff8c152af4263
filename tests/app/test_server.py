"""The page as it is served, through gradio's own client and by hand."""

import os
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from speed.page import questions, storm
from tests.app.files import png
from tests.app.pictures import ODD, upright_size
from tests.conftest import REPO

from seg4diff.app.server import POLICY, served
from seg4diff.commands.segment import segment_files
from seg4diff.errors import UserError
from seg4diff.loading import load

WORDS = ["apple", "traffic cone"]
READ = (0, "expert", "none", True, 1)
"""Fields below block and noise level: unlabelled pixels, reader, refinement, LoRA and its scale."""


@pytest.fixture(scope="module")
def client(page):
    return Client(page.local_url, verbose=False)


@pytest.fixture(scope="module")
def ask(client):
    def ask(name, *values):
        return client.predict(*values, api_name=f"/{name}")

    return ask


@pytest.fixture
def get(page):
    return lambda place: httpx.get(page.local_url.rstrip("/") + place)


def test_the_label_map_is_that_of_the_command(ask, photo, load_options, tmp_path):
    label_file = Path(ask("labels", handle_file(photo), WORDS, 1, 0.3, *READ))
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


def test_images_of_a_prompt(client, ask):
    running = client.submit("a fish", "3", 3, 2, 0, 1, api_name="/generate")
    running.result()
    (first, *_), (images, _, view, command), _ = running.outputs()
    assert (
        len(first) == 1
        and [own["caption"] for own in images] == ["seed 3, base", "seed 3, LoRA x 1"]
        and "fish" in [name for name, _ in view["choices"]]
    )
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


@pytest.fixture
def post(page):
    """What the page answers to a message that no browser would send."""

    def post(name, values):
        (number,) = [own["id"] for own in page.config["dependencies"] if own["api_name"] == name]
        session = uuid4().hex
        asked = {"data": values, "fn_index": number, "session_hash": session}
        joined = httpx.post(f"{page.local_url}gradio_api/queue/join", json=asked)
        return joined.text + httpx.get(f"{page.local_url}gradio_api/queue/data?session_hash={session}", timeout=60).text

    return post


def uploaded(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("path", [REPO / "docs" / "images" / "method.png", "../../etc/hostname", "/proc/self/environ"])
def test_a_file_that_was_not_uploaded_is_no_picture(post, path):
    assert '"success":false' in post("segment", [uploaded(path), WORDS, "all words", 1, 0.3, *READ])


UPLOAD = "the picture"
ASKED = {
    "segment": [UPLOAD, WORDS, "all words", 1, 0.3, *READ],
    "show": [UPLOAD, WORDS, "apple", 1, 0.3, *READ],
    "labels": [UPLOAD, WORDS, 1, 0.3, *READ],
    "coco": [UPLOAD, WORDS, 1, 0.3, *READ],
    "archive": [UPLOAD, WORDS, 1, 0.3, *READ],
    "blocks": [UPLOAD, WORDS, 1, 0.3, *READ],
    "compare": [UPLOAD, WORDS, *[1, 0.3, *READ] * 2],
    "generate": ["a fish", "3", 3, 1, 0, 1],
    "show_generated": [None, "image"],
}


@pytest.mark.parametrize("name", ASKED)
def test_a_path_in_any_field_reads_no_file(page, post, photo, tmp_path, name):
    (tmp_path / "private.txt").write_text("what nobody may see")
    (place,) = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": photo.read_bytes()}).json()
    values = [uploaded(place) if value is UPLOAD else value for value in ASKED[name]]
    paths = (str(tmp_path / "private.txt"), f"../../../..{tmp_path}/private.txt", uploaded(tmp_path / "private.txt"))
    assert "success" in post(name, values)  # the message is one that the page understands
    for k, path in zip(range(len(values)), cycle(paths), strict=False):
        assert "what nobody may see" not in post(name, [*values[:k], path, *values[k + 1 :]])
    kept = [file.read_bytes() for file in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if file.is_file()]
    assert kept and not any(b"what nobody may see" in content for content in kept), "a copy could be fetched"


def test_a_password_keeps_others_out(load_options, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # that of the page of the other tests comes back
    with served(load_options, port=0, password="secret") as page:
        assert httpx.get(f"{page.local_url}config").status_code == 401
        assert httpx.get(f"{page.local_url}gradio_api/info").status_code == 401


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_segmented(ask, tmp_path, name):
    picture, options = ODD[name]
    picture.save(tmp_path / name, **options)
    with Image.open(ask("labels", handle_file(tmp_path / name), WORDS, 1, 0.3, *READ)) as labels:
        assert labels.size == upright_size(name) and set(np.unique(labels)) <= {0, 1}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (png(20000, 10000), "big.png cannot be read"),
        (png(5000, 4000), "has 5000 x 4000 pixels"),
        (png(9, 9, text=bytes(2**27)), "big.png cannot be read"),
    ],
    ids=["200 megapixels", "20 megapixels", "bomb"],
)
def test_pictures_that_are_too_large_are_one_sentence(ask, content, sentence, tmp_path):
    (tmp_path / "big.png").write_bytes(content)
    with pytest.raises(AppError, match=sentence):
        ask("segment", handle_file(tmp_path / "big.png"), WORDS, "all words", 1, 0.3, *READ)


def test_ten_thousand_words_are_one_sentence(ask, photo):
    with pytest.raises(AppError, match="This page takes at most 32 words, found 10000"):
        ask("segment", handle_file(photo), [f"w{k}" for k in range(10_000)], "all words", 1, 0.3, *READ)


def test_four_people_at_once_get_right_answers(page, load_options, photo, tmp_path):
    asked = questions(load(**load_options), tmp_path, [3, 5], [1, 2], side=32)
    answers = storm(page.local_url, asked, users=4, seconds=1, downloads=tmp_path)
    assert len(answers) >= 4 and not [answer.fault for answer in answers if answer.fault]


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
