"""Check a data set without a model: missing and broken files, statistics of the labels, a sheet of images with masks."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import track
from rich.table import Table
from torch import Tensor

from seg4diff.commands.arguments import for_hydra
from seg4diff.commands.keys import keys_named
from seg4diff.commands.outputs import results_folder
from seg4diff.commands.trainers import build
from seg4diff.commands.values import Misfit, fit
from seg4diff.data.datamodule import SegmentationDataModule
from seg4diff.data.files import first_few
from seg4diff.data.geometry import scaled, size_of
from seg4diff.data.sample import IGNORE, Vocabulary, resize_labels
from seg4diff.data.source import SPLITS, SampleDataset
from seg4diff.data.survey import Summary, survey
from seg4diff.disk import save_picture, write_json
from seg4diff.errors import UserError, renamed
from seg4diff.pictures import contact_sheet, overlay, overlay_regions
from seg4diff.resources import conf_dir, set_places
from seg4diff.screen import screen

log = logging.getLogger(__name__)

SIDE = 320
"""Longer side, in pixels, of the pictures of a sheet."""
NOTHING = "-"
PRINTED = 20
"""Number of problems that are printed; check.json has all of them."""


def check_data(
    data: str,
    *,
    root: Path | None = None,
    split: str = "all",
    decode: str = "100",
    images: int = 16,
    out: Path | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """`seg4diff check`: see `check`.

    Args:
        data: a data set of conf/data.
        root: where it lies; None: what its configuration says.
        split: "train", "validation", "test" or "all".
        decode: how many images of a split are opened, or "all".
        images: how many are on the sheet of a split.
        out: folder of the results; None: outputs/check/<time>.
        settings: what else is set, as on the command line of train.py.
    """
    known = sorted(file.stem for file in (conf_dir() / "data").glob("*.yaml"))
    if data not in known:
        near = get_close_matches(data, known, n=1)
        raise UserError(f"there is no data set '{data}'{f' (did you mean {near[0]}?)' if near else ''}: choose {', '.join(known)}.")
    values = [f"data={data}", f"split={split}", f"decode={decode}", f"images={images}", *settings]
    set_places()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("check", for_hydra(values, conf_dir()))
    if root is not None:
        places = ("data.source.root", "data.source.train.root", "data.source.path")
        OmegaConf.update(config, next(place for place in places if OmegaConf.select(config, place) is not None), str(root))
    with results_folder(out, "check", "check.json") as folder:
        config.paths.output_dir = str(folder)
        with keys_named(config.data), renamed({"root": "--root", "path": "--root"}.get):
            return check(config)


def check(config: DictConfig) -> dict[str, Any]:
    """Check the splits of a data set; write check.json and, for each split, a sheet of pictures.

    Args:
        config: composed from conf/check.yaml.

    Returns:
        The content of check.json.

    Raises:
        UserError: files are missing, or some of those that were opened cannot be used.
    """
    splits = _splits(str(config.split))
    decode, pictured = _number("decode", config.decode), _number("images", config.images)
    output_dir = Path(config.paths.output_dir)
    data: SegmentationDataModule = build(config.data)
    data.source.prepare(splits)
    summaries, names, report = dict[str, Summary](), dict[str, list[str]](), {}
    for split in splits:
        samples = data.source.split(split, None, resize_mask=False)
        names[split] = [samples.name(k) for k in range(len(samples))]
        twin = next((earlier for earlier in summaries if names[earlier] == names[split]), None)
        if twin is not None:
            report[split] = {"same_images_as": twin}
            continue
        chosen = _spread(range(len(samples)), decode)
        summaries[split] = summary = Summary(data.vocabulary, names[split])
        for found in track(survey(samples, chosen, data.num_workers), f"{split}: opening {len(chosen)} images", len(chosen)):
            summary.add(found)
        shared = {earlier: summary.shared(other) for earlier, other in summaries.items() if earlier != split}
        report[split] = summary.report() | {"shared": {earlier: names for earlier, names in shared.items() if names}}
        readable = [k for k in chosen if names[split][k] not in summary.problems]
        _draw(samples, _spread(readable, pictured), data, split, output_dir)
    write_json(output_dir / "check.json", report)
    _print(summaries, report)
    log.info("check.json and the sheets of pictures are in %s", output_dir)
    problems, opened = (sum(counts) for counts in zip(*((len(own.problems), own.opened) for own in summaries.values()), strict=True))
    if problems:
        raise UserError(f"{problems} of the {opened} images that were opened cannot be used: {output_dir}/check.json names them all.")
    for split, summary in summaries.items():
        if not summary.scorable:
            raise UserError(f"no pixel of the {split} split has a label, so it cannot be scored: correct its masks or choose other images.")
    return report


def _splits(wanted: str) -> Sequence[str]:
    if wanted not in (*SPLITS, "all"):
        raise UserError(f"`split` must be all or one of {', '.join(SPLITS)}, found '{wanted}'.")
    return SPLITS if wanted == "all" else [wanted]


def _number(key: str, value: int | str) -> int | None:
    """A number of images, None for all."""
    if value == "all":
        return None
    try:
        number = fit(value, int)
    except Misfit:
        number = -1
    if number < 0:
        raise UserError(f"`{key}` must be a number of images or the word all, found '{value}'.")
    return number


def _spread(indices: Sequence[int], count: int | None) -> list[int]:
    """`count` of the indices at even distances; all for None."""
    if count is None or count >= len(indices):
        return list(indices)
    return [indices[(2 * k + 1) * len(indices) // (2 * count)] for k in range(count)]


def _draw(samples: SampleDataset, indices: Sequence[int], data: SegmentationDataModule, split: str, folder: Path) -> None:
    """Write the sheet of a split."""
    if indices:
        entries = [_entry(samples, k, data) for k in track(indices, f"{split}: drawing {len(indices)} of them")]
        save_picture(contact_sheet(entries, f"{split}: {len(indices)} of {len(samples)} images"), folder / f"{split}.png")


def _entry(samples: SampleDataset, index: int, data: SegmentationDataModule) -> tuple[list[Image.Image], str]:
    """The part of an image that models see, the same with its labels or regions laid over it, and a line about it."""
    row, labels = samples.read(index)
    window = data.shown(size_of(labels))
    image, labels = row.image.crop(window.corners), window.cut(labels)
    factor = SIDE / max(labels.shape)
    size = scaled(size_of(labels), factor)
    image = image.resize(size[::-1], Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
    words = [f"{Path(row.name).name}, {row.image.width} x {row.image.height}"]
    if row.regions is not None:
        regions = [resize_labels(window.cut(torch.from_numpy(region)), size) for region in row.regions]
        stacked = torch.stack(regions) if regions else torch.zeros(0, *size, dtype=torch.bool)
        words.append(f"{len(regions)} regions on {stacked.any(0).float().mean():.0%} of it")
        drawn = overlay_regions(image, stacked)
    else:
        words.append(_shares(labels, data.vocabulary))
        drawn = overlay(image, resize_labels(labels, size), data.vocabulary.names)
    if row.caption:
        words.append(f'"{row.caption}"')
    return [image, drawn], "; ".join(words)


def _shares(labels: Tensor, vocabulary: Vocabulary) -> str:
    """The classes of a label map, the largest first."""
    names = {**dict(enumerate(vocabulary.names)), IGNORE: "ignored"}
    counts = sorted(enumerate(torch.bincount(labels.flatten()).tolist()), key=lambda pair: -pair[1])
    shares = {names[k]: count / labels.numel() for k, count in counts if count}
    return ", ".join(f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%" for name, share in shares.items())


def _print(summaries: dict[str, Summary], report: dict[str, Any]) -> None:
    """Print the table, the most frequent classes, shared images and problems."""
    console, table = screen(), Table("", *summaries)
    columns = [_column(summary) for summary in summaries.values()]
    for title in columns[0]:
        if any(column[title] != NOTHING for column in columns):
            table.add_row(title, *(column[title] for column in columns))
    console.print(table)
    for split, own in report.items():
        if split not in summaries:
            console.print(f"{split}: the images of {own['same_images_as']}.")
        elif summaries[split].labelled:
            console.print(f"{split}: {_frequencies(summaries[split])}", highlight=False)
        for kind, images in (_overlaps(own) if split in summaries else {}).items():
            console.print(f"{split}: {len(images)} images {kind}: {first_few(images)}", highlight=False)
    problems = [reason for summary in summaries.values() for reason in summary.problems.values()]
    for reason in problems[:PRINTED]:
        console.print(f"- {reason}", highlight=False)
    if len(problems) > PRINTED:
        console.print(f"- and {len(problems) - PRINTED} more")


def _overlaps(report: dict[str, Any]) -> dict[str, list[str]]:
    """Images that are in several places, by the phrase that says so."""
    found = {"are in it more than once": [name for group in report["repeated"] for name in group]}
    found |= {f"are in {other} too": names for other, names in report["shared"].items()}
    return {kind: names for kind, names in found.items() if names}


def _column(summary: Summary) -> dict[str, str]:
    """The figures of a split by their titles."""
    sizes = sorted(summary.sizes, key=lambda size: size[0] * size[1]) or [(0, 0)]
    named, labelled = len(summary.vocabulary), summary.labelled > 0
    return {
        "images": f"{summary.images:,}",
        "opened": f"{summary.opened:,}",
        "cannot be used": f"{len(summary.problems):,}",
        "with a caption of their own": f"{summary.captions:,}",
        "smallest, height x width": "{} x {}".format(*sizes[0]),
        "largest": "{} x {}".format(*sizes[-1]),
        "sizes": f"{len(summary.sizes):,}",
        "classes present": f"{named - len(summary.absent)} of {named}" if labelled else "masks without names",
        "pixels ignored": f"{summary.ignored:.1%}" if labelled else NOTHING,
        "images ignored everywhere": f"{len(summary.unlabelled):,}" if labelled else NOTHING,
        "regions of an image, mean": f"{summary.mean_regions:.1f}" if summary.regions else NOTHING,
    }


def _frequencies(summary: Summary) -> str:
    """Which classes have most pixels, which have none."""
    shares = summary.shares()
    names = sorted(shares, key=lambda name: -shares[name])[:8]
    text = f"most labelled pixels are {', '.join(f'{name} {shares[name]:.1%}' for name in names)}"
    if not summary.absent:
        return f"{text}; no class is absent."
    more = f" and {len(summary.absent) - 8} more" if len(summary.absent) > 8 else ""
    return f"{text}. Classes in no image that was opened: {', '.join(summary.absent[:8])}{more}."
