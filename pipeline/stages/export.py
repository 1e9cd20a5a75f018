"""A run's inference model, written where others can use it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.console import Report


def export_run(run_dir: Path, folder: Path, average_count: int = 0, average_of: str = "last") -> Report:
    """Export the run's final (else best, else last) model, or the mean of some checkpoints."""
    from student.inference.averaging import Average
    from student.inference.export import export_model

    average = Average(count=average_count, of=average_of) if average_count else None
    exported = export_model(run_dir, folder, average)
    done = "is there already, nothing to do" if exported.is_reused else "exported"
    lines = [
        f"{folder}: {done}: {exported.weights:,} weights, {exported.bytes / 1e6:.1f} MB, "
        f"from {exported.source}, step {exported.step:,}",
        f'use it: student.load_model("{folder}").transcribe("recording.flac")',
    ]
    return Report({**asdict(exported), "path": str(exported.path)}, lines)
