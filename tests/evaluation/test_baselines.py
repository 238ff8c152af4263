"""Image-blind baselines and the upper bound, against cases worked out by hand and a Monte Carlo estimate."""

import pytest
import torch

from seg4diff.data.geometry import Window, whole
from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.baselines import GuessBaselines, TileBaselines, grid_upper_bound, tiles
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.segmentation.frame import Frame

IMAGE_A = torch.tensor([[0, 0, 0], [0, 1, 1]])
IMAGE_B = torch.tensor([[1, 2, 2], [IGNORE, IGNORE, IGNORE]])


def scored(pairs, classes=6):
    score = SegmentationScore(classes)
    for predicted, truth in pairs:
        score.update(predicted, truth)
    return score


def baselines(images, oracle, classes=3):
    metric = GuessBaselines(classes, oracle)
    for image in images:
        metric.update(image)
    return metric


@pytest.mark.parametrize(
    ("oracle", "constant", "random"),
    [
        # Oracle: A is filled with 0, B with 1 (the most frequent class it may use); a coin decides between the two classes of each.
        (True, (4 / 6 + 1 / 5 + 0) / 3, (2 / 5 + 1 / 4 + 2 / 5) / 3),
        # Vocabulary: everything is 0; each class takes a third of the nine pixels.
        (False, (4 / 9 + 0 + 0) / 3, (4 / 17 + 1 / 5 + 2 / 13) / 3),
    ],
)
def test_guesses_by_hand(oracle, constant, random):
    result = baselines([IMAGE_A, IMAGE_B], oracle).compute()
    assert float(result["constant"]) == pytest.approx(constant) and float(result["random"]) == pytest.approx(random)
    unlabelled = baselines([IMAGE_A, torch.full((2, 2), IGNORE), IMAGE_B], oracle).compute()
    assert unlabelled["constant"] == result["constant"] and unlabelled["random"] == result["random"]
    halves = baselines([IMAGE_A], oracle)
    halves.merge_state(baselines([IMAGE_B], oracle))
    assert halves.compute() == result


def test_background_is_a_guess_that_is_always_allowed():
    """Class 2 is the background: A may be guessed 0, 1 or 2; B, which shows it, as before."""
    metric = GuessBaselines(3, oracle=True, background=2)
    for image in (IMAGE_A, IMAGE_B):
        metric.update(image)
    result = metric.compute()
    # Each of A's six pixels is guessed to be any class by a third, B's three 1 or 2 by half; A is filled with 0, B with 1.
    assert float(result["random"]) == pytest.approx(
        ((4 / 3) / (4 + 2 - 4 / 3) + (2 / 3 + 1 / 2) / (3 + 7 / 2 - 7 / 6) + 1 / (2 + 7 / 2 - 1)) / 3
    )
    assert float(result["constant"]) == pytest.approx((4 / 6 + 1 / 5 + 0) / 3)


def test_one_class_images_score_full_marks_under_an_oracle_prompt():
    images = [torch.full((3, 4), 1), torch.tensor([[2, 2, IGNORE]])]
    oracle, vocabulary = baselines(images, True).compute(), baselines(images, False).compute()
    assert oracle["constant"] == 1 and oracle["random"] == 1
    assert vocabulary["constant"] < 0.5 and vocabulary["random"] < 0.4


@pytest.mark.parametrize("oracle", [True, False])
def test_random_guesses_equal_a_monte_carlo_estimate(oracle):
    generator = torch.Generator().manual_seed(0)
    present = ([0, 1], [1, 2, 3], [0, 4, IGNORE])
    masks = [torch.tensor(k)[torch.randint(len(k), (200, 250), generator=generator)] for k in present]
    guesses = []
    for mask, ids in zip(masks, present, strict=True):
        allowed = torch.tensor([k for k in ids if k != IGNORE] if oracle else range(5))
        guesses.append((allowed[torch.randint(len(allowed), mask.shape, generator=generator)], mask))
    assert float(baselines(masks, oracle, 5).compute()["random"]) == pytest.approx(float(scored(guesses, 5).compute()["miou"]), abs=0.005)


def upper_bound(mask, grid, canvas=(8, 12), window=None):
    return grid_upper_bound(mask, grid, Frame(canvas, window or whole(canvas), tuple(mask.shape)))


def test_upper_bound_is_exact_in_the_centres_of_constant_cells():
    cells = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = cells.repeat_interleave(5, 0).repeat_interleave(3, 1)
    assert torch.equal(upper_bound(mask, (4, 7))[2::5, 1::3], cells)


def test_upper_bound_of_simple_images():
    halves = torch.zeros(8, 12, dtype=torch.long)
    halves[:, 6:] = 3
    single = torch.full((8, 12), 3)
    single[0] = IGNORE
    for mask in (halves, single):
        assert scored([(upper_bound(mask, (2, 4)), mask)]).compute()["miou"] == 1
    dot = torch.zeros(8, 12, dtype=torch.long)
    dot[1, 1] = 1
    assert scored([(upper_bound(dot, (2, 4)), dot)]).compute()["miou"] < 0.5, "a thing smaller than half a cell is lost"
    unlabelled = torch.full((8, 12), IGNORE)
    assert scored([(upper_bound(unlabelled, (2, 4)), unlabelled)]).confusion.sum() == 0


def test_upper_bound_of_an_image_between_padding_is_that_of_its_tokens():
    mask = torch.randint(0, 3, (4, 7), generator=torch.Generator().manual_seed(0)).repeat_interleave(5, 0).repeat_interleave(3, 1)
    padded = upper_bound(mask, (6, 9), canvas=(60, 54), window=Window(10, 12, 40, 42))  # 4 x 7 of the 6 x 9 tokens
    assert (padded != upper_bound(mask, (4, 7))).float().mean() < 0.01, "but for rounding at a border"


@pytest.mark.parametrize(("size", "parts"), [((4, 6), 2), ((5, 7), 3), ((9, 2), 3)])
def test_tiles_are_equal_up_to_rounding(size, parts):
    numbers = tiles(size, parts)
    areas = torch.bincount(numbers.flatten())
    rows, columns = (torch.bincount(torch.arange(length) * parts // length) for length in size)
    assert areas[areas > 0].tolist() == [int(row * column) for row in rows for column in columns if row * column]
    assert tiles((4, 6), 2).tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2


def test_tiles_by_hand():
    tiled = TileBaselines(3, None)
    truth = torch.zeros(6, 6, dtype=torch.long)
    truth[:2, :2], truth[5, 5] = 1, IGNORE
    tiled.update(truth)
    tiled.update(torch.full((3, 3), 2))
    found = tiled.compute()
    # One proposal is class 0 in the first image (31 of 35 pixels) and class 2, all of it, in the second.
    assert float(found["single"]) == pytest.approx((31 / 35 + 0 + 1) / 3)
    # Nine tiles: four pixels of class 0, class 1 exactly, and one pixel of class 2.
    assert float(found["tiles"]) == pytest.approx((4 / 31 + 1 + 1 / 9) / 3)
