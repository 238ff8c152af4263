"""The authors' LoRA files: their layout, read strictly."""

import pytest
import torch
from tests.hosts import random_sd3

from seg4diff.backbones.lora import LoraSpec, adapted_blocks, add_lora, lora_weights
from seg4diff.backbones.release import read_release_lora
from seg4diff.errors import UserError

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture
def trained():
    """A model whose adapter does something in every block, as the release's does."""
    model = random_sd3()
    add_lora(model, LoraSpec(blocks="all", rank=4, alpha=4, targets=TARGETS), expert_layer=1, seed=0)
    for k, weight in enumerate(lora_weights(model).values()):
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(k)) * 0.3
    return model


def write(model, path, **changes):
    """A Detectron2 checkpoint as the release's training writes it."""
    weights = {f"backbone.transformer.{name}": weight.detach() for name, weight in lora_weights(model).items()}
    weights["backbone.transformer.pos_embed.proj.weight"] = torch.zeros(2)
    torch.save({"model": weights | changes, "iteration": 3000}, path)
    return path


def velocity(model):
    latents = torch.linspace(-1, 1, 4 * 8 * 12).view(1, 4, 8, 12)
    with torch.no_grad():
        return model.predict_velocity(latents, torch.tensor([0.4]), model.encode_text(["apple leaf"]))


def test_a_release_checkpoint_gives_the_model_that_wrote_it(trained, tmp_path):
    loaded = random_sd3()
    assert not torch.allclose(velocity(loaded), velocity(trained), atol=1e-3)
    loaded.load_lora(write(trained, tmp_path / "model_final.pth"))
    torch.testing.assert_close(velocity(loaded), velocity(trained))
    assert adapted_blocks(loaded) == [0, 1, 2]
    loaded.save_lora(tmp_path / "ours")
    again = random_sd3()
    again.load_lora(tmp_path / "ours")
    torch.testing.assert_close(velocity(again), velocity(trained))


def test_a_file_without_the_other_half_of_a_layer_is_refused(trained, tmp_path):
    path = write(trained, tmp_path / "half.pth")
    content = torch.load(path, weights_only=True)
    del content["model"]["backbone.transformer.transformer_blocks.1.attn.to_k.lora_B.default.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"only one half of the LoRA of 1 layers, the first is transformer_blocks.1.attn.to_k"):
        read_release_lora(path)


def test_layers_that_the_model_does_not_have_are_refused(trained, tmp_path):
    extra = {f"backbone.transformer.transformer_blocks.7.attn.to_q.lora_{side}.default.weight": torch.zeros(4, 16) for side in "AB"}
    with pytest.raises(UserError, match=r"adapts 'transformer_blocks.7.attn.to_q', which this model does not have"):
        random_sd3().load_lora(write(trained, tmp_path / "deep.pth", **extra))
    with pytest.raises(UserError, match=r"was made for a 'transformer_blocks.0.attn.to_q' of width 16, this model has 24"):
        random_sd3(heads=3).load_lora(write(trained, tmp_path / "narrow.pth"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"backbone.transformer.proj_out.weight": torch.zeros(2)}}, "holds no LoRA: expected keys such as"),
        ([1, 2], "holds no LoRA"),
        ({"model": print}, "cannot be read as weights alone"),
    ],
)
def test_other_files_are_refused_without_running_them(content, expected, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=expected):
        read_release_lora(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no LoRA at .*missing.pth"):
        read_release_lora(tmp_path / "missing.pth")


def test_what_is_no_adapter_is_named_and_left_out(trained, tmp_path, caplog):
    path = write(trained, tmp_path / "head.pth", **{"mask_head.conv.weight": torch.zeros(1), "mask_head.conv.bias": torch.zeros(1)})
    assert not [name for name in read_release_lora(path) if "mask_head" in name]
    assert "2 tensors that are no part of the transformer, mask_head.conv.bias first" in caplog.text
    caplog.clear()
    read_release_lora(write(trained, tmp_path / "plain.pth"))
    assert not caplog.text, "the frozen weights of the transformer are expected"
