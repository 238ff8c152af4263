"""A training step in several processes against one: what sharing a machine costs, and what exchanging the adapter's gradients adds."""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from seg4diff.backbones.lora import lora_weights
from speed.measure import Settings, Spread, Table, main, number, quiet, text, time_once, times
from speed.models import TEXT_TOKENS, Shape, new_backbone, new_inputs
from speed.train_step import Trainee, new_example

ALONE, APART, TOGETHER = "one", "all, gradients not exchanged", "all, gradients exchanged"
BLOCKS = ("expert", "all")
REPETITIONS = 7


def run(settings: Settings) -> Table:
    """Images per second of one process and of all, each with one thread or one device."""
    world = torch.cuda.device_count() if settings.device.type == "cuda" else 2
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (world, Path(folder), settings), nprocs=world)
        measured = json.loads((Path(folder) / "measured.json").read_text(encoding="utf-8"))
    shape = _shape(settings)
    return Table(
        name="processes",
        title=f"1 process against {world}",
        sizes=f"{shape}, {shape.tokens} image and {TEXT_TOKENS} text tokens; a training step with mask alignment, one image per process, "
        f"rank 16. Each process has one {'device' if settings.device.type == 'cuda' else 'thread'}. times the images: per second, relative "
        f"to one process, median (quartiles) of {_repetitions(settings)} rounds. gradient bytes: what each process hands over in "
        f"a step.",
        columns={"LoRA on": text, "processes": text, "images / s": number, "times the images": times, "gradient bytes": number},
        rows=[row for blocks in BLOCKS for row in [*_rows(blocks, world, **measured[blocks]), {}]],
    )


def _rows(blocks: str, world: int, seconds: dict[str, list[float]], gradients: int) -> list[dict]:
    rows = []
    for way, own in seconds.items():
        images = 1 if way == ALONE else world
        rows.append({"LoRA on": blocks, "processes": way, "images / s": images / Spread.of(own).median})
        if way != ALONE:
            ratios = [images * alone / together for alone, together in zip(seconds[ALONE], own, strict=True)]
            rows[-1] |= {"times the images": Spread.of(ratios)}
    return [*rows[:-1], rows[-1] | {"gradient bytes": gradients}]


def _shape(settings: Settings) -> Shape:
    if settings.quick:
        return Shape(blocks=3, heads=1, head_width=16, side=4)
    return Shape(blocks=24, heads=24, head_width=64, side=64) if settings.device.type == "cuda" else Shape(12, 4, 64, 24)


def _repetitions(settings: Settings) -> int:
    return 1 if settings.quick else REPETITIONS


def _work(rank: int, world: int, folder: Path, settings: Settings) -> None:
    """One of the processes; the first writes down what it measured."""
    quiet()
    on_cuda = settings.device.type == "cuda"
    torch.set_num_threads(1)
    if on_cuda:
        torch.cuda.set_device(rank)
    settings = Settings(torch.device("cuda", rank) if on_cuda else settings.device, settings.dtype, settings.quick)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("nccl" if on_cuda else "gloo", init_method=meeting, rank=rank, world_size=world)
    measured = {blocks: _measure(rank, blocks, settings) for blocks in BLOCKS}
    distributed.destroy_process_group()
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(measured), encoding="utf-8")


def _measure(rank: int, blocks: str, settings: Settings) -> dict:
    shape = _shape(settings)
    trainee = Trainee(new_backbone(shape, settings), blocks=blocks, expert=3 * shape.blocks // 8)
    loss = DistributedDataParallel(Loss(trainee, shape.side, settings), broadcast_buffers=False)
    seconds: dict[str, list[float]] = {ALONE: [], APART: [], TOGETHER: []}
    for repetition in range(_repetitions(settings) + 1):
        for way, own in seconds.items():
            distributed.barrier()
            if rank == 0 or way != ALONE:
                took = time_once(partial(_step, trainee, loss, exchange=way == TOGETHER), settings.device)
                own += [took] if repetition else []  # the first round warms up
    gradients = sum(weight.numel() * weight.element_size() for weight in lora_weights(trainee.backbone).values())
    return {"seconds": seconds, "gradients": gradients}


def _step(trainee: Trainee, loss: DistributedDataParallel, exchange: bool) -> None:
    (loss if exchange else loss.module)().backward()
    trainee.update()


class Loss(nn.Module):
    """The loss of one image as a module, which is what DistributedDataParallel wraps.

    Args:
        trainee: the model with its LoRA.
        side: image tokens along one side.
        settings: where to compute.
    """

    def __init__(self, trainee: Trainee, side: int, settings: Settings) -> None:
        super().__init__()
        self.backbone, self._trainee = trainee.backbone, trainee
        self._example, self._inputs = new_example(side, settings), new_inputs(trainee.backbone, side, settings)

    def forward(self) -> Tensor:
        return self._trainee.loss(self._example, lambda: (self._inputs.latents, self._inputs.condition), align=True)


if __name__ == "__main__":
    main([run])
