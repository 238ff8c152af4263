"""Scenes are a function of (seed, split, index); masks, instances and captions tell the same story."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from seg4diff.data.toyworld.captions import lexicon
from seg4diff.data.toyworld.dataset import ToyWorld
from seg4diff.data.toyworld.scenes import CLASS_NAMES, SPLITS, make_scene
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS
from seg4diff.errors import UserError

FUNCTION_WORDS = {"a", "an", "on", "the", "and", "at", "in", "two", "three", "four"}
COUNTS = {"two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(7, "train", index, side=48) for index in range(200)]


def is_list(scene):
    return not FUNCTION_WORDS & set(scene.caption.split())


def content(scene):
    return scene.image.tobytes(), scene.mask.tobytes(), scene.instances.tobytes(), scene.caption, scene.classes


def test_the_same_arguments_give_the_same_scene(scenes):
    np.random.seed(1)
    assert [content(make_scene(7, "train", index, side=48)) for index in (0, 17)] == [content(scenes[index]) for index in (0, 17)]


def test_no_scene_is_shared_between_indices_splits_and_seeds():
    drawn = [make_scene(seed, split, index, side=32) for seed in (0, 1, 7) for split in SPLITS for index in range(12)]
    assert len({scene.image.tobytes() for scene in drawn}) == len(drawn)
    # Two scenes may have one class in common, but not the whole layout.
    assert len({scene.mask.tobytes() for scene in drawn}) == len(drawn)


def test_the_world_has_enough_classes_and_every_one_occurs(scenes):
    assert len(THINGS) >= 16 and len(STUFF) >= 5
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == len(THINGS) + len(STUFF)
    assert {name for scene in scenes for name in scene.classes} == set(CLASS_NAMES)


def test_each_instance_has_one_class_and_the_rest_is_one_stuff(scenes):
    things = {CLASS_NAMES.index(thing.name) for thing in THINGS}
    numbers = Counter()
    for scene in scenes:
        ids = [int(k) for k in np.unique(scene.instances)]
        assert ids == list(range(len(ids)))
        numbers[len(ids) - 1] += 1
        for k in ids:
            (only,) = np.unique(scene.mask[scene.instances == k])
            assert (int(only) in things) == (k > 0)
    assert set(numbers) == {1, 2, 3, 4}


def test_nothing_is_hidden_to_a_sliver(scenes):
    areas = [np.bincount(scene.instances.ravel())[1:].min() / scene.instances.size for scene in scenes]
    assert min(areas) > 0.02, "the smallest thing alone covers about 0.03 of the image"


def test_classes_are_the_names_of_the_mask(scenes):
    for scene in scenes:
        assert scene.classes == tuple(CLASS_NAMES[k] for k in np.unique(scene.mask))


def test_captions_use_the_lexicon_alone_and_are_of_both_kinds(scenes):
    words = set(lexicon())
    for scene in scenes:
        assert set(scene.caption.replace(",", " ").split()) <= words, scene.caption
    assert 40 <= sum(map(is_list, scenes)) <= 130


def test_list_captions_name_each_class_once_in_no_fixed_order(scenes):
    lists = [scene for scene in scenes if is_list(scene)]
    for scene in lists:
        assert Counter(scene.caption.split()) == Counter(" ".join(scene.classes).split()), scene.caption
    assert {scene.caption.endswith(tuple(STUFF)) for scene in lists} == {True, False}


def test_sentences_name_every_class_and_count_what_is_there(scenes):
    counted = 0
    for scene in [scene for scene in scenes if not is_list(scene)]:
        pairs = {(int(k), int(c)) for k, c in zip(scene.instances.flat, scene.mask.flat, strict=True) if k}
        present = Counter(CLASS_NAMES[c] for _, c in pairs)
        assert scene.caption.endswith(tuple(set(STUFF) & set(scene.classes)))
        for thing in THINGS:
            match = re.search(rf"\b(two|three|four) {thing.plural}\b", scene.caption)
            said = COUNTS[match[1]] if match else len(re.findall(rf"\b{thing.name}\b", scene.caption))
            assert said == present[thing.name], scene.caption
            counted += match is not None
    assert counted >= 5


def test_table_round_trip_keeps_every_mask_pixel(tmp_path):
    for side in (40, 48):  # one root serves worlds of several sizes
        world = ToyWorld(root=str(tmp_path), seed=5, side=side, sizes={"train": 3, "test": 2})
        world.prepare()
        for split, size in (("train", 3), ("test", 2)):
            samples = world.split(split, None, resize_mask=False)
            assert len(samples) == size
            for index in range(size):
                sample, scene = samples[index], make_scene(5, split, index, side)
                assert torch.equal(sample.mask, torch.from_numpy(scene.mask).long())
                assert (sample.caption, sample.index) == (scene.caption, index)
                pixels = ((sample.image + 1) * 127.5).round().byte().permute(1, 2, 0)
                assert torch.equal(pixels, torch.from_numpy(scene.image))
    assert tuple(world.vocabulary.names[k] for k in sample.mask.unique()) == scene.classes


def test_wide_scenes_are_the_middle_rows_of_square_ones(tmp_path):
    sizes = {"test": 2}
    wide = ToyWorld(root=str(tmp_path), seed=3, side=48, sizes=sizes, height=20).table("test")
    square = ToyWorld(root=str(tmp_path), seed=3, side=48, sizes=sizes).table("test")
    for key in ("image", "mask", "instances"):
        assert np.array_equal(np.array(wide[1][key]), np.array(square[1][key])[14:34])
    assert wide["caption"] == square["caption"]
    with pytest.raises(UserError, match=r"1\.\.48"):
        ToyWorld(root=str(tmp_path), seed=3, side=48, sizes=sizes, height=49)
