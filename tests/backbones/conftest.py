"""What the tests of LoRA files share."""

import pytest
import torch
from tests.hosts import random_sd3
from tests.lora_names import adapted


@pytest.fixture
def trained():
    return adapted(random_sd3())


@pytest.fixture(scope="module")
def layers():
    return {name: layer for name, layer in random_sd3().transformer.named_modules() if isinstance(layer, torch.nn.Linear)}
