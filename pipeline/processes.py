"""Commands as a user would type them, each in a process of its own, and torchrun for several processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.console import say
from pipeline.errors import PipelineError
from pipeline.interruption import exit_code_of
from student.signals import CTRL_C_EXIT_CODE, REQUEUE_EXIT_CODE, STOP_SIGNALS, exit_code_after, heeded
from teacher_cache.common.small_files import parse_object
from teacher_cache.common.typed import Fault
from teacher_cache.settings import shown_value

_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_LONGEST_DEAFNESS_SECONDS = 1.0
# Asked for, or the signal ended it before it could save: at once, or in a line of its own
_START_AGAIN = {REQUEUE_EXIT_CODE, *(code for n in _PASSED_ON for code in (-n, exit_code_of(n)))}


REUSED = "done before, from equal inputs: reused"


class CommandFailed(PipelineError):
    """A command of a chain did not do its part; exit_code : 75 where a queue may start the chain again."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def program_of(arguments: Sequence[str]) -> list[str]:
    """`bert2ctc ARGUMENTS --json` as a program and its arguments."""
    return [sys.executable, "-m", "pipeline", *arguments, "--json"]


@contextmanager
def signals_held_back() -> Iterator[None]:
    """For the start of a program of ours, which inherits it: signals wait until its first line runs.

    Until then Python would answer SIGINT with a traceback, and the others with nothing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_code_of_chain(code: int) -> int:
    """What a chain ends with whose command ended with `code`: 75 where a queue may start it again, else 1."""
    return REQUEUE_EXIT_CODE if code in _START_AGAIN else 1


def result_of(arguments: Sequence[str], output: str) -> dict[str, Any]:
    """The JSON object that a command printed. Raises PipelineError where it printed something else."""
    try:
        return parse_object(output)
    except Fault as fault:
        raise PipelineError(
            f"`bert2ctc {shlex.join(arguments)}` printed no JSON object, its output {fault}: "
            f"{shown_value(output)}; run it alone"
        ) from None


def is_reused(result: Mapping[str, Any]) -> bool:
    """Whether a command found done what it was asked for."""
    return bool(result.get("is_reused") or result.get("already_finished"))


def run_command(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The result of `bert2ctc ARGUMENTS --json`, run in a process of its own that shares our standard error.

    environment : variables that it gets beside ours

    A process each keeps stages as separate as they are for a user: the student's never loads transformers.
    Raises PipelineError where it fails; a queue's signals reach it first, so that it can save,
    and its code 75 becomes ours.
    """
    say("")
    say(f"$ bert2ctc {shlex.join(arguments)}")
    code, output = _run(program_of(arguments), {**os.environ, **(environment or {})})
    if code != 0:
        raise CommandFailed(
            f"`bert2ctc {shlex.join(arguments)}` ended with code {code}; "
            "its reason stands above; what was finished is kept, run the same command again to go on",
            exit_code_of_chain(code),
        )
    result = result_of(arguments, output)
    if is_reused(result):
        say(REUSED)
    return result


def _output(process: subprocess.Popen[str]) -> str:
    """All that it prints until it ends.

    Python runs signal handlers between two steps of the main thread alone: one that waited for ever would
    not hear of a signal that the kernel gave to another thread.
    """
    while True:
        try:
            return process.communicate(timeout=_LONGEST_DEAFNESS_SECONDS)[0]
        except subprocess.TimeoutExpired:
            pass


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The code and the standard output of a program; signals that ask us to stop are passed on to it."""
    process: subprocess.Popen[str] | None = None
    early: list[int] = []  # signals that came before there was a process to pass them on to

    def pass_on(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in heeded(_PASSED_ON)}
    try:
        with signals_held_back():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for number in early:
            process.send_signal(number)
        output = _output(process)
        return process.returncode, output
    except KeyboardInterrupt:
        if process is not None:
            process.communicate()  # the terminal's signal reached the child too; it saves before it ends
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def launch_ranks(
    arguments: Sequence[str], num_ranks: int, program: Sequence[str] = (sys.executable, "-m", "pipeline")
) -> int:
    """Run `bert2ctc ARGUMENTS` once per rank on this machine; the exit code that a single process had given.

    A queue's SIGTERM or SIGUSR1, and a closed terminal's SIGHUP, reaches every rank, which saves and ends:
    75. torchrun's own code is 1 for whatever happens.
    """
    if num_ranks < 1:
        raise PipelineError(f"--gpus {num_ranks}: at least 1; leave it out for one process")
    # PyTorch loads only where processes are started
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    signals = ",".join(number.name for number in heeded(STOP_SIGNALS))
    launcher = ["--standalone", "--nproc-per-node", str(num_ranks), "--signals-to-handle", signals]
    try:
        run(parse_args([*launcher, "--no-python", *program, *arguments]))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        return next((code for code in (REQUEUE_EXIT_CODE, CTRL_C_EXIT_CODE) if code in codes), 1)
    except SignalException as stopped:
        say(f"{signal.Signals(stopped.sigval).name}: every rank was signalled; the same command goes on")
        return exit_code_after(stopped.sigval)
    return 0
