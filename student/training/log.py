"""What a run writes about itself: lines for people, metrics.jsonl for programs, TensorBoard for both."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from student.training.run_folder import LOG_NAME, METRICS_NAME
from teacher_cache.common.files import write_whole


class RunLog:
    """Log of one run folder; entries after the step that a run resumes from are cut away.

    metrics.jsonl : one object per line, {"step", "kind": "train" or "dev", figures by name}
    """

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        _keep_until(run_dir / METRICS_NAME, resumed_step)
        self._metrics = (run_dir / METRICS_NAME).open("a", encoding="utf-8", buffering=1)
        self._log = (run_dir / LOG_NAME).open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resumed_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._write_line(f"{kind.__name__ if kind else 'error'}: {error}")
        self._board.close()
        self._metrics.close()
        self._log.close()

    def say(self, line: str) -> None:
        """Show a line on standard error and keep it in log.txt."""
        print(line, file=sys.stderr, flush=True)
        self._write_line(line)

    def figures(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        """Keep the figures of a step; NaN and infinity are kept as null."""
        entry = {name: value if isfinite(value) else None for name, value in figures.items()}
        self._metrics.write(json.dumps({"step": step, "kind": kind, **entry}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def _write_line(self, line: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


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
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    write_whole(metrics, "".join(kept))
