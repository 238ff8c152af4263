"""Merging of maps and what the empty prompt is read for."""

import pytest
import torch
from tests.hosts import random_flux, random_sd3
from tests.runs import compose_config
from torch.nn.functional import avg_pool2d

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t
from seg4diff.data.geometry import whole
from seg4diff.errors import UserError
from seg4diff.flow import draw, interpolate
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.readout import Readout
from seg4diff.segmentation.unsupervised import ProposalReadout, distributions, label_proposals, merge, merge_once, symmetric_kl

GRID = (12, 16)
READOUT = Readout(sigma=0.3, scores="joint", normalisation="minmax", seed=0)


def random_maps(count, seed=0):
    return torch.rand(count, 4, 6, generator=torch.Generator().manual_seed(seed))


def test_distributions_sum_to_one_over_the_pixels_and_keep_their_shape():
    maps = random_maps(5) * torch.tensor([1e-6, 1, 7, 1e5, 1])[:, None, None]
    maps[4] = 0
    maps[4, 1, 2] = 3
    found = distributions(maps)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(5))
    torch.testing.assert_close(found[2] / found[2, 0, 0], maps[2] / maps[2, 0, 0])
    assert (found > 0).all() and found[4].argmax() == 8


def test_divergences_equal_their_definition():
    maps = random_maps(4).double()
    maps /= maps.sum(dim=(1, 2), keepdim=True)
    found = symmetric_kl(maps)
    for first in range(4):
        for second in range(4):
            p, q = torch.distributions.Categorical(maps[first].flatten()), torch.distributions.Categorical(maps[second].flatten())
            expected = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)) / 2
            assert float(found[first, second]) == pytest.approx(float(expected), abs=1e-12)


def test_divergence_by_hand():
    """Symmetric KL of (3/4, 1/4) and (1/4, 3/4): each direction is 1/2 log 3."""
    maps = torch.tensor([[[0.75, 0.25]], [[0.25, 0.75]]])
    assert float(symmetric_kl(maps)[0, 1]) == pytest.approx(0.5 * torch.tensor(3.0).log().item(), abs=1e-7)


def on(*places):
    """A map with most of its mass on these of six tokens."""
    return torch.tensor([10.0 if k in places else 1.0 for k in range(6)]).view(2, 3)


def test_maps_of_one_region_become_their_mean():
    maps = distributions(torch.stack([on(0, 1), on(4), 1.01 * on(0, 1) + 0.05, on(5), on(4) + 0.02 * torch.rand(2, 3)]))
    merged = merge_once(maps, 0.05)
    expected = torch.stack([maps[[0, 2]].mean(dim=0), maps[[1, 4]].mean(dim=0), maps[3]])
    torch.testing.assert_close(merged, expected)
    torch.testing.assert_close(merged.sum(dim=(1, 2)), torch.ones(3))


def test_the_threshold_decides_and_nothing_merges_at_zero():
    maps = distributions(random_maps(8))
    counts = [len(merge(maps, threshold, 3)) for threshold in (0.0, 0.35, 0.42, 0.5, 10.0)]
    assert counts[0] == 8 and counts[-1] == 1 and counts == sorted(counts, reverse=True) and len(set(counts)) >= 3
    same = maps[[0, 0, 0]]
    assert torch.equal(merge(same, 0.0, 3), same)


def halves(*shares):
    return torch.stack([torch.tensor([[1 - share, share]]) for share in shares])


def test_rounds_merge_what_a_mean_brought_together():
    maps = halves(0.3, 0.4, 0.5)
    threshold = float(symmetric_kl(halves(0.32, 0.5))[0, 1])  # 0.3 is further from 0.5 than that, the mean 0.35 is closer
    torch.testing.assert_close(merge(maps, threshold, 1), halves(0.35, 0.5))
    torch.testing.assert_close(merge(maps, threshold, 2), halves(0.425))
    assert torch.equal(merge(maps, threshold, 9), merge(maps, threshold, 2)) and torch.equal(merge(maps, threshold, 0), maps)


def test_a_map_belongs_to_the_first_proposal_that_takes_it():
    maps = halves(0.30, 0.40, 0.35)  # the last is close to both, the first two are not close
    divergence = symmetric_kl(maps)
    threshold = float(divergence[0, 1]) * 0.9
    assert divergence[0, 2] < threshold and divergence[1, 2] < threshold
    torch.testing.assert_close(merge_once(maps, threshold), torch.stack([maps[[0, 2]].mean(dim=0), maps[1]]))


