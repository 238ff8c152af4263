"""Looking into a running model and changing it: what every kind of block must hold."""

import pytest
import torch
from tests.families import FAMILIES, HostAttention, adapted, gradients, inputs, processors
from tests.hosts import random_flux, random_flux2, random_sd3
from tests.open_hosts import (
    random_aura_flow,
    random_chroma,
    random_cogvideox,
    random_longcat,
    random_lumina2,
    random_prx,
    random_qwen_image,
    random_z_image,
)

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t, quadrant_mass
from seg4diff.attention.seam import edit, stream
from seg4diff.backbones.runtime import Runtime
from seg4diff.errors import UserError


def velocity(model, arguments=None):
    with torch.no_grad():
        return model.predict_velocity(*(arguments or inputs(model)))


def hooks(model):
    modules = model.transformer.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def identity(visit):
    return visit.output


def same_tensors(visit):
    return visit.attend(visit.joint)


def nothing(visit):
    image, text = visit.output
    return torch.zeros_like(image), torch.zeros_like(text)


def drawn(model, **options):
    settings = {"seeds": [3, 4], "steps": 3, "guidance": 4.0, "size": (32, 48)} | options
    images = model.sample(["apple", "two stars"], **settings)
    return torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFamily:
    def test_the_output_of_a_visit_is_the_one_that_the_block_goes_on_with(self, family):
        model, seen = family.model(), []
        with HostAttention() as model_calls, stream(model, [family.block], seen.append):
            velocity(model)
        (visit,) = seen
        own = next(output for *_, output in model_calls.calls if output is visit.whole_output)
        image, text = visit.output
        rows = family.query_rows(image.shape[2], text.shape[2] - family.extra)
        assert torch.equal(image, own[:, :, rows["image"]]) and torch.equal(text, own[:, :, rows["text"]])
        assert image.shape == visit.joint.image_query.shape

    def test_blocks_are_visited_in_order_and_reading_changes_no_bit(self, family):
        model, order = family.model(), []
        plain = velocity(model)
        everything = range(len(model.attention_sites()))
        with stream(model, everything, lambda visit: order.append((visit.block, quadrant_mass(visit.joint), visit.output))):
            assert torch.equal(velocity(model), plain)
        assert [block for block, *_ in order] == list(everything)

    @pytest.mark.parametrize("attention", [identity, same_tensors])
    def test_an_edit_that_changes_nothing_changes_no_bit(self, family, attention):
        model = family.model()
        plain, everything = velocity(model), range(len(model.attention_sites()))
        with edit(model, everything, attention=attention, states=lambda image, text: (image, text)):
            assert torch.equal(velocity(model), plain)
        assert torch.equal(velocity(model), plain)

    def test_an_edited_attention_is_what_the_block_returns(self, family):
        """Without its attention, a block still adds what its MLP makes of the tokens, so this is compared with the model's own call."""
        model, plain = family.model(), velocity(family.model())
        with HostAttention() as model_calls, edit(model, [family.block], attention=nothing):
            edited = velocity(model)
        assert not torch.allclose(edited, plain, atol=1e-3)
        tokens = 24 + family.extra + inputs(model)[2].embeddings.shape[1]
        joint = [output for _, key, *_, output in model_calls.calls if key.shape[2] == tokens]
        assert len(joint) == len(model.attention_sites()), "the attention that an edit asks for is computed once"

    def test_states_reach_the_block_and_a_skipped_block_passes_them_on(self, family):
        model, seen = family.model(), {}

        def note(name):
            return lambda image, text: (seen.setdefault(name, image), text)

        with edit(model, [0], skip=True, states=note("before")), edit(model, [1], states=note("after")):
            velocity(model)
        assert torch.equal(seen["before"], seen["after"])
        with edit(model, [family.block], states=lambda image, text: (image, text.roll(1, dims=-1))):
            edited = velocity(model)
        assert not torch.allclose(edited, velocity(model), atol=1e-3)

    def test_everything_is_restored_after_an_exception(self, family):
        model = family.model()
        before, plain, own = hooks(model), velocity(model), processors(model)

        def fail(_):
            raise KeyboardInterrupt

        for use in (lambda: stream(model, [family.block], fail), lambda: edit(model, [family.block], attention=fail, skip=True)):
            with pytest.raises(KeyboardInterrupt), use():
                velocity(model)
            assert hooks(model) == before and processors(model) == own
            assert torch.equal(velocity(model), plain)

    def test_an_edit_that_is_opened_later_sees_the_attention_first(self, family):
        model, order = family.model(), []

        def note(name):
            return lambda visit: (order.append(name), visit.output)[1]

        block = [family.block]
        reading = stream(model, block, lambda visit: quadrant_mass(visit.joint))
        with edit(model, block, attention=note("outer")), reading, edit(model, block, attention=note("inner")):
            velocity(model)
        assert order == ["inner", "outer"], "what a consumer computes for itself is nobody's to edit"

    def test_reading_within_an_edit_sees_its_result(self, family):
        model, seen = family.model(), []
        with edit(model, [family.block], attention=nothing), stream(model, [family.block], seen.append):
            velocity(model)
        assert not any(part.any() for part in seen[0].output)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_flow_through_an_edit(self, family, checkpointing):
        found = []
        for attention in (None, same_tensors):
            model = adapted(family, runtime=Runtime(gradient_checkpointing=checkpointing)).train()
            with edit(model, [family.block], attention=attention):
                model.predict_velocity(*inputs(model)).square().sum().backward()
            found.append(gradients(model))
        assert any(gradient.abs().max() > 1e-4 for gradient in found[0])
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)

    def test_every_pass_of_a_sampling_run_can_be_told_apart(self, family):
        model, visits, steps = family.model(), [], []
        plain = drawn(model)
        with stream(model, [family.block], lambda visit: visits.append((visit, i2t(visit.joint, "text")))):
            watched = drawn(model, on_step=lambda step, latents: steps.append((step, latents.shape[0])))
        assert torch.equal(plain, watched), "reading changes no bit of an image"
        assert steps == [(0, 2), (1, 2), (2, 2)]
        assert [visit.number for visit, _ in visits] == list(range(len(visits)))
        prompted = [(visit.step, maps[visit.prompted]) for visit, maps in visits if len(maps[visit.prompted])]
        assert [step for step, _ in prompted] == [0, 1, 2] and {len(maps) for _, maps in prompted} == {2}

    def test_an_image_depends_on_its_own_seed(self, family):
        model = family.model()
        both, swapped = drawn(model), drawn(model, seeds=[4, 3])
        assert not torch.equal(both[0], swapped[0])
        alone = model.sample(["two stars"], seeds=[4], steps=3, guidance=4.0, size=(32, 48))[0]
        difference = torch.frombuffer(bytearray(alone.tobytes()), dtype=torch.uint8).int() - both[1].int()
        assert difference.abs().max() <= 1

    def test_capture_keeps_one_pass_and_refuses_a_second(self, family):
        model = family.model()
        with pytest.raises(UserError, match="capture keeps one forward pass, and this is another"), capture(model, [family.block]):
            drawn(model)


