"""Fast numerics with one door each: compiled code on the CPU, torch operations on every other device.

The choice is made here and nowhere else. numba is imported by the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scvi.kernels import twin
from scvi.kernels.parallel import row_blocks, run_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix

__all__ = ["find_bad_count", "nll_nb", "nll_poisson", "nll_zinb", "rows_to_dense"]

_REASONS = {1: "non-finite", 2: "negative", 3: "non-integer"}


def nll_zinb(
    x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor, dropout: Tensor, weight: float = 1.0
) -> Tensor:
    """Negative log-likelihood of zero-inflated negative binomial counts, summed over genes.

    Parameters
    ----------
    x
        (n, g) counts.
    logits
        (..., n, g), s leading draws allowed; the expected frequencies are their softmax.
    log_library
        (n, 1) or (..., n, 1).
    log_theta
        Log inverse dispersion, (g,), (n, g) or (..., n, g); clamped to [-18, 18].
    dropout
        (..., n, g) logits of the probability that a count was replaced by 0.
    weight
        The gradient with respect to each result that the caller expects to come (1 / n for a mean over cells). Any
        other gradient is handled too, at the price of another pass.

    Returns
    -------
    (..., n)
    """
    if _compiled(x, logits, log_library, log_theta, dropout):
        return _fused(x, logits, log_library, log_theta, dropout, weight)
    return -twin.log_zinb(x, logits, log_library, log_theta, dropout).sum(-1)


def nll_nb(x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor, weight: float = 1.0) -> Tensor:
    """As :func:`nll_zinb`, without zero inflation."""
    if _compiled(x, logits, log_library, log_theta):
        return _fused(x, logits, log_library, log_theta, None, weight)
    return -twin.log_nb(x, logits, log_library, log_theta).sum(-1)


def nll_poisson(x: Tensor, logits: Tensor, log_library: Tensor, weight: float = 1.0) -> Tensor:
    """As :func:`nll_zinb`, for Poisson counts."""
    if _compiled(x, logits, log_library):
        return _fused(x, logits, log_library, None, None, weight)
    return -twin.log_poisson(x, logits, log_library).sum(-1)


def _compiled(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def _fused(
    x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor | None, dropout: Tensor | None, weight: float
) -> Tensor:
    from scvi.kernels.fused import FusedLikelihood

    return FusedLikelihood.of(x, logits, log_library, log_theta, dropout, weight)


def rows_to_dense(
    counts: csr_matrix | csr_array | np.ndarray, rows: np.ndarray, columns: np.ndarray | None, n_genes: int
) -> Tensor:
    """Rows of a count matrix as a float32 tensor.

    Parameters
    ----------
    counts
        (n, stored genes) of any integer or float type; column indices need not be sorted, duplicates add up.
    rows
        Positions, in the order wanted.
    columns
        int32; position of each stored gene in the result, -1 leaves it out. None: as stored.
    n_genes
        Columns of the result.

    Returns
    -------
    (len(rows), n_genes)
    """
    from scvi.kernels import sparse

    out = np.zeros((len(rows), n_genes), dtype=np.float32)
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    columns = np.empty(0, np.int32) if columns is None else np.ascontiguousarray(columns, dtype=np.int32)

    def work(_: int, start: int, stop: int) -> None:
        block = (start, stop)
        if isinstance(counts, np.ndarray):
            sparse.dense_rows(counts, rows, block, columns, out)
        else:
            sparse.csr_rows(counts.data, counts.indices, counts.indptr, rows, block, columns, out)

    run_blocks(work, row_blocks(len(rows), min_rows=32))
    return torch.from_numpy(out)


def find_bad_count(values: np.ndarray) -> tuple[int, str] | None:
    """Flat position and kind of the first value that is no count: 'non-finite', 'negative' or 'non-integer'."""
    if values.dtype.kind == "u" or values.dtype.kind == "b":
        return None
    from scvi.kernels import sparse

    position, reason = sparse.first_bad_count(np.ascontiguousarray(values).reshape(-1))
    return None if position < 0 else (int(position), _REASONS[reason])
