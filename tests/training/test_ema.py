"""The moving average of the adapter: its recursion, where it is used, and that a resumed run keeps it."""

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import SMALL_RUN, compose_config, overrides

from seg4diff.commands.run import train
from seg4diff.errors import UserError
from seg4diff.training.checkpoints import read_checkpoint
from seg4diff.training.ema import WeightAverage

AVERAGE = ["callbacks=average", "callbacks.samples=null", "callbacks.overlays=null", "~evaluation", "model.lr=0.02", "validate_first=false"]
AVERAGE += ["callbacks.average.decay=0.9", "callbacks.checkpoint.every_n_train_steps=1", "callbacks.checkpoint.save_top_k=-1"]


@pytest.fixture(scope="module")
def run(assets, world, tmp_path_factory):
    """A finished run of four steps with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("average")
    train(compose_config("train", folder, *overrides(assets, world), *SMALL_RUN, *AVERAGE))
    return folder


def adapter(folder, name):
    return load_file(folder / "checkpoints" / f"{name}-lora" / "pytorch_lora_weights.safetensors")


def weights(folder, name):
    state = read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]
    return {key.removeprefix("backbone.").replace(".default.", "."): weight for key, weight in state.items()}


def test_the_lora_folder_holds_the_average_and_the_checkpoint_the_weights(run):
    names = [f"step-{step:06d}" for step in range(1, 5)]
    found, raw = [adapter(run, name) for name in names], [weights(run, name) for name in names]
    key = next(key for key in raw[0] if "lora_B" in key)
    average = torch.zeros_like(raw[0][key])  # B starts at zero
    for step in range(1, 5):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * raw[step - 1][key]
        torch.testing.assert_close(found[step - 1][key], average, atol=1e-7, rtol=1e-5)
    assert not torch.allclose(found[3][key], raw[3][key], rtol=1e-2)


def test_a_resumed_run_has_the_same_average(run, tmp_path, assets, world):
    first = train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *AVERAGE, "trainer.max_steps=2"))
    assert first["steps"] == 2
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    # The schedule of the learning rate depends on max_steps: continue the first two steps of the long run instead.
    checkpoint.write_bytes((run / "checkpoints" / "step-000002.ckpt").read_bytes())
    train(compose_config("train", tmp_path, *overrides(assets, world), *SMALL_RUN, *AVERAGE, f"ckpt_path={checkpoint}"))
    expected, found = adapter(run, "last"), adapter(tmp_path, "last")
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_decay_that_forgets_nothing_is_refused():
    with pytest.raises(UserError, match=r"must be in \[0, 1\), found 1.0"):
        WeightAverage(decay=1.0)
