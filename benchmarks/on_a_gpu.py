"""What benchmarks/on_a_gpu.sh does, part by part; see there."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from on_a_gpu_figures import everything, figures, tests
from on_a_gpu_parts import LOGS, OUT, end_with_all, summarise
from on_a_gpu_students import compiling, device, listen, prepare, smoke, students, teacher
from on_a_gpu_unpacking import receive

FIRST_PART_OF = {"teacher": "teacher", "compile": "compiled_steps", "tests": "gpu_tests"}


def main() -> None:
    """One command of on_a_gpu.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("receive").add_argument("folder", type=Path)
    looks = [commands.add_parser(name) for name in ("everything", "figures", "smoke")]
    for look in looks:
        look.add_argument("--quick", action="store_true", help="on a CPU, as a rehearsal")
    for look in looks[:2]:
        look.add_argument("--seconds", type=float, default=210.0, help="for all of it")
    background = {name: commands.add_parser(name) for name in ("teacher", "compile", "tests")}
    for command in background.values():
        command.add_argument("--wait", action="store_true", help="in the foreground")
        command.add_argument("--limit", type=float, default=300.0, help="seconds of each of its parts")
    training = commands.add_parser("students")
    training.add_argument("--base-seconds", type=float, default=170.0)
    training.add_argument("--branch-seconds", type=float, default=130.0)
    training.add_argument("--timed-seconds", type=float, default=8.0)
    training.add_argument("--most-steps", type=int, default=10**9)
    training.add_argument("--patience", type=float, default=120.0, help="seconds, for the caches")
    training.add_argument("--listening-limit", type=float, default=150.0, help="seconds of the ear, if any")
    for command in (background["teacher"], training):
        command.add_argument("--set", action="append", default=[], dest="overrides")
    commands.add_parser("summary")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end_with_all)
    OUT.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    if options.command == "receive":
        receive(options.folder)
    elif options.command in background and not options.wait:
        arguments = [sys.executable, __file__, *sys.argv[1:], "--wait"]
        (LOGS / f"{FIRST_PART_OF[options.command]}.log").touch()  # begun, for whoever waits for it at once
        with (LOGS / "background.log").open("ab") as log:
            subprocess.Popen(
                arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
    elif options.command == "teacher":
        teacher(options.overrides, options.limit)
    elif options.command == "compile":
        compiling(options.limit)
    elif options.command == "tests":
        tests(options.limit)
    elif options.command == "students":
        prepare()
        listen(options.listening_limit)
        students(options)
    elif options.command == "summary":
        print(device())
        summarise()
    elif options.command == "smoke":
        smoke(options.quick)
    elif options.command == "everything":
        everything(__file__, options.quick, options.seconds)
    else:
        figures(options.quick, options.seconds)


if __name__ == "__main__":
    main()
