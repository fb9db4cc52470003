"""Numbers of the formats of what is written, and readers of older ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from scvi._checks import is_integer

__all__ = ["Reader", "in_current_format"]

Reader: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns what a format holds into what the next one does."""


def in_current_format(what: str, values: Mapping[str, Any], readers: Sequence[Reader]) -> dict[str, Any]:
    """What was written by this version or an earlier one, as this version writes it, without the number of its format.

    Parameters
    ----------
    what
        What it is, for the message.
    values
        It; without an entry 'format' it is of the first.
    readers
        One for each older format, from the first on.

    Raises
    ------
    ValueError
        If the format is not known, as that of a newer version.
    """
    values, newest = dict(values), len(readers) + 1
    number = values.pop("format", 1)
    if not is_integer(number) or not 1 <= number <= newest:
        raise ValueError(
            f"{what} has format {number!r}, of another version of scvi; this one reads 1 to {newest}: update scvi"
        )
    for read in readers[number - 1 :]:
        values = read(values)
    return values
