"""Forked processes, such as workers of `multiprocessing` on Linux, after parallel regions of OpenMP.

A forked child has one thread, the one that forked. Its copy of GNU's OpenMP still counts on the threads that the
regions before have left resting, and the child's first region would wait for them for ever. So they are ended before
a fork; the next region, in parent or child, starts new ones. Where the library cannot end them (before OpenMP 5) the
child works on one thread. Other OpenMP libraries take care of forks themselves.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

_HARD = 2  # omp_pause_hard: nothing is kept

_could_end = True  # whether the threads were ended before the last fork


def _libraries() -> list[ctypes.CDLL]:
    """The copies of GNU's OpenMP that this process has loaded: torch has its own, and so has scikit-learn."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # no Linux, where alone there is GNU's
        return []
    return [ctypes.CDLL(path) for path in sorted({line.split(maxsplit=5)[5] for line in lines if "libgomp" in line})]


def _end_threads(library: ctypes.CDLL) -> bool:
    """Ends the resting threads that work for this one; False if that is not possible."""
    return hasattr(library, "omp_pause_resource_all") and library.omp_pause_resource_all(_HARD) == 0


def _before_fork() -> None:
    global _could_end
    ended = [_end_threads(library) for library in _libraries()]  # of all, also after one that cannot
    _could_end = all(ended)


def _after_fork_in_child() -> None:
    if _could_end:
        return
    torch.set_num_threads(1)
    for library in _libraries():
        library.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
