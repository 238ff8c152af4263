"""Templates say where a thing lies, and what lies just outside."""

import numpy as np
import pytest

from seg4diff.data.toyworld.things import THINGS
from seg4diff.tiny.templates import Pose, framed, grow, shrink, template


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.name)
def test_what_lies_just_outside_is_no_part_of_the_thing(thing):
    *parts, outside = framed(thing, Pose(31, 7, True))
    assert outside.max() > 0.9 and (np.sum(parts, axis=0) + outside).max() < 1.02


def test_a_template_is_framed_by_its_reach():
    pose = Pose(40, -14, False)
    layers = framed(THINGS[0], pose)
    assert layers.shape[1:] == (48, 48) and pose.reach == 4
    np.testing.assert_array_equal(template(THINGS[0], pose), layers[:-1, 4:44, 4:44])


def test_masks_grow_and_shrink_by_their_reach():
    mask = np.zeros((9, 9))
    mask[2:7, 3:6] = 1
    assert grow(mask, 2).shape == (13, 13) and grow(mask, 2).sum() == 9 * 7
    assert shrink(mask, 1).sum() == 3 * 1 and shrink(np.ones((9, 9)), 1).sum() == 7 * 7
