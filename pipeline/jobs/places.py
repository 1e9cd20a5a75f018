"""Where processes side by side run: a core and a thread each, or a GPU each; none is in another's way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one process at a time has to itself.

    core : that it is pinned to, None where it is not     threads : of PyTorch, 0 for its own choice
    gpu : as CUDA_VISIBLE_DEVICES names it, "" for none of its own
    """

    core: int | None = None
    threads: int = 0
    gpu: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its processes."""
        return thread_environment(self.threads) | ({_VISIBLE_GPUS: self.gpu} if self.gpu else {})

    def take(self, process_id: int) -> None:
        """Pin a process that has just begun; the threads that it starts from now on stay there too."""
        if self.core is not None:
            with suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(process_id, {self.core})


def thread_environment(threads: int) -> dict[str, str]:
    """The variables by which PyTorch's libraries start so many threads; none for 0, their own choice.

    An environment, not `trainer.threads`: how many students run at once is no part of what a run is.
    """
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)) if threads else {}


def places_for(jobs: int, devices: Sequence[str]) -> list[Place]:
    """A place for each of `jobs` processes at once, on what this process may use.

    devices : trainer.device of all that will run; GPUs are shared out unless every one says "cpu".
    Where there are fewer cores or GPUs than jobs, they are shared.
    """
    gpus = [] if set(devices) == {"cpu"} else visible_gpus()
    if gpus:
        return [Place(gpu=gpus[job % len(gpus)]) for job in range(jobs)]
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return [Place(threads=1)] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [Place(core=cores[job % len(cores)], threads=1) for job in range(jobs)]


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, as CUDA_VISIBLE_DEVICES would name each; [] where there are none."""
    import torch

    named = [name.strip() for name in os.environ.get(_VISIBLE_GPUS, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(number) for number in range(count)]
