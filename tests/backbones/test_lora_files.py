"""LoRA files as programs write them: read for what they are, or refused in a sentence."""

import json
import math
import os

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from tests.hosts import random_flux, random_sd3
from tests.lora_names import ALPHA, FORMS, RANK, alphas, named

from seg4diff.backbones.base import LORA_FILE
from seg4diff.backbones.lora import lora_weights, updates_of
from seg4diff.backbones.lora_files import COMFYUI_FILE, PEFT_FILE, find_lora, read_lora
from seg4diff.errors import MissingFileError, UserError

LAYER = "transformer_blocks.1.attn.to_q"


def velocity(model):
    latents = torch.linspace(-1, 1, 4 * 8 * 12).view(1, 4, 8, 12)
    with torch.no_grad():
        return model.predict_velocity(latents, torch.tensor([0.4]), model.encode_text(["apple leaf"]))


@pytest.mark.parametrize("program", FORMS)
def test_a_file_of_another_program_gives_the_model_that_wrote_it(program, trained, tmp_path):
    form, alpha = FORMS[program]
    save_file(named(trained, form) | alphas(trained, alpha), tmp_path / "other.safetensors")
    loaded = random_sd3()
    loaded.load_lora(tmp_path / "other.safetensors")
    torch.testing.assert_close(velocity(loaded), velocity(trained))


@pytest.mark.parametrize(("rslora", "scale"), [(False, ALPHA / RANK), (True, ALPHA / math.sqrt(RANK))])
def test_a_folder_of_peft_has_the_scale_of_its_configuration(rslora, scale, trained, tmp_path):
    save_file(named(trained, "base_model.model.{layer}.lora_{half}.weight"), tmp_path / PEFT_FILE)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "use_rslora": rslora}))
    loaded = random_sd3()
    loaded.load_lora(tmp_path)
    assert updates_of(loaded)[LAYER].alpha == pytest.approx(scale * RANK)
    torch.testing.assert_close(updates_of(loaded)[LAYER].down, updates_of(trained)[LAYER].down)


def test_ranks_and_alphas_that_differ_between_layers(tmp_path):
    form = "transformer.{}.{}"
    up, down = torch.randn(16, 3), torch.randn(3, 16)
    tensors = {form.format("transformer_blocks.0.attn.to_q", "lora_A.weight"): torch.randn(2, 16)}
    tensors |= {form.format("transformer_blocks.0.attn.to_q", "lora_B.weight"): torch.randn(16, 2)}
    tensors |= {form.format("transformer_blocks.0.attn.to_q", "alpha"): torch.tensor(2.0)}
    tensors |= {form.format(LAYER, "lora_A.weight"): down, form.format(LAYER, "lora_B.weight"): up}
    tensors |= {form.format(LAYER, "alpha"): torch.tensor(7.5)}
    save_file(tensors, tmp_path / "mixed.safetensors")
    loaded = random_sd3()
    loaded.load_lora(tmp_path / "mixed.safetensors")
    module = dict(loaded.transformer.named_modules())[LAYER]
    inputs = torch.randn(5, 16)
    torch.testing.assert_close(module(inputs) - module.base_layer(inputs), 7.5 / 3 * inputs @ down.T @ up.T)
    loaded.save_lora(tmp_path / "ours")
    again = random_sd3()
    again.load_lora(tmp_path / "ours")
    torch.testing.assert_close(velocity(again), velocity(loaded))


def test_a_layer_whose_name_ends_longer_names_too(tmp_path):
    model = random_flux()
    width = model.transformer.proj_out.in_features
    save_file({"proj_out.lora_A.weight": torch.ones(2, width), "proj_out.lora_B.weight": torch.ones(16, 2)}, tmp_path / "one.safetensors")
    model.load_lora(tmp_path / "one.safetensors")
    assert list(updates_of(model)) == ["proj_out"], "and not single_transformer_blocks.0.proj_out"


