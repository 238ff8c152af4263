"""Answers about findings that are written by hand."""

import pytest

from seg4diff.data.toyworld.captions import Placed
from seg4diff.tiny.answers import answer, gains, intervals, means
from seg4diff.tiny.find import Findings, Found
from seg4diff.tiny.prompts import Asked, ToyPrompt


def thing(name, brightness=0.5, size=0.5, centre=(0.5, 0.5), structure=0.8):
    return Found(Placed(name, brightness, size, centre), 0.9, structure)


def shown(*things, ground="sand", share=1.0):
    return Findings(ground, share, things)


def asked(*things, kind="two", ground="sand"):
    return ToyPrompt(kind, things, ground)


def test_presence_is_a_share_and_all_of_it_is_asked_for_too():
    got = answer(asked(Asked("star"), Asked("moon")), shown(thing("star")))
    assert (got["presence"], got["all_present"], got["two"], got["ground"]) == (pytest.approx(2 / 3), 0, 0, 1)


@pytest.mark.parametrize(("ground", "share"), [("snow", 1.0), ("sand", 0.3)])
def test_another_ground_or_too_little_of_it_is_not_the_one(ground, share):
    got = answer(asked(Asked("star")), shown(thing("star"), ground=ground, share=share))
    assert got["ground"] == 0 and got["presence"] == 0.5


@pytest.mark.parametrize(("number", "right"), [(1, 0), (2, 1), (3, 0)])
def test_a_count_is_right_or_wrong(number, right):
    got = answer(asked(Asked("fish", count=2), Asked("cup"), kind="counting"), shown(thing("cup"), *[thing("fish")] * number))
    assert got["counting"] == right and "two" not in got


def test_a_bare_list_asks_for_no_number():
    got = answer(asked(Asked("fish", count=None), kind="list"), shown(thing("fish"), thing("fish")))
    assert "counting" not in got and got["all_present"] == 1


@pytest.mark.parametrize(
    ("category", "word", "placed"),
    [
        ("shade", "dark", {"brightness": 0.2}),
        ("shade", "bright", {"brightness": 0.8}),
        ("size", "small", {"size": 0.1}),
        ("size", "large", {"size": 0.9}),
        ("place", "on the left", {"centre": (0.2, 0.6)}),
        ("place", "at the bottom", {"centre": (0.4, 0.9)}),
        ("place", "in the middle", {"centre": (0.45, 0.55)}),
    ],
)
def test_a_word_is_true_of_its_own_thing(category, word, placed):
    prompt = asked(Asked("gem", **{category: word}), Asked("leaf"))
    assert answer(prompt, shown(thing("gem", **placed), thing("leaf")))[category] == 1
    opposite = {"brightness": 0.5, "size": 0.5, "centre": (0.9, 0.4)} | {
        name: 1 - value for name, value in placed.items() if name != "centre"
    }
    assert answer(prompt, shown(thing("leaf", **placed), thing("gem", **opposite)))[category] == 0
    assert answer(prompt, shown(thing("leaf", **placed)))[category] == 0, "what is missing has no properties"


def test_a_thing_without_a_word_is_extra_and_its_shape_does_not_count():
    got = answer(asked(Asked("gem")), shown(thing("gem", structure=0.6), thing("star", structure=0.9)))
    assert (got["extra"], got["structure"]) == (1, 0.6)


def test_means_are_over_prompts_of_means_over_their_images():
    rows = [[{"counting": 1.0}, {"counting": 0.0}], [{"counting": 1.0}, {}], [{}]]
    assert means(rows) == {"counting": 0.75}


def test_a_gain_is_paired():
    base = [[{"ground": value}] for value in (0.0, 0.5, 1.0, 0.2)]
    other = [[{"ground": own["ground"] + 0.1}] for (own,) in base]
    mean, low, high = gains(base, other, resamples=200, seed=0)["ground"]
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1)), "every prompt gains the same, however much the prompts differ"
    low, high = intervals(base, resamples=200, seed=0)["ground"]
    assert low < 0.425 < high and high - low > 0.3
