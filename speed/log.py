"""Measurements written as they come, and a run that ends in time."""

import gc
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from speed.measure import number


class TimeIsUpError(BaseException):
    """The seconds that were given are over; no handler of errors takes it for one."""


@dataclass
class Log:
    """Measurements as they come: lines on the terminal, and lines of JSON in a file, each written at once."""

    path: Path | None
    console: Console
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self, **row: Any) -> None:
        """Add a measurement."""
        row = self.facts | row
        self.rows.append(row)
        self.console.print(", ".join(f"{key}: {_short(value)}" for key, value in row.items()), highlight=False, soft_wrap=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    @contextmanager
    def attempt(self, what: str, **about: Any) -> Iterator[None]:
        """Go on after an error, which is a finding: a card that is too small says so here."""
        try:
            yield
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            self.write(what=what, **about, failed=f"{type(error).__name__}: {reason}"[:300])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def ending_after(seconds: float | None, log: Log) -> Iterator[None]:
    """Leave the context after so many seconds, by a signal; None = never."""

    def ring(*_: Any) -> None:
        raise TimeIsUpError

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeIsUpError:
        log.write(what="stopped", reason=f"{seconds:g} seconds are over")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _short(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
