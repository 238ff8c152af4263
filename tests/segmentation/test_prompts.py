"""Names in prompts, and the tokens they became, with a real tokenizer."""

import itertools
from random import Random
from unicodedata import normalize

import pytest
from tests.hosts import random_sd3

from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import (
    cut_to_fit,
    find_names,
    list_largest,
    list_names,
    prompt_words,
    split_names,
    token_sets,
    visible_words,
)

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


SIGNS = {
    "two t-shirts, one T-shirt": {"t-shirt": ["t-shirts", "T-shirt"]},
    "a C++ book about C++": {"C++": ["C++", "C++"]},
    "wall (brick), wall": {"wall (brick)": ["wall (brick)"], "wall": ["wall"]},
    "rock\u2019n\u2019roll and rock'n'roll": {"rock'n'roll": ["rock\u2019n\u2019roll", "rock'n'roll"]},
    "an A/C unit and 3D-glasses": {"A/C": ["A/C"], "3D-glasses": ["3D-glasses"]},
    "St. Bernards": {"st. bernard": ["St. Bernards"]},
    "wall (brick)s": {"wall (brick)": ["wall (brick)"]},
    "\u4e00\u53ea\u732b\u5728\u8349\u5730\u4e0a": {"\u732b": ["\u732b"], "\u8349\u5730": ["\u8349\u5730"]},
    "\u8fd9\u53eacat\u5728": {"cat": ["cat"]},
    "\u306d\u3053\u304c\u3044\u308b": {"\u306d\u3053": ["\u306d\u3053"]},
    "\uace0\uc591\uc774\uac00": {"\uace0\uc591\uc774": ["\uace0\uc591\uc774"]},
    "\u0e41\u0e21\u0e27\u0e43\u0e19\u0e2b\u0e0d\u0e49\u0e32": {"\u0e41\u0e21\u0e27": ["\u0e41\u0e21\u0e27"]},
    "traffic  light, traffic\u00a0lights": {"traffic light": ["traffic  light", "traffic\u00a0lights"]},
    "a traffic_light_pole": {"traffic light": ["traffic_light"], "pole": ["pole"]},
    "a fire hydrant": {"fire_hydrant": ["fire hydrant"]},
    "STRASSE, stra\u00dfe": {"Stra\u00dfe": ["STRASSE", "stra\u00dfe"]},
    "cafes, caf\u00e9s": {"cafe": ["cafes"], "caf\u00e9": ["caf\u00e9s"]},
    "\u00e9x, x\u00e9": {},
    "\uace4": {},
    "carton, scar": {},
    "": {},
}
"""Captions and what is found in them, of the names that any of them has."""
SIGNED = list(dict.fromkeys([*itertools.chain(*SIGNS.values()), "x", "\uace0", "car", "light"]))
FORMS = pytest.mark.parametrize("form", ["NFC", "NFD"])


@FORMS
@pytest.mark.parametrize("own", ["NFC", "NFD"])
@pytest.mark.parametrize("caption", SIGNS)
def test_names_are_found_whatever_they_are_made_of(caption, form, own):
    names = [normalize(own, name) for name in SIGNED]
    text = normalize(form, caption)
    prompt = find_names(text, names, range(len(names)))
    found = [[text[start:end] for start, end in spans] for spans in prompt.spans]
    expected = {name: [normalize(form, mention) for mention in mentions] for name, mentions in SIGNS[caption].items()}
    assert prompt.text == text and dict(zip([SIGNED[k] for k in prompt.classes], found, strict=True)) == expected


def test_spans_of_any_name_in_any_text_are_whole_and_apart():
    """Names are put between other signs at random: each is found where it was put, as the characters that it has there."""
    random = Random(0)
    names = ["traffic light", "caf\u00e9", "C++", "\u732b", "t-shirt", "wall (brick)", "Stra\u00dfe"]
    for _ in range(300):
        text, places = "", {}
        for k in random.sample(range(len(names)), 4):
            text += random.choice([" ", "\u3002", ", ", " \u0301 ", " \u00b7\u00b7 ", "\u3000"])
            own = normalize(random.choice(["NFC", "NFD"]), names[k]).replace(" ", random.choice([" ", "  ", "_"]))
            places[k] = [(len(text), len(text) + len(own))]
            text += random.choice([own, own.swapcase()]) if "\u00df" not in own else own
        prompt = find_names(f"{text}.", names, range(len(names)))
        assert dict(zip(prompt.classes, prompt.spans, strict=True)) == places


@FORMS
def test_tokens_of_names_with_accents_and_signs_are_theirs(model, form):
    caption = normalize(form, "a caf\u00e9 by the traffic  lights, \u4e00\u53ea\u732b, C++")
    prompt = find_names(caption, ["caf\u00e9", "traffic light", "\u732b", "C++"], range(4))
    sets = token_sets(model.encode_text([caption]), 0, prompt)
    assert all(sets) and len(set(itertools.chain(*sets))) == sum(map(len, sets)) and sets == sorted(sets)


def test_a_prompt_that_is_too_long_is_refused_with_its_length(model):
    model.encode_text(["apple " * 30])
    with pytest.raises(UserError, match=r"has 33 tokens with those that the tokenizer adds, the model takes 32: "):
        model.encode_text(["apple", "apple " * 31])


