"""The objective's identities, in float64."""

from itertools import permutations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from seg4diff.data.sample import IGNORE
from seg4diff.errors import UserError
from seg4diff.flow import velocity
from seg4diff.training.objective import MaskAlignment, Regions, dice_loss, named_regions

MASK = torch.tensor([[0, 0, 4, 4, 2], [0, 0, 4, 2, 2], [2, 2, 2, 2, 2]])
IDS = [0, 2, 4]
LATENTS, NOISE = (torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))


def random_logits(mask=MASK, classes=3, seed=2):
    return torch.randn(classes, *mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def truth(mask=MASK, ids=IDS):
    return torch.stack([mask == k for k in ids]).double()


def terms(logits, ids=(IDS,), masks=(MASK,), predicted=LATENTS, **changes):
    weights = {"flow_weight": 1.0, "mask_weight": 1.0, "dice_weight": 1.0} | changes
    return MaskAlignment(**weights)(
        predicted, velocity(LATENTS, NOISE), list(logits), [named_regions(mask, own) for mask, own in zip(masks, ids, strict=True)]
    )


def test_the_exact_velocity_has_no_flow_loss():
    exact = velocity(LATENTS, NOISE)
    assert terms([random_logits()], predicted=exact)["flow"] == 0
    torch.testing.assert_close(terms([random_logits()], predicted=exact + 0.5)["flow"].double(), torch.tensor(0.25).double())


def test_right_maps_cost_nothing_and_inverted_maps_a_lot():
    right = terms([(2 * truth() - 1) * 40])
    assert right["focal"] < 1e-12 and right["dice"] < 1e-12
    wrong = terms([(1 - 2 * truth()) * 40])
    assert wrong["focal"] > 10 and wrong["dice"] > 0.85


def test_maps_on_the_token_grid_are_judged_at_the_size_of_the_mask():
    mask = torch.tensor([0, 3]).repeat_interleave(6).expand(4, 12)  # left, right
    logits = 40 * torch.tensor([[[1.0, -1.0]] * 2, [[-1.0, 1.0]] * 2], dtype=torch.float64)
    upright = terms([logits], [[0, 3]], [mask])
    turned = terms([logits.transpose(1, 2)], [[0, 3]], [mask])
    assert upright["dice"] < 0.1 < 0.4 < turned["dice"]


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_focal_without_gamma_is_weighted_cross_entropy(alpha):
    logits = random_logits()
    focal = terms([logits], focal_alpha=alpha, focal_gamma=0.0)["focal"]
    weight = alpha * truth() + (1 - alpha) * (1 - truth())
    torch.testing.assert_close(focal, binary_cross_entropy_with_logits(logits, truth(), weight=weight))
    if alpha == 0.5:
        torch.testing.assert_close(focal, 0.5 * binary_cross_entropy_with_logits(logits, truth()))


def test_gamma_discounts_pixels_by_how_right_they_are():
    mask, logits = torch.tensor([[1]]), torch.tensor([[[0.75]]], dtype=torch.float64).logit()
    plain, squared = (terms([logits], [[1]], [mask], focal_gamma=gamma)["focal"] for gamma in (0.0, 2.0))
    torch.testing.assert_close(squared / plain, torch.tensor(0.25**2).double())


def test_dice_by_hand():
    probability = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.25, 0.75]]], dtype=torch.float64)
    half = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    everywhere = torch.ones(2, 2, dtype=torch.float64)
    expected = torch.tensor([1 - (2 * 1.0 + 1) / (2 + 2 + 1), 1 - (2 * 1.0 + 1) / (2 + 2 + 1)]).double()
    torch.testing.assert_close(dice_loss(probability, half.expand(2, 2, 2), everywhere), expected)
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(dice_loss(probability[1:], half[None], left), torch.tensor([1 - 3 / (1.25 + 1 + 1)]).double())


def test_ignored_pixels_equal_pixels_that_are_not_there():
    wide, mask = random_logits(), MASK.clone()
    mask[:, 3:] = IGNORE
    cropped = terms([wide[..., :3]], masks=[MASK[:, :3]])
    for filling in (wide, torch.cat([wide[..., :3], 90 * wide[..., 3:]], dim=-1)):
        ignoring = terms([filling], masks=[mask])
        for name in ("focal", "dice"):
            torch.testing.assert_close(ignoring[name], cropped[name])
    nothing = terms([wide], masks=[torch.full_like(MASK, IGNORE)])
    assert nothing["focal"] == 0 and nothing["dice"].isfinite()


def test_the_order_of_classes_does_not_matter_but_their_pairing_does():
    logits, order = random_logits(), [2, 0, 1]
    straight, permuted = terms([logits]), terms([logits[order]], [[IDS[k] for k in order]])
    crossed = terms([logits[order]])
    for name in ("focal", "dice"):
        torch.testing.assert_close(straight[name], permuted[name])
        assert (straight[name] - crossed[name]).abs() > 1e-3


def test_loss_is_the_weighted_sum_of_the_terms_returned():
    result = terms([random_logits()], flow_weight=0.7, mask_weight=3.0, dice_weight=0.2)
    plain = terms([random_logits()])
    for name in ("flow", "focal", "dice"):
        assert torch.equal(result[name], plain[name]), "terms are returned unweighted"
    torch.testing.assert_close(result["loss"], 0.7 * plain["flow"] + 3.0 * plain["focal"] + 0.2 * plain["dice"])


def test_an_image_without_classes_adds_zero_to_the_mean_over_images():
    other = torch.full((2, 7), IGNORE)
    alone, joined = terms([random_logits()]), terms([random_logits(other, 0), random_logits()], [[], IDS], [other, MASK])
    for name in ("focal", "dice"):
        torch.testing.assert_close(joined[name], alone[name] / 2)


