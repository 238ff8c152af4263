"""Scenes of a few random images for the studies of an analysis."""

import lightning as L
import torch

from seg4diff.analysis.album import Album
from seg4diff.analysis.catalogue import STUDIES
from seg4diff.analysis.generated import GeneratedScene, PromptBatch
from seg4diff.analysis.module import show
from seg4diff.analysis.report import PICTURES, write_analysis, write_tables
from seg4diff.analysis.scene import LabelledScene
from seg4diff.analysis.study import Findings, Setting
from seg4diff.analysis.trials import Trials
from seg4diff.data.sample import IGNORE, Batch, Vocabulary
from seg4diff.generation.requests import Sampling
from seg4diff.segmentation.proposals import ProposalReadout
from seg4diff.segmentation.readout import Readout

NAMES = Vocabulary(("apple", "leaf", "star", "sky"))
SIGMAS = (0.3, 0.8)
STEPS = 12
TRIALS = Trials(segmented=4, generated=2, steps=2, guidance=2.0, size=(32, 48))
READOUT = Readout(sigma=0.3, scores="joint", normalisation="minmax", seed=0)


class Stop(L.Callback):
    """Ends a test before its second batch."""

    def on_test_batch_start(self, trainer, module, batch, batch_idx, *args):
        if batch_idx == 1:
            raise RuntimeError("stopped")


def batch_of(numbers, size=(32, 48)):
    """Random images with masks of rectangles, each a function of its number alone."""
    images, masks = [], []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        images.append(torch.rand(3, *size, generator=generator) * 2 - 1)
        mask = torch.randint(len(NAMES), (4, 5), generator=generator).repeat_interleave(10, 0).repeat_interleave(12, 1)
        mask[:, -3:] = IGNORE
        masks.append(mask)
    return Batch(torch.stack(images), masks, [""] * len(masks), [""] * len(masks), list(numbers))


def setting_of(backbone, folder, vocabulary=NAMES, examples=(), trials=TRIALS):
    return Setting(
        sigmas=SIGMAS,
        blocks=len(backbone.attention_sites()),
        heads=backbone.heads,
        text_attends=backbone.text_attends,
        vocabulary=vocabulary,
        readout=READOUT,
        proposals=ProposalReadout(readout=READOUT, threshold=1e-4, rounds=1),
        expert_layer=1,
        trials=trials,
        numbers=range(8),
        album=Album(folder, examples),
    )


def labelled(backbone, numbers):
    return LabelledScene.of_batch(backbone, SIGMAS, batch_of(numbers), NAMES, seed=0)


def generated(backbone, prompts=("an apple", "two stars")):
    numbers = list(range(len(prompts)))
    sampling = Sampling(guidance=2.0, steps=STEPS, size=(32, 48))
    return GeneratedScene.of_batch(backbone, SIGMAS, PromptBatch(list(prompts), numbers, numbers, sampling))


def studied(setting, *scenes, names=tuple(STUDIES)):
    """Studies by name after they have seen these scenes."""
    studies = {name: STUDIES[name](setting) for name in names}
    for scene in scenes:
        show(scene, list(studies.values()))
    return studies


ABOUT = {
    "model": {"model": "some/model", "revision": None, "weights": "0123", "lora": None},
    "settings": {"expert_layer": 1, "analysis": {"sigmas": list(SIGMAS)}, "sigma": 0.3, "split": "validation"},
    "images": 3,
}
"""What `write_analysis` is told of the model and the settings."""


def stored(backbone, folder, skipped=None, words=("apple", "leaf")):
    """The folder of a small analysis with one example, whose prompt has these words."""
    setting = setting_of(backbone, folder / PICTURES, examples=[0])
    studies = studied(setting, labelled(backbone, range(3)), names=[name for name in STUDIES if name not in (skipped or {})])
    image, labels = torch.zeros(32, 48, 3, dtype=torch.uint8), torch.zeros(32, 48, dtype=torch.uint8)
    setting.album.introduce(0, image, labels, " ".join(words), words)
    setting.album.save()
    findings = {name: study.result() for name, study in studies.items()}
    write_tables(folder, findings)
    write_analysis(folder, findings, skipped or {}, ABOUT)
    return folder


def small(folder, values, quantity="relative", **about):
    """The folder of an analysis with one study, which found one I2T value for each block at the first noise level."""
    more = {"head": None, "quadrant": "i2t", "quantity": quantity}
    rows = [{"sigma": SIGMAS[0], "block": block, **more, "value": value} for block, value in enumerate(values)]
    write_tables(folder, {"budget": Findings(rows)})
    write_analysis(folder, {"budget": Findings(rows)}, {}, ABOUT | about)
    return folder