def test_flux_by_the_names_of_its_original_code_is_converted(tmp_path):
    """kohya holds queries, keys and values as one layer."""
    down, up = torch.randn(6, 32), torch.zeros(96, 6)
    for k in range(3):
        up[32 * k : 32 * (k + 1), 2 * k : 2 * (k + 1)] = torch.randn(32, 2)
    layer = "lora_unet_double_blocks_1_img_attn_qkv"
    tensors = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "kohya.safetensors")
    model = random_flux()
    model.load_lora(tmp_path / "kohya.safetensors")
    whole = 3.0 / 6 * up @ down
    for k, name in enumerate("qkv"):
        update = updates_of(model)[f"transformer_blocks.1.attn.to_{name}"]
        torch.testing.assert_close(update.alpha / update.rank * update.up @ update.down, whole[32 * k : 32 * (k + 1)])


def test_text_encoders_are_left_out_with_a_line(trained, tmp_path, caplog):
    tensors = named(trained, "transformer.{layer}.lora_{half}.weight") | alphas(trained, "transformer.{layer}.alpha")
    odd = ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "lora_te1_text_model_encoder.lora_up.weight")
    tensors |= {name: torch.ones(2, 2) for name in (*odd, "text_encoder_2.mlp.fc1.lora_linear_layer.up.weight")}
    save_file(tensors, tmp_path / "both.safetensors")
    loaded = random_sd3()
    with caplog.at_level("INFO"):
        loaded.load_lora(tmp_path / "both.safetensors")
    assert "3 tensors of text encoders are left out" in caplog.text
    torch.testing.assert_close(velocity(loaded), velocity(trained))


def test_a_file_without_alpha_is_named(trained, tmp_path, caplog):
    save_file(named(trained, "transformer.{layer}.lora_{half}.weight"), tmp_path / "plain.safetensors")
    loaded = random_sd3()
    with caplog.at_level("INFO"):
        loaded.load_lora(tmp_path / "plain.safetensors")
    assert "plain.safetensors has no alpha: its updates are added as they are (alpha = rank)" in caplog.text
    assert updates_of(loaded)[LAYER].alpha == RANK


@pytest.mark.parametrize(("beside", "alpha"), [(json.dumps({"r": RANK, "lora_alpha": 64}), 64), (None, RANK)])
def test_a_file_of_peft_under_another_name_has_the_alpha_that_stands_beside_it(beside, alpha, trained, tmp_path, caplog):
    caplog.set_level("INFO")
    save_file(named(trained, "base_model.model.{layer}.lora_{half}.weight"), tmp_path / "mine.safetensors")
    if beside is not None:
        (tmp_path / "adapter_config.json").write_text(beside)
    loaded = random_sd3()
    loaded.load_lora(tmp_path / "mine.safetensors")
    assert updates_of(loaded)[LAYER].alpha == alpha
    assert ("peft keeps it in adapter_config.json, which is not beside the file" in caplog.text) == (beside is None)


