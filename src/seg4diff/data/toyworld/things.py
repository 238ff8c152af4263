"""The things of the toy world: each noun has a shape and a range of colours of its own.

A painter draws into a unit square (x to the right, y downwards, both in [0, 1]) through a `Brush`. The noun decides the look,
so that a word has something to ground to. Adjectives (dark, bright, small, large) fit every noun, so that none of them names one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Brush:
    """Draws shapes given in unit coordinates onto a square RGBA tile."""

    def __init__(self, side: int) -> None:
        self.tile = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.tile)
        self._side = side

    def _scale(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._side, y * self._side) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon(self._scale(points), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self._draw.ellipse(self._scale([(x - rx, y - ry), (x + rx, y + ry)]), fill=colour)

    def erase(self, x: float, y: float, rx: float, ry: float) -> None:
        self._draw.ellipse(self._scale([(x - rx, y - ry), (x + rx, y + ry)]), fill=(0, 0, 0, 0))

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.rectangle(self._scale([(left, top), (right, bottom)]), fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        self._draw.line(self._scale(points), fill=colour, width=max(1, round(width * self._side)), joint="curve")


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten (factor > 1) a colour."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def _ring(count: int, radius: float, centre: Point = (0.5, 0.5), turn: float = -90.0) -> list[Point]:
    angles = [math.radians(turn + 360.0 * k / count) for k in range(count)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def apple(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.36, 0.60, 0.31, 0.36, colour)
    brush.ellipse(0.64, 0.60, 0.31, 0.36, colour)
    brush.ellipse(0.30, 0.48, 0.08, 0.10, shade(colour, 1.35))
    brush.line([(0.5, 0.34), (0.55, 0.06)], 0.07, (95, 60, 30))
    brush.polygon([(0.54, 0.22), (0.68, 0.06), (0.86, 0.08), (0.74, 0.22)], (70, 140, 50))


def leaf(brush: Brush, colour: Colour) -> None:
    half = [(0.5 + 0.30 * math.sin(math.pi * t) ** 0.8, 0.02 + 0.84 * t) for t in [k / 12 for k in range(13)]]
    brush.polygon(half + [(1.0 - x, y) for x, y in reversed(half)], colour)
    vein = shade(colour, 0.6)
    brush.line([(0.5, 0.10), (0.5, 0.98)], 0.05, vein)
    for y in (0.32, 0.48, 0.64):
        brush.line([(0.32, y - 0.09), (0.5, y + 0.05), (0.68, y - 0.09)], 0.03, vein)


def brick(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0.02, 0.22, 0.98, 0.78, colour)
    brush.rectangle(0.02, 0.22, 0.98, 0.32, shade(colour, 1.25))
    for x in (0.26, 0.5, 0.74):
        brush.ellipse(x, 0.55, 0.07, 0.10, shade(colour, 0.5))


def star(brush: Brush, colour: Colour) -> None:
    outer, inner = _ring(5, 0.50, (0.5, 0.53)), _ring(5, 0.22, (0.5, 0.53), -54.0)
    brush.polygon([point for pair in zip(outer, inner, strict=True) for point in pair], colour)


def moon(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.5, 0.5, 0.48, 0.48, colour)
    brush.ellipse(0.18, 0.62, 0.06, 0.06, shade(colour, 0.8))
    brush.ellipse(0.34, 0.80, 0.05, 0.05, shade(colour, 0.8))
    brush.erase(0.76, 0.36, 0.40, 0.40)


def wheel(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.5, 0.5, 0.48, 0.48, colour)
    brush.ellipse(0.5, 0.5, 0.32, 0.32, (190, 190, 195))
    for x, y in _ring(6, 0.33):
        brush.line([(0.5, 0.5), (x, y)], 0.05, shade(colour, 1.2))
    brush.ellipse(0.5, 0.5, 0.10, 0.10, shade(colour, 1.2))


def heart(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.27, 0.32, 0.25, 0.25, colour)
    brush.ellipse(0.73, 0.32, 0.25, 0.25, colour)
    brush.polygon([(0.05, 0.43), (0.5, 0.98), (0.95, 0.43), (0.5, 0.25)], colour)


def gem(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0.02, 0.38), (0.24, 0.08), (0.76, 0.08), (0.98, 0.38), (0.5, 0.96)], colour)
    brush.polygon([(0.02, 0.38), (0.24, 0.08), (0.34, 0.38)], shade(colour, 1.3))
    brush.polygon([(0.34, 0.38), (0.5, 0.08), (0.66, 0.38)], shade(colour, 1.5))
    brush.polygon([(0.34, 0.38), (0.66, 0.38), (0.5, 0.96)], shade(colour, 0.75))


def mushroom(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0.36, 0.48), (0.64, 0.48), (0.70, 0.97), (0.30, 0.97)], (235, 222, 198))
    dome = [(0.5 - 0.48 * math.cos(math.pi * k / 24), 0.54 - 0.50 * math.sin(math.pi * k / 24)) for k in range(25)]
    brush.polygon(dome, colour)
    brush.rectangle(0.04, 0.52, 0.96, 0.57, shade(colour, 0.7))
    for x, y, r in ((0.28, 0.36, 0.09), (0.52, 0.20, 0.08), (0.72, 0.40, 0.09)):
        brush.ellipse(x, y, r, r, (250, 244, 230))


def fish(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0.62, 0.5), (0.99, 0.20), (0.99, 0.80)], shade(colour, 0.75))
    brush.ellipse(0.38, 0.5, 0.37, 0.27, colour)
    brush.polygon([(0.30, 0.26), (0.50, 0.08), (0.56, 0.30)], shade(colour, 0.75))
    brush.ellipse(0.20, 0.43, 0.06, 0.06, (250, 250, 250))
    brush.ellipse(0.19, 0.43, 0.03, 0.03, (15, 15, 15))


def flower(brush: Brush, colour: Colour) -> None:
    for x, y in _ring(6, 0.30):
        brush.ellipse(x, y, 0.19, 0.19, colour)
    brush.ellipse(0.5, 0.5, 0.17, 0.17, (245, 200, 50))


def tree(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0.42, 0.74, 0.58, 0.99, (105, 70, 40))
    for top, bottom, half in ((0.42, 0.82, 0.44), (0.22, 0.60, 0.36), (0.01, 0.38, 0.27)):
        brush.polygon([(0.5, top), (0.5 + half, bottom), (0.5 - half, bottom)], shade(colour, 1.15 - 0.5 * top))


def house(brush: Brush, colour: Colour) -> None:
    brush.rectangle(0.12, 0.44, 0.88, 0.98, (236, 222, 190))
    brush.polygon([(0.5, 0.02), (1.0, 0.48), (0.0, 0.48)], colour)
    brush.rectangle(0.42, 0.66, 0.60, 0.98, (110, 70, 45))
    brush.rectangle(0.20, 0.58, 0.34, 0.74, (120, 175, 215))
    brush.rectangle(0.68, 0.58, 0.82, 0.74, (120, 175, 215))


def cup(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.74, 0.52, 0.24, 0.24, colour)
    brush.erase(0.74, 0.52, 0.12, 0.12)
    brush.polygon([(0.06, 0.14), (0.74, 0.14), (0.68, 0.94), (0.12, 0.94)], colour)
    brush.ellipse(0.40, 0.14, 0.34, 0.09, shade(colour, 0.55))


def ball(brush: Brush, colour: Colour) -> None:
    brush.ellipse(0.5, 0.5, 0.48, 0.48, (248, 246, 240))
    brush.ellipse(0.5, 0.5, 0.24, 0.48, colour)
    brush.line([(0.02, 0.5), (0.98, 0.5)], 0.14, shade(colour, 0.7))


def traffic_cone(brush: Brush, colour: Colour) -> None:
    brush.polygon([(0.43, 0.02), (0.57, 0.02), (0.82, 0.84), (0.18, 0.84)], colour)
    brush.polygon([(0.36, 0.28), (0.64, 0.28), (0.69, 0.44), (0.31, 0.44)], (250, 250, 245))
    brush.polygon([(0.27, 0.56), (0.73, 0.56), (0.77, 0.70), (0.23, 0.70)], (250, 250, 245))
    brush.rectangle(0.04, 0.84, 0.96, 0.97, shade(colour, 0.8))


@dataclass(frozen=True)
class Thing:
    """A countable noun: its name, its plural, how it is painted, and the darkest and the brightest RGB colour it may take."""

    name: str
    plural: str
    paint: Callable[[Brush, Colour], None]
    darkest: Colour
    brightest: Colour


THINGS: tuple[Thing, ...] = (
    Thing("apple", "apples", apple, (170, 15, 25), (230, 45, 45)),
    Thing("leaf", "leaves", leaf, (150, 200, 40), (195, 235, 85)),
    Thing("brick", "bricks", brick, (135, 65, 40), (185, 100, 70)),
    Thing("star", "stars", star, (235, 195, 20), (255, 230, 80)),
    Thing("moon", "moons", moon, (235, 225, 170), (255, 248, 210)),
    Thing("wheel", "wheels", wheel, (15, 15, 20), (60, 60, 68)),
    Thing("heart", "hearts", heart, (225, 50, 120), (255, 115, 175)),
    Thing("gem", "gems", gem, (15, 165, 175), (75, 220, 225)),
    Thing("mushroom", "mushrooms", mushroom, (125, 20, 55), (180, 50, 90)),
    Thing("fish", "fishes", fish, (240, 125, 105), (255, 170, 150)),
    Thing("flower", "flowers", flower, (115, 40, 175), (165, 90, 225)),
    Thing("tree", "trees", tree, (10, 70, 40), (35, 115, 70)),
    Thing("house", "houses", house, (100, 55, 30), (145, 90, 60)),
    Thing("cup", "cups", cup, (110, 205, 160), (165, 240, 200)),
    Thing("ball", "balls", ball, (25, 55, 170), (60, 100, 225)),
    Thing("traffic cone", "traffic cones", traffic_cone, (235, 70, 10), (255, 110, 40)),
)
