"""From picture to labels at SD3-medium's proportions: with its autoencoder and with a tiny one, beside the release's way."""

from dataclasses import replace
from functools import partial

from omegaconf import DictConfig

from seg4diff.segmentation.readout import Readout
from speed.dry_run import OURS, RELEASE, Case
from speed.measure import Settings, Table, interleave, main, number, text, times
from speed.models import Shape, new_backbone
from speed.train_step import new_example

EXPERT = 9
REPETITIONS = 5
QUARTER = Shape(blocks=24, heads=6, head_width=64, side=32, vae_widths=(32, 64, 128, 128), text_tokens=38)
"""A quarter of SD3-medium's widths, and of its tokens at 1024 pixels: each part takes a 64th of its work."""
TINY = 16
"""A quarter of the channels of taesd3."""


def run(settings: Settings) -> Table:
    """Pictures per second, and the labels that differ."""
    shape = Shape(blocks=10, heads=1, head_width=16, side=4, text_tokens=38) if settings.quick else QUARTER
    full, tiny = (_case(own, settings) for own in (shape, replace(shape, tiny=TINY)))
    rows = []
    for name, case in ((OURS, full), (f"{OURS}, tiny autoencoder", tiny)):
        differ = int((case.segment(False) != case.segment(True)).sum())
        base, other = partial(case.segment, False), partial(full.segment, True)
        pairs = interleave(base, {RELEASE: other}, 1 if settings.quick else REPETITIONS, settings.device)[RELEASE]
        rows.append({"way": name, "images / s": pairs.rates[0], "labels that differ": differ})
        rows += [{"way": RELEASE, "images / s": pairs.rates[1], "times as long": pairs.ratio}, {}]
    return Table(
        name="end_to_end",
        title="from picture to labels",
        sizes=f"{shape}, {shape.tokens} image and {shape.text_tokens} text tokens, autoencoder of {shape.vae_widths} channels or "
        f"AutoencoderTiny of {TINY}, one picture of {16 * shape.side} x {16 * shape.side} pixels. {OURS}: early exit at block {EXPERT}. "
        f"{RELEASE}: the autoencoder, all blocks and a dense softmax over all pairs. times as long: median (quartiles) of pairs. "
        f"labels that differ: between both readings of the same latents, of {(16 * shape.side) ** 2:,} pixels.",
        columns={"way": text, "images / s": number, "times as long": times, "labels that differ": text},
        rows=rows,
    )


def _case(shape: Shape, settings: Settings) -> Case:
    readout = Readout(sigma=0.5, scores="joint", normalisation="none", seed=0)
    return Case(new_backbone(shape, settings), DictConfig({}), EXPERT, readout, new_example(shape.side, settings), settings)


if __name__ == "__main__":
    main([run])
