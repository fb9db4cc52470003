"""Row blocks of a compiled kernel on a few threads.

numba's own threading layers may not be entered from two Python threads at once. The kernels here release the GIL and
run on the threads that torch has already, so that the two do not compete for cores: between two operations torch's
OpenMP threads keep spinning for milliseconds, longer than a kernel takes. Where torch does not come with GNU's OpenMP
a thread pool takes their place. Both follow ``torch.get_num_threads()``, and any number of Python threads may call.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

Block = tuple[int, int]
_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _This(threading.local):
    """What is known of a thread of Python."""

    is_alone = False


_this = _This()


def work_alone() -> None:
    """From here on this thread shares no rows out: it works beside another, which keeps the cores busy."""
    _this.is_alone = True


def row_blocks(n_rows: int, min_rows: int = 1) -> list[Block]:
    """Split rows in as many contiguous blocks as torch has threads, none shorter than `min_rows`."""
    n_blocks = 1 if _this.is_alone else max(1, min(torch.get_num_threads(), n_rows // max(1, min_rows)))
    edges = [n_rows * i // n_blocks for i in range(n_blocks + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def run_blocks(work: Callable[[int, int, int], object], blocks: list[Block]) -> None:
    """Call ``work(block, start, stop)`` for all blocks at once; raises what one of them raised."""
    if len(blocks) == 1:
        work(0, *blocks[0])
        return
    pending = iter(enumerate(blocks))
    raised: list[BaseException] = []

    def take(_: object = None) -> None:
        try:
            for block, (start, stop) in pending:
                work(block, start, stop)
        except BaseException as error:  # there is no Python frame to raise into
            raised.append(error)

    openmp = _openmp()
    if openmp is not None:
        openmp.GOMP_parallel(_TAKE(take), None, len(blocks), 0)
    else:
        others = [_pool().submit(take) for _ in blocks[1:]]
        take()
        for other in others:
            other.result()
    if raised:
        raise raised[0]


def run_in_turn(works: Sequence[Callable[[int], object]], n_shares: int) -> None:
    """Call ``work(share)`` for all shares at once, of each of `works` when all of the one before are done.

    One team of threads does it, which waits between them: to start another would take as long as a small work.
    """
    openmp = _openmp()
    if n_shares == 1 or openmp is None:
        for work in works:
            run_blocks(lambda share, *_, work=work: work(share), [(i, i + 1) for i in range(n_shares)])
        return
    pending = [iter(range(n_shares)) for _ in works]
    raised: list[BaseException] = []

    def take(_: object = None) -> None:
        for number, work in enumerate(works):
            if number > 0:
                openmp.GOMP_barrier()
            if raised:  # by a work before: what comes after would go on from half of it
                continue
            try:
                for share in pending[number]:
                    work(share)
            except BaseException as error:
                raised.append(error)

    openmp.GOMP_parallel(_TAKE(take), None, n_shares, 0)
    if raised:
        raise raised[0]


@cache
def _openmp() -> ctypes.CDLL | None:
    """The library that torch runs on, if it is GNU's: its ``GOMP_parallel(function, data, n_threads, flags)``."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            library.GOMP_parallel.argtypes = (_TAKE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = library.GOMP_barrier.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="scvi-kernel")


if hasattr(os, "register_at_fork"):  # the pool's threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
