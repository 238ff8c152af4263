"""What the page asks of a model: the results of `Model`, and no second encoding or pass where there was one."""

from threading import Event

import numpy as np
import pytest
from PIL import Image

from seg4diff.app.desk import Reading
from seg4diff.errors import UserError
from seg4diff.loading import load

WORDS = ("apple", "traffic cone", "grass")


@pytest.fixture
def passes(desk):
    """Names of the parts of the model that run, each time."""
    met = []
    own = desk.model.backbone._pipeline
    parts = {"picture": own.vae.encoder, "words": own.text_encoder, "block": own.transformer.transformer_blocks[0]}
    hooks = [part.register_forward_hook(lambda *_, name=name: met.append(name)) for name, part in parts.items()]
    yield met
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("scale", "options"), [(1, {}), (0, {"lora": None})])
def test_a_result_is_that_of_a_fresh_model(desk, load_options, photo, scale, options):
    found = desk.segment(photo, WORDS, Reading(1, 0.3, scale, (("background", 0.4),)))
    own = load(**load_options | options).segment(photo, list(WORDS), background=0.4)
    assert np.array_equal(found.labels, own.labels) and found.maps["grass"].equal(own.maps["grass"])


def test_another_noise_level_encodes_nothing_again(desk, photo, passes, tmp_path):
    Image.open(photo).rotate(180).save(tmp_path / "turned.png")
    desk.segment(tmp_path / "turned.png", ("ball", "sand"), Reading(2, 0.3))
    assert set(passes) == {"picture", "words", "block"}
    passes.clear()
    desk.segment(tmp_path / "turned.png", ("ball", "sand"), Reading(3, 0.6))
    assert set(passes) == {"block"}


def test_a_result_is_remembered(desk, photo, passes):
    first = desk.segment(photo, WORDS, Reading(2, 0.3))
    passes.clear()
    assert desk.segment(photo, WORDS, Reading(2, 0.3)) is first and not passes


def test_images_are_those_of_the_model(desk, load_options):
    drawn = list(desk.draw("a fish on water", [4], [0.0, 1.0], steps=2, guidance=3))
    own = load(**load_options).generate("a fish on water", seeds=4, lora_scale=[0.0, 1.0], steps=2, guidance=3)
    assert [one.image.tobytes() for one in drawn] == [one.image.tobytes() for one in own]


def test_a_stopped_image_ends_at_its_next_step(desk):
    (before,) = desk.draw("a fish", [4], [1.0], steps=4, guidance=1)
    stop, steps = Event(), []

    def third(*_):
        steps.append(1)
        if len(steps) == 3:
            stop.set()

    hook = desk.model.backbone.transformer.register_forward_hook(third)
    stopped = list(desk.draw("a fish", [4, 5], [1.0], steps=9, guidance=1, stop=stop))
    hook.remove()
    (after,) = desk.draw("a fish", [4], [1.0], steps=4, guidance=1)
    assert not stopped and len(steps) == 3 and after.image.tobytes() == before.image.tobytes()


def test_too_many_images_are_refused(desk):
    with pytest.raises(UserError, match="at most 8 images at once, found 10"):
        list(desk.draw("a fish", range(5), [0.0, 1.0], steps=2))


def test_the_model_is_as_before(desk, photo):
    block, level = desk.model.block, desk.model.readout.sigma
    desk.segment(photo, (), Reading(3, 0.9, 0.5))
    assert (desk.model.block, desk.model.readout.sigma) == (block, level)
