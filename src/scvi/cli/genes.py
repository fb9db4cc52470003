"""The most variable genes, which `--n-top-genes` asks for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData


def select_genes(adata: AnnData, arguments: argparse.Namespace) -> None:
    """Marks the genes to fit in ``var["highly_variable"]``."""
    from scvi.cells.checks import counts_name, obs_column, refuse_repeated_genes
    from scvi.cells.count_checks import Called, checked_counts, counts_of
    from scvi.cells.estimates import rounded
    from scvi.data.variable_genes import seurat_v3_of_checked

    n_top = arguments.n_top_genes
    if n_top > adata.n_vars:
        raise ValueError(f"--n-top-genes {n_top} is more than the {adata.n_vars} genes of the file; leave it out")
    refuse_repeated_genes(adata.var_names)
    batch = obs_column(adata, "batch_key", arguments.batch_key) if arguments.batch_key else None
    counts = counts_of(adata, arguments.layer)
    rule: Any = arguments.non_integer or "warn"
    called = Called(counts_name(arguments.layer), adata.obs_names, adata.var_names, list(adata.layers))
    # The local regression is no match for values that are no counts. Of estimates set-up says so, with names.
    checked_counts(counts, called, non_integer=rule)
    if rule == "round":
        counts = rounded(counts)  # they are in memory
    adata.var["highly_variable"] = seurat_v3_of_checked(counts, n_top, batch)["highly_variable"].to_numpy()
