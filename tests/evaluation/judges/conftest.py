"""Random networks that the tests of this folder share, and images that differ."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests import judges


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Folders of random networks by kind."""
    folder = tmp_path_factory.mktemp("weights")
    makers = {"owl": judges.make_owl, "dino": judges.make_dino, "llava": judges.make_llava}
    return {name: make(folder / name) for name, make in makers.items()} | {"clip": judges.make_clip(folder / "clip", seed=5)}


@pytest.fixture
def device():
    return torch.device("cpu")


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + 3 * k, 30, 3), dtype=np.uint8)) for k in range(4)]
