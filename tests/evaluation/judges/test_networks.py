"""Scores of random networks of the real classes, beside what their features give by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from tests.judges import make_dino, make_llava
from transformers import AutoImageProcessor, AutoProcessor, CLIPModel, Dinov2Model, LlavaForConditionalGeneration

from seg4diff.errors import UserError
from seg4diff.evaluation.judges.networks import Clip, CLIPScore, ImageFeatures, PickScore, Similarity, VQAScore, frechet_distance

PROMPTS = ["an apple", "a photo of a bowl", "a red cat", "a dog"]


@pytest.fixture
def clip(weights, device):
    return Clip(weights["clip"], device)


@pytest.fixture
def dino(weights, device):
    return ImageFeatures(weights["dino"], device)


@pytest.fixture
def output(weights, images):
    """What the CLIP model itself says about images and prompts."""
    inputs = AutoProcessor.from_pretrained(weights["clip"])(images=images, text=PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return CLIPModel.from_pretrained(weights["clip"]).eval()(**inputs)


def test_clipscore_is_a_cosine(clip, output, images):
    cosines = (output.image_embeds * output.text_embeds).sum(dim=-1)
    assert cosines.min() < -0.05 and cosines.max() > 0.05  # both signs are met
    assert CLIPScore(clip)(images, PROMPTS) == pytest.approx((100 * cosines.clamp(min=0)).tolist(), abs=1e-4)


def test_pickscore_is_the_models_own_logit(clip, output, images):
    assert PickScore(clip)(images, PROMPTS) == pytest.approx(output.logits_per_image.diag().tolist(), abs=1e-4)


def test_an_image_has_the_score_that_it_has_alone(clip, images):
    """Whatever is scored with it, however long the other prompts are."""
    together = PickScore(clip)(images, PROMPTS)
    assert PickScore(clip)(images[::-1], PROMPTS[::-1]) == pytest.approx(together[::-1], abs=1e-4)
    assert [PickScore(clip)([image], [prompt])[0] for image, prompt in zip(images, PROMPTS, strict=True)] == pytest.approx(
        together, abs=1e-4
    )


def test_long_prompts_are_cut(clip, images):
    words = ["dog", "cat", "red", "bowl"] * 10
    long, longer = " ".join(words[:20]), " ".join(words)
    assert CLIPScore(clip)(images[:1], [long]) == CLIPScore(clip)(images[:1], [longer])


def test_similarity_by_hand(dino, weights, images):
    with torch.no_grad():
        pixels = AutoImageProcessor.from_pretrained(weights["dino"])(images=images, return_tensors="pt")
        tokens = Dinov2Model.from_pretrained(weights["dino"]).eval()(**pixels).last_hidden_state[:, 0].double().numpy()
    lengths = np.linalg.norm(tokens, axis=1)
    expected = (tokens * tokens[::-1]).sum(axis=1) / (lengths * lengths[::-1])
    assert Similarity(dino)(images, images[::-1]) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_equal_images_are_alike(kind, clip, dino, images):
    similarity = Similarity({"clip": clip.images, "dino": dino}[kind])
    assert similarity(images, images) == pytest.approx([1] * 4, abs=1e-5)
    assert max(similarity(images[:2], images[2:])) < 0.99


def test_vqascore_is_the_probability_of_yes(weights, device, images):
    """Both spellings that are in the small vocabulary; those with a blank before them are the same tokens."""
    found = VQAScore(weights["llava"], device)(images[:2], PROMPTS[:2])
    processor, network = AutoProcessor.from_pretrained(weights["llava"]), LlavaForConditionalGeneration.from_pretrained(weights["llava"])
    yes = processor.tokenizer.convert_tokens_to_ids(["Yes", "yes"])
    for value, image, prompt in zip(found, images, PROMPTS, strict=False):
        text = f'<image>Does this figure show "{prompt}"? Please answer yes or no. :'
        with torch.no_grad():
            logits = network.eval()(**processor(images=image, text=text, return_tensors="pt")).logits[0, -1]
        assert value == pytest.approx(float(logits.double().softmax(dim=-1)[yes].sum()), rel=1e-4)
    assert 0 < min(found) < max(found) < 1


def test_vqascore_sees_the_image_and_the_prompt(weights, device, images):
    vqa = VQAScore(weights["llava"], device)
    values = vqa([images[0], images[0], images[1]], ["a dog", "a cat", "a dog"])
    assert len({round(value, 6) for value in values}) == 3


def moments(features):
    return features.mean(axis=0), np.cov(features, rowvar=False)


@pytest.fixture(scope="module")
def many():
    """Two sets of more images than the network has features; the second is brighter."""
    rng = np.random.default_rng(1)
    return [[Image.fromarray(rng.integers(low, 256, (18, 20, 3), dtype=np.uint8)) for _ in range(40)] for low in (0, 120)]


def test_fid_of_random_features_is_the_distance_of_their_gaussians(dino, many):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))."""
    (mean, spread), (other_mean, other_spread) = (moments(dino(images).double().numpy()) for images in many)
    expected = ((mean - other_mean) ** 2).sum() + np.trace(spread + other_spread - 2 * sqrtm(spread @ other_spread).real)
    assert frechet_distance(dino, [many[0]], [many[1]]) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def levels():
    """Features that are known: the mean of each channel in [0, 1]."""
    return lambda images: torch.stack([torch.from_numpy(np.array(image)).double().mean(dim=(0, 1)) / 255 for image in images])


