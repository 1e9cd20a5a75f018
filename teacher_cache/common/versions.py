"""Versions of what is installed, for records: code that runs from a source tree is not."""

from __future__ import annotations

import importlib.metadata


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, "" where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
