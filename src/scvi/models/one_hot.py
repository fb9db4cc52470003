"""Codes of categories as one-hot columns, and the columns of tables that have one for each category."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_one_hot", "columns_of", "one_hot", "table_shape"]


def one_hot(index: Tensor, n_cat: int) -> Tensor:
    """Codes (n, 1) -> float32 (n, n_cat)."""
    onehot = torch.zeros(index.shape[0], n_cat, device=index.device)
    return onehot.scatter_(1, index.long(), 1.0)


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
