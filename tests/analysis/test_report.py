"""The report of a stored analysis: drawn from its folder alone, one page that opens offline, and nothing in it but what was measured."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors import safe_open

from seg4diff.analysis.atlas import atlas_rows, draw_atlas
from seg4diff.analysis.catalogue import STUDIES
from seg4diff.analysis.drawing import draw_points, new_figure
from seg4diff.analysis.figures import draw, levels_of
from seg4diff.analysis.finder import find_expert
from seg4diff.analysis.page import write_report
from seg4diff.analysis.plans import Heat, Lines, plans
from seg4diff.analysis.report import write_analysis, write_tables
from seg4diff.analysis.scene import LabelledScene
from seg4diff.analysis.sections import SECTIONS
from seg4diff.analysis.showed import best_two
from seg4diff.analysis.stored import Table, read_analysis
from seg4diff.analysis.tallies import counts_per_image
from seg4diff.errors import UserError
from seg4diff.evaluation.bootstrap import percentile_interval, resampled_miou
from tests.analyses import ABOUT, NAMES, SIGMAS, batch_of, setting_of, small, stored, studied
from tests.hosts import random_sd3

NASTY = ("<script>alert(1)</script>", '"a" & $b$')
REASON = "the study norms is skipped: there was no time."


class Reader(HTMLParser):
    """What a browser makes of a page: its tags with their attributes, and its texts."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def tags_of(page):
    reader = Reader()
    reader.feed(page)
    return reader.tags


@pytest.fixture(scope="module")
def model():
    return random_sd3(blocks=3)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = stored(model, tmp_path_factory.mktemp("analysis"), {"norms": REASON}, NASTY)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_study_has_its_section(page):
    for study in STUDIES.keys() - {"norms"}:
        section = page.split(f'<section id="{study}">')[1].split("</section>")[0]
        assert "On this model: " in section and "<svg" in section and "<caption>" in section


def test_a_study_that_was_skipped_is_named_with_its_reason(page):
    assert REASON in page and '<section id="norms">' not in page


def test_the_page_needs_nothing_from_elsewhere(page):
    assert "http" not in page
    for tag, attributes in tags_of(page):
        assert tag not in ("script", "link", "iframe", "object")
        assert all(attributes.get(name, "#").startswith(("#", "data:image/png;base64,")) for name in ("src", "href", "srcset"))
    assert not re.search(r"@import|url\((?!#)", page)


def test_prompts_and_names_are_text(page):
    reader = Reader()
    reader.feed(page)
    assert " ".join(NASTY) in reader.texts
    assert f"Its masks: {', '.join(NASTY)}" in reader.texts


def test_every_picture_and_figure_has_a_description(page):
    pictures = [attributes for tag, attributes in tags_of(page) if tag in ("img", "svg")]
    assert pictures
    assert all(own.get("alt") or own.get("aria-label") for own in pictures)


def test_ids_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_text_of_figures_has_the_colour_of_the_page(page):
    assert "currentColor" in page and "#1a1c1f" not in page.split("</style>")[1]


def test_figures_are_png_and_svg(folder):
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"budget", "segmentation-heads", "pca-0", "maps-0", "tokens-0"} <= names
    for name in names:
        ElementTree.parse(folder / "figures" / f"{name}.svg")


def test_drawn_values_are_those_of_the_table(folder):
    analysis = read_analysis(folder)
    for study, table in analysis.tables.items():
        for plan in plans(study, table).values():
            panels = iter(draw(analysis, study, plan).axes)
            for row in plan:
                for sigma, panel in zip(levels_of(analysis, study, plan), panels, strict=False):
                    expected = drawn_by(row, table, sigma)
                    np.testing.assert_allclose(values_in(panel, row), expected, equal_nan=True)


def drawn_by(row, table, sigma):
    if isinstance(row, Heat):
        return row.factor * table.where(row.columns).of_heads(sigma)
    values = np.stack([row.factor * table.where(columns).of_blocks(sigma) for columns in row.series.values()])
    return np.where(values > 0, values, np.nan) if row.log and (values > 0).any() else values


def values_in(panel, row):
    if isinstance(row, Heat):
        return panel.images[0].get_array().filled(np.nan)
    if row.bars:
        return [[bar.get_height() for bar in panel.patches if bar.get_label() != "_expert"]]
    lines = {line.get_label(): line.get_ydata() for line in panel.lines}
    return [lines[label] if label in lines else lines[f"{label} (missing)"] for label in row.series]


