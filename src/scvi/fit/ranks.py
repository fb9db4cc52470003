"""Several processes that fit one model together, as torchrun starts them; here is all that knows torch.distributed.

Each process has the whole model and reads its share of each minibatch. Minibatches, plan and random numbers are those
of one process; gradients, moments of batch norm and sums for the history are added up over the processes.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from scvi._job import is_first, n_processes, of_machine
from scvi._settings import settings
from scvi._warnings import muted
from scvi.cells.epoch_order import Portion
from scvi.kernels import Part

logger = logging.getLogger(__name__)

_SILENT = logging.CRITICAL + 1

T = TypeVar("T")


class Ranks:
    """The processes of a job. Every method but the properties has to be called by all of them, in the same order.

    Parameters
    ----------
    rank, size
        Number of this process, from 0, and of all.

    Raises
    ------
    RuntimeError
        By any method, if one of the others has ended.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        return self.size > 1

    @property
    def portion(self) -> Portion:
        """What this process reads of each minibatch."""
        return Portion(self.rank, self.size)

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes; the tensor is written over."""
        if self.are_several:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def sum_each(self, tensors: Sequence[Tensor]) -> None:
        """Writes the sum over the processes over each tensor; all are on their way at once."""
        with self._together():
            for on_its_way in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                on_its_way.wait()

    def part_of(self, n_rows: int) -> Part:
        """Of the rows of all processes, one process after the other, the `n_rows` of this one."""
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = n_rows
        ends = self.sum_on_cpu(counts).cumsum(0)
        return Part(torch.arange(n_rows) + int(ends[self.rank]) - n_rows, int(ends[-1]))

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over the processes, which have the same names in the same order."""
        if not self.are_several:
            return dict(values)
        total = self.sum_on_cpu(torch.tensor([*values.values()], dtype=torch.float64))
        return dict(zip(values, total.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return bool(self.sums({"flag": float(flag)})["flag"])

    def sum_on_cpu(self, tensor: Tensor) -> Tensor:
        """As :meth:`sum`, also where only GPUs are tied together."""
        place = "cuda" if self.are_several and dist.get_backend() == "nccl" else "cpu"
        return self.sum(tensor.to(place)).cpu()

    @torch.no_grad()
    def take_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Writes over tensors what the first process has in them; those of other types than float32 are left alone."""
        numbers = [t for t in tensors if t.dtype == torch.float32]
        if not self.are_several or not numbers:
            return
        flat = torch.cat([t.reshape(-1) for t in numbers])
        with self._together():
            dist.broadcast(flat, 0)
        for tensor, values in zip(numbers, flat.split([t.numel() for t in numbers]), strict=True):
            tensor.copy_(values.view(tensor.shape))

    # ---- anything ----------------------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """What each process has, in all of them."""
        if not self.are_several:
            return [value]
        values: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def refuse_unlike(self, told: Mapping[str, str]) -> None:
        """Raises ValueError if another process was told other things: they would fit another model, or wait for ever.

        Parameters
        ----------
        told
            What this process was told, by what it is about.
        """
        of_all = self.gather(told)
        different = [name for name in told if len({of_one[name] for of_one in of_all}) > 1]
        if different:
            raise ValueError(
                f"the {self.size} processes of this job were told to fit different things, by their "
                f"{', '.join(different)}: give all of them the same cells, model and arguments; each reads its share "
                "of the cells, and the first alone writes"
            )

    def of_first(self, function: Callable[[], T]) -> T:
        """What a function returns in the first process, the only one to call it, or raises there: in all of them."""
        if not self.are_several:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        with self._together():
            dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    # ---- what is seen of them ----------------------------------------------------------------------------------------

    @contextmanager
    def only_first_speaks(self) -> Iterator[None]:
        """Inside, the other processes neither log nor warn."""
        if self.is_first:
            yield
            return
        package = logging.getLogger("scvi")
        level = package.level
        package.setLevel(_SILENT)
        try:
            with muted():
                yield
        finally:
            package.setLevel(level)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2].partition(". ")[0]
            raise RuntimeError(
                f"process {self.rank} of {self.size} lost the others, of which one has ended or cannot be reached "
                f"({reason}). Start the job anew: with checkpoint_dir and resume=True the fit goes on from "
                "its last checkpoint, on any number of processes"
            ) from error


ALONE = Ranks()


def joined(device: torch.device) -> tuple[Ranks, torch.device]:
    """The processes of the job that this one is part of, and its own device; it may be alone.

    The job is one of torchrun, or one whose processes were tied together with ``torch.distributed`` already. Where they
    are tied here, this process gets its share of the cores of its machine, unless the number of its threads was set.

    Raises
    ------
    ValueError
        If there is no device for each process of this machine.
    """
    tied = dist.is_available() and dist.is_initialized()
    if (dist.get_world_size() if tied else n_processes()) == 1:
        return ALONE, device
    device = _own(device)
    if not tied:
        _share_threads()
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(_part)
    return Ranks(dist.get_rank(), dist.get_world_size()), device


def writes() -> bool:
    """Whether this process writes files: the first of a job, or one that is in none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return is_first()


def _own(device: torch.device) -> torch.device:
    """The GPU of this process, where processes of one machine have one each."""
    if device.type == "cpu":
        return device
    n_local, there = of_machine("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if device.type != "cuda" or n_local > there:
        raise ValueError(
            f"this job has {n_local} processes on this machine, which has {there} CUDA GPUs: start as many as there "
            "are GPUs, or pass accelerator='cpu'"
        )
    own = torch.device("cuda", of_machine("LOCAL_RANK", torch.cuda.current_device()))
    torch.cuda.set_device(own)
    return own


def _share_threads() -> None:
    """Gives this process its share of the cores; torchrun gives it one thread where nobody says how many."""
    one_by_default = os.environ.get("OMP_NUM_THREADS", "1") == "1" and torch.get_num_threads() == 1
    if one_by_default and settings.chosen_num_threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        settings.num_threads = max(1, cores // of_machine("LOCAL_WORLD_SIZE", 1))


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
