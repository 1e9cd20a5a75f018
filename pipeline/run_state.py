"""How a run fares: its record keeps how the last start ended, the lock says whether it is running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.run_record import write_record
from student.signals import TrainingInterrupted
from student.training.run_folder import FINAL_NAME, RESULT_NAME, RunBusy, is_running


@contextmanager
def recorded_state(run_dir: Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Write into the run's record that it started and, where it ends in an error, that it failed and why.

    An interruption is no failure. A process that finds the run busy leaves the other's record alone.
    """
    begun = {key: value for key, value in record.items() if key != "error"}
    if record.get("state") not in ("started", "finished"):
        write_record(run_dir, {**begun, "state": "started"})
    try:
        yield
    except RunBusy:
        raise
    except (TrainingInterrupted, KeyboardInterrupt):
        write_record(run_dir, {**begun, "state": "stopped"})
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        write_record(run_dir, {**begun, "state": "failed", "error": reason})
        raise


def state_of(run_dir: Path, record: Mapping[str, Any]) -> str:
    """ "running", "finished", "failed" or "stopped"; a run that was killed is stopped: it can go on."""
    if is_running(run_dir):
        return "running"
    if (run_dir / RESULT_NAME).is_file() and (run_dir / FINAL_NAME).is_file():
        return "finished"
    return "failed" if record.get("state") == "failed" else "stopped"
