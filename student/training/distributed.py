"""Several processes that train one model: their ranks, and the sums over them.

Losses are divided by the utterances of the global batch before they are differentiated, so that the sum of
all ranks' gradients is the gradient of the whole; it is formed once a step, whatever each rank's share was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

from student.errors import StudentError

PATIENCE = timedelta(hours=2)  # the first rank measures dev while the others wait


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of `world` processes; the first logs, measures and saves for all."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """True in the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            distributed.barrier()

    def share_weights(self, model: nn.Module) -> None:
        """Every rank's weights and buffers become the first one's."""
        if self.world > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, 0)

    def sum_gradients(self, model: nn.Module) -> None:
        """Every rank's gradients become the sum over all; a rank without one counts as zero."""
        if self.world == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])  # one order everywhere
        distributed.all_reduce(flat)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, torch.split(flat, sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def sum_figures(self, figures: Mapping[str, float], names: list[str]) -> dict[str, float]:
        """The sums over all ranks of the figures of these names, 0 where a rank has none."""
        mine = [float(figures.get(name, 0.0)) for name in names]
        if self.world == 1:
            return dict(zip(names, mine, strict=True))
        total = torch.tensor(mine, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def largest(self, value: int) -> int:
        """The largest of all ranks' values."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)


ALONE = Ranks()


def num_ranks_here() -> int:
    """How many processes torchrun started beside this one, itself included; 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined_ranks(device_name: str) -> Iterator[Ranks]:
    """This process's rank among those that torchrun started; alone where it did not.

    device_name : of the config; each rank takes the GPU of its local number, or the CPU (gloo).
    Raises StudentError where there are more ranks than GPUs.
    """
    world = num_ranks_here()
    if world == 1:
        yield ALONE
        return
    local, device = int(os.environ["LOCAL_RANK"]), torch.device("cpu")
    if device_name == "cuda" or (device_name == "auto" and torch.cuda.is_available()):
        if local >= torch.cuda.device_count():
            raise StudentError(
                f"rank {local} finds {torch.cuda.device_count()} GPUs here; lower GPUS, or set "
                "trainer.device=cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()
