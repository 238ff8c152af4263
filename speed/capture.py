"""What reading one joint-attention block costs at the width of SD3-medium, beside the dense second softmax of the released code."""

from functools import partial

import torch

from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import Backbone
from speed.measure import Run, Settings, Table, interleave, main, measure_memory, mebibytes, number, percent, text, times
from speed.models import TEXT_TOKENS, Inputs, Shape, dense_i2t, forward, new_backbone, new_inputs, read

SD3_BLOCKS = 24
PAIRS = {32: (15, 5), 48: (9, 3), 64: (5, 3)}
"""Pairs by image tokens along one side: of each reading, and of the slow dense reference."""

SHARE = f"of {SD3_BLOCKS} blocks"
NOTHING, DENSE, STOP = "not reading", "dense reference", "joint, stop=True"


def run(settings: Settings) -> Table:
    """Time and memory of every way to read, relative to the block's forward pass without reading."""
    pairs = {4: (1, 1)} if settings.quick else PAIRS
    shape = Shape(blocks=2, heads=2 if settings.quick else 24, head_width=64, side=max(pairs))
    backbone = new_backbone(shape, settings)
    # A model of one block that is like the others: the last block of an SD3 drops the text after its attention.
    backbone.transformer.transformer_blocks = backbone.transformer.transformer_blocks[:1]
    rows = []
    for side, counts in pairs.items():
        rows += [*_rows(backbone, new_inputs(backbone, side, settings), counts, settings), {}]
    described = ", ".join(f"{count} at {side**2} (dense: {dense})" for side, (count, dense) in pairs.items())
    return Table(
        name="capture",
        title="reading one block",
        sizes=f"One block of {shape.heads} heads x {shape.head_width} with the embeddings before it, random weights, batch 1, "
        f"{TEXT_TOKENS} text tokens, no gradient. Pairs by image tokens: {described}. time: median (quartiles) of the pairs, relative "
        f"to not reading. {SHARE}: the extra time as a share of a whole forward pass, (time - 1) / {SD3_BLOCKS}. extra memory: peak "
        f"above the peak without reading. of dense: relative to the extra memory of the dense reference. {STOP}: the block's own "
        f"attention is not run.",
        columns={
            "image tokens": text,
            "reading": text,
            "time": times,
            SHARE: percent,
            "extra memory": mebibytes,
            "of dense": percent,
            "bytes / image token": number,
        },
        rows=rows,
    )


def _readings(backbone: Backbone, inputs: Inputs) -> dict[str, Run]:
    ways = {scores: partial(i2t, scores=scores) for scores in ("logits", "text", "joint")}
    runs = {name: partial(read, backbone, inputs, [0], way) for name, way in ways.items()}
    runs[STOP] = partial(read, backbone, inputs, [0], ways["joint"], stop=True)
    return runs | {DENSE: partial(read, backbone, inputs, [0], dense_i2t)}


def _rows(backbone: Backbone, inputs: Inputs, counts: tuple[int, int], settings: Settings) -> list[dict]:
    device = settings.device
    base, readings = partial(forward, backbone, inputs), _readings(backbone, inputs)
    _check(readings, settings)
    held = {name: measure_memory(run, device).peak for name, run in {NOTHING: base, **readings}.items()}
    extra = {name: peak - held[NOTHING] for name, peak in held.items()}
    pairs = interleave(base, {name: run for name, run in readings.items() if name != DENSE}, counts[0], device)
    pairs |= interleave(base, {DENSE: readings[DENSE]}, counts[1], device)
    tokens = inputs.latents[0, 0].numel() // 4
    rows = [{"image tokens": tokens, "reading": NOTHING}]
    for name, pair in pairs.items():
        row = {"image tokens": tokens, "reading": name, "time": pair.ratio, "extra memory": extra[name]}
        if name != STOP:
            row |= {SHARE: (pair.ratio.median - 1) / SD3_BLOCKS, "of dense": extra[name] / extra[DENSE]}
            row["bytes / image token"] = extra[name] / tokens
        rows.append(row)
    return rows


def _check(readings: dict[str, Run], settings: Settings) -> None:
    """What is compared must be the same: "joint" is the dense reference, with and without the rest of the forward pass."""
    (dense,), (joint,), (stopped,) = (readings[name]() for name in (DENSE, "joint", STOP))
    tolerance = 1e-5 if settings.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(joint, dense.to(joint), atol=tolerance, rtol=100 * tolerance)
    assert torch.equal(joint, stopped), "maps of a stopped pass differ from those of a whole one"


if __name__ == "__main__":
    main([run])
