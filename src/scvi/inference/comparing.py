"""Pairs of samples, summaries, and workbooks of tables: names of 2020, which scripts find in `posterior_utils`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from scvi._checks import check_integer
from scvi.queries import evidence


def pairs_sampler(
    arr1: npt.ArrayLike,
    arr2: npt.ArrayLike,
    use_permutation: bool = True,
    M_permutation: int | None = None,
    sanity_check_perm: bool = False,
    weights1: npt.ArrayLike | None = None,
    weights2: npt.ArrayLike | None = None,
    *,
    seed: int | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows of two arrays as pairs.

    Parameters
    ----------
    use_permutation
        Draw rows of both with replacement; otherwise the arrays are returned as they are.
    M_permutation
        So many pairs; None: as many as both arrays have rows together.
    sanity_check_perm
        Draw both from all rows of the two arrays: no difference is left between them.
    weights1, weights2
        Probabilities of the rows of each array; None: all are alike.
    seed
        Seed of the draws; None for torch's global generator, which `scvi.set_seed` seeds.

    Returns
    -------
    Two arrays of `M_permutation` rows
    """
    first, second = np.asarray(arr1), np.asarray(arr2)
    if not use_permutation:
        return first, second
    if not len(first) or not len(second):
        raise ValueError(f"pairs of {len(first)} and {len(second)} rows: both arrays need some")
    n = len(first) + len(second) if M_permutation is None else check_integer("M_permutation", M_permutation, 1)
    rng = np.random.default_rng(int(torch.randint(2**31, ())) if seed is None else seed)
    if sanity_check_perm:
        first = second = np.concatenate([first, second])
        weights1 = weights2 = None
    chosen = [
        rng.choice(len(rows), n, p=None if p is None else np.asarray(p, dtype=np.float64))
        for rows, p in ((first, weights1), (second, weights2))
    ]
    return first[chosen[0]], second[chosen[1]]


def credible_intervals(ary: npt.ArrayLike, confidence_level: float = 0.94) -> npt.NDArray[Any]:
    """The narrowest interval with this share of the samples: (2,) of (s,), (g, 2) of (s, g)."""
    return evidence.credible_intervals(ary, confidence_level)


def describe_continuous_distrib(
    samples: npt.ArrayLike, credible_intervals_levels: Sequence[float] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Mean, median, std, min and max of samples (s, g), each (g,), and 'confidence_interval_LEVEL_min' and '_max'."""
    return evidence.described(np.asarray(samples), tuple(credible_intervals_levels or ()))


def save_cluster_xlsx(filepath: str | Path, de_results: Sequence[pd.DataFrame], cluster_names: Sequence[Any]) -> None:
    """Writes a workbook with a sheet for each table, which is named after its cluster.

    A name is cut to the 31 characters that a sheet may have, and characters that it may not have become ``_``; where
    two are the same then, the second gets a number.

    Raises
    ------
    ImportError
        If openpyxl is not installed.
    """
    if len(de_results) != len(cluster_names) or not len(de_results):
        raise ValueError(f"{len(de_results)} tables and {len(cluster_names)} names: give one for each, at least one")
    try:
        import openpyxl  # noqa: F401  # pandas writes workbooks through it
    except ImportError as error:
        raise ImportError("writing .xlsx needs openpyxl: pip install 'scvi[xlsx]'") from error
    names: list[str] = []
    for number, name in enumerate(cluster_names):
        plain = re.sub(r"[\[\]:*?/\\]", "_", str(name))[:31] or "_"
        is_taken = plain.lower() in {other.lower() for other in names}
        names.append(f"{plain[: 30 - len(str(number))]} {number}" if is_taken else plain)
    with pd.ExcelWriter(filepath, engine="openpyxl") as writer:
        for table, name in zip(de_results, names, strict=True):
            table.to_excel(writer, sheet_name=name)
