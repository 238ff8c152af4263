"""What is to be drawn, from what a person types."""

import pytest

from seg4diff.errors import UserError
from seg4diff.generation.requests import to_seeds


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("0, 5,7-8", [0, 5, 7, 8]), ("12", [12]), ("7-7", [7]), ("5,2", [5, 2])]
)
def test_seeds(text, seeds):
    assert to_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2", "1.5", "0-", "-3", "٣"])
def test_what_is_no_seed(text):
    with pytest.raises(UserError, match="`seeds` must be numbers and ranges from the smaller to the larger, as in 0-3 or 0,5,7-9"):
        to_seeds(text)


@pytest.mark.parametrize("text", ["0-3,2", "1,1"])
def test_each_seed_is_given_once(text):
    with pytest.raises(UserError, match=f"`seeds` must hold each number once, found '{text}'"):
        to_seeds(text)


def test_too_many_seeds_are_counted_and_not_listed():
    with pytest.raises(UserError, match="at most 8 numbers, found 1000000000000001"):
        to_seeds("0-1000000000000000", most=8)
