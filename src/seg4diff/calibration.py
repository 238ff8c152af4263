"""Statistics of the maps of words over your own pictures, by which `Model.segment` tells which words are in a picture."""

from collections.abc import Iterable, Sequence

import torch

from seg4diff.data.geometry import Geometry
from seg4diff.inputs import CanvasPicture, Picture, check_words
from seg4diff.model import Model
from seg4diff.segmentation.presence import Calibration, peaks
from seg4diff.segmentation.prompts import split_names
from seg4diff.segmentation.readers.base import Reader


@torch.no_grad()
def calibrate(
    model: Model, pictures: Iterable[Picture], words: Sequence[str], *, reader: str | Reader = "expert", geometry: Geometry = "letterbox"
) -> Calibration:
    """How high the map of each word reaches in pictures, whatever they show; nothing has to be labelled.

    Args:
        model: the model.
        pictures: the pictures, at least two; each word should be absent from most of them.
        words: all words that will be looked for together, in this order.
        reader: see `Model.segment`.
        geometry: see `Model.segment`.

    Raises:
        UserError: a picture cannot be read, a word is empty, repeated or too long, or there are fewer than two pictures.
    """
    names = check_words(words)
    readout, prompts = model.read_by(reader), split_names(names, range(len(names)), model.backbone.fits)
    found = []
    for picture in pictures:
        placed = CanvasPicture(picture, model.image_size, geometry)
        images = placed.image[None].to(model.backbone.device)
        (maps,) = readout.class_maps(model.backbone, images, [prompts], [0], [model.block])[model.block]
        found.append(peaks(maps, placed.frame).cpu())
    return Calibration.of_peaks(found, range(len(names)), model.about(reader, names, geometry))
