"""What users added to a model: attributes whose names end in an underscore, as in scikit-learn."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def added_attributes(model: object) -> dict[str, Any]:
    """The attributes that are saved with a model, by name; those of other types than JSON has are named in the log."""
    found, left = {}, []
    for name, value in vars(model).items():
        if _is_name(name, type(model)):
            try:
                found[name] = in_json(value)
            except TypeError as error:
                left.append(f"{name} ({error})")
    if left:
        logger.warning(
            "Not saved with the model, because only numbers, strings, flags, lists and dicts of these are: %s.",
            ", ".join(left),
        )
    return found


def checked_attributes(values: Any) -> dict[str, Any]:
    """The attributes that a file has; ValueError if it could not be those of a user."""
    if not isinstance(values, dict) or not all(_is_name(name, object) for name in values):
        raise ValueError(f"attributes is {values!r}")
    return values


def _is_name(name: str, kind: type) -> bool:
    """Whether it may be a user's; what a class has itself is not."""
    return name.isidentifier() and name.endswith("_") and not name.startswith("_") and not hasattr(kind, name)


def in_json(value: Any) -> Any:
    """The same in types of JSON; TypeError for what JSON has none for."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, (np.integer, np.bool_, np.str_)):
        return in_json(value.item())
    if isinstance(value, (list, tuple)):
        return [in_json(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: in_json(entry) for key, entry in value.items()}
    raise TypeError(type(value).__name__)
