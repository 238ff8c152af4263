"""Every reader gives the class maps of its definition, for every kind of block, and stops the pass where it can."""

from dataclasses import replace

import pytest
import torch
from tests.families import FAMILIES, exact
from tests.hosts import random_flux, random_sd3
from tests.open_hosts import random_aura_flow, random_lumina2, random_prx, random_z_image
from torch.nn.functional import scaled_dot_product_attention

from seg4diff.attention.capture import capture
from seg4diff.attention.concepts import concept_outputs, entering_text
from seg4diff.attention.seam import edit, stream
from seg4diff.errors import UserError
from seg4diff.segmentation.prompts import list_names
from seg4diff.segmentation.readers import base
from seg4diff.segmentation.readers.aggregated import Aggregated, agreement, principal_components
from seg4diff.segmentation.readers.bounce import Bounce
from seg4diff.segmentation.readers.concepts import Concepts
from seg4diff.segmentation.readers.expert import Expert
from seg4diff.segmentation.readers.mixture import Mixture, scaled
from seg4diff.segmentation.readers.propagated import Propagated
from seg4diff.segmentation.readers.t2i import TextToImage
from seg4diff.segmentation.readout import Readout

NAMES = ("cup", "night sky", "gem")
PROMPTS = [[list_names(NAMES, [1])], [list_names(NAMES, [2, 0])]]


def images(count=2):
    return torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1  # a grid of 4 x 6 tokens


def readout(**changes) -> Readout:
    return Readout(**{"sigma": 0.3, "scores": "joint", "normalisation": "none", "seed": 0} | changes)


def class_maps(model, blocks, **changes):
    return readout(**changes).class_maps(model, images(), PROMPTS, [3, 5], blocks)


def dense(joint, queries, keys):
    """Head-mean attention of these queries to these keys among all of them, in float64."""
    query = torch.cat([getattr(joint, f"{part}_query") for part in queries], dim=2)
    key = torch.cat([getattr(joint, f"{part}_key") for part in keys], dim=2)
    scores = query.double() @ key.double().transpose(-1, -2) * joint.scale
    if joint.bias is not None:
        rows = [torch.cat([joint.bias_between(query, key) for key in keys], dim=-1) for query in queries]
        scores = scores + (rows[0] if rows[0].shape[2] == 1 else torch.cat(rows, dim=2))
    return scores.softmax(dim=-1).mean(dim=1)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


WITHOUT_CONCEPTS = [name for name, own in FAMILIES.items() if own.make in (random_aura_flow, random_lumina2, random_prx, random_z_image)]


@pytest.fixture(params=[name for name in FAMILIES if name not in WITHOUT_CONCEPTS])
def with_concepts(request):
    """A family whose sequences hold image and text alone, each with a part of its own in every block."""
    return FAMILIES[request.param]


@pytest.fixture(params=[name for name, own in FAMILIES.items() if own.text_attends])
def both_ways(request):
    """A family in which the text attends too."""
    return FAMILIES[request.param]


def joints(model, blocks):
    """What enters the attention of these blocks in the pass that `class_maps` makes."""
    read = readout()
    condition = model.encode_text([own[0].text for own in PROMPTS])
    with torch.no_grad(), capture(model, blocks) as record:
        model.predict_velocity(*read.noisy(model, images(), [3, 5]), condition)
    return record, condition


def test_the_expert_is_the_default_and_stops_at_its_block(family):
    model = family.model()
    plain, chosen = class_maps(model, [family.block]), class_maps(model, [family.block], reader=Expert())
    assert all(torch.equal(*pair) for pair in zip(plain[family.block], chosen[family.block], strict=True))


