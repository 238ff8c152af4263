"""Hungarian matching against an exhaustive search, and what becomes of proposals that no class is left for."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from seg4diff.data.sample import IGNORE
from seg4diff.evaluation.matching import match, matched_labels, overlaps
from seg4diff.evaluation.metrics import SegmentationScore

TRUTH = torch.tensor([[0, 0, 0, 2, 2], [0, 0, 2, 2, IGNORE]])
"""Class 0 has five pixels, class 2 four, class 1 none."""


def counts(proposals, shared=None, truth=TRUTH, classes=3):
    score = SegmentationScore(classes)
    score.update(matched_labels(torch.as_tensor(proposals), truth, classes, shared), truth)
    return score.compute()


def test_overlaps_by_hand():
    proposals = torch.tensor([[1, 1, 3, 3, 3], [1, 3, 3, 0, 0]])
    assert overlaps(proposals, TRUTH, 3).tolist() == [[0, 3, 0, 2], [0, 0, 0, 0], [1, 0, 0, 3]]


@pytest.mark.parametrize(("classes", "width"), [(3, 5), (5, 3), (4, 4)])
def test_no_other_assignment_overlaps_more(classes, width):
    for seed in range(5):
        overlap = torch.randint(0, 20, (classes, width), generator=torch.Generator().manual_seed(seed))
        assigned = match(overlap)
        kept = [(int(k), number) for number, k in enumerate(assigned) if k != IGNORE]
        assert len({k for k, _ in kept}) == len(kept), "a class is one proposal"
        square = np.zeros((max(classes, width),) * 2, dtype=int)
        square[:classes, :width] = overlap
        best = max(sum(square[row, column] for row, column in enumerate(order)) for order in permutations(range(len(square))))
        assert sum(int(overlap[k, number]) for k, number in kept) == best


def test_numbers_of_proposals_do_not_matter():
    proposals = torch.randint(0, 6, (70, 90), generator=torch.Generator().manual_seed(0))  # so large that no two overlaps tie
    truth = torch.randint(0, 4, (70, 90), generator=torch.Generator().manual_seed(1))
    renumbered = torch.tensor([4, 9, 0, 2, 7, 5])[proposals]
    assert torch.equal(matched_labels(proposals, truth, 4), matched_labels(renumbered, truth, 4))


def test_an_unmatched_proposal_is_missed_by_its_classes_and_nobodys_mistake():
    # Proposal 0 is class 0 (three pixels), 1 is class 2 (three), 2 is left over: two pixels of class 0, one of class 2, one ignored.
    found = counts([[0, 0, 2, 2, 1], [0, 2, 1, 1, 2]])
    assert found["iou"].nan_to_num(-1).tolist() == pytest.approx([3 / 5, -1, 3 / 4])


def test_a_proposal_is_never_given_to_a_class_that_is_not_there():
    """Two classes are present, so one of three proposals stays without, although class 1 is free."""
    labels = matched_labels(torch.tensor([[0, 0, 0, 1, 1], [2, 2, 1, 1, 1]]), TRUTH, 3)
    assert labels.tolist() == [[0, 0, 0, 2, 2], [IGNORE, IGNORE, 2, 2, 2]]


def test_ignored_pixels_play_no_part():
    proposals = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 1, 7]])
    assert matched_labels(proposals, TRUTH, 3)[1, 4] == IGNORE
    perfect = counts(proposals)
    assert perfect["miou"] == 1 and perfect["pacc"] == 1
    unlabelled = torch.full_like(TRUTH, IGNORE)
    assert (matched_labels(proposals, unlabelled, 3) == IGNORE).all()


def diffseg_counts(proposals, truth, classes):
    """DiffSeg's evaluation (diffseg/utils.py), written out for one image: its TP, FP and FN per class."""
    width = max(classes, int(proposals.max()) + 1)
    kept = truth != IGNORE
    histogram = np.bincount((width * truth + proposals)[kept].numpy(), minlength=classes * width).reshape(classes, width)
    rows, columns = linear_sum_assignment(histogram, maximize=True)
    right = histogram[rows, columns]
    ordered = histogram[:, columns]
    return right, ordered.sum(axis=0) - np.diag(ordered), histogram.sum(axis=1) - right


@pytest.mark.parametrize("seed", range(5))
def test_present_classes_are_counted_as_by_diffseg(seed):
    """Every class is present and there are more proposals: then DiffSeg's counts and ours are the same."""
    generator = torch.Generator().manual_seed(seed)
    truth, proposals = torch.randint(0, 4, (8, 9), generator=generator), torch.randint(0, 7, (8, 9), generator=generator)
    truth[0, 0] = IGNORE
    right, wrong, missed = diffseg_counts(proposals, truth, 4)
    found = counts(proposals, truth=truth, classes=4)
    assert found["iou"].tolist() == pytest.approx(right / (right + wrong + missed))


def test_what_is_left_over_is_background_together():
    """DiffCut: class 0 is background, in three pieces."""
    truth = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 0, 0]])
    proposals = torch.tensor([[0, 0, 3, 1, 1, 1, 1, 4, 4, 2]])
    assert matched_labels(proposals, truth, 2).tolist() == [[0, 0, IGNORE, 1, 1, 1, 1, IGNORE, IGNORE, IGNORE]]
    assert matched_labels(proposals, truth, 2, shared=0).tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0]]


def test_named_classes_choose_before_the_background():
    """The proposal covers more background than anything else, but it is the only one that shows class 1."""
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0]])
    proposals = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    assert matched_labels(proposals, truth, 2, shared=0).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    alone = torch.zeros_like(truth)
    assert (matched_labels(alone, truth, 2, shared=0) == 0).all(), "the second matching is over all classes, as DiffCut's"
