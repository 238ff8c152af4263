"""The comparison of readers: every cell is what an evaluation by itself would give."""

import lightning as L
import pytest
import torch
from tests.families import FAMILIES, adapted
from tests.hosts import random_sd3

from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.components import ComponentScore, true_parts
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.evaluation.protocol import PromptedSegmenter, PromptMaker, calibrate
from seg4diff.evaluation.reader_table import print_readers, write_readers
from seg4diff.evaluation.readers import Cell, ReadersModule
from seg4diff.segmentation.presence import Uncalibrated
from seg4diff.segmentation.readers.expert import Expert
from seg4diff.segmentation.readers.propagated import Propagated
from seg4diff.segmentation.readers.t2i import TextToImage
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.refine import PixelAdaptive, Unrefined

VOCABULARY = Vocabulary(("apple", "traffic cone", "grass", "sand"))
READOUT = Readout(sigma=0.3, scores="joint", normalisation="minmax", seed=0)
PAMR = PixelAdaptive(iterations=2, dilations=[1])


class Stubborn:
    """A reader that cannot read this model."""

    per_block = True
    settings = ()

    def read(self, run, blocks):
        raise UserError("this model has no such maps.")


@pytest.fixture(scope="module")
def model():
    return random_sd3()


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.randint(k + 2, (2, 3), generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1) for k in (1, 2)]
    return Batch(torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1, masks, ["", ""], ["a", "b"], [2 * seed, 2 * seed + 1])


@pytest.fixture(scope="module")
def module(model):
    """Four images, counted."""
    readers = {"expert": Expert(), "propagated": Propagated(block=0), "stubborn": Stubborn()}
    made = ReadersModule(
        backbone=model,
        vocabulary=VOCABULARY,
        readout=READOUT,
        readers=readers,
        refinements={"none": Unrefined(), "pamr": PAMR},
        protocols=["oracle", "calibrated"],
        presence=Uncalibrated(images=4),
        expert_layer=1,
        resamples=20,
        seed=0,
        unlabelled=[batch(5), batch(6)],
    )
    return counted(made)


def counted(made):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer.test(made, torch.utils.data.DataLoader([batch(0), batch(1)], batch_size=None), verbose=False)
    return made


def row(module, *names):
    return next(row for row in module.rows if Cell(*(row[name] for name in Cell._fields)) == Cell(*names))


def expected(model, readout, protocol):
    score, segment = SegmentationScore(4), PromptedSegmenter(readout, PromptMaker(protocol, VOCABULARY, model.fits))
    for own in (batch(0), batch(1)):
        for labels, mask in zip(segment(model, own, [1])[1], own.masks, strict=True):
            score.update(labels, mask)
    return float(score.compute()["miou"])


@pytest.mark.parametrize(("refine", "refiner"), [("none", Unrefined()), ("pamr", PAMR)])
def test_a_cell_is_the_score_of_that_readout_alone(module, model, refine, refiner):
    readout = READOUT.changed(reader=Propagated(block=0), refine=refiner)
    assert row(module, "base", "oracle", "propagated", refine)["miou"] == expected(model, readout, "oracle")
    prompts = PromptMaker("vocabulary", VOCABULARY, model.fits).everything
    known = calibrate(READOUT.changed(reader=Propagated(block=0)), model, [batch(5), batch(6)], prompts, 1)
    found = row(module, "base", "calibrated", "propagated", refine)
    assert found["miou"] == expected(model, readout.changed(presence=known), "vocabulary") and 0 < found["presence"] <= 1


def test_a_gain_is_over_the_expert_without_refinement(module):
    first, other = row(module, "base", "oracle", "expert", "none"), row(module, "base", "oracle", "propagated", "pamr")
    assert first["gain"] == first["gain_low"] == 0 and first["time"] == 1
    assert other["gain"] == other["miou"] - first["miou"] and other["gain_low"] <= other["gain_high"]
    assert other["upper_bound"] != first["upper_bound"]


def test_a_reader_that_cannot_read_the_model_has_its_reason(module, tmp_path, capsys):
    assert module.refused == {"stubborn": "this model has no such maps."}
    print_readers(module.rows, module.refused)
    shown = capsys.readouterr().out
    assert "stubborn: - (this model has no such maps.)" in shown and max(map(len, shown.splitlines())) <= 80
    write_readers(module.rows, tmp_path / "readers.csv")
    assert len((tmp_path / "readers.csv").read_text().splitlines()) == 1 + len(module.rows) == 9


def test_the_page_shows_every_reader_on_the_first_images(module):
    assert module.page is not None and module.page.width > module.page.height


def test_base_and_lora_are_read_and_calibrated_apart():
    """The rows of the base model are those that it has without the LoRA."""
    options = {"readers": {"expert": Expert()}, "refinements": {"none": Unrefined()}, "protocols": ["oracle", "calibrated"]}

    def rows(model):
        made = ReadersModule(
            backbone=model,
            vocabulary=VOCABULARY,
            readout=READOUT,
            presence=Uncalibrated(images=4),
            expert_layer=1,
            resamples=2,
            seed=0,
            unlabelled=[batch(5), batch(6)],
            **options,
        )
        return {(row["variant"], row["protocol"]): (row["miou"], row["presence"]) for row in counted(made).rows}

    alone, both = rows(FAMILIES["sd3"].model()), rows(adapted(FAMILIES["sd3"]))
    for protocol in options["protocols"]:
        assert both["base", protocol] == pytest.approx(alone["base", protocol], nan_ok=True)
    assert both["lora", "calibrated"] != pytest.approx(alone["base", "calibrated"])


def test_readers_that_ignore_the_readout_have_their_reason():
    """Logits are read by the expert; where text tokens look has none."""
    readers = {"expert": Expert(), "t2i": TextToImage()}
    options = {"readers": readers, "refinements": {"none": Unrefined()}, "protocols": ["oracle"], "presence": Uncalibrated(images=4)}
    made = ReadersModule(
        backbone=random_sd3(),
        vocabulary=VOCABULARY,
        readout=READOUT.changed(scores="logits"),
        expert_layer=1,
        resamples=2,
        seed=0,
        **options,
    )
    assert list(made.refused) == ["t2i"] and "`scores` has no effect" in made.refused["t2i"]
    assert [row["reader"] for row in counted(made).rows] == ["expert"]


def test_without_the_expert_there_is_no_comparison(model):
    """One image to calibrate on is too few: a sentence, and not a table of refusals."""
    readers = {"expert": Expert(), "propagated": Propagated(block=0)}
    options = {"readers": readers, "refinements": {"none": Unrefined()}, "protocols": ["calibrated"], "presence": Uncalibrated(images=4)}
    made = ReadersModule(
        backbone=model, vocabulary=VOCABULARY, readout=READOUT, expert_layer=1, resamples=2, seed=0, unlabelled=[], **options
    )
    with pytest.raises(UserError, match="at least two images, found 0"):
        counted(made)


def test_small_and_large_parts_are_scored_apart():
    truth = torch.zeros(20, 20, dtype=torch.long)
    truth[2:4, 2:4] = 1
    predicted = truth.clone()
    predicted[2:4, 3] = 0  # half of the small part
    score = ComponentScore()
    score.update(predicted, true_parts(truth))
    found = score.compute()
    assert found["small"] == 0.5 and found["large"] == pytest.approx(396 / 398)
