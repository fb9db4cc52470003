"""Names that weights and modules have in files of earlier versions, which go on loading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

Value = TypeVar("Value")

_LIBRARY_OF_TOTALVI = re.compile(r"\bencoder\.l_(?=(?:mean_|var_)?encoder\b)")  # now, and in 2020, encoder.l_gene_...


def present_name(name: str) -> str:
    """The name of today of a weight or a module, under whatever prefix."""
    return _LIBRARY_OF_TOTALVI.sub("encoder.l_gene_", name)


def renamed(named: Mapping[str, Value]) -> dict[str, Value]:
    """The same under the names of today; where that is taken, a name stays and is refused as any that is unknown."""
    return {name if present_name(name) in named else present_name(name): value for name, value in named.items()}


def rename_weights(module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    """A hook before `load_state_dict`."""
    weights = renamed(state_dict)
    if weights.keys() != state_dict.keys():
        state_dict.clear()
        state_dict.update(weights)
