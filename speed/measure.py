"""Time by interleaved pairs, memory by counting allocations, the machine, and the table."""

import argparse
import gc
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table as RichTable

from seg4diff.disk import write_json

Run = Callable[[], object]
"""One thing to measure; what it returns stays alive until its memory has been read."""


@dataclass(frozen=True)
class Settings:
    """Where and how to measure.

    Attributes:
        device: "cpu", "cuda" or "cuda:1".
        dtype: of weights and activations.
        quick: tiny sizes and one repetition: shows that everything runs, the figures mean nothing.
    """

    device: torch.device
    dtype: torch.dtype
    quick: bool


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one figure over the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = (float(quartile) for quartile in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(median, low, high)


@dataclass(frozen=True)
class Pairs:
    """Seconds of the base and of a contender; number k of both ran one right after the other."""

    base: list[float]
    contender: list[float]

    @property
    def rates(self) -> tuple[float, float]:
        """Runs per second of the base and of the contender, by the median."""
        return 1 / Spread.of(self.base).median, 1 / Spread.of(self.contender).median

    @property
    def ratio(self) -> Spread:
        """Contender / base, pair by pair: what else the machine does meanwhile slows both."""
        return Spread.of([own / base for base, own in zip(self.base, self.contender, strict=True)])


@dataclass(frozen=True)
class Memory:
    """Bytes above the state before: the most at any moment, and what still lives at the end."""

    peak: int
    kept: int


def interleave(base: Run, contenders: Mapping[str, Run], repetitions: int, device: torch.device) -> dict[str, Pairs]:
    """Time every contender beside its own runs of the base: base, contender, contender, base, base, ...

    The order within a pair alternates, so that a machine that slows down favours neither. Nothing is warmed up here: measure the
    memory first.
    """
    pairs = {name: Pairs([], []) for name in contenders}
    for repetition in range(repetitions):
        for name, contender in contenders.items():
            order = [(base, pairs[name].base), (contender, pairs[name].contender)]
            for run, seconds in order if repetition % 2 == 0 else reversed(order):
                seconds.append(time_once(run, device))
    return pairs


def time_once(run: Run, device: torch.device) -> float:
    """Seconds of one run; on CUDA between two events of the current stream."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_memory(run: Run, device: torch.device) -> Memory:
    """Bytes that one run holds at most, and at its end, above the state before it.

    On CPU every allocation and every release of torch's allocator is counted in the order in which they happen, as the profiler reports
    them: tensors, temporaries inside fused operators and scratch buffers alike, exact to the byte. Not counted is what does not pass
    through that allocator: packing buffers of the BLAS library and Python's own objects. On CUDA the caching allocator's counters
    say the same, rounded up to its blocks of 512 bytes; workspaces of cuBLAS count once they are allocated, so run once before.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = run()
        torch.cuda.synchronize(device)
        memory = Memory(torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before)
    else:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            result = run()
        memory = _replay(profile)
    del result
    return memory


def _replay(profile: torch.autograd.profiler.profile) -> Memory:
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # negative for a release; 0 for the release of what was there before the profile
        peak = max(peak, held)
    return Memory(peak, held)


def machine(settings: Settings) -> dict[str, Any]:
    """What the figures depend on, for the head of the report."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    facts = {"processor": _processor(), "cores": cores, "torch": torch.__version__, "threads": torch.get_num_threads()}
    facts["load before"] = round(os.getloadavg()[0], 2) if os.name == "posix" else None
    facts["device"] = torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else "cpu"
    return facts | {"dtype": str(settings.dtype).removeprefix("torch."), "quick": settings.quick}


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


Format = Callable[[Any], str]


def text(value: Any) -> str:
    """A name or a count."""
    return str(value)


def times(value: Spread) -> str:
    """A ratio with its quartiles."""
    return f"{value.median:.3f} ({value.low:.3f}-{value.high:.3f})"


def percent(value: float) -> str:
    """A share, with its sign."""
    return f"{100 * value:+.2f} %"


def mebibytes(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / 2**20:,.1f} MiB"


def number(value: float) -> str:
    """A figure to three digits, large ones whole."""
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


@dataclass(frozen=True)
class Table:
    """The figures of one comparison.

    Attributes:
        name: the module.
        title: what is compared.
        sizes: a sentence with everything that was chosen.
        columns: how the values of each column are printed.
        rows: values by column; a row without a value stays blank there. A row without any draws a line.
    """

    name: str
    title: str
    sizes: str
    columns: dict[str, Format]
    rows: list[dict[str, Any]]

    def print(self, console: Console) -> None:
        """Draw the table."""
        table = RichTable(title=f"{self.name}: {self.title}", caption=self.sizes, title_justify="left", caption_justify="left")
        for column, form in self.columns.items():
            table.add_column(column, justify="left" if form is text else "right")
        for row in self.rows:
            if row:
                table.add_row(*(form(row[column]) if column in row else "" for column, form in self.columns.items()))
            else:
                table.add_section()
        console.print(table)

    def figures(self) -> dict[str, Any]:
        """The same for a JSON file."""
        rows = [
            {column: asdict(value) if isinstance(value, Spread) else value for column, value in row.items()} for row in self.rows if row
        ]
        return {"name": self.name, "title": self.title, "sizes": self.sizes, "rows": rows}


def main(makers: Sequence[Callable[[Settings], Table]]) -> None:
    """Make and print tables, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m speed", description="Ratios of time and memory, measured side by side.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repetition: shows that everything runs")
    found = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=found, help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    arguments = parser.parse_args()
    if arguments.device.type == "cuda":
        torch.cuda.set_device(arguments.device)
    quiet()
    settings = Settings(arguments.device, getattr(torch, arguments.dtype), arguments.quick)
    console = Console() if Console().is_terminal else Console(width=140)
    facts = machine(settings)
    console.print(", ".join(f"{name}: {value}" for name, value in facts.items()), highlight=False)
    tables, start = [], time.perf_counter()
    for make in makers:
        began = time.perf_counter()
        tables.append(make(settings))
        tables[-1].print(console)
        console.print(f"{time.perf_counter() - began:.0f} s", highlight=False)
        if arguments.json:  # after each one, so that a run that is stopped has written what it measured
            content = {"machine": facts, "seconds": time.perf_counter() - start, "tables": [table.figures() for table in tables]}
            write_json(arguments.json, content)


def quiet() -> None:
    """Only the tables: no progress bars, no advice about files that this program itself has just written."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