@pytest.mark.parametrize("name", ["sd3", "flux single", "flux2 double", "lumina 2", "prx"])
def test_a_compiled_block_can_be_edited(name):
    """One block of each way to hold an edit; that every kind of block compiles is in the contract."""
    torch._dynamo.reset()
    family = FAMILIES[name]
    model = family.model(runtime=Runtime(compile="aot_eager"))
    plain = velocity(model)
    with edit(model, [family.block], attention=nothing):
        assert not torch.allclose(velocity(model), plain, atol=1e-3)
    torch.testing.assert_close(velocity(model), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "passes", "rows"),
    [
        (random_sd3, 1, 2),
        (random_flux, 1, 1),
        (random_flux2, 2, 1),
        (random_aura_flow, 1, 2),
        (random_chroma, 2, 1),
        (random_cogvideox, 1, 2),
        (random_longcat, 2, 1),
        (random_lumina2, 2, 1),
        (random_prx, 1, 2),
        (random_qwen_image, 2, 1),
        (random_z_image, 1, 2),
    ],
)
def test_the_unconditional_half_of_guidance_is_known(make, passes, rows):
    """SD3, AuraFlow, CogVideoX, PRX and Z-Image double the batch; the others run a second pass; Flux.1 has an input for it.

    In the first step, the text keys of the rows that see the prompt differ between two prompts, and those of the others do not.
    """
    model, found = make(), []
    for prompt in ("apple leaf", "two stars"):
        visits = []
        with stream(model, [0], visits.append):
            model.sample([prompt], seeds=[0], steps=1, guidance=4.0, size=(32, 32))
        assert len(visits) == passes and {len(visit.joint.text_key) for visit in visits} == {rows}
        found.append([(row in range(rows)[visit.prompted], visit.joint.text_key[row]) for visit in visits for row in range(rows)])
    for (prompted, key), (_, other) in zip(*found, strict=True):
        assert prompted != torch.equal(key, other)


def test_a_seed_is_missing(backbone):
    with pytest.raises(UserError, match="every image needs a seed of its own: found 2 prompts and 1 seeds"):
        backbone.sample(["apple", "leaf"], seeds=[0], steps=1, guidance=1.0, size=(32, 32))
