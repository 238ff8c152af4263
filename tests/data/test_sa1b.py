"""SA-1B on a miniature of its archives: run lengths, the largest masks, captions; and a data set with names to evaluate on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import layouts

from seg4diff.data.coco_stuff import CocoStuff
from seg4diff.data.rle import RunLengths, unpack
from seg4diff.data.sa1b import Sa1b
from seg4diff.data.sample import IGNORE, collate
from seg4diff.data.source import TrainAndEvaluate
from seg4diff.data.voc import Voc
from seg4diff.errors import MissingFileError, UserError

HEIGHT, WIDTH = 10, 20


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


# pixels: 1, 24, 60, 24, 2; the second lies within the third
MASKS = [box(0, 0, 1, 1), box(2, 3, 4, 6), box(1, 2, 6, 10), box(4, 10, 4, 6), box(9, 0, 1, 2)]


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images in a folder of their own, one beside it."""
    layouts.sa1b(tmp_path / "sa1b/sa_000020", "sa_223750", MASKS, pack=True)
    layouts.sa1b(tmp_path / "sa1b/sa_000020", "sa_223751", MASKS[::-1], pack=False)
    layouts.sa1b(tmp_path / "sa1b", "sa_0", MASKS[:1], pack=True)
    (tmp_path / "sa1b" / "captions.json").write_text(json.dumps({"sa_223750": "two boxes", "sa_223751": "boxes", "sa_0": ""}))
    return tmp_path / "sa1b"


def source(root: Path, **changes) -> Sa1b:
    return Sa1b(**{"root": str(root), "captions": None, "subset": None, "seed": 0, "smallest": 0.0, "most": 32} | changes)


def regions(root: Path, index: int, **changes) -> torch.Tensor:
    return source(root, **changes).split("train", None, resize_mask=True)[index].regions


# Masks and the strings that pycocotools 2.0 packs them to.
PACKED = {
    "5220002O": box(1, 1, 2, 3)[:4, :5] | (np.indices((4, 5)).sum(0) == 7),
    "06": np.ones((3, 2), bool),
    "6": np.zeros((3, 2), bool),
}


@pytest.mark.parametrize("text", PACKED)
def test_packed_run_lengths_as_coco_writes_them(text):
    mask = PACKED[text]
    assert np.array_equal(RunLengths.parse({"size": list(mask.shape), "counts": text}).draw(), mask)
    assert layouts.packed(layouts.run_lengths(mask)) == text


@pytest.mark.parametrize("seed", range(40))
def test_run_lengths_of_any_mask_come_back(seed):
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 40, 2)) < random.random()
    mask = mask.repeat(random.integers(1, 9), 0).repeat(random.integers(1, 60), 1)  # runs that need several characters
    counts = layouts.run_lengths(mask)
    assert unpack(layouts.packed(counts)).tolist() == counts
    for form in (counts, layouts.packed(counts)):
        runs = RunLengths.parse({"size": list(mask.shape), "counts": form})
        assert runs.area == mask.sum() and np.array_equal(runs.draw(), mask)


@pytest.mark.parametrize("counts", [[3, 2], [7, -1], "5", "5220002", "52 0002O", "5220002o", "", "52é"])
def test_run_lengths_that_are_no_mask_are_refused(counts):
    with pytest.raises(ValueError):
        RunLengths.parse({"size": [4, 5], "counts": counts})


@pytest.mark.parametrize(
    ("size", "counts"),
    [([4, 5], [20.7]), ([4, 5], ["20"]), ([4, 5], [True, 19]), ([4.0, 5], [20]), ([-4, -5], [20]), ([4, 5], [[20]]), ([2**40, 1], [2**40])],
)
def test_sizes_and_run_lengths_are_whole_numbers(size, counts):
    with pytest.raises(ValueError, match="must be whole numbers"):
        RunLengths.parse({"size": size, "counts": counts})


def test_masks_may_overlap_and_have_no_names(root):
    data = source(root)
    data.prepare(["train"])
    assert len(data.vocabulary) == 0
    samples = data.split("train", None, resize_mask=True)
    assert [Path(samples.name(k)).name for k in range(len(samples))] == ["sa_0.jpg", "sa_223750.jpg", "sa_223751.jpg"]
    sample = samples[1]
    largest_first = [MASKS[k] for k in (2, 1, 3, 4, 0)]
    assert sample.regions.dtype == torch.bool and np.array_equal(sample.regions.numpy(), np.stack(largest_first))
    assert (sample.regions[0] & sample.regions[1]).sum() == 24
    assert sample.mask.shape == (HEIGHT, WIDTH) and (sample.mask == IGNORE).all() and sample.caption == ""
    assert torch.equal(samples[2].regions.sum((1, 2)), sample.regions.sum((1, 2))), "both ways to write counts"