def test_halves_of_a_batch_average_to_the_whole():
    """So that processes, and accumulated batches, give the gradient of the whole batch."""
    few, many = (random_logits(), MASK, IDS), (random_logits()[:1], MASK, IDS[:1])
    whole = terms([few[0], many[0]], [few[2], many[2]], [few[1], many[1]])
    halves = [terms([logits], [ids], [mask]) for logits, mask, ids in (few, many)]
    for name in ("focal", "dice"):
        torch.testing.assert_close(whole[name], (halves[0][name] + halves[1][name]) / 2)


def test_an_image_without_classes_has_no_mask_loss():
    other = torch.full((2, 7), IGNORE)
    predicted = LATENTS.clone().requires_grad_()
    empty = terms([random_logits(other, 0)], [[]], [other], predicted=predicted)
    empty["loss"].backward()
    assert empty["focal"] == empty["dice"] == 0 and predicted.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_gradients_are_finite_for_extreme_logits(gamma, dtype):
    for value in (100.0, -100.0):
        logits = torch.full((3, *MASK.shape), value, dtype=dtype, requires_grad=True)
        terms([logits], focal_gamma=gamma)["loss"].backward()
        assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_the_gradient_points_towards_the_masks():
    logits = random_logits().requires_grad_()
    result = terms([logits])
    (result["focal"] + result["dice"]).backward()
    better = terms([(logits - logits.grad).detach()])
    assert better["focal"] < result["focal"] and better["dice"] < result["dice"]


def test_matching_finds_the_assignment_with_the_smallest_loss_of_all():
    objective = MaskAlignment(flow_weight=0.0, mask_weight=0.7, dice_weight=0.2)
    generator = torch.Generator().manual_seed(9)
    for _ in range(5):
        candidates = 2 * torch.randn(5, 3, 5, generator=generator)
        regions = Regions(torch.rand(3, 3, 5, generator=generator) > 0.5, torch.rand(3, 5, generator=generator) > 0.2)

        def loss(chosen, candidates=candidates, regions=regions):
            return float(objective(LATENTS, LATENTS, [candidates[list(chosen)]], [regions])["loss"])

        kept, found = objective.match(candidates, regions)
        assert kept == [0, 1, 2] and len(set(found)) == 3
        assert loss(found) == pytest.approx(min(loss(chosen) for chosen in permutations(range(5), 3)), rel=1e-5)


def test_matching_compares_on_the_grid_what_the_loss_compares_at_full_size():
    left = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(2, 4) * 20
    top = torch.tensor([[1.0], [-1.0]]).expand(2, 4) * 20
    masks = torch.zeros(2, 12, 24, dtype=torch.bool)
    masks[0, :6] = True  # the upper half
    masks[1, :, :12] = True  # the left half
    chosen = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2).match(
        torch.stack([-left, left, top]), Regions(masks, torch.ones(12, 24, dtype=torch.bool))
    )
    assert chosen == ([0, 1], [2, 1])


def test_with_few_candidates_the_regions_that_fit_best_are_kept():
    masks = torch.eye(3, dtype=torch.bool).view(3, 1, 3).expand(3, 2, 3)  # left, middle, right
    regions = Regions(masks, torch.ones(2, 3, dtype=torch.bool))
    objective = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2)
    assert objective.match(40 * masks[[2, 0]].float() - 20, regions) == ([0, 2], [1, 0])
    assert objective.match(torch.zeros(0, 2, 3), regions) == ([], []), "an empty prompt has no token"


def test_no_region_costs_nothing_and_needs_no_candidate():
    nothing = Regions(torch.zeros(0, 3, 5, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool))
    objective = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2)
    assert objective.match(torch.randn(4, 3, 5), nothing) == ([], [])
    assert objective(LATENTS, LATENTS, [torch.zeros(0, 3, 5)], [nothing])["loss"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matching_under_autocast_is_that_of_float32(dtype):
    """Candidates that cover hundreds of tokens: 1,536 pixels to a token times 400 tokens is beyond float16."""
    generator = torch.Generator().manual_seed(3)
    regions = Regions(torch.zeros(4, 640, 1536, dtype=torch.bool), torch.ones(640, 1536, dtype=torch.bool))
    for k in range(4):
        regions.masks[k, :, 384 * k : 384 * k + 600] = True
    candidates = 3 * torch.randn(24, 16, 40, generator=generator) + torch.linspace(-4, 8, 24).view(-1, 1, 1)
    objective = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2)
    expected = objective.match(candidates, regions)
    with torch.autocast("cpu", dtype):
        assert objective.match(candidates, regions) == expected
        assert objective.match(candidates.to(dtype), regions)[0] == expected[0], "nor do candidates in 16 bit overflow"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_are_not_matched(value):
    candidates = random_logits()
    candidates[1, 2, 3] = value
    objective = MaskAlignment(flow_weight=1.0, mask_weight=0.1, dice_weight=0.2)
    with pytest.raises(UserError, match="the maps to be matched with masks are not finite"):
        objective.match(candidates, named_regions(MASK, IDS))


@pytest.mark.parametrize("name", ["flow_weight", "mask_weight", "dice_weight", "focal_alpha", "focal_gamma"])
def test_weights_below_0_are_refused(name):
    with pytest.raises(UserError, match=f"`{name}` must be .*, found -1"):
        MaskAlignment(**{"flow_weight": 1.0, "mask_weight": 1.0, "dice_weight": 1.0, name: -1})
