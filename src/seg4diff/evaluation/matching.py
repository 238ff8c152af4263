"""Which class a proposal without a name stands for: Hungarian matching with the ground truth of its image (paper, section 3.4)."""

from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from seg4diff.data.sample import IGNORE

Matching = Literal["one_to_one", "many_to_one"]
MATCHING_TEXT = {
    "one_to_one": "proposals matched with classes one to one (Hungarian, per image; paper, DiffSeg)",
    "many_to_one": "proposals matched with classes one to one, all that are left over are background together (DiffCut)",
}


def overlaps(proposals: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels that each class shares with each proposal, (classes, proposals) on the CPU.

    Args:
        proposals: (H, W) proposal numbers from 0.
        truth: (H, W) class ids; `IGNORE` pixels do not count.
        classes: number of classes.
    """
    counted, width = truth != IGNORE, int(proposals.max()) + 1
    pairs = (truth * width + proposals)[counted].flatten().cpu()
    return torch.bincount(pairs, minlength=classes * width).view(classes, width)


def match(overlap: Tensor) -> Tensor:
    """Assign proposals to classes so that most pixels overlap: (classes, proposals) -> (proposals,) class ids.

    A proposal that no class is left for, or that shares no pixel with its class, is `IGNORE`. (DiffSeg's code gives such a proposal to
    any class that is absent from the image, whichever the solver happens to take, as false positives.)
    """
    rows, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    assigned = torch.full((overlap.shape[1],), IGNORE)
    assigned[columns] = torch.from_numpy(rows)
    assigned[columns[overlap.numpy()[rows, columns] == 0]] = IGNORE
    return assigned


def matched_labels(proposals: Tensor, truth: Tensor, classes: int, shared: int | None = None) -> Tensor:
    """Proposals as a label map of class ids, to be scored like any other.

    A matched proposal predicts its class in all of its pixels. An unmatched one predicts no class (`IGNORE`): its pixels are false
    negatives of the classes that they truly have, and false positives of none, as in DiffSeg's evaluation.

    Args:
        proposals: (H, W) proposal numbers from 0.
        truth: (H, W) class ids or `IGNORE`.
        classes: number of classes.
        shared: a class that several proposals may form together (DiffCut's background): proposals are matched with the other classes
            first, those left over become one proposal, and the result is matched with all classes. None = no such class.
    """
    if shared is not None:
        overlap = overlaps(proposals, truth, classes)
        overlap[shared] = 0
        left_over = match(overlap) == IGNORE
        numbers = torch.arange(len(left_over)).where(~left_over, len(left_over))
        proposals = numbers.to(proposals.device)[proposals]
    return match(overlaps(proposals, truth, classes)).to(proposals.device)[proposals]
