"""Detections and colours of random networks, beside what the networks themselves say."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.judges import make_grounding_dino
from transformers import AutoProcessor, GroundingDinoForObjectDetection, Owlv2ForObjectDetection

from seg4diff.errors import UserError
from seg4diff.evaluation.judges.detector import TEMPLATES, ClipColours, ZeroShotDetector, crop, one_class_each
from seg4diff.evaluation.judges.geneval import COLOURS, Detection
from seg4diff.evaluation.judges.networks import Clip


@pytest.fixture
def wide():
    """An image that OWLv2 pads to a square."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (24, 40, 3), dtype=np.uint8))


def network_says(weights, image, label):
    """Scores (N,) and boxes (N, 4) in pixels of every patch, from the raw output of the network."""
    inputs = AutoProcessor.from_pretrained(weights)(images=image, text=[[label]], return_tensors="pt")
    with torch.no_grad():
        output = Owlv2ForObjectDetection.from_pretrained(weights).eval()(**inputs)
    centre_x, centre_y, width, height = output.pred_boxes[0].unbind(dim=-1)
    corners = torch.stack([centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2], dim=-1)
    return output.logits[0, :, 0].sigmoid(), corners * max(image.size)


def test_detections_are_what_the_network_says(weights, device, wide):
    found = ZeroShotDetector(weights["owl"], device, 0.2)(wide, ["dog"])
    scores, boxes = network_says(weights["owl"], wide, "dog")
    boxes = torch.stack([boxes[:, 0].clamp(min=0), boxes[:, 1].clamp(min=0), boxes[:, 2].clamp(max=40), boxes[:, 3].clamp(max=24)], dim=-1)
    seen = (scores > 0.2) & (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
    order = scores[seen].argsort(descending=True)
    assert 0 < len(found) == int(seen.sum()) and {one.label for one in found} == {"dog"}
    assert [one.score for one in found] == pytest.approx(scores[seen][order].tolist(), abs=1e-4)
    assert np.allclose([one.box for one in found], boxes[seen][order], atol=1e-2)


def test_a_detector_that_answers_with_phrases(device, wide, tmp_path):
    """Grounding DINO returns "dog. [SEP]"; a class that is looked for by itself needs no answer."""
    folder = make_grounding_dino(tmp_path / "grounding")
    inputs = AutoProcessor.from_pretrained(folder)(images=[wide], text=[["dog"]], return_tensors="pt")
    with torch.no_grad():
        output = GroundingDinoForObjectDetection.from_pretrained(folder).eval()(**inputs)
    found = ZeroShotDetector(folder, device, 0.0)(wide, ["dog"])
    scores = output.logits[0].sigmoid().amax(dim=-1).sort(descending=True).values
    centres = (output.pred_boxes[0, :, :2] * torch.tensor([40, 24])).tolist()
    assert [one.score for one in found] == pytest.approx(scores.tolist(), abs=1e-4)
    assert all(any(one.box[0] <= x <= one.box[2] and one.box[1] <= y <= one.box[3] for one in found) for x, y in centres)


def test_the_sentence_is_what_is_looked_for(weights, device, wide):
    plain = ZeroShotDetector(weights["owl"], device, 0.0)(wide, ["a photo of a dog"])
    framed = ZeroShotDetector(weights["owl"], device, 0.0, "a photo of a {}")(wide, ["dog"])
    assert [one.score for one in framed] == [one.score for one in plain] and framed[0].label == "dog"
    with pytest.raises(UserError, match="for the name of the class, found"):
        ZeroShotDetector(weights["owl"], device, 0.0, "a dog")


def test_a_class_is_found_whatever_else_is_looked_for(weights, device, wide):
    """Only a box of a surer class at the same place takes one away."""
    detector = ZeroShotDetector(weights["owl"], device, 0.0)
    alone, both = {label: detector(wide, [label]) for label in ("dog", "cat")}, detector(wide, ["dog", "cat"])
    assert both == one_class_each(sorted(alone["dog"] + alone["cat"], key=lambda one: -one.score))
    assert 0 < len(both) < len(alone["dog"]) + len(alone["cat"])


def test_one_thing_has_one_class():
    dog, cat = Detection("dog", 0.9, (0, 0, 99, 99)), Detection("cat", 0.8, (1, 0, 99, 99))
    beside, twice = Detection("cat", 0.7, (0, 30, 99, 99)), Detection("dog", 0.6, (0, 0, 99, 99))
    assert one_class_each([dog, cat, beside, twice]) == [dog, beside, twice]


def test_weights_of_another_kind_are_refused(weights, device):
    with pytest.raises(UserError, match="could not be loaded as a zero-shot detector"):
        ZeroShotDetector(weights["clip"], device, 0.1)


def test_the_colour_is_that_of_the_nearest_text(weights, device, wide):
    clip = Clip(weights["clip"], device)
    things = [Detection("dog", 0.9, (0.0, 0.0, 15.0, 24.0)), Detection("dog", 0.8, (20.4, 3.0, 38.0, 20.0))]
    texts = {colour: clip.texts([sentence.format(colour=colour, label="dog") for sentence in TEMPLATES]).mean(dim=0) for colour in COLOURS}
    expected = []
    for thing in things:
        (vector,) = clip.images([wide.crop(tuple(map(round, thing.box)))])
        expected.append(max(COLOURS, key=lambda colour: float(vector @ texts[colour] / texts[colour].norm())))
    colours = ClipColours(clip)
    assert colours(wide, things, "dog") == expected and colours(wide, things[::-1], "dog") == expected[::-1]
    assert colours(wide, [], "dog") == []


def test_a_mask_hides_what_is_around_a_thing(wide):
    mask = np.zeros((24, 40), dtype=bool)
    mask[5:9, 10:20] = True
    shown = np.array(crop(wide, Detection("dog", 0.9, (8.0, 4.0, 22.0, 10.0), mask)))
    assert shown.shape == (6, 14, 3) and (shown[0] == 153).all() and (shown[:, :2] == 153).all()
    assert np.array_equal(shown[1:5, 2:12], np.array(wide)[5:9, 10:20])


def test_a_thin_box_still_shows_something(wide):
    assert crop(wide, Detection("dog", 0.9, (1.5, 0.0, 2.5, 9.0))).size == (1, 9)
