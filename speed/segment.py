"""Segmentation with an early exit at the expert block against whole forward passes, and several blocks in one pass."""

from functools import partial

import torch

from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import Backbone
from speed.measure import Pairs, Run, Settings, Table, interleave, main, measure_memory, mebibytes, number, text, times
from speed.models import TEXT_TOKENS, Inputs, Shape, dense_i2t, new_backbone, new_inputs, read

EXPERT = 9
SEVERAL = (7, 8, 9)
REPETITIONS = 7

EXIT, ALL, DENSE = f"block {EXPERT}, early exit", f"block {EXPERT}, all blocks", f"block {EXPERT}, all blocks, dense reference"
ONE_PASS, PASSES = f"blocks {SEVERAL} in one pass", f"blocks {SEVERAL} in {len(SEVERAL)} passes"


def run(settings: Settings) -> Table:
    """Images per second of reading the expert, with and without the blocks behind it."""
    shape = Shape(blocks=24, heads=1, head_width=16, side=4) if settings.quick else Shape(blocks=24, heads=6, head_width=64, side=32)
    repetitions = 1 if settings.quick else REPETITIONS
    backbone = new_backbone(shape, settings)
    inputs = new_inputs(backbone, shape.side, settings)
    runs = _runs(backbone, inputs)
    _check(runs, settings)
    memory = {name: measure_memory(run, settings.device).peak for name, run in runs.items()}
    rows = []
    for base, others in ((EXIT, (ALL, DENSE)), (ONE_PASS, (PASSES,))):
        pairs = interleave(runs[base], {name: runs[name] for name in others}, repetitions, settings.device)
        rows += [*_rows(base, pairs, memory), {}]
    return Table(
        name="segment",
        title="early exit against whole passes",
        sizes=f"{shape}, {shape.tokens} image and {TEXT_TOKENS} text tokens, batch 1, scores joint; the transformer alone, without the "
        f"encoders; {repetitions} pairs. times as long: median (quartiles) of the pairs, relative to the first row of each group. The "
        f"maps of the early exit were bit-equal to those of the whole pass.",
        columns={"reading": text, "images / s": number, "times as long": times, "peak memory": mebibytes},
        rows=rows,
    )


def _runs(backbone: Backbone, inputs: Inputs) -> dict[str, Run]:
    joint = partial(i2t, scores="joint")
    one = partial(read, backbone, inputs, [EXPERT])
    return {
        EXIT: partial(one, joint, stop=True),
        ALL: partial(one, joint),
        DENSE: partial(one, dense_i2t),
        ONE_PASS: partial(read, backbone, inputs, SEVERAL, joint, stop=True),
        PASSES: lambda: [maps for block in SEVERAL for maps in read(backbone, inputs, [block], joint, stop=True)],
    }


def _rows(base: str, pairs: dict[str, Pairs], memory: dict[str, int]) -> list[dict]:
    rows = [{"reading": base, "images / s": next(iter(pairs.values())).rates[0], "peak memory": memory[base]}]
    for name, pair in pairs.items():
        rows.append({"reading": name, "images / s": pair.rates[1], "times as long": pair.ratio, "peak memory": memory[name]})
    return rows


def _check(runs: dict[str, Run], settings: Settings) -> None:
    """What is compared must be the same maps."""
    (early,), (whole,), (dense,) = (runs[name]() for name in (EXIT, ALL, DENSE))
    assert torch.equal(early, whole), "maps of the early exit differ from those of the whole pass"
    tolerance = 1e-5 if settings.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(early, dense.to(early), atol=tolerance, rtol=100 * tolerance)
    for one, other in zip(runs[ONE_PASS](), runs[PASSES](), strict=True):
        assert torch.equal(one, other), "maps of several blocks in one pass differ from those of their own passes"


if __name__ == "__main__":
    main([run])
