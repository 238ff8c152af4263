"""The training module: a frozen MM-DiT with a LoRA on its expert block, trained to keep generating and to align its maps."""

from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from seg4diff.attention.capture import capture
from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import i2t, i2t_per_head
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.data.sample import Batch, Vocabulary, present_classes
from seg4diff.errors import UserError
from seg4diff.evaluation.protocol import BlockScores, PromptedSegmenter, PromptMaker, PromptProtocol
from seg4diff.flow import SigmaSampler, draw, interpolate, velocity
from seg4diff.segmentation.prompts import Prompt, cut_to_fit, find_names, list_largest
from seg4diff.segmentation.readout import Readout, pool_words
from seg4diff.training.checks import AlignedCheck, check_finite
from seg4diff.training.objective import MaskAlignment, Regions, named_regions
from seg4diff.training.schedule import sample_ids, warmup_cosine


class MagnetModule(L.LightningModule):
    """Mask alignment of a LoRA on the expert block (paper, section 3.5).

    Args:
        backbone: the model to adapt.
        lora: what to adapt.
        expert_layer: the semantic grounding expert, a 0-based block index; its I2T logits are aligned with the masks.
        objective: the loss.
        sigma: distribution of the noise level in training.
        readout: how segmentations are read in validation.
        protocol: which prompts validation uses, "oracle" or "vocabulary".
        prompt: "names" trains with the list of class names in the image (the release), "caption" with the caption. A step is one pass,
            so an image has one prompt: where the names do not fit, those of the largest classes that do; a caption that does not fit
            is cut after a word. A class that the prompt does not name is not aligned.
        align: "names" aligns the map of each class name with that class's mask. The others use no name and give each mask a map of its own,
            those that fit best together: "regions" one of all heads x tokens maps (the paper for SA-1B), "tokens" that of a token of the
            prompt, mean over the heads, as it is read.
        lr: peak learning rate (AdamW, warm-up then cosine).
        weight_decay: decoupled weight decay.
        warmup_steps: steps of linear warm-up.
        seed: seed of the adapter, the noise and the noise levels.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        lora: LoraSpec,
        expert_layer: int,
        objective: MaskAlignment,
        sigma: SigmaSampler,
        readout: Readout,
        protocol: PromptProtocol,
        prompt: Literal["names", "caption"],
        align: Literal["names", "regions", "tokens"],
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        if prompt not in ("names", "caption"):
            raise UserError(f"`prompt` must be 'names' or 'caption', found '{prompt}'.")
        if align not in ("names", "regions", "tokens"):
            raise UserError(f"`align` must be 'names', 'regions' or 'tokens', found '{align}'.")
        if lr <= 0 or weight_decay < 0 or warmup_steps < 0:
            found = f"{lr}, {weight_decay}, {warmup_steps}"
            raise UserError(f"`lr` must be above 0, `weight_decay` and `warmup_steps` 0 or more, found {found}.")
        backbone.select_sites([expert_layer])
        add_lora(backbone, lora, expert_layer, seed)
        self.backbone, self.expert_layer, self.readout = backbone, expert_layer, readout
        self._objective, self._sigma, self._protocol, self._prompt, self._align = objective, sigma, protocol, prompt, align
        self._lr, self._weight_decay, self._warmup_steps, self._seed = lr, weight_decay, warmup_steps, seed
        self._batches_seen, self._check_aligned = 0, AlignedCheck(objective.weights)
        self.strict_loading = False  # checkpoints hold the adapter alone; on_load_checkpoint checks it

    def setup(self, stage: str) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.backbone.check_device(self.trainer.strategy.root_device)
        self.vocabulary: Vocabulary = self.trainer.datamodule.vocabulary
        self._read_out_prompts = PromptMaker(self._protocol, self.vocabulary, self.backbone.fits)
        segment = PromptedSegmenter(self.readout, self._read_out_prompts)
        self.block_scores = BlockScores(segment=segment, blocks=[self.expert_layer], classes=len(self.vocabulary))
        self.val_terms = nn.ModuleDict({name: MeanMetric() for name in ("flow", "focal", "dice", "loss")})

    def on_train_start(self) -> None:
        self._batches_seen = self.trainer.global_step * self.trainer.accumulate_grad_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        ids = sample_ids(self.trainer, self._batches_seen, len(batch))
        self._batches_seen += 1
        terms = self.loss_terms(batch, ids)
        self._check_aligned(terms)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True, batch_size=len(batch))
        check_finite(terms, self.trainer.global_step)
        return terms["loss"]

    def loss_terms(self, batch: Batch, ids: list[int]) -> dict[str, Tensor]:
        """One forward pass: flow matching on its output, mask alignment on the expert's I2T logits.

        Args:
            batch: images, with masks of any size.
            ids: numbers that seed noise and noise level of each sample.
        """
        batch = batch.on_canvas()
        grid = self.backbone.token_grid(*batch.images.shape[-2:])
        prompts, latents, condition = self._encode(batch)
        noise, sigma = draw(latents, ids, self._seed, self._sigma)
        with capture(self.backbone, [self.expert_layer]) as record:
            predicted = self.backbone.predict_velocity(interpolate(latents, noise, sigma), sigma, condition)
        if self._align == "names":
            maps = pool_words(i2t(record[self.expert_layer], "logits"), grid, condition, prompts)
            regions = [named_regions(mask, prompt.classes) for mask, prompt in zip(batch.masks, prompts, strict=True)]
        else:
            candidates = self._candidates(record[self.expert_layer], grid, condition)
            maps, regions = self._match(candidates, nameless_regions(batch))
        return self._objective(predicted, velocity(latents, noise), maps, regions)

    def _candidates(self, joint: Joint, grid: tuple[int, int], condition: TextCondition) -> list[Tensor]:
        """The maps that masks without names may be given: B tensors (K, h, w)."""
        if self._align == "tokens":
            maps = i2t(joint, "logits").unflatten(-1, grid)
            return [own[~padding] for own, padding in zip(maps, condition.padding, strict=True)]
        return list(i2t_per_head(joint, "logits")[:, :, : self.backbone.text_window].flatten(1, 2).unflatten(-1, grid))

    def _match(self, candidates: list[Tensor], regions: list[Regions]) -> tuple[list[Tensor], list[Regions]]:
        """Hungarian matching (paper, section 3.5): B tensors (M, h, w) and the M regions that they belong to."""
        pairs = [self._objective.match(own, one) for own, one in zip(candidates, regions, strict=True)]
        maps = [own[chosen] for own, (_, chosen) in zip(candidates, pairs, strict=True)]
        return maps, [Regions(one.masks[kept], one.counted) for one, (kept, _) in zip(regions, pairs, strict=True)]

    @torch.no_grad()
    def _encode(self, batch: Batch) -> tuple[list[Prompt], Tensor, TextCondition]:
        prompts = [self._make_prompt(caption, mask) for caption, mask in zip(batch.captions, batch.masks, strict=True)]
        return prompts, self.backbone.encode_image(batch.images), self.backbone.encode_text([prompt.text for prompt in prompts])

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encode what training, validation and test will ask for, so that a cache holds it; nothing is returned."""
        self._encode(batch.on_canvas())
        captions = [cut_to_fit(caption, self.backbone.fits) for caption in batch.captions]
        read_out = [prompt.text for mask in batch.masks for prompt in self._read_out_prompts(mask)]
        self.backbone.encode_text([*captions, *read_out, ""])  # the empty prompt is that of unsupervised segmentation

    def _make_prompt(self, caption: str, mask: Tensor) -> Prompt:
        """The one prompt of an image, see `prompt` of the class: what does not fit is left out, and not aligned; so is the background."""
        classes = [k for k in present_classes(mask) if k != self.vocabulary.background]
        names, fits = self.vocabulary.names, self.backbone.fits
        if self._prompt == "caption":
            return find_names(cut_to_fit(caption, fits), names, classes)
        return list_largest(names, classes, lambda k: int((mask == k).sum()), fits)

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        terms = self.loss_terms(batch, batch.indices)
        check_finite(terms, self.trainer.global_step)
        for name, value in terms.items():
            self.val_terms[name].update(value, weight=len(batch))
        return self.block_scores.update(self.backbone, batch)[self.expert_layer]

    def on_validation_epoch_end(self) -> None:
        scores = self.block_scores.compute()[self.expert_layer]
        self.block_scores.reset()
        self.log_dict({f"val/{name}": term for name, term in self.val_terms.items()})
        iou = scores.pop("iou")
        per_class = {f"val_iou/{name}": value for name, value in zip(self.vocabulary.names, iou, strict=True) if value == value}
        self.log("val/miou", scores.pop("miou"), prog_bar=True)
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log_dict(per_class)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(lora_weights(self.backbone).values(), lr=self._lr, weight_decay=self._weight_decay)
        schedule = warmup_cosine(optimizer, self._warmup_steps, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        prefix = "backbone.transformer."
        checkpoint["state_dict"] = {prefix + name: weight.detach() for name, weight in lora_weights(self.backbone).items()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        own = {f"backbone.transformer.{name}": tuple(weight.shape) for name, weight in lora_weights(self.backbone).items()}
        found = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
        if own != found:
            odd = sorted(set(own.items()) ^ set(found.items()))[0]
            raise UserError(
                f"the checkpoint's LoRA does not fit this model (first difference: {odd[0]} {odd[1]}): continue with the block, the LoRA "
                "and the backbone it was trained with."
            )


def nameless_regions(batch: Batch) -> list[Regions]:
    """The regions of each image of a batch: those it comes with, without the padding around it, or one per class of its label map."""
    if batch.regions is None:
        return [named_regions(mask, present_classes(mask)) for mask in batch.masks]
    canvas = tuple(batch.images.shape[-2:])
    inside = [window.paste(masks.new_ones(window.size), canvas, False) for masks, window in zip(batch.regions, batch.windows, strict=True)]
    return [Regions(masks, counted) for masks, counted in zip(batch.regions, inside, strict=True)]
