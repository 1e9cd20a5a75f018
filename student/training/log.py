"""What a run writes about itself: lines for people, metrics.jsonl for programs, TensorBoard for both."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from student.errors import StudentError
from student.files import AppendedFile, write_text
from student.training.event_file import EventFile
from student.training.run_folder import LOG_NAME, METRICS_NAME, metric_lines
from teacher_cache.common.small_files import is_there
from teacher_cache.common.terminal import printable, say


class RunLog:
    """Log of one run folder; entries after the step that a run resumes from are cut away.

    metrics.jsonl : one object per line, {"step", "kind": "train" or "dev", figures by name}
    """

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        _keep_until(run_dir / METRICS_NAME, resumed_step)
        with ExitStack() as files:
            self._metrics = files.enter_context(closing(AppendedFile(run_dir / METRICS_NAME)))
            self._log = files.enter_context(closing(AppendedFile(run_dir / LOG_NAME)))
            self._board = files.enter_context(closing(EventFile(run_dir / "tensorboard", resumed_step + 1)))
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # a disk that refuses must not hide the error that ended the run
        with suppress(StudentError) if error is not None else nullcontext(), self._files:
            if error is not None:
                self._write_line(f"{kind.__name__ if kind else 'error'}: {error}")

    def say(self, line: str) -> None:
        """Show a line on standard error and keep it in log.txt."""
        say(line)
        self._write_line(line)

    def figures(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        """Keep the figures of a step; NaN and infinity are kept as null."""
        entry = {name: value if isfinite(value) else None for name, value in figures.items()}
        self._metrics.write((json.dumps({"step": step, "kind": kind, **entry}) + "\n").encode())
        self._board.scalars(step, {f"{kind}/{name}": value for name, value in figures.items()})

    def _write_line(self, line: str) -> None:
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}\n"
        self._log.write(stamped.encode("utf-8"))


class SilentLog(RunLog):
    """What the ranks beside the first write: nothing."""

    def __init__(self) -> None:
        """Opens no file."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes none."""

    def say(self, line: str) -> None:
        """Kept by the first rank."""

    def figures(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        """Kept by the first rank."""


def _keep_until(metrics: Path, step: int) -> None:
    """Drop what a killed run logged beyond its last checkpoint, a half-written last line included."""
    if is_there(metrics):
        kept = [line + "\n" for line, entry in metric_lines(metrics) if entry["step"] <= step]
        write_text(metrics, "".join(kept))
