"""Genes and antibodies of one 10x file, which scanpy reads as columns of one matrix, put where models look for them."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_flag
from scvi.cells.checks import found
from scvi.cells.storage import as_dense
from scvi.data.tenx import ANTIBODIES, GENES

logger = logging.getLogger(__name__)


def organize_cite_seq_10x(adata: AnnData, copy: bool = False) -> AnnData | None:
    """Moves the antibodies from the columns of `X` to ``obsm["protein_expression"]``, a table with their names.

    Genes stay; features of other types are left out, with a line in the log.

    Parameters
    ----------
    adata
        In memory, with all features of the file, whose types are ``var["feature_types"]``.
    copy
        Return a new AnnData and leave the given one as it is.

    Returns
    -------
    None, or the new AnnData.

    Raises
    ------
    ValueError
        If `adata` is an open file, has no types of features, no genes, or no antibodies.
    """
    if adata.isbacked:
        raise ValueError("adata is an open file; pass adata.to_memory()")
    types = np.asarray(found(adata.var, "adata", "feature_types", "a column of adata.var")).astype(str)
    genes, antibodies = types == GENES, types == ANTIBODIES
    for name, mask in ((GENES, genes), (ANTIBODIES, antibodies)):
        if not mask.any():
            raise ValueError(
                f"adata.var['feature_types'] has no {name!r}, only {sorted(set(types))}; read all features of the "
                "file (gex_only=False of scanpy), or use scvi.data.read_10x, which does both"
            )
    others = sorted(set(types[~genes & ~antibodies]))
    if others:
        logger.info("Features of types %s are left out", others)
    result = adata.copy() if check_flag("copy", copy) else adata
    proteins = pd.DataFrame(
        as_dense(result.X[:, np.flatnonzero(antibodies)]), result.obs_names, adata.var_names[antibodies]
    )
    result._inplace_subset_var(genes)
    result.obsm["protein_expression"] = proteins
    return result if copy else None
