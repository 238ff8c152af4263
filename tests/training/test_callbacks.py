"""Sample images of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tests.families import FAMILIES, adapted
from tests.hosts import random_sd3
from tests.judges import make_clip

from seg4diff.backbones.lora import LoraSpec, add_lora, updates_of
from seg4diff.errors import UserError
from seg4diff.evaluation.judges.networks import Clip, CLIPScore
from seg4diff.model import Model
from seg4diff.presets import Preset
from seg4diff.training.callbacks import SampleImages

PROMPTS = ["apple", "sky", "", "apple sky", "leaf"]
SAMPLING = {"steps": 2, "guidance": 2.0, "size": (32, 48)}


def samples(folder, at_once, clip=None):
    return SampleImages(prompts=PROMPTS, seed=3, output_dir=str(folder), at_once=at_once, clip=clip, **SAMPLING)


class Log(CSVLogger):
    def log_metrics(self, metrics, step=None):
        self.seen = metrics


def test_clip_scores_of_base_and_lora_are_logged(tmp_path):
    """The score of each prompt with its own image; the empty prompt has none."""
    backbone, weights, log = adapted(FAMILIES["sd3"]), make_clip(tmp_path / "clip"), Log(tmp_path)
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, loggers=[log], global_step=4)
    callback = samples(tmp_path, 2, weights)
    callback.setup(trainer, None, "fit")
    callback.on_validation_end(trainer, SimpleNamespace(backbone=backbone))
    score, seeds = CLIPScore(Clip(weights, torch.device("cpu"))), {prompt: 3 + k for k, prompt in enumerate(PROMPTS) if prompt}
    model = Model(backbone, Preset.named("tiny_sd3"), block=1)
    for name, scale in (("base", 0), ("lora", 1)):
        images = [model.generate(own, seeds=seed, lora_scale=scale, **SAMPLING).image for own, seed in seeds.items()]
        assert log.seen[f"val/{name}/clip_score"] == pytest.approx(sum(score(images, list(seeds))) / len(seeds), abs=1e-3)
    assert log.seen["val/base/clip_score"] != log.seen["val/lora/clip_score"]


@pytest.mark.parametrize("at_once", [2, 5, 9])
def test_images_that_are_drawn_together_are_those_drawn_alone(at_once, tmp_path):
    backbone = random_sd3()
    alone, together = (np.asarray(samples(tmp_path, own).draw(backbone), dtype=int) for own in (1, at_once))
    assert alone.shape == together.shape and abs(alone - together).max() <= 1


def test_a_new_lora_is_not_drawn_as_it_changes_nothing_yet(tmp_path):
    backbone, callback, drawn = random_sd3(), samples(tmp_path, 5), []
    add_lora(backbone, LoraSpec(blocks="all", rank=2, alpha=2, targets=["to_q", "to_v"]), expert_layer=1, seed=0)
    backbone.transformer.register_forward_hook(lambda *_: drawn.append(1))
    before = np.asarray(callback.draw(backbone))
    once = len(drawn)
    for update in updates_of(backbone).values():
        update.up.fill_(0.3)
    after = np.asarray(callback.draw(backbone))
    assert len(drawn) == 2 * once and (before != after).any()
    assert (before[: len(before) // 2] == after[: len(after) // 2]).all(), "the images of the base stay"


def test_a_batch_holds_at_least_one_image(tmp_path):
    with pytest.raises(UserError, match="`at_once` must be at least 1, found 0"):
        samples(tmp_path, 0)
