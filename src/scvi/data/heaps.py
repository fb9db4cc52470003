"""The heaps of an HDF5 file, where texts of any length are: HDF5 never returns from one that is damaged in one way."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

_SIGNATURE = b"GCOL\x01\0\0\0"
_HEADER, _OBJECT = struct.Struct("<8sQ"), struct.Struct("<HHIQ")
_SMALLEST = 4096  # bytes of a heap
_LARGEST_FILE = 2**28
"""Larger files are not searched for heaps, for it takes as long as to read them."""


def refuse_endless_heaps(path: str | os.PathLike[str]) -> None:
    """Refuses a file of HDF5 with a heap in which the free space has no size: HDF5 would go over it for ever.

    Raises
    ------
    ValueError
        Names the place in the file.
    """
    size = os.path.getsize(path)
    if not 0 < size <= _LARGEST_FILE:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start in _heaps(content):
            if _is_endless(content, start, size):
                raise ValueError(f"the heap of its texts at byte {start} is damaged")


def _heaps(content: mmap.mmap) -> Iterator[int]:
    start = content.find(_SIGNATURE)
    while start >= 0:
        yield start
        start = content.find(_SIGNATURE, start + 1)


def _is_endless(content: mmap.mmap, start: int, size: int) -> bool:
    """Whether what goes from object to object stays at one, as HDF5 does it."""
    if start + _HEADER.size > size:
        return False
    _, length = _HEADER.unpack_from(content, start)
    place, end = start + _HEADER.size, start + length
    if length < _SMALLEST or end > size:
        return False
    while place + _OBJECT.size <= end:
        index, _, _, held = _OBJECT.unpack_from(content, place)
        step = _OBJECT.size + (held + 7) // 8 * 8 if index else held
        if step == 0:
            return True
        place += step
    return False
