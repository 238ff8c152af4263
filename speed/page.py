"""How fast the page answers one person, and whether it answers many at once: `python -m speed.page`."""

import argparse
import socket
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
from rich.console import Console

from seg4diff.data.toyworld.scenes import CLASS_NAMES, make_scene
from seg4diff.loading import load
from seg4diff.model import Model
from speed.measure import Table, quiet, text

SIDE, REPETITIONS = 384, 7
PATIENT = {"timeout": 120}
"""Options of clients that wait for a page which many ask at once."""


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
        seconds: how long it took, with the upload and the download of the label map.
        fault: what was wrong with it; "" = it was right.
    """

    seconds: float
    fault: str


def ask(client: Client, question: Question) -> Answer:
    """One request through the page's own queue, as a browser makes it, with its answer compared pixel by pixel."""
    start, fault = time.perf_counter(), ""
    fields = [0, "expert", "none", *([True, 1] if _has_lora(client) else [])]
    try:
        picture = handle_file(question.picture)
        answer = client.predict(picture, question.words, "all words", question.block, 0.3, *fields, api_name="/segment")
        with Image.open(answer[3]["value"]) as labels:
            fault = "" if np.array_equal(np.asarray(labels), question.labels) else "a label map that is not that of the model"
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return Answer(time.perf_counter() - start, fault)


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
        client, answers = Client(url, verbose=False, download_files=downloads / str(number), httpx_kwargs=PATIENT), []
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
def serving() -> Iterator[tuple[str, int]]:
    """Within the block `seg4diff app` serves the tiny model: its address, and the id of its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "seg4diff", "app", "--port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not any("the page is at" in line for line in process.stdout):
            raise RuntimeError("the page did not start, see above")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def resident(process: int) -> float:
    """MiB of memory that a process holds; Linux alone."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def one_person(url: str, model: Model, folder: Path) -> Table:
    """Seconds from the click to the masks: of a new picture with new words, and of another block."""
    client, rows = Client(url, verbose=False, download_files=folder, httpx_kwargs=PATIENT), []
    asked = questions(model, folder, range(REPETITIONS), [1, 3])
    for name, own in (("first masks", asked[::2]), ("another block", asked[1::2])):
        answers = [ask(client, question) for question in own]
        taken = [answer.seconds for answer in answers]
        rows.append({"what": name, "median": np.median(taken), "longest": max(taken), "wrong": sum(bool(one.fault) for one in answers)})
    columns = {"what": text, "median": seconds, "longest": seconds, "wrong": text}
    return Table("page", "one person", f"{REPETITIONS} toy scenes of {SIDE} x {SIDE}, four words or so; upload included", columns, rows)


def many(url: str, process: int, model: Model, folder: Path, users: int, duration: float) -> Table:
    """Users at once: answers, faults, waiting, and memory of the page before, in the middle and at the end."""
    asked, rows = questions(model, folder, range(20, 24), range(8)), []
    for part in ("first half", "second half"):
        answers = storm(url, asked, users, duration / 2, folder)
        taken = [answer.seconds for answer in answers]
        faults = {answer.fault for answer in answers if answer.fault}
        rows.append(
            {"what": part, "answers": len(answers), "wrong": len([one for one in answers if one.fault]), "median": np.median(taken)}
        )
        rows[-1] |= {"longest": max(taken), "memory": f"{resident(process):,.0f} MiB", "faults": "; ".join(sorted(faults)[:3])}
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
        one_person(url, model, Path(folder)).print(console)
        many(url, process, model, Path(folder), arguments.users, arguments.seconds).print(console)


if __name__ == "__main__":
    main()
