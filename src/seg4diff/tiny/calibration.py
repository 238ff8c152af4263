"""What the evaluator is worth: its precision and recall on rendered scenes, whose answers are known."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from seg4diff.data.toyworld.captions import SHADES, SIZES, Placed, place_of
from seg4diff.data.toyworld.scenes import Scene
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.tiny.find import Findings, find

Change = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 -> the same image, changed."""


def blurred(image: np.ndarray) -> np.ndarray:
    """A Gaussian blur of 1.2 pixels."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.2)))


def noised(image: np.ndarray) -> np.ndarray:
    """Gaussian noise of 15 grey levels, the same for every image."""
    return (image + np.random.default_rng(0).normal(0, 15, image.shape)).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Score:
    """Right, claimed and true answers of one kind."""

    right: int
    claimed: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the claims that are right; NaN without claims."""
        return self.right / self.claimed if self.claimed else float("nan")

    @property
    def recall(self) -> float:
        """Share of what is true that is claimed; NaN where nothing is."""
        return self.right / self.true if self.true else float("nan")


def calibrate(scenes: Sequence[Scene], change: Change = lambda image: image) -> dict[str, Score]:
    """Compare what the evaluator finds with what the scenes show.

    Args:
        scenes: rendered scenes.
        change: what is done to each image first.

    Returns:
        presence: nouns in images; counting: (noun, number) in images; things: single things; ground: images;
        shade, size, place: things that are the only one of their noun and that were found; claimed is the number of those.
    """
    found = [find(change(scene.image)) for scene in scenes]
    rows: dict[str, list[tuple[Counter, Counter]]] = {"presence": [], "counting": [], "things": [], "ground": []}
    for scene, own in zip(scenes, found, strict=True):
        truth, claim = (Counter(placed.name for placed in things) for things in (scene.things, [thing.placed for thing in own.things]))
        rows["things"].append((truth, claim))
        rows["presence"].append((Counter(set(truth)), Counter(set(claim))))
        rows["counting"].append((Counter(truth.items()), Counter(claim.items())))
        rows["ground"].append((Counter(set(scene.classes) & set(STUFF)), Counter([own.ground])))
    return {name: _score(pairs) for name, pairs in rows.items()} | _words(scenes, found)


def _score(pairs: Sequence[tuple[Counter, Counter]]) -> Score:
    totals = np.array([[(truth & claim).total(), claim.total(), truth.total()] for truth, claim in pairs]).sum(axis=0)
    return Score(*(int(total) for total in totals))


def _words(scenes: Sequence[Scene], found: Sequence[Findings]) -> dict[str, Score]:
    pairs = []
    for scene, own in zip(scenes, found, strict=True):
        single = [name for name, number in Counter(placed.name for placed in scene.things).items() if number == 1]
        for truth in (placed for placed in scene.things if placed.name in single):
            pairs += [(truth, thing.placed) for thing in own.named(truth.name)[:1]]
    words: dict[str, Callable[[Placed], str]] = {
        "shade": lambda placed: SHADES[int(placed.brightness > 0.5)],
        "size": lambda placed: SIZES[int(placed.size > 0.5)],
        "place": lambda placed: place_of(*placed.centre),
    }
    return {name: Score(sum(word(truth) == word(claim) for truth, claim in pairs), len(pairs), len(pairs)) for name, word in words.items()}
