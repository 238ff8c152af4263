"""Train a text-to-image MM-DiT from scratch on images and captions alone: no mask and no class label enters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError, above_zero, at_least
from seg4diff.evaluation.protocol import BlockScores, PromptedSegmenter, PromptMaker
from seg4diff.flow import SigmaSampler, draw, draw_together, interpolate, velocity
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.segmentation.readout import Readout
from seg4diff.tiny.latents import LatentBatch
from seg4diff.tiny.optimizers import muon_with_adamw
from seg4diff.training.checks import check_finite
from seg4diff.training.schedule import FactorOfStep, sample_ids


class Denoiser(nn.Module):
    """The velocity from token ids instead of prompts: nothing but kernels on tensors, which a CUDA graph can record.

    Args:
        backbone: a model without T5 tokens.
    """

    def __init__(self, backbone: SD3Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Velocity (B, C, h, w) of noisy latents of that shape; sigma (B,) in [0, 1], ids (B, T) as of `SD3Backbone.token_ids`."""
        embeddings, pooled = self.backbone.embed_ids(ids)
        return self.backbone.predict_velocity(noisy, sigma, TextCondition(embeddings, pooled, [], ids != ids))


class PretrainModule(L.LightningModule):
    """Flow matching of the transformer and its text encoders on the latents of a frozen autoencoder.

    Validation reads every block with oracle prompts, so that one sees words find their things; the masks take no part in training.
    On a GPU a step is recorded once as a CUDA graph: a model of this size spends its time on launching kernels, not in them.

    Args:
        backbone: the model; its autoencoder stays as it is.
        vocabulary: the classes of the data set.
        readout: how maps are read in validation.
        sigma: distribution of the noise level.
        muon_lr: peak learning rate of the matrices of the blocks (Muon).
        lr: peak learning rate of everything else (AdamW).
        weight_decay: decoupled weight decay.
        warmup_steps: steps of linear warm-up.
        decay_share: share of the run, at its end, in which the learning rate falls linearly to zero.
        caption_dropout: share of captions replaced by the empty prompt.
        seed: seed of noise, noise levels and caption dropout.
        save_to: folder that receives the pipeline at the end, in 16 bit, in the layout of diffusers; with the moving average of the weights
            where a callback keeps one.
    """

    def __init__(
        self,
        *,
        backbone: SD3Backbone,
        vocabulary: Vocabulary,
        readout: Readout,
        sigma: SigmaSampler,
        muon_lr: float,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        decay_share: float,
        caption_dropout: float,
        seed: int,
        save_to: str,
    ) -> None:
        super().__init__()
        above_zero(muon_lr=muon_lr, lr=lr)
        at_least(0, weight_decay=weight_decay, warmup_steps=warmup_steps, seed=seed)
        for name, share in (("decay_share", decay_share), ("caption_dropout", caption_dropout)):
            if not 0 <= share <= 1:
                raise UserError(f"`{name}` must be in [0, 1], found {share}.")
        self.backbone = backbone
        self.backbone.vae.requires_grad_(False)
        self._sigma, self._muon_lr, self._lr, self._weight_decay = sigma, muon_lr, lr, weight_decay
        self._warmup_steps, self._decay_share = warmup_steps, decay_share
        self._caption_dropout, self._seed, self._save_to = caption_dropout, seed, save_to
        self._batches_seen, self._token_ids = 0, dict[str, Tensor]()
        self._graph: list[Any] = []  # of the denoiser, once it is recorded; in a list, since `backbone` owns its weights
        self._classes, self._segment = len(vocabulary), PromptedSegmenter(readout, PromptMaker("oracle", vocabulary, backbone.fits))

    def on_train_start(self) -> None:
        self._batches_seen = self.trainer.global_step * self.trainer.accumulate_grad_batches

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        ids = sample_ids(self.trainer, self._batches_seen, len(batch))
        self._batches_seen += 1
        captions = ["" if _coin(self._seed, k) < self._caption_dropout else text for k, text in zip(ids, batch.captions, strict=True)]
        noise, sigma = draw_together(batch.latents, ids[0], self._seed, self._sigma)
        loss = self.flow_loss(batch.latents, captions, noise, sigma)
        check_finite({"flow": loss}, self.trainer.global_step)
        self.log("train/flow", loss, prog_bar=True)
        return loss

    def on_validation_start(self) -> None:
        blocks = range(len(self.backbone.attention_sites()))
        self._scores = BlockScores(segment=self._segment, blocks=blocks, classes=self._classes).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        latents = self.backbone.encode_image(batch.images)
        loss = self.flow_loss(latents, batch.captions, *draw(latents, batch.indices, self._seed, self._sigma))
        check_finite({"flow": loss}, self.trainer.global_step)
        self.log("val/flow", loss, batch_size=len(batch), sync_dist=True, prog_bar=True)
        self._scores.update(self.backbone, batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/miou_per_block/{block}": score["miou"].float() for block, score in self._scores.compute().items()})

    def flow_loss(self, latents: Tensor, captions: list[str], noise: Tensor, sigma: Tensor) -> Tensor:
        """Unweighted mean squared error of the velocity (Esser et al. 2024); a caption that does not fit is cut after a word."""
        ids = torch.stack([self._ids_of(caption) for caption in captions]).to(latents.device)
        inputs = interpolate(latents, noise, sigma), sigma, ids
        denoise: Callable[..., Tensor] = Denoiser(self.backbone)
        if latents.is_cuda and self.training:
            self._graph = self._graph or [torch.cuda.make_graphed_callables(denoise, inputs, allow_unused_input=True)]
            denoise = self._graph[0]
        return torch.nn.functional.mse_loss(denoise(*inputs), velocity(latents, noise))

    def _ids_of(self, caption: str) -> Tensor:
        if caption not in self._token_ids:
            self._token_ids[caption] = self.backbone.token_ids([cut_to_fit(caption, self.backbone.fits)])[0]
        return self._token_ids[caption]

    def on_fit_end(self) -> None:
        """Callbacks come first: here the weights are the average, where there is one."""
        if self.trainer.is_global_zero and self.trainer.global_step >= self.trainer.max_steps:
            self.backbone.save_pretrained(Path(self._save_to))

    def configure_optimizers(self):
        optimizer = muon_with_adamw(self.backbone, muon_lr=self._muon_lr, lr=self._lr, weight_decay=self._weight_decay)
        schedule = warmup_stable_decay(optimizer, self._warmup_steps, self._decay_share, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _coin(seed: int, sample_id: int) -> float:
    """A uniform number in [0, 1) that depends on (seed, sample id) alone."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(seed * 1_000_003 + sample_id)))


def warmup_stable_decay(optimizer: Optimizer, warmup_steps: int, decay_share: float, max_steps: int) -> FactorOfStep:
    """Linear warm-up, constant, then a linear fall to zero over the last `decay_share` of the run."""
    decay_steps = max(1, round(decay_share * max_steps))
    return FactorOfStep(optimizer, lambda step: max(0.0, min(1.0, (step + 1) / max(1, warmup_steps), (max_steps - step) / decay_steps)))
