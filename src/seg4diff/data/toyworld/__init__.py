"""The toy world: captioned scenes with exact masks, drawn deterministically from (seed, split, index)."""
