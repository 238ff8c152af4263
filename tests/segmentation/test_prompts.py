"""Names in prompts, and the tokens they became, with a real tokenizer."""

import itertools

import pytest
from tests.conftest import random_sd3

from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import find_names, list_names, token_sets

NAMES = ("cone", "traffic cone", "brick", "brick wall", "zebra", "night sky", "light", "traffic light", "leaf", "fish")
"""Words shared at either end, one word inside another name, and words the tokenizer has to split (wall, zebra, light)."""
CONE, TRAFFIC_CONE, BRICK, BRICK_WALL, ZEBRA, NIGHT_SKY, LIGHT, TRAFFIC_LIGHT, LEAF, FISH = range(10)


@pytest.fixture(scope="module")
def model():
    return random_sd3()


def spelled(model, prompt, row=0, rows=1):
    """What the tokens of each class say when decoded, and the token sets."""
    texts = ["apple"] * rows
    texts[row] = prompt.text
    sets = token_sets(model.encode_text(texts), row, prompt)
    ids = model._pipeline.tokenizer(prompt.text)["input_ids"]
    return [model._pipeline.tokenizer.decode([ids[k] for k in tokens]).strip() for tokens in sets], sets


@pytest.mark.parametrize("classes", [[], [4], [3, 1, 0, 2], list(range(10))])
def test_spans_slice_back_to_the_names(classes):
    prompt = list_names(NAMES, classes)
    assert prompt.text == " ".join(NAMES[k] for k in classes)
    assert [[prompt.text[start:end] for start, end in spans] for spans in prompt.spans] == [[NAMES[k]] for k in classes]


@pytest.mark.parametrize("classes", itertools.permutations([CONE, TRAFFIC_CONE, BRICK, BRICK_WALL], 4))
def test_names_that_share_words_divide_the_tokens_between_them(model, classes):
    words, sets = spelled(model, list_names(NAMES, classes))
    assert words == [NAMES[k] for k in classes]
    content = (~model.encode_text([list_names(NAMES, classes).text]).padding[0]).nonzero().flatten().tolist()
    assert sorted(itertools.chain(*sets)) == content, "every token belongs to exactly one name, start and padding to none"


def test_split_words_keep_all_their_pieces(model):
    words, sets = spelled(model, list_names(NAMES, [NIGHT_SKY, ZEBRA, FISH]))
    assert words == ["night sky", "zebra", "fish"]
    assert sets[0] == [1, 2] and len(sets[1]) > 2 and len(sets[2]) == 1


def test_sets_belong_to_their_row_of_the_batch(model):
    for row in range(3):
        assert spelled(model, list_names(NAMES, [ZEBRA, TRAFFIC_CONE]), row=row, rows=3)[0] == ["zebra", "traffic cone"]


def test_repeated_words_give_every_mention(model):
    words, sets = spelled(model, find_names("fish on sand, fish and fishes", NAMES, [FISH]))
    assert sets == [[1, 5, 7]] and words == ["fish fish fishes"]
    assert model._pipeline.tokenizer.tokenize("fish on sand, fish and fishes") == [
        f"{word}</w>" for word in ("fish", "on", "sand", ",", "fish", "and", "fishes")
    ]


@pytest.mark.parametrize("caption", ["a TRAFFIC Cone and a Zebra", "A Traffic CONE and A ZEBRA", "a traffic cone and a zebra"])
def test_case_does_not_matter(model, caption):
    prompt = find_names(caption, NAMES, [ZEBRA, CONE, TRAFFIC_CONE])
    assert prompt.classes == [ZEBRA, TRAFFIC_CONE]
    assert spelled(model, prompt)[0] == ["zebra", "traffic cone"]


MENTIONS = {
    "a traffic light": {TRAFFIC_LIGHT: ["traffic light"]},
    "a light and a traffic light": {TRAFFIC_LIGHT: ["traffic light"], LIGHT: ["light"]},
    "traffic lights, lights": {TRAFFIC_LIGHT: ["traffic lights"], LIGHT: ["lights"]},
    "brick walls of brick": {BRICK_WALL: ["brick walls"], BRICK: ["brick"]},
    "two fishes, one fish": {FISH: ["fishes", "fish"]},
    "sunlight and lightning": {},
    "a leaflet about cones.": {CONE: ["cones"]},
    "": {},
}


@pytest.mark.parametrize("caption", MENTIONS)
def test_mentions_in_a_caption(caption):
    expected = MENTIONS[caption]
    for order in (range(len(NAMES)), reversed(range(len(NAMES)))):
        order = list(order)
        prompt = find_names(caption, NAMES, order)
        assert prompt.text == caption
        assert prompt.classes == [k for k in order if k in expected], "the order asked for, without classes that are not mentioned"
        found = [[caption[start:end] for start, end in spans] for spans in prompt.spans]
        assert dict(zip(prompt.classes, found, strict=True)) == expected


def test_names_with_signs_are_no_patterns():
    names = ("a.b", "axb")
    assert find_names("axb only", names, [0, 1]).classes == [1]


def test_a_prompt_that_is_too_long_is_refused_with_its_length(model):
    model.encode_text(["apple " * 30])
    with pytest.raises(UserError, match=r"has 31 tokens, the tokenizer allows 30: "):
        model.encode_text(["apple", "apple " * 31])
