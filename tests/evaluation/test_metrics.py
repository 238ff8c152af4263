"""Scores against Detectron2's, mmsegmentation's and torchmetrics' definitions and hand-computed cases; floors and ceiling."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from seg4diff.data.geometry import Window, whole
from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.floors import Floors, grid_ceiling
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.segmentation.frame import Frame

CLASSES = 6


def random_pair(seed, shape=(9, 14)):
    """Class 4 is predicted but never true, class 5 occurs in neither, class 3 is true but never predicted."""
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice([0, 1, 2, 3, IGNORE], shape), rng.choice([0, 1, 2, 4], shape)
    predicted = np.where((rng.random(shape) < 0.5) & (truth < 3), truth, predicted)
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def detectron2(pairs, classes=CLASSES):
    """SemSegEvaluator.process and .evaluate, written out: ignored pixels are one more class, which the scores leave out."""
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)  # rows: prediction
    for predicted, truth in pairs:
        kept = np.where(truth.numpy() == IGNORE, classes, truth.numpy())
        np.add.at(matrix, (predicted.numpy().ravel(), kept.ravel()), 1)
    right, truth, predicted = matrix.diagonal()[:-1], matrix[:-1, :-1].sum(axis=0), matrix[:-1, :-1].sum(axis=1)
    accuracy, iou = np.full(classes, np.nan), np.full(classes, np.nan)
    present = truth > 0
    accuracy[present] = right[present] / truth[present]
    union = truth + predicted - right
    valid = present & (union > 0)
    iou[valid] = right[valid] / union[valid]
    return {
        "miou": iou[valid].sum() / valid.sum(),
        "macc": accuracy[present].sum() / present.sum(),
        "pacc": right.sum() / truth.sum(),
        "fwiou": (iou[valid] * (truth / truth.sum())[valid]).sum(),
    }


def mmsegmentation(pairs, classes=CLASSES):
    """IoUMetric.intersect_and_union and .total_area_to_metrics, written out: histograms of areas, nanmean."""
    areas = np.zeros((3, classes))
    for predicted, truth in pairs:
        predicted, truth = (labels.numpy()[truth.numpy() != IGNORE] for labels in (predicted, truth))
        for row, labels in zip(areas, (predicted[predicted == truth], predicted, truth), strict=True):
            row += np.histogram(labels, bins=classes, range=(0, classes - 1))[0]
    intersect, predicted, truth = areas
    with np.errstate(invalid="ignore"):
        return {
            "miou_union": np.nanmean(intersect / (predicted + truth - intersect)),
            "macc": np.nanmean(intersect / truth),
            "pacc": intersect.sum() / truth.sum(),
        }


def scored(pairs, classes=CLASSES):
    metric = SegmentationScore(classes)
    for predicted, truth in pairs:
        metric.update(torch.as_tensor(predicted), torch.as_tensor(truth))
    return metric


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_definitions_of_detectron2_and_mmsegmentation(seed):
    pairs = [random_pair(10 * seed + k, (5 + k, 9)) for k in range(3)]
    figures = scored(pairs).compute()
    for expected in (detectron2(pairs), mmsegmentation(pairs)):
        assert {name: float(figures[name]) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert figures["miou"] != figures["miou_union"], "the data tells the two definitions apart"


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_torchmetrics(seed):
    pairs = [random_pair(10 * seed + k) for k in range(4)]
    figures = scored(pairs).compute()
    options = {"num_classes": CLASSES, "ignore_index": IGNORE}
    for average, found in (("none", figures["iou"].nan_to_num(0)), ("macro", figures["miou_union"])):
        reference = MulticlassJaccardIndex(average=average, **options)
        for predicted, truth in pairs:
            reference.update(predicted[None], truth[None])
        torch.testing.assert_close(found.float(), reference.compute())
    assert figures["iou"].isnan().tolist() == [False] * 5 + [True]


def test_a_pixel_of_no_class_is_missed_and_nobodys_mistake():
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, IGNORE, 2]])
    predicted = torch.tensor([[0, IGNORE, 1, 1], [IGNORE, IGNORE, 0, 2]])
    figures = scored([(predicted, truth)], classes=3).compute()
    # Class 0: one right of three; class 1: one right, one too many, two missed; class 2: right.
    assert figures["iou"].tolist() == pytest.approx([1 / 3, 1 / 4, 1])
    assert float(figures["pacc"]) == pytest.approx(3 / 7) and float(figures["macc"]) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)


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
    assert halves.compute() == result


def test_background_is_a_guess_that_is_always_allowed():
    """Class 2 is the background: A may be guessed 0, 1 or 2; B, which shows it, as before."""
    metric = Floors(3, oracle=True, background=2)
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


def ceiling(mask, grid, canvas=(8, 12), window=None):
    return grid_ceiling(mask, grid, Frame(canvas, window or whole(canvas), tuple(mask.shape)))


def test_ceiling_is_exact_in_the_centres_of_constant_cells():
    cells = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = cells.repeat_interleave(5, 0).repeat_interleave(3, 1)
    assert torch.equal(ceiling(mask, (4, 7))[2::5, 1::3], cells)


def test_ceiling_of_simple_images():
    halves = torch.zeros(8, 12, dtype=torch.long)
    halves[:, 6:] = 3
    single = torch.full((8, 12), 3)
    single[0] = IGNORE
    for mask in (halves, single):
        assert scored([(ceiling(mask, (2, 4)), mask)]).compute()["miou"] == 1
    dot = torch.zeros(8, 12, dtype=torch.long)
    dot[1, 1] = 1
    assert scored([(ceiling(dot, (2, 4)), dot)]).compute()["miou"] < 0.5, "a thing smaller than half a cell is lost"
    unlabelled = torch.full((8, 12), IGNORE)
    assert scored([(ceiling(unlabelled, (2, 4)), unlabelled)]).confusion.sum() == 0


def test_ceiling_of_an_image_between_padding_is_that_of_its_tokens():
    mask = torch.randint(0, 3, (4, 7), generator=torch.Generator().manual_seed(0)).repeat_interleave(5, 0).repeat_interleave(3, 1)
    padded = ceiling(mask, (6, 9), canvas=(60, 54), window=Window(10, 12, 40, 42))  # 4 x 7 of the 6 x 9 tokens
    assert (padded != ceiling(mask, (4, 7))).float().mean() < 0.01, "but for rounding at a border"
