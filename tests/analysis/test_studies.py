"""Studies count what a dense computation gives, over any batches and processes, for every family of models."""

import math
from dataclasses import replace

import pytest
import torch
from torchmetrics import Metric

from seg4diff.analysis.album import read_album
from seg4diff.analysis.catalogue import STUDIES
from seg4diff.analysis.scene import LabelledScene
from seg4diff.analysis.study import OwnPasses
from seg4diff.analysis.tallies import counts_per_image
from seg4diff.analysis.trials import Trials
from seg4diff.data.sample import Vocabulary
from seg4diff.errors import UserError
from seg4diff.evaluation.metrics import mean_iou
from tests.analyses import NAMES, SIGMAS, STEPS, batch_of, generated, labelled, setting_of, studied
from tests.families import FAMILIES
from tests.hosts import random_sd3
from tests.open_hosts import random_qwen_image


def table(study):
    """What a study found: everything but the value -> value."""
    return {tuple(str(own) for key, own in row.items() if key != "value"): row["value"] for row in study.result().rows}


def same(found, expected, within=1e-6):
    assert found.keys() == expected.keys() and found
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=within, nan_ok=True), key


ROUNDING = {"causal": 1e-4}
"""Of studies that look at images in 8 bits, whose rounding depends on the other images of a batch."""


@pytest.fixture(scope="module")
def model():
    return random_sd3(blocks=3)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """All studies after six images at once."""
    return studied(setting_of(model, tmp_path_factory.mktemp("album")), labelled(model, range(6)))


@pytest.mark.parametrize("name", STUDIES)
def test_batches_make_no_difference(name, model, whole, tmp_path):
    parts = studied(setting_of(model, tmp_path), labelled(model, [0, 1, 2, 3]), labelled(model, [4, 5]), names=[name])
    same(table(parts[name]), table(whole[name]))


@pytest.mark.parametrize("shares", [2, 3])
@pytest.mark.parametrize("name", STUDIES)
def test_shares_of_several_processes_add_up(name, shares, model, whole, tmp_path):
    setting = setting_of(model, tmp_path)
    first, *others = (studied(setting, labelled(model, range(k, 6, shares)), names=[name])[name] for k in range(shares))
    for other in others:
        for ours, theirs in zip(metrics(first), metrics(other), strict=True):
            ours.merge_state(theirs)
    within = ROUNDING.get(name, 1e-6)
    same(table(first), table(whole[name]), within)
    for key, value in whole[name].result().evidence.items():
        torch.testing.assert_close(
            first.result().evidence[key], value, rtol=1e-5, atol=within, equal_nan=True
        )  # a batch of another size rounds otherwise


def metrics(study):
    return [part for part in study.modules() if isinstance(part, Metric)]


def looks(scene):
    found = []
    scene.read(found.append)
    return found


