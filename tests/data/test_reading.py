"""Files that cannot be read: named, skipped in training up to a budget, never in evaluation."""

import json
import logging
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import layouts
from torch import distributed, multiprocessing

from seg4diff.commands.console import explain
from seg4diff.data.coco_stuff import CocoStuff
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.reading import UnreadableError, read_image
from seg4diff.data.sa1b import Sa1b
from seg4diff.data.source import DataSource
from seg4diff.errors import UserError

BROKEN = {2, 3, 6}
"""Of eight training images: two that follow each other, and another."""


@pytest.fixture
def root(tmp_path) -> Path:
    """Eight training images of COCO, three of which show their fault only when they are opened, and four to evaluate on."""
    for split, count in (("train", 8), ("val", 4)):
        for k in range(count):
            layouts.write(*layouts.COCO.pair(tmp_path, split, k), layouts.values_of(split, k))
    layouts.COCO.pair(tmp_path, "train", 2)[0].write_bytes(b"no picture")
    mask = layouts.COCO.pair(tmp_path, "train", 3)[1]
    mask.write_bytes(mask.read_bytes()[:-30])
    layouts.COCO.pair(tmp_path, "train", 6)[0].unlink()
    return tmp_path


def coco(root: Path) -> CocoStuff:
    listed = root / "train.txt"
    layouts.lines(listed, [layouts.COCO.name("train", k) for k in range(8)])
    return CocoStuff(root=str(root), captions=None, subset=None, seed=0, lists={"train": str(listed)})