@pytest.mark.parametrize("order", [1, 2])
def test_propagated_maps_are_the_dense_operator_times_those_of_the_expert(family, order):
    model = family.model()
    by = {1: 0, 2: family.block}[order]  # the first block, and the kind of block that is read
    operator = dense(joints(model, [by])[0][by], ["image"], ["image"])
    plain = class_maps(model, [family.block])[family.block]
    found = class_maps(model, [family.block], reader=Propagated(block=by, order=order))[family.block]
    for matrix, own, before in zip(operator, found, plain, strict=True):
        expected = torch.linalg.matrix_power(matrix, order) @ before.double().flatten(1).T
        torch.testing.assert_close(own.double().flatten(1).T, expected, atol=1e-5, rtol=1e-4)


def test_maps_are_spread_by_the_block_itself_where_none_is_named(family):
    model, block = family.model(), family.block
    named, own = class_maps(model, [block], reader=Propagated(block=block)), class_maps(model, [block], reader=Propagated())
    assert all(torch.equal(*pair) for pair in zip(named[block], own[block], strict=True))


def test_t2i_maps_are_what_the_tokens_of_a_name_see(both_ways):
    family = both_ways
    model, block = family.model(), family.block
    record, condition = joints(model, [block])
    seen = dense(record[block], ["text"], ["image", "text"])[..., :24]
    tokens = condition.tokens_between(0, 0, len("night sky"))
    found = class_maps(model, [block], reader=TextToImage())[block][0][0]
    torch.testing.assert_close(found.double().flatten(), seen[0, tokens].mean(dim=0), atol=1e-5, rtol=1e-4)


READERS = {
    "expert": Expert(),
    "t2i": TextToImage(),
    "propagated": Propagated(block=0),
    "propagated by the block": Propagated(),
    "bounce": Bounce(),
    "mixture": Mixture(weights={"0": [0.5, 0.5]}),
}


def test_the_early_exit_of_concepts_has_the_bits_of_a_whole_pass(with_concepts):
    """Read for the last block as well, the pass goes on to the end."""
    family = with_concepts
    model, last = family.model(), len(family.model().attention_sites()) - 1
    alone, beside = class_maps(model, [0], reader=Concepts()), class_maps(model, [0, last], reader=Concepts())
    assert all(torch.equal(*pair) for pair in zip(alone[0], beside[0], strict=True))


OF_TEXT = ("t2i", "bounce")
"""Readers that need to know where text tokens look."""
READ = [(family, name) for family in FAMILIES for name in READERS if FAMILIES[family].text_attends or name not in OF_TEXT]


@pytest.mark.parametrize("name", OF_TEXT)
@pytest.mark.parametrize("family", [name for name, own in FAMILIES.items() if not own.text_attends])
def test_where_text_tokens_look_is_refused_where_they_look_at_nothing(family, name):
    with pytest.raises(UserError, match="text tokens look at nothing: choose another `reader`"):
        class_maps(FAMILIES[family].model(), [FAMILIES[family].block], reader=READERS[name])


@pytest.mark.parametrize(("family", "name"), READ)
def test_a_pass_that_stops_early_has_the_bits_of_a_whole_one(family, name, monkeypatch):
    """And no block after the last one that is needed computes anything."""
    model, block, reached = FAMILIES[family].model(), FAMILIES[family].block, []
    stopped = class_maps(model, [block], reader=READERS[name])
    hooks = [site.block.register_forward_hook(lambda *_, site=site: reached.append(site.index)) for site in model.attention_sites()]
    class_maps(model, [block], reader=READERS[name])
    assert all(index < block for index in reached)
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr(base, "capture", lambda *given, stop: capture(*given, stop=False))
    whole = class_maps(model, [block], reader=READERS[name])
    assert all(torch.equal(*pair) for pair in zip(stopped[block], whole[block], strict=True))


