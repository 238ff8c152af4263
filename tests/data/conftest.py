"""A miniature of the data set that a test is about."""

from pathlib import Path

import pytest
from tests.data.cases import Case


@pytest.fixture
def root(case: Case, tmp_path) -> Path:
    return case.layout.write(tmp_path / "data")
