"""Memory of looking at many blocks in one pass: streamed, it is that of one block."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t, quadrant_mass
from seg4diff.attention.seam import Visit, stream
from seg4diff.backbones.base import Backbone
from speed.measure import Settings, Table, main, measure_memory, mebibytes, text
from speed.models import TEXT_TOKENS, Inputs, Shape, forward, new_backbone, new_inputs

BLOCKS = 24
FEW = 2
STREAMED, KEPT = "streamed", "kept"


def run(settings: Settings) -> Table:
    """Peak memory above that of the pass alone, for two and for all blocks."""
    shape = Shape(blocks=BLOCKS, heads=2 if settings.quick else 6, head_width=64, side=4 if settings.quick else 32)
    backbone = new_backbone(shape, settings)
    inputs = new_inputs(backbone, shape.side, settings)
    alone = measure_memory(partial(forward, backbone, inputs), settings.device).peak
    rows = []
    for reading, open_blocks in ((STREAMED, _streamed), (KEPT, capture)):
        for count in (FEW, BLOCKS):
            peak = measure_memory(partial(_look, backbone, inputs, range(count), open_blocks), settings.device).peak
            rows.append({"reading": f"{reading}, {count} blocks", "extra memory": peak - alone})
    return Table(
        name="stream",
        title="many blocks in one pass",
        sizes=f"{shape}, {shape.tokens} image and {TEXT_TOKENS} text tokens, batch 1, no gradient. {STREAMED}: maps and masses of a block "
        f"are computed as it is reached; {KEPT}: queries, keys and values are held until the end of the pass. extra "
        "memory: peak above that of the pass alone.",
        columns={"reading": text, "extra memory": mebibytes},
        rows=rows,
    )


def _streamed(backbone: Backbone, blocks: Sequence[int]) -> AbstractContextManager[None]:
    return stream(backbone, blocks, _read)


def _read(visit: Visit) -> None:
    quadrant_mass(visit.joint)
    i2t(visit.joint, "joint")


@torch.no_grad()
def _look(backbone: Backbone, inputs: Inputs, blocks: Sequence[int], open_blocks: Callable) -> None:
    with open_blocks(backbone, blocks):
        forward(backbone, inputs)


if __name__ == "__main__":
    main([run])
