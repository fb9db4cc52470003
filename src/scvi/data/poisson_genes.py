"""Which genes are zero in more cells than a Poisson of their mean explains (Andrews & Hemberg 2019)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_flag, check_integer
from scvi.cells.checks import counts_name, named, obs_column
from scvi.cells.count_checks import Called, checked_counts, counts_of, warn_of_estimates
from scvi.cells.storage import Counts, Rows, blocks, without_repeats

_VALUES_AT_ONCE = 2**22


def poisson_gene_selection(
    adata: AnnData,
    layer: str | None = None,
    n_top_genes: int = 4000,
    accelerator: str = "auto",
    device: int | str = "auto",
    subset: bool = False,
    inplace: bool = True,
    n_samples: int = 10_000,
    batch_key: str | None = None,
    silent: bool = False,
    minibatch_size: int = 5000,
    *,
    use_gpu: bool | int | str | None = None,
    seed: int | None = None,
) -> pd.DataFrame | None:
    """Chooses the genes whose zeros are most enriched over those of a Poisson with the gene's share of each cell.

    In each batch, a gene that has the share s of all counts is expected to be zero in a cell of total t with
    probability exp(-s t). Of two draws, one with the observed fraction of zeros and one with the mean of the expected,
    its enrichment is the probability that the first is a zero and the second is not. Genes are ordered by the number of
    batches where they are among the first `n_top_genes`, then by their median rank. Counts are read in blocks.

    Parameters
    ----------
    layer
        Raw counts; None is `X`.
    n_top_genes
        How many to choose; all if there are fewer genes.
    subset
        Keep the chosen genes only; `adata` is in memory.
    inplace
        Add the columns to ``adata.var``, else return them.
    batch_key
        Column of ``adata.obs`` with the experimental batch; None takes all cells as one batch.
    accelerator, device, use_gpu, n_samples, seed, minibatch_size, silent
        Accepted and without effect: the probability is computed, not drawn, on the CPU and without a bar.

    Returns
    -------
    None, or one row per gene: ``highly_variable``, the medians over batches ``observed_fraction_zeros``,
    ``expected_fraction_zeros``, ``prob_zero_enrichment`` and ``prob_zero_enrichment_rank`` (the highest is the most
    enriched) and, with a `batch_key`, ``prob_zero_enriched_nbatches``.

    Raises
    ------
    ValueError
        If there are no cells, a batch is missing, values are no counts, or `subset` is asked of an open file.
    """
    n_top_genes = check_integer("n_top_genes", n_top_genes, 1)
    check_integer("n_samples", n_samples, 1)
    check_integer("minibatch_size", minibatch_size, 1)
    inplace = check_flag("inplace", inplace)
    if check_flag("subset", subset) and adata.isbacked:
        raise ValueError("subset=True needs counts in memory, and adata is an open file: pass adata.to_memory()")
    counts, codes = counts_of(adata, layer), _batch_codes(adata, batch_key)
    called = Called(counts_name(layer), adata.obs_names, adata.var_names, list(adata.layers))
    totals, estimates = checked_counts(counts, called)
    warn_of_estimates(estimates)
    table = _chosen(_enrichment(counts, totals, codes), n_top_genes).set_index(adata.var_names)
    if batch_key is None:
        table = table.drop(columns="prob_zero_enriched_nbatches")
    if not inplace:
        return table
    mask = table["highly_variable"].to_numpy()
    if subset:
        adata._inplace_subset_var(mask)
        table = table[mask]
    for name in table:
        adata.var[name] = table[name].to_numpy()
    adata.uns["hvg"] = {"flavor": "poisson_zeros"}
    return None


def _batch_codes(adata: AnnData, batch_key: str | None) -> np.ndarray:
    """(n,) numbers of the batches, from 0 on; each occurs."""
    if not adata.n_obs:
        raise ValueError("adata has no cells; fractions of zeros need some")
    if batch_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    codes, _ = pd.factorize(obs_column(adata, "batch_key", batch_key).to_numpy())
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise ValueError(
            f"batch_key={batch_key!r}: {len(missing)} cells have no batch ({named(adata.obs_names[missing])}); name "
            "their batch, or drop them"
        )
    return codes


def _enrichment(counts: Counts, totals: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(3, k, g): observed and expected fraction of zeros, and the enrichment, of each batch and gene."""
    k, g = codes.max() + 1, counts.shape[1]
    sums, detected = np.zeros((k, g)), np.zeros((k, g))
    for start, rows in blocks(counts):
        batches = codes[start : start + rows.shape[0]]
        added = sp.csr_matrix((np.ones(len(batches)), (batches, np.arange(len(batches)))), (k, len(batches)))
        values = rows if isinstance(rows, np.ndarray) else without_repeats(rows)
        sums += _dense(added @ values)
        detected += _dense(added @ _is_detected(values))
    observed = 1 - detected / np.bincount(codes)[:, None]
    shares = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)
    expected = np.stack([_expected_zeros(shares[batch], totals[codes == batch]) for batch in range(k)])
    return np.stack([observed, expected, observed * (1 - expected)])


def _is_detected(rows: Rows) -> Rows:
    """1 where there is a count, 0 elsewhere; a stored zero is no count."""
    if isinstance(rows, np.ndarray):
        return (rows != 0).astype(np.float64)
    return type(rows)(((rows.data != 0).astype(np.float64), rows.indices, rows.indptr), shape=rows.shape)


def _dense(rows: Rows) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else rows.toarray()


def _expected_zeros(shares: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """(g,) mean over cells of exp(-share * total); cells of one total are computed once."""
    depths, number = np.unique(totals, return_counts=True)
    step, zeros = max(1, _VALUES_AT_ONCE // max(len(shares), 1)), np.zeros(len(shares))
    for start in range(0, len(depths), step):
        part = slice(start, start + step)
        zeros += number[part] @ np.exp(-np.outer(depths[part], shares))
    return zeros / len(totals)


def _chosen(zeros: np.ndarray, n_top_genes: int) -> pd.DataFrame:
    """The table of what :func:`_enrichment` gives, and which genes come first."""
    g = zeros.shape[2]
    ranks = zeros[2].argsort(axis=1, kind="stable").argsort(axis=1)  # (k, g)
    observed, expected, enrichment = np.median(zeros, axis=1)
    rank, votes = np.median(ranks, axis=0), (ranks >= g - n_top_genes).sum(axis=0)
    mask = np.zeros(g, dtype=bool)
    mask[np.lexsort((-rank, -votes))[:n_top_genes]] = True
    return pd.DataFrame(
        {
            "highly_variable": mask,
            "observed_fraction_zeros": observed,
            "expected_fraction_zeros": expected,
            "prob_zero_enriched_nbatches": votes,
            "prob_zero_enrichment": enrichment,
            "prob_zero_enrichment_rank": rank,
        }
    )
