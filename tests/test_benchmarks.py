"""The benchmarks run, and count memory right; what they measure is for machines that do nothing else."""

import json
import os
import subprocess
import sys

import pytest
import torch
from benchmarks.measure import Memory, Pairs, measure_memory
from benchmarks.models import dense_i2t

from seg4diff.attention.maps import i2t
from seg4diff.backbones.base import JointQK
from tests.conftest import REPO

CPU = torch.device("cpu")
ROWS = {
    "capture": ["not reading", "logits", "text", "joint", "joint, stop=True", "dense reference"],
    "segment": [
        "block 9, early exit",
        "block 9, all blocks",
        "block 9, all blocks, dense reference",
        "blocks (7, 8, 9) in one pass",
        "blocks (7, 8, 9) in 3 passes",
    ],
    "train_step": [
        "flow matching, LoRA on the expert",
        "+ mask alignment, LoRA on the expert",
        "+ mask alignment, LoRA on the expert",
        "+ mask alignment, LoRA on all blocks",
        "encoders cached",
        "encoders run in the step",
        "start, encoders cached",
        "start, encoders loaded",
    ],
}


def test_all_benchmarks_run(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    content = json.loads(figures.read_text())
    assert content["machine"]["threads"] == 1 and content["machine"]["quick"]
    assert [table["name"] for table in content["benchmarks"]] == list(ROWS)
    for table in content["benchmarks"]:
        label = "step" if table["name"] == "train_step" else "reading"
        assert [row[label] for row in table["rows"]] == ROWS[table["name"]]
        assert all(name in done.stdout for name in ROWS[table["name"]])


def test_memory_of_a_dense_softmax_is_counted_to_the_byte():
    logits = torch.zeros(300, 1000)
    # Doubling makes one copy; softmax needs its input and its output at once; only the mean stays.
    assert measure_memory(lambda: (logits * 2).softmax(dim=-1).mean(dim=0), CPU) == Memory(peak=2 * logits.nbytes, kept=1000 * 4)


def test_memory_inside_a_fused_operator_is_counted():
    query = torch.randn(1, 2, 64, 16)
    memory = measure_memory(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query), CPU)
    assert memory.kept >= query.nbytes and memory.peak > memory.kept


def test_memory_kept_for_the_backward_pass_is_counted():
    weight = torch.zeros(50, 1000, requires_grad=True)
    # exp keeps its result for the backward pass; the sum is one number.
    assert measure_memory(lambda: weight.exp().sum(), CPU).kept == weight.nbytes + 4


def test_pairs_are_compared_one_by_one():
    ratio = Pairs(base=[1.0, 10.0, 2.0], contender=[2.0, 10.0, 6.0]).ratio
    assert (ratio.low, ratio.median, ratio.high) == (1.5, 2.0, 2.5)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_dense_reference_is_the_joint_softmax(heads):
    image, text = (torch.randn(2, 2, heads, tokens, 8, dtype=torch.float64) for tokens in (15, 4))
    joint = JointQK(image_query=image[0], image_key=image[1], text_query=text[0], text_key=text[1], scale=8**-0.5)
    torch.testing.assert_close(dense_i2t(joint).float(), i2t(joint, "joint").float())
