"""Counts of samples added up and tested as those of bulk sequencing, by PyDESeq2."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pandas as pd

from scvi.queries.count_sums import CountSums
from scvi.queries.score_test import Tested


def pseudobulk_test(sums: CountSums) -> Tested:
    """The Wald test of DESeq2 (Love et al. 2014) of the first group against the second, units being samples.

    Samples that are all in both groups are pairs. Sums of estimated counts are rounded.

    Returns
    -------
    NaN where nothing was counted, or where a group has fewer than two samples.
    """
    n_genes = sums.x.shape[2]
    units, groups = np.nonzero(np.any(sums.n > 0, axis=2))
    nothing = np.full(n_genes, np.nan)
    if (np.bincount(groups, minlength=2) < 2).any():
        return Tested(nothing, nothing)
    names = [f"{unit}:{group}" for unit, group in zip(units, groups, strict=True)]
    counts = pd.DataFrame(np.rint(sums.x[units, groups]).astype(np.int64), index=names)
    is_counted = (counts > 0).any(axis=0).to_numpy()
    about = pd.DataFrame(
        {"group": np.where(groups == 0, "first", "second"), "unit": [f"u{u}" for u in units]}, index=names
    )
    is_paired = len(units) == 2 * len(np.unique(units))
    lfc, p = nothing.copy(), nothing.copy()
    lfc[is_counted], p[is_counted] = _deseq2(
        counts.loc[:, is_counted], about, "~ unit + group" if is_paired else "~ group"
    )
    return Tested(lfc, p)


def _deseq2(counts: pd.DataFrame, about: pd.DataFrame, design: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        dds, ds = import_module("pydeseq2.dds"), import_module("pydeseq2.ds")
    except ImportError as error:
        raise ImportError("pseudobulk=True needs PyDESeq2: pip install 'scvi[pseudobulk]'") from error
    counts.columns = [f"g{i}" for i in range(counts.shape[1])]
    fitted = dds.DeseqDataSet(counts=counts, metadata=about, design=design, quiet=True, n_cpus=1)
    fitted.deseq2()
    stats = ds.DeseqStats(fitted, contrast=["group", "first", "second"], quiet=True, n_cpus=1)
    stats.summary()
    table = stats.results_df.loc[counts.columns]
    return table["log2FoldChange"].to_numpy(), table["pvalue"].to_numpy()
