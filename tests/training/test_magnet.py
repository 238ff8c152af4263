"""The one prompt that an image is trained with."""

from types import SimpleNamespace

import pytest
import torch
from tests.hosts import random_sd3

from seg4diff.backbones.lora import LoraSpec
from seg4diff.data.sample import IGNORE, Batch, Vocabulary
from seg4diff.errors import UserError
from seg4diff.flow import logit_normal
from seg4diff.segmentation.readout import Readout
from seg4diff.training.magnet import MagnetModule
from seg4diff.training.objective import MaskAlignment

NAMES = tuple(f"{look} {thing}" for look in ("small", "large", "dark") for thing in ("cone", "brick", "leaf", "fish", "apple"))
VOCABULARY = Vocabulary(NAMES)
SIGMA = logit_normal(mean=0.0, std=1.0)
READOUT = Readout(sigma=0.3, scores="joint", normalisation="none", seed=0, background=0.5)
CAPTION = "a small cone, a leaf and a fish on the sand at a dark apple; " * 2 + "a large brick"


class Recorder(MaskAlignment):
    """Keeps what it was asked to match and to align."""

    def match(self, candidates, regions):
        self.candidates = candidates
        return super().match(candidates, regions)

    def __call__(self, predicted, target, maps, regions):
        self.maps, self.regions = [len(logits) for logits in maps], regions
        return super().__call__(predicted, target, maps, regions)

    def classes(self, masks):
        """Class ids of the aligned regions of each image."""
        return [[int(mask[region].unique()) for region in own.masks] for mask, own in zip(masks, self.regions, strict=True)]


def magnet(prompt, align="names", vocabulary=VOCABULARY):
    return MagnetModule(
        backbone=random_sd3(),
        vocabulary=vocabulary,
        lora=LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q", "add_k_proj"]),
        expert_layer=1,
        objective=Recorder(flow_weight=1.0, mask_weight=1.0, dice_weight=1.0),
        sigma=SIGMA,
        readout=READOUT,
        protocol="oracle",
        prompt=prompt,
        align=align,
        lr=1e-3,
        weight_decay=0.0,
        warmup_steps=1,
        seed=0,
    )


def areas_to_mask(areas):
    """A mask of 32 x 48 where class k has areas[k] pixels and no other pixel is labelled."""
    mask = torch.full((32 * 48,), IGNORE)
    mask[: sum(areas)] = torch.arange(len(areas)).repeat_interleave(torch.tensor(areas))
    return mask.view(32, 48)


def batch(masks, captions):
    pictures = torch.rand(len(masks), 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(pictures, masks, captions, [""] * len(masks), list(range(len(masks))))


def test_the_largest_classes_are_trained_where_not_all_fit():
    names = (*NAMES[:7], "large zebra", *NAMES[8:])  # takes more tokens than the others
    module = magnet("names", vocabulary=Vocabulary(names))
    areas = [60, 5, 80, 70, 90, 10, 61, 62, 63, 64, 65, 66, 67, 68, 69]
    assert module.backbone.fits(" ".join(NAMES)), "two tokens a name: exactly what the model takes"
    everything = list(range(len(NAMES)))
    masks = [areas_to_mask(areas), areas_to_mask(areas[:7])]
    terms = module.loss_terms(batch(masks, ["", ""]), [0, 1])
    kept, few = module._objective.classes(masks)
    ranked = sorted(everything, key=lambda k: -areas[k])
    assert kept == sorted(ranked[: len(kept)]) and 8 < len(kept) < 15, "the largest, in their order"
    assert few == list(range(7)) and module._objective.maps == [len(kept), 7]
    more = sorted(ranked[: len(kept) + 1])
    assert not module.backbone.fits(" ".join(names[k] for k in more)), "none is left out without need"
    assert all(value.isfinite() for value in terms.values())


def test_the_background_is_no_word_of_a_prompt():
    module = magnet("names", vocabulary=Vocabulary(("background", *NAMES[1:]), background=0))
    masks = [areas_to_mask([30, 20, 10])]
    module.loss_terms(batch(masks, [""]), [0])
    assert module._objective.classes(masks) == [[1, 2]]


def test_a_long_caption_trains_what_its_beginning_names():
    module = magnet("caption")
    names = {name: k for k, name in enumerate(NAMES)}
    masks = [areas_to_mask([20] * 15)]
    module.loss_terms(batch(masks, [CAPTION]), [0])
    assert not module.backbone.fits(CAPTION)
    assert module._objective.classes(masks) == [[names["small cone"], names["dark apple"]]], "the large brick stands beyond the end"


def test_masks_without_names_are_given_maps_of_single_heads_or_of_tokens_of_the_prompt():
    caption, masks = "a small cone and a leaf", [areas_to_mask([20] * 8)]
    heads, tokens = magnet("caption", "regions"), magnet("caption", "tokens")
    for module in (heads, tokens):
        module.loss_terms(batch(masks, [caption]), [0])
    assert heads._objective.classes(masks) == [list(range(8))] and heads._objective.maps == [8], "every class of the image, named or not"
    assert len(set(tokens._objective.classes(masks)[0])) == 6 and tokens._objective.maps == [6], "no more masks than words"
    of_heads = heads._objective.candidates.unflatten(0, (-1, heads.backbone.text_window))
    torch.testing.assert_close(tokens._objective.candidates, of_heads.mean(dim=0)[1:7])  # between the start and the end


def test_an_empty_caption_has_no_token_to_align():
    terms = magnet("caption", "tokens").loss_terms(batch([areas_to_mask([20] * 3)], [""]), [0])
    assert terms["focal"] == terms["dice"] == 0 and terms["loss"] == terms["flow"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("align", ["names", "regions", "tokens"])
def test_autocast_gives_the_losses_of_float32(align, dtype):
    module = magnet("caption", align)
    example = batch([areas_to_mask([200, 90, 300, 150])], ["a small cone, a small brick, a small leaf and a small fish"])
    expected = module.loss_terms(example, [0])
    with torch.autocast("cpu", dtype):
        found = module.loss_terms(example, [0])
    assert {term.dtype for term in found.values()} == {torch.float32}
    for name, term in found.items():
        torch.testing.assert_close(term, expected[name], rtol=3 * torch.finfo(dtype).eps, atol=0)


def test_a_loss_that_is_not_finite_ends_a_validation():
    module = magnet("names")
    module.val_terms = None  # reached by a finite loss alone
    module._trainer = SimpleNamespace(global_step=7)
    module.backbone.transformer.proj_out.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="the loss is not finite at step 7"):
        module.validation_step(batch([areas_to_mask([20] * 3)], [""]), 0)
