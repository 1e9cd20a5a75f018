"""The two units of size: megabytes of 10^6 bytes in all that people read, MiB for what limits memory."""

from __future__ import annotations

MEGABYTE = 1_000_000
MEBIBYTE = 1 << 20


def megabytes(num_bytes: float) -> str:
    """A size for people, as "1,234.5 MB"."""
    return f"{num_bytes / MEGABYTE:,.1f} MB"
