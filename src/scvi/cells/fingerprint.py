"""What tells the cells that a model was set up for from others, but for their counts (see :mod:`scvi.cells.guard`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from scvi.cells.chosen import chosen_genes
from scvi.cells.encode import encode
from scvi.cells.schema import Schema

_DERIVED = ("l_mean", "l_var")  # of the batch


def fingerprint(adata: AnnData, schema: Schema) -> dict[str, str]:
    """Digests by name of what they are of: names of cells and genes, and each kind of what `schema` reads of a cell.

    They are of what a model gets to see: how a column is stored does not matter. No count is read.
    """
    data = encode(adata, schema, validate=False)
    parts: dict[str, Any] = {"names of cells": _text(adata.obs_names), "names of genes": _text(adata.var_names)}
    parts |= {_place(schema, name): values for name, values in data.given().items() if name not in _DERIVED}
    if schema.mask_var is not None:
        parts["genes in mask_var"] = _text(chosen_genes(adata, schema.mask_var))
    return {name: _digest(values) for name, values in parts.items()}


def _place(schema: Schema, name: str) -> str:
    """Where what is known of each cell is read, as a user writes it."""
    columns: dict[str, Sequence[str | None]] = {
        "batch": [schema.batch_key],
        "labels": [schema.labels_key],
        "log_size": [schema.size_factor_key],
        "continuous": schema.continuous_covariate_keys,
        "categorical": schema.categorical_covariate_keys,
    }
    return ", ".join(f"adata.obs[{key!r}]" for key in columns.get(name, ()) if key is not None) or name


def digest_of_names(names: Iterable[Any]) -> str:
    """Changes with any name, and with their order."""
    return _digest(_text(names))


def _digest(values: Any) -> str:
    content = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _text(names: Iterable[Any]) -> bytes:
    every = list(map(str, names))
    text = "\0".join(every)
    if text.count("\0") >= max(len(every), 1):  # a name holds what separates them
        return json.dumps(every).encode() + b"\xff"  # as no text ends
    return text.encode("utf-8", "surrogatepass")
