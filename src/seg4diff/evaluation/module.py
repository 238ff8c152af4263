"""Evaluate a model on a split, with and without its adapter, in one pass over the data."""

import logging
from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from seg4diff.backbones.base import Backbone
from seg4diff.backbones.lora import base_model, has_lora
from seg4diff.data.sample import Batch
from seg4diff.evaluation.floors import Floors, grid_ceiling
from seg4diff.evaluation.metrics import SegmentationScore
from seg4diff.evaluation.protocol import BlockScores, PromptMaker, PromptProtocol
from seg4diff.flow import SigmaSampler, draw, interpolate, velocity
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.segmentation.readout import Readout

log = logging.getLogger(__name__)


class EvaluationModule(L.LightningModule):
    """Test loop over a split; `report` holds the result once the loop is over.

    Args:
        backbone: the model; where it carries a LoRA, it is evaluated without and with it.
        readout: how maps are read.
        protocol: which prompts an image gets, "oracle" or "vocabulary".
        expert_layer: block whose score is the headline.
        base_blocks: blocks to score on the base model, "all" or a list; the expert is always among them.
        sigma: distribution of the noise level of the flow loss, which is that of the captions, cut to what the model takes (training
            may use another distribution and other prompts, so its own validation loss is another figure).
        seed: seed of the noise of the flow loss.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        readout: Readout,
        protocol: PromptProtocol,
        expert_layer: int,
        base_blocks: str | Sequence[int],
        sigma: SigmaSampler,
        seed: int,
    ) -> None:
        super().__init__()
        backbone.select_sites([expert_layer])
        self.backbone, self.expert_layer = backbone, expert_layer
        self._readout, self._protocol, self._sigma, self._seed = readout, protocol, sigma, seed
        everything = range(len(backbone.attention_sites()))
        self._base_blocks = sorted({expert_layer, *(everything if base_blocks == "all" else base_blocks)})
        self.report: dict = {}

    def setup(self, stage: str) -> None:
        self.backbone.check_device(self.trainer.strategy.root_device)
        vocabulary = self.trainer.datamodule.vocabulary
        make_prompts = PromptMaker(self._protocol, vocabulary, self.backbone.fits)
        if self._protocol == "vocabulary" and len(make_prompts.everything) > 1 and self.trainer.is_global_zero:
            log.info("the %d class names take %d prompts", len(vocabulary), len(make_prompts.everything))
        common = {"readout": self._readout, "make_prompts": make_prompts, "classes": len(vocabulary)}
        variants = {"base": self._base_blocks} | ({"lora": [self.expert_layer]} if has_lora(self.backbone) else {})
        self.block_scores = nn.ModuleDict({name: BlockScores(blocks=blocks, **common) for name, blocks in variants.items()})
        self.flow = nn.ModuleDict({name: MeanMetric() for name in variants})
        self.floors = Floors(len(vocabulary), oracle=self._protocol == "oracle")
        self.ceiling = SegmentationScore(len(vocabulary))

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Tensor]]:
        """Count a batch; returns the expert's label maps of each variant."""
        predictions = {}
        if "lora" in self.block_scores:
            predictions["lora"] = self._evaluate("lora", batch)
            with base_model(self.backbone):
                predictions["base"] = self._evaluate("base", batch)
        else:
            predictions["base"] = self._evaluate("base", batch)
        grid = self.backbone.token_grid(*batch.images.shape[-2:])
        for mask in batch.masks:
            self.floors.update(mask)
            self.ceiling.update(grid_ceiling(mask.cpu(), grid), mask.cpu())
        return predictions

    def _evaluate(self, variant: str, batch: Batch) -> list[Tensor]:
        predictions = self.block_scores[variant].update(self.backbone, batch, batch.indices)
        latents = self.backbone.encode_image(batch.images)
        noise, sigma = draw(latents, batch.indices, self._seed, self._sigma)
        noisy = interpolate(latents, noise, sigma)
        captions = [cut_to_fit(caption, self.backbone.fits) for caption in batch.captions]
        predicted = self.backbone.predict_velocity(noisy, sigma, self.backbone.encode_text(captions))
        errors = (predicted - velocity(latents, noise)).float().square().flatten(1).mean(dim=1)
        self.flow[variant].update(errors)
        return predictions[self.expert_layer]

    def on_test_epoch_end(self) -> None:
        names = self.trainer.datamodule.vocabulary.names
        report: dict = {"protocol": self._protocol, "expert_layer": self.expert_layer}
        for variant, blocks in self.block_scores.items():
            scores = blocks.compute()
            expert = scores[self.expert_layer]
            iou = expert.pop("iou")
            report |= {f"{variant}/{name}": float(value) for name, value in expert.items()}
            report[f"{variant}/val_flow_loss"] = float(self.flow[variant].compute())
            report[f"{variant}/iou_per_class"] = {
                name: float(value) for name, value in zip(names, iou, strict=True) if not torch.isnan(value)
            }
            if variant == "base":
                report["miou_per_block"] = {block: float(score["miou"]) for block, score in scores.items()}
        floors = self.floors.compute()
        report["images"] = int(floors.pop("images"))
        report |= {f"floor/{name}": float(value) for name, value in floors.items()}
        report["ceiling/miou"] = float(self.ceiling.compute()["miou"])
        self.report = report
