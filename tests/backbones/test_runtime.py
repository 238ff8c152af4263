"""Number formats, quantisation, attention backends: what they change, what they must not, and what they refuse."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled
from omegaconf import OmegaConf
from PIL import Image
from tests.hosts import random_flux, random_sd3

from seg4diff.attention.capture import capture
from seg4diff.attention.maps import i2t
from seg4diff.backbones.flux import FluxBackbone
from seg4diff.backbones.loading import Source
from seg4diff.backbones.lora import LoraSpec, add_lora, lora_weights
from seg4diff.backbones.runtime import Runtime, choose_dtype, choose_precision, find_device, own_device
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.commands.run import build_all
from seg4diff.commands.segment import segment_files
from seg4diff.errors import UserError
from seg4diff.loading import load

INPUTS = (torch.linspace(-1, 1, 4 * 8 * 12).view(1, 4, 8, 12), torch.tensor([0.4]))
TRAINED = LoraSpec(blocks="expert", rank=2, alpha=2, targets=["to_q", "to_k"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    random_sd3(heads=4, qk_norm="rms_norm")._pipeline.save_pretrained(path / "sd3")
    random_flux()._pipeline.save_pretrained(path / "flux")
    return path


def step(model):
    """Maps, and the LoRA's gradients of maps and velocity."""
    add_lora(model, TRAINED, expert_layer=1, seed=0)
    for weight in lora_weights(model).values():
        weight.data = torch.linspace(-0.3, 0.3, weight.numel()).view_as(weight)
    with capture(model, [1]) as record:
        velocity = model.predict_velocity(*INPUTS, model.encode_text(["apple leaf"]))
    maps = i2t(record[1], "logits")
    (maps.square().mean() + velocity.square().mean()).backward()
    return [maps.detach(), *(weight.grad for weight in lora_weights(model).values())]


def test_lora_on_an_int8_base_has_the_gradients_of_the_rounded_weights(folder):
    quantised = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=Runtime(quantize="int8"))
    rounded = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0)
    original = rounded.transformer.transformer_blocks[1].attn.to_q.weight.detach().clone()
    layers = dict(quantised.transformer.named_modules())
    for name, layer in rounded.transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layers[name].weight.dequantize().float()
    assert not torch.equal(original, rounded.transformer.transformer_blocks[1].attn.to_q.weight), "nothing was quantised"
    for ours, expected in zip(step(quantised), step(rounded), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_an_attention_backend_reaches_flux_and_is_refused_where_it_would_do_nothing(folder):
    flux = FluxBackbone.from_pretrained(path=str(folder / "flux"), text_length=24, guidance=3.5, runtime=Runtime(attention="_native_math"))
    plain = FluxBackbone.from_pretrained(path=str(folder / "flux"), text_length=24, guidance=3.5)
    assert {str(p._attention_backend.value) for p in flux.transformer.attn_processors.values()} == {"_native_math"}
    torch.testing.assert_close(step(flux)[0], step(plain)[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="cannot be combined with this model: its blocks call torch's attention directly"):
        SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=Runtime(attention="_native_math"))
    with pytest.raises(UserError, match=r"`attention=flsh` cannot be used"):
        FluxBackbone.from_pretrained(path=str(folder / "flux"), text_length=24, guidance=3.5, runtime=Runtime(attention="flsh"))


def test_bfloat16_weights_give_nearly_the_same_maps_and_the_adapter_stays_in_float32(folder, tmp_path):
    half = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=Runtime(dtype="bfloat16"))
    full = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0)
    assert half.transformer.dtype == torch.bfloat16
    maps = []
    for model, dtype in ((half, torch.bfloat16), (full, torch.float32)):
        with torch.no_grad(), capture(model, [1]) as record:
            model.predict_velocity(INPUTS[0].to(dtype), INPUTS[1], model.encode_text(["apple leaf"]))
        maps.append(i2t(record[1], "joint"))
    assert maps[0].dtype == torch.float32
    torch.testing.assert_close(*maps, atol=5e-3, rtol=0.1)
    add_lora(half, TRAINED, expert_layer=1, seed=0)
    assert {weight.dtype for weight in lora_weights(half).values()} == {torch.float32}
    half.save_lora(tmp_path)
    loaded = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=Runtime(dtype="bfloat16"))
    loaded.load_lora(tmp_path)
    ours, theirs = lora_weights(half), lora_weights(loaded)
    assert len(ours) == len(theirs)
    for (_, weight), (_, kept) in zip(sorted(ours.items()), sorted(theirs.items()), strict=True):
        assert kept.dtype == torch.float32 and torch.equal(weight, kept)


