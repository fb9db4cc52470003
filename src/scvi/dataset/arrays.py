"""Functions of count matrices and category codes that :mod:`scvi.dataset.dataset` offers under their 2020 names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from scvi.cells.storage import Rows, as_rows, row_sums
from scvi.kernels import find_bad_count

__all__ = [
    "LARGEST_CODE",
    "array_if_small",
    "as_array",
    "as_text",
    "check_nonnegative_integers",
    "checked_matrix",
    "columns_of",
    "compute_library_size",
    "concatenate_arrays",
    "corrupted_counts",
    "log_totals",
    "mean_and_variance",
    "nonzero_per_gene",
    "per_cell_mean_one",
    "positions_of",
    "remap_categories",
]

logger = logging.getLogger(__name__)

LARGEST_CODE = np.iinfo(np.uint16).max
LARGEST_ARRAY = 10**9
"""Bytes that the counts of a data set must stay below to be an array, float32."""


def remap_categories(
    original_categories: npt.ArrayLike,
    mapping_from: Sequence[int] | npt.NDArray | None = None,
    mapping_to: Sequence[int] | npt.NDArray | None = None,
    mappings_dict: Mapping[str, Sequence[Any] | npt.NDArray] | None = None,
) -> tuple[npt.NDArray, int] | tuple[npt.NDArray, int, dict[str, npt.NDArray]]:
    """Renumbers categories.

    Parameters
    ----------
    original_categories
        Codes, of any shape.
    mapping_from, mapping_to
        Code ``mapping_from[i]`` becomes ``mapping_to[i]``. By default the distinct codes, sorted, become 0, 1, 2...
        Codes that do not occur may be named.
    mappings_dict
        Lists indexed by the old codes, such as the names of the categories.

    Returns
    -------
    The new codes (uint16), the number of distinct codes, and, if `mappings_dict` is given, its lists in the new order.

    Raises
    ------
    ValueError
        If `mapping_from` lacks a code that occurs, the two mappings differ in length, a list of `mappings_dict` ends
        before a code, or there are more categories than codes.
    """
    codes = np.asarray(original_categories)
    occurring, place = np.unique(codes, return_inverse=True)
    old = occurring if mapping_from is None else np.asarray(mapping_from)
    new = np.arange(len(occurring)) if mapping_to is None else np.asarray(mapping_to)
    missing = np.setdiff1d(occurring, old)
    if len(missing):
        raise ValueError(f"mapping_from lacks the categories {missing.tolist()}, which occur")
    if len(old) != len(new):
        raise ValueError(f"mapping_from has {len(old)} entries and mapping_to {len(new)}; they must be pairs")
    if new.size and new.max() > LARGEST_CODE:
        raise ValueError(f"the categories go up to {new.max()}; codes go up to {LARGEST_CODE}")
    new_of_old = dict(zip(old.tolist(), new.tolist(), strict=True))
    translation = np.array([new_of_old[code] for code in occurring.tolist()], dtype=np.uint16)
    remapped = translation[place].reshape(codes.shape)
    n_categories = len(np.unique(translation))
    if mappings_dict is None:
        return remapped, n_categories
    size = int(new.max()) + 1 if len(new) else 0
    mappings = {}
    for name, values in mappings_dict.items():
        values = np.asarray(values)
        if old.size and old.max() >= len(values):
            raise ValueError(f"{name} has {len(values)} values, but the category {old.max()} occurs")
        mappings[name] = np.zeros((size, *values.shape[1:]), dtype=values.dtype)
        mappings[name][new] = values[old]
    return remapped, n_categories, mappings


def compute_library_size(data: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and population variance of the logs of the cells' totals, (1, 1) each; the log of an empty cell is 0."""
    mean, variance = mean_and_variance(log_totals(data))
    return mean.reshape(1, 1), variance.reshape(1, 1)


def log_totals(data: Rows) -> npt.NDArray[np.float32]:
    """(n,) logs of the cells' totals; 0 for empty cells, which are logged."""
    totals = row_sums(data)
    if not totals.all():
        logger.warning(
            "data has empty cells, may fail inference, filter with filter_cells_by_count (%d cells have no counts)",
            int((totals == 0).sum()),
        )
    with np.errstate(invalid="ignore"):  # what is negative or not finite has been logged
        return np.log(np.where(totals == 0, 1.0, totals)).astype(np.float32)


