"""The test loop of an analysis."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from torch import nn

from seg4diff.analysis.album import Album
from seg4diff.analysis.catalogue import STUDIES, choose
from seg4diff.analysis.generated import GeneratedScene, PromptBatch
from seg4diff.analysis.scene import LabelledScene, Look, Place, Scene
from seg4diff.analysis.study import Findings, OwnPasses, Reader, Setting, Study
from seg4diff.analysis.tallies import ImageValues
from seg4diff.analysis.trials import Trials
from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError, at_least
from seg4diff.evaluation.metrics import by_name
from seg4diff.evaluation.progress import Progress
from seg4diff.segmentation.proposals import ProposalReadout
from seg4diff.segmentation.readout import Readout

log = logging.getLogger(__name__)


class AnalysisModule(L.LightningModule):
    """Shows the images of a split to the studies; once the loop is over, `findings` holds what each of them found.

    Args:
        backbone: the model, as it stands, with its LoRA if it carries one.
        vocabulary: the classes of the data set; without names, its images have no masks and studies that need some are left out.
        studies: names of studies, see `catalogue.STUDIES`, or "all".
        sigmas: noise levels in [0, 1]; equal ones count once.
        readout: how class maps are read; its noise level is not used.
        proposals: how maps of the empty prompt are merged.
        expert_layer: block whose maps the study of affinity refines.
        trials: what the causal tests work on.
        examples: number of images of which pictures are kept, the first of `images`.
        images: numbers of the images that will be shown.
        folder: where pictures are kept, see `Album`.
        progress: what a loop that was stopped had counted; it goes on from there, and keeps its counts there from time to time.

    Attributes:
        skipped: one sentence for each study, or figure of a study, that was left out, by name.
        setting: what the studies know, see `Setting`.

    Raises:
        UserError: a value is out of range, a study does not exist, or no study can be made.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        studies: str | Sequence[str],
        sigmas: Sequence[float],
        readout: Readout,
        proposals: ProposalReadout,
        expert_layer: int,
        trials: Trials,
        examples: int,
        images: Sequence[int],
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if not sigmas or any(not 0 <= sigma <= 1 for sigma in sigmas):
            raise UserError(f"`sigmas` must be noise levels in [0, 1], found {list(sigmas)}.")
        at_least(0, examples=examples)
        backbone.select_sites([expert_layer])
        self.backbone, self._progress, self._album = backbone, progress, Album(folder, images[:examples])
        self.setting = Setting(
            sigmas=list(dict.fromkeys(sigmas)),
            blocks=len(backbone.attention_sites()),
            heads=backbone.heads,
            text_attends=backbone.text_attends,
            vocabulary=vocabulary,
            readout=readout,
            proposals=proposals,
            expert_layer=expert_layer,
            trials=trials,
            numbers=list(images),
            album=self._album,
        )
        names = choose(studies)
        self.skipped = {name: _without_masks(name) for name in names if STUDIES[name].needs_masks and not len(vocabulary)}
        self._names = [name for name in names if name not in self.skipped]
        if "causal" in self._names:
            self.skipped |= trials.skipped
        if not self._names:
            raise UserError(" ".join(self.skipped.values()))
        self.findings: dict[str, Findings] = {}
        self.read_at = ImageValues(self.setting.levels, 1, 1)  # of sampling steps, which are not quite those of `sigmas`

    def setup(self, stage: str) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.backbone.check_device(self.trainer.strategy.root_device)
        self.studies = by_name({name: STUDIES[name](self.setting) for name in self._names})
        if self._progress is not None:
            self._progress.restore(self._counts())

    def _counts(self) -> nn.Module:
        """Everything that is counted, without the model."""
        return nn.ModuleDict(dict(self.studies.items()) | {"read_at": self.read_at})

    def test_step(self, batch: Batch | PromptBatch, batch_idx: int) -> None:
        """Show a batch to all studies."""
        scene = self._scene(batch)
        show(scene, list(self.studies.values()))
        if isinstance(scene, GeneratedScene):
            for level, sigma in enumerate(scene.read_at):
                self.read_at.update(Place(scene.cases[0], level, 0), torch.tensor([sigma]))
        for case, image in zip(scene.cases, scene.pictures(), strict=True):
            if self._album.wants(case.number):
                self._album.introduce(case.number, image, case.labels(), case.prompt.text, case.prompt.names())
        self._album.save()
        if self._progress is not None:
            self._progress.add(len(batch), self._counts(), last=batch_idx + 1 == self.trainer.num_test_batches[0])

    def _scene(self, batch: Batch | PromptBatch) -> Scene:
        sigmas, setting = self.setting.sigmas, self.setting
        if isinstance(batch, Batch):
            return LabelledScene.of_batch(self.backbone, sigmas, batch, setting.vocabulary, setting.readout.seed)
        return GeneratedScene.of_batch(self.backbone, sigmas, batch)

    def on_test_epoch_end(self) -> None:
        if not len(self.setting.vocabulary) and len(read_at := self.read_at.of_images()[1]):
            self.setting = replace(self.setting, sigmas=[round(sigma, 6) for sigma in read_at[:, :, 0, 0].nanmean(dim=0).tolist()])
            for study in self.studies.values():
                study.setting = self.setting
        self.findings = {name: study.result() for name, study in self.studies.items()}


@torch.no_grad()
def show(scene: Scene, studies: Sequence[Study]) -> None:
    """Show the images of a scene to studies: in one pass for each noise level to all readers, and then to each of the others."""
    readers = [study for study in studies if isinstance(study, Reader)]

    def see(look: Look) -> None:
        with torch.autocast(look.joint.image_query.device.type, enabled=False):
            for reader in readers:
                reader.see(look)

    if readers:
        scene.read(see)
    for study in studies:
        if isinstance(study, OwnPasses):
            study.run(scene)


def _without_masks(name: str) -> str:
    return f"the study {name} is skipped: it needs images with label maps, and these have none."