def test_what_is_missing_is_no_zero(tmp_path):
    analysis = read_analysis(small(tmp_path, [0.25, float("nan"), 0.5]))
    figure = draw(analysis, "budget", [Lines("share", {"I2T": {"quadrant": "i2t"}, "T2I": {"quadrant": "t2i"}})])
    shown, absent = figure.axes[0].lines[:2]
    assert np.isnan(shown.get_ydata()[1])
    assert absent.get_label() == "T2I (missing)" and np.isnan(absent.get_ydata()).all()


def test_causal_effects_while_generating_have_no_noise_level(tmp_path):
    row = {"head": None, "perturbation": "blur", "maps": None}
    segmenting = [row | {"sigma": SIGMAS[0], "block": k, "task": "segmenting", "quantity": "velocity", "value": 0.1 * k} for k in (1, 2)]
    generating = [row | {"sigma": None, "block": k, "task": "generating", "quantity": "CLIP-T", "value": -0.1 * k} for k in (1, 2)]
    analysis = read_analysis(small(tmp_path, [0.5, 0.5, 0.5]))
    analysis.tables["causal"] = Table(segmenting + generating, 3)
    first, second = (draw(analysis, "causal", plan) for plan in plans("causal", analysis.tables["causal"]).values())
    assert [len(figure.axes) for figure in (first, second)] == [2, 1]
    np.testing.assert_allclose(second.axes[0].lines[0].get_ydata(), [np.nan, -0.1, -0.2], equal_nan=True)
    assert second.axes[0].get_ylabel() == "change of\nCLIP-T"


def test_heat_maps_begin_at_zero(folder):
    analysis = read_analysis(folder)
    figure = draw(analysis, "segmentation", [Heat("mIoU", {"quantity": "miou"})])
    assert figure.axes[0].images[0].get_clim()[0] == 0


def test_fifty_seven_blocks_have_ticks_that_do_not_touch(tmp_path):
    analysis = read_analysis(small(tmp_path, [k / 57 for k in range(57)]))
    figure = draw(analysis, "budget", plans("budget", analysis.tables["budget"])["budget"])
    figure.canvas.draw()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert len(boxes) > 5
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_a_sentence_names_the_two_best_blocks():
    values, intervals = np.array([50.0, float("nan"), 73.4]), np.array([[49, 51], [0, 0], [72.1, 74.8]])
    assert best_two(values, ".1f", intervals) == "highest at block 2 (73.4 [72.1, 74.8]), next block 0 (50.0 [49.0, 51.0])"


def test_a_gain_has_the_interval_of_the_same_resamples(folder):
    analysis = read_analysis(folder)
    with safe_open(folder / "evidence.safetensors", "pt") as evidence:
        after, before = (
            counts_per_image(evidence.get_tensor(f"{study}/counts"), 0, block, 4) for study, block in (("affinity", 2), ("segmentation", 1))
        )
    gains = resampled_miou(after, 1000, seed=0) - resampled_miou(before, 1000, seed=0)
    np.testing.assert_allclose(analysis.gain_intervals[2], percentile_interval(gains))
    sentence = SECTIONS["affinity"].found(analysis)
    count = int((analysis.gain_intervals[:, 0] > 0).sum())
    assert "with an interval above 0, at " + ("no block" if not count else "every block" if count == 3 else f"{count} of 3") in sentence


def test_the_empty_prompt_stands_beside_guesses(folder):
    analysis = read_analysis(folder)
    scores, _ = plans("empty_prompt", analysis.tables["empty_prompt"])["empty-prompt"]
    level = [row["value"] for row in analysis.tables["empty_prompt"].rows if row["quantity"] == "baseline"]
    assert len(level) == 2 and scores.level == pytest.approx(100 * max(level))
    assert "(the whole image) and " in SECTIONS["empty_prompt"].found(analysis)


def test_captions_say_what_a_figure_is_of(page):
    assert "Causal tests: while segmenting, for each block and noise level." in page
    assert "Causal tests: while generating, for each block. " in page
    assert "mIoU (%). Colours from 0" in page and "Each map has its own scale" in page and "bootstrap over images alone" in page


