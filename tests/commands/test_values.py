"""Values of the command line: taken for what they mean, or refused in a sentence that names the key."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from seg4diff.commands.trainers import build, open_trainer
from seg4diff.commands.values import Misfit, check_values, fit, words
from seg4diff.errors import UserError
from tests.conftest import REPO
from tests.runs import compose_config

EXPERIMENTS = sorted(file.stem for file in (REPO / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    return compose_config("train", tmp_path_factory.mktemp("out"), "trainer=cpu")


@pytest.fixture
def config(composed):
    """The configuration of a training, changed as the command line would."""

    def change(argument):
        changed, override = copy.deepcopy(composed), OverridesParser.create().parse_override(argument)
        OmegaConf.set_struct(changed, False)
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=False)
        return changed

    return change


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=1e3", 1000),
        ("trainer.max_steps=2.0", 2),
        ("trainer.val_check_interval=1e2", 100),
        ("+trainer.limit_val_batches=0.5", 0.5),
        ("+trainer.limit_val_batches=1.0", 1.0),
        ("+trainer.limit_val_batches=4.0", 4),
        ("data.image_size=512", [512, 512]),
        ("backbone.image_size=64.0", [64, 64]),
        ("backbone.image_size=[96,128.0]", [96, 128]),
        ("backbone.samples.size=32", [32, 32]),
        ("data.source.sizes.train=1e1", 10),
        ("lora.blocks=[3.0,4]", [3, 4]),
        ("lora.rank=4.0", 4),
        ("model.lr=1", 1.0),
        ("data.source.root=2017", "2017"),
        ("callbacks.samples.prompts=[1984]", ["1984"]),
        ("expert_layer=2.0", 2),
        ("callbacks.checkpoint.every_n_train_steps=1e2", 100),
    ],
)
def test_a_value_is_taken_for_what_it_means(argument, expected, config):
    taken = config(argument)
    check_values(taken)
    found = OmegaConf.to_container(taken, resolve=True)
    for name in argument.lstrip("+").partition("=")[0].split("."):
        found = found[name]
    assert found == expected and repr(found) == repr(expected)


def test_a_square_size_reaches_everything_that_refers_to_it(tmp_path):
    taken = compose_config("train", tmp_path, "backbone.image_size=64", "experiment=coco_lora")
    check_values(taken)
    assert taken.data.image_size == taken.callbacks.samples.size == [64, 64]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=banana", "seed must be a whole number, found 'banana'."),
        ("seed=null", "seed must be a whole number, found null."),
        ("seed=true", "seed must be a whole number, found true."),
        ("seed=0.5", "seed must be a whole number, found 0.5."),
        ("expert_layer=banana", "expert_layer must be a whole number or null, found 'banana'."),
        ("backbone.expert_layer=[3]", "backbone.expert_layer must be a whole number or null, found [3]."),
        ("validate_first=maybe", "validate_first must be true or false, found 'maybe'."),
        ("ckpt_path=[a]", "ckpt_path must be text or null, found ['a']."),
        ("data.batch_size=[1,2]", "data.batch_size must be a whole number, found [1, 2]."),
        ("data.image_size=[512]", "data.image_size must be a whole number or a list of 2 of them or null, found [512]."),
        ("data.image_size=big", "data.image_size must be a whole number or a list of 2 of them or null, found 'big'."),
        ("data.source.sizes=3", "data.source.sizes must be names with a whole number for each, as in {name: value}, found 3."),
        ("data.source.sizes.test=few", "data.source.sizes must be names with a whole number for each"),
        ("data.source=folder", "data.source must be a group with a _target_ (DataSource), found 'folder'."),
        ("model.lr=fast", "model.lr must be a number, found 'fast'."),
        ("model.lr=nan", "model.lr must be a number, found nan."),
        ("model.weight_decay=inf", "model.weight_decay must be a number, found inf."),
        ("model.sigma.std=wide", "model.sigma.std must be a number, found 'wide'."),
        ("model.objective.dice_weight={a: 1}", "model.objective.dice_weight must be a number, found {'a': 1}."),
        ("lora.rank=16.5", "lora.rank must be a whole number, found 16.5."),
        ("lora.targets=to_q", "lora.targets must be a list such as [a,b], found 'to_q'."),
        ("backbone.readout.heads=[a]", "backbone.readout.heads must be a list such as [1,2] or null, found ['a']."),
        ("backbone.model.t5_length=long", "backbone.model.t5_length must be a whole number, found 'long'."),
        ("runtime.gradient_checkpointing=yes please", "runtime.gradient_checkpointing must be true or false, found 'yes please'."),
        ("evaluation.resamples=many", "evaluation.resamples must be a whole number, found 'many'."),
        ("callbacks.samples.steps=x", "callbacks.samples.steps must be a whole number, found 'x'."),
        ("backbone.samples.guidance=x", "backbone.samples.guidance must be a number, found 'x'."),
        ("callbacks.samples.prompts=cat", "callbacks.samples.prompts must be a list such as [a,b], found 'cat'."),
        ("trainer.max_steps=abc", "trainer.max_steps must be a whole number, found 'abc'."),
        ("trainer.accumulate_grad_batches=1.5", "trainer.accumulate_grad_batches must be a whole number, found 1.5."),
        ("trainer.devices=[a]", "trainer.devices must be a list such as [1,2], text or a whole number, found ['a']."),
        ("logger.csv.save_dir=null", "logger.csv.save_dir must be text, found null."),
    ],
)
def test_a_value_of_another_kind_is_a_sentence(argument, expected, config):
    with pytest.raises(UserError) as error:
        check_values(config(argument))
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("trainer.devices=two", "`devices` selected with `CPUAccelerator` should be an int > 0"),
        ("trainer.precision=half", "Precision 'half' is invalid"),
        ("trainer.accelerator=banana", "invalid accelerator name"),
        ("trainer.max_time=soon", "is not a valid duration"),
        ("+trainer.limit_val_batches=2.5", "invalid value 2.5 for limit_val_batches"),
        ("+trainer.strategy=fast", "invalid strategy name"),
        ("+trainer.banana=1", "unexpected keyword argument 'banana'"),
    ],
)
def test_what_lightning_refuses_is_a_sentence_too(argument, expected, config):
    with pytest.raises(UserError, match="Lightning refuses a value of trainer") as error, open_trainer(config(argument)):
        pass
    assert expected in str(error.value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_our_own_values_are_all_of_their_kind(experiment, tmp_path):
    """Every file of conf that an experiment, the benchmarks and the loggers compose."""
    own = compose_config("train", tmp_path, f"experiment={experiment}", "logger=all", "callbacks=average")
    before = OmegaConf.to_yaml(own)
    check_values(own)
    assert OmegaConf.to_yaml(own) == before


@pytest.mark.parametrize("backbone", ["tiny_sd3", "sd3_medium", "sd35_large", "flux1_dev", "flux1_schnell", "flux2_klein"])
def test_values_of_benchmarks_and_checks(backbone, tmp_path):
    for name, arguments in (("evaluate", ["ckpt=base", "benchmark=paper"]), ("check", ["data=coco_stuff"])):
        check_values(compose_config(name, tmp_path, f"backbone={backbone}", *arguments))


def test_a_node_by_itself_is_checked_when_it_is_built():
    node = OmegaConf.create({"_target_": "seg4diff.training.ema.WeightAverage", "decay": "slow"})
    with pytest.raises(UserError, match=r"decay must be a number, found 'slow'"):
        build(node)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, int | float, 1),
        (1.0, int | float, 1.0),
        (3e2, int | float, 300),
        ("3", str | int, "3"),
        (8, Literal["int8", "nf4"] | None, "8"),
        ([1, 2.0], Sequence[int], [1, 2]),
        (None, Sequence[int] | None, None),
        (5, tuple[int, int] | None, [5, 5]),
        ({"a": 1}, dict[str, str | None], {"a": "1"}),
        (object, Any, object),
    ],
)
def test_what_fits(value, kind, expected):
    assert repr(fit(value, kind)) == repr(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (1, bool),
        (1.5, int),
        ("1", int),
        (float("inf"), float),
        (True, str),
        ("ab", Sequence[str]),
        ([1, 2, 3], tuple[int, int]),
    ],
)
def test_what_does_not_fit(value, kind):
    with pytest.raises(Misfit):
        fit(value, kind)
    assert words(kind)
