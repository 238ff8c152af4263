"""What seg4diff generate and seg4diff export share."""

import json

import pytest
import torch

from seg4diff.commands.drawing import claim_settings
from seg4diff.errors import UserError


@pytest.fixture
def file(tmp_path):
    """The settings of a folder that one thread began."""
    claim_settings(tmp_path / "settings.json", {"guidance": 7.5, "lora": None, "threads": 1}, "0-")
    return tmp_path / "settings.json"


def test_a_folder_keeps_the_number_of_threads_it_began_with(file):
    before = torch.get_num_threads()
    try:
        assert claim_settings(file, {"guidance": 7.5, "lora": None, "threads": 5}, "1-")["threads"] == 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance": 4.0, "lora": None}, "results with guidance 7.5, and here it is 4.0"),
        ({"guidance": 7.5, "lora": None, "steps": 28}, "results with steps null, and here it is 28"),
        ({"guidance": 7.5, "lora": "4711"}, 'results with lora null, and here it is "4711"'),
    ],
)
def test_other_settings_are_refused(file, settings, said):
    before = json.loads(file.read_text())
    with pytest.raises(UserError, match=rf"holds {said}: choose another folder \(--out\), or the same settings"):
        claim_settings(file, settings | {"threads": 1}, "0-")
    assert json.loads(file.read_text()) == before
