"""The tables of speed and memory are made, and memory is counted right; what they measure is for machines that do nothing else."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from speed import counts, stream
from speed.counts import Size
from speed.dry_run import OURS, RELEASE
from speed.dry_run import main as dry_run
from speed.forecast import encode_bytes
from speed.measure import Memory, Pairs, Settings, measure_memory
from speed.models import Shape, dense_i2t, forward, new_backbone, new_inputs, read
from speed.plan import Job
from speed.plan import main as print_plan
from speed.published import read_facts
from speed.train_step import Trainee, new_example
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seg4diff.attention.joint import Joint
from seg4diff.attention.maps import i2t
from seg4diff.backbones.layout import Layout
from seg4diff.backbones.lora import lora_weights
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.evaluation.bootstrap import ImageCounts
from tests.conftest import REPO
from tests.hosts import random_sd3

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
    "end_to_end": ["this package", "the release's way", "this package, tiny autoencoder", "the release's way"],
    "stream": ["streamed, 2 blocks", "streamed, 24 blocks", "kept, 2 blocks", "kept, 24 blocks"],
    "readers": ["expert", "t2i", "propagated", "propagated, block 12", "bounce", "concepts", "aggregated", "expert", "propagated"],
    "refine": ["pamr", "guided", "guided, every pixel"],
    "train_step": [
        "flow matching, LoRA on the expert",
        "+ mask alignment, LoRA on the expert",
        "+ mask alignment, LoRA on the expert",
        "+ mask alignment, LoRA on all blocks",
        "encoders cached",
        "encoders run in the step",
    ],
}

COLUMNS = {"train_step": "step", "end_to_end": "way", "readers": "reader", "refine": "refine"}


def test_every_table_is_made(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "speed", "--quick", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    content = json.loads(figures.read_text())
    assert content["machine"]["threads"] == 1 and content["machine"]["quick"]
    assert [table["name"] for table in content["tables"]] == list(ROWS)
    for table in content["tables"]:
        names = [row[COLUMNS.get(table["name"], "reading")] for row in table["rows"]]
        assert names == ROWS[table["name"]] and all(name in done.stdout for name in names)


def test_streaming_all_blocks_takes_the_memory_of_two():
    few, everything, kept_few, kept = (row["extra memory"] for row in stream.run(SETTINGS).rows)
    assert everything == few < kept_few < kept / 10


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
    query, key, value = (torch.randn(2, heads, 15 + 4, 8, dtype=torch.float64) for _ in range(3))
    joint = Joint.split(query, key, value, 8**-0.5, Layout(text=4, text_first=False))
    torch.testing.assert_close(dense_i2t(joint).float(), i2t(joint, "joint").float())


SETTINGS = Settings(CPU, torch.float32, quick=True)
SIZES = [
    Size(image_tokens=36, text_tokens=154, width=32, blocks=4, expert=1, rank=16, text_features=64, pooled=64),
    Size(image_tokens=16, text_tokens=154, width=64, blocks=6, expert=3, rank=4, text_features=64, pooled=64),
]


def counted(run):
    """FLOPs by torch's counter, which knows attention as matrix products only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(params=SIZES, ids=["4 blocks", "6 blocks"])