def test_a_neighbour_of_peft_is_not_for_the_files_of_others(trained, tmp_path):
    save_file(named(trained, "transformer.{layer}.lora_{half}.weight"), tmp_path / "other.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 64}))
    loaded = random_sd3()
    loaded.load_lora(tmp_path / "other.safetensors")
    assert updates_of(loaded)[LAYER].alpha == RANK


@pytest.mark.parametrize("metadata", ["{}", '{"text_encoder.r": 2, "text_encoder.lora_alpha": 8, "text_encoder_2.use_dora": true}'])
def test_metadata_of_text_encoders_alone_say_nothing_about_the_transformer(metadata, trained, tmp_path):
    tensors = named(trained, "transformer.{layer}.lora_{half}.weight")
    save_file(tensors, tmp_path / LORA_FILE, metadata={"lora_adapter_metadata": metadata})
    loaded = random_sd3()
    loaded.load_lora(tmp_path)
    assert updates_of(loaded)[LAYER].alpha == RANK


def test_a_folder_may_be_named_like_a_file(trained, tmp_path):
    for name in ("ours.safetensors", "ours.pth"):
        trained.save_lora(tmp_path / name)
        loaded = random_sd3()
        loaded.load_lora(find_lora(tmp_path / name))
        torch.testing.assert_close(velocity(loaded), velocity(trained))


def halves(layer, rank=4, width=16):
    return {f"{layer}.lora_A.weight": torch.ones(rank, width), f"{layer}.lora_B.weight": torch.ones(width, rank)}


def alpha_of(layer):
    return {f"transformer.{layer}.alpha": torch.tensor(4.0)}


WHOLE = halves(f"transformer.{LAYER}")
TE = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({}, "adapts no layer of the transformer"),
        (halves(TE), "adapts no layer of the transformer: it holds nothing, or text encoders alone"),
        (WHOLE | {f"transformer.{LAYER}.lora_B.weight": torch.full((16, 4), torch.nan)}, "weights that are not finite"),
        (WHOLE | {f"transformer.{LAYER}.lora_A.weight": torch.full((4, 16), -torch.inf)}, "weights that are not finite"),
        (WHOLE | {f"transformer.{LAYER}.alpha": torch.tensor(torch.nan)}, "weights that are not finite"),
        (WHOLE | {f"transformer.{LAYER}.alpha": torch.tensor(0.0)}, "expected a number that is not 0"),
        (WHOLE | {f"transformer.{LAYER}.alpha": torch.ones(4)}, "expected a number that is not 0"),
        (WHOLE | {f"transformer.{LAYER[:-1]}v.alpha": torch.tensor(4.0)}, "only one half of the LoRA of 1 layers"),
        (dict(list(WHOLE.items())[:1]), "only one half of the LoRA of 1 layers, the first is transformer.transformer_blocks.1.attn.to_q"),
        (WHOLE | {f"transformer.{LAYER}.lora_B.weight": torch.ones(16, 3)}, "that do not fit each other: .4, 16. and .16, 3."),
        (WHOLE | {f"transformer.{LAYER}.lora_A.weight": torch.ones(4, 16, 1, 1)}, "that do not fit each other"),
        (halves(f"transformer.{LAYER}", rank=0), "that do not fit each other"),
        (WHOLE | {f"transformer.{LAYER}.lora_A.weight": torch.ones(4, 16, dtype=torch.int8)}, "holds torch.int8 for .*, expected floating"),
        (WHOLE | {f"transformer.{LAYER}.lora_B.weight": torch.ones(16, 4, dtype=torch.complex64)}, "holds torch.complex64 for"),
        (WHOLE | {f"transformer.{LAYER}.alpha": torch.tensor(4j)}, "holds torch.complex64 for"),
        (WHOLE | alpha_of(LAYER) | halves(f"transformer.{LAYER[:-1]}v"), "an alpha for some layers and none for"),
        (WHOLE | {f"transformer.{LAYER}.dora_scale": torch.ones(16)}, "is a DoRA"),
        (WHOLE | {f"transformer.{LAYER}.lora_magnitude_vector": torch.ones(16)}, "is a DoRA"),
        ({f"lycoris_{LAYER.replace('.', '_')}.lokr_w1": torch.ones(4, 4)}, "is a LoKr"),
        ({f"lora_unet_{LAYER.replace('.', '_')}.hada_w1_a": torch.ones(4, 4)}, "is a LoHa"),
        (WHOLE | {f"transformer.{LAYER}.lora_B.bias": torch.ones(16)}, "lora_B.bias, which is no part of a LoRA"),
        (WHOLE | {"mask_head.conv.weight": torch.ones(1)}, "mask_head.conv.weight, which is no part of a LoRA"),
        (halves("transformer.transformer_blocks.9.attn.to_q"), "adapts 'transformer_blocks.9.attn.to_q', which this model does not have"),
        (halves(f"transformer.{LAYER}", width=24), "of width 24, this model has 16: load its own backbone"),
        (halves("diffusion_model.joint_blocks.9.x_block.attn.qkv"), "names its layers as the model's original code does"),
        (halves("lora_unet_joint_blocks_9_context_block_attn_qkv"), "convert it to the format of diffusers"),
        (halves("lora_unet_down_blocks_0_attentions_0_to_q"), "is for a UNet"),
        (halves("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"), "is for a UNet"),
    ],
)
def test_what_cannot_be_read_is_refused_for_what_it_is(tensors, expected, layers, tmp_path):
    save_file(tensors, tmp_path / LORA_FILE)
    with pytest.raises(UserError, match=expected):
        read_lora(tmp_path, layers, StableDiffusion3Pipeline.lora_state_dict)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("{", "cannot be read from its metadata"),
        ("[1]", "cannot be read from its metadata"),
        ('{"transformer.r": 4}', "expected numbers above 0"),
        ('{"transformer.r": "4", "transformer.lora_alpha": 4}', "expected numbers above 0"),
        ('{"transformer.r": 4, "transformer.lora_alpha": NaN}', "expected numbers above 0"),
        ('{"transformer.r": 4, "transformer.lora_alpha": true}', "expected numbers above 0"),
        ('{"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.alpha_pattern": {"to_q": true}}', "expected numbers above 0"),
        ('{"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.alpha_pattern": {"(": 2}}', "cannot be read from its metadata"),
        ('{"transformer.r": 8, "transformer.lora_alpha": 8}', "has rank 8, and its matrices have rank 4"),
        ('{"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.use_dora": true}', "is a DoRA"),
    ],
)
def test_metadata_that_do_not_belong_to_the_tensors(metadata, expected, layers, tmp_path):
    save_file(WHOLE, tmp_path / LORA_FILE, metadata={"lora_adapter_metadata": metadata})
    with pytest.raises(UserError, match=expected):
        read_lora(tmp_path, layers, StableDiffusion3Pipeline.lora_state_dict)


