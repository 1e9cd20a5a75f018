"""A planted fault and the command that meets it; what a verdict on the command is made of."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click

from pipeline.cli import main

LIMIT_SECONDS = 120.0  # what takes longer hangs; times how busy the core is, see `--patience`
MAX_LINE_CHARACTERS = 2000
SHOWN = re.compile(r"`(bert2ctc [^`]*)`")
# What any command may leave: its own record of how it ended, locks, and what a next run throws away
_MAY_CHANGE = (
    "*/run.json", "*/.lock", "*/log.txt", "scratch/*", "*.bad-items.tsv", "*/.building/*", "*/tensorboard/*",
    "*/cache.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended; code : None where it was ended because it hung."""

    code: int | None
    output: str
    errors: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.errors.splitlines() if line.startswith("Error: ")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault before one command.

    command : words behind `bert2ctc`; {folder} is where it stands     plant : what is done to a sound state
    code : the right one     told : what its one line must hold; of a command that ends well, its output
    is_listed : the command prints faults as its result, as `verify` does of what it could open at all
    may_write : patterns of files, relative to the state, that the command may make or change
    sent : a signal and after how many seconds it is sent     never_told : what no line may hold
    other_codes : as right as `code`, where the moment decides
    """

    group: int
    fault: str
    command: str
    plant: Callable[[Path], object] = lambda folder: None
    code: int = 1
    told: str = ""
    is_listed: bool = False
    may_write: tuple[str, ...] = ()
    sent: tuple[signal.Signals, float] | None = None
    never_told: str = ""
    other_codes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.group} {self.fault} | {self.command}"

    def words(self, folder: Path) -> list[str]:
        return [word.replace("{folder}", str(folder)) for word in shlex.split(self.command)]

    def looked_at(self, folder: Path) -> dict[str, Facts]:
        """What `faults` compares with afterwards: taken when the fault is planted."""
        return snapshot(folder)

    def faults(self, outcome: Outcome, before: dict[str, Facts], folder: Path) -> list[str]:
        """What is wrong with the way in which the command ended, in words; [] where nothing is."""
        both = outcome.output + outcome.errors
        is_right = outcome.code in (self.code, *self.other_codes)
        found = [] if is_right else [f"code {outcome.code}, not {self.code}"]
        if outcome.code is None:
            found = ["it hangs"]
        if "Traceback" in both:
            found.append("a traceback")
        count = len(outcome.error_lines)
        if not (count <= 1 if self.is_listed else count == (self.code != 0)):
            found.append(f"{count} error lines, not {int(self.code != 0)}")
        if any(len(line) > MAX_LINE_CHARACTERS for line in outcome.error_lines):
            found.append("an endless line")
        told = " ".join(outcome.error_lines) if count else both
        if self.told and self.told not in told:
            found.append(f"nothing of {self.told!r}")
        if self.never_told and self.never_told in both:
            found.append(f"it speaks of {self.never_told!r}")
        if any(not character.isprintable() and character not in "\n\t" for character in both):
            found.append("it speaks to the terminal")
        found += [fault for shown in SHOWN.findall(both) for fault in _unusable(shown)]
        return found + list(_written(before, snapshot(folder), self.may_write))


class Facts(NamedTuple):
    """What shows that a file was written."""

    size: int
    modified_ns: int
    mode: int


def snapshot(folder: Path) -> dict[str, Facts]:
    """Every file below a folder; links are not followed."""
    found: dict[str, Facts] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            facts = os.lstat(path)
            found[os.path.relpath(path, folder)] = Facts(facts.st_size, facts.st_mtime_ns, facts.st_mode)
    return found


def _written(before: dict[str, Facts], after: dict[str, Facts], allowed: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        is_new_and_empty = name not in before and after[name].size == 0  # a log without a line
        if before.get(name) == after.get(name) or is_new_and_empty:
            continue
        if name.endswith(".partial") or not any(
            fnmatch.fnmatch(name, pattern) for pattern in (*_MAY_CHANGE, *allowed)
        ):
            how = "left" if name not in before else "changed" if name in after else "removed"
            yield f"{name} was {how}"


def _unusable(shown: str) -> Iterator[str]:
    """Why a command that a line shows cannot be pasted."""
    try:
        words = shlex.split(shown)[1:]
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)
    except (click.ClickException, ValueError, LookupError) as error:
        yield f"`{shown}` cannot be pasted ({error})"
