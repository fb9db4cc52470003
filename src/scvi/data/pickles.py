"""Metadata that were published as pickles of pandas and numpy objects."""

from __future__ import annotations

import os
from typing import Any

from scvi._unpickling import unpickled
from scvi.data.files import Unreadable, existing, open_bytes, readable_as, require

_LARGEST = 2**30


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What a pickle holds, if that is containers, numbers, texts, numpy arrays and pandas objects only.

    Raises
    ------
    ValueError
        If it is damaged, unpacks to more than 1 GiB, or names anything else, which is not even looked up.
    """
    path = existing(path)
    with readable_as(path, "a pickle of pandas and numpy objects"), open_bytes(path) as file:
        contents = file.read(_LARGEST + 1)
        if len(contents) > _LARGEST:
            raise Unreadable(f"{path} holds more than {_LARGEST} bytes; it is no table of metadata")
        return unpickled(contents)


def read_metadata(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """What a pickle holds, if that is a dictionary with these keys at least.

    Raises
    ------
    ValueError
        As :func:`read_pickle`, and if a key is missing.
    """
    metadata = read_pickle(path)
    require(path, metadata if isinstance(metadata, dict) else (), keys)
    return metadata