def test_fid_of_known_gaussians(levels):
    """Channels that vary by themselves: each adds the squares of the differences of its means and of its standard deviations."""
    values = np.array([[0, 51, 102], [51, 51, 102], [0, 102, 102], [51, 102, 204]])
    one = [Image.new("RGB", (3, 2), tuple(row)) for row in values.tolist()]
    shifted = [Image.new("RGB", (3, 2), tuple(row)) for row in (values + np.array([51, 0, 0])).tolist()]
    assert frechet_distance(levels, [one], [shifted]) == pytest.approx(0.2**2, abs=1e-7)
    assert frechet_distance(levels, [one], [one]) == pytest.approx(0, abs=1e-7)


def test_fid_does_not_depend_on_batches(dino, many):
    images, references = many
    whole = frechet_distance(dino, [images], [references])
    assert frechet_distance(dino, [images[:7], images[7:]], [[image] for image in references[::-1]]) == pytest.approx(whole, rel=1e-5)
    with pytest.raises(UserError, match="at least two images each"):
        frechet_distance(dino, [images], [references[:1]])


def test_clip_gives_features_too(weights, device, clip, images):
    vectors = ImageFeatures(weights["clip"], device)(images)
    assert torch.allclose(torch.nn.functional.normalize(vectors, dim=-1), clip.images(images), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (Clip, "dino", "must be a CLIPModel, found a Dinov2Model"),
        (Clip, "no/where", "no/where could not be loaded as a CLIP model with its processor"),
        (Clip, "nowhere", "there is no folder nowhere"),
        (ImageFeatures, "owl", "must give features of images alone"),
        (VQAScore, "clip", "could not be loaded as a vision-language model"),
    ],
)
def test_weights_of_another_kind_are_refused(kind, name, said, weights, device):
    with pytest.raises(UserError, match=said):
        kind(weights.get(name, name), device)


def test_weights_with_holes_are_refused(tmp_path, device):
    """transformers would fill them with random numbers and only warn."""
    folder = make_dino(tmp_path / "dino")
    tensors = load_file(tmp_path / "dino" / "model.safetensors")
    lost = next(name for name in tensors if "attention" in name)
    save_file({name: own for name, own in tensors.items() if name != lost}, tmp_path / "dino" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 parameters of a Dinov2Model"):
        ImageFeatures(folder, device)


def test_a_model_without_a_chat_is_refused(tmp_path, device):
    folder = make_llava(tmp_path / "llava")
    (tmp_path / "llava" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        VQAScore(folder, device)
