"""The next command in a message, completed by what this command was given, so that it can be pasted."""

from __future__ import annotations

import re
import shlex

import click
from click.core import ParameterSource

_SHOWN = re.compile(r"`(bert2ctc) ([^`]+)`")
_GIVEN = "bert2ctc.given"


def remember_what_was_given() -> None:
    """Keep the running command's context for `completed`, which is asked when the command is over."""
    context = click.get_current_context()
    context.meta[_GIVEN] = context


def completed(message: str, context: click.Context | None) -> str:
    """The message, where each command between backticks has this command's config, settings and roots.

    A config, with its overrides, is added where the shown command takes one and names none; a root where this
    command was given one as an option. What is no command of ours stays as it is.
    """
    given = context.meta.get(_GIVEN) if context else None
    if given is None:
        return message
    return _SHOWN.sub(lambda shown: f"`{shown[1]} {_completed(shown[2], given)}`", message)


def _completed(shown: str, given: click.Context) -> str:
    try:
        words = shlex.split(shown)
    except ValueError:
        return shown
    command: click.Command = given.find_root().command
    rest = list(words)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    if isinstance(command, click.Group):
        return shown
    try:
        target = command.make_context("", rest, resilient_parsing=True)
    except click.ClickException:
        return shown
    extra = [*_config(target, given), *_roots(target, given)]
    return shlex.join([*words, *extra]) if extra else shown


def _config(target: click.Context, given: click.Context) -> list[str]:
    config = given.params.get("config") or given.params.get("config_reference")
    if not config:
        return []
    if target.get_parameter_source("config_reference") == ParameterSource.DEFAULT:
        return [] if target.params.get("subsets") else ["--config", config]
    is_argument = any(
        isinstance(taken, click.Argument) and taken.name == "config" for taken in target.command.params
    )
    if not is_argument or target.get_parameter_source("config") != ParameterSource.DEFAULT:
        return []
    overrides = given.params.get("overrides", ()) if "overrides" in target.params else ()
    return [config, *(word for override in overrides for word in ("--set", override))]


def _roots(target: click.Context, given: click.Context) -> list[str]:
    return [
        word
        for name, value in given.params.items()
        if name.endswith("_root") and value is not None and target.params.get(name, value) is None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
