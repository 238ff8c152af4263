"""Prompts speak the language of the captions, and their answers are what their words say."""

from collections import Counter

import pytest

from seg4diff.data.toyworld.captions import SHADES, lexicon
from seg4diff.errors import UserError
from seg4diff.tiny.prompts import KINDS, MOST_PROMPTS, Asked, ToyPrompt, held_out_prompts

PROMPTS = held_out_prompts(140, 0)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (ToyPrompt("single", (Asked("apple"),), "snow"), "an apple on snow"),
        (ToyPrompt("counting", (Asked("leaf", count=2), Asked("cup")), "sand"), "two leaves and a cup on sand"),
        (ToyPrompt("shade", (Asked("apple", shade="dark"),), "night sky"), "a dark apple on night sky"),
        (ToyPrompt("place", (Asked("gem", place="at the top"), Asked("fish")), "water"), "a gem at the top and a fish on water"),
        (ToyPrompt("two", (Asked("gem"), Asked("fish"), Asked("star")), "water"), "a gem, a fish and a star on water"),
        (ToyPrompt("list", (Asked("traffic cone", count=None), Asked("moon", count=None)), "grass"), "traffic cone moon grass"),
    ],
)
def test_a_prompt_reads_like_a_caption(prompt, text):
    assert prompt.text == text


def test_every_word_is_one_that_captions_use():
    assert {word for prompt in PROMPTS for word in prompt.text.replace(",", "").split()} <= set(lexicon())


def test_texts_differ_and_kinds_have_equal_shares():
    assert len({prompt.text for prompt in PROMPTS}) == len(PROMPTS)
    assert set(Counter(prompt.kind for prompt in PROMPTS).values()) == {20} and {prompt.kind for prompt in PROMPTS} == set(KINDS)


def test_a_seed_is_a_set_of_prompts_and_a_shorter_set_is_its_beginning():
    assert held_out_prompts(30, 0) == PROMPTS[:30]
    assert not {prompt.text for prompt in held_out_prompts(30, 1)} >= {prompt.text for prompt in PROMPTS[:30]}


def test_words_that_are_to_be_bound_are_different_ones():
    bound = [[asked.shade for asked in prompt.things] for prompt in PROMPTS if prompt.kind == "shade"]
    assert all(sorted(words) == sorted(SHADES) for words in bound) and len({tuple(words) for words in bound}) == 2


@pytest.mark.parametrize("count", [0, MOST_PROMPTS + 1])
def test_there_are_only_so_many(count):
    with pytest.raises(UserError, match=f"1..{MOST_PROMPTS}, found {count}"):
        held_out_prompts(count, 0)
