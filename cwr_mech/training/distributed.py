"""Several processes train one model together: each takes its share of every batch, gradients are added up.

Every process holds all parameters and makes the same update from the same sum, so nothing else is exchanged.
Only the main one writes; on several hosts all must see its folder.
"""

import atexit
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cwr_mech.artifacts.disk import one_line
from cwr_mech.errors import ConfigError, ProcessLost


@dataclass(frozen=True)
class Processes:
    """This process among those that train together. Alone, as it is by default, nothing is exchanged."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self) -> slice:
        """The rows of a batch that are this process's."""
        return slice(self.rank, None, self.count)

    def check_batch(self, size: int) -> None:
        """Raises ConfigError when some process would get no row of a batch."""
        if size < self.count:
            raise ConfigError(f"a batch of {size} rows is too small for {self.count} processes")

    def in_batch(self, which: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Where rows of the share, given by number, stand in the batch."""
        return which * self.count + self.rank

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes. Raises ProcessLost when one has ended."""
        if self.count == 1:
            return
        try:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)
        except RuntimeError as error:
            raise ProcessLost(
                "another process of this training has ended",
                "its own message says why; a training that had begun goes on with --resume",
            ) from error

    def wait(self) -> None:
        """Go on when all processes have come here. Raises ProcessLost."""
        self.add_up(torch.zeros(1, device=self.device))


def launched(environment: Mapping[str, str], device: str) -> Processes:
    """The processes that `accelerate launch` (or torchrun) has started, and this one's device among them.

    device: "cpu" or "cuda". Raises ConfigError where the launcher was asked for several and started one, or
    where what the environment says of other processes cannot be: left over from another program.
    """
    count = environment.get("WORLD_SIZE", "1")
    if count == "1":
        if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
            raise ConfigError(
                "accelerate launch was asked for several processes and started one",
                "say --multi_gpu (not --cpu) there, and --device cpu to cwr-mech for processors",
            )
        return Processes(device=device)
    from accelerate import PartialState  # slow to import, and only needed here

    try:
        state = PartialState(cpu=device == "cpu")
    except ValueError as error:
        raise ConfigError(
            f"WORLD_SIZE is {count!r}, and there are no such processes: {one_line(error)}",
            "start them with accelerate launch, or unset WORLD_SIZE to train in this process alone",
        ) from error
    atexit.register(state.destroy_process_group)  # NCCL complains otherwise
    return Processes(
        state.process_index, state.num_processes, device if device == "cpu" else str(state.device)
    )