def dense(joint):
    """Attention of all queries that are not masked, image first, in float64: (heads, queries, N + T)."""
    query = torch.cat([joint.image_query, joint.text_query], dim=2)[0].double()
    key = torch.cat([joint.image_key, joint.text_key], dim=2)[0].double()
    scores = query @ key.transpose(-1, -2) * joint.scale
    if joint.bias is None:
        return scores.softmax(dim=-1)
    seen = torch.cat([joint.text_present.new_ones(joint.image_key.shape[2]), joint.text_present[0]])
    return (scores + joint.bias[0]).softmax(dim=-1)[:, seen[: scores.shape[1]]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_budget_is_that_of_dense_attention(family, tmp_path):
    model = FAMILIES[family].model()
    scene = labelled(model, [3])
    with torch.no_grad():
        expected = [dense(look.joint) for look in looks(scene) if look.level == 1]
    found = table(studied(setting_of(model, tmp_path), scene, names=["budget"])["budget"])
    image = math.prod(scene.cases[0].grid)
    for block, attention in enumerate(expected):
        mass = attention[:, :, image:].sum(dim=-1)  # of each query on the text
        for quadrant, value in {"i2t": mass[:, :image].mean(), "t2t": mass[:, image:].mean()}.items():
            assert found["0.8", str(block), "None", quadrant, "mass"] == pytest.approx(float(value), abs=1e-6, nan_ok=True)
            own = (mass[0, :image] if quadrant == "i2t" else mass[0, image:]).mean()
            assert found["0.8", str(block), "0", quadrant, "mass"] == pytest.approx(float(own), abs=1e-6, nan_ok=True)
        for row in (("i2i", "i2t"), ("t2i", "t2t")):
            for quantity in ("mass", "uniform"):
                whole = sum(found["0.8", str(block), "None", quadrant, quantity] for quadrant in row)
                assert whole == pytest.approx(1 if mass[:, image:].numel() or row[0] == "i2i" else math.nan, abs=1e-6, nan_ok=True)


ONCE = {family.make: name for name, family in FAMILIES.items()}
"""A model of each host, which has blocks of all its kinds."""


@pytest.mark.parametrize("family", ONCE.values())
def test_every_family_goes_through_every_study(family, tmp_path):
    model = FAMILIES[family].model()
    setting = replace(
        setting_of(model, tmp_path, trials=Trials(segmented=1, generated=1, steps=1, guidance=2.0, size=(32, 48))), sigmas=[0.3]
    )
    scene = LabelledScene.of_batch(model, setting.sigmas, batch_of([0]), NAMES, seed=0)
    for name, study in studied(setting, scene).items():
        rows = study.result().rows
        assert {row["block"] for row in rows} - {None} == set(range(len(model.attention_sites()))), name
        missing = () if FAMILIES[family].text_attends else ("t2i", "t2t")
        last = [row for row in rows if row.get("maps") == "later blocks" and row["block"] == setting.blocks - 1]
        assert all(math.isfinite(row["value"]) != (row.get("quadrant") in missing) for row in rows if row not in last), name


@pytest.mark.parametrize("name", ["budget", "norms"])
def test_padding_to_a_longer_prompt_of_the_batch_changes_nothing(name, tmp_path):
    model, batches = random_qwen_image(), [batch_of([0, 1]), batch_of([0]), batch_of([1])]
    for batch in (batches[0], batches[2]):
        batch.masks[-1].fill_(0)
    both, *each = (LabelledScene.of_batch(model, SIGMAS, batch, NAMES, seed=0) for batch in batches)
    assert len({scene.condition.padding.shape[1] for scene in each}) == 2, "their prompts differ in length"
    ours, theirs = (table(studied(setting_of(model, tmp_path), *scenes, names=[name])[name]) for scenes in ([both], each))
    same(ours, theirs, 1e-5)


@pytest.mark.parametrize("family", ["sd3", "flux single", "flux2 double"])
def test_generated_images_are_seen_while_they_are_sampled(family, tmp_path):
    model = FAMILIES[family].model()
    scene, names = generated(model), [name for name, study in STUDIES.items() if not study.needs_masks]
    found = studied(setting_of(model, tmp_path, Vocabulary(())), scene, names=names)
    plain = model.sample(scene.batch.prompts, seeds=scene.batch.seeds, steps=STEPS, guidance=2.0, size=(32, 48))
    assert [image.tobytes() for image in scene.images] == [image.tobytes() for image in plain]
    for name in ("budget", "norms", "granularity"):
        assert all(math.isfinite(row["value"]) for row in found[name].result().rows), name
    masks = [row["value"] for row in found["features"].result().rows if row["quantity"] == "masks"]
    assert all(math.isnan(value) for value in masks), "missing, and not 0"


def test_two_noise_levels_of_one_sampling_step_are_refused(model, tmp_path):
    scene = replace(generated(model), sigmas=[0.90, 0.91])
    with pytest.raises(UserError, match=r"must lie at different sampling steps, found 0.9 at .*, 0.91 at .*: leave some out, or take more"):
        studied(setting_of(model, tmp_path, Vocabulary(())), scene, names=["budget"])


def test_norms_are_those_of_whole_vectors_and_of_heads(model, tmp_path):
    scene = labelled(model, [2])
    with torch.no_grad():
        joint = next(look.joint for look in looks(scene) if (look.level, look.block) == (0, 2))
    found = table(studied(setting_of(model, tmp_path), scene, names=["norms"])["norms"])
    values = joint.text_value[0].transpose(0, 1).flatten(1)
    spoken = ~scene.condition.padding[0]
    assert found["0.3", "2", "None", "text", "norm"] == pytest.approx(float(values.norm(dim=1).mean()), rel=1e-5)
    assert found["0.3", "2", "None", "prompt", "norm"] == pytest.approx(float(values[spoken].norm(dim=1).mean()), rel=1e-5)
    assert found["0.3", "2", "1", "image", "norm"] == pytest.approx(float(joint.image_value[0, 1].norm(dim=1).mean()), rel=1e-5)


def test_evidence_of_each_image_adds_up_to_the_table(whole):
    for name in ("segmentation", "empty_prompt", "affinity"):
        rows, found = whole[name].result().evidence["counts"], table(whole[name])
        for level, sigma in enumerate(SIGMAS):
            counts = counts_per_image(rows, level, 1, len(NAMES))
            assert len(counts) == 6
            key = next(key for key in found if key[:3] == (str(sigma), "1", "None") and key[-1] == "miou")
            assert float(mean_iou(counts.sum(dim=0))) == pytest.approx(found[key])


def test_affinity_of_another_block_refines_the_maps_of_the_expert(model, tmp_path):
    scene = labelled(model, [5])
    study = studied(setting_of(model, tmp_path), scene, names=["affinity"])["affinity"]
    assert isinstance(study, OwnPasses)
    plain = studied(setting_of(model, tmp_path), scene, names=["segmentation"])["segmentation"]
    before, after, own = study.blocks.total.compute()[:, :, 1], study.blocks.total.compute()[:, :, 0], plain.blocks.total.compute()
    assert (before == before[:, :1]).all() and (before[:, 1] == own[:, 1, 0]).all(), "what is refined are the maps of block 1"
    assert not (after == before).all()


def test_pictures_of_the_examples_are_kept(model, tmp_path):
    setting = setting_of(model, tmp_path, examples=[4])
    studied(setting, labelled(model, [3, 4]))
    setting.album.save()
    assert {number for name in STUDIES for number in read_album(tmp_path, name)} == {4}
    colours = read_album(tmp_path, "features")[4]
    assert len(colours) == 2 * 3 * 3 and colours["level1/block2/key"].shape == (4, 6, 3)
    assert len(read_album(tmp_path, "empty_prompt")[4]["level0/block0/maps"]) == model.text_window


def test_an_image_without_labels_is_counted_where_it_can_be(model, tmp_path):
    batch = batch_of([0])
    batch.masks[0].fill_(255)
    scene = type(labelled(model, [0])).of_batch(model, SIGMAS, batch, NAMES, seed=0)
    found = studied(setting_of(model, tmp_path), scene, labelled(model, [1]))
    same(table(found["segmentation"]), table(studied(setting_of(model, tmp_path), labelled(model, [1]))["segmentation"]))
    assert len(found["budget"].result().evidence["images"]) == 2
