"""When two values are one category: a batch, a label or a covariate is what it says, not how it is spelled.

Codes become floats where a join leaves gaps, and text in a csv file. So an integer and its float are one category in
whatever type they come: 3, 3.0, "3" and "3.0". True is 1 and False is 0, and as text they are "True" and "False". Text
is a number only where it is spelled just as Python spells that number: "1.10" is not 1.1, and "01", "1e3" and " 1" are
no integers. A number in single precision is the one of the fewest digits, as it is printed: float32(0.1) is 0.1.

This is for matching alone. What is shown, stored or answered is spelled as in the cells that the model was made with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

_UNKNOWN = re.compile(
    r"(un(known|assigned|label+ed|classified|defined|determined|specified|annotated|identified)"
    r"|not (known|assigned|label+ed|classified|annotated)|ambiguous)( cells?| type)?"
    r"|missing|none|null|n[ /]?a|nan|[ ?]*"
)


def reads_as_unknown(name: str) -> bool:
    """Whether a category reads as if nothing were known: 'Unassigned', 'not_known', 'N.A.', '?'."""
    return _UNKNOWN.fullmatch(re.sub(r"[\s_.-]+", " ", name.casefold()).strip()) is not None


def key_of(value: Any) -> str:
    """A text that two values have in common just where they are one category."""
    if isinstance(value, (Integral, np.bool_)):  # True and False are integers of Python
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return _key_of_number(float(value))
    text = str(value)
    if text in ("True", "False"):
        return key_of(text == "True")
    try:
        number = float(text)
    except ValueError:
        return text
    return _key_of_number(number) if repr(number) == text else text


def places_among(known: Sequence[str], values: Iterable[Any]) -> np.ndarray:
    """(k,) int64 where each value is among the known categories; -1 where it is none of them.

    One of the very spelling goes first: a model of an earlier version may know two spellings of a category.
    """
    positions = range(len(known))[::-1]
    of_spelling = {known[position]: position for position in positions}
    of_key = {key_of(known[position]): position for position in positions}
    places = (of_spelling.get(str(value), of_key.get(key_of(value), -1)) for value in values)
    return np.fromiter(places, dtype=np.int64)


def joined(known: Sequence[str], further: Sequence[str]) -> tuple[str, ...]:
    """The known categories, and after them those of `further` that are new."""
    places = places_among(known, further)
    return (*known, *(name for name, place in zip(further, places, strict=True) if place < 0))


def _key_of_number(number: float) -> str:
    if not math.isfinite(number):
        return repr(number)
    if number.is_integer():
        return str(int(number))  # also of -0.0
    with np.errstate(all="ignore"):  # too large or too small for single precision, so no number of it
        single = np.float32(number)
    return repr(float(str(single)) if float(single) == number else number)
