"""What `train` was told, so that a fit can be repeated: kept with the model, and written into its file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from scvi._random import resolve_seed
from scvi.estimators.added import in_json

# They change nothing of the result: where a fit is written, shown and watched.
_NO_MATTER = {"self", "seed", "checkpoint_dir", "resume", "enable_progress_bar", "logger", "callbacks"}


def told(train: Callable[..., None], given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The arguments that differ from the defaults of `train`, in types of JSON, and the seed that the fit has.

    What JSON has no type for, such as positions of cells, is a text in angle brackets: there is something to give.
    """
    defaults = {name: argument.default for name, argument in inspect.signature(train).parameters.items()}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in _NO_MATTER or value is defaults.get(name):
            continue
        try:
            value = in_json(value)
        except TypeError:
            value = f"<{type(value).__name__}>"
        if value != defaults.get(name):
            found[name] = value
    return {**found, "seed": seed}


def checked_calls(values: Any) -> list[dict[str, Any]]:
    """What a file says of the fits; ValueError if they are none."""
    if not isinstance(values, list) or not all(isinstance(call, dict) for call in values):
        raise ValueError(f"fits is {values!r}")
    return values


def checked_first(value: Any) -> dict[str, Any] | None:
    """What a file says of the model that the weights are from; ValueError if it is nothing of the kind."""
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"labels_key", "seed", "fits"}:
        raise ValueError(f"first is {value!r}")
    resolve_seed(value["seed"])
    checked_calls(value["fits"])
    return value
