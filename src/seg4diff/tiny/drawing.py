"""Draw held-out prompts of the toy world, and answer what each image shows of its prompt."""

from collections.abc import Container, Iterator, Mapping, Sequence

from seg4diff.backbones.base import Backbone
from seg4diff.errors import UserError
from seg4diff.generation.requests import Request, Sampling, batches
from seg4diff.generation.sampler import draw
from seg4diff.tiny.answers import Answers, answer
from seg4diff.tiny.find import find
from seg4diff.tiny.prompts import ToyPrompt

ImageId = tuple[str, int]
"""Which image: its prompt and the seed of its noise."""


def images_of(prompts: Sequence[ToyPrompt], seeds: int) -> list[ImageId]:
    """The images of a measurement: every prompt once, then every prompt again with other noise; no two images share their noise.

    Args:
        prompts: the prompts.
        seeds: images of each prompt.

    Raises:
        UserError: there is no image.
    """
    if seeds < 1:
        raise UserError(f"`seeds` must be at least 1, found {seeds}.")
    return [(prompt.text, turn * len(prompts) + k) for turn in range(seeds) for k, prompt in enumerate(prompts)]


def answers_of(
    backbone: Backbone,
    prompts: Sequence[ToyPrompt],
    seeds: int,
    sampling: Sampling,
    *,
    scale: float | None,
    at_once: int,
    known: Container[ImageId] = (),
) -> Iterator[tuple[ImageId, Answers]]:
    """Draw the images that are not known, one batch after the other, and answer each.

    Args:
        backbone: the model.
        prompts: the prompts.
        seeds: images of each prompt.
        sampling: how images are sampled.
        scale: factor on the LoRA, see `Request`.
        at_once: images that are drawn together; who is in a batch does not depend on what is known.
        known: images that are left out.
    """
    asked = {prompt.text: prompt for prompt in prompts}
    requests = [Request(text, seed, scale) for text, seed in images_of(prompts, seeds)]
    missing = [batch for batch in batches(requests, at_once) if any((one.prompt, one.seed) not in known for one in batch)]
    whole = [one for batch in missing for one in batch]
    for drawn in draw(backbone, whole, sampling, None, at_once=at_once, share=(0, 1)):
        if (drawn.prompt, drawn.seed) not in known:
            yield (drawn.prompt, drawn.seed), answer(asked[drawn.prompt], find(drawn.image))


def by_prompt(answers: Mapping[ImageId, Answers], prompts: Sequence[ToyPrompt], seeds: int) -> list[list[Answers]]:
    """For each prompt the answers of its images, one per seed: what `means`, `intervals` and `gains` take."""
    images = images_of(prompts, seeds)
    return [[answers[image] for image in images[k :: len(prompts)]] for k in range(len(prompts))]
