"""Class names as prompts, the tokens that each name became, and the maps of these tokens as one map of the name."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from unicodedata import category, normalize

import torch
from torch import Tensor

from seg4diff.backbones.base import TextCondition
from seg4diff.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A prompt and where each class name stands in it.

    Attributes:
        text: the prompt.
        classes: class ids, in order.
        spans: for each class, the (start, end) characters of its name in `text`, one pair per mention.
    """

    text: str
    classes: list[int]
    spans: list[list[tuple[int, int]]]

    def names(self) -> list[str]:
        """The name of each class, as the prompt has it."""
        return [self.text[slice(*mentions[0])] for mentions in self.spans]


def list_names(names: Sequence[str], classes: Sequence[int]) -> Prompt:
    """The prompt that an image is segmented with: class names joined by spaces, no template (paper, section 3.4).

    Args:
        names: all names of the vocabulary.
        classes: ids of the classes to name, in this order.
    """
    text, spans = "", []
    for k in classes:
        start = len(text) + bool(text)
        text = f"{text} {names[k]}" if text else names[k]
        spans.append([(start, len(text))])
    return Prompt(text, list(classes), spans)


def split_names(names: Sequence[str], classes: Sequence[int], fits: Callable[[str], bool]) -> list[Prompt]:
    """As `list_names`, over as many prompts as it takes for each to fit; every class is in exactly one of them.

    The classes, in their order, are cut into groups whose sizes differ by at most one (n classes in k groups: before positions
    n / k, 2 n / k, ..., rounded down), a prompt each; k is the smallest number with which all prompts fit. So no name is split, and
    no prompt is left with the one name that the others had no place for.

    Args:
        names: all names of the vocabulary.
        classes: ids of the classes to name, in this order; without any there is no prompt.
        fits: whether the model takes a prompt whole.

    Raises:
        UserError: a name does not fit by itself.
    """
    if not classes:
        return []
    for count in range(1, len(classes) + 1):
        bounds = [len(classes) * k // count for k in range(count + 1)]
        prompts = [list_names(names, classes[start:end]) for start, end in pairwise(bounds)]
        if all(fits(prompt.text) for prompt in prompts):
            return prompts
    name = next(names[k] for k in classes if not fits(names[k]))
    raise UserError(f"the class name '{name[:60]}{'...' if len(name) > 60 else ''}' is too long for the model by itself: shorten it.")


def list_largest(names: Sequence[str], classes: Sequence[int], area: Callable[[int], int], fits: Callable[[str], bool]) -> Prompt:
    """As `list_names`, without the smallest classes where not all fit into one prompt.

    Args:
        names: all names of the vocabulary.
        classes: ids of the classes to name, in this order.
        area: size of a class; only asked where not all fit.
        fits: whether the model takes a prompt whole.
    """
    prompt = list_names(names, classes)
    while not fits(prompt.text):
        smallest = min(prompt.classes, key=area)
        prompt = list_names(names, [k for k in prompt.classes if k != smallest])
    return prompt


def cut_to_fit(text: str, fits: Callable[[str], bool]) -> str:
    """The text, cut after the last whole word with which it fits; "" where not even the first word does."""
    if fits(text):
        return text
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    kept = bisect_left(ends, True, key=lambda end: not fits(text[:end]))  # number of words: more of them never take fewer tokens
    return text[: ends[kept - 1]] if kept else ""


def find_names(caption: str, names: Sequence[str], classes: Sequence[int]) -> Prompt:
    """A caption as the prompt; classes whose name, singular or with a plural s, is not in it are left out.

    Longer names are found first, and a word belongs to one name only: "traffic light" is not a mention of "light". What makes no
    difference to a reader makes none here: case, composed or decomposed accents, numbers of blanks, underscores, curly apostrophes.
    In scripts without blanks between words, a name is found wherever its characters are.
    """
    text, places = _folded(caption)
    taken = [False] * len(caption)
    found: dict[int, list[tuple[int, int]]] = {}
    folded = {k: _folded(names[k])[0].strip() for k in classes}
    for k in sorted(classes, key=lambda k: -len(folded[k])):
        for match in re.finditer(_pattern(folded[k]), text):
            (start, begins), (end, ends) = places[match.start()], places[match.end()]
            if begins and ends and not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.setdefault(k, []).append((start, end))
    kept = [k for k in classes if k in found]
    return Prompt(caption, kept, [found[k] for k in kept])


SMALL_WORD = re.compile(
    r"an?|the|and|or|of|on|in|at|to|by|for|from|with|without|near|under|over|above|below|behind|beside|between|next|left|right|is|are"
    r"|one|two|three|four|five|six|seven|eight|nine|ten",
    re.IGNORECASE,
)
"""English words that stand for no part of an image of their own."""


def prompt_words(prompt: str) -> list[str]:
    """The words of a prompt, each once, without the signs around them."""
    first: dict[str, str] = {}
    for part in prompt.split():
        if word := re.sub(r"^[\W_]+|[\W_]+$", "", part):
            first.setdefault(word.casefold(), word)
    return list(first.values())


def visible_words(names: Sequence[str]) -> list[int]:
    """Positions of the names that are more than small words; all positions where there is no other name."""
    return [k for k, name in enumerate(names) if not SMALL_WORD.fullmatch(name)] or list(range(len(names)))


PART = r"[\w\u0300-\u036f]"
"""A part of a word: letters, digits, accents."""
UNSPACED = r"[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3040-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
"""The same in scripts that join words: Thai, Lao, Burmese, Khmer, kana, Chinese characters, and Hangul with its particles."""
SIGNS = str.maketrans("\u2018\u2019\u2010\u2011", "''--")
"""Typographic quotation marks and hyphens, and the plain ones."""


def _folded(text: str) -> tuple[str, list[tuple[int, bool]]]:
    """The text as it is compared, and for each place in it, the end included, the place in `text` and whether a unit begins there.

    A unit is compared as a whole: a run of blanks and underscores, or a character with its accents.
    """
    units: list[str] = []
    for character in text:
        if units and (_continues(character) or (_is_blank(character) and _is_blank(units[-1][0]))):
            units[-1] += character
        else:
            units.append(character)
    folded, places, start = "", [], 0
    for unit in units:
        own = " " if _is_blank(unit[0]) else normalize("NFD", normalize("NFD", unit).casefold()).translate(SIGNS)
        folded += own
        places += [(start, k == 0) for k in range(len(own))]
        start += len(unit)
    return folded, [*places, (start, True)]


def _is_blank(character: str) -> bool:
    return character.isspace() or character == "_"


def _continues(character: str) -> bool:
    """Whether it belongs to the character before it: an accent, or the later parts of a decomposed syllable of Hangul."""
    return category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def _pattern(name: str) -> str:
    """Finds a name, as `_folded` gives it, where it is no part of a longer word; a name that ends in a sign has no plural."""
    first, last = (bool(re.match(PART, edge)) and not re.match(UNSPACED, edge) for edge in (name[0], name[-1]))
    begin = rf"(?:(?<!{PART})|(?<={UNSPACED}))" if first else ""
    end = rf"(?:s|es)?(?:(?!{PART})|(?={UNSPACED}))" if last else ""
    return begin + re.escape(name) + end


def token_sets(condition: TextCondition, row: int, prompt: Prompt) -> list[list[int]]:
    """Token positions of each class of a prompt: every piece of every mention.

    Positions come from the tokenizer's character offsets, so names that share a sub-word or repeat a word stay apart.
    """
    sets = []
    for k, spans in zip(prompt.classes, prompt.spans, strict=True):
        tokens = sorted({token for start, end in spans for token in condition.tokens_between(row, start, end)})
        if not tokens:
            raise UserError(f"class {k} of the prompt '{prompt.text[:60]}' became no token: give it a name the tokenizer knows.")
        sets.append(tokens)
    return sets


def pool_words(maps: Tensor, grid: tuple[int, int], condition: TextCondition, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Mean over the tokens of each class name: token maps (B, T, N) -> B tensors (classes, h, w)."""
    maps = maps.unflatten(-1, grid)
    return [
        torch.stack([maps[row, tokens].mean(dim=0) for tokens in token_sets(condition, row, prompt)])
        if prompt.classes
        else maps.new_zeros(0, *grid)
        for row, prompt in enumerate(prompts)
    ]
