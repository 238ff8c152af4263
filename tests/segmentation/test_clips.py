"""Clips: a video model sees the frames together, and every frame has its own maps."""

import numpy as np
import pytest
import torch
from tests.families import HostAttention, read
from tests.hosts import random_sd3
from tests.open_hosts import random_cogvideox

from seg4diff.attention.maps import i2t
from seg4diff.attention.seam import stream
from seg4diff.calibration import calibrate
from seg4diff.data.toyworld.scenes import make_scene
from seg4diff.errors import UserError
from seg4diff.model import Model
from seg4diff.presets import Preset, files
from seg4diff.segmentation.clips import clip_maps, in_time
from seg4diff.segmentation.prompts import list_names

WORDS = ["apple", "traffic cone", "leaf"]
BLOCK = 1


@pytest.fixture(scope="module")
def backbone():
    """9 frames at once, 4 of them in one latent frame; pictures of 32 x 48 pixels have 4 x 6 tokens."""
    return random_cogvideox(text_length=48)


@pytest.fixture
def model(backbone):
    return Model(backbone, Preset.named("cogvideox_2b"), block=BLOCK, image_size=(32, 48))


@pytest.fixture(scope="module")
def frames():
    """A scene that moves, wider than high."""
    scene = make_scene(0, "test", 2, 48).image
    return [np.roll(scene, 3 * k, axis=1)[:32] for k in range(12)]


@pytest.fixture(scope="module")
def clip():
    return torch.rand(2, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noised(backbone, clip):
    latents = backbone.encode_image(clip)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    return latents + noise, torch.tensor([0.3, 0.6]), backbone.encode_text(["apple leaf", "two stars"])


def test_four_frames_share_a_latent_frame_but_the_first(backbone, clip):
    latents = backbone.encode_image(clip)
    assert latents.shape == (2, 4, 3, 8, 12) and backbone.decode_image(latents).shape == clip.shape


def test_a_clip_of_one_frame_is_the_picture(backbone, clip):
    assert torch.equal(backbone.encode_image(clip[:, :, :1]).squeeze(2), backbone.encode_image(clip[:, :, 0]))


def test_the_record_of_a_clip_is_what_the_hosts_attention_saw(backbone, clip):
    arguments = noised(backbone, clip)
    with HostAttention() as host:
        joint = read(backbone, [BLOCK], arguments)[BLOCK]
    text = arguments[2].embeddings.shape[1]
    query, key, *_ = [call for call in host.calls if call[1].shape[2] == text + 3 * 24][BLOCK]
    assert torch.equal(joint.image_query, query[:, :, text:]) and torch.equal(joint.text_key, key[:, :, :text])
    dense = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)[:, :, text:, :text].mean(dim=1)
    torch.testing.assert_close(i2t(joint, "joint"), dense.transpose(-1, -2), atol=1e-6, rtol=1e-4)


def test_reading_a_clip_changes_no_bit_and_an_early_exit_changes_none(backbone, clip):
    arguments = noised(backbone, clip)
    with torch.no_grad():
        plain = backbone.predict_velocity(*arguments)
        with stream(backbone, [0, BLOCK], lambda visit: i2t(visit.joint, "joint")):
            watched = backbone.predict_velocity(*arguments)
    assert plain.shape == arguments[0].shape and torch.equal(plain, watched)
    stopped, whole = (i2t(read(backbone, [BLOCK], arguments, stop=stop)[BLOCK], "joint") for stop in (True, False))
    assert torch.equal(stopped, whole)


def test_the_tokens_of_a_clip_follow_each_other_frame_by_frame_and_row_by_row(backbone, clip):
    noisy, sigma, condition = noised(backbone, clip)
    moved = noisy.clone()
    moved[:, :, 1, 4:6, 10:12] += 1.0  # the third row and last column of the second latent frame
    before, after = (read(backbone, [0], (latents, sigma, condition), stop=True)[0].image_query for latents in (noisy, moved))
    changed = ((before - after).abs().amax(dim=(0, 1, 3)) > 1e-6).view(3, 4, 6)
    assert changed[1, 2, 5] and changed.sum() == 1


