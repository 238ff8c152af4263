"""A run that is continued is the same run, or the command says why not."""

import math
import re
import shutil

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from seg4diff.commands.resume import FIELDS, check_same_run, class_of, differences, settings
from seg4diff.commands.run import train
from seg4diff.errors import UserError
from seg4diff.tiny.autoencoder import OneCycle
from seg4diff.tiny.pretrain import warmup_stable_decay
from seg4diff.training.checkpoints import read_checkpoint
from seg4diff.training.schedule import warmup_cosine
from tests.conftest import REPO
from tests.runs import SMALL_RUN, compose_config, overrides

QUIET = ["~evaluation", "validate_first=false", "callbacks.samples=null", "callbacks.overlays=null", "model.lr=0.02"]
LAST = "checkpoints/last.ckpt"


@pytest.fixture
def start(tmp_path, assets, world):
    """Train in one folder, four steps where nothing else is said; returns what metrics.json holds."""

    def run(*arguments):
        return train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *QUIET, "ckpt_path=last", *arguments))

    return run


def leaves(node, above=""):
    for name, value in node.items():
        yield from leaves(value, f"{above}{name}.") if isinstance(value, dict) and value else [f"{above}{name}"]


@pytest.mark.parametrize("file", sorted((REPO / "conf" / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("more", [["callbacks=average", "logger=all"], ["trainer=ddp_cpu"]], ids=["average", "processes"])
def test_every_field_has_a_class(file, more, tmp_path):
    more = ["logger=all"] if file.stem.startswith("toyworld_") and "logger=all" in more else more  # no average without samples
    config = OmegaConf.to_container(compose_config("train", tmp_path, f"experiment={file.stem}", *more), resolve=True)
    assert not [field for field in leaves(config) if class_of(field) is None]


@pytest.mark.parametrize("group", ["data", "backbone"])
def test_fields_of_every_choice_of_a_group_have_a_class(group, tmp_path):
    for name in {file.stem for file in (REPO / "conf" / group).glob("*.yaml")} - {
        "tiny_sd3_untrained"
    }:  # that has an experiment of its own
        config = OmegaConf.to_container(compose_config("train", tmp_path, f"{group}={name}"), resolve=True)
        assert not [field for field in leaves(config) if class_of(field) is None]


def test_the_documented_classes_are_those_that_are_used():
    text = (REPO / "docs" / "resume.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([^|]+)` \| (\w+) \| ([^|]+) \|$", text, re.MULTILINE) == list(FIELDS)


def test_a_new_field_has_no_class():
    assert class_of("model.temperature") is None and class_of("trainer.deterministic") is None and class_of("colour") is None


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("seed=1", "seed was 0, is 1"),
        ("expert_layer=2", "expert_layer was 1, is 2"),
        ("lora.alpha=64", "lora.alpha was 16, is 64"),
        ("lora.rank=4", "lora.rank was 16, is 4"),
        ("lora.targets=[to_q]", "lora.targets was "),
        ("model.lr=1e-6", "model.lr was 0.02, is 1e-06"),
        ("model.weight_decay=0", "model.weight_decay was 0.0001, is 0"),
        ("model.warmup_steps=3", "model.warmup_steps was 20, is 3"),
        ("model.align=tokens", "model.align was names, is tokens"),
        ("model.objective.dice_weight=0", "model.objective.dice_weight was 0.2, is 0"),
        ("model.sigma.std=1", "model.sigma.std was 0.5, is 1"),
        ("data.source.sizes.train=12", "data.source.sizes.train was 16, is 12"),
        ("data.geometry=crop", "data.geometry was stretch, is crop"),
        ("data.source.root=elsewhere", "data.source.root was "),
        ("backbone.model.revision=main", "backbone.model.revision was null, is main"),
        ("runtime.dtype=bfloat16", "runtime.dtype was auto, is bfloat16"),
        ("trainer.precision=bf16-mixed", "trainer.precision was 32-true, is bf16-mixed"),
        ("trainer.gradient_clip_val=0.5", "trainer.gradient_clip_val was 1.0, is 0.5"),
        ("callbacks=average", "callbacks.average.decay was null, is 0.999"),
        ("+trainer.deterministic=true", "trainer.deterministic was null, is True"),
        ("data.batch_size=2", "images_per_step of the run of .* was 4, is 2: keep the product"),
        ("trainer.accumulate_grad_batches=2", "images_per_step of the run of .* was 4, is 8"),
        ("trainer.max_steps=3", "is at step 4 and trainer.max_steps is 3: a run can be made longer, but not shorter"),
    ],
)
def test_another_run_is_refused(argument, said, finished, assets, world):
    folder, _ = finished
    config = compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *QUIET, argument)
    present = settings(config, config.data.batch_size * config.trainer.accumulate_grad_batches, "32-true", {torch.float32})
    with pytest.raises(UserError, match=said):
        check_same_run(folder / LAST, read_checkpoint(folder / LAST), present, config.trainer.max_steps)


