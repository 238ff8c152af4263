"""What features and maps are worth, on cases made by hand."""

import pytest
import torch

from seg4diff.analysis.features import basis_of, explained, principal_components
from seg4diff.analysis.granularity import shape_of


@pytest.fixture
def places():
    return torch.cartesian_prod(torch.arange(6.0), torch.arange(9.0))


def centred(features):
    return features - features.mean(dim=0)


def share(features, regressors):
    own = centred(features)
    return explained(own, basis_of(regressors)) / float(own.square().sum())


def test_features_that_are_linear_in_the_place_are_explained_by_it(places):
    features = places @ torch.randn(2, 20, generator=torch.Generator().manual_seed(0)) + 3
    assert share(features, places) == pytest.approx(1, abs=1e-5)


def test_features_of_one_class_each_are_explained_by_the_masks_alone(places):
    classes = torch.nn.functional.one_hot(((places[:, 0] + places[:, 1]) % 2).long())  # a chessboard knows no direction
    features = classes.float() @ torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    assert share(features, classes.float()) == pytest.approx(1, abs=1e-5)
    assert share(features, places) < 0.01


def test_stripes_are_explained_by_the_axes_and_not_by_a_linear_map(places):
    rows, columns = places.long().unbind(dim=1)
    axes = torch.cat([torch.nn.functional.one_hot(own) for own in (rows, columns)], dim=1)
    stripes = torch.stack([torch.sin(3 * places[:, 0]), torch.cos(2 * places[:, 1])], dim=1)
    assert share(stripes, axes) == pytest.approx(1, abs=1e-5) and share(stripes, places) < 0.2
    assert basis_of(axes).shape[1] == 5 + 8, "6 rows and 9 columns, each of which sum to 1"


def test_explained_variance_is_that_of_least_squares(places):
    features = torch.randn(54, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    design = torch.cat([places.double(), torch.ones(54, 1).double()], dim=1)
    rest = features - design @ torch.linalg.lstsq(design, features).solution
    assert share(features, places) == pytest.approx(1 - float(rest.square().sum() / centred(features).square().sum()), abs=1e-9)


def test_principal_components_are_those_of_the_whole_decomposition():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(40, 30, generator=generator) * torch.tensor([9.0, 5.0, 3.0, *[1.0] * 27])
    found, share = principal_components(features, 3)
    left, values, _ = torch.linalg.svd(centred(features), full_matrices=False)
    assert share == pytest.approx(float(values[:3].square().sum() / values.square().sum()), rel=1e-3)
    likeness = torch.nn.functional.cosine_similarity(found, left[:, :3], dim=0).abs()
    assert likeness.min() > 0.99


def test_a_map_has_its_entropy_regions_and_area():
    flat, spots = torch.ones(4, 6), torch.zeros(4, 6)
    spots[0, 0] = spots[3, 4] = spots[3, 5] = 1.0
    spots[1, 1] = 0.6  # touches the first spot at a corner alone
    entropy, regions, area = shape_of(torch.stack([flat, spots])).unbind(dim=-1)
    assert entropy[0] == pytest.approx(1) and entropy[1] < 0.5
    assert regions.tolist() == [1, 3] and area.tolist() == pytest.approx([1, 4 / 24])
