"""Segment people's own pictures, by their own words or without any; docs/segment.md says what is written."""

import json
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from omegaconf import DictConfig
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from seg4diff.backbones.base import Backbone
from seg4diff.data.geometry import GEOMETRIES
from seg4diff.data.reading import UnreadableError, reading
from seg4diff.data.sample import IGNORE, Vocabulary, image_to_tensor, resize_labels
from seg4diff.disk import whole_file, write_text
from seg4diff.errors import MissingFileError, UserError
from seg4diff.inherit import find_lora, take_from_run
from seg4diff.outputs import claimed
from seg4diff.pictures import IGNORED, class_colours, overlay, sheet
from seg4diff.run import build, load_lora, record
from seg4diff.segmentation.frame import Frame
from seg4diff.segmentation.prompts import split_names
from seg4diff.segmentation.readout import stretch
from seg4diff.segmentation.unsupervised import label_proposals

log = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
OVERLAY, CELL, COLUMNS = 1024, 256, 4
"""Longest side in pixels of an overlay, at most, and of a picture on the sheet of maps; columns of that sheet, at most."""
Reader = Callable[[Tensor, Frame], tuple[Tensor, Sequence[str], Tensor]]
"""(image (1, 3, H, W) in [-1, 1], part of it) -> labels (H', W') of that part, their names, a map (names, h, w) in [0, 1] of each word."""


def segment(config: DictConfig) -> None:
    """Segment a picture, or all pictures of a folder but those that cannot be read, as conf/segment.yaml says."""
    with claimed(Path(config.paths.output_dir)):
        _segment(config)


def _segment(config: DictConfig) -> None:
    lora = find_lora(str(config.ckpt))
    trained_for = take_from_run(config, lora) if lora is not None else None
    names, pictures, folder = check_names(config.names), find_pictures(Path(str(config.image))), Path(config.paths.output_dir)
    if config.geometry not in GEOMETRIES:
        raise UserError(f"geometry must be one of {', '.join(GEOMETRIES)}, found '{config.geometry}'.")
    backbone = build(config.backbone.model).eval()
    load_lora(config, backbone, lora, trained_for)
    backbone.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    backbone.check_device(backbone.device)
    read, rows, unreadable = make_reader(config, backbone, names), [], []
    record(config, folder)
    for path in track(pictures, "segmenting"):
        try:
            names = max(names, segment_picture(read, path, config), key=len)
            rows.append(json.dumps({"file_name": str(path.resolve()), "mask_file_name": f"labels/{path.stem}.png"}) + "\n")
        except UnreadableError as error:
            unreadable.append(error)
    if not rows:
        raise unreadable[0]
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in names))
    write_text(folder / "metadata.jsonl", "".join(rows))
    for error in unreadable:
        log.warning("left out: %s", error)
    log.info("segmented %d of %d pictures, see %s", len(rows), len(pictures), folder / "overlays")


def check_names(names: Sequence[str] | None) -> Sequence[str]:
    """The words to look for, each once and none of them empty; () to segment without words."""
    words = (names,) if isinstance(names, str) else tuple(names or ())
    if (names is not None and not words) or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"names must be words, as in names=[cat,grass], found {list(words)}: leave names out to segment without words.")
    return Vocabulary(words).names


