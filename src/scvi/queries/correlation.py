"""How features go together over cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from scvi.queries.evaluation import joined

_BLOCK = 2**21  # elements that are ranked, or centred, at once

Kind = Literal["spearman", "pearson"]


def correlation(blocks: Iterable[np.ndarray], kind: Kind = "spearman") -> np.ndarray:
    """(f, f) correlation of features over the rows of all blocks (r, f); 0 for a feature that does not vary.

    Pearson's holds a block and the result, from whose sums of products it is computed. Spearman's is that of the ranks,
    equal values sharing their mean rank, for which all rows are held, once, in float32.
    """
    if kind == "spearman":
        blocks = _ranked(joined(blocks))
    return _from_moments(blocks)


def _ranked(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in blocks, with their values replaced by ranks within the feature, some features at a time."""
    from scipy.stats import rankdata

    step = max(1, _BLOCK // len(rows))
    for start in range(0, rows.shape[1], step):
        rows[:, start : start + step] = rankdata(rows[:, start : start + step], axis=0)
    step = max(1, _BLOCK // rows.shape[1])
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _from_moments(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Pearson's correlation of rows that come block by block.

    Sums are those of differences from the first row: its size is about that of the values, so that little cancels, and
    a feature that does not vary gives zeros.
    """
    from scipy.linalg.blas import dsyrk

    origin, n = None, 0
    for rows in blocks:
        if origin is None:
            origin = rows[0].astype(np.float64)
            sums, products = np.zeros(len(origin)), np.zeros((len(origin), len(origin)), order="F")
        differences = rows - origin
        sums += differences.sum(axis=0)
        products = dsyrk(1.0, differences.T, beta=1.0, c=products, overwrite_c=True)  # the upper triangle
        n += len(rows)
    if origin is None:
        raise ValueError("there are no rows to correlate")
    for i, of_mean in enumerate(sums / n):
        products[: i + 1, i] -= sums[: i + 1] * of_mean
    norms = np.sqrt(np.diag(products).clip(min=0))
    norms[norms == 0] = np.inf
    for i, norm in enumerate(norms):
        products[: i + 1, i] /= norms[: i + 1] * norm
        products[i, :i] = products[:i, i]
    np.fill_diagonal(products, 1.0)
    return products
