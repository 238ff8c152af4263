"""Counts of images over processes, and intervals that hold what they promise."""

import numpy as np
import pytest
import torch

from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.bootstrap import ImageCounts, intervals, percentile_interval, resampled_miou
from seg4diff.evaluation.metrics import SegmentationScore, mean_iou

CLASSES, IMAGES = 5, 7
"""Seven images divide by neither two nor three processes."""


def pair(index, size=(9, 14)):
    """Image number `index`: about two of three pixels are right; class 4 is in few images."""
    rng = np.random.default_rng(index)
    truth = rng.choice([0, 1, 2, 3, IGNORE] if index % 3 else [0, 4, IGNORE], size)
    predicted = np.where((rng.random(size) < 0.65) & (truth != IGNORE), truth, rng.integers(CLASSES, size=size))
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def counted(indices):
    metric = ImageCounts(CLASSES)
    for index in indices:
        metric.update(index, *pair(index))
    return metric


def test_counts_of_images_sum_to_those_of_the_data_set():
    score = SegmentationScore(CLASSES)
    for index in range(IMAGES):
        score.update(*pair(index))
    counts = counted(range(IMAGES)).compute()[1]
    assert counts.shape == (IMAGES, 3, CLASSES) and counts.dtype == torch.int64
    assert mean_iou(counts.sum(dim=0)) == score.compute()["miou"]
    assert counts[3, 2].tolist() == [int((pair(3)[1] == k).sum()) for k in range(CLASSES)]


def test_a_data_set_of_one_image_has_one_number():
    """What torchmetrics returns of a tensor with one element is no list of it."""
    images, counts = counted([2]).compute()
    assert images == [2] and counts.shape == (1, 3, CLASSES)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_agree_to_the_last_bit(processes):
    whole = {"base": counted(range(IMAGES)).compute()[1]}
    parts = [counted(range(rank, IMAGES, processes)) for rank in range(processes)]
    for part in parts[1:]:
        parts[0].merge_state(part)
    merged = {"base": parts[0].compute()[1]}
    assert torch.equal(merged["base"], whole["base"])
    assert intervals(merged, 50, seed=3) == intervals(whole, 50, seed=3)


def test_resamples_in_which_nothing_is_labelled_have_no_say():
    counts = torch.zeros(4, 3, 2)
    counts[0] = torch.tensor([[3.0, 1.0], [4.0, 2.0], [4.0, 2.0]])
    found = intervals({"base": counts}, resamples=200, seed=0)
    assert found["base"] == pytest.approx(((3 / 5 + 1 / 3) / 2,) * 2)


def test_resamples_are_data_sets_of_the_same_images():
    """Each is scored as if its images had been seen so often; a slow loop over the same draws."""
    counts = counted(range(IMAGES)).compute()[1]
    generator = torch.Generator().manual_seed(5)
    expected = [mean_iou(counts[torch.randint(IMAGES, (IMAGES,), generator=generator)].sum(dim=0)) for _ in range(150)]
    found = resampled_miou(counts, 150, seed=5)
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(resampled_miou(counts, 70, seed=5), found[:70]) and not torch.equal(resampled_miou(counts, 150, seed=6), found)


def test_equal_images_leave_no_doubt():
    counts = counted([2]).compute()[1].repeat(9, 1, 1)
    low, high = percentile_interval(resampled_miou(counts, 40, seed=0))
    assert low == high == mean_iou(counts[0])


def test_the_gain_is_paired():
    """The LoRA gets one pixel in a hundred more right in every image: its score moves with the base's, the gain hardly."""
    base = counted(range(40)).compute()[1]
    lora = base.clone()
    lora[:, :2] = lora[:, :2] * 99 // 100 + base[:, 2:] // 100
    width = {name: high - low for name, (low, high) in intervals({"base": base, "lora": lora}, 300, seed=0).items()}
    assert width["gain"] < 0.2 * min(width["base"], width["lora"])
    assert intervals({"base": base, "lora": base}, 50, seed=0)["gain"] == (0, 0)


def test_percentiles_by_hand():
    assert percentile_interval(torch.arange(1001.0)) == pytest.approx([25, 975])
    assert percentile_interval(torch.arange(101.0), inside=0.8) == pytest.approx([10, 90])


def draw_images(count, rng):
    """Counts (count, 3, 3) of images of 100 pixels whose classes, difficulty and sizes vary; what is drawn is independent."""
    shares = rng.dirichlet([2.0, 1.0, 0.7], size=count)
    truth = rng.multinomial(100, shares)
    right = rng.binomial(truth, rng.beta([6, 4, 3], [2, 2, 3], size=(count, 3)))
    wrong = truth - right
    predicted = right + wrong[:, [1, 2, 0]]  # what is missed of one class is taken for the class before it
    return torch.from_numpy(np.stack([right, predicted, truth], axis=1))


def test_intervals_cover_the_true_value_as_often_as_they_say():
    """1,000 data sets of 150 images of a population whose mIoU is known: 95 % within 3 standard errors of a proportion (2.1 %)."""
    rng = np.random.default_rng(0)
    true = float(mean_iou(draw_images(400_000, rng).sum(dim=0)))
    trials = 1000
    covered = 0
    for trial in range(trials):
        low, high = percentile_interval(resampled_miou(draw_images(150, rng), 200, seed=trial))
        covered += low <= true <= high
    assert abs(covered / trials - 0.95) < 3 * (0.95 * 0.05 / trials) ** 0.5
