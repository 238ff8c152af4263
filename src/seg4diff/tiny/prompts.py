"""Prompts of the toy world with known answers, in the words and sentences of its captions.

Captions count to two, name brightness and size with one adjective, and place a thing in the image ("on the left"), never beside another
thing: more than that means nothing to a model that has read them, so it is not asked.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seg4diff.data.toyworld.captions import NUMBERS, PLACES, SHADES, SIZES
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS, Thing
from seg4diff.errors import UserError


@dataclass(frozen=True)
class Asked:
    """One noun of a prompt.

    Attributes:
        name: the noun.
        count: how many the prompt asks for; None = it does not say (a bare list).
        shade: "dark", "bright" or None.
        size: "small", "large" or None.
        place: one of `PLACES` or None.
    """

    name: str
    count: int | None = 1
    shade: str | None = None
    size: str | None = None
    place: str | None = None

    def phrase(self) -> str:
        """The noun phrase; the bare noun where nothing is counted."""
        if self.count is None:
            return self.name
        if self.count > 1:
            return f"{NUMBERS[self.count]} {next(thing.plural for thing in THINGS if thing.name == self.name)}"
        words = " ".join(word for word in (self.shade, self.size, self.name) if word)
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}" + (f" {self.place}" if self.place else "")


@dataclass(frozen=True)
class ToyPrompt:
    """A prompt and what its image must show.

    Attributes:
        kind: one of `KINDS`.
        things: what it asks for.
        ground: noun of the background.
    """

    kind: str
    things: tuple[Asked, ...]
    ground: str

    @property
    def text(self) -> str:
        """The prompt itself."""
        phrases = [asked.phrase() for asked in self.things]
        if self.kind == "list":
            return " ".join([*phrases, self.ground])
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases) + f" on {self.ground}"


def _single(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(things[0].name)]


def _two(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(thing.name) for thing in things[:2]]


def _counting(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(things[0].name, count=2)] + ([Asked(things[1].name)] if rng.random() < 0.5 else [])


def _shade(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(thing.name, shade=SHADES[k]) for thing, k in zip(things[:2], rng.permutation(2), strict=True)]


def _size(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(thing.name, size=SIZES[k]) for thing, k in zip(things[:2], rng.permutation(2), strict=True)]


def _place(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(thing.name, place=PLACES[k]) for thing, k in zip(things[:2], rng.permutation(len(PLACES))[:2], strict=True)]


def _list(rng: np.random.Generator, things: list[Thing]) -> list[Asked]:
    return [Asked(thing.name, count=None) for thing in things[: 2 + int(rng.integers(2))]]


KINDS: dict[str, Callable[[np.random.Generator, list[Thing]], list[Asked]]] = {
    "single": _single,
    "two": _two,
    "counting": _counting,
    "shade": _shade,
    "size": _size,
    "place": _place,
    "list": _list,
}
"""What a prompt of each kind asks for, given the things in a random order."""

MOST_PROMPTS = len(KINDS) * len(THINGS) * len(STUFF)
"""Each kind has the same share, and this is all there is of the shortest."""


def held_out_prompts(count: int, seed: int) -> list[ToyPrompt]:
    """Prompts of all kinds in turn, with different texts.

    They are drawn from a stream of their own, not from the captions of any scene. Short ones ("a leaf on snow") are bound to occur among
    many captions too; what is held out is the image: nothing was drawn for it.

    Args:
        count: number of prompts, at most `MOST_PROMPTS`.
        seed: other seeds give other prompts.

    Raises:
        UserError: there are not so many different ones.
    """
    if not 1 <= count <= MOST_PROMPTS:
        raise UserError(f"the number of prompts must be in 1..{MOST_PROMPTS}, found {count}.")
    rng = np.random.default_rng((seed, 2_718_281))
    kinds, prompts = list(KINDS), dict[str, ToyPrompt]()
    while len(prompts) < count:
        kind = kinds[len(prompts) % len(kinds)]
        things = [THINGS[k] for k in rng.permutation(len(THINGS))]
        ground = str(rng.choice(list(STUFF)))
        prompt = ToyPrompt(kind, tuple(KINDS[kind](rng, things)), ground)
        prompts.setdefault(prompt.text, prompt)
    return list(prompts.values())