def test_small_masks_and_all_but_the_largest_are_left_out(root):
    assert regions(root, 1, smallest=0.005).sum((1, 2)).tolist() == [60, 24, 24, 2, 1], "a mask of just this size stays"
    assert regions(root, 1, smallest=0.0051).sum((1, 2)).tolist() == [60, 24, 24, 2]
    assert regions(root, 1, smallest=0.12, most=2).sum((1, 2)).tolist() == [60, 24]
    assert regions(root, 1, smallest=0.5).shape == (0, HEIGHT, WIDTH)
    assert source(root, smallest=0.5).split("train", (6, 8), resize_mask=True)[1].regions.shape == (0, 6, 8)


@pytest.mark.parametrize("geometry", ["stretch", "crop", "letterbox"])
def test_masks_lie_where_the_image_lies(geometry, root):
    samples = source(root).split("train", (20, 20), True, geometry)
    sample = samples[1]
    for region, mask in zip(sample.regions, (MASKS[k] for k in (2, 1, 3)), strict=False):
        drawn = torch.from_numpy(mask)
        if geometry == "stretch":
            expected = drawn.repeat_interleave(2, 0)
        elif geometry == "crop":  # the middle 10 of 20 columns, twice as large
            expected = drawn[:, 5:15].repeat_interleave(2, 0).repeat_interleave(2, 1)
        else:
            expected = torch.zeros(20, 20, dtype=torch.bool)
            expected[5:15] = drawn
        assert torch.equal(region, expected)
    assert len(sample.regions) == (3 if geometry == "crop" else 5), "the two in the corners are cropped away"


def test_shrunk_masks_that_vanish_are_left_out(root):
    sample = source(root).split("train", (2, 4), resize_mask=True)[1]
    assert 0 < len(sample.regions) < 5 and sample.regions.flatten(1).any(1).all()


def test_captions_come_from_the_file(root):
    samples = source(root, captions=str(root / "captions.json")).split("train", None, resize_mask=True)
    assert [samples[k].caption for k in range(3)] == ["", "two boxes", "boxes"]
    (root / "captions.json").write_text(json.dumps({"sa_223750": "two boxes", "sa_0": ""}))
    with pytest.raises(MissingFileError, match=r"captions of 1 of 3 images in .*captions\.json, sa_223751"):
        source(root, captions=str(root / "captions.json")).prepare(["train"])


def test_subset_and_list(root):
    layouts.lines(root / "mine.txt", ["sa_000020/sa_223751"])
    samples = source(root, lists={"train": str(root / "mine.txt")}).split("train", None, resize_mask=True)
    assert [Path(samples.name(k)).stem for k in range(len(samples))] == ["sa_223751"]
    assert len(source(root, subset=2).split("train", None, resize_mask=True)) == 2


def test_batches_hold_any_number_of_masks(root):
    samples = source(root).split("train", None, resize_mask=True)
    batch = collate([samples[k] for k in range(3)])
    assert [len(masks) for masks in batch.regions] == [1, 5, 5]


