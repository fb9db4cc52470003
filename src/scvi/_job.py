"""What torchrun tells a process of the job that it is part of."""

from __future__ import annotations

import os

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def n_processes() -> int:
    """How many processes a job has; 1 where this is in none."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(name) for name in _TOLD) else 1


def is_first() -> bool:
    """Whether this is the process that writes: the first of a job, or one that is in none."""
    return n_processes() == 1 or os.environ["RANK"] == "0"


def of_machine(name: str, otherwise: int) -> int:
    """A number that is told of this machine: LOCAL_RANK of this process, or LOCAL_WORLD_SIZE of all."""
    return int(os.environ.get(name) or otherwise)