def test_a_logarithmic_axis_has_a_gap_at_zero(tmp_path):
    analysis = read_analysis(small(tmp_path, [0.25, 0.0, 0.5]))
    zero = read_analysis(small(tmp_path / "zero", [0.0, 0.0, 0.0]))
    plan = [Lines("share", {"I2T": {"quadrant": "i2t"}}, log=True, limits=(None, None))]
    drawn, flat = (draw(own, "budget", plan).axes[0] for own in (analysis, zero))
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), [0.25, np.nan, 0.5], equal_nan=True)
    assert (drawn.get_yscale(), flat.get_yscale()) == ("log", "linear") and (flat.lines[0].get_ydata() == 0).all()


def test_the_verdict_of_the_finder_comes_first_and_its_expert_is_marked(tmp_path):
    ranking = [{"block": 2, "score": 0.7, "interval": [0.6, 0.8], "wins": 0.97, "evidence": {"grounding": 0.7, "t2i": None}}]
    ranking += [{"block": 0, "score": 0.2, "interval": [0.1, 0.3], "wins": 0.03, "evidence": {"grounding": 0.2, "t2i": 0.1}}]
    finder = {
        "expert": 2,
        "sentence": "Block 2 is the expert.",
        "rule": "masks",
        "confidence": 0.95,
        "ranking": ranking,
        "rivals": {"one": 0.1},
    }
    correlations = {"names": ["a", "b"], "spearman": [[1.0, None], [None, 1.0]]}
    write_report(small(tmp_path, [0.25, 0.5, 0.5], finder=finder | {"correlations": correlations}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("Block 2 is the expert.") < page.index('<section id="budget">')
    assert read_analysis(tmp_path).marked == 2


def test_an_analysis_of_unlabelled_images_has_a_report(model, tmp_path):
    batch = batch_of([0])
    batch.masks[0].fill_(255)
    setting = setting_of(model, tmp_path / "pictures")
    studies = studied(setting, LabelledScene.of_batch(model, SIGMAS, batch, NAMES, seed=0))
    findings = {name: study.result() for name, study in studies.items()}
    write_tables(tmp_path, findings)
    write_analysis(tmp_path, findings, {}, ABOUT | {"finder": find_expert(findings, setting)})
    write_report(tmp_path)
    assert "No expert: nothing is labelled" in (tmp_path / "report.html").read_text()


def test_an_interval_beside_its_score_is_drawn_where_it_lies():
    _, axes = new_figure(1, 1, 2, [1])
    draw_points(axes[0, 0], {"mIoU": np.array([50.0, 40.0])}, {"mIoU": np.array([[52.0, 60.0], [30.0, 45.0]])})
    assert [segment[:, 1].tolist() for segment in axes[0, 0].collections[0].get_segments()] == [[52, 60], [30, 45]]


def test_a_report_is_drawn_again_without_a_difference(folder, page):
    write_report(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_models_of_different_depth_lie_side_by_side(tmp_path):
    analyses = [read_analysis(small(tmp_path / str(n), [k / n for k in range(n)], "relative")) for n in (2, 5)]
    rows = atlas_rows(analyses)
    assert [row["depth"] for row in rows] == [0, 1, 0, 0.25, 0.5, 0.75, 1]
    assert [row["i2t_per_key"] for row in rows] == pytest.approx([0, 0.5, 0, 0.2, 0.4, 0.6, 0.8])
    assert all(row["miou"] is None for row in rows)
    assert rows[0]["model"] == "some/model (2)" and rows[1]["expert"]
    short, long = (line for line in draw_atlas(analyses).axes[0].lines if line.get_label().startswith("some"))
    assert list(short.get_xdata()) == [0, 1] and len(long.get_xdata()) == 5


def test_a_folder_without_an_analysis_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no finished analysis \(analysis.json\)"):
        read_analysis(tmp_path)


def test_another_version_is_refused(tmp_path):
    file = small(tmp_path, [0.5]) / "analysis.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(UserError, match="has version 99, but this package reads version 1"):
        read_analysis(tmp_path)


def test_a_table_that_is_gone_is_named(tmp_path):
    (small(tmp_path, [0.5]) / "budget.csv").unlink()
    with pytest.raises(UserError, match=r"budget.csv is missing"):
        read_analysis(tmp_path)
