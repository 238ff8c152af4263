"""Draw figures of the documentation with the tiny model: `python docs/figures.py --lora outputs/quickstart/<time>`.

Without a LoRA only that of docs/method.md, and without its aligned row.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

import seg4diff
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.data.toyworld.stuff import STUFF
from seg4diff.data.toyworld.things import THINGS
from seg4diff.pictures import sheet

SIDE = 192
WORDS = ["flower", "traffic cone", "brick", "grass"]


def heat(values: np.ndarray) -> Image.Image:
    """A map in its own range, dark to bright."""
    values = (values - values.min()) / (values.max() - values.min())
    return Image.fromarray(colormaps["inferno"](values, bytes=True)[..., :3]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def samples(lora: Path) -> Image.Image:
    """Every thing of the toy world, drawn by the base model and with the LoRA, in two bands of eight; the first noise that comes."""
    names, grounds = [thing.name for thing in THINGS], list(STUFF)
    prompts = [f"{'an' if name[0] in 'aeiou' else 'a'} {name} on {grounds[k % len(grounds)]}" for k, name in enumerate(names)]
    images = seg4diff.load("tiny_sd3", lora=lora).generate(prompts, seeds=0, lora_scale=[0, 1], maps=False, at_once=16)
    rows = [[one.image for one in images if one.scale == scale] for scale in (0, 1)]
    return sheet([[sheet([row[k : k + 8] for row in rows], ["base", "LoRA"], prompts[k : k + 8])] for k in (0, 8)])


def main() -> None:
    """Write docs/images/method.png and, with a LoRA, samples.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path)
    lora = parser.parse_args().lora
    picture = Image.fromarray(make_scene(0, "test", 33, 384).image)
    model = seg4diff.load("tiny_sd3")
    blocks = list(model.attention(picture, " ".join(WORDS)))
    first = [picture.resize((SIDE, SIDE)), *(heat(blocks[k].map("flower").numpy()) for k in (0, model.block, 7))]
    masks = [model.segment(picture, WORDS).overlay().resize((SIDE, SIDE))]
    second = [heat(blocks[model.block].map(word).numpy()) for word in WORDS[1:]]
    titles = ["picture", "'flower', block 0", f"'flower', block {model.block}: the expert", "'flower', block 7"]
    below = [*(f"'{word}', expert" for word in WORDS[1:]), "highest word of each pixel"]
    rows = [sheet([first], (), titles), sheet([second + masks], (), below)]
    if lora is not None:
        adapted = seg4diff.load("tiny_sd3", lora=lora)
        aligned = next(iter(adapted.attention(picture, " ".join(WORDS), blocks=[adapted.block])))
        third = [heat(aligned.map(word).numpy()) for word in WORDS[1:]] + [adapted.segment(picture, WORDS).overlay().resize((SIDE, SIDE))]
        samples(lora).save(Path(__file__).parent / "images" / "samples.png", optimize=True)
        rows.append(sheet([third], (), [f"{title}, aligned" for title in below]))
    page = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for k, row in enumerate(rows):
        page.paste(row, (0, sum(earlier.height for earlier in rows[:k])))
    page.quantize(128).save(Path(__file__).parent / "images" / "method.png", optimize=True)


if __name__ == "__main__":
    main()