def test_encoders_leave_the_accelerator_after_use():
    """The moves themselves are recorded: without an accelerator nothing else would show them."""
    model = random_sd3(runtime=Runtime(offload_encoders=True))
    moves = []
    for name in model.encoders:
        part = getattr(model, name)
        part.to = lambda *place, name=name, part=part: moves.append((name, *place)) or part
    model.encode_text(["apple"])
    assert moves == [("text_encoder", "cpu"), ("text_encoder_2", "cpu")]
    model.encode_image(torch.zeros(1, 3, 32, 32))
    assert moves[2:] == [("vae", "cpu")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "fp16"}, "`dtype` must be auto or one of float32, bfloat16, float16, float64, found 'fp16'"),
        ({"dtype": "int8"}, "found 'int8'"),
        ({"dtype": "auto", "preferred": "half"}, "`preferred` must be one of float32, bfloat16, float16, float64, found 'half'"),
        ({"gradient_checkpointing": "maybe"}, "`gradient_checkpointing` must be true or false, found 'maybe'"),
        ({"compile": "foo"}, "`compile` must be true, false or a backend of torch.compile, found 'foo'"),
        ({"cache": 3}, "`cache` must be a folder, found '3'"),
        ({"quantize": "int4"}, "`quantize` must be one of int8, nf4, found 'int4'"),
    ],
)
def test_unknown_values_are_refused(options, expected):
    with pytest.raises(UserError, match=expected):
        Runtime(**options)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("seg4diff.backbones.runtime.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`quantize=nf4` needs the package bitsandbytes: pip install bitsandbytes"):
        Runtime(quantize="nf4")


def test_four_bits_without_an_accelerator_are_refused(monkeypatch):
    monkeypatch.setattr("seg4diff.backbones.runtime.find_spec", lambda name: name)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UserError, match=r"`quantize=nf4` needs an accelerator, and this machine has none: use int8"):
        Runtime(quantize="nf4")


def test_a_dtype_that_the_device_cannot_run_is_refused():
    runtime = Runtime()
    runtime.check_device(torch.device("cpu"))
    runtime.dtype = torch.float8_e4m3fn  # stands for a dtype that some device lacks
    with pytest.raises(UserError, match=r"the device 'cpu' cannot run this model in float8_e4m3fn .*: set `dtype=float32`"):
        runtime.check_device(torch.device("cpu"))
    with pytest.raises(UserError, match=r"`quantize=int8` overflows in float16 on the CPU: set `dtype=bfloat16`"):
        Runtime(quantize="int8", dtype="float16").check_device(torch.device("cpu"))
    with pytest.raises(UserError, match=r"cannot run this model in float32 with `attention=_native_cudnn`"):
        Runtime(attention="_native_cudnn").check_device(torch.device("cpu"))


@pytest.mark.parametrize("preferred", ["float16", "bfloat16"])
def test_auto_takes_the_models_own_dtype_where_it_is_fast_and_says_in_one_line_where_not(preferred, caplog):
    caplog.set_level(logging.INFO)
    assert choose_dtype(preferred, "mps") == preferred and not caplog.records
    assert choose_dtype(preferred, "cpu") == "float32"
    assert [record.getMessage() for record in caplog.records] == [
        f"dtype auto: float32, because this machine's cpu computes slowly in {preferred}, the model's own"
    ]


def test_auto_of_a_32_bit_model_is_32_bit_everywhere(caplog):
    caplog.set_level(logging.INFO)
    assert [choose_dtype(own, "cpu") for own in ("float32", "float64")] == ["float32", "float64"]
    assert [choose_precision(own, "cpu") for own in ("32-true", "64-true")] == ["32-true", "64-true"] and not caplog.records


def test_autocast_follows_the_same_rule(caplog):
    caplog.set_level(logging.INFO)
    assert [choose_precision(own, "mps") for own in ("16-mixed", "bf16-mixed")] == ["16-mixed", "bf16-mixed"]
    assert choose_precision("16-mixed", "cpu") == choose_precision("bf16-mixed", "cpu") == "32-true" and len(caplog.records) == 2


