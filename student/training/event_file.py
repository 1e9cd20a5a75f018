"""Scalars for TensorBoard, written by the thread that measured them.

PyTorch's SummaryWriter writes from a thread of its own, which tells of a full disk late, by a traceback.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from student.files import AppendedFile

_VERSION = "brain.Event:2"


class EventFile:
    """One event file of a folder; TensorBoard drops what earlier files hold from `first_step` on."""

    def __init__(self, folder: Path, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        with ExitStack() as stack:
            self._file = stack.enter_context(closing(AppendedFile(folder / name)))
            self._records = RecordWriter(self._file)
            self._write(Event(file_version=_VERSION, step=first_step))
            self._write(Event(session_log=SessionLog(status=SessionLog.START), step=first_step))
            stack.pop_all()

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of a step by tag."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(Event(summary=Summary(value=values), step=step))

    def close(self) -> None:
        """Nothing is written afterwards."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