def find_pictures(path: Path) -> list[Path]:
    """The picture itself, or those of a folder (not of the folders in it), sorted."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MissingFileError(f"there is no picture and no folder {path}: set image=<picture or folder>.")
    pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not pictures:
        raise MissingFileError(f"the folder {path} holds no picture ({', '.join(SUFFIXES)}), and the folders in it are not searched.")
    for one, other in pairwise(sorted(pictures, key=lambda file: file.stem)):
        if one.stem == other.stem:
            raise UserError(f"{one} and {other.name} would have results of the same name: rename one of them.")
    return pictures


def make_reader(config: DictConfig, backbone: Backbone, names: Sequence[str]) -> Reader:
    """How pictures are read: all meet the same noise, so that one has the same labels alone and in a folder."""
    block = config.expert_layer
    if not names:
        proposals = build(config.proposals)
        return lambda image, frame: by_size(label_proposals(proposals.proposals(backbone, image, [0], [block])[block][0], frame))
    readout = build(config.backbone.readout)
    prompts = split_names(names, range(len(names)), backbone.fits)

    def read(image: Tensor, frame: Frame) -> tuple[Tensor, Sequence[str], Tensor]:
        maps = readout.class_maps(backbone, image, [prompts], [0], [block])[block][0]
        labels = readout.segment(maps, range(len(names)), frame, None if readout.background is None else IGNORE)
        return labels, names, stretch(maps, frame)

    return read


def by_size(proposals: Tensor) -> tuple[Tensor, Sequence[str], Tensor]:
    """Proposals (H, W) numbered from the largest region, 0, to the smallest; the numbers as their names, and no map."""
    found, labels, pixels = proposals.unique(return_inverse=True, return_counts=True)
    ranks = pixels.argsort(descending=True, stable=True).argsort()
    return ranks.clamp_max(IGNORE)[labels], [str(k) for k in range(min(len(found), IGNORE))], torch.zeros(0, 1, 1)


def segment_picture(read: Reader, path: Path, config: DictConfig) -> Sequence[str]:
    """Segment a picture and write label map, overlay and heat maps under its name; returns the names of the labels."""
    with reading(f"the image {path}", "replace it or leave it out"):
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")  # cameras store pictures lying, and note which side is up
    size, canvas = (picture.height, picture.width), tuple(config.backbone.image_size)
    shown, window = GEOMETRIES[config.geometry](size, canvas)
    part = picture.crop(shown.corners)
    found, names, maps = read(window.paste(image_to_tensor(part, window.size), canvas, 0.0)[None], Frame(canvas, window, shown.size))
    labels = shown.paste(found.cpu(), size, IGNORE)
    written = {"labels": Image.fromarray(labels.numpy().astype(np.uint8))}
    written["labels"].putpalette([*class_colours(IGNORE).flatten().tolist(), *IGNORED])
    written["overlays"] = draw_regions(picture, labels, names, min(max(size), OVERLAY))
    if len(maps):
        regions = draw_regions(part, found.cpu(), names, 2 * CELL).reduce(2)  # smooth outlines, readable names
        written["maps"] = draw_maps(part, regions, names, Frame(canvas, window, (regions.height, regions.width)).upsample(maps).cpu())
    for kind, result in written.items():
        with whole_file(Path(config.paths.output_dir) / kind / f"{path.stem}.png") as partial:
            result.save(partial, format="PNG")
    return names


def draw_regions(picture: Image.Image, labels: Tensor, names: Sequence[str], side: int) -> Image.Image:
    """An overlay of labels (H, W) whose longer side is `side` pixels."""
    return overlay(picture, resize_labels(labels, [max(1, round(length * side / max(labels.shape))) for length in labels.shape]), names)


def draw_maps(picture: Image.Image, regions: Image.Image, names: Sequence[str], maps: Tensor) -> Image.Image:
    """A sheet of the picture, its regions and a heat map for each word, dark to bright as its map (names, H, W) goes from 0 to 1."""
    picture = picture.resize(regions.size)
    heat = colormaps["inferno"](maps.numpy(), bytes=True)[..., :3]
    shown = [picture, regions, *(Image.blend(picture, Image.fromarray(colours), 0.75) for colours in heat)]
    cells = [sheet([[cell]], (), [title]) for cell, title in zip(shown, ["picture", "regions", *names], strict=True)]
    columns = -(-len(cells) // -(-len(cells) // COLUMNS))  # rows of one length where that is possible
    return sheet([cells[k : k + columns] for k in range(0, len(cells), columns)])
