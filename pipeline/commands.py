"""Run the commands that a user would type, and read the one JSON object that each prints."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from types import FrameType
from typing import Any

from pipeline.console import say
from pipeline.errors import PipelineError


def run_command(*arguments: str) -> dict[str, Any]:
    """The result of `bert2ctc ARGUMENTS --json`, run in a process of its own that shares our standard error.

    A process each keeps stages as separate as they are for a user: the student's never loads transformers.
    Raises PipelineError where it fails; interruption and termination reach it first, so that it can save.
    """
    say(f"\n$ bert2ctc {shlex.join(arguments)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments, "--json"], stdout=subprocess.PIPE, text=True
    )
    output = _wait(process)
    if process.returncode != 0:
        raise PipelineError(
            f"`bert2ctc {shlex.join(arguments)}` ended with code {process.returncode}; "
            "its reason stands above; what was finished is kept, run the same command again to go on"
        )
    try:
        result = dict(json.loads(output))
    except ValueError:
        raise PipelineError(
            f"`bert2ctc {shlex.join(arguments)}` printed no JSON object: {output[:200]!r}"
        ) from None
    if result.get("is_reused") or result.get("already_finished"):
        say("done before, from equal inputs: reused")
    return result


def _wait(process: subprocess.Popen[str]) -> str:
    def pass_on(signal_number: int, frame: FrameType | None) -> None:
        process.send_signal(signal_number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.communicate()[0]
    except KeyboardInterrupt:
        process.communicate()  # the terminal told the child too; it saves before it ends
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
