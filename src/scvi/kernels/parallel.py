"""Row blocks of a compiled kernel on a few threads.

numba's own threading layers may not be entered from two Python threads at once. The kernels here release the
GIL instead and run on a pool that follows ``torch.get_num_threads()``, so any number of Python threads may call them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["row_blocks", "run_blocks"]

_pool: ThreadPoolExecutor | None = None


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="scvi-kernel")
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # the pool's threads do not survive a fork
    os.register_at_fork(after_in_child=_forget_pool)


def row_blocks(n_rows: int, min_rows: int = 1) -> list[tuple[int, int]]:
    """Split rows in as many contiguous blocks as torch has threads, none shorter than `min_rows`."""
    n_blocks = max(1, min(torch.get_num_threads(), n_rows // max(1, min_rows)))
    edges = [n_rows * i // n_blocks for i in range(n_blocks + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def run_blocks(work: Callable[[int, int, int], object], blocks: list[tuple[int, int]]) -> None:
    """Call ``work(block, start, stop)`` for all blocks at once; the caller's thread takes the first."""
    others = [_shared_pool().submit(work, i, *blocks[i]) for i in range(1, len(blocks))]
    try:
        work(0, *blocks[0])
    finally:
        for other in others:
            other.result()
