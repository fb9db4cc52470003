"""Counts without structure, for tests and demonstrations."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_rates, check_sizes
from scvi._random import resolve_seed

_FORMATS = {"csr_matrix": sp.csr_matrix, "csc_matrix": sp.csc_matrix, "csr_array": sp.csr_array}
_FORMATS["csc_array"] = sp.csc_array


def synthetic_iid(
    batch_size: int = 200,
    n_genes: int = 100,
    n_proteins: int = 100,
    n_regions: int = 100,
    n_batches: int = 2,
    n_labels: int = 3,
    dropout_ratio: float = 0.7,
    sparse_format: Literal["csr_matrix", "csc_matrix", "csr_array", "csc_array"] | None = None,
    generate_coordinates: bool = False,
    return_mudata: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Draws cells with genes, proteins and regions that know nothing of one another, of batches or of labels.

    Every count is NegativeBinomial(5, 0.3), which has mean 35/3. Labels are uniform.

    Parameters
    ----------
    batch_size
        Cells in each batch.
    n_genes, n_proteins, n_regions, n_batches, n_labels
        Sizes; of no proteins or regions there is no table.
    dropout_ratio
        Probability that a count of a gene or region is set to 0.
    sparse_format
        Layout of the counts of genes and regions; None is an array.
    generate_coordinates
        Add ``obsm["coordinates"]``, (n, 2), standard normal.
    return_mudata
        A MuData of "rna", "protein_expression" and "accessibility" in place of an AnnData.
    seed
        Of the draws; None takes ``scvi.settings.seed``.

    Returns
    -------
    Counts of genes in `X`, float32; ``obs["batch"]``, ``obs["labels"]``; ``obsm["protein_expression"]`` with
    ``uns["protein_names"]``; ``obsm["accessibility"]``. In a MuData `obs` and coordinates are its own.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_sizes(1, batch_size=batch_size, n_genes=n_genes, n_batches=n_batches, n_labels=n_labels)
    check_sizes(0, n_proteins=n_proteins, n_regions=n_regions)
    check_rates(dropout_ratio=dropout_ratio)
    if sparse_format is not None:
        check_choice("sparse_format", sparse_format, list(_FORMATS))
    layout = np.asarray if sparse_format is None else _FORMATS[sparse_format]
    rng, n = np.random.default_rng(resolve_seed(seed)), batch_size * n_batches
    sizes = {"rna": n_genes, "protein_expression": n_proteins, "accessibility": n_regions}
    tables = {name: rng.negative_binomial(5, 0.3, (n, size)).astype(np.float32) for name, size in sizes.items() if size}
    for name in [name for name in tables if name != "protein_expression"]:
        tables[name] = layout(tables[name] * (rng.random(tables[name].shape) >= dropout_ratio))
    cells = pd.Index([f"cell_{i}" for i in range(n)])
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"batch_{code}" for code in np.repeat(np.arange(n_batches), batch_size)]),
            "labels": pd.Categorical([f"label_{code}" for code in rng.integers(0, n_labels, n)]),
        },
        index=cells,
    )
    places = (
        {"coordinates": rng.normal(size=(n, 2))} if check_flag("generate_coordinates", generate_coordinates) else {}
    )
    make = _as_mudata if check_flag("return_mudata", return_mudata) else _as_anndata
    return make(tables, obs, places)


def _names(kind: str, number: int) -> pd.Index:
    return pd.Index([f"{kind}_{i}" for i in range(number)])


def _as_anndata(tables: dict[str, Any], obs: pd.DataFrame, places: dict[str, np.ndarray]) -> AnnData:
    genes = tables.pop("rna")
    adata = AnnData(genes, obs=obs, var=pd.DataFrame(index=_names("gene", genes.shape[1])), obsm=tables | places)
    if "protein_expression" in tables:
        adata.uns["protein_names"] = _names("protein", tables["protein_expression"].shape[1]).to_numpy()
    return adata


def _as_mudata(tables: dict[str, Any], obs: pd.DataFrame, places: dict[str, np.ndarray]) -> Any:
    try:
        mudata = import_module("mudata")
    except ImportError as error:
        raise ImportError("return_mudata=True needs mudata: pip install mudata") from error
    kinds = {"rna": "gene", "protein_expression": "protein", "accessibility": "region"}
    parts = {
        name: AnnData(
            table, obs=pd.DataFrame(index=obs.index), var=pd.DataFrame(index=_names(kinds[name], table.shape[1]))
        )
        for name, table in tables.items()
    }
    with mudata.set_options(pull_on_update=False):  # as it will be
        mdata = mudata.MuData(parts)
    for name in obs:
        mdata.obs[name] = obs[name]
    mdata.obsm.update(places)
    return mdata
