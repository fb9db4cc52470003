"""Numbers of the formats of what is written, and readers of older ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from scvi._checks import is_integer

Reader: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns what a format holds into what the next one does."""


def in_format(
    newest: int, what: str, values: Mapping[str, Any], readers: Mapping[int, Reader] = MappingProxyType({})
) -> dict[str, Any]:
    """What this version or an earlier one wrote, as this version writes it, without the number of its format.

    Parameters
    ----------
    newest
        The format of this version.
    what
        What it is, for the message.
    values
        It; without an entry 'format' it is of the first.
    readers
        By the number of an older format, where the next one has more than another number.

    Raises
    ------
    ValueError
        If the format is not known, as that of a newer version.
    """
    values = dict(values)
    number = values.pop("format", 1)
    if not is_integer(number) or not 1 <= number <= newest:
        raise ValueError(
            f"{what} has format {number!r}, of another version of scvi; this one reads 1 to {newest}: update scvi"
        )
    for older in range(number, newest):
        values = readers[older](values) if older in readers else values
    return values
