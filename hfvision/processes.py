"""Several processes that do one piece of work, as torchrun starts them: the first one talks and writes.

Launchers say in the environment which process this is, so nothing has to be imported or started to know it.
"""

import os
from collections.abc import Mapping

RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")  # torchrun's, and those of MPIs
ADVICE = (
    "accelerate launch was asked for several processes and started one: on CPUs it starts more only through MPI "
    "(--mpirun_hostfile). This run goes on as a single process; torchrun --nproc_per_node N starts N."
)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those that a launcher started; 0 where there is no launcher."""
    return next((int(environment[name]) for name in RANKS if environment.get(name, "").isdigit()), 0)


def is_main_process() -> bool:
    """Whether this process prints, reports and writes."""
    return rank() == 0


def launched_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether accelerate's launcher set the stage for several processes and started one (seen in version 1.15).

    It then sets an address to meet at, and nobody's number.
    """
    came_from_accelerate = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    return came_from_accelerate and not any(name in environment for name in RANKS)
