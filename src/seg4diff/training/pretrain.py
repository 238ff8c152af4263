"""Train a text-to-image MM-DiT from scratch on images and captions alone: no mask and no class label enters."""

from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from seg4diff.backbones.base import Backbone
from seg4diff.data.sample import Batch
from seg4diff.flow import SigmaSampler, draw, interpolate, velocity
from seg4diff.segmentation.prompts import cut_to_fit
from seg4diff.training.checks import check_finite
from seg4diff.training.optimizers import muon_with_adamw
from seg4diff.training.schedule import sample_ids, warmup_stable_decay


class PretrainModule(L.LightningModule):
    """Flow matching of the transformer and its text encoders on the latents of a frozen autoencoder.

    Args:
        backbone: the model; its autoencoder stays as it is.
        sigma: distribution of the noise level.
        muon_lr: peak learning rate of the matrices of the blocks (Muon).
        lr: peak learning rate of everything else (AdamW).
        weight_decay: decoupled weight decay.
        warmup_steps: steps of linear warm-up.
        decay_share: share of the run, at its end, in which the learning rate falls linearly to zero.
        caption_dropout: share of captions replaced by the empty prompt.
        seed: seed of noise, noise levels and caption dropout.
        save_to: folder that receives the trained pipeline, in 16 bit, in the layout of diffusers.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
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
        self.backbone = backbone
        self.backbone.vae.requires_grad_(False)
        self._sigma, self._muon_lr, self._lr, self._weight_decay = sigma, muon_lr, lr, weight_decay
        self._warmup_steps, self._decay_share = warmup_steps, decay_share
        self._caption_dropout, self._seed, self._save_to = caption_dropout, seed, save_to
        self._latents: dict[str, Tensor] = {}
        self._batches_seen = 0

    def on_train_start(self) -> None:
        self._batches_seen = self.trainer.global_step * self.trainer.accumulate_grad_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.backbone.token_grid(*batch.images.shape[-2:])  # refuses a size that the model cannot take
        ids = sample_ids(self.trainer, self._batches_seen, len(batch))
        self._batches_seen += 1
        captions = ["" if _coin(self._seed, k) < self._caption_dropout else text for k, text in zip(ids, batch.captions, strict=True)]
        loss = self.flow_loss(self.latents(batch), captions, ids)
        check_finite({"flow": loss}, self.trainer.global_step)
        self.log("train/flow", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.flow_loss(self.backbone.encode_image(batch.images), batch.captions, batch.indices)
        check_finite({"flow": loss}, self.trainer.global_step)
        self.log("val/flow", loss, batch_size=len(batch), sync_dist=True, prog_bar=True)

    def flow_loss(self, latents: Tensor, captions: list[str], ids: list[int]) -> Tensor:
        """Unweighted mean squared error of the velocity (Esser et al. 2024); a caption that does not fit is cut after a word."""
        noise, sigma = draw(latents, ids, self._seed, self._sigma)
        condition = self.backbone.encode_text([cut_to_fit(caption, self.backbone.fits) for caption in captions])
        predicted = self.backbone.predict_velocity(interpolate(latents, noise, sigma), sigma, condition)
        return torch.nn.functional.mse_loss(predicted, velocity(latents, noise))

    def latents(self, batch: Batch) -> Tensor:
        """Encode the images of a batch, each image once per run."""
        new = [k for k, name in enumerate(batch.names) if name not in self._latents]
        if new:
            encoded = self.backbone.encode_image(batch.images[new])
            self._latents |= {batch.names[k]: latent for k, latent in zip(new, encoded, strict=True)}
        return torch.stack([self._latents[name] for name in batch.names])

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero and self.trainer.global_step >= self.trainer.max_steps:
            self.backbone.save_pretrained(Path(self._save_to))

    def configure_optimizers(self):
        optimizer = muon_with_adamw(self.backbone, muon_lr=self._muon_lr, lr=self._lr, weight_decay=self._weight_decay)
        schedule = warmup_stable_decay(optimizer, self._warmup_steps, self._decay_share, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _coin(seed: int, sample_id: int) -> float:
    """A uniform number in [0, 1) that depends on (seed, sample id) alone."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(seed * 1_000_003 + sample_id)))
