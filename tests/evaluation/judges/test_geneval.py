"""GenEval's rules on detections made by hand, one task after the other."""

import numpy as np
import pytest

from seg4diff.errors import UserError
from seg4diff.evaluation.judges.geneval import COLOURS, Detection, Requirements, Rules, iou, judge, keep, relations_of

RULES = Rules()
LEFT, MIDDLE, RIGHT = (0.0, 40.0, 20.0, 60.0), (40.0, 40.0, 60.0, 60.0), (80.0, 40.0, 100.0, 60.0)
SINGLE = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
TWO = {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "apple", "count": 1}]}
THREE = {"tag": "counting", "include": [{"class": "dog", "count": 3}], "exclude": [{"class": "dog", "count": 4}]}
RED = {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}]}
BESIDE = {"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "apple", "count": 1, "position": ["left of", 0]}]}
BOTH = {
    "tag": "color_attr",
    "include": [{"class": "dog", "count": 1, "color": "blue"}, {"class": "apple", "count": 1, "color": "red"}],
}


def thing(label, box=MIDDLE, score=0.95):
    return Detection(label, score, box)


def by_box(**colours):
    """A classifier that knows the colour of what lies at LEFT, MIDDLE and RIGHT."""
    names = {LEFT: colours.get("left"), MIDDLE: colours.get("middle"), RIGHT: colours.get("right")}
    return lambda things, label: [names[one.box] for one in things]


def reasons(metadata, *things, colours=None):
    return list(judge(Requirements.of(metadata), things, colours or by_box(), RULES).reasons)


@pytest.mark.parametrize(
    ("things", "wrong"),
    [
        ([thing("dog")], []),
        ([thing("dog", LEFT), thing("dog", RIGHT), thing("cat")], []),  # more than one is right too, and so is anything else
        ([thing("cat")], ["expected dog>=1, found 0"]),
        ([thing("dog", score=0.3)], ["expected dog>=1, found 0"]),  # the threshold itself is not enough
        ([thing("dog", score=0.301)], []),
        ([], ["expected dog>=1, found 0"]),
    ],
)
def test_single_object(things, wrong):
    assert reasons(SINGLE, *things) == wrong


@pytest.mark.parametrize(
    ("things", "wrong"),
    [
        ([thing("dog", LEFT), thing("apple", RIGHT)], []),
        ([thing("dog", LEFT), thing("dog", RIGHT)], ["expected apple>=1, found 0"]),
        ([], ["expected dog>=1, found 0", "expected apple>=1, found 0"]),
    ],
)
def test_two_object(things, wrong):
    assert reasons(TWO, *things) == wrong


@pytest.mark.parametrize(
    ("scores", "wrong"),
    [
        ([0.95, 0.95, 0.95], []),
        ([0.95, 0.95], ["expected dog>=3, found 2"]),
        ([0.95, 0.95, 0.95, 0.95], ["expected dog<4, found 4"]),
        ([0.95, 0.95, 0.95, 0.89], []),  # what is counted must be surer than what is looked for
        ([0.95, 0.95, 0.9], ["expected dog>=3, found 2"]),
    ],
)
def test_counting(scores, wrong):
    assert reasons(THREE, *(thing("dog", (10 * k, 0, 10 * k + 9, 9), score) for k, score in enumerate(scores))) == wrong


def test_the_exclude_clause_of_another_class():
    metadata = SINGLE | {"exclude": [{"class": "cat", "count": 1}]}
    assert reasons(metadata, thing("dog")) == []
    assert reasons(metadata, thing("dog"), thing("cat", LEFT)) == ["expected cat<1, found 1"]


def test_colors():
    assert reasons(RED, thing("apple"), colours=by_box(middle="red")) == []
    assert reasons(RED, thing("apple"), colours=by_box(middle="green")) == ["expected red apple>=1, found green"]
    assert reasons(RED, thing("dog"), colours=by_box(middle="red")) == ["expected apple>=1, found 0"]


def test_the_colour_is_that_of_the_most_confident():
    """A red apple in the background does not make a green one red."""
    apples = [thing("apple", LEFT, 0.5), thing("apple", RIGHT, 0.9)]
    assert reasons(RED, *apples, colours=by_box(left="red", right="green")) == ["expected red apple>=1, found green"]
    assert reasons(RED, *apples, colours=by_box(left="green", right="red")) == []


@pytest.mark.parametrize(
    ("apple", "wrong"),
    [
        (LEFT, []),
        (RIGHT, ["expected apple left of target, found right of"]),
        ((40.0, 0.0, 60.0, 20.0), ["expected apple left of target, found above"]),
        (MIDDLE, ["expected apple left of target, found neither side"]),
        ((0.0, 0.0, 20.0, 20.0), []),  # above too, but left of it is true
    ],
)
def test_position(apple, wrong):
    assert reasons(BESIDE, thing("dog", MIDDLE), thing("apple", apple)) == wrong


def test_a_position_needs_what_it_is_seen_from():
    assert reasons(BESIDE, thing("apple", LEFT)) == ["expected dog>=1, found 0", "no target for apple to be left of"]


def test_the_position_is_that_of_the_most_confident():
    assert reasons(BESIDE, thing("dog"), thing("apple", LEFT, 0.5), thing("apple", RIGHT, 0.9)) != []


def test_every_pair_must_stand_as_asked():
    metadata = {"tag": "position", "include": [{"class": "dog", "count": 2}, {"class": "apple", "count": 1, "position": ["left of", 0]}]}
    assert reasons(metadata, thing("apple", LEFT), thing("dog", MIDDLE), thing("dog", RIGHT)) == []
    assert reasons(metadata, thing("apple", MIDDLE), thing("dog", LEFT), thing("dog", RIGHT)) != []


def test_color_attr():
    things = [thing("dog", LEFT), thing("apple", RIGHT)]
    swapped = ["expected blue dog>=1, found red", "expected red apple>=1, found blue"]
    assert reasons(BOTH, *things, colours=by_box(left="blue", right="red")) == []
    assert reasons(BOTH, *things, colours=by_box(left="red", right="blue")) == swapped
    assert reasons(BOTH, *things, colours=by_box(left="blue", right="blue")) == swapped[1:]


def test_colours_are_asked_for_where_they_matter():
    def fail(things, label):
        raise AssertionError

    assert judge(Requirements.of(TWO), [thing("dog"), thing("apple", LEFT)], fail, RULES).correct
    assert not judge(Requirements.of(RED), [thing("dog")], fail, RULES).correct


def test_relations_by_hand():
    """Boxes of 20 x 20 whose centres are 40 apart: 0.1 of both widths, 4 pixels, is taken off, and 36 / 40 are left."""
    assert relations_of(LEFT, MIDDLE, 0.1) == {"left of"} and relations_of(MIDDLE, LEFT, 0.1) == {"right of"}
    assert relations_of((40, 0, 60, 20), MIDDLE, 0.1) == {"above"} and relations_of((40, 80, 60, 100), MIDDLE, 0.1) == {"below"}
    assert relations_of((70, 70, 90, 90), MIDDLE, 0.1) == {"right of", "below"}
    assert relations_of((44, 40, 64, 60), MIDDLE, 0.1) == set()  # all of the 4 pixels is taken off
    assert relations_of((47, 40, 67, 60), MIDDLE, 0.1) == set()  # 3 of 7 are left, not more than half
    assert relations_of((49, 40, 69, 60), MIDDLE, 0.1) == {"right of"}  # 5 of 9


def test_relations_depend_on_both_axes_by_themselves():
    """Two wide boxes: 0.1 of their summed widths, 20, across; 0.1 of their summed heights, 4, down."""
    target = (0.0, 0.0, 100.0, 20.0)
    assert relations_of((20, 30, 120, 50), target, 0.1) == {"below"}
    assert relations_of((40, 30, 140, 50), target, 0.1) == {"below"}  # 20 of 50 across, 26 of 50 down
    assert relations_of((60, 30, 160, 50), target, 0.1) == {"right of"}  # 40 and 26 of 67


def test_iou_counts_the_last_pixels():
    assert iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert iou((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(50 / 150)
    assert iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0


def test_the_best_sixteen_are_kept_in_order():
    many = [thing("dog", (10 * k, 0, 10 * k + 9, 9), 0.4 + k / 100) for k in range(20)]
    kept = keep(many, 0.3, RULES)["dog"]
    assert kept == many[:3:-1] and len(kept) == 16


def test_boxes_that_cover_a_surer_one_are_dropped_where_that_is_asked_for():
    twice = [
        thing("dog", (0, 0, 9, 9), 0.9),
        thing("dog", (1, 0, 10, 9), 0.8),
        thing("dog", (30, 0, 39, 9), 0.7),
        thing("cat", (0, 0, 9, 9)),
    ]
    assert len(keep(twice, 0.3, RULES)["dog"]) == 3
    kept = keep(twice, 0.3, Rules(max_overlap=0.5))
    assert [one.score for one in kept["dog"]] == [0.9, 0.7] and len(kept["cat"]) == 1


def test_what_a_dropped_box_covers_stays():
    """A chain in which each covers the next: the second goes, so the third has nothing over it."""
    chain = [thing("dog", (4 * k, 0, 4 * k + 9, 9), 0.9 - k / 10) for k in range(3)]
    assert [one.box[0] for one in keep(chain, 0.3, Rules(max_overlap=0.4))["dog"]] == [0, 8]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "a GenEval prompt has a tag"),
        (SINGLE | {"include": [{"class": "dog"}]}, "a GenEval prompt has a tag"),
        (SINGLE | {"include": [{"class": "dog", "count": "some"}]}, "a GenEval prompt has a tag"),
        (SINGLE | {"tag": "shape"}, "one of the tags .* found 'shape'"),
        (RED | {"include": [{"class": "apple", "count": 1, "color": "grey"}]}, "found 'grey'"),
        (BESIDE | {"include": BESIDE["include"][1:]}, r"an earlier clause, found \['left of', 0\]"),
        (BESIDE | {"include": [*TWO["include"], {"class": "cat", "count": 1, "position": ["near", 0]}]}, "found .'near', 0.'?"),
    ],
)
def test_prompts_of_another_form_are_refused(metadata, said):
    with pytest.raises(UserError, match=said):
        Requirements.of(metadata)


def test_what_a_request_asks_about():
    assert Requirements.of(BOTH).labels == ["dog", "apple"] and Requirements.of(BOTH).needs_colours
    assert Requirements.of(THREE).labels == ["dog"] and not Requirements.of(THREE).needs_colours


def test_rules_out_of_range_are_refused():
    for options in ({"threshold": 1.5}, {"max_objects": 0}, {"max_overlap": -0.1}, {"counting_threshold": float("nan")}):
        with pytest.raises(UserError, match=next(iter(options))):
            Rules(**options)


def test_colours_are_those_of_the_benchmark():
    assert len(set(COLOURS)) == 10 and "grey" not in COLOURS


def test_detections_in_any_order():
    rng = np.random.default_rng(0)
    things = [thing("dog", (10.0 * k, 0, 10.0 * k + 9, 9), 0.31 + k / 50) for k in range(20)]
    shuffled = [things[k] for k in rng.permutation(20)]
    assert keep(things, 0.3, RULES) == keep(shuffled, 0.3, RULES)
