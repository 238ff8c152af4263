"""How fast the page answers one person, and whether it answers many at once: `python -m speed.page`."""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image
from psutil import Process
from rich.console import Console

from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.loading import load
from seg4diff.model import Model
from speed.measure import Table, quiet, text

SIDE, REPETITIONS = 384, 7
CLIENT: dict[str, Any] = {"verbose": False, "ssl_verify": False, "httpx_kwargs": {"timeout": 120}}
"""Options of clients: they wait for a page that many ask at once, and load no certificates for each request, which takes 0.1 s."""


@dataclass(frozen=True)
class Question:
    """What somebody asks the page, and the answer.

    Attributes:
        picture: file of the picture.
        words: what to look for.
        block: block that is read.
        labels: (H, W) label map that `Model.segment` gives.
    """

    picture: Path
    words: list[str]
    block: int
    labels: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        seconds: from the upload to the picture with the masks.
        fault: what was wrong with it; "" = it was right.
    """

    seconds: float
    fault: str


def ask(client: Client, question: Question) -> Answer:
    """Masks through the page's own queue, as a browser asks for them; then the label map, which is compared pixel by pixel."""
    start, taken, fault = time.perf_counter(), float("nan"), ""
    picture, fields = handle_file(question.picture), [question.block, 0.3, 0, "expert", "none", *([True, 1] if _has_lora(client) else [])]
    try:
        client.predict(picture, question.words, "all words", *fields, api_name="/segment")
        taken = time.perf_counter() - start
        with Image.open(client.predict(picture, question.words, *fields, api_name="/labels")) as labels:
            fault = "" if np.array_equal(np.asarray(labels), question.labels) else "a label map that is not that of the model"
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return Answer(taken, fault)


def _has_lora(client: Client) -> bool:
    return any(own["props"].get("label") == "LoRA" for own in client.config["components"])


def storm(url: str, questions: Sequence[Question], users: int, seconds: float, downloads: Path) -> list[Answer]:
    """What users get who ask one question after the other, all at the same time.

    Args:
        url: address of the page.
        questions: asked in turn; each user begins with another one.
        users: how many there are.
        seconds: after this time none of them asks again; everybody asks once.
        downloads: folder of the files that they get.
    """
    end = time.monotonic() + seconds

    def user(number: int) -> list[Answer]:
        client, answers = Client(url, download_files=downloads / str(number), **CLIENT), []
        while not answers or time.monotonic() < end:
            answers.append(ask(client, questions[(number + len(answers)) % len(questions)]))
        return answers

    with ThreadPoolExecutor(users) as pool:
        return [answer for answers in pool.map(user, range(users)) for answer in answers]


def questions(model: Model, folder: Path, scenes: Sequence[int], blocks: Sequence[int], side: int = SIDE) -> list[Question]:
    """Toy scenes, each read at every one of these blocks, with the answers of the model."""
    found = []
    for index in scenes:
        scene, file = make_scene(0, "test", index, side), folder / f"scene-{index}.png"
        Image.fromarray(scene.image).save(file)
        words = [CLASS_NAMES[k] for k in np.unique(scene.mask)]
        for block in blocks:
            own: Any = model.at(block=block).segment(file, words)
            found.append(Question(file, words, block, own.labels))
    return found


@contextmanager
def serving() -> Iterator[tuple[str, Process]]:
    """Within the block `seg4diff app` serves the tiny model: its address, and its process."""
    process = subprocess.Popen([sys.executable, "-m", "seg4diff", "app", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"the page is at (\S+)", line) for line in process.stdout)), None)
        if found is None:
            raise RuntimeError("the page did not start, see above")
        yield found[1], Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def one_person(url: str, process: Process, model: Model, folder: Path) -> Table:
    """Seconds from the click to the masks, and of work of the page: of a new picture with new words, and of another block."""
    client, rows = Client(url, download_files=folder, **CLIENT), []
    asked = questions(model, folder, range(REPETITIONS), [1, 3])
    for name, own in (("first masks", asked[::2]), ("another block", asked[1::2])):
        start = busy(process)
        answers = [ask(client, question) for question in own]
        taken = [answer.seconds for answer in answers]
        rows.append({"what": name, "median": np.median(taken), "longest": max(taken), "work": (busy(process) - start) / len(answers)})
        rows[-1] |= {"wrong": sum(bool(one.fault) for one in answers)}
    columns = {"what": text, "median": seconds, "longest": seconds, "work": seconds, "wrong": text}
    return Table("page", "one person", f"{REPETITIONS} toy scenes of {SIDE} x {SIDE}, four words or so; upload included", columns, rows)


def busy(process: Process) -> float:
    """Seconds that a process has had the processors; unlike the time that passes, it does not depend on what else they do."""
    return sum(process.cpu_times()[:2])


def many(url: str, process: Process, model: Model, folder: Path, users: int, duration: float) -> Table:
    """Users at once: answers, faults, waiting, and memory of the page before, in the middle and at the end."""
    asked, rows = questions(model, folder, range(20, 24), range(8)), []
    for part in ("first half", "second half"):
        answers = storm(url, asked, users, duration / 2, folder)
        taken, faults = [answer.seconds for answer in answers], [answer.fault for answer in answers if answer.fault]
        memory = f"{process.memory_info().rss / 2**20:,.0f} MiB"
        rows.append({"what": part, "answers": len(answers), "wrong": len(faults), "median": np.median(taken), "longest": max(taken)})
        rows[-1] |= {"memory": memory, "faults": "; ".join(sorted(set(faults))[:3])}
    columns = {"what": text, "answers": text, "wrong": text, "median": seconds, "longest": seconds, "memory": text, "faults": text}
    return Table("page", f"{users} users at once", f"{len(asked)} questions in turn, {duration:g} s, one process", columns, rows)


def seconds(value: float) -> str:
    """Seconds with two digits behind the point."""
    return f"{value:.2f} s"


def main() -> None:
    """Serve the tiny model and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m speed.page", description=__doc__)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    quiet()
    model, console = load("tiny_sd3"), Console(width=140)
    with TemporaryDirectory() as folder, serving() as (url, process):
        one_person(url, process, model, Path(folder)).print(console)
        many(url, process, model, Path(folder), arguments.users, arguments.seconds).print(console)


if __name__ == "__main__":
    main()
