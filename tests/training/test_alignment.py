"""Which map of the expert is compared with which mask, on scores that are laid out by hand."""

import pytest
import torch

from seg4diff.attention.joint import Joint
from seg4diff.backbones.base import TextCondition
from seg4diff.data.sample import IGNORE, Batch
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import list_names
from seg4diff.training.alignment import ExpertPass, alignment_by
from seg4diff.training.objective import MaskAlignment

GRID = (2, 3)
LABELS = torch.tensor([[0, 0, 1], [0, 1, IGNORE]])
BATCH = Batch(torch.zeros(1, 3, *GRID), [LABELS], [""], [""], [0])
CONDITION = TextCondition(
    torch.zeros(1, 5, 1), torch.zeros(1, 1), [[(0, 0), (0, 3), (4, 9), (0, 0)]], torch.tensor([[True, False, False, True, True]])
)
"""Start, "cat", "grass", end; one more token that stands in for another encoder."""


def align(what, scores):
    """Maps and regions of the image, for scores (heads, tokens, h, w)."""
    heads, tokens = scores.shape[:2]
    image, text = scores.flatten(2).transpose(1, 2)[None], torch.eye(tokens).expand(1, heads, tokens, tokens)
    joint = Joint(image, text, image, text, image, text, scale=1.0)
    objective = MaskAlignment(flow_weight=1.0, mask_weight=1.0, dice_weight=1.0)
    expert = ExpertPass(joint, GRID, CONDITION, [list_names(["cat", "grass"], [0, 1])])
    (maps,), (regions,) = alignment_by(what, objective, text_window=4)(expert, BATCH)
    return maps, regions


def test_spread_maps_of_names_are_aligned():
    """A block whose image tokens all look at all of them alike makes every map flat, at its mean."""
    scores = torch.randn(2, 5, *GRID, generator=torch.Generator().manual_seed(0))
    image, text = scores.flatten(2).transpose(1, 2)[None], torch.eye(5).expand(1, 2, 5, 5)
    joint, even = (Joint(own, text, own, text, own, text, scale=1.0) for own in (image, torch.zeros_like(image)))
    by_name = alignment_by("names", MaskAlignment(flow_weight=1.0, mask_weight=1.0, dice_weight=1.0), text_window=4)
    plain, spread = (
        by_name(ExpertPass(joint, GRID, CONDITION, [list_names(["cat", "grass"], [0, 1])], by), BATCH)[0][0] for by in (None, even)
    )
    torch.testing.assert_close(spread, plain.mean(dim=(1, 2), keepdim=True).expand_as(plain))


def shows(k):
    """The scores of a map that is right about class k."""
    return torch.where(k == LABELS, 8.0, -8.0)


@pytest.fixture
def scores():
    return torch.randn(2, 5, *GRID, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("what", ["names", "regions", "tokens"])
def test_regions_are_the_classes_and_unlabelled_pixels_do_not_count(what, scores):
    _, regions = align(what, scores)
    assert torch.equal(regions.masks, torch.stack([LABELS == 0, LABELS == 1]))
    assert torch.equal(regions.counted, LABELS != IGNORE)


def test_a_name_has_the_mean_of_the_heads_at_its_own_token(scores):
    maps, _ = align("names", scores)
    torch.testing.assert_close(maps, scores[:, 1:3].mean(dim=0))


def test_a_region_may_have_the_map_of_any_head_and_of_any_token_of_the_window(scores):
    scores[0, 3], scores[1, 0] = shows(0), shows(1)
    scores[:, 4] = shows(0) * 2  # beyond the window
    maps, _ = align("regions", scores)
    torch.testing.assert_close(maps, torch.stack([shows(0), shows(1)]))


def test_a_token_of_the_prompt_may_be_given_the_mask_of_another_word(scores):
    scores[:, 2], scores[:, 1], scores[:, 0] = shows(0), shows(1), shows(0) * 2  # the start token is no word
    maps, _ = align("tokens", scores)
    torch.testing.assert_close(maps, torch.stack([shows(0), shows(1)]))


def test_an_unknown_alignment_is_refused(scores):
    with pytest.raises(UserError, match=r"`align` must be 'names', 'regions' or 'tokens', found 'words'"):
        align("words", scores)