@pytest.mark.parametrize("name", [file.stem for file in files("reader") if file.stem != "mixture"])
def test_every_reader_reads_every_frame(model, frames, name):
    found = model.segment(frames[:7], WORDS, clip=True, reader=name)
    assert len(found) == 7 and all(one.labels.shape == (32, 48) and set(one.maps) == set(WORDS) for one in found)
    assert not torch.equal(found[0].maps.grid, found[6].maps.grid)


@pytest.mark.parametrize("refine", ["none", "pamr"])
def test_a_clip_of_one_picture_is_segmented_like_the_picture(model, frames, refine):
    (alone,) = model.segment(frames[:1], WORDS, clip=True, refine=refine)
    picture = model.segment(frames[0], WORDS, refine=refine)
    assert np.array_equal(alone.labels, picture.labels) and torch.equal(alone.maps.grid, picture.maps.grid)


def test_a_frame_is_seen_together_with_the_others(model, frames):
    still = [frames[0]] * 5
    moving = frames[:5]
    assert not torch.equal(*(model.segment(own, WORDS, clip=True)[0].maps.grid for own in (still, moving)))


def test_a_latent_frame_stands_for_the_middle_of_its_frames():
    """Of nine frames, the second latent frame is the mean of frames 1 to 4, the third of 5 to 8: their middles are 2.5 and 6.5."""
    latent = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    found = in_time(latent, 4)
    assert found.shape == (2, 9, 4, 6) and torch.equal(found[:, 0], latent[:, 0])
    torch.testing.assert_close(found[:, [7, 8]], latent[:, 2:].expand(-1, 2, -1, -1))
    torch.testing.assert_close(found[:, 4], 0.625 * latent[:, 1] + 0.375 * latent[:, 2])
    torch.testing.assert_close(found[:, 2], 0.2 * latent[:, 0] + 0.8 * latent[:, 1])
    assert torch.equal(in_time(latent[:, :1], 4), latent[:, :1]) and in_time(torch.zeros(0, 3, 4, 6), 4).shape == (0, 9, 4, 6)


def test_a_calibration_is_not_for_clips(model, frames):
    known = calibrate(model, frames[:3], WORDS)
    with pytest.raises(UserError, match="a calibration is of single pictures, and the frames of a clip share their attention"):
        model.segment(frames, WORDS, clip=True, presence=known)


def test_a_clip_that_is_too_long_is_read_in_pieces(model, frames):
    whole = model.segment(frames, WORDS, clip=True)
    pieces = [*model.segment(frames[:9], WORDS, clip=True), *model.segment(frames[9:], WORDS, clip=True)]
    assert len(whole) == 12
    assert all(torch.equal(one.maps.grid, own.maps.grid) for one, own in zip(whole, pieces, strict=True))


def test_words_of_several_prompts_have_maps_in_every_frame(model, clip):
    prompts = [list_names(WORDS, [0]), list_names(WORDS, [1, 2])]
    found = clip_maps(model.backbone, model.readout, clip[0].transpose(0, 1), prompts, BLOCK)
    assert len(found) == 9 and {tuple(own.shape) for own in found} == {(3, 4, 6)}


def test_what_is_no_clip_is_one_sentence(model, frames):
    image_model = Model(random_sd3(), Preset.named("tiny_sd3"), block=1, image_size=(32, 48))
    cases = [
        (lambda: image_model.segment(frames, WORDS, clip=True), "^this model sees pictures alone: leave `clip` out, or choose a"),
        (
            lambda: model.segment([frames[0], frames[1][:20]], WORDS, clip=True),
            "^the frames of a clip must have one size, found 48x32 and",
        ),
        (lambda: model.segment(frames[:2], [["apple"], ["leaf"]], clip=True), "^the frames of a clip have the same words: give one list"),
        (lambda: model.segment(frames, clip=True), "^a clip is segmented by words, and there are none: give words"),
        (lambda: model.segment([], WORDS, clip=True), "^`pictures` is an empty list"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
