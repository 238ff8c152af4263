"""The finder: which block is the expert, how sure that is, and what the studies say of each block; docs/analyze.md explains the rule.

It is a contest, held on many resamples of the evidence. The block that wins at least `CONFIDENCE` of them is the expert.

With masks, blocks compete by the mIoU of their maps, in the model's own readout. Guesses that do not look at the image compete too. Images
and classes are both drawn with replacement, because what random weights score by luck is a matter of the words.

Without masks, a block wins a resample of the images if it comes first in every study that has values of single images. If none does,
nobody wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from seg4diff.analysis.evidence import MEASURES, rank_correlations
from seg4diff.analysis.study import Findings, Setting
from seg4diff.analysis.tallies import counts_per_image
from seg4diff.evaluation.baselines import guessed_counts, guesses
from seg4diff.evaluation.bootstrap import percentile_interval, times_drawn
from seg4diff.evaluation.metrics import mean_iou

RESAMPLES, SEED = 1000, 0
CONFIDENCE = 0.95
"""Share of the resamples that the expert wins, at least."""
Numbers = Mapping[str, Mapping[int, float]]
"""By name and block."""


@dataclass(frozen=True)
class Contest:
    """How every block did.

    Attributes:
        rule: "masks", or "no masks".
        score: (B,) of all images: mIoU in [0, 1], or the mean rank over the studies, from 1.
        resampled: (R, B) the same of every resample.
        wins: (B,) share of the resamples that each block wins.
        rivals: score of each guess that does not look at the image; none without masks.
        studies: names of the measures that decide.
    """

    rule: str
    score: Tensor
    resampled: Tensor
    wins: Tensor
    rivals: dict[str, float] = field(default_factory=dict)
    studies: tuple[str, ...] = ()

    @property
    def ranking(self) -> list[int]:
        """The blocks, the best first: by the share of the resamples that they win, then by their score."""
        better = self.score if self.rule == "masks" else -self.score
        return sorted(range(len(better)), key=lambda block: (-float(self.wins[block]), -float(better[block])))

    @property
    def expert(self) -> int | None:
        """The block that wins enough of the resamples."""
        first = self.ranking[0]
        return first if self.wins[first] >= CONFIDENCE else None

    def sentence(self) -> str:
        """The verdict in words."""
        first, *others = self.ranking
        share = f"{100 * float(self.wins[first]):.0f} %"
        if self.rule == "no masks":
            every = f"all of {', '.join(MEASURES[name].title for name in self.studies)}"
            runner_up = f"; runner-up: block {others[0]}" if others else ""
            if self.expert is None:
                often = f"block {first} does in {share} of the resamples" if self.wins[first] else "no block does"
                return f"No expert: without masks a block must come first in {every}; {often}."
            return f"Block {first} is the expert: it comes first in {every}, in {share} of the resamples{runner_up}."
        found = [f"block {block} with {100 * float(self.score[block]):.1f} %" for block in self.ranking[:2]]
        best = max(self.rivals, key=lambda name: self.rivals[name])
        guess = f"best guess without the image ({best}): {100 * self.rivals[best]:.1f} %"
        if self.expert is not None:
            runner_up = f"runner-up: {found[1]}; " if others else ""
            score = f"an mIoU of {100 * float(self.score[first]):.1f} %"
            return f"Block {first} is the expert, best in {share} of the resamples, with {score}; {runner_up}{guess}."
        if self.wins.sum() >= CONFIDENCE:
            shares = f"{share} and {100 * float(self.wins[others[0]]):.0f} % of the resamples"
            return f"No single expert, by the mIoU: {found[0]} and {found[1]} are best in {shares}."
        return f"No expert: no block is better than a guess in enough of the resamples; best mIoU: {found[0]}; {guess}."


def find_expert(
    findings: Mapping[str, Findings], setting: Setting, trained: Mapping[str, Mapping[int, float]] | None = None
) -> dict[str, Any]:
    """The verdict, as it stands in analysis.json.

    Args:
        findings: of an analysis.
        setting: its setting.
        trained: more numbers to lay beside the evidence: what a sweep of trainings found.

    Returns:
        expert, runner_up: blocks or None; sentence: the verdict; rule, sigma, resamples: how it came about; rivals: see `Contest`;
        ranking: a mapping for each block, the best first, with its score, the 95 % interval of it, the share of resamples that it wins,
        and its number in each of `MEASURES`; correlations: see `rank_correlations`; without_masks: what the other rule would say.
    """
    level = min(range(setting.levels), key=lambda k: abs(setting.sigmas[k] - setting.readout.sigma))
    sigma = setting.sigmas[level]
    values = {name: measure.of_blocks(findings, sigma, setting.blocks) for name, measure in MEASURES.items()}
    values = {name: own for name, own in values.items() if not torch.tensor(own).isnan().all()}
    values |= {name: [own.get(block, float("nan")) for block in range(setting.blocks)] for name, own in (trained or {}).items()}
    by_studies = contest_without_masks(findings, level, setting.blocks)
    contest = contest_by_masks(findings, level, setting) if "segmentation" in findings else by_studies
    about = {"sigma": sigma, "resamples": RESAMPLES, "confidence": CONFIDENCE, "correlations": rank_correlations(values)}
    if contest is None:
        sentence = UNLABELLED if "segmentation" in findings else NOTHING
        return about | {"expert": None, "runner_up": None, "sentence": sentence, "rule": None, "ranking": [], "rivals": {}}
    ranking = [
        {
            "block": block,
            "score": float(contest.score[block]),
            "interval": list(percentile_interval(contest.resampled[:, block])),
            "wins": float(contest.wins[block]),
            "evidence": {name: own[block] for name, own in values.items()},
        }
        for block in contest.ranking
    ]
    names = {"expert": contest.expert, "runner_up": contest.ranking[1] if contest.expert is not None and len(ranking) > 1 else None}
    about |= names | {"sentence": contest.sentence(), "rule": contest.rule, "ranking": ranking, "rivals": contest.rivals}
    if contest.rule == "masks" and by_studies is not None:
        about["without_masks"] = {"expert": by_studies.expert, "first": by_studies.ranking[0], "sentence": by_studies.sentence()}
    return about


NOTHING = "No expert: the finder needs the study segmentation, or without masks all of budget, norms, granularity and causal."
UNLABELLED = "No expert: nothing is labelled in the images."


def contest_by_masks(findings: Mapping[str, Findings], level: int, setting: Setting) -> Contest | None:
    """Blocks and guesses compete by mIoU, on resamples of images and classes; None if no image has a labelled pixel.

    The IoU of a class is over the images of a resample; the mean is over the classes that were drawn, each as often as it was drawn.
    """
    rows, vocabulary = findings["segmentation"].evidence["counts"], setting.vocabulary

    def counts_of_block(block: int) -> Tensor:  # one after the other: those of all blocks together are large
        return counts_per_image(rows, level, block, len(vocabulary)).double()

    truth = counts_of_block(0)[:, 2]
    shown = truth.sum(dim=0) > 0
    if not shown.any():
        return None
    guessed = {name: guessed_counts(truth, own) for name, own in guesses(truth, True, vocabulary.background).items()}
    images = torch.cat(list(times_drawn(len(truth), RESAMPLES, SEED)))
    classes = torch.zeros(RESAMPLES, len(vocabulary), dtype=torch.float64)
    classes[:, shown] = torch.cat(list(times_drawn(int(shown.sum()), RESAMPLES, SEED + 1)))
    found, score = [], list[Tensor]()
    for block in range(setting.blocks):
        counts = counts_of_block(block)
        found.append(resampled_iou(counts, images, classes))
        score.append(mean_iou(counts.sum(dim=0)))
    resampled = torch.stack([*found, *(resampled_iou(own, images, classes) for own in guessed.values())], dim=1)
    resampled = resampled[~resampled.isnan().any(dim=1)]
    best = (resampled == resampled.amax(dim=1, keepdim=True)).double()
    wins = (best / best.sum(dim=1, keepdim=True)).mean(dim=0)  # who are equal share a win
    rivals = {name: float(mean_iou(own.sum(dim=0))) for name, own in guessed.items()}
    return Contest("masks", torch.stack(score), resampled[:, : setting.blocks], wins[: setting.blocks], rivals, ("grounding",))


def resampled_iou(counts: Tensor, images: Tensor, classes: Tensor) -> Tensor:
    """Mean IoU (R,) of counts (N, 3, C); images (R, N) and classes (R, C) were drawn so often. NaN where nothing drawn is labelled."""
    right, predicted, truth = (images @ counts.flatten(1)).unflatten(1, counts.shape[1:]).unbind(dim=1)
    drawn = classes.where(truth > 0, 0)
    iou = (right / (truth + predicted - right)).where(truth > 0, 0)
    return (iou * drawn).sum(dim=1) / drawn.sum(dim=1)


def contest_without_masks(findings: Mapping[str, Findings], level: int, blocks: int) -> Contest | None:
    """Blocks compete in every study that has values of single images, on resamples of its images; None if one is missing."""
    images = {name: measure.of_images(findings, level) for name, measure in MEASURES.items() if measure.images is not None}
    known = {name: own for name, own in images.items() if own is not None}
    if len(known) < len(images):
        return None
    means = [torch.cat([times @ own / len(own) for times in times_drawn(len(own), RESAMPLES, SEED)]) for own in known.values()]
    resampled = torch.stack([ranks(own) for own in means])
    whole = torch.stack([ranks(own.mean(dim=0)) for own in known.values()])
    wins = (resampled == 1).all(dim=0).double().mean(dim=0)
    return Contest("no masks", whole.mean(dim=0), resampled.mean(dim=0), wins, studies=tuple(known))


def ranks(values: Tensor) -> Tensor:
    """Rank of each value along the last axis: 1 = the largest; equal ones have the mean of their ranks."""
    return torch.from_numpy(rankdata(-values.numpy(), axis=-1))
