"""Every image of a folder meets every judge, and keeps its own figures."""

import pytest
from PIL import Image

from seg4diff.data.reading import UnreadableError
from seg4diff.evaluation.judges.figures import GENEVAL, GenEvalJudge, compare, measure
from seg4diff.evaluation.judges.geneval import Detection, Rules
from seg4diff.evaluation.judges.layouts import Prompt, Sample
from seg4diff.evaluation.judges.report import Comparison, write_images

SPOT = (2.0, 2.0, 8.0, 8.0)


def prompt(index, task, *include):
    metadata = {"tag": task, "include": [{"class": name, "count": 1} | ({"color": colour} if colour else {}) for name, colour in include]}
    return Prompt(index, f"prompt {index}", task, metadata)


PROMPTS = [prompt(0, "single_object", ("dog", None)), prompt(1, "colors", ("apple", "red")), prompt(2, "colors", ("apple", "blue"))]


@pytest.fixture
def folder(tmp_path):
    """Five images of three prompts; the first pixel says how bright an image is."""

    def folder(name, greys=(10, 20, 30, 40, 50)):
        samples = [Sample(PROMPTS[k // 2], k % 2, tmp_path / name / f"{k}.png") for k in range(5)]
        (tmp_path / name).mkdir()
        for sample, grey in zip(samples, greys, strict=True):
            Image.new("RGB", (12, 10), (grey, 0, 0)).save(sample.path)
        return samples

    return folder


def grey(image):
    return image.getpixel((0, 0))[0]


def brightness(images, prompts):
    return [grey(image) + 1000 * int(text[-1]) for image, text in zip(images, prompts, strict=True)]


def change(images, others):
    return [grey(other) - grey(image) for image, other in zip(images, others, strict=True)]


def judge(colours=True):
    """Sees everything that is asked for in images brighter than 10; what is darker than 40 is red."""
    return GenEvalJudge(
        lambda image, labels: [Detection(label, 0.95, SPOT) for label in labels if grey(image) > 10],
        (lambda image, things, label: ["red" if grey(image) < 40 else "blue"] * len(things)) if colours else None,
        Rules(),
    )


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_every_image_has_its_own_figures(folder, at_once):
    figures = measure(folder("own"), {"grey": brightness}, judge(), at_once)
    assert list(figures.values["grey"].values()) == [10, 20, 1030, 1040, 2050]
    assert list(figures.values[GENEVAL].values()) == [0, 1, 1, 0, 1]
    assert figures.reasons[0] == "expected dog>=1, found 0" and figures.reasons[3] == "expected red apple>=1, found blue"


def test_without_colours_those_prompts_have_no_verdict(folder):
    figures = measure(folder("own"), {}, judge(colours=False), 2)
    assert figures.values[GENEVAL] == {0: 0, 1: 1}
    assert {score.group for score in figures.scores(GENEVAL)} == {"single_object"}


def test_images_are_compared_with_those_of_the_same_prompt_and_number(folder):
    samples, base = folder("own"), folder("base", (11, 22, 33, 44, 55))
    figures = measure(samples, {}, None, 2)
    compare(
        figures,
        [base[4], *base[:3]],
        {"change": lambda images, others: [grey(b) - grey(a) for a, b in zip(images, others, strict=True)]},
        3,
    )
    assert figures.values["change"] == {0: 1, 1: 2, 2: 3, 4: 5}


def test_the_comparison_is_paired(folder):
    base = measure(folder("base"), {"grey": brightness}, None, 2)
    lora = measure(folder("lora", (13, 23, 33, 43, 53)), {"grey": brightness}, None, 2)
    found = Comparison.of(lora, base, 50, seed=0)
    assert found.this["grey"]["colors"].mean - found.base["grey"]["colors"].mean == pytest.approx(3)
    assert {(gain.mean, gain.low, gain.high) for gain in found.gain["grey"].values()} == {(3, 3, 3)}
    assert Comparison.of(lora, None, 50, seed=0).gain == {}


def test_the_table_of_images(folder, tmp_path):
    figures = measure(folder("own"), {"grey": brightness}, judge(colours=False), 2)
    write_images(tmp_path / "images.csv", {"this": figures})
    rows = (tmp_path / "images.csv").read_text().splitlines()
    assert rows[0] == "folder,prompt,group,number,file,grey,GenEval,reason"
    assert rows[1] == f'this,prompt 0,single_object,0,{tmp_path}/own/0.png,10,0.0,"expected dog>=1, found 0"'
    assert rows[5] == f"this,prompt 2,colors,0,{tmp_path}/own/4.png,2050,,"


def test_a_broken_image_is_named(folder):
    samples = folder("own")
    samples[3].path.write_bytes(b"no picture")
    with pytest.raises(UnreadableError, match=r"3\.png cannot be read .*draw it again"):
        measure(samples, {"grey": brightness}, None, 2)
