"""What a page shows as a command line, held against the commands, settings and targets that there are."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import dask

from pipeline.cli import main
from pipeline.config import CONFIG_FOLDER, load_config
from pipeline.corpus.openslr import SUBSETS
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import load_ladder, trainings_of
from pipeline.paths import Roots
from teacher_cache.build.cluster import CLUSTER_SETTINGS, WORKER_ENVIRONMENT

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem for path in CONFIG_FOLDER.glob("*.toml")}
PLACEHOLDERS = {"CONFIG": "demo", "RUN": "demo", "COMMAND": "train"}
SHARED = ["s3://BUCKET/PREFIX", "https://HOST/PREFIX"]


class PageFault(AssertionError):
    """A page shows what is not so."""


def check_line(words: Sequence[str], is_whole: bool = True) -> None:
    """PageFault where a command line names what does not exist.

    is_whole : False where a page's prose names a command without its arguments
    """
    try:
        _check_line(list(words), is_whole)
    except click.MissingParameter as error:
        if is_whole:
            raise PageFault(f"{shlex.join(words)}: {error.format_message()}") from None
    except (click.ClickException, PipelineError) as error:
        reported = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise PageFault(f"{shlex.join(words)}: {reported}") from None


def _check_line(words: list[str], is_whole: bool) -> None:
    if words[0] == "export":
        for assignment in words[1:]:
            _check_variable(*assignment.split("=", 1))
    elif words[0] == "bert2ctc":
        _check_bert2ctc(words[1:])
    elif words[0] == "make":
        _check_make(words[1:])
    elif words[0] == "dask":
        (entry,) = entry_points(group="dask_cli", name=words[1]) or (None,)
        if entry is None:
            raise PageFault(f"dask has no command {words[1]}")
        entry.load().make_context(words[1], words[2:])
    else:
        raise PageFault(f"{words[0]}: no program that these pages may show")


def _check_variable(name: str, value: str) -> None:
    if name in {f"BERT2CTC_{root.name.upper()}" for root in dataclasses.fields(Roots)}:
        return
    if name.startswith("DASK_"):
        ((key, parsed),) = _flat(dask.config.collect_env({name: value}))
        missing = object()
        if dask.config.get(key, missing) is missing or CLUSTER_SETTINGS.get(key, parsed) != parsed:
            raise PageFault(f"{name}={value}: no setting of Dask's, or not what a build sets")
    elif WORKER_ENVIRONMENT.get(name) != value:
        raise PageFault(f"{name}={value}: not what a build gives its workers")


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _check_bert2ctc(arguments: list[str]) -> None:
    """Parse as click would, without running; then look at the values."""
    command: click.Command = main
    path = []
    while isinstance(command, click.Group):
        if not arguments or (inner := command.commands.get(arguments[0])) is None:
            if arguments and arguments[0] in PLACEHOLDERS:
                return
            raise PageFault(f"bert2ctc {shlex.join([*path, *arguments[:1]])}: no such command")
        path.append(arguments[0])
        command, arguments = inner, arguments[1:]
    try:
        values = command.make_context(" ".join(path), list(arguments)).params
    except click.exceptions.Exit:  # --help
        return
    overrides = values.get("overrides", ())
    for name in ("config", "config_reference"):
        if values.get(name):
            load_config(PLACEHOLDERS.get(values[name], values[name]), overrides)
    if "ladder" in values:
        trainings_of(load_ladder(values["ladder"]), overrides)
    for subset in values.get("subsets", ()):
        if subset not in SUBSETS:
            raise PageFault(f"{subset}: no subset of LibriSpeech")
    known = {*CONFIGS, *PLACEHOLDERS, "FINGERPRINT", *SHARED}
    if path[0] == "cache" and values.get("reference", "CONFIG") not in known:
        raise PageFault(f"{values['reference']}: no config whose cache could be meant")
    if path == ["evaluate"]:
        splits = load_config(PLACEHOLDERS.get(values["run"], values["run"])).data.splits
        if unknown := set(values["splits"]) - set(splits):
            raise PageFault(f"{values['run']} has no split {', '.join(unknown)}")


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for word in words:
        name, is_set, _ = word.partition("=")
        if name not in (variables if is_set else targets):
            raise PageFault(f"make {word}: no such {'variable' if is_set else 'target'}")
    own = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", *variables}  # this may run under `make test`
    environment = {name: value for name, value in os.environ.items() if name not in own}
    reported = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if reported.returncode:
        raise PageFault(f"make {shlex.join(words)}: {reported.stderr}")
    for line in reported.stdout.splitlines():
        if line.startswith(".venv/bin/bert2ctc "):
            _check_bert2ctc(shlex.split(line)[1:])