def test_labels_are_the_strongest_proposals_of_the_upsampled_maps():
    maps = distributions(torch.stack([on(0, 3), on(1), on(2, 5)]))
    frame = Frame((16, 24), whole((16, 24)), (4, 9))
    labels = label_proposals(maps, frame)
    assert labels[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and set(labels[:, 0].tolist()) == {0} and set(labels[:, -1].tolist()) == {2}


@pytest.mark.parametrize(("make", "window", "text"), [(lambda: random_sd3(t5_length=5), 32, 37), (random_flux, 24, 24)])
def test_every_position_of_the_text_window_gives_one_map(make, window, text):
    """The zeros in place of T5 carry no text: they are left out of the maps, and stay in the softmax."""
    model = make()
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = ProposalReadout(readout=READOUT, threshold=0.0, rounds=3).proposals(model, images, [4, 9], [0, 1])
    assert [tuple(own.shape) for own in found[0]] == [(window, 4, 6)] * 2
    condition = model.encode_text(["", ""])
    assert condition.embeddings.shape[1] == text and condition.padding.all()
    noise, sigma = draw(model.encode_image(images), [4, 9], 0, lambda _: 0.3)
    with torch.no_grad(), capture(model, [1]) as record:
        model.predict_velocity(interpolate(model.encode_image(images), noise, sigma), sigma, condition)
    maps = i2t(record[1], "joint")[:, :window].unflatten(-1, (4, 6))
    for own, expected in zip(found[1], maps, strict=True):
        torch.testing.assert_close(own, distributions(expected), atol=1e-6, rtol=1e-4)


def test_what_cannot_work_is_refused():
    logits = Readout(sigma=0.3, scores="logits", normalisation="none", seed=0)
    with pytest.raises(UserError, match="logits are no distribution"):
        ProposalReadout(readout=logits, threshold=0.1, rounds=3)
    for values in ({"threshold": -0.1, "rounds": 3}, {"threshold": 0.1, "rounds": -1}):
        with pytest.raises(UserError, match="must be at least 0, found"):
            ProposalReadout(readout=READOUT, **values)


def quarters(contrast, noise=0.03):
    """24 maps of a quarter of 12 x 16 tokens each, soft at the edge and noisy; their range is `contrast` times their mean, roughly."""
    maps = torch.zeros(4, 1, 12, 16)
    for k in range(4):
        maps[k, 0, 6 * (k // 2) : 6 * (k // 2) + 6, 8 * (k % 2) : 8 * (k % 2) + 8] = 1
    maps = avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)[:, 0].repeat(6, 1, 1)
    maps = maps + noise * torch.randn(24, 12, 16, generator=torch.Generator().manual_seed(0))
    return 1 + contrast * (maps - 0.25)


@pytest.mark.parametrize("name", ["sd3_medium", "flux1_dev"])
def test_the_default_of_real_models_merges_maps_of_one_place_and_no_others(name, tmp_path):
    """Whatever the contrast of their maps; the same threshold on maps as they are makes one proposal of everything."""
    merging, frame = compose_config("evaluate", tmp_path, "ckpt=base", f"backbone={name}").backbone.merging, Frame(GRID, whole(GRID), GRID)
    for contrast in (0.01, 0.3, 1.0, 3.0):
        found = merge(distributions(quarters(contrast), merging.contrast), merging.threshold, merging.rounds)
        assert len(found) == 4 and label_proposals(found, frame).unique(return_counts=True)[1].tolist() == [48] * 4
    assert len(merge(distributions(quarters(0.3), "own"), 0.1, 3)) == 1


def test_minmaxed_maps_are_softmaxes_between_0_and_1():
    """The release's order: min-max of each map over its tokens, softmax, divergence."""
    maps = random_maps(5) * 7 + 3
    values = maps.flatten(1)
    values = (values - values.amin(dim=1, keepdim=True)) / (values.amax(dim=1, keepdim=True) - values.amin(dim=1, keepdim=True))
    torch.testing.assert_close(distributions(maps, "minmax").flatten(1), values.softmax(dim=1))
    assert torch.equal(distributions(torch.ones(1, 2, 4), "minmax"), torch.full((1, 2, 4), 1 / 8)), "a flat map is uniform"


def test_a_threshold_between_minmaxed_maps_is_that_of_maps_as_they_are_over_the_square_of_their_range():
    """Half the variance of the difference, in units of the mean or of the range."""
    maps = 5 + 0.2 * random_maps(6).double()
    maps[:, 0, 0], maps[:, 3, 5] = 5.0, 5.2  # one range
    own, scaled = (symmetric_kl(distributions(maps, contrast)) for contrast in ("own", "minmax"))
    share = 0.2 / maps.mean()
    off = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(own[off] / scaled[off], torch.full((30,), float(share) ** 2).double(), rtol=0.1, atol=0)
    half = ((maps[0] - maps[1]) / 0.2).var(correction=0) / 2
    assert float(scaled[0, 1]) == pytest.approx(float(half), rel=0.1)


def test_an_unknown_contrast_is_refused():
    with pytest.raises(UserError, match="contrast of merging must be one of own, minmax, found 'high'"):
        ProposalReadout(readout=READOUT, threshold=0.1, rounds=1, contrast="high")
