"""Labelled data sets on miniatures of their original layouts: what a pixel means, and which images make up a split."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import layouts
from tests.data.cases import CASES, every_case, every_layout, stems

from seg4diff.data.sample import IGNORE
from seg4diff.data.vocabularies import read_vocabulary
from seg4diff.errors import MissingFileError, UserError


@every_case
def test_a_pixel_means_what_the_data_set_says(case, root):
    values = np.array([[*range(case.largest + 1), IGNORE]])
    layouts.write(*case.layout.pair(root, "val", 0), values)
    source = case.read(root)
    names = source.vocabulary.names
    samples = source.split("validation", None, resize_mask=False)
    mask = next(samples[k].mask for k in range(4) if samples[k].mask.shape == values.shape)
    found = {value: None if k == IGNORE else names[k] for value, k in zip(values.flat, mask.flatten().tolist(), strict=True)}
    assert {value: found[value] for value in case.pixels} == case.pixels
    assert found[IGNORE] is None
    assert len(names) == case.classes and set(names) == set(found.values()) - {None}, "every class has a pixel value"
    assert source.vocabulary.background == (0 if case.background else None)
    assert not case.background or names[0] == "background"


@every_layout
def test_images_and_masks_are_paired_by_name(case, root):
    source, names = case.read(root), read_vocabulary(case.vocabulary)
    source.prepare()
    for split, short in (("train", "train"), ("validation", "val"), ("test", "val")):
        samples = source.split(split, None, resize_mask=False)
        expected = {str(case.layout.pair(root, short, k)[0]): layouts.values_of(short, k) for k in range(4)}
        assert sorted(samples.name(k) for k in range(len(samples))) == sorted(expected)
        for sample in (samples[k] for k in range(4)):
            named = [None if k == IGNORE else source.vocabulary.names[k] for k in sample.mask.flatten().tolist()]
            assert named == [names.get(value + case.source.first_id) for value in expected[sample.name].flat]
            assert sample.mask.shape == sample.image.shape[1:] == layouts.SIZE


@every_layout
def test_an_image_whose_classes_are_all_ignored(case, root):
    for k in range(4):
        layouts.write(*case.layout.pair(root, "train", k), np.full(layouts.SIZE, IGNORE))
    sample = case.read(root).split("train", (6, 10), resize_mask=True)[0]
    assert (sample.mask == IGNORE).all() and sample.mask.shape == (6, 10) and sample.caption == ""


@every_layout
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_masks_of_8_and_16_bit_read_like_palettes(case, root, dtype):
    before = case.read(root).split("train", None, resize_mask=False)
    masks = [before[k].mask for k in range(4)]
    for k in range(4):
        Image.fromarray(layouts.values_of("train", k).astype(dtype)).save(case.layout.pair(root, "train", k)[1])
    for mask, sample in zip(masks, case.read(root).split("train", None, resize_mask=False), strict=False):
        assert torch.equal(mask, sample.mask)


@every_layout
def test_a_value_that_the_data_set_does_not_define_names_the_file(case, root):
    mask = case.layout.pair(root, "val", 0)[1]
    Image.fromarray(np.full(layouts.SIZE, case.largest + 1, dtype=np.uint8)).save(mask)
    source = case.read(root)
    index = stems(source, "validation").index(case.layout.pair(root, "val", 0)[0].stem)
    with pytest.raises(UserError, match=rf"{mask.name} holds values above {case.largest}: \[{case.largest + 1}\]"):
        source.split("validation", None, resize_mask=False)[index]


@every_layout
def test_a_list_says_which_images_make_up_a_split(case, root):
    case.layout.pair(root, "train", 0)[0].unlink()
    layouts.lines(root / "mine.txt", [case.layout.name("train", k) for k in (2, 1)])
    source = case.read(root, lists={"train": str(root / "mine.txt")})
    source.prepare()
    assert stems(source, "train") == [case.layout.pair(root, "train", k)[0].stem for k in (2, 1)]
    assert len(stems(source, "validation")) == 4
    with pytest.raises(MissingFileError, match=r"list .*no\.txt \(from data\.source\.lists\)"):
        case.read(root, lists={"test": str(root / "no.txt")}).prepare(["test"])
    layouts.lines(root / "empty.txt", [])
    empty = case.read(root, lists={"test": str(root / "empty.txt")})
    with pytest.raises(MissingFileError, match=r"list .*empty\.txt \(from data\.source\.lists\), which is empty"):
        empty.prepare(["test"])
    with pytest.raises(UserError, match=r"list .*empty\.txt .*write one image per line"):
        empty.rows("test")


def test_voc_takes_its_own_mask_before_an_added_one(tmp_path):
    root, voc = layouts.VOC.write(tmp_path), CASES["voc 20"]
    own = [f"2007_train{k}" for k in range(4)]
    layouts.write(root / "JPEGImages/2008_added.jpg", root / "SegmentationClassAug/2008_added.png", np.full(layouts.SIZE, 20))
    layouts.palette(np.full(layouts.SIZE, 1)).save(root / "SegmentationClassAug/2007_train1.png")
    with pytest.raises(MissingFileError, match=r"trainaug\.txt .*voc_aug\.py"):
        voc.read(root).prepare()
    layouts.lines(root / "ImageSets/Segmentation/trainaug.txt", ["2008_added", *own])
    source = voc.read(root)
    source.prepare()
    assert stems(source, "train") == ["2008_added", *own] and len(stems(source, "validation")) == 4
    samples = source.split("train", None, resize_mask=False)
    assert (samples[0].mask == 19).all()
    assert torch.equal(samples[2].mask, torch.from_numpy(layouts.values_of("train", 1)) - 1)


def test_an_unknown_vocabulary_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary 'voc22': .*ade20k, cityscapes, cityscapes_27"):
        CASES["voc 20"].read(tmp_path, vocabulary="voc22")


@every_layout
def test_images_are_upright_in_every_data_set(case, root):
    """As a viewer shows them, with the masks that were drawn on them."""
    exif = Image.Exif()
    exif[0x0112] = 8
    image, _ = case.layout.pair(root, "val", 0)
    height, width = layouts.SIZE
    Image.new("RGB", (height, width)).save(image, exif=exif)
    samples = case.read(root).split("validation", None, resize_mask=False)
    index = [samples.name(k) for k in range(4)].index(str(image))
    assert samples[index].image.shape == (3, height, width)
    Image.new("RGB", (width, height)).save(image, exif=exif)
    with pytest.raises(UserError, match=r"must have one size, both turned upright as their EXIF orientation says"):
        samples[index]
