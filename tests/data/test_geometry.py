"""How images of any shape meet a canvas, and how maps of the canvas come back to the mask; small cases worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.geometry import GEOMETRIES, Window, whole
from seg4diff.data.sample import IGNORE, Batch, Vocabulary, collate, image_to_tensor, resize_labels
from seg4diff.data.source import SPLITS, DataSource, Row, Rows

GREY = np.arange(0, 240, 30)
"""Grey values of the columns of the wide image, or of the rows of the tall one."""
COLUMNS = np.array([0, 0, 1, 1, 2, 2, 3, IGNORE])
"""Class ids of the same columns."""


class Stripes(Rows):
    """A wide image (2 x 8) of vertical stripes, a tall one (8 x 2) of horizontal ones; two regions that overlap."""

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return ("wide", "tall")[index]

    def __getitem__(self, index: int) -> Row:
        grey, ids = (np.tile(values, (2, 1)).astype(np.uint8) for values in (GREY, COLUMNS))
        left, middle = np.zeros((2, 8), bool), np.zeros((2, 8), bool)
        left[:, :2], middle[0, 1:6] = True, True
        pictures = [values.T.copy() if index else values for values in (grey, ids, left, middle)]
        image, mask = Image.fromarray(pictures[0]), pictures[1]
        return Row(image=image, mask=mask, caption=None, name=self.name(index), mask_name="stripes", regions=iter(pictures[2:]))


class StripesData(DataSource):
    vocabulary = Vocabulary(("zero", "one", "two", "three"))

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        pass

    def rows(self, split: str) -> Rows:
        return Stripes()


def sample(index: int, size: tuple[int, int] | None, geometry: str, training: bool):
    return StripesData().split("train", size, training, geometry)[index]


def grey(image: torch.Tensor) -> list[int]:
    """Grey values of the first row (wide) or column (tall) of an image, which has three equal channels of equal rows."""
    values = ((image + 1) * 127.5).round().int()
    assert torch.equal(values[0], values[1])
    return values[0].tolist()


def turned(rows: list[list[int]], index: int) -> list[list[int]]:
    return [list(column) for column in zip(*rows, strict=True)] if index else rows


both = pytest.mark.parametrize("index", [0, 1], ids=["wide", "tall"])


@both
@pytest.mark.parametrize("training", [True, False])
def test_crop_takes_the_centre_of_image_and_mask_alike(index, training):
    """The centre of 2 x 8 with the shape of a 2 x 2 canvas: columns 3 and 4."""
    got = sample(index, (2, 2), "crop", training)
    assert grey(got.image) == turned([[90, 120]] * 2, index)
    assert got.mask.tolist() == turned([[1, 2]] * 2, index)
    assert got.regions.tolist() == [turned([[True, True], [False, False]], index)], "the other region has no pixel there"
    assert got.window == Window(0, 0, 2, 2) and got.caption == "one two"


@both
def test_crop_keeps_the_mask_at_its_own_size_in_evaluation(index):
    got = sample(index, (4, 4), "crop", training=False)
    assert got.image.shape == (3, 4, 4) and got.mask.shape == (2, 2)
    assert sample(index, (4, 4), "crop", training=True).mask.tolist() == turned([[1, 1, 2, 2]] * 4, index)


@both
def test_letterbox_pads_with_mid_grey_and_ignore(index):
    """2 x 8 on an 8 x 8 canvas: rows 3 and 4, as they are."""
    got = sample(index, (8, 8), "letterbox", training=True)
    image, mask = torch.zeros(8, 8), torch.full((8, 8), IGNORE)
    image[3:5], mask[3:5] = torch.from_numpy(GREY) / 127.5 - 1, torch.from_numpy(COLUMNS)
    torch.testing.assert_close(got.image[1].T if index else got.image[1], image)
    assert torch.equal(got.mask.T if index else got.mask, mask)
    assert got.window == (Window(0, 3, 8, 2) if index else Window(3, 0, 2, 8))
    regions = got.regions.mT if index else got.regions
    assert regions.shape == (2, 8, 8) and regions.sum((1, 2)).tolist() == [4, 5]
    assert regions[0, 3:5, :2].all() and regions[1, 3, 1:6].all()


@both
def test_letterbox_scales_both_sides_alike(index):
    """2 x 8 on a 3 x 4 canvas (4 x 3 for the tall one): one row of four, in the middle of three."""
    canvas = (4, 3) if index else (3, 4)
    got = sample(index, canvas, "letterbox", training=True)
    assert got.window == (Window(0, 1, 4, 1) if index else Window(1, 0, 1, 4))
    assert got.image.shape == (3, *canvas) and got.mask.shape == canvas
    assert (got.window.cut(got.image) != 0).all() and got.image.count_nonzero() == 12
    assert sample(index, canvas, "letterbox", training=False).mask.shape == ((8, 2) if index else (2, 8))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_masks_of_an_evaluation_lie_on_the_canvas_as_those_of_training(geometry):
    """Validation computes the losses of training, so it has to compare the maps with the same masks."""
    training, evaluation = (collate([sample(index, (4, 4), geometry, when) for index in (0, 1)]) for when in (True, False))
    assert [mask.shape for mask in evaluation.masks] != [mask.shape for mask in training.masks]
    placed = evaluation.on_canvas()
    assert all(torch.equal(mask, expected) for mask, expected in zip(placed.masks, training.masks, strict=True))
    assert all(torch.equal(own, expected) for own, expected in zip(placed.regions, training.regions, strict=True))
    again = training.on_canvas()
    assert all(torch.equal(mask, expected) for mask, expected in zip(again.masks, training.masks, strict=True))


@both
def test_stretch_fills_the_canvas_whatever_its_shape(index):
    got = sample(index, (4, 4), "stretch", training=True)
    assert got.window == Window(0, 0, 4, 4) and (got.image != 0).all()
    # nearest to the centres of four equal parts of eight columns: 1, 3, 5, 7
    assert got.mask.tolist() == turned([[0, 1, 2, IGNORE]] * 4, index)
    assert got.regions.shape == (2, 4, 4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@both
def test_without_a_size_every_geometry_leaves_images_as_they_are(geometry, index):
    got = sample(index, None, geometry, training=True)
    size = (8, 2) if index else (2, 8)
    assert grey(got.image) == turned([GREY.tolist()] * 2, index) and got.window == whole(size)
    assert got.mask.tolist() == turned([COLUMNS.tolist()] * 2, index)


@both
@pytest.mark.parametrize("canvas", [(16, 16), (32, 16), (16, 24), (8, 8), (40, 32)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_maps_of_the_canvas_come_back_to_the_mask(geometry, canvas, index):
    """A perfect prediction on the canvas is perfect on the mask, in its own size; the canvas has whole multiples of its pixels."""
    painted, wanted = sample(index, canvas, geometry, training=True), sample(index, canvas, geometry, training=False)
    assert torch.equal(painted.image, wanted.image) and painted.window == wanted.window
    back = resize_labels(wanted.window.cut(painted.mask), wanted.mask.shape)
    assert torch.equal(back, wanted.mask)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows_keep_to_their_bounds_and_shapes(geometry):
    generator = np.random.default_rng(0)
    for _ in range(300):
        image, canvas = ((int(k) for k in generator.integers(1, 200, 2)) for _ in range(2))
        image, canvas = tuple(image), tuple(canvas)
        shown, window = GEOMETRIES[geometry](image, canvas)
        for part, around in ((shown, image), (window, canvas)):
            left, top, right, bottom = part.corners
            assert 0 <= left < right <= around[1] and 0 <= top < bottom <= around[0]
            assert abs((left + right) - around[1]) <= 1 and abs((top + bottom) - around[0]) <= 1, "centred"
        assert geometry == "crop" or shown == whole(image)
        assert geometry == "letterbox" or window == whole(canvas)
        if geometry != "stretch":
            part, limit, shape = (shown, image, canvas) if geometry == "crop" else (window, canvas, image)
            assert part.height == limit[0] or part.width == limit[1], "as large as can be"
            lowest = [(n - 0.5) / side if n > 1 else 0 for n, side in zip(part.size, shape, strict=True)]
            highest = [(n + 0.5) / side for n, side in zip(part.size, shape, strict=True)]
            assert max(lowest) <= min(highest) + 1e-9, "one scale for both sides, up to half a pixel"


def test_cut_undoes_paste():
    part = torch.arange(24.0).view(2, 3, 4)
    window = Window(1, 2, 3, 4)
    canvas = window.paste(part, (5, 9), -1.0)
    assert torch.equal(window.cut(canvas), part)
    assert canvas.shape == (2, 5, 9) and (canvas == -1).sum() == 2 * (45 - 12)


def data(geometry: str) -> SegmentationDataModule:
    arguments = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "test_split": "test", "seed": 0}
    return SegmentationDataModule(source=StripesData(), image_size=[8, 8], geometry=geometry, **arguments)


def test_batches_carry_windows_and_regions_of_images_of_any_shape():
    (batch,) = data("letterbox").val_dataloader()
    assert batch.images.shape == (2, 3, 8, 8) and batch.windows == [Window(3, 0, 2, 8), Window(0, 3, 8, 2)]
    assert [tuple(mask.shape) for mask in batch.masks] == [(2, 8), (8, 2)]
    assert [tuple(regions.shape) for regions in batch.regions] == [(2, 2, 8), (2, 8, 2)]
    (stretched,) = data("stretch").val_dataloader()
    assert stretched.windows == [whole((8, 8))] * 2
    moved = batch.to("meta")
    assert all(regions.device.type == "meta" for regions in moved.regions) and moved.windows == batch.windows


def test_a_batch_made_by_hand_fills_its_canvas():
    batch = Batch(torch.zeros(2, 3, 4, 6), [torch.zeros(2, 2)] * 2, [""] * 2, [""] * 2, [0, 1])
    assert batch.windows == [Window(0, 0, 4, 6)] * 2 and batch.regions is None
    assert batch.to("meta").regions is None


def test_bicubic_averages_what_it_shrinks_and_bilinear_does_not():
    """Columns that alternate have no colour of their own once they are shrunk; between the nearest pixels they stay black and white."""
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, ::2] = 255
    picture = Image.fromarray(stripes)
    smooth, sharp = (image_to_tensor(picture, (8, 8), way) for way in ("bicubic", "bilinear"))
    assert smooth.abs().max() < 0.7 and sharp.abs().min() == 1
    pixels = torch.from_numpy(stripes).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(pixels, size=(10, 7), mode="bilinear", align_corners=False)[0] * 2 - 1
    torch.testing.assert_close(image_to_tensor(picture, (10, 7), "bilinear"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", ["bicubic", "bilinear"])
def test_an_image_of_the_right_size_is_not_resized(way):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(image_to_tensor(Image.fromarray(pixels), (5, 7), way), expected)


def test_the_data_module_resizes_as_it_is_told():
    options = {"image_size": [2, 4], "batch_size": 1, "eval_batch_size": 1, "num_workers": 0, "test_split": "test", "seed": 0}
    for way in ("bicubic", "bilinear"):
        wide, _ = SegmentationDataModule(source=StripesData(), resample=way, **options).test_dataloader()
        assert torch.equal(wide.images[0], image_to_tensor(Stripes()[0].image, (2, 4), way))
