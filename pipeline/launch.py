"""Several processes for one training: torchrun starts them, and their end becomes a command's exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from pipeline.console import say
from pipeline.errors import PipelineError
from student.signals import CTRL_C_EXIT_CODE, REQUEUE_EXIT_CODE, STOP_SIGNALS, exit_code_after


def launch_ranks(
    arguments: Sequence[str], num_ranks: int, program: Sequence[str] = (sys.executable, "-m", "pipeline.cli")
) -> int:
    """Run `bert2ctc ARGUMENTS` once per rank on this machine; the exit code that a single process had given.

    A queue's SIGTERM or SIGUSR1 reaches every rank, which saves and ends: 75. torchrun's own code is 1 for
    whatever happens.
    """
    if num_ranks < 1:
        raise PipelineError(f"--gpus {num_ranks}: at least 1; leave it out for one process")
    # PyTorch loads only where processes are started
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    signals = ",".join(number.name for number in STOP_SIGNALS)
    launcher = ["--standalone", "--nproc-per-node", str(num_ranks), "--signals-to-handle", signals]
    try:
        run(parse_args([*launcher, "--no-python", *program, *arguments]))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        return next((code for code in (REQUEUE_EXIT_CODE, CTRL_C_EXIT_CODE) if code in codes), 1)
    except SignalException as stopped:
        say(f"{signal.Signals(stopped.sigval).name}: every rank was told; the same command goes on")
        return exit_code_after(stopped.sigval)
    return 0
