"""Figures of one GPU: its tests, the teacher's rows a second, a student's steps, eager and compiled."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from on_a_gpu_parts import DATA, OUT, WORK, run_part, run_side_by_side, say, summarise

SMOKE_SECONDS, LEAST_SECONDS = 110.0, 25.0


def figures(quick: bool, seconds: float) -> None:
    """Teacher rows a second at BERT-base size, and steps of librispeech-100's student, eager and compiled.

    seconds : for all of them; what could not end within them is not begun
    """
    deadline = time.monotonic() + seconds
    for name, limit, command in _benchmarks(quick):
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            say(f"{name} left out: {left:.0f} s are left")
        else:
            run_part(name, command, min(limit, left))
    path = OUT / "teacher_throughput.json"
    if path.is_file():
        minutes = 10.5e6 / json.loads(path.read_text())["rows_per_second"]["ours"] / 60
        say(f"the roughly 10.5 million rows of LibriSpeech-960 would take {minutes:.1f} min")


def _benchmarks(quick: bool) -> list[tuple[str, float, list[str]]]:
    """Name, limit in seconds, and command of each benchmark."""
    texts = ["--text", str(WORK / "transcripts.txt"), "--vocabulary", str(DATA / "bert-vocab/vocab.txt")]
    teacher_size = ["--size", "base", "--device", "cuda", "--transcripts", "200", "--rounds", "2"]
    step_size = [
        *("--config", "librispeech-100", "--device", "cuda", "--pieces", "10000"),
        *("--batches", "2", "--rounds", "3"),
    ]
    if quick:
        teacher_size = ["--size", "small", "--quick"]
        step_size = ["--config", "librispeech-mini", "--pieces", "200", "--quick"]

    def command(script: str, name: str, options: Sequence[str]) -> list[str]:
        return [sys.executable, f"benchmarks/{script}.py", "--json", str(OUT / f"{name}.json"), *options]

    compiled = command("train_step", "train_step_compile", [*step_size, "--compile"])
    return [
        ("teacher_throughput", 60, command("teacher_throughput", "teacher_throughput", texts + teacher_size)),
        ("train_step", 60, command("train_step", "train_step", step_size)),
        ("train_step_compile", 90, compiled),
    ]


def _gpu_tests(chosen: str) -> list[str]:
    """The tests that only a GPU runs, each named as it ends."""
    options = ["-m", "gpu", "-k", chosen, "-v", "--tb=short", "-W", "ignore", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "tests/test_on_a_gpu.py", "tests/test_decoding_beam.py", *options]


def tests(limit: float) -> None:
    """The tests that only a GPU runs, those that compile beside the others."""
    run_side_by_side(_all_gpu_tests(), limit)


def _all_gpu_tests() -> dict[str, list[str]]:
    return {"gpu_tests": _gpu_tests("not compiled"), "gpu_tests_compiled": _gpu_tests("compiled")}


def everything(program: str, quick: bool, seconds: float) -> None:
    """GPU tests beside a smoke of the whole road, which `program` runs; then the figures, alone."""
    began, arguments = time.monotonic(), ["--quick"] if quick else []
    together = {
        **_all_gpu_tests(),
        "smoke": [sys.executable, program, "smoke", *arguments],
    }
    run_side_by_side(together, min(SMOKE_SECONDS, seconds) if not quick else seconds)
    figures(quick, seconds - (time.monotonic() - began))
    summarise()
