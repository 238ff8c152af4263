"""Train an autoencoder on images alone."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from seg4diff.data.sample import Batch
from seg4diff.disk import follow_umask
from seg4diff.errors import UserError, above_zero, at_least
from seg4diff.training.checks import check_finite
from seg4diff.training.schedule import RestoredByStep


class OneCycle(RestoredByStep, OneCycleLR):
    """Up to the peak rate and down to nearly nothing, each by half a cosine."""


class RestoringModule(L.LightningModule):
    """What trainings of an autoencoder on pictures share: crops, noise on latents, the errors of a restored picture, the optimizer.

    The decoder meets latents with noise on them, as those of a diffusion model have: what it draws from nearly right latents is crisp too
    (Yang et al. 2025, "Latent denoising makes good visual tokenizers").

    Args:
        vae: an untrained autoencoder of diffusers.
        lr: peak learning rate (AdamW, one-cycle).
        edge_weight: weight of the error of neighbour differences.
        latent_noise: largest standard deviation of the noise on the latents, in units of their own; each image draws its share of it.
        crop: side of the square crops that are trained on, in pixels; convolutions do not mind.
        save_to: folder that receives the trained autoencoder in the layout of diffusers.
    """

    def __init__(self, *, vae: nn.Module, lr: float, edge_weight: float, latent_noise: float, crop: int, save_to: str) -> None:
        super().__init__()
        above_zero(lr=lr)
        at_least(0, edge_weight=edge_weight, latent_noise=latent_noise)
        at_least(1, crop=crop)
        self.vae: Any = vae  # a model of diffusers, which this room does not import
        self._crop, self._save_to = crop, save_to
        self._lr, self._edge_weight, self._latent_noise = lr, edge_weight, latent_noise

    def _picture_terms(self, error: Tensor) -> dict[str, Tensor]:
        """The terms of a restored picture (B, 3, H, W) minus the picture."""
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        return {"absolute": error.abs().mean(), "squared": error.square().mean(), "edges": edges}

    def _picture_loss(self, terms: dict[str, Tensor]) -> Tensor:
        return terms["absolute"] + 4 * terms["squared"] + self._edge_weight * terms["edges"]

    def _log_step(self, terms: dict[str, Tensor]) -> None:
        check_finite(terms, self.trainer.global_step)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True)

    def _log_validation(self, terms: dict[str, Tensor], count: int) -> None:
        check_finite(terms, self.trainer.global_step)
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, batch_size=count, sync_dist=True)

    def _noise_for(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        share = self._latent_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
        return (share * torch.randn(latents.shape, generator=generator)).to(latents) * latents.detach().std()

    def _random_crop(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self._crop > min(images.shape[-2:]):
            height, width = images.shape[-2:]
            raise UserError(f"`crop` must be at most the shorter side of the images ({height} x {width}), found {self._crop}.")
        top = int(torch.randint(images.shape[-2] - self._crop + 1, (), generator=generator))
        left = int(torch.randint(images.shape[-1] - self._crop + 1, (), generator=generator))
        return images[..., top : top + self._crop, left : left + self._crop]

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            self.vae.save_pretrained(self._save_to)
            follow_umask(Path(self._save_to))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.vae.parameters(), lr=self._lr, weight_decay=0.0)
        schedule = OneCycle(optimizer, self._lr, total_steps=self.trainer.max_steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class AutoencoderModule(RestoringModule):
    """Absolute and squared error + error of neighbour differences (for crisp edges) + a weak KL term.

    At the end the latents' mean and spread over the last batches are written into the autoencoder's config, so that
    (latents - shift_factor) * scaling_factor has mean 0 and standard deviation 1.

    Args:
        vae: an untrained AutoencoderKL of diffusers.
        kl_weight: weight of the KL term.
        options: arguments of `RestoringModule`.
    """

    def __init__(self, *, vae: nn.Module, kl_weight: float, **options: Any) -> None:
        super().__init__(vae=vae, **options)
        at_least(0, kl_weight=kl_weight)
        self._kl_weight = kl_weight
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(batch_idx)
        images = self._random_crop(batch.images, generator)
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.sample(generator)
        terms = self._picture_terms(self.vae.decode(latents + self._noise_for(latents, generator)).sample - images)
        terms["kl"] = posterior.kl().mean() / posterior.mean[0].numel()
        with torch.no_grad():
            new = torch.stack([posterior.mean.mean(), posterior.mean.square().mean()])
            self.moments.lerp_(new, 1.0 if batch_idx == 0 else 0.05)
        self._log_step(terms)
        return self._picture_loss(terms) + self._kl_weight * terms["kl"]

    def on_train_end(self) -> None:
        mean, square = self.moments.tolist()
        self.vae.register_to_config(shift_factor=mean, scaling_factor=(square - mean**2) ** -0.5)
        super().on_train_end()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        restored = self.vae.decode(self.vae.encode(batch.images).latent_dist.mean).sample
        self._log_validation({"absolute": (restored - batch.images).abs().mean()}, len(batch))


class StudentModule(RestoringModule):
    """A small autoencoder that takes the place of a trained one (AutoencoderTiny of diffusers).

    Its encoder learns the latents of the trained one, on the scale of the transformer: squared error. Its decoder learns to restore the
    pictures from these latents. The two share no weights and no gradient.

    Args:
        vae: an untrained AutoencoderTiny of diffusers.
        teacher: the trained AutoencoderKL; it stays as it is.
        options: arguments of `RestoringModule`.
    """

    def __init__(self, *, vae: nn.Module, teacher: nn.Module, **options: Any) -> None:
        super().__init__(vae=vae, **options)
        self.teacher: Any = teacher.requires_grad_(False).eval()

    @torch.no_grad()
    def _targets(self, images: Tensor) -> Tensor:
        """The latents (B, C, h, w) of the teacher, as the transformer takes them."""
        config = self.teacher.config
        return (self.teacher.encode(images).latent_dist.mean - (config.shift_factor or 0.0)) * config.scaling_factor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(batch_idx)
        images = self._random_crop(batch.images, generator)
        targets = self._targets(images)
        terms = self._picture_terms(self.vae.decode(targets + self._noise_for(targets, generator)).sample - images)
        terms["latents"] = (self.vae.encode(images).latents - targets).square().mean()
        self._log_step(terms)
        return self._picture_loss(terms) + terms["latents"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        found = self.vae.encode(batch.images).latents
        restored = self.vae.decode(found).sample
        terms = {"absolute": (restored - batch.images).abs().mean(), "latents": (found - self._targets(batch.images)).square().mean()}
        self._log_validation(terms, len(batch))
