"""The command line before Hydra reads it: its grammar knows no letters but those of ASCII, and no group that is null."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\$\{[^}]*\}"""
PLAIN = re.compile(r"[\w/\-\\+.$%*@?|: \t]*", re.ASCII)
"""What the grammar takes without quotes."""


def for_hydra(arguments: Sequence[str], conf: Path) -> list[str]:
    """Arguments as Hydra's grammar takes them; what it takes as it is stays as it is.

    Args:
        arguments: what was typed, e.g. `names=[Katze,Bäume]` or `logger=null`.
        conf: folder of the configuration; a folder in it is a group, and a group that is null is left out.
    """
    return [_argument(argument, conf) for argument in arguments]


def _argument(argument: str, conf: Path) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-"):
        return argument
    if value.strip().lower() == "null" and "." not in key and (conf / key).is_dir():
        return f"~{key}"
    candidates = [argument, f"{key}={_quote_words(value)}"]
    if not value.startswith(("[", "{")):
        candidates.append(f"{key}={_quote(value)}")
    return next((candidate for candidate in candidates if _is_read(candidate)), argument)


def _is_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _quote_words(value: str) -> str:
    """Quotes around every word of a value, or of the lists and groups in it, that needs them."""
    ends = r",\[\]{}()" + (":" if "{" in value else "")
    word = rf"""[^\s'"{ends}](?:\\.|[^{ends}])*?(?=\s*(?:[{ends}]|$))"""

    def quoted(match: re.Match) -> str:
        return match[0] if match[1] is None or PLAIN.fullmatch(match[1]) else _quote(match[1])

    return re.sub(f"{QUOTED}|({word})", quoted, value)


def _quote(word: str) -> str:
    plain = re.sub(r"\\([()\[\]{}:=, \t\\])", r"\1", word)
    return "'" + plain.replace("'", r"\'") + "'"


def command_line() -> list[Override]:
    """What the command line of this Hydra application sets; nothing outside of one."""
    return OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []
