"""A vocabulary of any size is read whole, and captions of any length are scored."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import REPO
from tests.hosts import random_flux, random_flux2, random_sd3
from tests.runs import SMALL_MODEL, compose_config

from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.commands.run import evaluate
from seg4diff.data.geometry import Window, whole
from seg4diff.data.sample import IGNORE, Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.protocol import BlockScores, PromptedSegmenter, PromptMaker
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.segmentation.readout import Readout

WORDS = """
    wall building sky floor tree ceiling road bed window grass cabinet sidewalk person earth door table mountain plant curtain chair
    car water painting sofa shelf house sea mirror rug field armchair seat fence desk rock wardrobe lamp bathtub railing cushion base
    box column signboard chest counter sand sink skyscraper fireplace fridge grandstand path stairs runway case pool pillow screen
    bookcase river bridge blind table flower book hill bench countertop stove palm kitchen computer chair boat bar machine hovel bus
    towel light truck tower chandelier awning street booth television aeroplane track dress pole land bannister escalator ottoman
    bottle buffet poster stage van ship fountain conveyor canopy washer plaything swimming stool barrel basket waterfall tent bag
    minibike cradle oven ball food step tank brand microwave pot animal bicycle lake dishwasher projector blanket sculpture hood
    sconce vase traffic tray bin fan pier crt plate monitor bulletin shower radiator glass clock flag
