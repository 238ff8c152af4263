"""The capture against a dense softmax and against the host's own output, forward and gradient."""

import pytest
import torch
from tests.conftest import random_sd3

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t, i2t_per_head, text_mass
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.errors import UserError

VARIANTS = {
    "sd3": {},
    "sd3 with zero T5 tokens": {"t5_length": 5},
    "sd3.5: qk-norm and dual attention": {"qk_norm": "rms_norm", "dual": (0, 1)},
}


@pytest.fixture(params=VARIANTS, ids=lambda name: name)
def model(request):
    return random_sd3(**VARIANTS[request.param])


def inputs(model, prompts=("apple leaf sand", "two stars on the night sky"), grid=(8, 12)):
    latents = torch.randn(len(prompts), 4, *grid, generator=torch.Generator().manual_seed(0))
    return latents, torch.full((len(prompts),), 0.4), model.encode_text(prompts)


def dense_i2t(joint):
    """The release's way: the whole (N + T) x (N + T) softmax, then its image rows and text columns, as (B, heads, T, N)."""
    query = torch.cat([joint.image_query, joint.text_query], dim=2)
    key = torch.cat([joint.image_key, joint.text_key], dim=2)
    image = joint.image_query.shape[2]
    return (query @ key.transpose(-1, -2) * joint.scale).softmax(dim=-1)[:, :, :image, image:].transpose(-1, -2)


def test_joint_maps_equal_the_dense_softmax(model):
    with torch.no_grad(), capture(model, [0, 1, 2]) as record:
        model.predict_velocity(*inputs(model))
    for block in range(3):
        torch.testing.assert_close(i2t_per_head(record[block], "joint"), dense_i2t(record[block]), atol=1e-5, rtol=0)


def test_record_rebuilds_the_hosts_attention_output(model):
    outputs = {}
    attention = model.attention_sites()[1].module
    values = [attention.to_v, attention.add_v_proj]
    hooks = [m.register_forward_hook(lambda m, _, out, k=k: outputs.update({k: out})) for k, m in enumerate(values)]
    hooks.append(attention.to_out[0].register_forward_pre_hook(lambda _, args: outputs.update(host=args[0])))
    with torch.no_grad(), capture(model, [1]) as record:
        model.predict_velocity(*inputs(model))
    for hook in hooks:
        hook.remove()
    joint = record[1]
    value = torch.cat([outputs[0], outputs[1]], dim=1).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    key = torch.cat([joint.image_key, joint.text_key], dim=2)
    rebuilt = (joint.image_query @ key.transpose(-1, -2) * joint.scale).softmax(dim=-1) @ value
    torch.testing.assert_close(rebuilt.transpose(1, 2).flatten(2), outputs["host"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scores", ["logits", "text", "joint"])
def test_gradients_equal_the_dense_reference(model, scores):
    add_lora(model, LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q", "to_k"]), expert_layer=1, seed=0)
    for weight in lora_weights(model).values():
        torch.nn.init.normal_(weight, std=0.3)
    dense = {
        "logits": lambda joint: joint.text_key @ joint.image_query.transpose(-1, -2) * joint.scale,
        "text": lambda joint: (joint.text_key @ joint.image_query.transpose(-1, -2) * joint.scale).softmax(dim=-2),
        "joint": dense_i2t,
    }[scores]
    gradients = []
    for read in (lambda joint: i2t(joint, scores), lambda joint: dense(joint).mean(dim=1)):
        with capture(model, [1]) as record:
            model.predict_velocity(*inputs(model))
        maps = read(record[1])
        (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
        gradients.append([weight.grad.clone() for weight in lora_weights(model).values() if weight.grad is not None])
        model.zero_grad()
    assert gradients[0] and any(gradient.abs().max() > 1e-4 for gradient in gradients[0])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_maps_of_a_stopped_pass_are_bit_equal(model):
    arguments = inputs(model)
    later = []
    hook = model.transformer.transformer_blocks[2].register_forward_pre_hook(lambda *_: later.append(1))
    with torch.no_grad():
        with capture(model, [0, 1]) as full:
            model.predict_velocity(*arguments)
        later.clear()
        with capture(model, [0, 1], stop=True) as stopped:
            model.predict_velocity(*arguments)
    hook.remove()
    assert not later, "the block after the last one asked for ran"
    for block in (0, 1):
        assert torch.equal(i2t(full[block], "joint"), i2t(stopped[block], "joint"))


def test_text_mass_is_a_share_and_completes_the_rows(model):
    with torch.no_grad(), capture(model, [2]) as record:
        model.predict_velocity(*inputs(model))
    mass = text_mass(record[2])
    assert (mass > 0).all() and (mass < 1).all()
    torch.testing.assert_close(i2t_per_head(record[2], "joint").sum(dim=2), mass)


def test_two_prompts_in_a_batch_equal_two_batches_of_one(model):
    latents, sigma, condition = inputs(model)
    with torch.no_grad():
        with capture(model, [1]) as together:
            model.predict_velocity(latents, sigma, condition)
        for row in range(2):
            with capture(model, [1]) as alone:
                one = slice(row, row + 1)
                model.predict_velocity(latents[one], sigma[one], condition[one])
            torch.testing.assert_close(i2t(alone[1], "joint")[0], i2t(together[1], "joint")[row], atol=1e-6, rtol=1e-4)


def test_permuted_text_tokens_permute_the_maps(model):
    latents, sigma, condition = inputs(model)
    order = torch.randperm(condition.embeddings.shape[1], generator=torch.Generator().manual_seed(3))
    permuted = type(condition)(condition.embeddings[:, order], condition.pooled, condition.offsets, condition.padding[:, order])
    with torch.no_grad():
        with capture(model, [2]) as straight:
            model.predict_velocity(latents, sigma, condition)
        with capture(model, [2]) as shuffled:
            model.predict_velocity(latents, sigma, permuted)
    torch.testing.assert_close(i2t(shuffled[2], "joint"), i2t(straight[2], "joint")[:, order], atol=1e-6, rtol=1e-4)


def test_hooks_are_removed_also_after_an_error(model):
    def hooks():
        return sum(len(module._forward_hooks) for module in model.modules())

    before = hooks()
    with pytest.raises(RuntimeError, match="boom"), capture(model, [0, 1]):
        raise RuntimeError("boom")
    with pytest.raises(UserError, match="block 7 does not exist: this model has 3"), capture(model, [0, 7]):
        pass
    assert hooks() == before


def test_gradient_checkpointing_keeps_the_first_record(model):
    add_lora(model, LoraSpec(blocks="all", rank=2, alpha=2, targets=["to_q"]), expert_layer=1, seed=0)
    for weight in lora_weights(model).values():
        torch.nn.init.normal_(weight, std=0.3)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.transformer.enable_gradient_checkpointing()
        model.train()
        with capture(model, [1]) as record:
            velocity = model.predict_velocity(*inputs(model))
            loss = i2t(record[1], "logits").square().sum() + velocity.square().sum()
            loss.backward()
        results.append([weight.grad.clone() for weight in lora_weights(model).values()])
        model.zero_grad()
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-4)


def test_a_block_that_did_not_run_is_an_error(model):
    with capture(model, [1]) as record:
        pass
    with pytest.raises(UserError, match="recorded nothing"):
        record[1]
