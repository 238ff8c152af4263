"""Class names as prompts, and the tokens that each name became."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from seg4diff.backbones.base import TextCondition
from seg4diff.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A prompt and where each class name stands in it.

    Attributes:
        text: the prompt.
        classes: class ids, in order.
        spans: for each class, the (start, end) characters of its name in `text`, one pair per mention.
    """

    text: str
    classes: list[int]
    spans: list[list[tuple[int, int]]]


def list_names(names: Sequence[str], classes: Sequence[int]) -> Prompt:
    """The prompt of the read-out: class names joined by spaces, no template (paper, section 3.4).

    Args:
        names: all names of the vocabulary.
        classes: ids of the classes to name, in this order.
    """
    text, spans = "", []
    for k in classes:
        start = len(text) + bool(text)
        text = f"{text} {names[k]}" if text else names[k]
        spans.append([(start, len(text))])
    return Prompt(text, list(classes), spans)


def find_names(caption: str, names: Sequence[str], classes: Sequence[int]) -> Prompt:
    """A caption as the prompt; classes whose name, singular or with a plural s, is not in it are left out.

    Longer names are found first, and a word belongs to one name only: "traffic light" is not a mention of "light".
    """
    taken = [False] * len(caption)
    found: dict[int, list[tuple[int, int]]] = {}
    for k in sorted(classes, key=lambda k: -len(names[k])):
        for match in re.finditer(rf"\b{re.escape(names[k])}(s|es)?\b", caption, flags=re.IGNORECASE):
            start, end = match.span()
            if not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.setdefault(k, []).append((start, end))
    kept = [k for k in classes if k in found]
    return Prompt(caption, kept, [found[k] for k in kept])


def token_sets(condition: TextCondition, row: int, prompt: Prompt) -> list[list[int]]:
    """Token positions of each class of a prompt: every piece of every mention.

    Positions come from the tokenizer's character offsets, so names that share a sub-word or repeat a word stay apart.
    """
    sets = []
    for k, spans in zip(prompt.classes, prompt.spans, strict=True):
        tokens = sorted({token for start, end in spans for token in condition.tokens_between(row, start, end)})
        if not tokens:
            raise UserError(f"class {k} of the prompt '{prompt.text[:60]}' became no token: give it a name the tokenizer knows.")
        sets.append(tokens)
    return sets
