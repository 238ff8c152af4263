"""Prompts inside the chat template of a language model."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

PLACE = "<<the prompt>>"

Template = Callable[[str], str]
"""A prompt -> the text that the language model reads."""


def templated_offsets(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str) -> list[tuple[int, int]]:
    """For each token of the templated prompt the (start, end) characters of the prompt; (0, 0) for tokens of the template alone."""
    before = template(PLACE).index(PLACE)
    pairs = tokenizer(template(prompt), return_offsets_mapping=True)["offset_mapping"]
    clipped = [(max(start - before, 0), min(end - before, len(prompt))) for start, end in pairs]
    return [(start, end) if start < end else (0, 0) for start, end in clipped]
