"""A tokenizer built from words."""

import random

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from seg4diff.data.toyworld.captions import lexicon
from seg4diff.tiny.tokenizer import build_clip_tokenizer

FAMILIES = ["a", "an", "ant", "ants", "plant", "plants", "s", "apples", "apple", "pineapple", "light", "lights", "sunlight", "sun"]
"""Words inside words, before and after the words that hold them."""
PROBES = ["apple leaf", "Two APPLES, a zebra.", "crème brûlée 42", "sun-lit  plants", ""]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer(lexicon(), 24)


@pytest.mark.parametrize(
    "words", [lexicon(), lexicon(["coco_stuff", "cityscapes"]), FAMILIES, FAMILIES[::-1]], ids=["toy", "all", "families", "reversed"]
)
def test_every_word_of_the_list_is_one_token(words):
    tokenizer = build_clip_tokenizer(words, 24)
    assert [tokenizer.tokenize(word) for word in words] == [[f"{word}</w>"] for word in words]
    sentence = random.Random(0).sample(words, 10)
    assert tokenizer.tokenize(" ".join(sentence)) == [f"{word}</w>" for word in sentence]
    assert len({tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in words}) == len(words)


@pytest.mark.parametrize("text", ["zebra", "xylophone", "appletree", "café 北京", "traffic lights"])
def test_unknown_words_split_and_decode_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert len(ids) - 2 > len(text.split())
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_offsets_point_at_the_text(tokenizer):
    text = "Two apples,  a Zebra"
    encoded = tokenizer(text, return_offsets_mapping=True)
    pieces = [text[start:end].lower() for start, end in encoded["offset_mapping"]]
    assert pieces[0] == pieces[-1] == "" and pieces[1:5] == ["two", "apples", ",", "a"] and "".join(pieces[5:]) == "zebra"


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_round_trip_through_the_disk(tokenizer, tmp_path, loader):
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    for text in [*PROBES, *lexicon()]:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.model_max_length == 24
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [getattr(loaded, name) for name in names] == [getattr(tokenizer, name) for name in names]


def test_prompts_are_framed_padded_and_cut_to_the_maximum(tokenizer):
    assert tokenizer.model_max_length == 24
    padded = tokenizer("apple leaf", padding="max_length")["input_ids"]
    cut = tokenizer("apple " * 50, truncation=True)["input_ids"]
    assert len(padded) == len(cut) == 24
    for ids, words in ((padded, 2), (cut, 22)):
        assert ids[0] == tokenizer.bos_token_id and set(ids[1 + words :]) <= {tokenizer.eos_token_id, tokenizer.pad_token_id}
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids[1 : 1 + words])
    assert padded[3] == tokenizer.eos_token_id