def test_a_model_is_loaded_in_what_auto_chose_and_an_explicit_dtype_is_taken_as_it_is(folder, tmp_path):
    """Also by the cache, which must not say "auto": another machine would fill it with another dtype."""
    chosen = "float32" if own_device() == "cpu" else "bfloat16"
    cached = Runtime(dtype="auto", preferred="bfloat16", cache=str(tmp_path))
    model = SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=cached)
    assert model.dtype == model.transformer.dtype == getattr(torch, chosen)
    (description,) = tmp_path.glob("*/model.json")
    assert json.loads(description.read_text())["dtype"] == f"torch.{chosen}"
    explicit = Runtime(dtype="bfloat16", preferred="float32")
    assert SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=explicit).transformer.dtype == torch.bfloat16
    explicit.check_device(torch.device("cpu"))


def test_auto_refuses_a_slower_device_than_that_it_chose_for():
    runtime = Runtime(dtype="auto", preferred="float16")
    runtime.dtype = torch.float16  # as on a machine with an accelerator
    with pytest.raises(UserError, match=r"this run is on its cpu, which computes slowly in it: set `dtype=float32`"):
        runtime.check_device(torch.device("cpu"))


def test_a_model_of_another_family_is_named(folder):
    with pytest.raises(UserError, match="is a FluxPipeline, but this backbone reads a StableDiffusion3Pipeline: choose the preset"):
        SD3Backbone.from_pretrained(path=str(folder / "flux"), t5_length=0)
    index = folder / "sd3" / "model_index.json"
    text = index.read_text()
    index.write_text(text.replace("StableDiffusion3Pipeline", "StableDiffusionXLPipeline"))
    with pytest.raises(UserError, match=r"is a StableDiffusionXLPipeline, .*there are adapters for StableDiffusion3Pipeline, FluxPipeline"):
        SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0)
    index.write_text(text)


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of a model whose configurations may be damaged."""
    return Path(shutil.copytree(folder / "sd3", tmp_path / "sd3"))


@pytest.mark.parametrize("content", ["{}", "[1]", "3", "null", '"SD3"', '{"_class_name": null}', '{"_class_name": ["SD3"]}', "{"])
def test_a_damaged_index_is_named_by_whoever_reads_it(content, broken):
    (broken / "model_index.json").write_text(content)
    source = Source(str(broken), None)
    for read in (source.kind, lambda: source.check_class(SD3Backbone.pipeline_class), lambda: load(broken)):
        with pytest.raises(UserError, match=r"the model .*sd3 .*(names no pipeline|is no JSON object|could not be loaded)"):
            read()


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"SD3"', "{"])
def test_a_damaged_configuration_of_a_part_is_named(content, broken):
    source = Source(str(broken), None)
    for part, read in (("vae", source.vae_config), ("transformer", source.kind)):
        (broken / part / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"sd3 .*as an? (autoencoder|transformer) "):
            read()


@pytest.fixture
def bars():
    """What transformers draws by itself; put back afterwards."""
    transformers.utils.logging.enable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def test_commands_hide_the_bars_of_encoders_and_a_library_call_changes_nothing(folder, tmp_path, capsys, bars):
    load(folder / "sd3", like="tiny_sd3", block=1)
    assert "Loading weights" in capsys.readouterr().err, "whoever imports seg4diff chooses what transformers draws"
    Image.new("RGB", (48, 32)).save(tmp_path / "photo.png")
    options = {"model": folder / "sd3", "like": "tiny_sd3", "block": 1, "image_size": (32, 32)}
    segment_files(tmp_path / "photo.png", ["apple"], out=tmp_path / "out", load_options=options)
    said = capsys.readouterr().err
    assert "Loading pipeline components" in said and "Loading weights" not in said
    assert not are_progress_bars_disabled(), "downloads are shown"


def test_training_hides_the_bars_of_encoders(folder, capsys, bars):
    node = {"_target_": "seg4diff.backbones.sd3.SD3Backbone.from_pretrained", "path": str(folder / "sd3"), "t5_length": 0}
    build_all([], OmegaConf.create(node))
    said = capsys.readouterr().err
    assert "Loading pipeline components" in said and "Loading weights" not in said


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_processes_of_a_machine_share_its_accelerators(variable, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    assert find_device(None) == torch.device(own_device()) and find_device("cpu") == torch.device("cpu")
    count = torch.accelerator.device_count()
    monkeypatch.setenv(variable, str(count + 1))
    expected = torch.device(own_device(), 1 % count) if count else torch.device("cpu")
    assert find_device(None) == expected and find_device("cpu") == torch.device("cpu")