def test_files_without_a_partner_are_named(root):
    (root / "sa_0.json").unlink()
    (root / "sa_000020/sa_223751.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"SA-1B is incomplete.*set SA1B_ROOT or `root`") as error:
        source(root).prepare(["train"])
    assert f"1 of 3 masks, {root}/sa_0.json" in str(error.value) and "1 of 3 images" in str(error.value)


BROKEN = {
    "no JSON": "{",
    "no annotations": "{}",
    "a list": "[]",
    "outlines": '{"annotations": [{"segmentation": [[0, 0, 5, 5, 5, 0]]}]}',
    "cut off": '{"annotations": [{"segmentation": {"size": [10, 20], "counts": "5220002"}}]}',
    "too few": '{"annotations": [{"segmentation": {"size": [10, 20], "counts": [4, 5]}}]}',
    "no text": "\udcff",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(case, root):
    (root / "sa_0.json").write_text(BROKEN[case], errors="surrogateescape")
    with pytest.raises(UserError, match=r"sa_0\.json does not hold masks as SA-1B writes them"):
        source(root).split("train", None, resize_mask=True)[0]


def test_masks_of_another_size_and_missing_masks_are_named(root):
    samples = source(root).split("train", None, resize_mask=True)
    layouts.sa1b(root / "other", "sa_0", [np.ones((3, 4), bool)], pack=True)
    (root / "other/sa_0.json").rename(root / "sa_0.json")
    with pytest.raises(UserError, match=r"sa_0\.json is 4 x 3 pixels, its image 20 x 10"):
        samples[0]
    (root / "sa_0.json").unlink()
    with pytest.raises(UserError, match=r"sa_0\.json cannot be read \(No such file or directory\): take it from the tars of SA-1B"):
        samples[0]


@pytest.mark.parametrize("change", [{"smallest": 1.5}, {"most": 0}])
def test_odd_limits_are_refused(change, root):
    with pytest.raises(UserError, match="`smallest` must be a fraction"):
        source(root, **change)


def test_it_cannot_be_evaluated_on(root):
    with pytest.raises(UserError, match=r"no class names and no validation split: .*TrainAndEvaluate"):
        source(root).prepare()


PLAIN = {"captions": None, "subset": None, "seed": 0}


def test_training_on_sa1b_and_evaluating_on_voc(root, tmp_path):
    voc = Voc(root=str(layouts.VOC.write(tmp_path / "voc")), vocabulary="voc", background=True, **PLAIN)
    both = TrainAndEvaluate(train=source(root), evaluation=voc)
    (tmp_path / "voc/JPEGImages/2007_train0.jpg").unlink()  # VOC's training images are not needed
    both.prepare()
    assert both.vocabulary == voc.vocabulary
    train, test = both.split("train", (20, 20), True, "crop"), both.split("test", None, resize_mask=False)
    assert train[1].regions.shape == (3, 20, 20) and (train[1].mask == IGNORE).all()
    assert len(test) == 4 and test[0].regions is None and (test[0].mask != IGNORE).any()


def test_an_image_without_any_mask(root):
    (root / "sa_0.json").write_text(json.dumps({"annotations": []}))
    sample = source(root).split("train", (20, 20), resize_mask=True)[0]
    assert sample.regions.shape == (0, 20, 20) and (sample.mask == IGNORE).all()
    assert [len(masks) for masks in collate([sample, source(root).split("train", (20, 20), resize_mask=True)[1]]).regions] == [0, 5]


def test_captions_that_are_missing_are_told_without_an_archive(root, tmp_path):
    voc = Voc(root=str(layouts.VOC.write(tmp_path / "voc")), vocabulary="voc", background=True, **PLAIN)
    with pytest.raises(MissingFileError, match=rf"captions {root}/no\.json \(a JSON file .*\)\. For the captions, set") as error:
        TrainAndEvaluate(train=source(root, captions=str(root / "no.json")), evaluation=voc).prepare()
    assert "set `train.captions`" in str(error.value)
    assert "SA1B_ROOT" not in str(error.value)


def test_everything_missing_of_both_is_told_at_once(tmp_path):
    coco = CocoStuff(root=str(tmp_path / "coco"), **PLAIN)
    with pytest.raises(MissingFileError) as error:
        TrainAndEvaluate(train=source(tmp_path / "sa1b"), evaluation=coco).prepare()
    message = str(error.value)
    for word in (str(tmp_path / "sa1b"), "SA1B_ROOT", "`train.root`", "val2017", "COCO_ROOT", "`evaluation.root`"):
        assert word in message
    assert "train2017 (" not in message


def test_masks_with_other_names_are_refused(tmp_path):
    coco = CocoStuff(root=str(layouts.COCO.write(tmp_path / "coco")), **PLAIN)
    voc = Voc(root=str(layouts.VOC.write(tmp_path / "voc")), vocabulary="voc", background=False, **PLAIN)
    with pytest.raises(UserError, match="171 class names that are not those of the evaluation data"):
        TrainAndEvaluate(train=coco, evaluation=voc).prepare()
    TrainAndEvaluate(train=coco, evaluation=CocoStuff(root=str(tmp_path / "coco"), **PLAIN)).prepare()