"""
TWO_WORDS = ("swivel chair", "coffee table", "pool table", "traffic light", "street light", "glass door")
NAMES = tuple(dict.fromkeys([*WORDS.split(), *TWO_WORDS]))[:150]
READOUT = Readout(sigma=0.3, scores="joint", normalisation="none", seed=0)


@pytest.fixture(scope="module")
def model():
    return random_sd3()


def batch(*masks):
    pictures = torch.rand(len(masks), 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(pictures, list(masks), [""] * len(masks), [""] * len(masks), list(range(len(masks))))


def halves(left, right):
    return torch.tensor([[left] * 24 + [right] * 24] * 32)


def shipped():
    return SD3Backbone.from_pretrained(path=str(REPO / "assets" / "tiny-sd3"), t5_length=0)


def flux2_of_64_tokens():
    return random_flux2(text_length=64)


@pytest.mark.parametrize("make", [shipped, random_sd3, random_flux, flux2_of_64_tokens], ids=lambda make: make.__name__)
def test_a_large_vocabulary_gets_a_finite_map_for_every_class(make):
    assert len(NAMES) == 150
    model = make()
    make_prompts = PromptMaker("vocabulary", Vocabulary(NAMES), model.fits)
    prompts = make_prompts(halves(0, 1))
    assert len(prompts) > 1 and [k for prompt in prompts for k in prompt.classes] == list(range(150))
    maps = READOUT.class_maps(model, batch(halves(0, 1)).images, [prompts], [0], [0, 2])
    for block in (0, 2):
        assert maps[block][0].shape == (150, 4, 6) and maps[block][0].isfinite().all()
        assert (maps[block][0].flatten(1).sum(dim=1) > 0).all()
    assert make_prompts(halves(7, IGNORE)) is prompts, "the same for every image"


def maps_that_show(given):
    """Stands in for `Readout.class_maps`: a map for each class that is asked for, `given` or flat."""

    def maps_of(backbone, images, prompts, ids, blocks):
        classes = [[k for prompt in own for k in prompt.classes] for own in prompts]
        maps = [torch.stack([given.get(k, torch.full((4, 6), 0.1)) for k in own]) if own else torch.zeros(0, 4, 6) for own in classes]
        return dict.fromkeys(blocks, maps)

    return maps_of


LEFT = torch.arange(6).lt(3).float().expand(4, 6)


def block_scores(readout, make_prompts, classes):
    return BlockScores(segment=PromptedSegmenter(readout, make_prompts), blocks=[0], classes=classes)


@pytest.mark.parametrize("protocol", ["oracle", "vocabulary"])
def test_classes_of_later_prompts_are_predicted_as_themselves(protocol, model, monkeypatch):
    """Image 0 shows class 149 on its left and class 3 elsewhere, image 1 nothing that is labelled."""
    monkeypatch.setattr(READOUT, "class_maps", maps_that_show({149: LEFT, 3: 1 - LEFT}))
    everything = list(range(0, 150, 7))
    truth = halves(149, 3)
    truth[0, : len(everything)] = torch.tensor(everything)  # so many classes that the oracle prompt is split as well
    make_prompts = PromptMaker(protocol, Vocabulary(NAMES), model.fits)
    assert len(make_prompts(truth)) > 1
    scores = block_scores(READOUT, make_prompts, 150)
    seen, unlabelled = scores.update(model, batch(truth, torch.full((32, 48), IGNORE)))[0]
    assert torch.equal(seen, halves(149, 3))
    assert scores.scores["0"].confusion.sum() == 32 * 48, "an image without a labelled pixel is not counted"
    if protocol == "oracle":
        assert (unlabelled == IGNORE).all()


WITH_BACKGROUND = Vocabulary(("background", "wall", "sky", "apple"), background=0)


def test_background_is_in_no_prompt(model):
    oracle, vocabulary = (PromptMaker(protocol, WITH_BACKGROUND, model.fits) for protocol in ("oracle", "vocabulary"))
    assert [prompt.text for prompt in vocabulary(halves(0, 3))] == ["wall sky apple"]
    assert [prompt.text for prompt in oracle(halves(0, 3))] == ["apple"]
    assert oracle(halves(0, IGNORE)) == []


def test_background_is_what_no_name_reaches(model, monkeypatch):
    """Image 0: background on the right; image 1: nothing else; both under oracle prompts."""
    readout = Readout(sigma=0.3, scores="joint", normalisation="none", seed=0, background=0.5)
    monkeypatch.setattr(readout, "class_maps", maps_that_show({3: LEFT}))
    scores = block_scores(readout, PromptMaker("oracle", WITH_BACKGROUND, model.fits), 4)
    half, empty = scores.update(model, batch(halves(3, 0), halves(0, IGNORE)))[0]
    assert torch.equal(half, halves(3, 0)) and (empty == 0).all()
    assert scores.compute()[0]["pacc"] == 1


def test_a_background_class_needs_a_level(model):
    with pytest.raises(UserError, match=r"has a background class, which no prompt names: set backbone\.readout\.background"):
        PromptedSegmenter(READOUT, PromptMaker("oracle", WITH_BACKGROUND, model.fits))


def test_padding_is_neither_read_nor_compared(model, monkeypatch):
    """The image fills rows 8 to 24 of the canvas; its mask has a size of its own."""
    given = LEFT.clone()
    given[[0, 3]] = 9 * (1 - LEFT[[0, 3]])
    monkeypatch.setattr(READOUT, "class_maps", maps_that_show({1: given, 2: (1 - given)}))
    mask = torch.tensor([[1] * 12 + [2] * 12] * 9)
    both = batch(mask, halves(1, 2))
    both = replace(both, windows=[Window(8, 0, 16, 48), whole((32, 48))])
    scores = block_scores(READOUT, PromptMaker("oracle", Vocabulary(("x", "wall", "sky")), model.fits), 3)
    boxed, plain = scores.update(model, both)[0]
    assert torch.equal(boxed, mask) and not torch.equal(plain, halves(1, 2))


def test_oracle_prompts_name_the_classes_present(model):
    make_prompts = PromptMaker("oracle", Vocabulary(NAMES), model.fits)
    assert [prompt.text for prompt in make_prompts(halves(2, 0))] == ["wall sky"]
    assert make_prompts(halves(IGNORE, IGNORE)) == []


def test_what_cannot_work_is_refused_before_any_image(model):
    with pytest.raises(UserError, match="prompt protocol must be one of"):
        PromptMaker("oracel", Vocabulary(NAMES), model.fits)
    for protocol in ("oracle", "vocabulary"):
        with pytest.raises(UserError, match="the class name 'sky sky sky"):
            PromptMaker(protocol, Vocabulary(("sand", "sky " * 40)), model.fits)


def write_photos(folder, caption):
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        rows = []
        for k in range(3):
            Image.new("RGB", (48, 32), (90 * k, 90, 90)).save(folder / split / f"{k}.png")
            Image.fromarray(np.full((32, 48), 70 * k, dtype=np.uint8)).save(folder / split / f"{k}-mask.png")
            rows.append(json.dumps({"file_name": f"{k}.png", "mask_file_name": f"{k}-mask.png", "caption": caption}))
        (folder / split / "metadata.jsonl").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("\n".join(NAMES))


def test_an_evaluation_takes_any_vocabulary_and_any_caption(tmp_path, assets, model, caplog):
    caption = "a zebra and a traffic cone under the night sky; " * 4
    reports = []
    for name, text in (("long", caption), ("cut", cut_to_fit(caption, model.fits)), ("other", "sand")):
        write_photos(tmp_path / name, text)
        arguments = ["ckpt=base", "data=folder", f"data.source.root={tmp_path / name}", f"paths.assets_dir={assets}", *SMALL_MODEL]
        arguments += ["protocol=vocabulary", "split=validation", "data.eval_batch_size=2", "trainer.accelerator=cpu"]
        arguments += ["evaluation.base_blocks=[]", "evaluation.resamples=10"]
        with caplog.at_level(logging.INFO, "seg4diff"):
            reports.append(evaluate(compose_config("evaluate", tmp_path / f"out-{name}", *arguments)))
    long, cut, other = reports
    assert long["images"] == 3 and long["base/val_flow_loss"] == cut["base/val_flow_loss"] != other["base/val_flow_loss"]
    assert len(long["base/iou_per_class"]) >= 3 and long["floor/random"] < 0.02
    count = len(PromptMaker("vocabulary", Vocabulary(NAMES), model.fits).everything)
    assert [record.getMessage() for record in caplog.records].count(f"the 150 class names take {count} prompts") == 3, "once a run"
