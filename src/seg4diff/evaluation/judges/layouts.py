"""Folders of generated images as benchmarks lay them out: where each image goes, and which prompt an image belongs to."""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg4diff.data.files import first_few, parse_json, read_text
from seg4diff.disk import write_text
from seg4diff.errors import MissingFileError, UserError
from seg4diff.evaluation.judges.geneval import Requirements

LONGEST_PROMPT = 220
"""Bytes of a prompt in a file's name: file systems take 255, and the name under which a file is written is longer than its own."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a benchmark.

    Attributes:
        index: its number in the benchmark's file.
        text: the prompt itself, which tells it from others, also in another folder.
        group: task or category; "" = the benchmark has none.
        metadata: the line of the benchmark's file, where that is JSON.
    """

    index: int
    text: str
    group: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """An image of a prompt, drawn or to be drawn.

    Attributes:
        prompt: its prompt.
        number: what tells it from the other images of the prompt, also in another folder.
        path: its file.
    """

    prompt: Prompt
    number: int
    path: Path


class Layout(ABC):
    """How a benchmark names the files of images."""

    @abstractmethod
    def read_prompts(self, file: Path) -> list[Prompt]:
        """The prompts of the benchmark's own file. Raises UserError for a file of another form."""

    @abstractmethod
    def samples(self, folder: Path, prompts: Sequence[Prompt], count: int) -> list[Sample]:
        """Where `count` images of each prompt go, prompt after prompt. Raises UserError for prompts that the layout cannot hold."""

    @abstractmethod
    def write_index(self, folder: Path, samples: Sequence[Sample]) -> None:
        """Write what the benchmark's judge reads beside the images."""

    @abstractmethod
    def read(self, folder: Path) -> list[Sample]:
        """The images of a folder in this layout, whoever made it, in the order of their prompts. Raises UserError if there are none."""


class GenEval(Layout):
    """`<folder>/00000/metadata.jsonl` and `<folder>/00000/samples/00000.png` (djghosh13/geneval)."""

    def read_prompts(self, file: Path) -> list[Prompt]:
        return _distinct([self._prompt(index, row) for index, row in enumerate(_rows(file))], file)

    def _prompt(self, index: int, row: dict[str, Any]) -> Prompt:
        return Prompt(index, row["prompt"], Requirements.of(row).task, row)

    def samples(self, folder: Path, prompts: Sequence[Prompt], count: int) -> list[Sample]:
        return [
            Sample(prompt, number, folder / f"{prompt.index:05}" / "samples" / f"{number:05}.png")
            for prompt in prompts
            for number in range(count)
        ]

    def write_index(self, folder: Path, samples: Sequence[Sample]) -> None:
        for prompt in {sample.prompt.index: sample.prompt for sample in samples}.values():
            write_text(folder / f"{prompt.index:05}" / "metadata.jsonl", json.dumps(prompt.metadata))

    def read(self, folder: Path) -> list[Sample]:
        found = []
        for own in sorted((own for own in _listed(folder) if own.is_dir() and own.name.isdigit()), key=lambda own: int(own.name)):
            metadata = own / "metadata.jsonl"
            prompt = self._prompt(int(own.name), _row(_text(metadata), str(metadata)))
            images = sorted(file for file in _listed(own / "samples") if re.fullmatch(r"\d+\.png", file.name))
            found += [Sample(prompt, int(file.stem), file) for file in images]
        return _some(found, folder, "00000/samples/00000.png")


class GenEval2(Layout):
    """JSON files {prompt: image file}, one for each image number, beside the benchmark's `geneval2_data.jsonl` (facebookresearch/GenEval2).

    The judge takes one such file and one image for each prompt. Paths are absolute, since it runs in a folder of its own.
    """

    data = "geneval2_data.jsonl"

    def read_prompts(self, file: Path) -> list[Prompt]:
        return _distinct(
            [Prompt(k, row["prompt"], f"{row['atom_count']} atoms", row) for k, row in enumerate(_rows(file, "atom_count"))], file
        )

    def samples(self, folder: Path, prompts: Sequence[Prompt], count: int) -> list[Sample]:
        return [Sample(prompt, number, self._image(folder, prompt.index, number)) for prompt in prompts for number in range(count)]

    def write_index(self, folder: Path, samples: Sequence[Sample]) -> None:
        lines = {sample.prompt.index: json.dumps(sample.prompt.metadata) + "\n" for sample in samples}
        write_text(folder / self.data, "".join(lines.values()))
        paths: dict[int, dict[str, str]] = defaultdict(dict)
        for sample in samples:
            paths[sample.number][sample.prompt.text] = str(sample.path.resolve())
        for number, own in paths.items():
            write_text(folder / f"image_paths_{number:05}.json", json.dumps(own, indent=2))

    def read(self, folder: Path) -> list[Sample]:
        prompts = {prompt.text: prompt for prompt in self.read_prompts(folder / self.data)}
        found = {}  # by prompt and number: image_paths.json and image_paths_00000.json may name the same image
        for file in sorted(folder.glob("image_paths*.json")):
            number = int("".join(filter(str.isdigit, file.stem)) or 0)
            for text, path in self._paths(file).items():
                if text not in prompts:
                    raise UserError(f"{file} has an image of a prompt that is not in {self.data}: '{text}'; both must be of one version.")
                index = prompts[text].index
                image = folder / path if (folder / path).is_file() else self._image(folder, index, number)  # the folder may have been moved
                if image.is_file():
                    found[index, number] = Sample(prompts[text], number, image)
        return _some([found[key] for key in sorted(found)], folder, "image_paths_00000.json")

    def _image(self, folder: Path, index: int, number: int) -> Path:
        return folder / "images" / f"{number:05}" / f"{index:05}.png"

    def _paths(self, file: Path) -> dict[str, str]:
        try:
            content = parse_json(_text(file))
        except ValueError:
            content = None
        if not isinstance(content, dict) or not all(isinstance(path, str) for path in content.values()):
            raise UserError(f"{file} must be a JSON object of prompts and files of images.")
        return content


