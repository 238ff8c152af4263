"""seg4diff segment on a clip: an animated file, or a folder of frames."""

import json
from itertools import count

import numpy as np
import pytest
from PIL import Image, ImageSequence

from seg4diff.commands.segment import segment_files
from seg4diff.data.folder import FolderData
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError
from seg4diff.model import Model
from tests.hosts import random_sd3
from tests.open_hosts import random_cogvideox

WORDS = ["apple", "traffic cone"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    random_cogvideox().save_pretrained(folder / "video")
    random_sd3().save_pretrained(folder / "image")
    return folder


@pytest.fixture
def run(models, tmp_path):
    def run(path, words=WORDS, kind="video", out="out", **options):
        like = "cogvideox_2b" if kind == "video" else "tiny_sd3"
        load_options = {"model": models / kind, "like": like, "block": 1, "image_size": (32, 48), "device": "cpu"}
        return segment_files(path, words, out=tmp_path / out, load_options=load_options, **options)

    return run


@pytest.fixture(scope="module")
def frames():
    scene = make_scene(0, "test", 2, 48).image
    return [Image.fromarray(np.roll(scene, 4 * k, axis=1)[:40]) for k in range(11)]


@pytest.fixture
def gif(frames, tmp_path):
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:6], duration=80, loop=0)
    return tmp_path / "clip.gif"


@pytest.fixture
def folder(frames, tmp_path):
    (tmp_path / "walk").mkdir()
    for k, frame in enumerate(frames):
        frame.save(tmp_path / "walk" / f"frame{k}.png")
    return tmp_path / "walk"


def labels(out, stem):
    with Image.open(out / "labels" / f"{stem}.png") as picture:
        return np.array(picture)


def test_an_animated_file_has_a_label_map_for_every_frame_and_a_moving_overlay(run, gif):
    out = run(gif)
    for kind in ("labels", "overlays", "maps", "frames"):
        assert sorted(file.name for file in (out / kind / "clip").iterdir()) == [f"{k:04d}.png" for k in range(6)]
    assert labels(out, "clip/0000").shape == (40, 48)
    with Image.open(out / "overlays" / "clip.gif") as overlay:
        assert overlay.n_frames == 6 and overlay.size == (48 * 6, 40 * 6) and overlay.info["duration"] == 80


def test_the_results_of_a_clip_are_a_data_set(run, gif):
    out = run(gif, instances=True)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["mask_file_name"] for row in rows] == [f"labels/clip/{k:04d}.png" for k in range(6)]
    data = FolderData(root=str(out), splits={"test": "."}).split("test", (32, 48), resize_mask=False, geometry="letterbox")
    assert len(data) == 6 and np.array_equal(data[3].mask.numpy(), labels(out, "clip/0003"))
    assert json.loads((out / "instances" / "clip" / "0003.json").read_text())["images"][0]["file_name"] == "0003.png"


def test_the_pictures_of_a_folder_are_one_clip_in_the_order_of_their_numbers(run, folder, frames, tmp_path):
    out = run(folder, clip=True)
    frames[0].save(tmp_path / "same.webp", save_all=True, append_images=frames[1:], lossless=True)
    same = run(tmp_path / "same.webp", out="same")
    assert all(np.array_equal(labels(out, f"walk/frame{k}"), labels(same, f"same/{k:04d}")) for k in range(11))
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [str(folder / f"frame{k}.png") for k in range(11)]


def test_without_clip_the_pictures_of_a_folder_are_read_one_by_one(run, folder):
    out = run(folder)
    assert {file.name for file in (out / "labels").iterdir()} == {f"frame{k}.png" for k in range(11)}
    assert not (out / "overlays" / "walk.gif").exists()


def test_an_image_model_reads_the_first_frame(run, gif):
    assert labels(run(gif, kind="image"), "clip").shape == (40, 48)


def test_a_stopped_run_is_continued_with_the_same_labels(run, gif):
    out = run(gif)
    before = labels(out, "clip/0004")
    (out / "labels" / "clip" / "0004.png").unlink()
    (out / "overlays" / "clip.gif").unlink()
    assert np.array_equal(labels(run(gif), "clip/0004"), before) and (out / "overlays" / "clip.gif").exists()


def test_every_frame_is_shown_as_long_as_before(run, frames, tmp_path):
    times = [80, 80, 3000]
    frames[0].save(tmp_path / "pause.gif", save_all=True, append_images=frames[1:3], duration=times)
    with Image.open(run(tmp_path / "pause.gif") / "overlays" / "pause.gif") as overlay:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(overlay)] == times


def test_the_pages_of_a_tiff_are_no_clip(run, frames, tmp_path):
    first, *others = [frame.copy() for frame in frames[:3]]
    first.save(tmp_path / "scan.tiff", save_all=True, append_images=others)
    assert labels(run(tmp_path / "scan.tiff"), "scan").shape == (40, 48)


def test_frames_that_came_later_are_another_clip(run, folder, frames):
    run(folder, clip=True)
    frames[0].save(folder / "frame11.png")
    with pytest.raises(UserError, match="holds results with clip"):
        run(folder, clip=True)


def test_a_long_clip_keeps_the_pieces_that_were_read_before_it_was_stopped(run, folder, monkeypatch, tmp_path):
    whole = run(folder, clip=True, out="whole")
    segment, calls = Model.segment, count()

    def stopped(*arguments, **options):
        if next(calls):
            raise RuntimeError("stopped")
        return segment(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(Model, "segment", stopped)
        run(folder, clip=True)
    assert len(list((tmp_path / "out" / "labels" / "walk").iterdir())) == 9
    assert all(np.array_equal(labels(run(folder, clip=True), f"walk/frame{k}"), labels(whole, f"walk/frame{k}")) for k in (8, 9, 10))


def test_what_cannot_be_read_as_a_clip_is_one_sentence_and_writes_nothing(run, gif, folder, tmp_path):
    (tmp_path / "walk.mp4").write_bytes(b"video")
    (tmp_path / "cut.gif").write_bytes(gif.read_bytes()[:700])
    cases = [
        (
            lambda: run(tmp_path / "walk.mp4"),
            r"walk.mp4 is a video, and clips are read from an animated GIF or WebP, or",
        ),
        (lambda: run(tmp_path / "cut.gif", clip=True), r"^the clip \S+cut.gif cannot be read"),
        (lambda: run(gif, None), r"^a clip is segmented by words, and there are none"),
        (lambda: run(folder, clip=True, recursive=True), r"^the frames of a clip are read together: leave --recursive and --at-once out"),
        (lambda: run(folder, clip=True, kind="image"), r"^this model sees pictures alone: leave `clip` out"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as found:
            call()
        assert "\n" not in str(found.value) and not (tmp_path / "out" / "labels").exists()
    (folder / "frame3.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"^the image \S+frame3.png cannot be read \(it is no picture of a known format\): a clip"):
        run(folder, clip=True)
