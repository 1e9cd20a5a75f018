"""Every command that a message names can be pasted: it is one of ours, whole, and its paths are quoted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from shown_commands import PageFault, check_line

from pipeline.cli import main

ROOT = Path(__file__).parents[1]
SHOWN = re.compile(r"`((?:bert2ctc|make) [^`]*)`")
FIELD = "FIELD"  # stands for what an f-string puts there


class Message(NamedTuple):
    """A text of the source outside docstrings; `fields` are the expressions of its f-string, in order."""

    location: str
    text: str
    fields: list[str]


def messages() -> list[Message]:
    files = [
        path for name in ("pipeline", "student", "teacher_cache") for path in (ROOT / name).rglob("*.py")
    ]
    return [message for path in sorted(files) for message in messages_of(path.read_text("utf-8"), str(path))]


def messages_of(source: str, file: str = "") -> Iterator[Message]:
    tree = ast.parse(source)
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        location = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Message(location, node.value, [])
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else FIELD for part in node.values]
            fields = [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]
            yield Message(location, "".join(map(str, parts)), fields)


def check(message: Message) -> int:
    """PageFault for a command that cannot be pasted; how many commands the message shows."""
    found = list(SHOWN.finditer(message.text))
    for shown in found:
        before = message.text[: shown.start()].count(FIELD)
        fields = message.fields[before : before + shown[1].count(FIELD)]
        if "..." in shown[1]:
            raise PageFault(f"{message.location}: `{shown[1]}` has literal dots")
        for field in fields:
            if not field.startswith(("shlex.quote(", "shlex.join(")):
                raise PageFault(f"{message.location}: `{shown[1]}` shows {field} without shlex.quote")
        parse(shlex.split(shown[1]), message.location)
    return len(found)


def parse(words: list[str], location: str) -> None:
    if words[1] == FIELD:  # a command that was given, shown again
        return
    if words[0] == "make":
        check_line(words)
        return
    command: click.Command = main
    for number, word in enumerate(words[1:], start=2):
        if isinstance(command, click.Group):
            if word not in command.commands:
                raise PageFault(f"{location}: `{shlex.join(words)}`: no command {word}")
            command, rest = command.commands[word], words[number:]
    if isinstance(command, click.Group):
        raise PageFault(f"{location}: `{shlex.join(words)}` is a group of commands")
    try:
        command.make_context(command.name, rest)
    except click.ClickException as error:
        raise PageFault(f"{location}: `{shlex.join(words)}`: {error.format_message()}") from None


def test_every_command_in_a_message_can_be_pasted() -> None:
    faults, count = [], 0
    for message in messages():
        try:
            count += check(message)
        except PageFault as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)
    assert count > 25


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('f"mend it: `bert2ctc data prepare ... --leave-out-bad`"', "literal dots"),
        ('f"see `bert2ctc cache verify {path}`"', "without shlex.quote"),
        ('"see `bert2ctc cache verify`"', "Missing argument"),
        ('"use `bert2ctc data download --config`"', "requires an argument"),
        ('"see `bert2ctc cache" " biuld`"', "no command biuld"),
        ('"see `bert2ctc cache`"', "group of commands"),
        ('"run `make trian`"', "no such target"),
    ],
)
def test_a_message_that_cannot_be_pasted_is_seen(source: str, reason: str) -> None:
    (message,) = messages_of(f"raise PipelineError({source})")
    with pytest.raises(PageFault, match=reason):
        check(message)
    (docstring,) = ast.parse(source).body
    assert list(messages_of(ast.unparse(docstring))) == []


def shown_by(*arguments: str) -> list[str]:
    """The words of the command that the one line of a failing command shows."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.output
    (shown,) = SHOWN.findall(done.stderr)
    return shlex.split(shown)


@pytest.fixture
def own_config(tmp_path: Path) -> Path:
    """A config in a folder whose name has to be quoted."""
    folder = tmp_path / "of mine & more"
    folder.mkdir()
    (folder / "own.toml").write_text('base = "demo"\n', encoding="utf-8")
    return folder / "own.toml"


def test_the_next_command_has_the_config_the_settings_and_the_roots_of_this_one(own_config: Path) -> None:
    folder = own_config.parent
    given = ["--set", "trainer.seed=3", "--cache-root", str(folder / "caches")]
    runs = ["--runs-root", str(folder / "runs")]
    shown = shown_by("train", str(own_config), *given, *runs)
    expected = ["bert2ctc", "cache", "build", str(own_config), *given, *runs]
    assert sorted(shown) == sorted(expected) and shown[:4] == expected[:4]
    data = ["--data-root", str(folder)]
    shown = shown_by(*shown[1:], *data)
    expected = ["bert2ctc", "data", "prepare", str(own_config), *given[:2], *runs, *data]
    assert sorted(shown) == sorted(expected) and shown[:4] == expected[:4]
    assert shown_by(*shown[1:]) == ["bert2ctc", "data", "demo", str(own_config), *given[:2], *data]


def test_what_downloads_names_the_config(own_config: Path) -> None:
    own_config.write_text('base = "librispeech-100"\n', encoding="utf-8")
    where = ["--data-root", str(own_config.parent)]
    expected = ["bert2ctc", "data", "download", "--config", str(own_config), *where]
    assert (
        shown_by("data", "prepare", str(own_config), *where, "--runs-root", str(own_config.parent))
        == expected
    )
    assert shown_by("data", "demo", str(own_config), *where) == expected


def test_a_cache_that_no_config_is_called_after_asks_for_config(tmp_path: Path) -> None:
    from synthetic_cache import make, passages_named, plan_of

    path = make(tmp_path, plan_of(passages_named(2)))
    done = CliRunner().invoke(main, ["cache", "verify", str(path), "--recompute", "1%"])
    assert done.exit_code == 1 and "said with --config" in done.stderr and done.stderr.count("\n") == 1
