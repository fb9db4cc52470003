"""Codes of categories as one-hot columns, and the columns of tables that have one for each category."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_hot(index: Tensor, n_cat: int) -> Tensor:
    """Codes (n, 1) -> float32 (n, n_cat)."""
    return torch.zeros(index.shape[0], n_cat, device=index.device).scatter_(1, index.long(), 1.0)


def as_one_hot(codes: Tensor, n_cat: int) -> Tensor:
    """Codes (n, 1), or rows that are one-hot already, -> (n, n_cat)."""
    return codes.float() if codes.shape[1] == n_cat else one_hot(codes, n_cat)


def columns_of(table: Tensor, codes: Tensor | None, name: str) -> Tensor:
    """Of a table by gene and category the column of each cell.

    Parameters
    ----------
    table
        (g, k).
    codes
        (n, 1), or one-hot rows or weights (..., n, k). None will do where there is one category.
    name
        What a user calls the codes.

    Returns
    -------
    (..., n, g), or (g,) without codes
    """
    n_cat = table.shape[1]
    if codes is None:
        if n_cat > 1:
            raise ValueError(f"the dispersion differs between {n_cat} categories: {name} is needed, None came")
        return table[:, 0]
    if codes.shape[-1] == n_cat and n_cat > 1:
        return codes.float() @ table.T
    return table.T[codes[:, 0].long()]


def table_shape(option: str, value: str, n_genes: int, n_batch: int, n_labels: int) -> tuple[int, ...]:
    """(g, k) for an option like 'gene-batch' or 'gene-label', (g,) for others; ValueError without any category."""
    sizes = {"batch": ("n_batch", n_batch), "label": ("n_labels", n_labels)}
    name, size = sizes.get(value.partition("-")[2], ("", None))
    if size is None:
        return (n_genes,)
    if size < 1:
        raise ValueError(f"{option}={value!r} needs {name} >= 1, got {name}={size}")
    return n_genes, size


def enumerate_discrete(x: Tensor, y_dim: int) -> Tensor:
    """One-hot rows of every label for every row of `x`, label by label: (y_dim * n, y_dim)."""
    labels = torch.arange(y_dim, device=x.device).repeat_interleave(x.shape[0])
    return one_hot(labels[:, None], y_dim)


def iterate(obj: Any, func: Callable[[Any], Any]) -> Any:
    """Apply `func` to the leaves of nested lists and tuples; None stays None."""
    if type(obj) in (list, tuple):
        return type(obj)(iterate(item, func) for item in obj)
    return func(obj) if obj is not None else None


def broadcast_labels(y: Tensor | None, *o: Tensor | None, n_broadcast: int = -1) -> tuple[Any, ...]:
    """Pair cells with labels.

    Known labels (n, 1) become one-hot rows and the tensors `o` stay as they are. Without labels each tensor is repeated
    once for every label, label by label, so that row ``k * n + i`` is cell i with label k.

    Returns
    -------
    (ys, *o)
    """
    if not o:
        raise ValueError("Broadcast must have at least one reference argument")
    if y is not None:
        return (one_hot(y, n_broadcast), *o)
    ys = enumerate_discrete(o[0], n_broadcast)  # type: ignore[arg-type]
    repeated = iterate(list(o), lambda t: t.repeat(n_broadcast, 1) if t.dim() == 2 else t.repeat(n_broadcast))
    return (ys, *repeated)
