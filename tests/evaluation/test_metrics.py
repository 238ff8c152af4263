"""Scores against a slow reference, torchmetrics and hand-computed cases; floors and ceiling."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.floors import Floors, grid_ceiling
from seg4diff.evaluation.metrics import SegmentationScore

CLASSES = 6


def random_pair(seed, shape=(9, 14)):
    """Class 4 is predicted but never true, class 5 occurs in neither, class 3 is true but never predicted."""
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice([0, 1, 2, 3, IGNORE], shape), rng.choice([0, 1, 2, 4], shape)
    predicted = np.where((rng.random(shape) < 0.5) & (truth < 3), truth, predicted)
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def slow_scores(pairs):
    ious, recalls, sizes, union_only = {}, {}, {}, {}
    pixels = [(int(p), int(t)) for predicted, truth in pairs for p, t in zip(predicted.flatten(), truth.flatten(), strict=True)]
    pixels = [(p, t) for p, t in pixels if t != 255]
    for k in range(CLASSES):
        both, either = sum(p == t == k for p, t in pixels), sum(k in (p, t) for p, t in pixels)
        sizes[k] = sum(t == k for _, t in pixels)
        if sizes[k]:
            ious[k], recalls[k] = both / either, both / sizes[k]
        if either:
            union_only[k] = both / either
    return {
        "miou": sum(ious.values()) / len(ious),
        "miou_union": sum(union_only.values()) / len(union_only),
        "macc": sum(recalls.values()) / len(recalls),
        "pacc": sum(p == t for p, t in pixels) / len(pixels),
        "fwiou": sum(sizes[k] * ious[k] for k in ious) / len(pixels),
    }


def scored(pairs, classes=CLASSES):
    metric = SegmentationScore(classes)
    for predicted, truth in pairs:
        metric.update(torch.as_tensor(predicted), torch.as_tensor(truth))
    return metric


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_slow_reference(seed):
    pairs = [random_pair(10 * seed + k, (5 + k, 9)) for k in range(3)]
    figures = scored(pairs).compute()
    expected = slow_scores(pairs)
    assert {name: float(figures[name]) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert expected["miou"] != expected["miou_union"], "the data tells the two definitions apart"


def test_scores_equal_torchmetrics():
    predicted, truth = random_pair(0)
    figures = scored([(predicted, truth)]).compute()
    options = {"num_classes": CLASSES, "ignore_index": IGNORE}
    per_class = MulticlassJaccardIndex(average="none", **options)(predicted[None], truth[None])
    torch.testing.assert_close(figures["iou"].nan_to_num(0).float(), per_class)
    torch.testing.assert_close(
        figures["miou_union"].float(), MulticlassJaccardIndex(average="macro", **options)(predicted[None], truth[None])
    )
    assert figures["iou"].isnan().tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([[0, 0], [1, 1]], {"miou": 7 / 12, "miou_union": 7 / 12, "macc": 5 / 6, "pacc": 3 / 4, "fwiou": 5 / 8}),
        ([[0, 0], [2, 1]], {"miou": 5 / 6, "miou_union": 5 / 9, "macc": 5 / 6, "pacc": 3 / 4, "fwiou": 3 / 4}),
    ],
)
def test_two_by_two_by_hand(predicted, expected):
    figures = scored([(predicted, [[0, 0], [0, 1]])], classes=3).compute()
    assert {name: float(figures[name]) for name in expected} == pytest.approx(expected)


def test_ignored_pixels_and_unlabelled_images_change_nothing():
    predicted, truth = random_pair(1)
    before = scored([(predicted, truth)])
    changed = torch.where(truth == IGNORE, (predicted + 1) % CLASSES, predicted)
    after = scored([(changed, truth), (predicted, torch.full_like(truth, IGNORE))])
    assert torch.equal(before.confusion, after.confusion)


def test_halves_merged_equal_the_whole():
    pairs = [random_pair(seed) for seed in range(4)]
    whole, first, second = scored(pairs), scored(pairs[:2]), scored(pairs[2:])
    first.merge_state(second)
    for name, value in whole.compute().items():
        torch.testing.assert_close(first.compute()[name], value, equal_nan=True, atol=0, rtol=0)


IMAGE_A = torch.tensor([[0, 0, 0], [0, 1, 1]])
IMAGE_B = torch.tensor([[1, 2, 2], [IGNORE, IGNORE, IGNORE]])


def floors(images, oracle, classes=3):
    metric = Floors(classes, oracle)
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
def test_floors_by_hand(oracle, constant, random):
    result = floors([IMAGE_A, IMAGE_B], oracle).compute()
    assert float(result["constant"]) == pytest.approx(constant) and float(result["random"]) == pytest.approx(random)
    unlabelled = floors([IMAGE_A, torch.full((2, 2), IGNORE), IMAGE_B], oracle).compute()
    assert unlabelled["constant"] == result["constant"] and unlabelled["random"] == result["random"]
    halves = floors([IMAGE_A], oracle)
    halves.merge_state(floors([IMAGE_B], oracle))
    assert halves.compute() == result and result["images"] == 2


def test_one_class_images_score_full_marks_under_an_oracle_prompt():
    images = [torch.full((3, 4), 1), torch.tensor([[2, 2, IGNORE]])]
    oracle, vocabulary = floors(images, True).compute(), floors(images, False).compute()
    assert oracle["constant"] == 1 and oracle["random"] == 1
    assert vocabulary["constant"] < 0.5 and vocabulary["random"] < 0.4


@pytest.mark.parametrize("oracle", [True, False])
def test_random_floor_equals_a_monte_carlo_estimate(oracle):
    generator = torch.Generator().manual_seed(0)
    present = ([0, 1], [1, 2, 3], [0, 4, IGNORE])
    masks = [torch.tensor(k)[torch.randint(len(k), (200, 250), generator=generator)] for k in present]
    guesses = []
    for mask, ids in zip(masks, present, strict=True):
        allowed = torch.tensor([k for k in ids if k != IGNORE] if oracle else range(5))
        guesses.append((allowed[torch.randint(len(allowed), mask.shape, generator=generator)], mask))
    assert float(floors(masks, oracle, 5).compute()["random"]) == pytest.approx(float(scored(guesses, 5).compute()["miou"]), abs=0.005)


def test_ceiling_is_exact_in_the_centres_of_constant_cells():
    cells = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = cells.repeat_interleave(5, 0).repeat_interleave(3, 1)
    assert torch.equal(grid_ceiling(mask, (4, 7))[2::5, 1::3], cells)


def test_ceiling_of_simple_images():
    halves = torch.zeros(8, 12, dtype=torch.long)
    halves[:, 6:] = 3
    single = torch.full((8, 12), 3)
    single[0] = IGNORE
    for mask in (halves, single):
        assert scored([(grid_ceiling(mask, (2, 4)), mask)]).compute()["miou"] == 1
    dot = torch.zeros(8, 12, dtype=torch.long)
    dot[1, 1] = 1
    assert scored([(grid_ceiling(dot, (2, 4)), dot)]).compute()["miou"] < 0.5, "a thing smaller than half a cell is lost"
    unlabelled = torch.full((8, 12), IGNORE)
    assert scored([(grid_ceiling(unlabelled, (2, 4)), unlabelled)]).confusion.sum() == 0
