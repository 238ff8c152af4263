"""A model at its published size with random weights on this machine: time and memory before anything is downloaded.

python -m speed.dry_run backbone=sd3_medium
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.pipeline import PipelineBackbone
from seg4diff.backbones.runtime import Runtime, choose_dtype
from seg4diff.data.geometry import Window
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.prompts import list_names, pool_words
from seg4diff.segmentation.readout import Readout
from speed import counts
from speed.forecast import segment_bytes
from speed.log import Log, ending_after
from speed.measure import Run, Settings, Table, interleave, machine, measure_memory, number, quiet, text, time_once
from speed.models import WORDS, dense_i2t, dense_logits
from speed.published import build, read_config, read_facts
from speed.train_step import LOGITS, Example, Trainee, new_example

PAIRS = 5
"""Pairs on an accelerator; a CPU takes minutes for one, so one is what it gets."""
QUICK_EXPERT = 1
OURS, RELEASE = "this package", "the release's way"
"""Early exit and maps of the words alone, against all blocks and a second, dense softmax over all pairs of tokens."""


@dataclass(frozen=True)
class Case:
    """What is measured: a model, images of one size, a device."""

    backbone: PipelineBackbone
    config: DictConfig
    expert: int
    readout: Readout
    example: Example
    settings: Settings

    @property
    def batch(self) -> int:
        """Images at once."""
        return len(self.example.image)

    @torch.no_grad()
    def segment(self, release: bool) -> Tensor:
        """Label maps (B, H, W) of images: encode them and the prompt, read, upsample, argmax."""
        noisy, sigma = self.readout.noisy(self.backbone, self.example.image, range(self.batch))
        prompt = list_names(WORDS, range(len(WORDS)))
        condition = self.backbone.encode_text([prompt.text] * self.batch)
        maps = self.read(noisy, sigma, condition, release)
        side = self.example.side
        grid, frame = self.backbone.token_grid(side, side), Frame((side, side), Window(0, 0, side, side), (side, side))
        pooled = pool_words(maps, grid, condition, [prompt] * self.batch)
        return torch.stack([self.readout.segment(own, prompt.classes, frame) for own in pooled])

    @torch.no_grad()
    def read(self, noisy: Tensor, sigma: Tensor, condition: TextCondition, release: bool, stop: bool = True) -> Tensor:
        """Maps (B, T, N) of the expert in one pass of the transformer."""
        with capture(self.backbone, [self.expert], stop=stop and not release) as record:
            self.backbone.predict_velocity(noisy, sigma, condition)
        return dense_i2t(record[self.expert]) if release else i2t(record[self.expert], self.readout.scores)

    def autocast(self) -> AbstractContextManager:
        """What training in mixed precision runs under."""
        dtype = self.settings.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.settings.device.type, dtype=dtype)


def measure(case: Case, log: Log) -> None:
    """Every measurement of a case."""
    log.facts |= {"side": case.example.side, "batch": case.batch}
    with log.attempt("segment"):
        labels = [case.segment(release) for release in (False, True)]
        log.write(what="labels that differ", share=float((labels[0] != labels[1]).float().mean()))
        compare("segment, end to end", {OURS: partial(case.segment, False), RELEASE: partial(case.segment, True)}, case, log)
    with log.attempt("read"), torch.no_grad():
        noisy, sigma = case.readout.noisy(case.backbone, case.example.image, range(case.batch))
        halves = 2 if case.backbone.guides_in_one_pass else 1
        conditions = case.backbone.encode_text([" ".join(WORDS)] * case.batch * halves)
        condition = conditions[: case.batch]
        one = partial(case.read, noisy, sigma, condition)
        runs = {OURS: partial(one, False), "all blocks": partial(one, False, stop=False), RELEASE: partial(one, True)}
        compare("read", runs, case, log)
        step = partial(case.backbone.predict_velocity, noisy.repeat(halves, 1, 1, 1), sigma.repeat(halves), conditions)
        compare("pass of a sampling step", {OURS: step}, case, log)


def measure_training(case: Case, trainee: Trainee, log: Log) -> None:
    """A training step of the recipe on cached encodings."""
    log.facts |= {"side": case.example.side, "batch": case.batch}
    with log.attempt("train"):
        encoded = case.example.encode(case.backbone)

        def step(reading: Callable) -> None:
            with case.autocast():
                loss = trainee.loss(case.example, lambda: encoded, align=True, reading=reading)
            loss.backward()
            trainee.update()

        compare("training step", {OURS: partial(step, LOGITS), RELEASE: partial(step, dense_logits)}, case, log)


def compare(what: str, runs: dict[str, Run], case: Case, log: Log) -> None:
    """Time and memory of each way; the others beside the first, pair by pair. One that fails does not stop the others."""
    device, memory = case.settings.device, {}
    for way, run in runs.items():
        with log.attempt(f"{what}, {way}"):
            if device.type == "cuda":
                run()  # loads kernels, and workspaces of cuBLAS
            memory[way] = measure_memory(run, device).peak
    base, *others = [way for way in runs if way in memory] or [None]
    if base is None:
        return
    count = PAIRS if device.type == "cuda" and not case.settings.quick else 1
    if not others:
        seconds = sorted(time_once(runs[base], device) for _ in range(count))
        log.write(what=what, way=base, **_rate(seconds[len(seconds) // 2], memory[base], case))
        return
    for way, pairs in interleave(runs[base], {way: runs[way] for way in others}, count, device).items():
        if way == others[0]:
            log.write(what=what, way=base, **_rate(1 / pairs.rates[0], memory[base], case))
        ratio = pairs.ratio
        log.write(what=what, way=way, **_rate(1 / pairs.rates[1], memory[way], case), times=ratio.median, low=ratio.low, high=ratio.high)


def _rate(seconds: float, peak: int, case: Case) -> dict[str, float]:
    held = weights_bytes(case.backbone)
    return {"seconds": seconds, "images/s": case.batch / seconds, "GiB": peak / 2**30, "GiB with weights": (peak + held) / 2**30}


def free_bytes(device: torch.device) -> int:
    """Memory of the device that is free now; on the CPU, that of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def weights_bytes(backbone: PipelineBackbone) -> int:
    """Bytes of all weights: transformer, autoencoder, text encoders."""
    return sum(weight.numel() * weight.element_size() for weight in backbone.parameters())


