"""Numbers and flags that users give: checked where they come in, and refused by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeGuard, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


class NotThereError(KeyError, ValueError):
    """A column, key or name that is not there: a KeyError for scripts that expect one, and a ValueError as well."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # that of KeyError puts the text in quotes


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer, of Python or of numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite real number, of Python or of numpy; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def check_integer(name: str, value: Any, least: int, most: int | None = None, wanted: str | None = None) -> int:
    """The value as an int, refused if it is no integer in the range; `wanted` says the range in words."""
    if not is_integer(value) or value < least or (most is not None and value > most):
        at_least = "a positive integer" if least == 1 else f"an integer of at least {least}"
        in_words = at_least if most is None else f"an integer from {least} to {most}"
        raise ValueError(f"{name}={value!r} is not {wanted or in_words}")
    return int(value)


def check_number(name: str, value: Any, wanted: str, above: float = -math.inf, least: float = -math.inf) -> float:
    """The value as a float, refused if it is no finite number above `above` and at least `least`."""
    if not (is_number(value) and value > above and value >= least):
        raise ValueError(f"{name}={value!r} is not {wanted}")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """The value as a bool, refused if it is anything but True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r} is not True or False")
    return bool(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...] | list[str]) -> None:
    """Refuse an option that is not one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def check_draws(name: str, value: Any) -> None:
    """Refuse a number of posterior draws that is none."""
    check_integer(name, value, 1, wanted="a number of draws, an integer from 1 on")


def check_rates(**rates: Any) -> None:
    """Refuse dropout rates that are none."""
    for name, value in rates.items():
        if not (is_number(value) and 0 <= value < 1):
            raise ValueError(f"{name}={value!r} is not a number in [0, 1)")


def check_sizes(least: int, **sizes: Any) -> None:
    """Refuse sizes of networks that are no integers from `least` on."""
    for name, value in sizes.items():
        check_integer(name, value, least)


def batch_code(name: str, code: Any, n_batch: int) -> int | None:
    """The code of one of `n_batch` batches as an int; None stays None. 0 and 1 batches both have the code 0."""
    if code is None:
        return None
    try:
        position = operator.index(code)
    except TypeError:
        raise ValueError(f"{name}={code!r} is not the code of a batch, an integer") from None
    if not 0 <= position < max(n_batch, 1):
        raise ValueError(f"{name}={code!r} is not a batch of this model, which has 0 to {max(n_batch, 1) - 1}")
    return position


def superseded(**remedies: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuses arguments that release 0.5 had and 0.6 has not, by a TypeError that says what to pass instead.

    Parameters
    ----------
    **remedies
        The sentence to say, by the name of the argument.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in remedies.keys() & kwargs.keys():
                raise TypeError(f"{name!r} was an argument in release 0.5 and is none any more: {remedies[name]}")
            return function(*args, **kwargs)

        return checked

    return mark


def one_of_two(name: str, value: Any, former: str, given: Any, default: Any) -> Any:
    """The value of an argument that may come under its former name, refused where it comes under both."""
    if given is None:
        return value
    if value != default:
        raise TypeError(f"{former}={given!r} is {name} under its name of release 0.5, and {name}={value!r}: pass one")
    return given
