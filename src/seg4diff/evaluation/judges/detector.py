"""What is in an image and which colour it has, by networks that need no training for it: the eyes of `geneval.judge`."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from seg4diff.backbones.networks import load_network
from seg4diff.errors import UserError
from seg4diff.evaluation.judges.geneval import COLOURS, Box, Detection, iou
from seg4diff.evaluation.judges.networks import Clip

SAME_THING = 0.9
"""IoU from which boxes of two classes are one thing, which has the class with the higher score."""
BLANK = (153, 153, 153)
"""Colour around a masked thing: #999, as in GenEval's script."""
TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
"""Sentences whose mean stands for a colour, as in GenEval's script."""


class ZeroShotDetector:
    """Finds things by their names with any of transformers' zero-shot detectors: OWL-ViT, OWLv2, Grounding DINO and others.

    Each class is looked for by itself, so that no detector has to tell which of several names it found.

    Args:
        weights: folder or hub id of the detector with its processor.
        device: where it goes.
        threshold: confidence that a box must exceed.
        sentence: what is looked for, with {} for the name of the class.

    Raises:
        UserError: the weights are missing or of another kind, or the sentence has no {}.
    """

    def __init__(self, weights: str, device: torch.device, threshold: float, sentence: str = "{}") -> None:
        if sentence.count("{}") != 1:
            raise UserError(f"the sentence of a detector has one {{}} for the name of the class, found '{sentence}'.")
        self._network, self._prepare = load_network(
            "a zero-shot detector", AutoModelForZeroShotObjectDetection, AutoProcessor, weights, device
        )
        self._device, self._threshold, self._sentence = device, threshold, sentence

    def __call__(self, image: Image.Image, labels: Sequence[str]) -> list[Detection]:
        """The things of these classes, the most confident first."""
        found = [detection for label in labels for detection in self._find(image, label)]
        return one_class_each(sorted(found, key=lambda one: -one.score))

    @torch.no_grad()
    def _find(self, image: Image.Image, label: str) -> list[Detection]:
        asked = [[self._sentence.format(label)]]
        inputs = self._prepare(images=[image], text=asked, return_tensors="pt").to(self._device)
        outputs, sizes = self._network(**inputs), [(image.height, image.width)]
        (found,) = self._prepare.post_process_grounded_object_detection(
            outputs, threshold=self._threshold, target_sizes=sizes, text_labels=asked
        )
        boxes = [_inside(box, image) for box in found["boxes"].tolist()]
        things = zip(found["scores"].tolist(), boxes, strict=True)
        return [Detection(label, score, box) for score, box in things if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]


def _inside(box: Sequence[float], image: Image.Image) -> Box:
    """The part of a box that lies in the image."""
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, float(image.width)), min(bottom, float(image.height))


def one_class_each(found: Sequence[Detection]) -> list[Detection]:
    """Without boxes that a more confident box of another class covers, see `SAME_THING`.

    Args:
        found: the most confident first.
    """
    kept: list[Detection] = []
    for one in found:
        if all(other.label == one.label or iou(other.box, one.box) < SAME_THING for other in kept):
            kept.append(one)
    return kept


class ClipColours:
    """Which colour things have, by CLIP on what is in their boxes (GenEval, section 3).

    Args:
        clip: the model.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._colours: dict[str, Tensor] = {}

    def __call__(self, image: Image.Image, things: Sequence[Detection], label: str) -> list[str]:
        """The colour of each thing, one of `COLOURS`.

        Args:
            image: the whole image.
            things: things in it.
            label: their class.
        """
        if not things:
            return []
        if label not in self._colours:
            self._colours[label] = self._encode(label)
        chosen = (self._clip.images([crop(image, thing) for thing in things]) @ self._colours[label].T).argmax(dim=1)
        return [COLOURS[place] for place in chosen.tolist()]

    def _encode(self, label: str) -> Tensor:
        """One unit vector for each colour: (colours, D)."""
        texts = [template.format(colour=colour, label=label) for colour in COLOURS for template in TEMPLATES]
        vectors = self._clip.texts(texts).unflatten(0, (len(COLOURS), len(TEMPLATES)))
        return F.normalize(vectors.mean(dim=1), dim=-1)


def crop(image: Image.Image, thing: Detection) -> Image.Image:
    """What is in the box of a thing; where it has a mask, on grey."""
    if thing.mask is not None:
        blank = Image.new("RGB", image.size, BLANK)
        image = Image.composite(image, blank, Image.fromarray(thing.mask.astype(np.uint8) * 255))
    left, top, right, bottom = map(round, thing.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
