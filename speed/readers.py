"""What each reader costs beside the paper's, and what refinement costs at the size of a photograph."""

from collections.abc import Mapping
from functools import partial

import torch

from seg4diff.backbones.base import Backbone
from seg4diff.segmentation.prompts import list_names
from seg4diff.segmentation.readers.aggregated import Aggregated
from seg4diff.segmentation.readers.base import Pass, Reader
from seg4diff.segmentation.readers.bounce import Bounce
from seg4diff.segmentation.readers.concepts import Concepts
from seg4diff.segmentation.readers.expert import Expert
from seg4diff.segmentation.readers.propagated import Propagated
from seg4diff.segmentation.readers.t2i import TextToImage
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.refine import Guided, PixelAdaptive, Refiner
from speed.measure import Settings, Table, interleave, main, measure_memory, mebibytes, number, text, time_once, times
from speed.models import TEXT_TOKENS, WORDS, Inputs, Shape, new_backbone, new_inputs

EXPERT, LATER = 9, 12
REPETITIONS = 7
BASE = "expert"
SIDE, CLASSES = 1024, 20


def run(settings: Settings) -> Table:
    """Time and memory of the readers of one block, each with its early exit."""
    shape = Shape(blocks=24, heads=1, head_width=16, side=4) if settings.quick else Shape(blocks=24, heads=6, head_width=64, side=32)
    readers = {
        BASE: Expert(),
        "t2i": TextToImage(),
        "propagated": Propagated(),
        f"propagated, block {LATER}": Propagated(block=LATER),
        "bounce": Bounce(),
        "concepts": Concepts(),
        "aggregated": Aggregated(),
    }
    rows = _rows(shape, readers, 1 if settings.quick else REPETITIONS, settings)
    large = Shape(blocks=24, heads=1, head_width=16, side=8) if settings.quick else Shape(blocks=24, heads=6, head_width=64, side=64)
    rows += [{}, *_rows(large, {BASE: Expert(), "propagated": Propagated()}, 1 if settings.quick else 3, settings)]
    return Table(
        name="readers",
        title="readers beside the expert",
        sizes=f"{shape}, {TEXT_TOKENS} text tokens, {len(WORDS)} names, batch 1, block {EXPERT}; the transformer and the reading, without "
        f"the encoders. times as long: median (quartiles) of pairs, relative to the expert with early exit at the same number of tokens.",
        columns={"reader": text, "image tokens": text, "times as long": times, "peak memory": mebibytes},
        rows=rows,
    )


def _rows(shape: Shape, readers: Mapping[str, Reader], repetitions: int, settings: Settings) -> list[dict]:
    backbone = new_backbone(shape, settings)
    inputs = new_inputs(backbone, shape.side, settings)
    runs = {name: partial(_read, backbone, inputs, shape.side, reader) for name, reader in readers.items()}
    memory = {name: measure_memory(own, settings.device).peak for name, own in runs.items()}
    pairs = interleave(runs[BASE], {name: own for name, own in runs.items() if name != BASE}, repetitions, settings.device)
    rows = {name: {"reader": name, "image tokens": str(shape.tokens), "peak memory": memory[name]} for name in runs}
    for name, pair in pairs.items():
        rows[name]["times as long"] = pair.ratio
    return list(rows.values())


@torch.no_grad()
def _read(backbone: Backbone, inputs: Inputs, side: int, reader: Reader) -> list:
    readout = Readout(sigma=0.5, scores="joint", normalisation="minmax", seed=0)
    prompt = list_names(WORDS, range(len(WORDS)))
    one = Pass(backbone, inputs.latents, inputs.sigma, inputs.condition, [prompt], (side, side), readout.token_maps)
    return list(reader.read(one, [EXPERT]))


def refine(settings: Settings) -> Table:
    """Seconds of refining one picture."""
    side, classes = (32, 3) if settings.quick else (SIDE, CLASSES)
    generator = torch.Generator().manual_seed(0)
    maps, picture = (torch.rand(channels, side, side, generator=generator).to(settings.device) for channels in (classes, 3))
    refiners: dict[str, Refiner] = {"pamr": PixelAdaptive(), "guided": Guided(), "guided, every pixel": Guided(subsample=1)}
    rows = []
    for name, refiner in refiners.items():
        peak = measure_memory(partial(refiner, maps, picture), settings.device).peak
        rows.append({"refine": name, "seconds": time_once(partial(refiner, maps, picture), settings.device), "peak memory": peak})
    return Table(
        name="refine",
        title="refinement of one picture",
        sizes=f"{side} x {side} pixels, {classes} classes, float32.",
        columns={"refine": text, "seconds": number, "peak memory": mebibytes},
        rows=rows,
    )


if __name__ == "__main__":
    main([run, refine])