def mean_and_variance(logs: npt.NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """The variance is that of the population."""
    with np.errstate(invalid="ignore"):
        return np.float32(logs.mean(dtype=np.float64)), np.float32(logs.var(dtype=np.float64))


def concatenate_arrays(arrays: Sequence[Rows]) -> Rows:
    """Cells of several matrices in one: dense if all are, CSR otherwise."""
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    return sp.vstack([sp.csr_matrix(array) for array in arrays], format="csr")


def check_nonnegative_integers(X: npt.ArrayLike | sp.spmatrix | sp.sparray) -> bool:
    """True if every stored value is a finite integer from 0 on."""
    values = X.data if sp.issparse(X) else np.asarray(X).reshape(-1)  # type: ignore[union-attr]
    return find_bad_count(values) is None


def checked_matrix(X: Any) -> Rows:
    """A matrix as stored in a data set: ndarray or CSR. Values that are no counts are logged, not refused."""
    if not sp.issparse(X):
        X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X should be 2-dimensional (cells x genes); it has {X.ndim} dimensions")
    counts = as_rows(X, "X")
    if not check_nonnegative_integers(counts):
        logger.warning("X holds values that are negative, not finite or not integers; the models expect raw counts")
    return counts


def array_if_small(counts: Rows) -> Rows:
    """A float32 array, as most data sets of 2020 had, where that takes less than 1 GB; else the counts as they are."""
    if isinstance(counts, np.ndarray) or 4 * counts.shape[0] * counts.shape[1] >= LARGEST_ARRAY:
        return counts
    return counts.astype(np.float32, copy=False).toarray()


def as_text(names: Sequence[Any] | npt.NDArray, width: int) -> npt.NDArray[np.str_]:
    """Names as an array of at least this width; longer ones are not cut."""
    text = np.asarray(names).astype(str).ravel()
    return text.astype(f"<U{max(width, text.dtype.itemsize // 4)}")


def columns_of(matrix: Rows, genes: npt.NDArray[np.int64]) -> Rows:
    """A copy of the columns at these positions."""
    return np.take(matrix, genes, axis=1) if isinstance(matrix, np.ndarray) else matrix[:, genes]


def nonzero_per_gene(rows: Any) -> npt.NDArray[np.int64]:
    """(g,) how many cells have a value other than 0."""
    return np.asarray((rows != 0).sum(axis=0)).ravel()


def as_array(values: Any) -> Any:
    """An attribute as it is stored: ndarray, or CSR where it is sparse."""
    return sp.csr_matrix(values) if sp.issparse(values) else np.asarray(values)


def positions_of(subset: npt.ArrayLike, n: int, what: str) -> npt.NDArray[np.int64]:
    """Positions from positions (which may be negative, in any order, repeated) or from a mask of n values.

    Raises
    ------
    ValueError, IndexError
        If they are neither, or are out of range.
    """
    given = np.asarray(subset)
    if given.ndim == 1 and given.dtype.kind == "b":
        if len(given) != n:
            raise ValueError(f"the mask has {len(given)} values for {n} {what}")
        return np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"{what} are chosen by a list of positions or a mask; got {given.dtype} of shape {given.shape}"
        )
    outside = (given < -n) | (given >= n)
    if outside.any():
        raise IndexError(f"position {given[outside][0]} is out of range: there are {n} {what}")
    return np.where(given < 0, given + n, given).astype(np.int64)


def per_cell_mean_one(X: Rows) -> Rows:
    """Counts over the mean count of their cell; empty cells stay as they are. Sparse stays sparse."""
    means = row_sums(X) / max(X.shape[1], 1)
    means[means == 0] = 1.0
    if isinstance(X, np.ndarray):
        return (X / means[:, None]).astype(np.float32)
    values = (X.data / np.repeat(means, np.diff(X.indptr))).astype(np.float32)
    return type(X)((values, X.indices, X.indptr), shape=X.shape)


def corrupted_counts(X: Rows, rate: float, corruption: str, rng: np.random.Generator) -> Rows:
    """A copy of X with some counts replaced, see :meth:`GeneExpressionDataset.corrupt`."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r} is not between 0 and 1")
    noisy = X.copy()
    values = noisy.reshape(-1) if isinstance(noisy, np.ndarray) else noisy.data
    positive = np.flatnonzero(values)
    if corruption == "uniform":
        chosen = rng.choice(positive, int(rate * len(positive)), replace=False)
        values[chosen] *= rng.binomial(1, 0.9, len(chosen)).astype(values.dtype)
    elif corruption == "binomial":
        # of the entries chosen among all n x g, the zeros stay zero: only the number of the others matters
        n_entries = X.shape[0] * X.shape[1]
        n_chosen = _drawn_positive(len(positive), n_entries, int(rate * n_entries), rng)
        chosen = rng.choice(positive, n_chosen, replace=False)
        values[chosen] = rng.binomial(values[chosen].astype(np.int64), 0.2)
    else:
        raise NotImplementedError(
            f"Unknown corruption method. corruption={corruption!r} is not 'uniform' or 'binomial'"
        )
    return noisy


def _drawn_positive(positive: int, entries: int, drawn: int, rng: np.random.Generator) -> int:
    """How many positive entries are among `drawn` of `entries`, drawn without replacement."""
    if entries < 10**9:  # numpy's limit
        return int(rng.hypergeometric(positive, entries - positive, drawn))
    share = positive / entries
    spread = np.sqrt(drawn * share * (1 - share) * (1 - drawn / entries))
    return int(np.clip(round(rng.normal(drawn * share, spread)), 0, min(positive, drawn)))
