"""How much memory this process has held at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_MEGABYTE = 1e6


def high_water_megabytes() -> float:
    """The most that this process has held at a time, in megabytes of 10^6 bytes.

    On Linux from /proc: getrusage there also counts what the process that started this one had held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / _MEGABYTE
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MEGABYTE
