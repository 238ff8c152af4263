"""A small grammar that says what a scene shows; some captions are bare lists of nouns, as the prompts of segmentation are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seg4diff.data.toyworld.things import THINGS
from seg4diff.data.vocabularies import vocabulary_words

NUMBERS = {2: "two", 3: "three", 4: "four"}
SIZES = ("small", "large")
SHADES = ("dark", "bright")
PLACES = ("at the top", "at the bottom", "on the left", "on the right", "in the middle")
LIST_SHARE = 0.4
"""Share of captions that are bare lists of nouns."""
ADJECTIVE_SHARE = 0.3
PLACE_SHARE = 0.2
_PLURALS = {thing.name: thing.plural for thing in THINGS}


@dataclass(frozen=True)
class Placed:
    """A thing in a scene, as far as words can tell.

    Attributes:
        name: its noun.
        brightness: 0 = the darkest colour of its noun, 1 = the brightest.
        size: 0 = the smallest, 1 = the largest.
        centre: (x, y) in [0, 1], y downwards.
    """

    name: str
    brightness: float
    size: float
    centre: tuple[float, float]


def lexicon(vocabularies: Sequence[str] = (), extra: Sequence[str] = ()) -> list[str]:
    """Every word a caption can contain, then those of the named vocabulary files, then `extra`; each once, in a fixed order."""
    words = [word for thing in THINGS for name in (thing.name, thing.plural) for word in name.split()]
    words += ["grass", "sand", "water", "snow", "night", "sky", *SHADES, *SIZES, *NUMBERS.values()]
    words += ["a", "an", "on", "the", "and", "at", "in", "top", "bottom", "left", "right", "middle"]
    return list(dict.fromkeys([*words, *vocabulary_words(*vocabularies), *extra]))


def write_caption(rng: np.random.Generator, stuff: str, things: Sequence[Placed]) -> str:
    """Describe a scene.

    Args:
        rng: source of the wording.
        stuff: name of the background.
        things: what stands on it.
    """
    names = list(dict.fromkeys(thing.name for thing in things))
    if rng.random() < LIST_SHARE:
        words = [*names, stuff]
        return " ".join(words[k] for k in rng.permutation(len(words)))
    counts = Counter(thing.name for thing in things)
    phrases = []
    for k in rng.permutation(len(names)):
        name = names[k]
        if counts[name] > 1:
            phrases.append(f"{NUMBERS[counts[name]]} {_PLURALS[name]}")
        else:
            phrases.append(_noun_phrase(rng, next(thing for thing in things if thing.name == name)))
    listing = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return f"{listing} {rng.choice(['on', 'on the', 'and'])} {stuff}"


def _noun_phrase(rng: np.random.Generator, thing: Placed) -> str:
    adjectives = []
    if rng.random() < ADJECTIVE_SHARE:
        adjectives.append(SIZES[int(thing.size > 0.5)] if rng.random() < 0.5 else SHADES[int(thing.brightness > 0.5)])
    phrase = " ".join([*adjectives, thing.name])
    phrase = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    return f"{phrase} {place_of(*thing.centre)}" if rng.random() < PLACE_SHARE else phrase


def place_of(x: float, y: float) -> str:
    """The words for a place in the image; x and y in [0, 1], y downwards."""
    away = {"on the left": 0.5 - x, "on the right": x - 0.5, "at the top": 0.5 - y, "at the bottom": y - 0.5}
    place, distance = max(away.items(), key=lambda item: item[1])
    return place if distance > 0.12 else "in the middle"