def expect(facts: dict[str, Any], sides: Sequence[int], settings: Settings, log: Log) -> None:
    """Say in advance how long an image takes: counted work by the speed of a matrix product. Counts are those of SD3."""
    width = facts["transformer"].get("caption_projection_dim")
    if facts["transformer"].get("qk_norm") or width is None or settings.quick:
        return
    ones = torch.ones(2048, 2048, device=settings.device, dtype=settings.dtype)
    product = partial(torch.mm, ones, ones)
    product()
    rate = 2 * 2048**3 / min(time_once(product, settings.device) for _ in range(3))
    for side in sides:
        layers = facts["transformer"]["num_layers"]
        size = counts.Size(image_tokens=(side // counts.PIXELS) ** 2, width=width, blocks=layers, expert=min(9, layers - 1))
        encode = counts.encode_image(side) + counts.encode_text()
        work = {"segment": encode + counts.segment(size), "training step": counts.train(size)}
        log.write(what="expected", side=side, **{f"{name}, minutes": flops / rate / 60 for name, flops in work.items()})


def run(name: str, options: argparse.Namespace, log: Log) -> None:
    """Build one model and measure it."""
    config, facts = read_config(name), read_facts(name, options.quick)
    dtype = choose_dtype(config.backbone.dtype, options.device.type) if options.dtype == "auto" else options.dtype
    settings = Settings(options.device, getattr(torch, dtype), options.quick)
    log.facts = {"backbone": name, "dtype": dtype, "compile": options.compile}
    expect(facts, options.sizes, settings, log)
    start = time.perf_counter()
    with torch.inference_mode(False):
        backbone = build(config, facts, options.device, Runtime(dtype=dtype, compile=options.compile))
    if options.device.type == "cuda":
        torch.cuda.synchronize(options.device)
    count = sum(weight.numel() for weight in backbone.transformer.parameters())
    built = {"parameters": count, "blocks": len(backbone.attention_sites()), "seconds": time.perf_counter() - start}
    log.write(what="built", **built, GiB=weights_bytes(backbone) / 2**30)
    room = free_bytes(options.device) + weights_bytes(backbone)
    for side in options.sizes:
        with log.attempt("forecast", side=side):
            needed = segment_bytes(backbone, facts, side, settings.dtype)
            log.write(what="forecast", side=side, **{"GiB to segment": needed / 2**30, "GiB here": room / 2**30, "fits": needed < room})
    expert = QUICK_EXPERT if options.quick else config.backbone.expert_layer
    readout = instantiate(config.backbone.readout)
    cases = []
    for batch in options.batches:
        for side in options.sizes:
            example = new_example(side // counts.PIXELS, settings, batch)
            cases.append(Case(backbone, config, expert, readout, example, settings))
    for case in cases:
        measure(case, log)
    trainee = Trainee(backbone, "expert", expert, config.lora.rank, list(config.lora.targets))
    for case in cases:
        measure_training(case, trainee, log)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m speed.dry_run", description=__doc__)
    parser.add_argument("backbone", type=_names, help="backbone=<a file of conf/backbone>, or several: backbone=sd3_medium,flux1_dev")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="pixels along one side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="images at once")
    found = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=found, help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: that of the model")
    parser.add_argument("--compile", action="store_true", help="run the blocks through torch.compile")
    parser.add_argument("--seconds", type=float, help="end after so many seconds, with what was measured by then")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write each measurement to this file as a line of JSON")
    parser.add_argument("--quick", action="store_true", help="tiny widths and three blocks: shows that everything runs")
    options = parser.parse_args(arguments)
    if options.device.type == "cuda":
        torch.cuda.set_device(options.device.index or 0)  # it takes no device without a number
    quiet()
    log = Log(options.json, Console() if Console().is_terminal else Console(width=140))
    log.write(**machine(Settings(options.device, torch.float32, options.quick)))
    start = time.perf_counter()
    with ending_after(options.seconds, log):
        for name in options.backbone:
            with log.attempt(name):
                run(name, options, log)
    log.facts = {}
    log.write(what="end", seconds=time.perf_counter() - start)
    table(log.rows).print(log.console)


def table(rows: list[dict[str, Any]]) -> Table:
    """What was measured, to be read."""
    columns = {"backbone": text, "compile": text, "side": text, "batch": text, "what": text, "way": text, "seconds": number}
    columns |= {"images/s": number, "GiB with weights": number, "times": number, "failed": text}
    shown = [{key: value for key, value in row.items() if key in columns} for row in rows if "images/s" in row or "failed" in row]
    return Table(
        name="dry_run",
        title="published size, random weights",
        sizes=f"times: how many times as long as {OURS}, median of pairs. GiB with weights: peak, with transformer, autoencoder and text "
        "encoders. segment: pictures and prompt are encoded, the expert is read, labels are made. read: the transformer alone. "
        "training step: on cached encodings, LoRA on the expert, flow matching and mask alignment, AdamW.",
        columns=columns,
        rows=shown,
    )


def _names(argument: str) -> list[str]:
    key, _, names = argument.partition("=")
    if key != "backbone" or not names:
        raise argparse.ArgumentTypeError(f"expected backbone=<name>, found '{argument}'")
    return names.split(",")


if __name__ == "__main__":
    main()
