"""LoRA files of which something is damaged: what is read is right, everything else ends in a sentence."""

import math
import os
import random

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import save_file
from tests.lora_names import ALPHA, FORMS, alphas, named

from seg4diff.backbones.base import LORA_FILE
from seg4diff.backbones.lora import updates_of
from seg4diff.backbones.lora_files import read_lora
from seg4diff.errors import UserError

LAYER = "transformer_blocks.1.attn.to_q"
HALF = {"A": torch.ones(4, 16), "B": torch.ones(16, 4)}


def attempt(path, layers):
    """What is read of a file; nothing where it is refused."""
    try:
        return read_lora(path, layers, StableDiffusion3Pipeline.lora_state_dict)
    except UserError as error:
        assert len(str(error)) < 500
        return {}


DAMAGE = {
    "drop": lambda tensors, key, draw: tensors.pop(key),
    "rename": lambda tensors, key, draw: tensors.update({draw.choice(["lora_te_", "x.", "lora_unet_"]) + key: tensors.pop(key)}),
    "cut the name": lambda tensors, key, draw: tensors.update({key[: draw.randrange(1, len(key))]: tensors.pop(key)}),
    "transpose": lambda tensors, key, draw: tensors.update(
        {key: tensors[key].mT.contiguous() if tensors[key].ndim > 1 else tensors[key][None]}
    ),
    "cut": lambda tensors, key, draw: tensors.update({key: tensors[key].flatten()[: draw.randrange(3)].clone()}),
    "not finite": lambda tensors, key, draw: tensors[key].view(-1)[:1].fill_(draw.choice([math.nan, math.inf])),
    "other kind": lambda tensors, key, draw: tensors.update({key: tensors[key].to(draw.choice([torch.float16, torch.int32, torch.bool]))}),
    "add": lambda tensors, key, draw: tensors.update({key.replace("lora_", draw.choice(["hada_", "lokr_", ""])): tensors[key].clone()}),
}


def test_a_damaged_file_is_read_right_or_refused(trained, layers, tmp_path):
    """Every update that is read is that of the file; everything else ends in a sentence."""
    written, read = updates_of(trained), 0
    for seed in range(200):
        draw, file = random.Random(seed), tmp_path / f"{seed}.safetensors"
        form = draw.choice(list(FORMS.values()))
        tensors = {name: tensor.clone() for name, tensor in (named(trained, form[0]) | alphas(trained, form[1])).items()}
        DAMAGE[draw.choice(list(DAMAGE))](tensors, draw.choice(sorted(tensors)), draw)
        save_file(tensors, file)
        for name, update in attempt(file, layers).items():
            read += 1
            assert update.alpha == ALPHA and update.up.isfinite().all()
            torch.testing.assert_close(update.up @ update.down, written[name].up @ written[name].down, rtol=1e-2, atol=1e-2)
    assert read > 20, "some damage does no harm"


def test_damaged_bytes_are_read_right_or_refused(trained, layers, tmp_path):
    trained.save_lora(tmp_path)
    whole = (tmp_path / LORA_FILE).read_bytes()
    for seed in range(200):
        draw, content = random.Random(seed), bytearray(whole)
        for _ in range(3):
            content[draw.randrange(8 + int.from_bytes(whole[:8], "little"))] = draw.randrange(256)
        (tmp_path / LORA_FILE).write_bytes(content)
        assert attempt(tmp_path, layers).keys() <= updates_of(trained).keys()


FLAT = LAYER.replace(".", "_")
TWICE = {
    "two programs": ("transformer.{}.lora_{}.weight", "diffusion_model.{}.lora_{}.weight"),
    "two adapters": ("{}.lora_{}.default_0.weight", "{}.lora_{}.default_1.weight"),
    "two wrappers": ("{}.lora_{}.weight", "base_model.model.{}.lora_{}.weight"),
    "dots and underscores": ("transformer.{}.lora_{}.weight", f"lora_unet_{FLAT}.lora_{{1}}.weight"),
    "the release": ("backbone.transformer.{}.lora_{}.default.weight", "{}.lora_{}.weight"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("forms", TWICE.values(), ids=TWICE)
def test_two_loras_of_one_layer_are_refused(forms, suffix, layers, tmp_path):
    tensors = {form.format(LAYER, half): HALF[half] * (k + 1) for k, form in enumerate(forms) for half in "AB"}
    file = tmp_path / f"two{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, file)
    with pytest.raises(UserError, match=r"holds two LoRAs for one layer, as .*lora_A.* and .*lora_A"):
        read_lora(file, layers, StableDiffusion3Pipeline.lora_state_dict)


@pytest.mark.parametrize("second", ["lora_down.weight", "lora.down.weight", "lora_A.default.weight"])
def test_two_tensors_for_one_half_are_refused(second, layers, tmp_path):
    tensors = {f"{LAYER}.lora_{half}.weight": HALF[half] for half in "AB"} | {f"{LAYER}.{second}": torch.zeros(4, 16)}
    save_file(tensors, tmp_path / "twice.safetensors")
    with pytest.raises(UserError, match="holds two LoRAs for one layer"):
        read_lora(tmp_path / "twice.safetensors", layers, StableDiffusion3Pipeline.lora_state_dict)


@pytest.mark.parametrize("content", [{"model": 3}, {0: torch.ones(2)}, torch.ones(2)])
def test_a_release_file_without_named_tensors_holds_no_lora(content, layers, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="holds no LoRA"):
        read_lora(tmp_path / "odd.pth", layers, StableDiffusion3Pipeline.lora_state_dict)


def test_an_error_of_the_system_names_the_file(layers, tmp_path):
    (tmp_path / "device.safetensors").symlink_to(os.devnull)
    with pytest.raises(UserError, match=r"the LoRA .*device.safetensors cannot be read \(.*os error"):
        read_lora(tmp_path / "device.safetensors", layers, StableDiffusion3Pipeline.lora_state_dict)


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"r": 4, "lora_alpha": true}'])
def test_a_damaged_neighbour_of_peft_is_named(content, layers, tmp_path):
    save_file({f"base_model.model.{LAYER}.lora_{half}.weight": HALF[half] for half in "AB"}, tmp_path / "mine.safetensors")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"mine.safetensors cannot be read from .*adapter_config.json"):
        read_lora(tmp_path / "mine.safetensors", layers, StableDiffusion3Pipeline.lora_state_dict)
