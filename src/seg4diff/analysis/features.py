"""What queries, keys and values of the image tokens hold: position or content (paper, figures 3 and 29)."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from seg4diff.analysis.scene import Look
from seg4diff.analysis.study import Findings, Reader, Setting
from seg4diff.analysis.tallies import ImageValues

PARTS = ("query", "key", "value")
QUANTITIES = ("pca", "position", "axes", "masks")
COMPONENTS = 3
"""Principal components: red, green and blue of the picture."""


class Features(Reader):
    """Principal components of the features of an image's tokens, and how much of their variance others explain.

    The features of a token are those of all heads side by side. Queries and keys are as the attention takes them: where a model has rotary
    embedding, it is part of them.

    pca: share of the variance in the first three principal components.
    position: R^2 of the best linear map from the row and the column of a token to its features.
    axes: R^2 of the best sum of any function of the row and any function of the column: it also sees the stripes of periodic features.
    masks: R^2 of the best linear map from the shares of the classes in the cell of a token to its features.
    by_chance: what R^2 would be for features without any structure, regressors / (tokens - 1).

    All are of one image about its mean; over images, explained variance and variance are summed, and then divided.
    """

    title = "position and content in queries, keys and values"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.images = ImageValues(setting.levels, setting.blocks, len(PARTS) * (1 + len(QUANTITIES)) + len(QUANTITIES) - 1)

    def see(self, look: Look) -> None:
        """Count a look."""
        case, shares = look.case, look.case.shares
        kept = torch.ones(case.grid[0] * case.grid[1], dtype=torch.bool) if shares is None else shares.sum(dim=1) > 0.5
        places = torch.cartesian_prod(*(torch.arange(own) for own in case.grid)).view(-1, 2)
        axes = torch.cat([one_hot(own) for own in places.unbind(dim=1)], dim=1)
        bases = [None if own is None else basis_of(own[kept]) for own in (places, axes, shares)]
        found: list[float] = []
        for part in PARTS:
            features = getattr(look.joint, f"image_{part}")[0].transpose(0, 1).flatten(1).float()
            components, share = principal_components(features, COMPONENTS)
            centred = features[kept.to(features.device)]
            centred = centred - centred.mean(dim=0)
            variance = float(centred.square().sum())
            found += [variance, share * variance, *(explained(centred, basis) for basis in bases)]
            if self.setting.album.wants(case.number):
                name = f"level{look.level}/block{look.block}/{part}"
                self.setting.album.add("features", case.number, name, as_colours(components).unflatten(0, case.grid))
        chance = [float("nan") if basis is None else basis.shape[1] / max(1, len(basis) - 1) for basis in bases]
        self.images.update(look, torch.tensor([*found, *chance]))

    def result(self) -> Findings:
        """Quantities: see the class."""
        numbers, values = self.images.of_images()
        width, rows = 1 + len(QUANTITIES), []
        chance = values[..., len(PARTS) * width :].nanmean(dim=0)
        for k, part in enumerate(PARTS):
            variance, *own = values[..., width * k : width * (k + 1)].unbind(dim=-1)
            ratios = [_sum(part_of_it) / _sum(variance.where(~part_of_it.isnan(), float("nan"))) for part_of_it in own]
            rows += self.rows(torch.stack(ratios, dim=-1), QUANTITIES, {"features": part, "by_chance": False})
            rows += self.rows(chance, QUANTITIES[1:], {"features": part, "by_chance": True})
        return Findings(rows, {"images": torch.tensor(numbers), "variance": values})


def _sum(values: Tensor) -> Tensor:
    """Sum over the images of (N, L, B) without the values that are NaN; NaN where all are."""
    return values.nansum(dim=0).masked_fill(values.isnan().all(dim=0), float("nan"))


def principal_components(features: Tensor, count: int) -> tuple[Tensor, float]:
    """The first principal components of features (N, D): projections (N, count), and the share of the variance in them."""
    centred = features - features.mean(dim=0)
    axes = torch.randn(centred.shape[1], count + 5, generator=torch.Generator().manual_seed(0)).to(centred.device)
    for _ in range(5):  # subspace iteration (Halko et al. 2011): the whole spectrum is not needed
        axes, _ = torch.linalg.qr(centred.T @ (centred @ axes))
    left, values, _ = torch.linalg.svd(centred @ axes, full_matrices=False)
    projections = torch.zeros(len(centred), count, device=centred.device)
    projections[:, : min(count, left.shape[1])] = (left * values)[:, :count]
    return projections, float(values[:count].square().sum() / centred.square().sum().clamp_min(1e-30))


def basis_of(regressors: Tensor) -> Tensor:
    """Orthonormal basis (N, rank) in float64 of the columns of (N, p) about their means; class shares that sum to 1 are not independent."""
    centred = regressors.double()
    centred = centred - centred.mean(dim=0)
    if not centred.numel():
        return centred[:, :0]
    axes, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return axes[:, values > 1e-6 * len(centred) ** 0.5]  # both columns and shares have values of about 1


def explained(centred: Tensor, basis: Tensor | None) -> float:
    """The part of the sum of squares of features (N, D) that a linear map from regressors with this basis explains; NaN without one."""
    return float("nan") if basis is None else float((basis.to(centred).T @ centred).square().sum())


def as_colours(projections: Tensor) -> Tensor:
    """Each column of (N, 3) scaled to 0..255, as uint8."""
    low, high = projections.amin(dim=0), projections.amax(dim=0)
    return ((projections - low) / (high - low).clamp_min(1e-12) * 255).round().byte()
