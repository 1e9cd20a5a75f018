"""Chains of commands side by side, each command a process: one failure or signal stops all cleanly."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.console import say
from pipeline.jobs.display import Tell, told_apart
from pipeline.jobs.places import Place
from pipeline.processes import (
    REUSED,
    CommandFailed,
    exit_code_of_chain,
    is_reused,
    program_of,
    result_of,
    signals_held_back,
)
from student.signals import REQUEUE_EXIT_CODE, STOP_SIGNALS, StopRequest, stop_on_signals

_LOOK_SECONDS = 0.2
# What was asked to stop ends with these; with any other code it failed by itself, while saving perhaps.
_STOPPED_CODES = {REQUEUE_EXIT_CODE, *(code for one in STOP_SIGNALS for code in (-one, 128 + one))}


@dataclass(frozen=True, slots=True)
class Later:
    """An argument that is known once another chain has ended: an entry of its last command's result."""

    chain: str
    key: str


Command = Sequence[str | Later]  # the arguments of `bert2ctc`
Chain = Sequence[Command]  # commands that run one after the other
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of each chain's commands, by the chain's name


def known(command: Command, results: Results) -> list[str]:
    """The command's arguments once all that it waits for has ended."""
    return [str(results[part.chain][-1][part.key]) if isinstance(part, Later) else part for part in command]


