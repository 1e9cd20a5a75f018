"""Text for people: what a foreign file holds is shown and never obeyed, and the terminal may hang up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def printable(text: str) -> str:
    r"""The text with everything that is not a printable character escaped as in a Python string.

    Terminal escapes, line breaks, marks that change the direction of writing and lone surrogates become
    `\x1b`, `\n`, `\u202e`, `\udc80`; a tab stays. Printable text comes back as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\t" else _escaped(character)
        for character in text
    )


def say(line: str) -> None:
    """Print one line on standard error, printable, where it never disturbs a script."""
    with _hang_up_ignored():
        print(printable(line), file=sys.stderr, flush=True)


class Screen:
    """Standard error as a text stream for bars; that the terminal hung up is no error of the work."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Write the text; how much of it was written."""
        with _hang_up_ignored():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand what was written to the system."""
        with _hang_up_ignored():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _hang_up_ignored() -> Iterator[None]:
    """A training saves itself after its terminal is gone: from then on its lines go nowhere."""
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
