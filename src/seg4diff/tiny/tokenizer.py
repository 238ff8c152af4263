"""A small CLIP tokenizer built from a list of words: each word is one token, any other text falls apart into shorter pieces."""

from collections.abc import Iterable

from transformers import CLIPTokenizer

END_OF_WORD = "</w>"


def byte_characters() -> list[str]:
    """The 256 printable stand-ins of the byte-level alphabet, in GPT-2's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(len(rest))]


def build_clip_tokenizer(words: Iterable[str], max_length: int) -> CLIPTokenizer:
    """Byte-level BPE in the format of CLIP.

    Merges are ranked in the order of the words, and a later merge can only join pieces that all earlier ones left apart, so
    every word of the list ends as exactly one token.

    Args:
        words: lower-case ASCII words.
        max_length: number of positions, start and end token included.
    """
    alphabet = byte_characters()
    vocabulary = {piece: k for k, piece in enumerate([*alphabet, *(char + END_OF_WORD for char in alphabet)])}
    merges: list[tuple[str, str]] = []
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _split(word, ranks)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            ranks[pair] = len(merges)
            merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
            pieces = _split(word, ranks)
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Apply the merges so far to one word, lowest rank first."""
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    while True:
        known = [(ranks[pair], k) for k, pair in enumerate(zip(pieces, pieces[1:], strict=False)) if pair in ranks]
        if not known:
            return pieces
        k = min(known)[1]
        pieces[k : k + 2] = ["".join(pieces[k : k + 2])]
