"""The training module: a frozen MM-DiT with a LoRA on its expert block, trained to keep generating and to align its maps."""

from typing import Literal, get_args

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from seg4diff.attention.capture import capture
from seg4diff.backbones.base import Backbone, TextCondition
from seg4diff.backbones.lora import LoraSpec, add_lora, base_model, lora_weights
from seg4diff.data.sample import Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.metrics import by_name
from seg4diff.evaluation.protocol import BlockScores, PromptedSegmenter, PromptMaker, PromptProtocol
from seg4diff.flow import SigmaSampler, draw, interpolate, velocity
from seg4diff.segmentation.prompts import Prompt, cut_to_fit
from seg4diff.segmentation.readout import Readout
from seg4diff.training.alignment import AlignBy, ExpertPass, alignment_by
from seg4diff.training.checks import AlignedCheck, check_finite
from seg4diff.training.objective import MaskAlignment
from seg4diff.training.prompts import PromptKind, training_prompt
from seg4diff.training.schedule import sample_ids, warmup_cosine

FlowTarget = Literal["data", "base"]


class MagnetModule(L.LightningModule):
    """Mask alignment of a LoRA on the expert block (paper, section 3.5).

    Args:
        backbone: the model to adapt.
        vocabulary: the classes of the data set.
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
        flow_target: what the flow term draws the velocity to: "data", that of the image (the paper), or "base", that of the model without
            the LoRA for the same input, so that the masks alone change the model; it takes one more pass without gradient.
        affinity_layer: with "names", block whose image-to-image attention spreads the maps before they are aligned, see
            `seg4diff.segmentation.readers.propagated`; None = they are aligned as they are (the paper).
        lr: peak learning rate (AdamW, warm-up then cosine).
        weight_decay: decoupled weight decay.
        warmup_steps: steps of linear warm-up.
        seed: seed of the adapter, the noise and the noise levels.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        vocabulary: Vocabulary,
        lora: LoraSpec,
        expert_layer: int,
        objective: MaskAlignment,
        sigma: SigmaSampler,
        readout: Readout,
        protocol: PromptProtocol,
        prompt: PromptKind,
        align: AlignBy,
        flow_target: FlowTarget = "data",
        affinity_layer: int | None = None,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0 or warmup_steps < 0:
            found = f"{lr}, {weight_decay}, {warmup_steps}"
            raise UserError(f"`lr` must be above 0, `weight_decay` and `warmup_steps` 0 or more, found {found}.")
        if flow_target not in get_args(FlowTarget):
            raise UserError(f"`flow_target` must be one of {', '.join(get_args(FlowTarget))}, found '{flow_target}'.")
        if affinity_layer is not None and align != "names":
            raise UserError(f"`affinity_layer` spreads the maps of names: set `align=names` instead of '{align}', or leave it out.")
        self._aligned = [expert_layer] if affinity_layer is None else [expert_layer, affinity_layer]
        backbone.select_sites(self._aligned)
        add_lora(backbone, lora, expert_layer, seed)
        self.backbone, self.expert_layer, self.vocabulary = backbone, expert_layer, vocabulary
        self._objective, self._sigma, self._flow_target = objective, sigma, flow_target
        self._make_prompt = training_prompt(prompt, vocabulary, backbone.fits)
        self._align = alignment_by(align, objective, backbone.text_window)
        self._readout_prompts = PromptMaker(protocol, vocabulary, backbone.fits)
        self._segment = PromptedSegmenter(readout, self._readout_prompts)
        self._lr, self._weight_decay, self._warmup_steps, self._seed = lr, weight_decay, warmup_steps, seed
        self._batches_seen, self._check_aligned = 0, AlignedCheck(objective.weights)
        self.strict_loading = False  # checkpoints hold the adapter alone; on_load_checkpoint checks it

    def setup(self, stage: str) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.backbone.check_device(self.trainer.strategy.root_device)
        # New ones for each loop: a validation before training leaves tensors of inference mode, which one within training cannot update.
        self.block_scores = BlockScores(segment=self._segment, blocks=[self.expert_layer], classes=len(self.vocabulary))
        self.val_terms = by_name({name: MeanMetric() for name in ("flow", "focal", "dice", "loss")})

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
        noisy, target = interpolate(latents, noise, sigma), velocity(latents, noise)
        if self._flow_target == "base":
            with torch.no_grad(), base_model(self.backbone):
                target = self.backbone.predict_velocity(noisy, sigma, condition)
        with capture(self.backbone, self._aligned) as record:
            predicted = self.backbone.predict_velocity(noisy, sigma, condition)
        spread_by = record[self._aligned[1]] if len(self._aligned) > 1 else None
        maps, regions = self._align(ExpertPass(record[self.expert_layer], grid, condition, prompts, spread_by), batch)
        return self._objective(predicted, target, maps, regions)

    @torch.no_grad()
    def _encode(self, batch: Batch) -> tuple[list[Prompt], Tensor, TextCondition]:
        prompts = [self._make_prompt(caption, mask) for caption, mask in zip(batch.captions, batch.masks, strict=True)]
        return prompts, self.backbone.encode_image(batch.images), self.backbone.encode_text([prompt.text for prompt in prompts])

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encode what training, validation and test will ask for, so that a cache holds it; nothing is returned."""
        self._encode(batch.on_canvas())
        captions = [cut_to_fit(caption, self.backbone.fits) for caption in batch.captions]
        readout = [prompt.text for mask in batch.masks for prompt in self._readout_prompts(mask)]
        self.backbone.encode_text([*captions, *readout, ""])  # the empty prompt is that of unsupervised segmentation

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
