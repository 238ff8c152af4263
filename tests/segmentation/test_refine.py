"""Refinement moves the borders of class maps to those of the picture."""

import pytest
import torch
from kornia.filters import guided_blur
from tests.hosts import random_sam

from seg4diff.errors import UserError
from seg4diff.segmentation import refine
from seg4diff.segmentation.masks import Sam
from seg4diff.segmentation.refine import Guided, PixelAdaptive, Unrefined


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def halves():
    """A picture whose left 9 of 24 columns are red, and maps that put the border at column 12."""
    picture = torch.zeros(3, 16, 24)
    picture[0, :, :9], picture[2, :, 9:] = 1.0, 1.0
    ramp = torch.linspace(1, 0, 24).expand(16, 24)
    return torch.stack([ramp, 1 - ramp]), picture


def pamr_by_loops(maps, picture, iterations, dilations, temperature):
    """As the paper has it, pixel by pixel, in float64."""
    scaled = (maps - maps.min()) / (maps.max() - maps.min())
    found, (_, height, width) = (scaled / temperature).softmax(dim=0), picture.shape
    offsets = [(y * far, x * far) for far in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]

    def near(y, x):
        return [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in offsets]

    for _ in range(iterations):
        before, found = found, torch.zeros_like(found)
        for y in range(height):
            for x in range(width):
                colours = torch.stack([picture[:, a, b] for a, b in near(y, x)])
                spread = 0.1 * torch.cat([picture[None, :, y, x], colours]).std(dim=0) + 1e-8
                weights = (-((colours - picture[:, y, x]).abs() / spread).mean(dim=1)).softmax(dim=0)
                found[:, y, x] = sum(weight * before[:, a, b] for weight, (a, b) in zip(weights, near(y, x), strict=True))
    return found


def test_pamr_is_what_loops_over_the_pixels_give():
    maps, picture = 5 * noise(3, 7, 10) - 2, noise(3, 7, 10, seed=1)
    expected = pamr_by_loops(maps, picture, 3, (1, 2), 0.3)
    found = PixelAdaptive(iterations=3, dilations=[1, 2], temperature=0.3)(maps.float(), picture.float())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_guided_filter_is_the_library_s():
    maps, picture = noise(2, 20, 30).float(), noise(3, 20, 30, seed=1).float()
    expected = guided_blur(picture[None], maps[None], 9, 0.01, border_type="replicate")[0]
    torch.testing.assert_close(Guided(radius=4, eps=0.01)(maps, picture), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("refiner", [PixelAdaptive(), Guided(radius=4)])
def test_the_border_of_the_maps_moves_to_that_of_the_picture(halves, refiner):
    maps, picture = halves
    assert (maps.argmax(dim=0)[:, 9:12] == 0).all()
    assert (refiner(maps, picture).argmax(dim=0) == (picture[2] > 0).long()).float().mean() > 0.95


@pytest.mark.parametrize("refiner", [PixelAdaptive(), Guided(radius=3, subsample=1), Unrefined()])
def test_the_unit_of_the_maps_does_not_matter(refiner):
    maps, picture = noise(3, 12, 15).float(), noise(3, 12, 15, seed=1).float()
    labels = [refiner(own, picture).argmax(dim=0) for own in (maps, 3 + 100 * maps, 1e-4 * maps)]
    assert all((own != labels[0]).float().mean() < 0.01 for own in labels)


def test_a_large_picture_is_filtered_by_fewer_coefficients(halves, monkeypatch):
    maps, picture = halves
    exact = Guided(radius=4)(maps, picture)
    monkeypatch.setattr(refine, "LARGE", 16)
    fast = Guided(radius=4)(maps, picture)
    expected = guided_blur(picture[None], maps[None], 9, 1e-3, border_type="replicate", subsample=2)[0]
    torch.testing.assert_close(fast, expected, atol=1e-5, rtol=1e-4)
    assert not torch.equal(fast, exact) and (fast.argmax(dim=0) == exact.argmax(dim=0)).float().mean() > 0.95
    torch.testing.assert_close(Guided(radius=4, subsample=1)(maps, picture), exact)


GUIDED = [Guided(radius=radius, subsample=every) for radius, every in ((3, 1), (4, 2), (4, 4), (8, 8))]


@pytest.mark.parametrize("refiner", [PixelAdaptive(iterations=2, dilations=[1, 3]), *GUIDED])
def test_tiles_leave_no_seam(refiner, monkeypatch):
    maps, picture = noise(2, 51, 71).float(), noise(3, 51, 71, seed=1).float()
    monkeypatch.setattr(refine, "LARGE", 64)
    whole = refiner(maps, picture)
    monkeypatch.setattr(refine, "TILE", 16)
    torch.testing.assert_close(refiner(maps, picture), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("refiner", [PixelAdaptive(), Guided(), Unrefined()])
@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 1, 1), (1, 3, 40)])
def test_few_classes_and_few_pixels_are_refined_too(refiner, shape):
    found = refiner(torch.rand(shape), torch.rand(3, *shape[1:]))
    assert found.shape == shape and found.isfinite().all()


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    random_sam(folder)
    return Sam(weights=str(folder), points=4, confidence=-10.0, at_once=5)


def test_maps_are_constant_on_the_smallest_mask_of_sam(sam):
    maps, picture = torch.rand(3, 20, 33), torch.rand(3, 20, 33)
    masks, found = list(sam.masks(picture)), sam(maps, picture)
    smallest = min(masks, key=lambda mask: mask.sum())
    torch.testing.assert_close(found[:, smallest], maps[:, smallest].mean(dim=1, keepdim=True).expand(-1, smallest.sum()))
    outside = ~torch.stack(masks).any(dim=0)
    assert torch.equal(found[:, outside], maps[:, outside])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: PixelAdaptive(temperature=0.0), "`temperature` must be above 0, found 0.0"),
        (lambda: PixelAdaptive(dilations=[1, 0]), r"`dilations` must be distances of at least 1 pixel, found \[1, 0\]"),
        (lambda: Guided(radius=0), "`radius` must be at least 1, found 0"),
        (lambda: Guided(radius=3), "`radius` must be a multiple of `subsample`, found 3 and 2"),
        (lambda: Guided(subsample=3), "`subsample` must be 1, 2, 4 or 8, found 3"),
        (lambda: Sam(weights=None), "`weights` must name a SAM or SAM 2 model"),
        (lambda: Sam(weights="/nowhere"), "there is no folder /nowhere"),
    ],
)
def test_bad_values_are_named(make, reason):
    with pytest.raises(UserError, match=reason):
        make()
