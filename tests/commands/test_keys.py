"""A library error names parameters; the command line names the keys or options that set them."""

import ast

import pytest

import seg4diff
from seg4diff.backbones.lora import LoraSpec
from seg4diff.backbones.runtime import Runtime
from seg4diff.commands.check import check_data
from seg4diff.commands.cli import app
from seg4diff.commands.keys import exactly, key_to_set, keys_named, naming
from seg4diff.commands.run import train
from seg4diff.data.folder import FolderData
from seg4diff.data.sa1b import Sa1b
from seg4diff.data.source import TrainAndEvaluate
from seg4diff.errors import UserError
from seg4diff.segmentation.readout import Readout
from tests.conf import GROUPS, keys
from tests.conftest import REPO
from tests.runs import compose_config

PACKAGE = REPO / "src" / "seg4diff"


def said(call) -> str:
    """The sentence of a call that must fail."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


LORA = {"blocks": "expert", "alpha": 16, "targets": ["to_q"]}


@pytest.mark.parametrize(
    ("python", "arguments", "parameter", "key"),
    [
        (lambda: LoraSpec(rank=0, **LORA), ["lora.rank=0"], "`rank` and `alpha` must", "lora.rank and lora.alpha must"),
        (lambda: Runtime(quantize="int3"), ["runtime.quantize=int3"], "`quantize` must be one of", "runtime.quantize must be one of"),
        (
            lambda: FolderData(root="/nowhere", splits={"train": "train"}).prepare(["train"]),
            ["data=folder", "data.source.root=/nowhere"],
            "set `root` to a folder",
            "set data.source.root to a folder",
        ),
    ],
    ids=["constructor", "value", "file"],
)
def test_python_names_the_parameter_and_the_command_line_its_key(tmp_path, python, arguments, parameter, key):
    assert parameter in said(python)
    assert key in said(lambda: train(compose_config("train", tmp_path, *arguments)))


def test_an_option_is_named_where_one_was_typed(capsys, tmp_path):
    assert "`sigma` must be in [0, 1], found 2" in said(lambda: seg4diff.load(sigma=2))
    picture = tmp_path / "photo.png"
    picture.touch()
    assert "--sigma must be in [0, 1], found 2.0" in said(lambda: app(["segment", str(picture), "--sigma", "2"], standalone_mode=False))


def test_the_place_of_a_data_set_that_is_checked_is_an_option(tmp_path):
    missing = ["data.source.lists.train=list.txt"]
    sentence = said(lambda: check_data("voc20", root=tmp_path / "nowhere", out=tmp_path / "out", settings=missing))
    assert "VOC_ROOT or --root to it" in sentence and "data.source.lists says which images" in sentence


def test_load_names_its_own_argument():
    assert "check the network, or set `model` to a local copy" in said(lambda: seg4diff.load("nobody/nothing"))


def test_parameters_of_the_data_of_training_and_of_evaluation_are_told_apart(tmp_path):
    sources = {"captions": None, "subset": None, "seed": 0, "root": str(tmp_path)}
    train_on = Sa1b(smallest=0, most=1, **sources)
    both = TrainAndEvaluate(train=train_on, evaluation=train_on)
    assert "or `train.root` to it" in said(lambda: both.prepare(["train"]))
    config = compose_config("train", tmp_path, "data=sa1b")
    with pytest.raises(UserError, match=r"set data\.source\.train\.root"), keys_named(config):
        raise UserError("set `train.root`.")


def test_each_benchmark_is_named_by_its_own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VOC_ROOT", "/nowhere")
    config = compose_config("evaluate", tmp_path, "ckpt=base", "benchmark=[voc20,voc21_unsupervised]")
    name = naming(*(entry.data for entry in config.benchmark.values()))
    assert name("root") == "benchmark.voc20.data.source.root or benchmark.voc21_unsupervised.data.source.root"


def test_the_key_of_a_value_that_others_share_is_where_it_stands(tmp_path):
    config = compose_config("train", tmp_path)
    assert key_to_set(config, "model.lora.rank") == "lora.rank"
    assert key_to_set(config, "evaluation.readout.sigma") == "backbone.readout.sigma"
    assert exactly(config, "model.backbone")("path") == "backbone.model.path" and exactly(config, "model")("path") is None


def test_what_no_key_sets_stays_as_it_is(tmp_path):
    config = compose_config("train", tmp_path)
    with pytest.raises(UserError, match="call `stream` or set `seed`"), keys_named(config):
        raise UserError("call `stream` or set `seed`.")  # too many objects have a seed
    assert "`sigma` must be" in said(lambda: Readout(sigma=2, scores="joint", normalisation="none", seed=0))


def strings(file):
    """(line, text) of all strings but docstrings; what an f-string fills in is {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
            yield node.lineno, node.value


LIBRARY = [file for file in sorted(PACKAGE.rglob("*.py")) if "commands" not in file.parts]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_library_names_no_key(file):
    """Who calls the package from Python has typed none: name the parameter, in backticks."""
    words = [(line, word.strip("'\"().,:;")) for line, text in strings(file) for word in text.split()]
    known = keys() | {f"{group}.{{}}" for group in GROUPS}
    named = [(line, word) for line, word in words if word.partition("=")[0] in known and ("." in word or "=" in word)]
    assert not named
