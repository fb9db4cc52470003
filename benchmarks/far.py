"""What is said of cells far from a reference: nothing of ordinary batches, something of other units and normalisations.

    python benchmarks/far.py --data FOLDER

Each batch of each data set is held against the others, as a query against its reference, and each data set of blood
against each other on their shared genes. Of every cell there are covariates such as users compute: detected genes, log
counts, percentages of mitochondrial and ribosomal counts and of the 50 largest, a score, size factors. Columns *apart*:
by how much the typical and large values of a query differ from the reference's, both of them, at most (FACTOR is 5);
*deviations*: how far the median of a covariate is from the reference's mean, at most (10); *false*: warnings of cells
as they are; *found*: of changes that were made, how many a warning tells of: each column times 10, 60, 100, 1/10, 1/60
and 1/100, detected genes as logs and standardised, and counts per million, rounded.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from common import DEFAULT_DATA, read, table

from scvi.cells.far import FEW, warn_if_far
from scvi.cells.schema import Schema
from scvi.cells.setup import declare

SETS = {
    "zeisel_cortex": ["tissue", "sex"],
    "pbmc_cite_10k_5k": ["batch"],
    "pbmc_cite_two_panels_400": ["batch"],
    "kang_ifnb_labelled": ["sample"],
    "kang_ifnb_2k": ["condition"],
    "sc_mixology": ["batch", "protocol"],
    "sln_day2": ["hashtag"],
    "celegans_l2_neurons": ["plate"],
    "starmap_mpfc": ["batch"],
}
BLOOD = ["pbmc3k", "pbmc_cite_10k_5k", "pbmc_cite_two_panels_400", "pbmc_eccite_500", "kang_ifnb_2k"]
UNITS = (10, 60, 100, 1 / 10, 1 / 60, 1 / 100)
Pair = tuple[AnnData, AnnData]  # a reference and a query


def annotated(adata: AnnData) -> AnnData:
    """The cells with some count, and covariates."""
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    counts, rng = adata.X.tocsr(), np.random.default_rng(0)
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    shares = counts.multiply(100 / totals[:, None]).tocsr()
    dense = np.sort(shares.toarray(), axis=1)
    adata.obs = adata.obs.assign(genes=np.diff(counts.indptr), log_counts=np.log1p(totals), size=totals / totals.mean())
    adata.obs["top50"] = dense[:, -50:].sum(axis=1)
    logs, genes = shares.log1p(), rng.permutation(adata.n_vars)
    half = min(40, adata.n_vars // 3)
    adata.obs["score"] = np.asarray(logs[:, genes[:half]].mean(axis=1) - logs[:, genes[half : 2 * half]].mean(axis=1))
    for name, pattern in (("mitochondrial", r"^(?i:mt-)"), ("ribosomal", r"^(?i:rp[sl]\d)")):
        chosen = adata.var_names.str.match(pattern)
        if chosen.sum() > 1:
            adata.obs[name] = np.asarray(shares[:, chosen].sum(axis=1))
    return adata


def covariates(pair: Pair) -> list[str]:
    known = ("genes", "log_counts", "top50", "score", "mitochondrial", "ribosomal")
    return [name for name in known if all(name in adata.obs for adata in pair)]


def by_batch(adata: AnnData, key: str) -> Iterator[Pair]:
    adata = annotated(adata)
    for name in adata.obs[key].unique():
        is_query = (adata.obs[key] == name).to_numpy()
        if is_query.sum() < FEW:
            continue
        yield adata[~is_query].copy(), adata[is_query].copy()


def by_set(sets: dict[str, AnnData]) -> Iterator[Pair]:
    for one, other in itertools.permutations(sets.values(), 2):
        shared = one.var_names.intersection(other.var_names)
        yield annotated(one[:, shared]), annotated(other[:, shared])


def is_said(query: AnnData, schema: Schema) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_far(query, schema, np.asarray(query.X.sum(axis=1), dtype=np.float64).ravel())
    return bool(caught)


def changes(pair: Pair) -> Iterator[AnnData]:
    """The query in other units and normalisations."""
    functions: list[tuple[str, Callable]] = [("genes", np.log1p), ("genes", lambda x: (x - x.mean()) / x.std())]
    for name, unit in itertools.product([*covariates(pair), "size"], UNITS):
        functions.append((name, lambda x, unit=unit: x * unit))
    for name, function in functions:
        values = function(pair[1].obs[name].astype(float))
        yield AnnData(pair[1].X, obs=pair[1].obs.assign(**{name: values}), var=pair[1].var)
    query = pair[1].copy()
    query.X = sp.csr_matrix(sp.diags(1e6 / np.asarray(query.X.sum(axis=1)).ravel()) @ query.X)
    query.X.data = np.round(query.X.data)
    yield query


def apart(pair: Pair) -> tuple[float, float]:
    """The largest difference of sizes, and of medians in deviations, over columns and total counts."""
    factors, deviations = [1.0], [0.0]
    columns = [[adata.obs[name].to_numpy(float) for adata in pair] for name in [*covariates(pair), "size"]]
    for reference, query in [*columns, [np.asarray(adata.X.sum(axis=1)).ravel() for adata in pair]]:
        sizes = [np.quantile(np.abs(values[values != 0]), (0.5, 0.95)) for values in (reference, query)]
        ratios = np.log(sizes[1] / sizes[0])
        factors.append(float(np.exp(np.abs(ratios).min())) if ratios.prod() > 0 else 1.0)
        deviations.append(float(abs(np.median(query) - reference.mean()) / reference.std()))
    return max(factors), max(deviations)


def row(name: str, pairs: Iterator[Pair]) -> tuple[object, ...]:
    found, n_false, distances = [], 0, []
    for pair in pairs:
        schema, *_ = declare(pair[0], continuous_covariate_keys=covariates(pair), size_factor_key="size")
        n_false += is_said(pair[1], schema)
        distances.append(apart(pair))
        found += [is_said(query, schema) for query in changes(pair)]
    factor, deviations = (f"{max(values):.2f}" for values in zip(*distances, strict=True))
    return name, len(distances), factor, deviations, n_false, f"{sum(found)} of {len(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    folder = parser.parse_args().data
    rows = [row(f"{name}, {key}", by_batch(read(folder, name), key)) for name, keys in SETS.items() for key in keys]
    rows.append(row("data sets of blood", by_set({name: read(folder, name) for name in BLOOD})))
    print(table(("batches of", "pairs", "apart", "deviations", "false", "found"), rows))
    assert not any(n_false for *_, n_false, _ in rows), "ordinary batches are said to be far"


if __name__ == "__main__":
    main()