@pytest.mark.parametrize(
    ("precision", "weights", "said"),
    [
        ("16-mixed", {torch.float32}, "precision of .* was 32-true, is 16-mixed"),
        ("32-true", {torch.float16}, "weights of .* is float16: set"),
    ],
)
def test_a_machine_that_computes_otherwise_is_refused(precision, weights, said, finished):
    own = read_checkpoint(finished[0] / LAST)
    present = settings(OmegaConf.create(own["hyper_parameters"]["configuration"]), 4, precision, weights)
    with pytest.raises(UserError, match=said):
        check_same_run(finished[0] / LAST, own, present, max_steps=4)


def test_a_refused_start_writes_nothing(finished, assets, world):
    folder, _ = finished
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for argument in ("model.lr=1e-6", "data.batch_size=2", "trainer.max_steps=3"):
        with pytest.raises(UserError):
            train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *QUIET, "ckpt_path=last", argument))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory, assets, world):
    """A finished run of four steps, and its figures."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *QUIET))


def test_what_may_change_is_named_in_one_line(start, tmp_path, caplog):
    caplog.set_level("INFO", "seg4diff")
    start()
    assert f"starting a new run in {tmp_path}" in caplog.messages
    start("trainer.max_steps=6", "data.batch_size=2", "trainer.accumulate_grad_batches=2", "logger=none", "protocol=vocabulary")
    assert f"continuing {tmp_path}/{LAST} at step 4 of 6" in caplog.messages
    line = next(message for message in caplog.messages if message.startswith("changed since then: "))
    for change in ("max_steps was 4, is 6", "batch_size was 4, is 2", "protocol was oracle, is vocabulary"):
        assert line.count(change) == 1
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 6


def test_a_run_that_is_over_keeps_its_figures(start, caplog):
    caplog.set_level("INFO", "seg4diff")
    first = start()
    assert start() == first and first["val/miou"] >= 0 and "train/loss" in first
    assert "changed since then" not in caplog.text


def test_folders_may_move(finished, tmp_path, assets, world):
    folder, _ = finished
    moved, elsewhere = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(folder, moved)
    elsewhere.symlink_to(world)
    places = [f"paths.data_dir={elsewhere}", "ckpt_path=last", "trainer.max_steps=5"]
    metrics = train(compose_config("train", moved, *overrides(assets, world), *SMALL_RUN, *QUIET, *places))
    assert metrics["steps"] == 5


def test_places_below_a_path_go_along_and_others_do_not():
    earlier = {"paths": {"root_dir": "/a", "data_dir": "/a/data"}, "data": {"root": "/a/data/toy", "list": ["/a/x"], "other": "/ab/x"}}
    present = {"paths": {"root_dir": "/b", "data_dir": "/c"}, "data": {"root": "/c/toy", "list": ["/b/x"], "other": "/b/x"}}
    assert differences(earlier, present) == {"data.other": ("/ab/x", "/b/x")}


def test_a_field_that_one_side_lacks_is_null_there():
    assert differences({"a": {"b": None}, "c": {}}, {"d": None, "e": {"f": 1.0}}) == {"e.f": (None, 1.0)}


@pytest.mark.parametrize("kept", ["checkpoint", "config.yaml", "neither"])
def test_a_copied_checkpoint_is_checked_with_what_there_is(kept, finished, start, tmp_path, caplog):
    source, copy = finished[0] / LAST, tmp_path / "copy" / LAST
    copy.parent.mkdir(parents=True)
    checkpoint = read_checkpoint(source)
    if kept != "checkpoint":
        del checkpoint["hyper_parameters"]
    torch.save(checkpoint, copy)
    if kept == "config.yaml":
        (tmp_path / "copy" / "config.yaml").write_text((finished[0] / "config.yaml").read_text())
    changed = [f"ckpt_path={copy}", "lora.alpha=64", "trainer.max_steps=5"]
    if kept == "neither":
        start(*changed)
        assert f"nothing says with which configuration {copy} was made" in caplog.text
    else:
        with pytest.raises(UserError, match=r"lora.alpha was 16, is 64"):
            start(*changed)


@pytest.mark.parametrize("content", [b"", b"- a list\n", b"seed: [0", b"\xff\xfe"])
def test_a_damaged_configuration_is_named(content, finished, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    own = read_checkpoint(finished[0] / LAST)
    with pytest.raises(UserError, match=f"{tmp_path}/config.yaml holds no configuration: it is damaged"):
        check_same_run(tmp_path / "last.ckpt", own, own["hyper_parameters"], max_steps=4)


def test_images_that_were_added_or_taken_away_are_another_run(start, monkeypatch):
    from seg4diff.data.table import TableRows

    start()
    size = TableRows.__len__
    monkeypatch.setattr(TableRows, "__len__", lambda rows: size(rows) + 1)
    with pytest.raises(UserError, match="the run was trained on 16 images and the data set has 17 now"):
        start("trainer.max_steps=5")


RATES = {
    "cosine": lambda optimizer, steps: warmup_cosine(optimizer, 2, steps),
    "stable": lambda optimizer, steps: warmup_stable_decay(optimizer, 2, 0.5, steps),
    "one cycle": lambda optimizer, steps: OneCycle(optimizer, 0.1, total_steps=steps),
}


def make(kind, steps):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, RATES[kind](optimizer, steps)


def rates(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("length", [10, 30], ids=["as long", "longer"])
def test_a_restored_schedule_has_the_rates_of_its_own_length(kind, length):
    whole = rates(*make(kind, length), 12 if length == 30 else 10)
    (first, half), (second, rest) = make(kind, 10), make(kind, length)
    rates(first, half, 9)
    second.load_state_dict(first.state_dict())
    rest.load_state_dict(half.state_dict())
    assert rates(second, rest, len(whole) - 9) == whole[9:]


class Seen(L.Callback):
    """Notes step, rate and images of every training batch."""

    batches: list = []  # noqa: RUF012

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append((trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"], tuple(batch.indices)))


SEEN = "+callbacks.seen._target_=tests.commands.test_resume.Seen"


@pytest.fixture
def seen():
    """What the callback noted."""
    Seen.batches.clear()
    return Seen.batches


def test_the_first_step_of_a_longer_run_has_the_rate_of_the_longer_run(start, seen):
    start("model.warmup_steps=1", SEEN)
    start("model.warmup_steps=1", SEEN, "trainer.max_steps=8")
    rate = {step: rate for step, rate, _ in seen}
    assert rate[4] == pytest.approx(0.02 * 0.5 * (1 + math.cos(math.pi * 3 / 7))) and len(rate) == 8


def test_limited_training_batches_take_new_images_each_time(start, seen, tmp_path, assets, world):
    found = {}
    for limit in ("1.0", "2", "4"):
        seen.clear()
        folder = tmp_path / limit
        arguments = [
            *overrides(assets, world),
            *SMALL_RUN,
            *QUIET,
            "trainer.max_steps=6",
            "+callbacks.seen._target_=tests.commands.test_resume.Seen",
        ]
        arguments += ["trainer.accumulate_grad_batches=2", "data.source.sizes.train=48", f"+trainer.limit_train_batches={limit}"]
        train(compose_config("train", folder, *arguments))
        found[limit] = list(seen), torch.cat([w.flatten() for w in read_checkpoint(folder / LAST)["state_dict"].values()])
    assert len({images for *_, images in found["1.0"][0]}) == 12
    for limit in ("2", "4"):
        assert found[limit][0] == found["1.0"][0] and torch.equal(found[limit][1], found["1.0"][1])
    with pytest.raises(UserError, match=r"trainer.limit_train_batches=3 would end within a step"):
        start("trainer.accumulate_grad_batches=2", "+trainer.limit_train_batches=3")


def test_a_checkpoint_says_of_which_run_it_is(finished, assets):
    own = read_checkpoint(finished[0] / LAST)["hyper_parameters"]
    assert (own["images_per_step"], own["precision"], own["weights"]) == (4, "32-true", "float32")
    assert own["configuration"]["lora"]["alpha"] == 16
    assert own["configuration"]["backbone"]["model"]["path"] == f"{assets}/tiny-sd3"
