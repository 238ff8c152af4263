"""Encodings on disk: bit-equal to fresh ones, never stale, never half-written, and enough to work without any encoder."""

import json
import logging
import os

import pytest
import torch
from tests.hosts import random_flux2, random_sd3

from seg4diff.backbones.flux2 import Flux2Backbone
from seg4diff.backbones.runtime import Runtime
from seg4diff.backbones.sd3 import SD3Backbone

PROMPTS = ["apple leaf", "", "two stars", "apple leaf"]
ENCODERS = ("vae", "text_encoder", "text_encoder_2")


@pytest.fixture
def folder(tmp_path):
    random_sd3()._pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def images(count=3):
    return torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def load(folder, cache, **options):
    return SD3Backbone.from_pretrained(path=str(folder), t5_length=0, runtime=Runtime(cache=str(cache), **options))


def encoded(model):
    condition = model.encode_text(PROMPTS)
    return [model.encode_image(images()), condition.embeddings, condition.pooled, condition.padding]


def loaded(model):
    return [name for name in ENCODERS if getattr(model._pipeline, name) is not None]


def test_what_comes_from_the_cache_is_what_the_encoders_gave_and_needs_none_of_them(folder, tmp_path):
    plain = SD3Backbone.from_pretrained(path=str(folder), t5_length=0)
    first = load(folder, tmp_path / "cache")
    assert loaded(first) == []
    fresh = encoded(first)
    assert loaded(first) == list(ENCODERS)
    second = load(folder, tmp_path / "cache")
    kept = encoded(second)
    assert loaded(second) == [], "the encoders were loaded although the cache holds everything"
    for reference, one, two in zip(encoded(plain), fresh, kept, strict=True):
        torch.testing.assert_close(one, reference, atol=1e-6, rtol=1e-5)
        assert torch.equal(one, two)
    assert second.encode_text(PROMPTS).offsets == plain.encode_text(PROMPTS).offsets
    assert len(list((tmp_path / "cache").glob("*/text/*/*"))) == 3, "a prompt that occurs twice is encoded once"
    assert second.token_grid(32, 48) == plain.token_grid(32, 48)


def test_other_pixels_and_other_words_are_not_confused(folder, tmp_path):
    model = load(folder, tmp_path / "cache")
    latents = model.encode_image(images())
    changed = images()
    changed[1, 0, 5, 7] += 0.5
    assert torch.equal(model.encode_image(changed)[0], latents[0]) and not torch.equal(model.encode_image(changed)[1], latents[1])
    turned = images().view(3, 3, 48, 32)
    assert model.encode_image(turned).shape[-2:] == (12, 8), "same pixels, another size"


def test_a_torn_or_damaged_entry_is_made_again(folder, tmp_path, caplog):
    cache = tmp_path / "cache"
    expected = encoded(load(folder, cache))
    torn, damaged = sorted(cache.glob("*/image/*/*"))[:2]
    torn.write_bytes(torn.read_bytes()[:-7])
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = encoded(load(folder, cache))
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
    assert str(torn) in caplog.text and f"{damaged} cannot be used (its checksum is wrong)" in caplog.text
    again = load(folder, cache)
    encoded(again)
    assert loaded(again) == []


def test_a_write_that_fails_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    model = load(folder, tmp_path / "cache")

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        model.encode_text(["apple"])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["model.json"]


def test_new_encoder_weights_make_old_entries_useless(folder, tmp_path):
    encoded(load(folder, tmp_path / "cache"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, ns=(1, 1))
    model = load(folder, tmp_path / "cache")
    model.encode_image(images())
    assert loaded(model) == list(ENCODERS)


def test_models_share_a_cache_folder_and_no_entry(folder, tmp_path):
    cache = tmp_path / "cache"
    random_sd3()._pipeline.save_pretrained(tmp_path / "another")
    models = [(folder, "float32"), (tmp_path / "another", "float32"), (folder, "bfloat16")]
    first = [load(path, cache, dtype=dtype).encode_text(["apple"]).embeddings for path, dtype in models]
    again = [load(path, cache, dtype=dtype) for path, dtype in models]
    assert all(torch.equal(model.encode_text(["apple"]).embeddings, found) for model, found in zip(again, first, strict=True))
    assert [loaded(model) for model in again] == [[], [], []] and first[2].dtype == torch.bfloat16
    assert len(list(cache.glob("*/text/*/*"))) == 3
    said = [json.loads(file.read_text()) for file in cache.glob("*/model.json")]
    assert sorted((one["model"], one["dtype"]) for one in said) == sorted((str(path), f"torch.{dtype}") for path, dtype in models)


def test_another_way_to_encode_text_is_another_cache(tmp_path):
    random_flux2()._pipeline.save_pretrained(tmp_path / "flux2")
    options = {"path": str(tmp_path / "flux2"), "text_length": 48, "runtime": Runtime(cache=str(tmp_path / "cache"))}
    first = Flux2Backbone.from_pretrained(**options, text_layers=(1, 2, 3))
    expected = first.encode_text(["apple"]).embeddings
    again = Flux2Backbone.from_pretrained(**options, text_layers=(1, 2, 3))
    assert torch.equal(again.encode_text(["apple"]).embeddings, expected) and again._pipeline.text_encoder is None
    other = Flux2Backbone.from_pretrained(**options, text_layers=(3, 2, 1))
    assert not torch.equal(other.encode_text(["apple"]).embeddings, expected)


def test_the_same_folder_written_differently_is_the_same_model(folder, tmp_path, monkeypatch):
    load(folder, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    load(folder.relative_to(tmp_path), tmp_path / "cache")


def test_entries_can_be_read_by_whom_the_umask_allows(folder, tmp_path):
    before = os.umask(0o022)
    try:
        load(folder, tmp_path / "cache").encode_text(["apple"])
    finally:
        os.umask(before)
    (entry,) = (tmp_path / "cache").glob("*/text/*/*")
    assert entry.stat().st_mode & 0o777 == 0o644


def test_entries_made_under_autocast_are_those_made_without(folder, tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoded(load(folder, tmp_path / "mixed"))
    for one, two in zip(mixed, encoded(load(folder, tmp_path / "plain")), strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)


def test_loaded_encoders_are_no_part_of_the_module(folder, tmp_path):
    for model in (load(folder, tmp_path / "cache"), SD3Backbone.from_pretrained(path=str(folder), t5_length=0)):
        before = [name for name, _ in model.named_parameters()]
        encoded(model)
        assert [name for name, _ in model.named_parameters()] == before
        assert all(name.startswith("transformer.") for name in before)
