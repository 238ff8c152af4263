"""What every model family must hold: the record is the model's own attention, exactly, and reading it disturbs nothing."""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from diffusers import Flux2KleinPipeline, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_longcat_image import LongCatImagePosEmbed
from diffusers.models.transformers.transformer_lumina2 import Lumina2RotaryPosEmbed
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from tests.families import FAMILIES, HostAttention, adapted, gradients, inputs, processors, read

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import ABSENT, i2t, i2t_per_head, quadrant_mass, text_mass
from seg4diff.backbones.base import TextCondition
from seg4diff.backbones.hooks import change_output
from seg4diff.backbones.lora import base_model
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import list_names, token_sets


def number_text_by(order, monkeypatch):
    """Flux.2, Qwen-Image, LongCat-Image, Lumina-Image 2 and Z-Image number their text tokens: let the numbers move with the tokens."""
    numbers = Flux2KleinPipeline._prepare_text_ids
    monkeypatch.setattr(Flux2KleinPipeline, "_prepare_text_ids", lambda embeddings: numbers(embeddings)[:, order])
    places = QwenEmbedRope.forward

    def placed(*arguments, **options):
        image, text = places(*arguments, **options)
        return image, text[order]

    monkeypatch.setattr(QwenEmbedRope, "forward", placed)
    angles = LongCatImagePosEmbed.forward

    def turned(module, ids):
        return angles(module, torch.cat([ids[: len(order)][order], ids[len(order) :]]))

    monkeypatch.setattr(LongCatImagePosEmbed, "forward", turned)
    rotary = Lumina2RotaryPosEmbed.forward

    def reordered(*arguments):
        image, words, image_places, joint, *lengths = rotary(*arguments)
        joint = torch.cat([joint[:, : len(order)][:, order], joint[:, len(order) :]], dim=1)
        return image, words[:, order], image_places, joint, *lengths

    monkeypatch.setattr(Lumina2RotaryPosEmbed, "forward", reordered)
    padded = ZImageTransformer2DModel._pad_with_ids

    def moved(model, tokens, size, start, *arguments):
        found = padded(model, tokens, size, start, *arguments)
        return (found[0], found[1][order], *found[2:]) if start == (1, 0, 0) else found

    monkeypatch.setattr(ZImageTransformer2DModel, "_pad_with_ids", moved)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFamily:
    @contextmanager
    def host_calls(self, family, model):
        """The model's joint attention of the block under test, split by the token order of the family, not by the adapter."""
        with HostAttention() as host:
            yield (found := {})
        image, text = found["tokens"]
        joint = [call for call in host.calls if call[1].shape[2] == image + text + family.extra]
        found["call"], found["rows"] = joint[family.block], (family.query_rows(image, text), family.rows(image, text))

    def host_and_record(self, family):
        model = family.model()
        arguments = inputs(model)
        grid = model.token_grid(32, 48)
        with torch.no_grad(), self.host_calls(family, model) as found, capture(model, [family.block]) as record:
            model.predict_velocity(*arguments)
            found["tokens"] = grid[0] * grid[1], arguments[2].embeddings.shape[1]
        return found["call"], found["rows"], record[family.block]

    def test_the_record_is_what_the_hosts_attention_saw(self, family):
        (query, key, value, *_), (queries, rows), joint = self.host_and_record(family)
        for name in ("image", "text"):
            assert torch.equal(getattr(joint, f"{name}_query"), query[:, :, queries[name]])
            assert torch.equal(getattr(joint, f"{name}_key"), key[:, :, rows[name]])
            assert torch.equal(getattr(joint, f"{name}_value"), value[:, :, rows[name]])

    def test_maps_equal_the_dense_softmax_of_the_hosts_attention(self, family):
        (query, key, _, bias, _), (queries, rows), joint = self.host_and_record(family)
        scores = query.double() @ key.double().transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        dense = scores.softmax(dim=-1).float()
        expected = dense[:, :, queries["image"]][..., rows["text"]].transpose(-1, -2)
        torch.testing.assert_close(i2t_per_head(joint, "joint"), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(i2t(joint, "joint"), expected.mean(dim=1), atol=1e-5, rtol=0)
        torch.testing.assert_close(text_mass(joint), expected.sum(dim=2), atol=1e-5, rtol=0)
        for name, mass in quadrant_mass(joint).items():
            start, end = (("image", "text")[letter == "t"] for letter in (name[0], name[-1]))
            of_each = dense[:, :, queries[start]][..., rows[end]].sum(dim=-1)
            asking = rows[start] if queries[start] else []
            seen = (dense[:, :, queries["image"]].sum(dim=(1, 2)) > 0)[:, None, asking]  # a masked token is no query
            torch.testing.assert_close(mass, (of_each * seen).sum(dim=-1) / seen.sum(dim=-1), atol=1e-5, rtol=0, equal_nan=True)

    def test_softmax_of_the_record_times_its_values_is_the_hosts_output(self, family):
        (*_, output), (queries, _), joint = self.host_and_record(family)
        key = torch.cat([joint.image_key, joint.text_key], dim=2)
        values = torch.cat([joint.image_value, joint.text_value], dim=2)
        for name in ("image", "text"):
            scores = getattr(joint, f"{name}_query") @ key.transpose(-1, -2) * joint.scale
            if joint.bias is not None:
                scores = scores + torch.cat([joint.bias_between(name, keys) for keys in ("image", "text")], dim=-1)
            rebuilt = scores.softmax(dim=-1) @ values
            torch.testing.assert_close(rebuilt, output[:, :, queries[name]], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("scores", ["logits", "text", "joint"])
    def test_gradients_equal_those_of_the_dense_reference(self, family, scores):
        model = adapted(family)
        arguments = inputs(model)
        found = []
        for dense in (False, True):
            with HostAttention() as host, capture(model, [family.block]) as record:
                velocity = model.predict_velocity(*arguments)
            maps = self.dense_map(host, arguments, family, velocity, scores) if dense else i2t(record[family.block], scores)
            (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
            found.append(gradients(model))
            model.zero_grad()
        assert any(gradient.abs().max() > 1e-4 for gradient in found[0])
        for ours, reference in zip(*found, strict=True):
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)

    def dense_map(self, host, arguments, family, velocity, scores):
        text = arguments[2].embeddings.shape[1]
        joint = [call for call in host.calls if call[1].shape[2] == 24 + text + family.extra]
        query, key, _, bias, _ = joint[family.block]
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        queries, rows = family.query_rows(24, text), family.rows(24, text)
        if scores == "joint":
            return logits.softmax(dim=-1)[:, :, queries["image"]][..., rows["text"]].transpose(-1, -2).mean(dim=1)
        part = logits[:, :, queries["image"]][..., rows["text"]].transpose(-1, -2)
        return (part.clamp_min(ABSENT) if scores == "logits" else part.softmax(dim=-2)).mean(dim=1)

    def test_maps_of_a_stopped_pass_are_bit_equal_and_nothing_later_runs(self, family):
        model = family.model()
        arguments, later = inputs(model), []
        sites = model.attention_sites()
        wanted = [0, family.block]
        hooks = [site.block.register_forward_pre_hook(lambda *_: later.append(1)) for site in sites[family.block + 1 :]]
        hooks.append(sites[family.block].block.register_forward_hook(lambda *_: later.append(1)))
        stopped = read(model, wanted, arguments, stop=True)
        assert not later, "the block itself or a later one was computed to its end"
        for hook in hooks:
            hook.remove()
        full = read(model, wanted, arguments)
        for block in wanted:
            for scores in ("logits", "joint"):
                assert torch.equal(i2t(full[block], scores), i2t(stopped[block], scores))

    def test_reading_does_not_change_the_velocity(self, family):
        model = family.model()
        arguments = inputs(model)
        with torch.no_grad():
            plain = model.predict_velocity(*arguments)
            with capture(model, [family.block]):
                watched = model.predict_velocity(*arguments)
        assert plain.shape == arguments[0].shape and torch.equal(plain, watched)

    def test_two_prompts_in_a_batch_equal_two_batches_of_one(self, family):
        model = family.model()
        noisy, sigma, condition = inputs(model)
        together = i2t(read(model, [family.block], (noisy, sigma, condition))[family.block], "joint")
        for row in range(2):
            one = slice(row, row + 1)
            alone = i2t(read(model, [family.block], (noisy[one], sigma[one], condition[one]))[family.block], "joint")
            torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-4)

    def test_permuted_text_tokens_permute_the_maps(self, family, monkeypatch):
        model = family.model()
        noisy, sigma, condition = inputs(model)
        axis = condition.embeddings.shape[1]
        free = min(map(len, condition.offsets)) if family.by_length else axis
        order = torch.arange(axis)
        order[:free] = torch.randperm(free, generator=torch.Generator().manual_seed(3))
        permuted = TextCondition(condition.embeddings[:, order], condition.pooled, condition.offsets, condition.padding[:, order])
        straight = read(model, [family.block], (noisy, sigma, condition))[family.block]
        number_text_by(order, monkeypatch)
        shuffled = read(model, [family.block], (noisy, sigma, permuted))[family.block]
        order = torch.cat([order, torch.arange(axis, axis + family.extra)])
        torch.testing.assert_close(i2t(shuffled, "joint"), i2t(straight, "joint")[:, order], atol=1e-6, rtol=1e-4)

    def test_image_tokens_lie_row_by_row_on_the_grid(self, family):
        """Moving one patch of the latents moves the first block's query of that token alone."""
        model = family.model()
        noisy, sigma, condition = inputs(model)
        rows, columns = model.token_grid(32, 48)
        assert (rows, columns) == (4, 6)
        row, column = 2, 5
        patch = noisy.shape[-1] // columns
        moved = noisy.clone()
        moved[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1.0
        with ExitStack() as stack:  # refiners mix image tokens before the joint stack: without them
            for block in getattr(model.transformer, "noise_refiner", []):
                stack.enter_context(change_output(block, lambda arguments, _: arguments[model.tokens]))
            before, after = (read(model, [0], (latents, sigma, condition), stop=True)[0].image_query for latents in (noisy, moved))
        changed = ((before - after).abs().amax(dim=(0, 1, 3)) > 1e-6).view(rows, columns)
        assert changed[row, column] and changed.sum() == 1

    def test_words_know_their_tokens(self, family):
        model = family.model()
        names = ["apple", "traffic cone", "leaf"]
        prompt = list_names(names, [0, 2])
        condition = model.encode_text([prompt.text, "leaf"])
        (apple, leaf), (alone,) = token_sets(condition, 0, prompt), token_sets(condition, 1, list_names(names, [2]))
        assert not set(apple) & set(leaf) and max(apple) < min(leaf) and min(alone) == min(apple)
        assert not condition.padding[0, apple + leaf].any() and condition.padding[1, max(alone) + 1 :].all()
        inside = (~condition.padding[0]).nonzero().flatten()
        assert inside.min() == min(apple) and inside.max() == max(leaf)

    def test_a_prompt_has_one_embedding_also_while_training(self, family):
        """T5 has dropout; Lightning or a user may call train() on everything."""
        model = family.model().train()
        assert torch.equal(*(model.encode_text(["apple leaf"]).embeddings for _ in range(2)))

    def test_gradient_checkpointing_gives_the_same_gradients(self, family):
        found = []
        for checkpointing in (False, True):
            model = adapted(family, runtime=Runtime(gradient_checkpointing=checkpointing)).train()
            with capture(model, [family.block]) as record:
                velocity = model.predict_velocity(*inputs(model))
            (i2t(record[family.block], "logits").square().sum() + velocity.square().sum()).backward()
            found.append(gradients(model))
        for plain, checkpointed in zip(*found, strict=True):
            torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)

    def test_compiled_blocks_can_be_read(self, family):
        torch._dynamo.reset()
        plain = adapted(family).train()
        compiled = adapted(family, runtime=Runtime(compile="aot_eager", gradient_checkpointing=True)).train()
        arguments, found = inputs(plain), []
        for model in (plain, compiled):
            model.predict_velocity(*arguments)  # a compiled block exists before it is read
            with capture(model, [family.block]) as record:
                velocity = model.predict_velocity(*arguments)
            maps = i2t(record[family.block], "joint")
            (maps.square().sum() + velocity.square().sum()).backward()
            found.append([maps.detach(), velocity.detach(), *gradients(model)])
        for expected, ours in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)

    def test_an_adapter_of_zero_changes_nothing_and_the_base_is_still_inside(self, family):
        plain, model = family.model(), adapted(family)
        arguments = inputs(plain)
        reference = i2t(read(plain, [family.block], arguments)[family.block], "joint")
        with base_model(model):
            torch.testing.assert_close(i2t(read(model, [family.block], arguments)[family.block], "joint"), reference, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(i2t(read(model, [family.block], arguments)[family.block], "joint"), reference, atol=1e-4)

    def test_a_saved_adapter_gives_the_same_maps(self, family, tmp_path):
        model = adapted(family)
        model.save_lora(tmp_path)
        loaded = family.model()
        loaded.load_lora(tmp_path)
        arguments = inputs(model)
        ours, theirs = (i2t(read(m, [family.block], arguments)[family.block], "joint") for m in (model, loaded))
        torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=1e-5)

    def test_a_saved_adapter_gives_the_same_velocity_in_the_plain_pipeline(self, family, tmp_path):
        model, plain = adapted(family), family.model()
        model.save_lora(tmp_path)
        family.load_lora(plain._pipeline, tmp_path)
        arguments = inputs(model)
        with torch.no_grad():
            torch.testing.assert_close(plain.predict_velocity(*arguments), model.predict_velocity(*arguments), atol=1e-5, rtol=1e-4)

    def test_blocks_before_the_adapter_keep_nothing_for_the_backward_pass(self, family):
        model = adapted(family).train()
        arguments = inputs(model)
        kept, before = [], []
        site = model.attention_sites()[family.block]
        hook = site.block.register_forward_pre_hook(lambda *_: before.append(len(kept)))
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
            model.predict_velocity(*arguments)
        hook.remove()
        assert before == [0] and len(kept) > 0

    def test_hooks_are_removed_also_after_an_error(self, family):
        model = family.model()

        def hooks():
            return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.transformer.modules())

        before, own = hooks(), processors(model)
        with pytest.raises(RuntimeError, match="boom"), capture(model, [0, family.block]):
            model.predict_velocity(*inputs(model))
            raise RuntimeError("boom")
        with pytest.raises(RuntimeError), capture(model, [family.block]):
            model.predict_velocity(torch.zeros(1, 1, 1, 1), torch.zeros(1), model.encode_text(["apple"]))
        blocks = len(model.attention_sites())
        with pytest.raises(UserError, match=f"block 17 does not exist: this model has {blocks}"), capture(model, [0, 17]):
            pass
        assert hooks() == before and processors(model) == own
        read(model, [family.block], inputs(model))

    def test_a_size_that_does_not_divide_and_a_prompt_that_does_not_fit_are_refused(self, family):
        model = family.model()
        with pytest.raises(UserError, match="image size 36 x 48 does not fit this model: height and width must be multiples of 8"):
            model.token_grid(36, 48)
        prompt = " ".join(["apple"] * 50)
        assert model.fits("apple") and not model.fits(prompt)
        with pytest.raises(UserError, match="tokens with those that the tokenizer adds, the model takes"):
            model.encode_text([prompt])


def test_a_block_that_did_not_run_is_an_error(backbone):
    with capture(backbone, [1]) as record:
        pass
    with pytest.raises(UserError, match="recorded nothing"):
        record[1]


def test_an_unknown_kind_of_map_is_refused(backbone):
    record = read(backbone, [1], inputs(backbone))
    with pytest.raises(UserError, match="`scores` must be one of"):
        i2t(record[1], "softmax")
