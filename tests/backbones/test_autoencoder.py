"""A tiny autoencoder in place of the model's own, and tiles: which latents they give, what they are known by, what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.hosts import random_flux, random_flux2, random_sd3, random_tiny
from tests.open_hosts import random_cogvideox, random_qwen_image

import seg4diff
from seg4diff.backbones.cogvideox import CogVideoXBackbone
from seg4diff.backbones.flux import FluxBackbone
from seg4diff.backbones.flux2 import Flux2Backbone
from seg4diff.backbones.qwen_image import QwenImageBackbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sd3 import SD3Backbone
from seg4diff.commands.drawing import identify
from seg4diff.errors import MissingFileError, UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    random_sd3()._pipeline.save_pretrained(path / "sd3")
    random_flux()._pipeline.save_pretrained(path / "flux")
    random_tiny().save_pretrained(path / "tiny")
    return path


def images(height=32, width=48):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def load(folder, *, tiny="tiny", **options):
    runtime = Runtime(autoencoder=tiny and str(folder / tiny), **options)
    return SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=runtime)


def person(folder, **options):
    return seg4diff.load(folder / "sd3", like="tiny_sd3", block=1, image_size=(32, 48), **options)


def test_latents_and_images_are_those_of_a_pipeline_whose_autoencoder_was_replaced(folder, capfd):
    model, tiny = load(folder), random_tiny()
    latents = model.encode_image(images())
    assert torch.equal(latents, tiny.encode(images()).latents) and latents.shape == (2, 4, 8, 12)
    assert torch.equal(model.decode_image(latents), tiny.decode(latents).sample.clamp(-1, 1))
    plain = load(folder, tiny=None)
    plain._pipeline.vae = tiny
    drawn = [one.sample(["apple"], seeds=[3], steps=2, guidance=2.0, size=(32, 48))[0] for one in (model, plain)]
    assert np.array_equal(*map(np.array, drawn))
    assert "AutoencoderTiny" not in capfd.readouterr().err, "diffusers warns of what was asked for"


def test_a_family_with_packed_latents_takes_one_too(folder):
    runtime = Runtime(autoencoder=str(folder / "tiny"))
    model = FluxBackbone.from_pretrained(path=str(folder / "flux"), text_length=24, guidance=3.5, runtime=runtime)
    assert torch.equal(model.encode_image(images()), random_tiny().encode(images()).latents)
    assert model.token_grid(32, 48) == (4, 6)


def test_a_pipeline_that_has_one_already_is_read_as_the_loaded_model(folder):
    loaded, plain = person(folder, autoencoder=folder / "tiny"), person(folder)
    adopted = seg4diff.load(loaded.backbone._pipeline, like="tiny_sd3", block=1, image_size=(32, 48))
    picture = images()[0]
    found = [one.segment(picture, ["apple", "leaf"]).maps["apple"] for one in (loaded, adopted, plain)]
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    assert loaded.backbone.fingerprint() == adopted.backbone.fingerprint() != plain.backbone.fingerprint()


def test_what_results_are_known_by_tells_autoencoders_apart_and_not_where_they_lie(folder, tmp_path):
    random_tiny().save_pretrained(tmp_path / "copy")
    options = [{}, {"autoencoder": folder / "tiny"}, {"autoencoder": tmp_path / "copy"}, {"autoencoder_tile": 16}]
    own, tiny, copy, tiled = (identify(person(folder, **each)) for each in options)
    assert tiny == copy and tiny.keys() - own.keys() == {"autoencoder"}
    assert tiled == own | {"autoencoder_tile": 16}


def test_a_cache_keeps_the_latents_of_each_autoencoder(folder, tmp_path):
    options = [{"tiny": None}, {}, {"tiny": None, "autoencoder_tile": 16}]
    first = [load(folder, cache=str(tmp_path), **each).encode_image(images()) for each in options]
    again = [load(folder, cache=str(tmp_path), **each) for each in options]
    assert all(torch.equal(model.encode_image(images()), found) for model, found in zip(again, first, strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert [model._pipeline.text_encoder for model in again] == [None] * 3, "the cache holds everything"
    told = [json.loads(file.read_text()) for file in tmp_path.glob("*/model.json")]
    assert sorted("autoencoder" in one for one in told) == [False, False, True]


def test_encoders_that_a_cache_lacks_are_loaded_around_the_tiny_one(folder, tmp_path):
    model = load(folder, cache=str(tmp_path))
    tiny = model._pipeline.vae
    model.encode_text(["apple"])
    assert model._pipeline.vae is tiny and model._pipeline.text_encoder is not None
    assert not any(weight.requires_grad for weight in tiny.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 16}, r"has 16 latent channels, and the model needs 4: choose one that was made for this model"),
        ({"stages": 4}, r"has 8 pixels per latent, and the model needs 4"),
        ({"decoder_stages": 4}, r"has 4 and 8 pixels per latent, and the model needs 4"),
    ],
)
def test_one_of_another_shape(options, said, folder, tmp_path):
    random_tiny(**options).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=rf"`autoencoder=.*other` {said}"):
        load(folder, tiny=tmp_path / "other")


def test_what_is_no_tiny_autoencoder(folder, tmp_path):
    with pytest.raises(UserError, match=r"`autoencoder` must be an AutoencoderTiny, and .*vae is a AutoencoderKL: name"):
        load(folder, tiny="sd3/vae")
    with pytest.raises(MissingFileError, match=r"no model folder at .*nowhere: set `autoencoder` to a folder"):
        load(folder, tiny=tmp_path / "nowhere")
    random_tiny().save_pretrained(tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / WEIGHTS)
    weights.pop("encoder.layers.0.bias")
    save_file(weights, tmp_path / "torn" / WEIGHTS)
    with pytest.raises(UserError, match=r"torn lacks 1 parameters of an AutoencoderTiny: fetch it again"):
        load(folder, tiny=tmp_path / "torn")
    (tmp_path / "torn" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"torn could not be loaded as AutoencoderTiny"):
        load(folder, tiny=tmp_path / "torn")


@pytest.mark.parametrize(
    ("make", "kind", "options", "name"),
    [
        (random_flux2, Flux2Backbone, {"text_length": 48, "text_layers": (1, 2, 3)}, "AutoencoderKLFlux2"),
        (random_qwen_image, QwenImageBackbone, {"text_length": 48}, "AutoencoderKLQwenImage"),
        (random_cogvideox, CogVideoXBackbone, {}, "AutoencoderKLCogVideoX"),
    ],
)
def test_families_whose_latents_are_scaled_in_another_way(make, kind, options, name, folder, tmp_path):
    make()._pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=f"`autoencoder` takes the place of an AutoencoderKL, and this model's is a {name}, .*leave it out"):
        kind.from_pretrained(path=str(tmp_path / "model"), runtime=Runtime(autoencoder=str(folder / "tiny")), **options)
    if name != "AutoencoderKLFlux2":
        with pytest.raises(UserError, match=f"`autoencoder_tile` is for .* is a {name}: leave it out"):
            kind.from_pretrained(path=str(tmp_path / "model"), runtime=Runtime(autoencoder_tile=64), **options)


def test_tiles_are_encoded_by_themselves_and_a_smaller_picture_whole(folder):
    whole, tiled = load(folder, tiny=None), load(folder, tiny=None, autoencoder_tile=32)
    assert torch.equal(tiled.encode_image(images(32, 32)), whole.encode_image(images(32, 32)))
    found, first = tiled.encode_image(images(48, 64)), whole.encode_image(images(48, 64)[..., :32, :32])
    assert found.shape == (2, 4, 12, 16) and torch.equal(found[..., :6, :6], first[..., :6, :6]), "a quarter is blended with the next"
    assert not torch.equal(found, whole.encode_image(images(48, 64)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"autoencoder_tile": 24}, "`autoencoder_tile` must be a multiple of 16 pixels for this model, found 24"),
        ({"autoencoder_tile": 0}, "`autoencoder_tile` must be a multiple of 16 pixels for this model, found 0"),
        ({"autoencoder_tile": 2.5}, r"`autoencoder_tile` must be a number of pixels, found 2\.5"),
        ({"autoencoder": 3}, "`autoencoder` must be a folder or a hub id, found 3"),
        (
            {"autoencoder": "some/tiny", "autoencoder_tile": 64},
            "`autoencoder_tile` is for the model's own autoencoder, .*leave one of them",
        ),
    ],
)
def test_values_that_cannot_be(options, said, folder):
    with pytest.raises(UserError, match=said):
        SD3Backbone.from_pretrained(path=str(folder / "sd3"), t5_length=0, runtime=Runtime(**options))
