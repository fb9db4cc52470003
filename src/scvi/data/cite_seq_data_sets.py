"""Published data sets of genes and surface proteins by name: downloaded once, and read."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_integer
from scvi._random import resolve_seed
from scvi.data.download import fetched
from scvi.data.files import Unreadable, unique_names
from scvi.data.h5ad import read_h5ad

logger = logging.getLogger(__name__)

Folder = str | os.PathLike[str]
_KEY = "protein_expression"
_TWIN = re.compile(r"(CD\d.*)-\d+")  # antibodies against one protein; Notch-1 and Notch-2 are two
_CONTROL = re.compile(r"IgG|isotype", re.IGNORECASE)
_BAD = re.compile(r"doublet|low.quality|dying", re.IGNORECASE)


def pbmcs_10x_cite_seq(save_path: Folder = "data/", protein_join: str = "inner") -> AnnData:
    """Genes and proteins of blood cells in two batches, "PBMC10k" and "PBMC5k", with the genes of both.

    Parameters
    ----------
    protein_join
        "inner" keeps the proteins of both, "outer" all of them, with zeros where a batch did not measure one.

    Returns
    -------
    ``obs["batch"]``, whose name ends the names of the cells; ``obsm["protein_expression"]``, a table.
    """
    adata = _joined({"PBMC10k": "cite_seq_pbmc10k", "PBMC5k": "cite_seq_pbmc5k"}, save_path, protein_join)
    adata.obs["batch"] = adata.obs.pop("run")
    return adata


def spleen_lymph_cite_seq(
    save_path: Folder = "data/", protein_join: str = "inner", remove_outliers: bool = True
) -> AnnData:
    """Genes and proteins of mouse spleen and lymph nodes, two runs of two mice each (Gayoso et al. 2021).

    Parameters
    ----------
    protein_join
        "inner" keeps the proteins of both runs, "outer" all of them, with zeros where a run did not measure one.
    remove_outliers
        Leave out cells that the annotation calls doublets, dying or of low quality.

    Returns
    -------
    With the genes of both runs; ``obs["run"]`` is "SLN111" or "SLN208", which end the names of the cells, and
    ``obs["batch"]`` what the files say, or the run; ``obsm["protein_expression"]``, a table.
    """
    check_flag("remove_outliers", remove_outliers)
    adata = _joined({"SLN111": "cite_seq_sln111", "SLN208": "cite_seq_sln208"}, save_path, protein_join)
    if "batch" not in adata.obs:
        adata.obs["batch"] = adata.obs["run"]
    if not remove_outliers:
        return adata
    column = _annotation(adata, "remove_outliers=False", save_path)
    return _without(adata, adata.obs[column].astype(str).str.contains(_BAD).to_numpy(), "doublets or of low quality")


def pbmc_seurat_v4_cite_seq(
    save_path: Folder = "data/",
    apply_filters: bool = True,
    aggregate_proteins: bool = True,
    mask_protein_batches: int = 0,
    *,
    seed: int | None = None,
) -> AnnData:
    """Genes and 228 proteins of blood cells of eight donors at three times (Hao et al. 2021).

    Parameters
    ----------
    apply_filters
        Leave out cells that the annotation calls doublets, and antibodies that are isotype controls.
    aggregate_proteins
        Sum the counts of antibodies against one protein: "CD4-1" and "CD4-2" become "CD4".
    mask_protein_batches
        In this many batches (``obs["orig.ident"]``), which are drawn, all counts of proteins become 0.
    seed
        Of the draw; None takes ``scvi.settings.seed``.

    Returns
    -------
    With the table ``obsm["protein_counts"]``, and in `obs` "Protein log library size", "Number proteins detected" and
    "RNA log library size".
    """
    check_flag("apply_filters", apply_filters)
    check_flag("aggregate_proteins", aggregate_proteins)
    n_masked = check_integer("mask_protein_batches", mask_protein_batches, 0)
    path = fetched("cite_seq_seurat_v4", save_path)
    adata = read_h5ad(path)
    key = next((key for key in ("protein_counts", _KEY) if key in adata.obsm), "protein_counts")
    proteins = _proteins(adata, key, path)
    if apply_filters:
        proteins = proteins.loc[:, [_CONTROL.search(name) is None for name in proteins.columns]]
        column = _annotation(adata, "apply_filters=False", path)
        adata.obsm["protein_counts"] = proteins
        adata = _without(adata, adata.obs[column].astype(str).str.contains(_BAD).to_numpy(), "doublets")
        proteins = adata.obsm["protein_counts"]
    if aggregate_proteins:
        proteins = _aggregated(proteins)
    adata.obsm["protein_counts"] = proteins
    totals = {"Protein": proteins.to_numpy().sum(axis=1), "RNA": np.ravel(adata.X.sum(axis=1))}
    for name, total in totals.items():
        adata.obs[f"{name} log library size"] = np.log(np.maximum(total, 1))
    adata.obs["Number proteins detected"] = (proteins.to_numpy() > 0).sum(axis=1)
    if n_masked:
        _mask(adata, n_masked, seed)
    return adata


def _joined(files: Mapping[str, str], save_path: Folder, protein_join: str) -> AnnData:
    """Runs with the genes of all; ``obs["run"]`` is the name of one, which ends the names of its cells."""
    check_choice("protein_join", protein_join, ("inner", "outer"))
    runs, proteins = {}, []
    for name, file in files.items():
        run = read_h5ad(fetched(file, save_path))
        table = _proteins(run, _KEY, save_path, f"the file of {name} in {save_path}")
        run.obs_names = run.obs_names + f"-{name}"
        proteins.append(table.set_axis(run.obs_names))
        runs[name] = run
    adata = anndata.concat(runs, label="run", join="inner")
    unique_names(adata.obs_names, "names of cells", save_path)
    joined = pd.concat(proteins, join=protein_join)
    adata.obsm[_KEY] = joined.fillna(0) if protein_join == "outer" else joined
    return adata


def _proteins(run: AnnData, key: str, path: Folder, what: str | None = None) -> pd.DataFrame:
    """The counts of proteins, taken out of `obsm`: a table, or an array whose names are in `uns`."""
    table = run.obsm.pop(key) if key in run.obsm else None
    if table is not None and not isinstance(table, pd.DataFrame):
        names = np.ravel(run.uns.get("protein_names", ()))
        values = np.asarray(table.toarray() if hasattr(table, "toarray") else table)
        table = pd.DataFrame(values, run.obs_names, names) if values.shape[1:] == names.shape else None
    if table is None:
        raise Unreadable(f"{what or path} has no table obsm[{key!r}], nor an array with names in uns['protein_names']")
    return table.set_axis(table.columns.astype(str), axis=1)


def _annotation(adata: AnnData, otherwise: str, path: Folder) -> str:
    """The column of `obs` with the types of cells that is the finest one."""
    found = [name for name in ("cell_types", "cell_type", "celltype.l2", "celltype.l1") if name in adata.obs]
    if not found:
        raise Unreadable(
            f"the data in {Path(path)} have no column cell_types, cell_type or celltype.l2 of obs, which says what to "
            f"leave out: pass {otherwise}"
        )
    return found[0]


def _without(adata: AnnData, bad: np.ndarray, what: str) -> AnnData:
    logger.info("%d of %d cells are %s; they are left out.", bad.sum(), len(bad), what)
    return adata[~bad].copy()


def _aggregated(proteins: pd.DataFrame) -> pd.DataFrame:
    """Sums over antibodies against one protein, where there are several, in the place of the first."""
    names = [found.group(1) if (found := _TWIN.fullmatch(name)) else name for name in proteins.columns]
    names = [name if names.count(name) > 1 else given for name, given in zip(names, proteins.columns, strict=True)]
    return proteins.T.groupby(names, sort=False).sum().T


def _mask(adata: AnnData, n_batches: int, seed: int | None) -> None:
    """Zeros for the proteins of batches that are drawn."""
    column = next((name for name in ("orig.ident", "batch", "lane") if name in adata.obs), None)
    if column is None:
        raise Unreadable("there is no column orig.ident, batch or lane of obs: pass mask_protein_batches=0")
    batches = sorted(adata.obs[column].astype(str).unique())
    if n_batches >= len(batches):
        raise ValueError(
            f"mask_protein_batches={n_batches} leaves no batch with proteins: there are {len(batches)} in {column!r}"
        )
    drawn = np.random.default_rng(resolve_seed(seed)).permutation(batches)[:n_batches]
    logger.info("The proteins of batches %s are set to 0.", ", ".join(drawn))
    adata.obsm["protein_counts"].loc[adata.obs[column].astype(str).isin(drawn).to_numpy()] = 0
