"""Seeds: where they come from, and how a piece of code uses one without touching anybody else's random numbers."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scvi._checks import check_integer
from scvi._settings import settings


def resolve_seed(seed: int | None) -> int:
    """The given seed, else `scvi.settings.seed`, else fresh entropy."""
    if seed is None:
        return settings.seed if settings.seed is not None else secrets.randbits(32)
    return check_integer("seed", seed, 0, 2**32 - 1, "an integer from 0 to 2**32 - 1")


def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own, for one fit or query."""
    return torch.Generator(device).manual_seed(resolve_seed(seed))


class seeded(TorchFunctionMode):
    """A context in which all random numbers of torch come from generators of its own, in this thread and no other.

    They are those that torch's global generators would give after ``torch.manual_seed(seed)``. It is for constructors
    of networks, since torch's have no argument for a generator. Each operation pays some microseconds for it: code
    that runs in every step passes a generator on instead.

    Raises
    ------
    RuntimeError
        Inside, for a random operation that cannot be given a generator.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self._seed = resolve_seed(seed)
        self._generators: dict[str, torch.Generator] = {}  # by kind of device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if given.get("generator") is not None or not _draws(func):
            return func(*args, **given)
        given["generator"] = self._generator_for(args, given)
        try:
            return func(*args, **given)
        except TypeError as error:
            if "generator" not in str(error):
                raise
            raise RuntimeError(
                f"{func.__name__} draws from torch's global generator and can be given no other"
            ) from error

    def _generator_for(self, args: Sequence[Any], given: Mapping[str, Any]) -> torch.Generator:
        """That of the device on which an operation with these arguments draws."""
        of_tensors = (value.device for value in [*args, *given.values()] if isinstance(value, Tensor))
        device = torch.device(next(of_tensors, given.get("device") or torch.get_default_device()))
        if device.type not in self._generators:
            self._generators[device.type] = generator_of(self._seed, device)
        return self._generators[device.type]


@cache
def _draws(func: Callable[..., Any]) -> bool:
    """Whether a function of torch draws: compiled ones are marked so, those in Python have an argument for it."""
    operation = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    forms = [] if operation is None else [getattr(operation, name) for name in operation.overloads()]
    if any(torch.Tag.nondeterministic_seeded in form.tags for form in forms):
        return True
    return inspect.isfunction(func) and "generator" in inspect.signature(func).parameters
