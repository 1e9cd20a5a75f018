"""A signal outside training: one line, a shell's exit code, no traceback, whenever it comes."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.jobs.places import Place
from pipeline.jobs.pool import run_side_by_side
from pipeline.processes import run_command

KILLS = int(os.environ.get("BERT2CTC_TEST_KILLS", "3"))
PATIENCE_SECONDS = 240  # ends a hang before pytest does; a core that others use too is no hang
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
# background jobs and nohup leave signals ignored to their children
AS_AT_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
WORKING_ALONE = """
import time, click
from pipeline.console import DomainErrorGroup
from pipeline.interruption import catch_signals
catch_signals()
@click.group(cls=DomainErrorGroup)
def main(): pass
@main.command()
def work():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("left in order", flush=True)
main(["work"])
"""
WORKING = AS_AT_A_TERMINAL + WORKING_ALONE
IMPORTING = (
    AS_AT_A_TERMINAL
    + """
from pipeline.interruption import catch_signals, working
catch_signals()
with working():
    try:
        import slow
    except BaseException:
        print("an import was broken off in the middle")
"""
)
FORKED = (
    AS_AT_A_TERMINAL
    + """
import time
from pipeline.interruption import catch_signals, working
catch_signals()
with working():
    child = os.fork()
    if child == 0:
        os.write(1, b"begun\\n")
        time.sleep(60)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
)
STARTING = (
    AS_AT_A_TERMINAL
    + """
held_back = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
signal.pthread_sigmask(signal.SIG_BLOCK, held_back)  # as bin/bert2ctc does
print("begun", flush=True)
sys.argv = ["bert2ctc", *sys.argv[1:]]
from pipeline.__main__ import main
main()
"""
)


def start(script: str, *arguments: str, path: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(path or "")])},
    )


def begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stdout.readline() == "begun\n"


def expected(number: signal.Signals) -> str:
    how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    return f"Error: {how}; run the same command again to go on\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_a_signal_stops_leaves_in_order_with_one_line(number: signal.Signals) -> None:
    process = start(WORKING)
    begun(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output, errors) == (128 + number, "left in order\n", expected(number))


@pytest.mark.parametrize("number", SIGNALS[:2])
def test_an_import_that_a_signal_stops_ends_at_once_with_one_line(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    process = start(IMPORTING, path=tmp_path)
    begun(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output, errors) == (128 + number, "", expected(number))


def test_a_forked_process_is_ended_as_any_other_and_says_nothing() -> None:
    output, errors = start(FORKED).communicate(timeout=PATIENCE_SECONDS)
    assert (output, errors) == (f"begun\n{-signal.SIGTERM}\n", "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_nohup_or_a_background_job_ignores_stays_ignored(number: signal.Signals) -> None:
    process = start(f"{AS_AT_A_TERMINAL}signal.signal({int(number)}, signal.SIG_IGN)\n" + WORKING_ALONE)
    begun(process)
    process.send_signal(number)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE_SECONDS)[1] == expected(signal.SIGTERM)


IMPORTING_FIRST = """
import time
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "pipeline.interruption":
            print("begun", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from pipeline.__main__ import main
main()
"""
NEVER_HEEDED = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
import pipeline.cli
from pipeline.__main__ import main
pipeline.cli.main = lambda **options: print(signal.getsignal(signal.SIGINT).name)
main()
"""
SLOW_START = """
import os, signal, time
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
with open(os.environ["MASKS"], "a") as masks:
    print(len(blocked), file=masks)
print("begun", flush=True)
time.sleep(0.3)
"""


def starting(tmp_path: Path) -> dict[str, str]:
    """The environment in which Python's own start takes a while and says so."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    return {**os.environ, "PYTHONPATH": path, "MASKS": str(tmp_path / "masks")}


@pytest.mark.skipif(sys.platform != "linux", reason="needs `env --block-signal` of coreutils")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_python_starts_is_one_line_too(number: signal.Signals, tmp_path: Path) -> None:
    """Installed beside its Python, as pip does, the command holds the signal back until it can answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(Path(__file__).parents[1] / "bin/bert2ctc", folder)
    (folder / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "python3").chmod(0o755)
    (tmp_path / "elsewhere").symlink_to(folder / "bert2ctc")
    (tmp_path / "pipeline.py").write_text("raise SystemExit('a file of the folder where it was called')")
    for command in [folder / "bert2ctc", *[tmp_path / "elsewhere"] * (number == signal.SIGINT)]:
        process = subprocess.Popen(
            [command, "cache", "ls", "--cache-root", tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=starting(tmp_path / "path"),
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        begun(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, output, errors) == (128 + number, "", expected(number))


def test_a_command_that_ours_starts_holds_signals_back_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in starting(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "sitecustomize.py").write_text(SLOW_START.replace('print("begun", flush=True)', ""))
    command = ["cache", "ls", "--cache-root", str(tmp_path / "caches")]
    run_command(*command)
    run_side_by_side({"a": [command]}, [Place()])
    assert (tmp_path / "masks").read_text().split() == ["4", "4"]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_of_a_start_that_imports_what_it_needs_is_no_traceback() -> None:
    process = start(AS_AT_A_TERMINAL + IMPORTING_FIRST)
    begun(process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_an_interrupt_that_was_ignored_before_the_start_stays_ignored() -> None:
    output, errors = start(AS_AT_A_TERMINAL + NEVER_HEEDED).communicate(timeout=PATIENCE_SECONDS)
    assert (output, errors) == ("SIG_IGN\n", "")


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_signal_in_the_first_seconds_is_no_traceback(kill: int, tmp_path: Path) -> None:
    roots = [argument for name in ("cache", "runs", "data") for argument in (f"--{name}-root", str(tmp_path))]
    process = start(STARTING, "train", "demo", *roots)
    begun(process)
    draw = random.Random(time.time_ns())
    number, pause = draw.choice(SIGNALS), draw.uniform(0, 2.0)
    time.sleep(pause)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    if "no teacher cache" in errors:  # it came too late
        assert errors.count("\n") == 1
        return
    allowed = (128 + number, expected(number))
    assert (process.returncode, errors) == allowed and output == "", f"{number.name} after {pause:.2f} s"
