"""What the tab *Generate* does: who may stop whose images, and how often an image is encoded."""

from types import SimpleNamespace

import pytest

from seg4diff.app.generate_tab import GenerateTab

WHO, OTHER = SimpleNamespace(session_hash="a"), SimpleNamespace(session_hash="b")


@pytest.fixture
def tab(desk, tmp_path):
    return GenerateTab(desk, tmp_path)


@pytest.fixture
def drawing(tab):
    """Three seeds with and without the LoRA; one image has been drawn."""
    running = tab.draw(WHO, "a fish on water", "0-2", 1, 2, 0, 1)
    next(running)
    return running


def test_somebody_stops_their_own_images(tab, drawing):
    tab.stop(WHO)
    assert len(list(drawing)) == 1, "the message that views can be chosen"


def test_nobody_stops_the_images_of_another(tab, drawing):
    tab.stop(OTHER)
    assert len(list(drawing)) == 5 + 1


def test_an_image_is_encoded_once(drawing, tmp_path):
    list(drawing)
    assert len(list(tmp_path.rglob("*.png"))) == 6
