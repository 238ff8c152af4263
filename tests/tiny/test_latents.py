"""Scenes as latents: encoded once, kept in a file, the same as those of the images."""

import pytest
import torch

from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.tiny.latents import SceneLatents


class Encoder:
    """Every fourth pixel, and a note of how many images were asked for."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return images[..., ::4, ::4]


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def open_scenes(tmp_path, encoder):
    return lambda size: SceneLatents(tmp_path / "world" / "latents.bin", size=size, seed=4, side=32, shape=(3, 8, 8), encode=encoder)


def test_latents_and_captions_are_those_of_the_scenes(open_scenes):
    batch = open_scenes(10).__getitems__([7, 2])
    scenes = [make_scene(4, "train", index, 32) for index in (7, 2)]
    assert batch.captions == [scene.caption for scene in scenes]
    pixels = ((batch.latents + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(pixels, torch.stack([torch.from_numpy(scene.image)[::4, ::4] for scene in scenes]))


def test_a_scene_is_encoded_once_whoever_asks_again(open_scenes, encoder):
    first = open_scenes(10).__getitems__([1, 5])
    again = open_scenes(10).__getitems__([5, 1, 8])
    assert encoder.images == 3
    assert torch.equal(first.latents, again.latents[[1, 0]])


def test_a_world_of_another_size_keeps_what_is_there(open_scenes, encoder):
    first = open_scenes(4).__getitems__([3])
    assert torch.equal(open_scenes(9).__getitems__([3]).latents, first.latents)
    assert torch.equal(open_scenes(4).__getitems__([3]).latents, first.latents) and open_scenes(9).__getitems__([8]).captions
    assert encoder.images == 2


def test_a_run_that_is_stopped_while_it_encodes_leaves_nothing_half_done(tmp_path, open_scenes, encoder):
    def stopped(images):
        raise KeyboardInterrupt

    other = SceneLatents(tmp_path / "world" / "latents.bin", size=4, seed=4, side=32, shape=(3, 8, 8), encode=stopped)
    with pytest.raises(KeyboardInterrupt):
        other.__getitems__([0])
    assert open_scenes(4).__getitems__([0]).captions == [make_scene(4, "train", 0, 32).caption] and encoder.images == 1