def sized(request):
    """A size, and a model of that size."""
    size = request.param
    side = round(size.image_tokens**0.5)
    return size, new_backbone(Shape(blocks=size.blocks, heads=2, head_width=size.width // 2, side=side), SETTINGS), side


def test_the_work_of_reading_an_image_is_counted_to_the_flop(sized):
    size, backbone, side = sized
    inputs = new_inputs(backbone, side, SETTINGS)
    assert counts.forward(size) == counted(lambda: forward(backbone, inputs))
    assert counts.segment(size) == counted(lambda: read(backbone, inputs, [size.expert], partial(i2t, scores="joint"), stop=True))


def test_the_work_of_a_training_step_is_counted_to_the_flop(sized):
    size, backbone, side = sized
    example = new_example(side, SETTINGS)
    encoded = example.encode(backbone)
    trainee = Trainee(backbone, expert=size.expert, rank=size.rank)
    assert counts.train(size) == counted(lambda: trainee.loss(example, lambda: encoded, align=True).backward())
    assert counts.lora_weights(size) == sum(weight.numel() for weight in lora_weights(backbone).values())


def test_the_work_of_encoding_a_prompt_is_counted_to_the_flop():
    shape = Shape(blocks=1, heads=1, head_width=16, side=4, text_width=64, text_layers=3)
    backbone = new_backbone(shape, SETTINGS)
    assert counts.encode_text(((3, 64), (3, 64))) == counted(lambda: backbone.encode_text(["sky road"]))


def test_sd3_medium_has_the_published_sizes():
    published = json.loads((REPO / "tests" / "backbones" / "published" / "sd3_medium.json").read_text())
    transformer, size = published["transformer"], Size()
    assert size.width == transformer["num_attention_heads"] * transformer["attention_head_dim"] == transformer["caption_projection_dim"]
    assert (size.blocks, size.text_tokens) == (transformer["num_layers"], published["text_tokens"])
    assert (size.text_features, size.pooled) == (transformer["joint_attention_dim"], transformer["pooled_projection_dim"])
    assert sum(width for _, width in counts.CLIPS) == size.pooled
    assert (counts.LATENTS, transformer["patch_size"]) == (transformer["in_channels"], counts.PIXELS // 8)
    assert list(counts.VAE) == published["vae"]["block_out_channels"]


def test_the_bytes_of_a_cache_entry_are_those_of_its_file(tmp_path):
    random_sd3()._pipeline.save_pretrained(tmp_path / "model")
    runtime = Runtime(dtype="bfloat16", cache=str(tmp_path / "cache"))
    backbone = SD3Backbone.from_pretrained(path=str(tmp_path / "model"), t5_length=8, runtime=runtime)
    latents, condition = backbone.encode_image(torch.zeros(1, 3, 32, 48)), backbone.encode_text(["two stars"])
    (image,), (text,) = (list((tmp_path / "cache").glob(f"*/{kind}/*/*")) for kind in ("image", "text"))
    assert counts.entry(latents=latents.shape[1:]) == image.stat().st_size
    assert counts.entry(embeddings=condition.embeddings.shape[1:], pooled=condition.pooled.shape[1:]) == text.stat().st_size
    assert counts.cached_image(1024) - counts.cached_image(512) == 2 * 16 * (128**2 - 64**2)


def test_the_bytes_that_an_evaluation_keeps_of_an_image():
    kept = ImageCounts(classes=5)
    kept.update(0, torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, 4, dtype=torch.long))
    assert counts.evaluated_image(5) == sum(row.nbytes for row in kept.rows)


def test_a_plan_is_arithmetic_on_the_counts_of_one_image():
    encode = counts.encode_image(64) + counts.encode_text()
    job = Job(images=3600, gpus=4, side=64, passes=2, batch=3, prompts=1, shard=1000, speed=encode)
    work, memory = job.work(), job.memory()
    assert work["encode once"] == "1 GPU-hours, 0.25 h", "an image takes a second, and there are as many as an hour has"
    hours = 2 * (1 + counts.train(Size(image_tokens=16)) / encode)
    assert work["train, encoded in every step"].startswith(f"{hours:.3g} GPU-hours")
    assert work["train, encoded once"].startswith(f"{hours - 1:.3g} GPU-hours")
    assert (work["images for each GPU"], work["optimiser steps"]) == ("900", "600")
    assert (work["shards"], work["shards for each GPU"]) == ("4", "1")
    assert memory["memory: names and order, in each process"] == "302 kB"
    assert memory["memory: the same, of a shard"] == "84 kB"


def test_a_plan_is_printed_for_every_number_of_images(capsys):
    print_plan(["--images", "1_000", "20_000", "--gpus", "1", "8", "--side", "64", "--peak", "100", "--utilisation", "0.5"])
    printed = capsys.readouterr().out
    assert "1,000 images, 1 GPUs" in printed and "20,000 images, 8 GPUs" in printed and "50 TFLOP/s for each GPU" in printed
    with pytest.raises(SystemExit):
        print_plan(["--images", "1_000", "20_000"])
    assert "--gpus needs one number for each number of --images" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "sizes"), [("sd3_medium", [8, 64]), ("flux2_klein", [64])])
def test_a_dry_run_measures_a_model_of_the_published_shape(tmp_path, name, sizes):
    figures = tmp_path / "figures.jsonl"
    dry_run([f"backbone={name}", "--quick", "--sizes", *map(str, sizes), "--batches", "2", "--json", str(figures)])
    machine, *rows = [json.loads(line) for line in figures.read_text().splitlines()]
    assert machine["quick"] and {row["side"] for row in rows if "images/s" in row} == {64}
    failed = {(row["what"] == "forecast", row["side"]) for row in rows if "failed" in row}
    assert failed == ({(True, 8), (False, 0)} if 8 in sizes else set()), "it goes on after a size that the model cannot take"
    ways = [(row["what"], row["way"]) for row in rows if "images/s" in row]
    both = [("segment, end to end", OURS), ("segment, end to end", RELEASE), ("read", OURS), ("read", "all blocks"), ("read", RELEASE)]
    assert ways == [*both, ("pass of a sampling step", OURS), ("training step", OURS), ("training step", RELEASE)]
    assert rows[-1]["what"] == "end" and all(row["GiB with weights"] > row["GiB"] > 0 for row in rows if "images/s" in row)


def test_a_dry_run_whose_time_is_over_keeps_what_it_measured(tmp_path, capsys):
    figures = tmp_path / "figures.jsonl"
    dry_run(["backbone=sd3_medium", "--sizes", "64", "--quick", "--seconds", "0.01", "--json", str(figures)])
    assert "0.01 seconds are over" in figures.read_text() and "dry_run: published size" in capsys.readouterr().out


def test_the_memory_that_encoding_takes_is_forecast_without_a_model():
    facts = read_facts("sd3_medium", quick=False)["vae"]
    vae = AutoencoderKL.from_config(facts).requires_grad_(False)
    picture = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        measured = measure_memory(lambda: vae.encode(picture), CPU).peak
    assert encode_bytes(facts, 96, torch.float32) == pytest.approx(measured, rel=0.1)