def test_the_gradient_of_propagated_maps_is_that_of_the_dense_operator(family):
    model = exact(family.model())
    joint, grads = joints_with_grad(model, family.block)
    maps = torch.rand(1, 3, 24, dtype=torch.float64).requires_grad_()
    grads = [*grads, maps]
    weights = torch.rand(1, 3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (spread,) = Propagated().spread(joint, [maps[0].unflatten(-1, (4, 6))])
    found = torch.autograd.grad((spread.flatten(1) * weights[0]).sum(), grads)
    operator = dense(joint, ["image"], ["image"])
    expected = torch.autograd.grad(((operator @ maps.transpose(1, 2)).transpose(1, 2) * weights).sum(), grads)
    for pair in zip(found, expected, strict=True):
        torch.testing.assert_close(*pair, atol=1e-6, rtol=1e-5)


def joints_with_grad(model, block):
    """Queries and keys of one image as leaves."""
    with torch.no_grad(), capture(model, [block]) as record:
        noisy, sigma = readout().noisy(model, images(1).double(), [3])
        model.predict_velocity(noisy.double(), sigma.double(), model.encode_text([PROMPTS[0][0].text]))
    leaves = {name: getattr(record[block], name).clone().requires_grad_() for name in ("image_query", "image_key")}
    return replace(record[block], **leaves), list(leaves.values())


@pytest.mark.parametrize("steps", [1, 3])
def test_a_walk_is_a_power_of_the_whole_attention_matrix(both_ways, steps):
    family = both_ways
    model, block = family.model(), family.block
    record, condition = joints(model, [block])
    chain = torch.linalg.matrix_power(dense(record[block], ["image", "text"], ["image", "text"]), steps)
    tokens = [24 + token for token in condition.tokens_between(0, 0, len("night sky"))]
    found = class_maps(model, [block], reader=Bounce(steps=steps))[block][0][0]
    torch.testing.assert_close(found.double().flatten(), chain[0, :24, tokens].mean(dim=-1), atol=1e-5, rtol=1e-4)


def test_weights_of_blocks_are_what_the_dense_matrices_give(family):
    model, every = family.model(), range(3)
    record, _ = joints(model, every)
    feature = principal_components(record[1])
    for block in every:
        similar = feature.double() @ feature.double().transpose(1, 2)
        expected = (dense(record[block], ["image"], ["image"]) * similar).sum(dim=(1, 2)) / 24
        torch.testing.assert_close(agreement(record[block], feature).double(), expected, atol=1e-5, rtol=1e-4)
    maps = class_maps(model, [family.block], reader=Aggregated(reference=1))[family.block]
    assert [tuple(own.shape) for own in maps] == [(1, 4, 6), (2, 4, 6)]


def concepts_beside(model, block, condition):
    """Two concepts per image through the model, of which the second image uses one; and the inputs of the pass."""
    noisy, sigma = readout().noisy(model, images(), [3, 5])
    names = model.encode_text(["cup gem", "gem"])
    vectors = entering_text(model, noisy, sigma, names)[:, 1:3]
    with torch.no_grad():
        found = concept_outputs(model, [block], vectors, torch.tensor([2, 1]), lambda: model.predict_velocity(noisy, sigma, condition))
    return found, names.embeddings[:, 1:3], noisy, sigma


def test_image_and_text_do_not_see_the_concepts(with_concepts):
    family = with_concepts
    model, block = family.model(), family.block
    _, condition = joints(model, [block])
    outputs = []
    ((_, image, _), *_), _, noisy, sigma = concepts_beside(model, block, condition)
    with torch.no_grad(), stream(model, [block], lambda visit: outputs.append(visit.output[0]), stop=True):
        model.predict_velocity(noisy, sigma, condition)
    assert torch.equal(image, outputs[0]) and image.shape[2] == 24


@pytest.mark.parametrize("name", WITHOUT_CONCEPTS)
def test_families_without_a_text_stream_of_its_own_have_no_concepts(name):
    with pytest.raises(UserError, match="choose another `reader`"):
        class_maps(FAMILIES[name].model(), [FAMILIES[name].block], reader=Concepts())


# Not of Flux.2, where text tokens have positions, so that of a concept would be another, nor of families that mask the text.
@pytest.mark.parametrize("name", [name for name, own in FAMILIES.items() if own.make in (random_sd3, random_flux)])
def test_concepts_are_what_a_masked_pass_with_all_tokens_gives(name):
    """Text and concepts as one text, in which image and text do not see the concepts, and concepts do not see the text."""
    family = FAMILIES[name]
    model, block = family.model(), family.block
    _, condition = joints(model, [block])
    found, vectors, noisy, sigma = concepts_beside(model, block, condition)
    text, seen = condition.embeddings.shape[1], []

    def masked(visit):
        joint, kept = visit.joint, torch.zeros(2, 24 + text + 2, 24 + text + 2, dtype=torch.bool)
        kept[:, : 24 + text, : 24 + text] = True
        kept[:, 24 + text :, :24] = kept[:, 24 + text :, 24 + text :] = True
        kept[1, :, -1] = False
        query, key, value = (
            torch.cat([getattr(joint, f"{side}_{part}") for side in ("image", "text")], dim=2) for part in ("query", "key", "value")
        )
        whole = scaled_dot_product_attention(query, key, value, attn_mask=kept[:, None], scale=joint.scale)
        seen.append(whole[:, :, -2:])
        return whole[:, :, :24], whole[:, :, 24:]

    joined = replace(condition, embeddings=torch.cat([condition.embeddings, vectors], dim=1))
    with torch.no_grad(), edit(model, range(block + 1), attention=masked):
        model.predict_velocity(noisy, sigma, joined)
    ((_, _, concepts),) = found
    torch.testing.assert_close(concepts[0], seen[block][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(concepts[1, :, :1], seen[block][1, :, :1], atol=1e-5, rtol=1e-4)


def test_a_mixture_of_one_head_is_the_map_of_that_head(family):
    model, block = family.model(), family.block
    mixed = class_maps(model, [0], reader=Mixture(weights={str(block): [0.0, 2.0]}))[0]
    single = class_maps(model, [block], heads=[1])[block]
    for own, plain in zip(mixed, single, strict=True):
        torch.testing.assert_close(own, 2 * scaled(plain), atol=1e-5, rtol=1e-4)


def test_a_single_word_has_a_map_where_words_are_compared():
    """It has no other words to be compared with, and shares of it alone would be 1 everywhere."""
    model = random_sd3()
    for reader in (Concepts(), Aggregated()):
        alone = class_maps(model, [1], reader=reader)[1][0]
        assert len(alone) == 1 and float(alone.max() - alone.min()) > 1e-3 * float(alone.abs().max())


@pytest.mark.parametrize("reader", [Concepts(blocks=[9]), Aggregated(reference=9), Aggregated(spread_by=[-1]), Propagated(block=9)])
def test_a_block_that_does_not_exist_is_named(reader):
    with pytest.raises(UserError, match=r"block -?[19]"):
        class_maps(random_sd3(), [1], reader=reader)


def test_a_mixture_has_a_weight_for_each_head():
    with pytest.raises(UserError, match="must hold 2 weights for each block, one for each head: block 1"):
        class_maps(random_sd3(), [1], reader=Mixture(weights={"0": [0.5, 0.5], "1": []}))


BAD_WEIGHTS = [None, {}, {"1": [0.0, 0.0]}, {"1": [0.5, -0.5]}, {"a": [1.0]}, {"1": [float("nan"), 1.0]}]


@pytest.mark.parametrize("weights", BAD_WEIGHTS)
def test_a_mixture_without_weights_says_how_to_get_them(weights):
    with pytest.raises(UserError, match=r"`weights` must hold, .* see docs/readers.md"):
        Mixture(weights=weights)


def test_a_mean_over_blocks_is_that_of_their_concept_maps(with_concepts):
    family = with_concepts
    model = family.model()
    apart = class_maps(model, sorted({0, family.block}), reader=Concepts())
    mean = class_maps(model, [0], reader=Concepts(blocks=[0, family.block]))[0]
    for k in range(2):
        torch.testing.assert_close(mean[k], (apart[0][k] + apart[family.block][k]) / 2)
    torch.testing.assert_close(mean[1].sum(dim=0), torch.ones(4, 6))  # of two words; a single one is compared with none
