"""Every command and every key=value that README and docs show is understood: composed or parsed, and not run."""

import re
import shlex
from importlib.util import find_spec

import pytest
import typer
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from seg4diff.commands.arguments import for_hydra
from seg4diff.commands.cli import app
from seg4diff.commands.expert import AUTO
from seg4diff.commands.values import check_values
from tests.conf import CONF, keys
from tests.conftest import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md")), REPO / "assets" / "tiny-sd3" / "README.md"]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
SCRIPT, CONSOLE = r"(?:python|srun python|torchrun .*?) (train|evaluate|analyze)\.py(.*)", r"(?:python -m )?(seg4diff) (\S+ .+)"
COMMAND = re.compile(rf"(?:\$ |\w+=\S+ )*(?:{SCRIPT}|{CONSOLE}|(make) (\w+)|(python -m) (\S+).*|(python -c) (.+))")
PAIR = re.compile(r"[+~]{0,2}([\w./@]+)=.*")


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page)


def commands(page: str) -> list[tuple[str, str]]:
    """(program, its arguments) of each line of a shell block, and each code span, that is a command."""
    blocks = "".join(code for language, code in FENCE.findall(page) if language in ("", "bash", "console"))
    lines = [re.sub(r"\s+#.*| &$", "", line).strip() for line in blocks.replace("\\\n", " ").splitlines()]
    found = map(COMMAND.fullmatch, [*lines, *SPAN.findall(prose(page))])
    return [tuple(part.strip() for part in match.groups() if part is not None) for match in found if match]


def words(arguments: str) -> list[str]:
    """Arguments as a shell splits them: what a reader fills in is a name, and what ends in ... is left to him."""
    given = [word for word in shlex.split(re.sub(r"<[^<>]+>", "<>", arguments)) if not word.endswith("...")]
    return [word.replace("<>", "name") for word in given if not (word.endswith("=<>") and (CONF / word[:-3]).is_dir())]


def first_run(argument: str) -> str:
    """An argument of a sweep as its first run has it."""
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return argument
    first = next(override.sweep_string_iterator()) if override.is_discrete_sweep() else override.value().start
    return f"{override.key_or_group}={first}"


def understand(program: str, arguments: str) -> None:
    """Read a command as its program does; raises for what it does not know."""
    given = words(arguments)
    if program in ("train", "evaluate", "analyze"):
        typed = [first_run(word) for word in for_hydra([word for word in given if word not in ("-m", "--help")], CONF)]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(program, typed, return_hydra_config=(hydra := any(word.startswith("hydra") for word in typed)))
        if not hydra:
            if config.expert_layer == AUTO:
                config.expert_layer = 0  # the program asks a stored analysis first
            check_values(config)
    elif program == "seg4diff" and "--help" not in given:
        typer.main.get_command(app).commands[given[0]].make_context(given[0], given[1:])
    elif program == "make":
        assert f"\n{arguments}:" in (REPO / "Makefile").read_text()
    elif program == "python -c":
        compile(given[0], "page", "exec")
    elif program == "python -m":
        assert find_spec(arguments) is not None, f"there is no module {arguments}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_commands_are_understood(page):
    for program, arguments in dict.fromkeys(commands(page.read_text(encoding="utf-8"))):
        understand(program, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_keys_that_are_shown_exist(page):
    spans = [span.split() for span in SPAN.findall(prose(page.read_text(encoding="utf-8")))]
    pairs = [PAIR.fullmatch(word) for span in spans for word in span if all(map(PAIR.fullmatch, span))]
    groups = {key.partition(".")[0] for key in keys()} - {"hydra"}  # whose plugins have keys of their own
    named = {pair[1] for pair in pairs if pair[0][0] != "+" and pair[1].partition(".")[0] in groups}
    assert named <= keys()


@pytest.mark.parametrize(
    ("program", "arguments", "odd"),
    [("train", "model.lrr=1", "lrr"), ("evaluate", "ckpt=base data=vocc", "vocc"), ("seg4diff", "segment a.jpg --blok 3", "blok")],
)
def test_what_no_program_knows_is_noticed(program, arguments, odd):
    with pytest.raises(Exception, match=odd):
        understand(program, arguments)


def test_commands_are_found_in_blocks_and_spans():
    page = "```\n$ python train.py a=1 \\\nb=2   # both\n```\nAs `seg4diff check x`, not `seg4diff check`.\n```python\nseg4diff x y\n```\n"
    assert commands(page) == [("train", "a=1  b=2"), ("seg4diff", "check x")]
