"""How many processes load data, and how many images are tested."""

import os
from types import SimpleNamespace

import pytest

from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.toyworld.dataset import ToyWorld


def module(tmp_path, num_workers, tests=1, **options):
    source = ToyWorld(root=str(tmp_path), seed=0, side=32, sizes={"train": 2, "validation": 1, "test": tests})
    sizes = {"image_size": None, "batch_size": 1, "eval_batch_size": 1}
    return SegmentationDataModule(source=source, num_workers=num_workers, test_split="test", seed=0, **sizes, **options)


@pytest.mark.parametrize(("cores", "devices", "expected"), [(1, 1, 0), (2, 1, 1), (8, 1, 4), (64, 1, 4), (8, 4, 1), (8, 8, 0), (2, 8, 0)])
def test_processes_follow_the_cores(cores, devices, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    data = module(tmp_path, None)
    data.trainer = SimpleNamespace(num_devices=devices)
    assert data.num_workers == expected
    assert module(tmp_path, 7).num_workers == 7 and module(tmp_path, 0).num_workers == 0


@pytest.mark.parametrize(
    ("images", "expected"), [(3, [0, 2, 4]), (1, [0]), (7, list(range(7))), (99, list(range(7))), (None, list(range(7)))]
)
def test_some_images_are_spread_over_the_split(images, expected, tmp_path):
    data = module(tmp_path, 0, tests=7, test_images=images)
    assert data.tested() == expected == [index for batch in data.test_dataloader() for index in batch.indices]
