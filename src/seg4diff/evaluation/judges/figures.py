"""Every figure of every image of a folder, and the folder's means beside those of another one."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from PIL import Image
from rich.progress import track

from seg4diff.data.reading import read_image
from seg4diff.evaluation.judges.geneval import Detection, Requirements, Rules, Verdict, judge
from seg4diff.evaluation.judges.layouts import Prompt, Sample
from seg4diff.evaluation.judges.scores import Estimate, Score, estimates, gains

T = TypeVar("T")
GENEVAL = "GenEval"
"""Name of the figure that is 1 where an image shows what is asked for, and 0 elsewhere."""

TextMetric = Callable[[Sequence[Image.Image], Sequence[str]], list[float]]
"""(images, the prompt of each) -> a figure for each, such as `networks.CLIPScore`."""
PairMetric = Callable[[Sequence[Image.Image], Sequence[Image.Image]], list[float]]
"""(images, the reference of each) -> a figure for each: `networks.Similarity`."""


@dataclass(frozen=True)
class GenEvalJudge:
    """`geneval.judge` with eyes.

    Attributes:
        detector: (image, classes) -> the things of these classes, such as `detector.ZeroShotDetector`.
        colours: (image, things, their class) -> the colour of each, such as `detector.ClipColours`; None = prompts with colours have no
            verdict.
        rules: thresholds.
    """

    detector: Callable[[Image.Image, Sequence[str]], Sequence[Detection]]
    colours: Callable[[Image.Image, Sequence[Detection], str], Sequence[str]] | None
    rules: Rules

    def verdict(self, image: Image.Image, prompt: Prompt) -> Verdict | None:
        """Whether the image shows what its prompt asks for; None = cannot be told without a classifier of colours."""
        required = Requirements.of(prompt.metadata)
        if required.needs_colours and self.colours is None:
            return None
        things = self.detector(image, required.labels)
        return judge(required, things, partial(self._colours_of, image), self.rules)

    def _colours_of(self, image: Image.Image, found: Sequence[Detection], label: str) -> Sequence[str]:
        assert self.colours is not None, "only prompts with colours ask for them"
        return self.colours(image, found, label)


@dataclass(frozen=True)
class Figures:
    """What is known about the images of a folder.

    Attributes:
        samples: the images.
        values: by name of the metric, the figures by place in `samples`; images without a figure are missing.
        reasons: by place in `samples`, what GenEval finds wrong.
    """

    samples: Sequence[Sample]
    values: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    reasons: dict[int, str] = field(default_factory=dict)

    def scores(self, name: str) -> list[Score]:
        """The figures of one metric."""
        chosen = ((self.samples[place], value) for place, value in self.values[name].items())
        return [Score(sample.prompt.text, sample.number, sample.prompt.group, value) for sample, value in chosen]

    def means(self, resamples: int, seed: int) -> dict[str, dict[str, Estimate]]:
        """By metric and group, see `scores.estimates`."""
        return {name: estimates(self.scores(name), resamples, seed) for name in self.values}

    def gains(self, base: "Figures", resamples: int, seed: int) -> dict[str, dict[str, Estimate]]:
        """By metric and group, what this folder adds to another one, see `scores.gains`."""
        shared = [name for name in self.values if name in base.values]
        return {name: gains(base.scores(name), self.scores(name), resamples, seed) for name in shared}


def measure(samples: Sequence[Sample], metrics: Mapping[str, TextMetric], geneval: GenEvalJudge | None, at_once: int) -> Figures:
    """Figures of images and their prompts.

    Args:
        samples: the images.
        metrics: by name.
        geneval: for prompts of GenEval; its figure is called `GENEVAL`.
        at_once: images that are read together.
    """
    figures = Figures(samples)
    for places in track(list(batches(range(len(samples)), at_once)), "scoring"):
        images = [read(samples[place]) for place in places]
        prompts = [samples[place].prompt for place in places]
        for name, metric in metrics.items():
            found = metric(images, [prompt.text for prompt in prompts])
            figures.values[name].update(zip(places, found, strict=True))
        if geneval is not None:
            for place, image, prompt in zip(places, images, prompts, strict=True):
                verdict = geneval.verdict(image, prompt)
                if verdict is not None:
                    figures.values[GENEVAL][place] = float(verdict.correct)
                    figures.reasons[place] = "; ".join(verdict.reasons)
    return figures


def compare(figures: Figures, references: Sequence[Sample], metrics: Mapping[str, PairMetric], at_once: int) -> None:
    """Add figures of images and the image of the same prompt and number in another folder; those that have none there get no figure.

    Args:
        figures: of the folder.
        references: the images of the other folder.
        metrics: by name.
        at_once: pairs that are read together.
    """
    others = {(sample.prompt.text, sample.number): sample for sample in references}
    keys = [(sample.prompt.text, sample.number) for sample in figures.samples]
    paired = [place for place, key in enumerate(keys) if key in others]
    for places in track(list(batches(paired, at_once)), "comparing"):
        images = [read(figures.samples[place]) for place in places]
        opposite = [read(others[keys[place]]) for place in places]
        for name, metric in metrics.items():
            figures.values[name].update(zip(places, metric(images, opposite), strict=True))


def read(sample: Sample) -> Image.Image:
    """The image of a sample."""
    return read_image(sample.path, str(sample.path), "draw it again, or leave it out")


def batches(items: Iterable[T], at_once: int) -> Iterator[list[T]]:
    """Lists of `at_once` items; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, at_once)):
        yield batch
