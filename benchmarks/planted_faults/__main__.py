"""Planted faults: each is put into a sound state and met by the real commands; one line and the right code.

    python benchmarks/planted_faults [--only PATTERN] [--jobs N] [--json FILE]

A sound corpus, teacher, cache and run are made once, by the commands themselves; every case copies them,
plants its fault and runs its command as a process. Held to: the right code, exactly one error line, no
traceback, no hang, nothing that a terminal obeys, shown commands that can be pasted, no file half-written,
and no file of the sound state changed. Ends with the count; code 1 where a case is not as it must be.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent), str(FOLDER.parents[1] / "tests"), str(FOLDER.parents[1])]

import click  # noqa: E402  # what is imported from here on lies in the folders named above
import labels  # noqa: E402
import messages  # noqa: E402
import nonsense  # noqa: E402
import small_files  # noqa: E402
from case import LIMIT_SECONDS, Case  # noqa: E402
from options import json_option, write_figures  # noqa: E402
from processes import Afresh, Preloaded, Processes  # noqa: E402
from state import copy_state, make_state  # noqa: E402

SHOWN_CHARACTERS = 150


def all_cases(only: str) -> list[Case]:
    """Every case in whose name the pattern, a regular expression, is found."""
    found = [case for module in (labels, small_files, nonsense, messages) for case in module.cases()]
    assert len({case.name for case in found}) == len(found), "two cases of one name"
    return [case for case in found if re.search(only, case.name)]


@click.command(help=__doc__)
@click.option("--only", default="", metavar="PATTERN", help="a regular expression of names, as ^2 or runs ls")
@click.option("--every", default=1, show_default=True, help="each so-manieth of them")
@click.option("--jobs", default=1, show_default=True, help="cases at a time")
@click.option(
    "--state", type=click.Path(path_type=Path), help="keep the sound state here, or take it from here"
)
@click.option("--patience", default=LIMIT_SECONDS, show_default=True, help="seconds that are no hang yet")
@click.option(
    "--preloaded", is_flag=True, help="fork the commands from one process: quick, for writing cases"
)
@json_option
def main(
    only: str,
    every: int,
    jobs: int,
    state: Path | None,
    patience: float,
    preloaded: bool,
    json_file: Path | None,
) -> None:
    chosen, started = all_cases(only)[::every], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sound = state or Path(folder) / "sound"
        if not sound.is_dir():
            print("making the sound state", flush=True)
            make_state(sound)
        free: SimpleQueue[Processes] = SimpleQueue()
        for number in range(jobs):
            where = Path(folder) / str(number)
            where.mkdir()
            free.put((Preloaded if preloaded else Afresh)(where, patience))

        def tried(case: Case) -> list[str]:
            processes = free.get()
            try:
                return show(case, *attempt(case, sound, processes))
            finally:
                free.put(processes)

        with ThreadPoolExecutor(jobs) as pool:
            wrong = {case.name: faults for case, faults in zip(chosen, pool.map(tried, chosen), strict=True)}
        while not free.empty():
            free.get().close()
    wrong = {name: faults for name, faults in wrong.items() if faults}
    minutes = (time.monotonic() - started) / 60
    print(f"{len(chosen)} cases, {len(wrong)} not as they must be, {minutes:.0f} minutes")
    for name, faults in wrong.items():
        print(f"  {name}: {'; '.join(faults)}")
    write_figures(json_file, {"cases": len(chosen), "wrong": wrong, "minutes": minutes})
    raise SystemExit(bool(wrong))


def attempt(case: Case, sound: Path, processes: Processes) -> tuple[object, str, Sequence[str]]:
    """The case's code, the line that it told, and what is wrong with it."""
    folder = copy_state(sound, processes.new_folder())
    with messages.redirecting(case) as address:
        case.plant(folder)
        before = case.looked_at(folder)
        words = [word.replace("{address}", address) for word in case.words(folder)]
        outcome = processes.run(folder, words, case.sent)
    faults = case.faults(outcome, before, folder)
    lines = outcome.error_lines or outcome.output.splitlines() or [""]
    return outcome.code, lines[0].replace(str(folder), "."), faults


def show(case: Case, code: object, line: str, faults: Sequence[str]) -> list[str]:
    """One row of the table."""
    verdict = "" if not faults else f"  <-- {'; '.join(faults)}"
    print(f"{case.name} | {code} | {line[:SHOWN_CHARACTERS]}{verdict}", flush=True)
    return list(faults)


if __name__ == "__main__":
    main()
