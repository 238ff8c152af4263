"""Agreement of generated images with their prompts, for causal tests on a model of the toy world: the exact evaluator as a judge."""

from collections.abc import Sequence

from PIL import Image

from seg4diff.tiny.answers import answer
from seg4diff.tiny.find import find
from seg4diff.tiny.prompts import held_out_prompts


class ToyJudge:
    """Says of an image which share of what its prompt names is there.

    Args:
        prompts: number of held-out prompts; image number k of a test is drawn from prompt k modulo this.
        seed: seed of the prompts.
    """

    name = "presence"

    def __init__(self, *, prompts: int, seed: int) -> None:
        own = held_out_prompts(prompts, seed)
        self.prompts = [prompt.text for prompt in own]
        self._asked = {prompt.text: prompt for prompt in own}

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """For each image the share in [0, 1] of the things and the ground that its prompt, one of `prompts` of this judge, names."""
        return [answer(self._asked[prompt], find(image))["presence"] for image, prompt in zip(images, prompts, strict=True)]
