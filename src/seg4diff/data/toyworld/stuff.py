"""The stuff of the toy world: textured backgrounds that fill the whole image."""

from collections.abc import Callable

import numpy as np

Painter = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, side) -> (side, side, 3) float array in [0, 255]."""


def _smooth_noise(rng: np.random.Generator, side: int, cells: tuple[int, int]) -> np.ndarray:
    """Bilinear noise in [-1, 1] with `cells` (rows, columns) of detail, shape (side, side)."""
    grid = rng.uniform(-1.0, 1.0, (cells[0] + 1, cells[1] + 1))
    rows, columns = np.linspace(0, cells[0], side, endpoint=False), np.linspace(0, cells[1], side, endpoint=False)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None], (columns - left)[None, :]
    upper = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
    lower = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
    return upper * (1 - down) + lower * down


def _tint(base: tuple[int, int, int], light: np.ndarray) -> np.ndarray:
    return np.asarray(base, dtype=np.float64)[None, None, :] + light[..., None]


def grass(rng: np.random.Generator, side: int) -> np.ndarray:
    blades = _smooth_noise(rng, side, (side // 12, side // 3))
    return _tint((88, 150, 62), 22 * blades + 8 * _smooth_noise(rng, side, (3, 3)))


def sand(rng: np.random.Generator, side: int) -> np.ndarray:
    grains = _smooth_noise(rng, side, (side // 3, side // 3))
    return _tint((222, 196, 142), 10 * grains + 9 * _smooth_noise(rng, side, (4, 4)))


def water(rng: np.random.Generator, side: int) -> np.ndarray:
    bend = 2.5 * _smooth_noise(rng, side, (4, 4))
    waves = np.sin(2 * np.pi * np.arange(side)[:, None] / (side / 7.0) + bend + rng.uniform(0, 6.28))
    return _tint((60, 128, 190), 20 * waves + 6 * _smooth_noise(rng, side, (4, 4)))


def snow(rng: np.random.Generator, side: int) -> np.ndarray:
    return _tint((226, 234, 244), 11 * _smooth_noise(rng, side, (4, 4)))


def night_sky(rng: np.random.Generator, side: int) -> np.ndarray:
    picture = _tint((26, 30, 66), 8 * _smooth_noise(rng, side, (3, 3)))
    for row, column in rng.integers(0, side - 1, (side // 5, 2)):
        picture[row : row + 2, column : column + 2] += rng.uniform(60, 150)
    return picture


STUFF: dict[str, Painter] = {
    "grass": grass,
    "sand": sand,
    "water": water,
    "snow": snow,
    "night sky": night_sky,
}
