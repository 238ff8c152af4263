"""The toy world: captioned scenes with exact masks, drawn deterministically from (seed, split, index)."""

from seg4diff.data.toyworld.scenes import CLASS_NAMES, Scene, make_scene
