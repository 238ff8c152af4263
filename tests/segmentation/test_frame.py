"""Masks and the token grid, with and without padding around the image."""

import pytest
import torch
from torch.nn.functional import interpolate

from seg4diff.data.geometry import Window, whole
from seg4diff.segmentation.frame import Frame, upsample

CANVAS = (24, 40)
"""6 x 10 tokens of 4 x 4 pixels."""
MAPS = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", [(24, 40), (7, 90), (100, 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_padding_nothing_changes_by_a_bit(size, dtype):
    maps = MAPS.to(dtype)
    assert torch.equal(Frame(CANVAS, whole(CANVAS), size).upsample(maps), upsample(maps, size))


@pytest.mark.parametrize("window", [Window(4, 0, 16, 40), Window(0, 8, 24, 20), Window(4, 8, 12, 28), Window(20, 36, 4, 4)])
@pytest.mark.parametrize("size", [(24, 40), (33, 17), (5, 120)])
def test_a_window_of_whole_tokens_is_an_image_of_these_tokens(window, size):
    """Letterboxing must not matter: the padding's tokens could as well not be there."""
    frame = Frame(CANVAS, window, size)
    rows, columns = slice(window.top // 4, (window.top + window.height) // 4), slice(window.left // 4, (window.left + window.width) // 4)
    assert torch.equal(frame.tokens(MAPS), MAPS[:, rows, columns])
    torch.testing.assert_close(frame.upsample(MAPS), upsample(MAPS[:, rows, columns], size), atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [Window(3, 5, 17, 26), Window(0, 1, 24, 38), Window(9, 0, 6, 40)])
def test_any_window_is_the_canvas_cut(window):
    """Away from the edge, where a token of the padding would have a part in the canvas, at the canvas's own scale."""
    cut = window.cut(upsample(MAPS, CANVAS))
    found = Frame(CANVAS, window, window.size).upsample(MAPS)
    torch.testing.assert_close(found[:, 4:-4, 4:-4], cut[:, 4:-4, 4:-4], atol=1e-12, rtol=0)
    assert found.amin() >= Frame(CANVAS, window, window.size).tokens(MAPS).amin() - 1e-12


@pytest.mark.parametrize("scale", [2, 3])
def test_a_larger_mask_is_read_between_the_pixels_of_the_canvas(scale):
    window, ramp = Window(3, 5, 17, 26), torch.arange(10.0).expand(1, 6, 10).double()
    size = (17 * scale, 26 * scale)
    found = Frame(CANVAS, window, size).upsample(ramp)[0, 0]
    # Pixel x of the canvas lies at (x + 1/2) / 4 - 1/2 on the token axis; tokens 1 to 7 see the window.
    expected = ((5 + (torch.arange(size[1]).double() + 0.5) / scale) / 4 - 0.5).clamp(1, 7)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_averaging_puts_a_mask_where_its_window_is():
    mask = torch.zeros(1, 8, 14)
    mask[0, :4, 7:] = 1
    frame = Frame(CANVAS, Window(4, 8, 16, 28), (8, 14))  # a pixel of the mask is 2 x 2 of the canvas
    expected = torch.zeros(6, 10)
    expected[1:3, 5:9] = 1
    expected[1:3, 5] = 0.5  # its columns 20 to 23: the mask starts at 22
    assert torch.equal(frame.average(mask, (6, 10))[0], expected)
    large = interpolate(mask[None], scale_factor=6, mode="nearest")[0]
    torch.testing.assert_close(Frame(CANVAS, frame.window, (48, 84)).average(large, (6, 10))[0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_no_bit_of_a_letterboxed_map(dtype):
    maps, frame = MAPS.float(), Frame(CANVAS, Window(3, 0, 17, 40), (51, 77))
    expected = frame.upsample(maps)
    with torch.autocast("cpu", dtype):
        assert torch.equal(frame.upsample(maps), expected)