def module(source: DataSource, *, rank: int = 0, world_size: int = 1, done: int = 0, **changes) -> SegmentationDataModule:
    """A DataModule in the middle of a run of 12 steps with 4 images each."""
    arguments = {"batch_size": 4 // world_size, "eval_batch_size": 2, "num_workers": 0, "test_split": "test", "seed": 5}
    data = SegmentationDataModule(source=source, image_size=[4, 4], **arguments | {"skip_unreadable": 3} | changes)
    data.trainer = SimpleNamespace(
        max_steps=12, accumulate_grad_batches=1, limit_train_batches=1.0, global_step=done, global_rank=rank, world_size=world_size
    )
    return data


def stems(data: SegmentationDataModule) -> list[list[int]]:
    return [[int(Path(name).stem) for name in batch.names] for batch in data.train_dataloader()]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_takes_the_place_the_same_one_in_every_run(workers, root):
    source = coco(root)
    whole = stems(module(source))
    readable = stems(module(coco_without_faults(root), skip_unreadable=0))
    replaced = {2: 4, 3: 4, 6: 7}
    assert whole == [[replaced.get(k, k) for k in batch] for batch in readable] and set(chain(*readable)) >= BROKEN
    assert stems(module(source, num_workers=workers)) == whole
    assert stems(module(source, done=5, num_workers=workers)) == whole[5:], "a resumed run"
    halves = [stems(module(source, rank=rank, world_size=2, num_workers=workers)) for rank in range(2)]
    assert [[*chain(*batch)] for batch in zip(*halves, strict=True)] == whole, "two processes"


def coco_without_faults(root: Path) -> CocoStuff:
    whole = root / "whole"
    for k in range(8):
        layouts.write(*layouts.COCO.pair(whole, "train", k), layouts.values_of("train", k))
    return coco(whole)


def test_image_mask_and_caption_are_those_of_the_other_image(root):
    samples = coco(root).split("train", (4, 4), resize_mask=True, skip_unreadable=3)
    taken, there = samples[2], samples[4]
    assert torch.equal(taken.image, there.image) and torch.equal(taken.mask, there.mask)
    assert (taken.caption, taken.name, taken.index) == (there.caption, there.name, 4)
    assert [Path(name).stem[-1] for name in taken.unreadable] == ["2", "3"] and there.unreadable == {}
    assert samples[7].unreadable == {}
    layouts.COCO.pair(root, "train", 7)[0].unlink()
    assert samples[7].index == 0, "after the last comes the first"


def run(data: SegmentationDataModule) -> None:
    """What Lightning does with the batches of a run."""
    for batch in data.train_dataloader():
        data.on_after_batch_transfer(batch.to("cpu"), 0)


def test_each_is_reported_once_by_name_and_with_its_reason(root, caplog):
    with caplog.at_level(logging.WARNING):
        run(module(coco(root), num_workers=2))
    said = sorted((record.getMessage() for record in caplog.records), key=lambda message: message.partition(" cannot")[0][-6:])
    assert len(said) == 3, "though each came up several times"
    for message, words in zip(
        said,
        [
            ("image", "000000000002.jpg", "no picture", "train2017.zip"),
            ("mask", "stuffthingmaps/train2017/000000000003.png", "truncated", "stuffthingmaps_trainval2017.zip"),
            ("image", "000000000006.jpg", "No such file or directory", "train2017.zip"),
        ],
        strict=True,
    ):
        assert not [word for word in words if word not in message]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("allowed", [1, 2])
def test_one_more_than_allowed_ends_the_run_in_a_sentence_that_names_them(workers, allowed, root):
    """Allowed 1, two in a row exceed it already while one image is read; allowed 2, the third does later in the run."""
    with pytest.raises(UnreadableError) as error:
        run(module(coco(root), skip_unreadable=allowed, num_workers=workers))
    message = explain(error.value)
    assert f"{allowed + 1} training images cannot be read, and `skip_unreadable` allows {allowed}" in message
    assert message.count("train2017/00000000000") == allowed + 1 and "seg4diff check" in message


def test_without_a_budget_the_first_one_ends_the_run(root):
    with pytest.raises(UnreadableError, match=r"mask .*000003\.png cannot be read .*truncated.*take it from stuffthingmaps_trainval2017"):
        coco(root).split("train", None, resize_mask=True)[3]
    with pytest.raises(UserError, match=r"`skip_unreadable` must be at least 0, found -1"):
        module(coco(root), skip_unreadable=-1)


def test_evaluation_skips_nothing(root):
    layouts.COCO.pair(root, "val", 1)[1].write_bytes(b"")
    for loader in (module(coco(root)).val_dataloader(), module(coco(root)).test_dataloader()):
        with pytest.raises(UnreadableError, match=r"mask .*val2017/000000000001\.png cannot be read"):
            list(loader)


def test_encoding_ahead_of_training_meets_the_images_that_training_will(root):
    data = module(coco(root))
    (train, *_) = data.predict_dataloader()
    assert [int(Path(name).stem) for batch in train for name in batch.names] == [0, 1, 4, 4, 4, 5, 7, 7]


def test_what_means_a_wrong_data_set_is_not_skipped(root):
    samples = coco(root).split("train", (4, 4), resize_mask=True, skip_unreadable=8)
    mask = layouts.COCO.pair(root, "train", 0)[1]
    Image.fromarray(np.full(layouts.SIZE, 200, np.uint8)).save(mask)
    with pytest.raises(UserError, match=r"000000000000\.png holds values above 181.*take the mask from stuffthingmaps_trainval2017\.zip"):
        samples[0]
    Image.fromarray(np.full((3, 4), 7, np.uint8)).save(mask)
    with pytest.raises(UserError, match=r"is 4 x 3 pixels, its image 5 x 3.*stuffthingmaps/train2017/000000000000\.png"):
        samples[0]


def test_a_data_set_that_has_nothing_to_read_does_not_search_for_ever(root):
    for k in range(8):
        layouts.COCO.pair(root, "train", k)[0].write_bytes(b"")
    with pytest.raises(UnreadableError, match="none of the 8 images can be read"):
        coco(root).split("train", (4, 4), resize_mask=True, skip_unreadable=20)[5]


def test_a_continued_run_remembers_what_it_skipped(root, caplog):
    first = module(coco(root), skip_unreadable=2)
    with pytest.raises(UnreadableError):
        run(first)
    kept = json.loads(json.dumps(first.state_dict()))
    continued = module(coco(root), skip_unreadable=3)
    continued.load_state_dict(kept)
    caplog.clear()
    run(continued)
    assert caplog.records == [] and continued.state_dict() == kept
    assert module(coco(root)).state_dict()["unreadable"] == {}


def _of_two_processes(rank: int, folder: Path, queue) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    data = module(coco(folder), rank=rank, world_size=2)
    batch = next(batch for batch in data.train_dataloader() if any(Path(name).stem[-1] == "26"[rank] for name in batch.unreadable))
    data.on_after_batch_transfer(batch, 0)
    before = len(data._unreadable)
    state = data.state_dict()["unreadable"]
    queue.put((rank, before, sorted(int(Path(name).stem) for name in state)))
    distributed.destroy_process_group()


def test_processes_tell_each_other_at_every_checkpoint(root):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    started = [context.Process(target=_of_two_processes, args=(rank, root, queue)) for rank in range(2)]
    for process in started:
        process.start()
    found = {rank: rest for rank, *rest in (queue.get(), queue.get())}
    for process in started:
        process.join()
    assert found[0][1] == found[1][1] == [2, 3, 6] and min(found[0][0], found[1][0]) < 3


def test_masks_of_sa1b_are_skipped_alike(tmp_path, caplog):
    for k in range(3):
        layouts.sa1b(tmp_path, f"sa_{k}", [np.eye(6, dtype=bool)], pack=True)
    text = (tmp_path / "sa_1.json").read_text()
    (tmp_path / "sa_1.json").write_text(text[: len(text) // 2])
    source = Sa1b(root=str(tmp_path), captions=None, subset=None, seed=0, smallest=0.0, most=4)
    samples = source.split("train", (4, 4), resize_mask=True, skip_unreadable=1)
    assert samples[1].index == 2 and "sa_1.json does not hold masks" in str(samples[1].unreadable)
    with pytest.raises(UnreadableError, match=r"sa_1\.json does not hold masks.*take it from the tars of SA-1B"):
        source.split("train", (4, 4), resize_mask=True)[1]


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_whatever_is_wrong_with_a_file_it_is_named(form, tmp_path):
    """Damage of every kind: cut off, or with other bytes, above all in the header."""
    random, file = np.random.default_rng(0), tmp_path / "picture"
    Image.fromarray(random.integers(0, 20, (40, 60, 3), dtype=np.uint8)).save(file, format=form)
    whole, failures = file.read_bytes(), 0
    for _ in range(400):
        damaged = bytearray(whole[: random.integers(len(whole))] if random.random() < 0.3 else whole)
        for place in random.integers(0, max(1, min(len(damaged), 50)), 4):
            damaged[place : place + 1] = random.bytes(1)
        file.write_bytes(damaged)
        try:
            read_image(file, str(file), "replace it")
        except UnreadableError as error:
            failures += 1
            assert str(error).startswith(f"the image {file} cannot be read (") and str(error).endswith("): replace it.")
    assert failures > 200


def test_a_picture_too_large_to_be_one(tmp_path, monkeypatch):
    Image.new("L", (40, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableError, match=r"large\.png cannot be read \(Image size \(2400 pixels\) exceeds limit"):
        read_image(tmp_path / "large.png", f"{tmp_path}/large.png", "replace it")
