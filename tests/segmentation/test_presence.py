"""Presence of classes from the peaks of their maps."""

import pytest
import torch

from seg4diff.data.geometry import Window, whole
from seg4diff.errors import UserError
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.presence import Calibration, OtherWords, Uncalibrated, Unknown
from seg4diff.segmentation.readout import Readout

FRAME = Frame((32, 48), whole((32, 48)), (8, 12))


def maps_of(*highest):
    """Maps of 4 x 6 tokens with these peaks, all at the same place."""
    return torch.tensor(highest)[:, None, None] * torch.linspace(0, 1, 24).view(1, 4, 6)


def test_presence_is_the_peak_in_standard_deviations_of_the_word_itself():
    calibration = Calibration.of_peaks([torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.2])], [0, 2])
    z = torch.tensor([(2.5 - 2) / 2**0.5, (5.0 - 5.1) / 0.02**0.5])
    torch.testing.assert_close(calibration(maps_of(2.5, 5.0), [0, 2], FRAME), (2 * z).sigmoid())
    torch.testing.assert_close(calibration(maps_of(5.0), [2], FRAME), (2 * z[1:]).sigmoid())


def test_an_absent_class_loses_the_pixels_that_min_max_gave_it():
    calibration = Calibration(torch.tensor([1.0, 1.0]), torch.tensor([0.1, 0.1]), {})
    maps = torch.stack([maps_of(1.3)[0].flip(1), maps_of(0.9)[0]])
    plain = Readout(sigma=0.3, scores="joint", normalisation="minmax", seed=0)
    assert (plain.segment(maps, [0, 1], FRAME) == 1).float().mean() > 0.3
    assert (plain.changed(presence=calibration).segment(maps, [0, 1], FRAME) == 1).float().mean() < 0.1
    assert torch.equal(plain.changed(presence=Unknown()).segment(maps, [0, 1], FRAME), plain.segment(maps, [0, 1], FRAME))


def test_without_statistics_words_are_compared_with_each_other():
    found = OtherWords()(maps_of(1.0, 1.0, 1.0, 4.0), [0, 1, 2, 3], FRAME)
    assert found[3] > 0.9 and (found[:3] < 0.4).all()
    assert torch.equal(OtherWords()(maps_of(1.0, 4.0), [0, 1], FRAME), torch.ones(2)), "two words tell nothing of each other"


def test_padding_has_no_peak():
    upper = Frame((32, 48), Window(0, 0, 16, 48), (8, 12))
    maps = maps_of(1.0)
    assert OtherWords()(maps, [0], upper) == 1
    calibration = Calibration(torch.tensor([maps[:, :2].max()]), torch.tensor([0.1]), {})
    torch.testing.assert_close(calibration(maps, [0], upper), torch.tensor([0.5]))


ABOUT = {"model": "a", "reader": "expert", "vocabulary": "sky, sea"}


def test_a_file_holds_the_statistics_and_what_they_are_of(tmp_path):
    made = Calibration(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2]), ABOUT)
    made.save(tmp_path / "c.safetensors")
    read = Calibration.load(tmp_path / "c.safetensors")
    assert torch.equal(read.mean, made.mean) and torch.equal(read.std, made.std)
    read.check(ABOUT)


@pytest.mark.parametrize("name", ABOUT)
def test_a_calibration_of_something_else_is_refused(name):
    with pytest.raises(UserError, match=f"the calibration is of another {name} .*seg4diff calibrate"):
        Calibration(torch.ones(2), torch.ones(2), ABOUT).check(ABOUT | {name: "other"})


@pytest.mark.parametrize("content", [None, b"", b"junk" * 40])
def test_a_file_that_is_no_calibration_is_named(tmp_path, content):
    file = tmp_path / "c.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.safetensors.*seg4diff calibrate"):
        Calibration.load(file)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="at least two images, found 1"):
        Calibration.of_peaks([torch.ones(2)], [0, 1])
    with pytest.raises(UserError, match="`images` must be at least 2, found 1"):
        Uncalibrated(images=1)
