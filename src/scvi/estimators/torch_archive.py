"""Archives that `torch.save` wrote, read without running anything of them: tensors, arrays, tables and containers."""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scvi._checks import is_integer
from scvi._unpickling import unpickled

_LARGEST_PICKLE = 2**30
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Kind:
    """Stands for a class of storages; it cannot be called."""

    dtype: torch.dtype


def read_archive(path: str | os.PathLike[str]) -> Any:
    """What an archive of torch holds, on the CPU.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is damaged or no such archive, or if it names anything but tensors, arrays, pandas objects and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            return unpickled(*_program(archive))
    except Exception as error:  # damaged archives fail in any way that there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an archive of torch that holds data only: {reason}") from error


def _program(archive: zipfile.ZipFile) -> tuple[bytes, dict[tuple[str, str], Any], Any]:
    """The pickle in an archive, the names that it may use, and what its references to storages stand for."""
    members = {info.filename: info for info in archive.infolist()}
    packed = [name for name, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if packed or len(pickles) != 1:
        raise ValueError(f"{packed[0]!r} is compressed" if packed else f"it has {len(pickles)} entries named data.pkl")
    root = pickles[0].partition("/")[0]
    if members[pickles[0]].file_size > _LARGEST_PICKLE:
        raise ValueError(f"its pickle holds more than {_LARGEST_PICKLE} bytes")
    order = f"{root}/byteorder"
    if order in members and archive.read(order) != b"little":
        raise ValueError("its numbers have another byte order than little-endian")
    read: dict[str, Tensor] = {}

    def storage(reference: Any) -> Tensor:
        kind, key = _reference(reference)
        if key not in read:
            read[key] = _flat(archive.read(f"{root}/data/{key}"), kind.dtype)
        if read[key].dtype != kind.dtype:
            raise ValueError(f"it reads {key!r} as numbers of two types")
        return read[key]

    return archive.read(pickles[0]), _names(), storage


def _reference(reference: Any) -> tuple[_Kind, str]:
    """Type and key of a storage, of what a pickle says of it; where it was is of no matter."""
    if not (isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"):
        raise ValueError("it refers to something that is no storage of a tensor")
    kind, key = reference[1], reference[2]
    if not isinstance(kind, _Kind) or not isinstance(key, str):
        raise ValueError("it refers to a storage of no known type")
    return kind, key


def _flat(content: bytes, dtype: torch.dtype) -> Tensor:
    """The numbers of a storage, in a row."""
    if not content:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype)


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """A tensor of its own, of numbers that are all there."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, Tensor) or len(shape) != len(strides):
        raise ValueError("it sets a state of a tensor that does not hold together")
    if not all(is_integer(size) and size >= 0 for size in sizes):
        raise ValueError("a tensor has a side or a step that is no whole number from 0 on")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.numel() or (math.prod(shape) and last >= storage.numel()):
        raise ValueError(f"a tensor has more values than the {storage.numel()} of its storage")
    return torch.as_strided(storage, tuple(shape), tuple(strides), offset).clone()


def _rebuilt_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter is no tensor")
    return tensor


def _names() -> dict[tuple[str, str], Any]:
    """What torch writes of tensors, by package and name."""
    return {
        **{("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()},
        ("torch", "_rebuild_tensor_v2"): _rebuilt,
        ("torch", "_rebuild_parameter"): _rebuilt_parameter,
        ("torch", "Size"): tuple,
    }