def run_side_by_side(
    chains: Mapping[str, Chain],
    places: Sequence[Place],
    after: Mapping[str, Sequence[str]] | None = None,
    ended: Results | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The results of each chain's commands by its name, as many chains at a time as there are places.

    after : chain -> the chains above it that must have ended before it begins     ended : the results of
    chains that have ended before
    The first command that fails, a queue's signal or Ctrl-C stops all: trainings save a checkpoint first.
    Raises CommandFailed, with 75 after a queue's signal, that names what failed and what was stopped;
    KeyboardInterrupt after Ctrl-C, at once after a second one.
    """
    with stop_on_signals() as stop, told_apart() as tell:
        pool = _Pool(chains, places, tell, after or {}, ended or {})
        try:
            pool.run(stop)
        finally:
            pool.end()  # nothing runs here any more, unless after a second Ctrl-C or a fault of our own
    if not pool.unfinished:
        return pool.results
    if pool.failed:
        raise _failure(pool)
    if stop.signal_number == signal.SIGINT:
        say(f"Ctrl-C: {', '.join(pool.unfinished)} stopped, trainings with a checkpoint")
        raise KeyboardInterrupt
    raise CommandFailed(
        f"{stop.name}: {', '.join(pool.unfinished)} stopped, trainings with a checkpoint; "
        "the same command goes on from there",
        REQUEUE_EXIT_CODE,
    )


def _failure(pool: _Pool) -> CommandFailed:
    ends = [
        f"{name} ended with code {code} in `bert2ctc {shlex.join(arguments)}`"
        for name, (code, arguments) in pool.failed.items()
    ]
    others = ", ".join(name for name in pool.unfinished if name not in pool.failed)
    stopped = f"stopped at a checkpoint, or not begun: {others}; " if others else ""
    codes = {exit_code_of_chain(code) for code, _ in pool.failed.values()}
    return CommandFailed(
        f"{', '.join(ends)}; the reason stands above; {stopped}"
        "what was finished is kept, run the same command again to go on",
        max(codes) if len(codes) == 1 else 1,
    )


class _Pool:
    """All chains: those that wait, those at work, and how the others ended."""

    def __init__(
        self,
        chains: Mapping[str, Chain],
        places: Sequence[Place],
        tell: Tell,
        after: Mapping[str, Sequence[str]],
        ended: Results,
    ) -> None:
        self.results: dict[str, list[dict[str, Any]]] = {}
        self._ended: dict[str, Sequence[Mapping[str, Any]]] = dict(ended)  # before, and here
        self.failed: dict[str, tuple[int, Sequence[str]]] = {}
        self._chains, self._tell, self._after = chains, tell, after
        self._waiting, self._free = list(chains), list(reversed(places))
        self._at_work: list[_Worker] = []
        self._is_stopping = False

    @property
    def unfinished(self) -> list[str]:
        """Names of the chains without all their results."""
        return [name for name in self._chains if name not in self.results]

    def run(self, stop: StopRequest) -> None:
        """Until all have ended: well, or because one failed or a stop was asked for."""
        while self._at_work or (self._waiting and not self._is_stopping):
            if (stop or self.failed) and not self._is_stopping:
                self.ask_to_stop()
            while self._free and not self._is_stopping and (name := self._next_ready()):
                self._waiting.remove(name)
                chain = [known(command, self._ended) for command in self._chains[name]]
                self._at_work.append(_Worker(name, chain, self._free.pop(), self._tell))
            self._look()

    def _next_ready(self) -> str | None:
        """The first that waits for no other chain."""
        for name in self._waiting:
            if all(earlier in self._ended for earlier in self._after.get(name, ())):
                return name
        return None

    def end(self) -> None:
        """Nothing of ours runs afterwards."""
        self.ask_to_stop()
        while self._at_work:
            self._look()

    def ask_to_stop(self) -> None:
        """SIGTERM to all that run, after Ctrl-C too: a second SIGINT would keep a training from saving."""
        self._is_stopping = True
        for worker in self._at_work:
            worker.process.terminate()

    def _look(self) -> None:
        _wait_for_lines(self._at_work)
        for worker in list(self._at_work):
            worker.tell_lines()
            code = worker.process.poll()
            if code is not None:
                self._at_work.remove(worker)
                self._free.append(worker.place)
                worker.finish(code)
                self._go_on(worker, code)

    def _go_on(self, worker: _Worker, code: int) -> None:
        """The chain's next command at once, before others, where this one ended well."""
        if code != 0:
            if not self._is_stopping or code not in _STOPPED_CODES:
                self.failed[worker.name] = code, worker.arguments
        elif not worker.commands:
            self.results[worker.name] = self._ended[worker.name] = worker.results
        elif not self._is_stopping:
            self._free.remove(worker.place)
            worker.start_next()
            self._at_work.append(worker)


class _Worker:
    """A chain at its place: the command that runs, those that follow, the results of those before."""

    def __init__(self, name: str, chain: Sequence[Sequence[str]], place: Place, tell: Tell) -> None:
        self.name, self.place, self._tell = name, place, tell
        self.commands, self.results = deque(chain), list[dict[str, Any]]()
        self.start_next()

    def start_next(self) -> None:
        self.arguments = self.commands.popleft()
        self._tell(self.name, f"$ bert2ctc {shlex.join(self.arguments)}")
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8")  # a pipe would have to be emptied
        with signals_held_back():
            self.process = subprocess.Popen(
                program_of(self.arguments),
                stdout=self._output,
                stderr=subprocess.PIPE,
                env={**os.environ, **self.place.environment},
            )
        self.place.take(self.process.pid)
        assert self.process.stderr is not None
        self.lines, self._rest, self.has_more = self.process.stderr, b"", True
        os.set_blocking(self.lines.fileno(), False)

    def tell_lines(self) -> None:
        """What it has said since the last time, in whole lines."""
        try:
            while said := os.read(self.lines.fileno(), 65_536):
                *whole, self._rest = (self._rest + said).split(b"\n")
                for line in whole:
                    self._tell_line(line)
            self.has_more = False
        except BlockingIOError:
            pass

    def _tell_line(self, line: bytes) -> None:
        if text := line.decode(errors="replace").strip():
            self._tell(self.name, text)

    def finish(self, code: int) -> None:
        """Close what the ended command wrote to; its result, where it ended well."""
        self.tell_lines()
        self._tell_line(self._rest)
        self.lines.close()
        with self._output:
            if code == 0:
                self._output.seek(0)
                self.results.append(result_of(self.arguments, self._output.read()))
                if is_reused(self.results[-1]):
                    self._tell(self.name, REUSED)
        self._tell(self.name, "")


def _wait_for_lines(workers: Sequence[_Worker]) -> None:
    """Until one of them says something, or for a moment: signals and ends are seen between two looks."""
    pipes = [worker.lines for worker in workers if worker.has_more]
    if pipes:
        select.select(pipes, [], [], _LOOK_SECONDS)
    else:
        time.sleep(_LOOK_SECONDS)