def test_a_lora_of_nothing_but_nan_reaches_no_model(tmp_path):
    model = random_sd3()
    save_file({name: tensor * torch.nan for name, tensor in WHOLE.items()}, tmp_path / LORA_FILE)
    with pytest.raises(UserError, match="its training has failed"):
        model.load_lora(tmp_path)
    assert not lora_weights(model)


def test_a_backbone_takes_one_lora(trained, tmp_path):
    trained.save_lora(tmp_path)
    with pytest.raises(UserError, match="carries a LoRA already"):
        trained.load_lora(tmp_path)
    with pytest.raises(MissingFileError, match="no LoRA at"):
        random_sd3().load_lora(tmp_path / "nothing.safetensors")


def comfyui_update(tensors, layer):
    """What ComfyUI adds to a weight: alpha / rank * up down, with 1 where there is no alpha; it reads no metadata."""
    down, up = tensors[f"transformer.{layer}.lora_A.weight"], tensors[f"transformer.{layer}.lora_B.weight"]
    alpha = tensors.get(f"transformer.{layer}.alpha")
    return (1.0 if alpha is None else alpha.item() / down.shape[0]) * up @ down


def test_comfyui_reads_the_same_updates(trained, tmp_path):
    trained.save_lora(tmp_path, comfyui=True)
    tensors = load_file(tmp_path / COMFYUI_FILE)
    updates = updates_of(trained)
    assert tensors.keys() == {f"transformer.{name}.{part}" for name in updates for part in ("lora_A.weight", "lora_B.weight", "alpha")}
    for name, update in updates.items():
        torch.testing.assert_close(comfyui_update(tensors, name), ALPHA / RANK * update.up @ update.down)
    loaded = random_sd3()
    loaded.load_lora(tmp_path / COMFYUI_FILE)
    torch.testing.assert_close(velocity(loaded), velocity(trained))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_follow_the_umask(umask, mode, trained, tmp_path):
    before = os.umask(umask)
    try:
        trained.save_lora(tmp_path / "lora", comfyui=True)
        trained.save_pretrained(tmp_path / "whole")
    finally:
        os.umask(before)
    files = [file for folder in ("lora", "whole") for file in (tmp_path / folder).rglob("*.safetensors")]
    assert len(files) > 3 and {file.stat().st_mode & 0o777 for file in files} == {mode}


def test_our_own_folder_is_that_of_diffusers(trained, tmp_path):
    trained.save_lora(tmp_path / "lora")
    plain = random_sd3()
    plain._pipeline.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(velocity(plain), velocity(trained))
