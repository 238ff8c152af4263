"""Scores against Detectron2's, mmsegmentation's and torchmetrics' definitions and hand-computed cases."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.metrics import SegmentationScore

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