def at_most(words):
    return lambda text: len(text.split()) <= words


LETTERS = tuple("abcdefghij")


@pytest.mark.parametrize(
    ("names", "words", "groups"),
    [
        (LETTERS, 10, [10]),
        (LETTERS, 9, [5, 5]),
        (LETTERS, 4, [3, 3, 4]),
        (LETTERS, 3, [2, 3, 2, 3]),
        (LETTERS, 1, [1] * 10),
        # With two, three or four groups the last one is "d w x y z" or more.
        (("a", "b", "c", "d", "w x y z"), 4, [1] * 5),
        (("a", "b", "c", "d", "w x y z"), 5, [2, 1, 2]),
        (("a", "b", "c", "d", "w x y z"), 6, [2, 3]),
        ((), 4, []),
    ],
)
def test_names_are_cut_into_the_fewest_equal_groups_that_fit(names, words, groups):
    prompts = split_names(names, range(len(names)), at_most(words))
    assert sorted(len(prompt.classes) for prompt in prompts) == sorted(groups)
    assert all(at_most(words)(prompt.text) for prompt in prompts)


@pytest.mark.parametrize("classes", [list(range(10)), [7, 2, 9, 0, 4], [5]])
@pytest.mark.parametrize("words", range(2, 12))
def test_split_names_keep_their_order_and_stay_whole(classes, words):
    prompts = split_names(NAMES, classes, at_most(words))
    assert [k for prompt in prompts for k in prompt.classes] == classes
    sizes = {len(prompt.classes) for prompt in prompts}
    assert max(sizes) - min(sizes) <= 1
    for prompt in prompts:
        found = [[prompt.text[start:end] for start, end in spans] for spans in prompt.spans]
        assert found == [[NAMES[k]] for k in prompt.classes]


def test_names_that_fit_are_the_one_prompt_that_they_were(model):
    assert split_names(NAMES, [3, 1, 0], model.fits) == [list_names(NAMES, [3, 1, 0])]


def test_split_names_divide_their_tokens_as_in_one_prompt(model):
    names = tuple(f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in NAMES)
    prompts = split_names(names, range(len(names)), model.fits)
    assert len(prompts) > 2
    assert [word for prompt in prompts for word in spelled(model, prompt)[0]] == list(names)


def test_a_name_that_does_not_fit_alone_is_refused(model):
    names = ("apple", "sand " * 40 + "sand", "snow")
    with pytest.raises(UserError, match=r"the class name 'sand sand .*\.\.\.' is too long for the model by itself: shorten it\."):
        split_names(names, range(3), model.fits)
    assert [prompt.text for prompt in split_names(names, [0, 2], model.fits)] == ["apple snow"]
    with pytest.raises(UserError, match="the class name 'night sky' is too long"):
        split_names(NAMES, [ZEBRA, NIGHT_SKY], at_most(1))


def test_the_smallest_classes_are_left_out():
    areas = [10, 70, 30, 20, 60]
    for words, kept in ((5, [0, 1, 2, 3, 4]), (4, [1, 2, 3, 4]), (3, [1, 2, 4]), (1, [1])):
        assert list_largest(LETTERS, range(5), areas.__getitem__, at_most(words)) == list_names(LETTERS, kept)
    assert list_largest(LETTERS, [4, 2, 0, 1], areas.__getitem__, at_most(3)) == list_names(LETTERS, [4, 2, 1]), "in the order given"
    assert list_largest(LETTERS, [], areas.__getitem__, at_most(3)).classes == []


@pytest.mark.parametrize(
    ("text", "words", "cut"),
    [
        ("one two  three, four", 4, "one two  three, four"),
        ("one two  three, four", 3, "one two  three,"),
        ("one two  three, four", 2, "one two"),
        (" one two", 1, " one"),
        ("one two", 0, ""),
        ("", 0, ""),
    ],
)
def test_a_text_is_cut_after_its_last_word_that_fits(text, words, cut):
    assert cut_to_fit(text, at_most(words)) == cut


def test_a_caption_is_cut_where_the_tokenizer_ends(model):
    caption = "a zebra and a traffic cone under the night sky; " * 4
    cut = cut_to_fit(caption, model.fits)
    word = caption[len(cut) :].split()[0]
    assert caption.startswith(cut) and caption[len(cut)] == " "
    assert model.fits(cut) and not model.fits(f"{cut} {word}")
    model.encode_text([cut])


@pytest.mark.parametrize(
    ("prompt", "words", "visible"),
    [
        ("a heart and a cup on sand", "a heart and cup on sand", "heart cup sand"),
        (
            "Two cats, a DOG's red-ball; A dog's Ärztin - 'hi' (3!) _",
            "Two cats a DOG's red-ball Ärztin hi 3",
            "cats DOG's red-ball Ärztin hi 3",
        ),
        ("on the left", "on the left", "on the left"),
        ("鱼和星星", "鱼和星星", "鱼和星星"),
        (" , ", "", ""),
    ],
)
def test_the_words_of_a_prompt(prompt, words, visible):
    found = prompt_words(prompt)
    assert found == words.split() and [found[k] for k in visible_words(found)] == visible.split()
    assert len(find_names(prompt, found, range(len(found))).classes) == len(found), "every word is found again"
