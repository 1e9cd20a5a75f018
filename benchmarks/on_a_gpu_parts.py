"""Commands as parts of a longer run: each with a limit, a log and a code, none able to stop the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

WORK, OUT = Path(os.environ.get("WORK", "/tmp/bert2ctc")), Path(os.environ.get("OUT", "gpu-figures"))
LOGS, PARTS = WORK / "logs", WORK / "parts"
DATA, RECEIVED = WORK / "data", WORK / "received.json"
# Of logs on the screen: of parts that failed, and of those whose last lines are their figures.
FAILED_LINES, SHOWN_CHARACTERS, KEPT_BYTES = 6, 150, 400_000
SHOWN_LINES = {
    "teacher_throughput": 8,
    "train_step": 16,
    "train_step_compile": 16,
    "smoke": 5,
    "gpu_tests": 1,
}
SECONDS_TO_SAVE = 20  # of a student that is asked to stop
_RUNNING: dict[int, str] = {}


@dataclass(frozen=True)
class Part:
    """What became of one command. code : 124 where it ran past its limit, as of timeout(1)."""

    name: str
    code: int
    seconds: float
    began: float


def run_part(name: str, command: Sequence[str], limit: float) -> Part:
    """Run one command to its end or limit."""
    return run_side_by_side({name: command}, limit)[name]


def run_side_by_side(
    commands: Mapping[str, Sequence[str]], limit: float, ended: Callable[[str], None] = lambda name: None
) -> dict[str, Part]:
    """Run commands at once; past the limit they get SIGTERM, and later SIGKILL.

    ended : called with each name as soon as its command is over
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    PARTS.mkdir(parents=True, exist_ok=True)
    began, processes, parts = time.time(), {}, {}
    for name, command in commands.items():
        say(f"{name} begins")
        with (LOGS / f"{name}.log").open("wb") as log:
            processes[name] = subprocess.Popen(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                process_group=0,  # so that it can be ended with all that it started
            )
        _RUNNING[processes[name].pid] = name
    asked_to_stop: dict[str, float] = {}  # after so many seconds
    while len(parts) < len(processes):
        for name, process in processes.items():
            if name in parts:
                continue
            code, spent = process.poll(), time.time() - began
            if code is None and spent > limit and name not in asked_to_stop:
                asked_to_stop[name] = spent
                process.terminate()
            if code is None and name in asked_to_stop and spent > asked_to_stop[name] + SECONDS_TO_SAVE:
                os.killpg(process.pid, signal.SIGKILL)
            if code is not None:
                part = Part(
                    name, 124 if name in asked_to_stop else code, round(time.time() - began, 1), began
                )
                (PARTS / f"{name}.json").write_text(json.dumps(asdict(part)))
                parts[name] = part
                _RUNNING.pop(process.pid)
                say(f"{name} ended with code {part.code} after {part.seconds} s")
                ended(name)
        time.sleep(0.1)
    return parts


def end_with_all(number: int, frame: object) -> None:
    """For SIGTERM: nothing that was begun outlives its beginner."""
    for process in list(_RUNNING):
        try:
            os.killpg(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os._exit(128 + number)


def cli(*arguments: str) -> list[str]:
    """`bert2ctc ARGUMENTS`, of this working tree."""
    return [sys.executable, "-m", "pipeline", *arguments]


def json_of(name: str) -> dict[str, object]:
    """The JSON object that a part printed last, {} where it printed none."""
    for line in reversed(_log_of(name).splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return {}


def _log_of(name: str) -> str:
    """What a part wrote, "" where its log is gone."""
    path = LOGS / f"{name}.log"
    return path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n") if path.is_file() else ""


def say(line: str) -> None:
    """One line with the time of the day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def summarise() -> None:
    """Every part in its order, the end of the log of each that failed; all logs in one file."""
    known = sorted(
        (Part(**json.loads(path.read_text())) for path in PARTS.glob("*.json")), key=lambda part: part.began
    )
    first = known[0].began if known else 0.0
    (OUT / "parts.json").write_text(json.dumps([asdict(part) for part in known], indent=1))
    with (OUT / "logs.txt").open("w", encoding="utf-8") as kept:
        for path in sorted(LOGS.glob("*.log")):
            text = path.read_bytes()[-KEPT_BYTES:].decode("utf-8", errors="replace").replace("\r", "\n")
            kept.write(f"\n======== {path.stem}\n{text}")
    print("\npart                         code  seconds  began after")
    for part in known:
        print(f"{part.name:28} {part.code:4d} {part.seconds:8.1f} {part.began - first:12.1f}")
    for part in known:
        number = FAILED_LINES if part.code else SHOWN_LINES.get(part.name, 0)
        if not number:
            continue
        lines = [line for line in _log_of(part.name).splitlines() if line.strip()]
        print(f"-- {part.name}, code {part.code}:")
        for line in lines[-number:]:
            print(f"   {line[:SHOWN_CHARACTERS]}")
