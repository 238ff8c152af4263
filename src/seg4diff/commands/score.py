"""`seg4diff score`: what networks say about generated images, with intervals over prompts; see docs/generation-metrics.md."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seg4diff.backbones.loading import quiet_hosts
from seg4diff.backbones.runtime import find_device
from seg4diff.commands.outputs import check_output_dir, results_folder
from seg4diff.commands.segment import find_pictures
from seg4diff.data.reading import read_image
from seg4diff.disk import write_json
from seg4diff.errors import UserError, at_least
from seg4diff.evaluation.judges.detector import ClipColours, ZeroShotDetector
from seg4diff.evaluation.judges.figures import Figures, GenEvalJudge, PairMetric, TextMetric, batches, compare, measure, read
from seg4diff.evaluation.judges.geneval import Rules
from seg4diff.evaluation.judges.layouts import Sample, layout_of
from seg4diff.evaluation.judges.networks import Clip, CLIPScore, ImageFeatures, PickScore, Similarity, VQAScore, frechet_distance
from seg4diff.evaluation.judges.report import Comparison, print_scores, write_images
from seg4diff.provenance import provenance

log = logging.getLogger(__name__)

RESULT = "scores.json"
RESAMPLES, SEED = 1000, 0
"""Of the bootstrap."""


@dataclass(frozen=True)
class Weights:
    """Folder or hub id of each network; what is None is not measured.

    Attributes:
        detector: a zero-shot detector, for GenEval.
        clip: a CLIP model: CLIPScore, GenEval's colours and, beside a base folder, CLIP-I.
        pickscore: a CLIP model that was trained on preferences.
        vqa: a vision-language model, for VQAScore.
        dino: a vision transformer such as DINOv2, for the similarity with the images of a base folder.
        fid: any network of images, for FID with a folder of references.
    """

    detector: str | None = None
    clip: str | None = None
    pickscore: str | None = None
    vqa: str | None = None
    dino: str | None = None
    fid: str | None = None

    def skipped(self, geneval: bool, base: bool, references: bool) -> list[str]:
        """One sentence for each figure that is not measured.

        Args:
            geneval: whether the prompts are GenEval's.
            base: whether there is a folder to compare with.
            references: whether there is a folder of references.
        """
        lacking = (
            (geneval and self.detector is None, "GenEval is", "name a zero-shot detector with --detector"),
            (geneval and self.detector and self.clip is None, "GenEval's prompts with colours are", "name a CLIP model with --clip"),
            (self.clip is None, "CLIPScore is", "name a CLIP model with --clip"),
            (base and self.clip is None, "CLIP-I is", "name a CLIP model with --clip"),
            (base and self.dino is None, "DINO similarity is", "name a vision transformer with --dino"),
            (not base and self.dino, "DINO similarity is", "name the folder to compare with, --base"),
            (self.pickscore is None, "PickScore is", "name a CLIP model trained on preferences with --pickscore"),
            (self.vqa is None, "VQAScore is", "name a vision-language model with --vqa"),
            (references and self.fid is None, "FID is", "name a network with --fid"),
            (not references and self.fid, "FID is", "name a folder of pictures with --references"),
        )
        return [f"{what} skipped: {remedy}." for lacks, what, remedy in lacking if lacks]


class Panel:
    """The networks that are named.

    Args:
        weights: their names.
        device: where they go.
        rules: GenEval's thresholds; None = the prompts are not GenEval's.
        sentence: see `ZeroShotDetector`.
    """

    def __init__(self, weights: Weights, device: torch.device, rules: Rules | None, sentence: str) -> None:
        clip = None if weights.clip is None else Clip(weights.clip, device)
        self.texts: dict[str, TextMetric] = {}
        self.pairs: dict[str, PairMetric] = {}
        self.judge = None
        if clip is not None:
            self.texts["CLIPScore"], self.pairs["CLIP-I"] = CLIPScore(clip), Similarity(clip.images)
        if weights.pickscore is not None:
            self.texts["PickScore"] = PickScore(Clip(weights.pickscore, device))
        if weights.vqa is not None:
            self.texts["VQAScore"] = VQAScore(weights.vqa, device)
        if weights.dino is not None:
            self.pairs["DINO"] = Similarity(ImageFeatures(weights.dino, device))
        if weights.detector is not None and rules is not None:
            detector = ZeroShotDetector(weights.detector, device, min(rules.threshold, rules.counting_threshold), sentence)
            self.judge = GenEvalJudge(detector, None if clip is None else ClipColours(clip), rules)
        self.features = None if weights.fid is None else ImageFeatures(weights.fid, device)

    def compare(self, samples: Sequence[Sample], base: Sequence[Sample], at_once: int) -> tuple[Figures, Figures | None]:
        """The figures of a folder, and those of the folder it is compared with, if there is one."""
        figures = measure(samples, self.texts, self.judge, at_once)
        if not base:
            return figures, None
        compare(figures, base, self.pairs, at_once)
        return figures, measure(base, self.texts, self.judge, at_once)

    def distance(self, samples: Sequence[Sample], references: Sequence[Path], at_once: int) -> float:
        """FID between the images of a folder and references."""
        assert self.features is not None
        images = ([read(sample) for sample in batch] for batch in batches(samples, at_once))
        others = ([read_image(file, str(file), "leave it out") for file in batch] for batch in batches(references, at_once))
        return frechet_distance(self.features, images, others)


def score_folder(
    layout: str,
    folder: Path,
    *,
    weights: Weights,
    rules: Rules,
    sentence: str = "{}",
    base: Path | None = None,
    references: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
    at_once: int = 16,
) -> Path:
    """Score the images of a folder, print the table and write it.

    Args:
        layout: see `layouts.LAYOUTS`.
        folder: the images, drawn by `seg4diff export` or by another program.
        weights: the networks.
        rules: GenEval's thresholds.
        sentence: what the detector looks for, with {} for the name of a class.
        base: a folder in the same layout, whose images are compared with these by prompt and number.
        references: a folder of pictures for FID.
        out: folder of the results; None: outputs/score/<time>.
        device: where the networks go; None: the accelerator if there is one.
        at_once: images that a network sees together.

    Returns:
        The folder of the results.

    Raises:
        UserError: a folder or weights are missing, or nothing can be measured.
    """
    at_least(1, at_once=at_once)
    samples, others = layout_of(layout).read(folder), [] if base is None else layout_of(layout).read(base)
    pictures = [] if references is None else list(find_pictures(references).values())
    for sentence_about in weights.skipped(layout == "geneval", bool(others), bool(pictures)):
        log.info(sentence_about)
    if out is not None:
        check_output_dir(out, None)
    quiet_hosts()
    panel = Panel(weights, find_device(device), rules if layout == "geneval" else None, sentence)
    if not (panel.texts or panel.judge or (panel.pairs and others) or (panel.features and pictures)):
        raise UserError("nothing can be measured: name weights, such as --clip openai/clip-vit-large-patch14.")
    with results_folder(out, "score") as results:
        figures, before = panel.compare(samples, others, at_once)
        comparison = Comparison.of(figures, before, RESAMPLES, SEED)
        fid = {}
        if weights.fid and pictures:
            fid = {name: panel.distance(own, pictures, at_once) for name, own in (("base", others), ("this", samples)) if own}
        folders = {name: path and str(path) for name, path in (("this", folder), ("base", base), ("references", references))}
        about = {"layout": layout, "folders": folders, "weights": asdict(weights), "rules": asdict(rules), "sentence": sentence}
        write_json(results / RESULT, asdict(comparison) | {"fid": fid} | about | {"provenance": provenance()})
        write_images(results / "images.csv", {"this": figures} | ({} if before is None else {"base": before}))
        print_scores(comparison, fid)
        log.info("see %s", results)
    return results
