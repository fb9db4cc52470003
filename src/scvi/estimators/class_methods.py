"""Class methods that are functions of a module, taken over by name in the body of a class."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
M = TypeVar("M")


class making_a_model(Generic[P]):
    """Makes a class method of a function of a class: one that answers with a model of the class that lists it."""

    def __init__(self, function: Callable[Concatenate[Any, P], Any]) -> None:
        self.function = function

    def __get__(self, model: object, cls: type[M]) -> Callable[P, M]:
        return MethodType(self.function, cls)