class CompBench(Layout):
    """`<folder>/samples/<prompt>_000000.png`, numbered over all prompts (Karine-Huang/T2I-CompBench, also ++), one folder for a category.

    Its judges sort images by number and read prompts from file names. The one for "complex" needs ten images of each prompt.
    """

    def read_prompts(self, file: Path) -> list[Prompt]:
        texts = [line.split("\t")[0].strip() for line in _text(file).split("\n")]
        prompts = [Prompt(index, text, "", {}) for index, text in enumerate(text for text in texts if text)]
        if not prompts:
            raise UserError(f"{file} holds no prompt: take a file of the benchmark's examples/dataset, with a prompt on each line.")
        return _distinct(prompts, file)

    def samples(self, folder: Path, prompts: Sequence[Prompt], count: int) -> list[Sample]:
        for prompt in prompts:
            if "_" in prompt.text or "/" in prompt.text or len(prompt.text.encode()) > LONGEST_PROMPT:
                raise UserError(
                    "in this layout the prompt is part of the file's name, so it has no underscore, no slash and at most "
                    f"{LONGEST_PROMPT} bytes, found '{prompt.text}': shorten or reword it."
                )
        numbered = enumerate(prompt for prompt in prompts for _ in range(count))
        return [Sample(prompt, number, folder / "samples" / f"{prompt.text}_{number:06}.png") for number, prompt in numbered]

    def write_index(self, folder: Path, samples: Sequence[Sample]) -> None:
        """There is none: the names say everything."""

    def read(self, folder: Path) -> list[Sample]:
        named = [match for file in _listed(folder / "samples") if (match := re.fullmatch(r"([^_]+)_(\d+)\.\w+", file.name))]
        prompts: dict[str, Prompt] = {}
        found = []
        for match in sorted(named, key=lambda match: int(match[2])):
            prompt = prompts.setdefault(match[1], Prompt(len(prompts), match[1], "", {}))
            found.append(Sample(prompt, int(match[2]), folder / "samples" / match[0]))
        return _some(found, folder, "samples/<prompt>_000000.png")


LAYOUTS: dict[str, Layout] = {"geneval": GenEval(), "geneval2": GenEval2(), "compbench": CompBench()}


def layout_of(name: str) -> Layout:
    """The layout of a benchmark. Raises UserError for one that is not known."""
    if name not in LAYOUTS:
        raise UserError(f"there is no layout '{name}': choose {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def _rows(file: Path, *keys: str) -> list[dict[str, Any]]:
    """The JSON objects of a file with one on each line."""
    return [_row(line, f"line {number} of {file}", *keys) for number, line in enumerate(_text(file).rstrip().split("\n"), start=1)]


def _row(text: str, name: str, *keys: str) -> dict[str, Any]:
    """A JSON object with a prompt and these keys."""
    try:
        row = parse_json(text)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"] or not row.keys() >= set(keys):
        raise UserError(f"{name} must be a JSON object with {' and '.join(('prompt', *keys))}, found '{text[:80]}'.")
    return row


def _text(file: Path) -> str:
    if not file.is_file():
        raise MissingFileError(f"there is no file {file}.")
    return read_text(file)


def _listed(folder: Path) -> list[Path]:
    """The files and folders of a folder, without hidden ones, sorted."""
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}.")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _some(found: list[Sample], folder: Path, example: str) -> list[Sample]:
    if not found:
        raise MissingFileError(f"{folder} holds no image in this layout: expected files such as {example}.")
    return found


def _distinct(prompts: list[Prompt], file: Path) -> list[Prompt]:
    """The prompts of a file, or UserError if one is there twice: images of two folders are paired by their prompts."""
    repeated = [text for text, times in Counter(prompt.text for prompt in prompts).items() if times > 1]
    if repeated:
        raise UserError(f"every prompt of {file} must be there once, found several times: {first_few(repeated)}; leave the others out.")
    return prompts
