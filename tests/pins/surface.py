"""What a caller sees of the public names: their arguments with defaults. Annotations are left to the type checker."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

DOOR = "scvi"
"""The module whose classes are pinned with all that is public; of others the names that stand in the file are."""


def describe(pinned: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The surface as it is: of each module the names that are pinned, of :data:`DOOR` all methods."""
    return {
        module: {name: _describe_name(module, name, old) for name, old in names.items()}
        for module, names in pinned.items()
    }


def _describe_name(module: str, name: str, old: Any) -> Any:
    """An alias by the name of its home, a class by its methods (under "" the constructor), else the arguments."""
    value = getattr(import_module(module), name, None)
    if isinstance(old, str) and old.startswith("= "):
        home, _, original = old[2:].rpartition(".")
        return old if value is getattr(import_module(home), original, None) else f"not {old[2:]}"
    if not inspect.isclass(value):
        return _arguments(value)
    methods = public(value) if module == DOOR else [method for method in old if method]
    return {"": _arguments(value), **{method: _member(value, method) for method in methods}}


def public(cls: type) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def _member(cls: type, name: str) -> str:
    value = inspect.getattr_static(cls, name, None)
    if value is None:
        return "missing"
    if isinstance(value, property):
        return "property"
    return _arguments(getattr(cls, name)) if callable(getattr(cls, name)) else "attribute"


def _arguments(value: Any) -> str:
    """Such as ``(self, adata=None, *, seed=None)``."""
    if value is None:
        return "missing"
    signature = inspect.signature(value)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


class _Default:
    """A default value by what it is called, wherever its class lives."""

    def __init__(self, value: Any) -> None:
        self.text = value.__name__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)

    def __repr__(self) -> str:
        return re.sub(r" at 0x[0-9a-f]+", "", self.text)


def _default(value: Any) -> Any:
    return value if value is inspect.Parameter.empty else _Default(value)


def changes(found: Mapping[str, Any], pinned: Mapping[str, Any]) -> list[str]:
    """Lines that say what differs."""
    return list(_changes("", found, pinned))


def _changes(path: str, found: Any, pinned: Any) -> Iterable[str]:
    if isinstance(found, Mapping) and isinstance(pinned, Mapping):
        for name in {**pinned, **found}:
            yield from _changes(f"{path}.{name}".strip("."), found.get(name, "missing"), pinned.get(name, "missing"))
    elif found != pinned:
        yield f"{path} is {found}, was {pinned}"
