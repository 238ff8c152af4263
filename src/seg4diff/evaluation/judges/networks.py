"""Networks that judge images: transformers models with weights that the user names, and the scores that are read from them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, CLIPModel

from seg4diff.backbones.networks import load_network
from seg4diff.errors import UserError

Features = Callable[[Sequence[Image.Image]], Tensor]
"""B images -> (B, D) features: `Clip.images` or an `ImageFeatures`."""
YES = ("Yes", "yes", " Yes", " yes")
"""How a model may begin an answer that agrees."""


class Clip:
    """A CLIP model: pictures and texts as unit vectors of one space.

    Args:
        weights: folder or hub id of a `CLIPModel` with its processor.
        device: where it goes.

    Raises:
        UserError: they are missing or of another kind.
    """

    def __init__(self, weights: str, device: torch.device) -> None:
        self._network, self._prepare = load_network("a CLIP model", AutoModel, AutoProcessor, weights, device)
        if not isinstance(self._network, CLIPModel):
            raise UserError(f"{weights} must be a CLIPModel, found a {type(self._network).__name__}: name other weights.")
        self._device = device

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self._network, self._device = self._network.to(device), device

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """B images -> (B, D), each of length 1."""
        inputs = self._prepare(images=list(images), return_tensors="pt").to(self._device)
        return F.normalize(self._network.get_image_features(**inputs).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts, cut to the model's window -> (B, D), each of length 1."""
        window = self._network.config.text_config.max_position_embeddings
        options = {"padding": True, "truncation": True, "max_length": window, "return_tensors": "pt"}
        inputs = self._prepare(text=list(texts), **options).to(self._device)
        return F.normalize(self._network.get_text_features(**inputs).pooler_output.float(), dim=-1)

    def cosines(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """(B,) in [-1, 1]: each image with its own prompt."""
        return (self.images(images) * self.texts(prompts)).sum(dim=-1)

    @property
    def logit_scale(self) -> float:
        """What the model was trained to multiply cosines with."""
        return float(self._network.logit_scale.exp())


class CLIPScore:
    """100 x the cosine of image and prompt, not below 0 (Hessel et al. 2021 with the scale of torchmetrics and of the paper's Table 3)."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return (100 * self._clip.cosines(images, prompts)).clamp(min=0).tolist()


class PickScore:
    """Logit of image and prompt of a CLIP model that was trained on preferences (Kirstain et al. 2023, section 3)."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return (self._clip.logit_scale * self._clip.cosines(images, prompts)).tolist()


class ImageFeatures:
    """Features of images alone: the class token of a vision transformer such as DINOv2, the pooled map of a convolutional network.

    Args:
        weights: folder or hub id of a model with its image processor; of a CLIP model its projected image vector is taken.
        device: where it goes.

    Raises:
        UserError: they are missing, or the network needs more than an image.
    """

    def __init__(self, weights: str, device: torch.device) -> None:
        self._network, self._prepare = load_network("a network of images", AutoModel, AutoImageProcessor, weights, device, unused="pooler.")
        self._device = device
        try:
            self([Image.new("RGB", (64, 64))])
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{weights} must give features of images alone, and a {type(self._network).__name__} does not: name others."
            ) from error

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self._network, self._device = self._network.to(device), device

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """B images -> (B, D)."""
        inputs = self._prepare(images=list(images), return_tensors="pt").to(self._device)
        if isinstance(self._network, CLIPModel):
            return self._network.get_image_features(**inputs).pooler_output
        tokens = self._network(**inputs).last_hidden_state
        return tokens[:, 0] if tokens.ndim == 3 else tokens.mean(dim=(2, 3))


class Similarity:
    """Cosine of each image with its reference: CLIP-I and DINO similarity (the paper's Fig. 18).

    Args:
        features: of CLIP or of DINO.
    """

    def __init__(self, features: Features) -> None:
        self._features = features

    def __call__(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
        return F.cosine_similarity(self._features(images), self._features(references), dim=-1).tolist()


class VQAScore:
    """Probability that a vision-language model answers "yes" when it is asked whether an image shows its prompt (Lin et al. 2024, eq. 1).

    Args:
        weights: folder or hub id of an image-text-to-text model with a chat template.
        device: where it goes.
        question: with {} for the prompt.
    """

    def __init__(self, weights: str, device: torch.device, question: str = 'Does this figure show "{}"? Please answer yes or no.') -> None:
        self._network, self._prepare = load_network(
            "a vision-language model", AutoModelForImageTextToText, AutoProcessor, weights, device, dtype="auto"
        )
        if getattr(self._prepare, "chat_template", None) is None:
            raise UserError(
                f"VQAScore asks in the form of a chat, and the processor of {weights} has no chat template: name other weights."
            )
        self._device, self._question = device, question
        tokens = [self._prepare.tokenizer.encode(answer, add_special_tokens=False)[0] for answer in YES]
        self._yes = sorted(set(tokens))

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [self._one(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _one(self, image: Image.Image, prompt: str) -> float:
        content = [{"type": "image"}, {"type": "text", "text": self._question.format(prompt)}]
        chat = self._prepare.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self._prepare(images=[image], text=[chat], return_tensors="pt").to(self._device, self._network.dtype)
        return float(self._network(**inputs).logits[0, -1].float().softmax(dim=-1)[self._yes].sum())


def frechet_distance(features: Features, images: Iterable[Sequence[Image.Image]], references: Iterable[Sequence[Image.Image]]) -> float:
    """FID between two sets of images (Heusel et al. 2017, section 4). Figures of different networks do not compare.

    Args:
        features: of any network.
        images: one set, in batches.
        references: the other set, in batches.

    Raises:
        UserError: a set has fewer than two images.
    """
    given: Any = nn.Identity()  # what torchmetrics is given are the features themselves
    given.num_features = features([Image.new("RGB", (64, 64))]).shape[-1]
    distance = FrechetInceptionDistance(feature=given)
    for real, batches in ((False, images), (True, references)):
        for batch in batches:
            distance.update(features(batch).cpu().double(), real=real)
    try:
        return float(distance.compute())
    except RuntimeError as error:
        raise UserError("FID compares two sets of at least two images each: give more images.") from error
