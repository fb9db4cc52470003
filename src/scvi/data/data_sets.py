"""Published data sets by name: downloaded once, and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_flag
from scvi.cells.checks import obs_column
from scvi.data.csv import read_csv
from scvi.data.download import download_file, fetched
from scvi.data.files import Unreadable
from scvi.data.h5ad import read_h5ad
from scvi.data.published import PURIFIED, tenx_file
from scvi.data.published_blood import read_pbmc
from scvi.data.published_brain import read_brain_large, read_cortex
from scvi.data.published_fish import HIGH_LEVEL, read_smfish
from scvi.data.tenx import read_10x

_NUISANCE = ("doublets", "NotAssigned")
Folder = str | os.PathLike[str]


def cortex(save_path: Folder = "data/") -> AnnData:
    """3,005 cells of the mouse cortex and hippocampus (Zeisel et al. 2015).

    Returns
    -------
    Counts of all genes; in `obs` beside the annotations of the authors "cell_type" (of 7), "labels" (its codes) and
    "precise_labels".
    """
    adata = read_cortex(fetched("cortex", save_path))
    types = pd.Categorical(adata.obs["level1class"])
    adata.obs["cell_type"], adata.obs["labels"] = types, types.codes.astype(np.int64)
    adata.obs["precise_labels"] = adata.obs["level2class"].to_numpy()
    return adata


def smfish(save_path: Folder = "data/", use_high_level_cluster: bool = True) -> AnnData:
    """Mouse somatosensory cortex by osmFISH, 33 genes (Codeluppi et al. 2018).

    Parameters
    ----------
    use_high_level_cluster
        Six types, and the cells of these; else all clusters of the authors.

    Returns
    -------
    What :func:`scvi.data.read_smfish` gives, and in `obs` "x_coord", "y_coord", "str_labels" and "labels" (its codes).
    """
    adata = read_smfish(fetched("smfish", save_path))
    names = adata.obs["ClusterName"]
    if check_flag("use_high_level_cluster", use_high_level_cluster):
        types = {cluster: name for name, clusters in HIGH_LEVEL.items() for cluster in clusters}
        known = adata.obs["ClusterID"].isin(list(types)).to_numpy()
        adata = adata[known].copy()
        names = adata.obs["ClusterID"].map(types)
    labels = pd.Categorical(names)
    adata.obs["str_labels"], adata.obs["labels"] = labels, labels.codes.astype(np.int64)
    adata.obs["x_coord"], adata.obs["y_coord"] = adata.obsm["coords"].T
    return adata


def brainlarge_dataset(
    save_path: Folder = "data/",
    sample_size_gene_var: int = 10_000,
    max_cells_to_keep: int | None = None,
    n_genes_to_keep: int = 720,
    loading_batch_size: int = 100_000,
) -> AnnData:
    """1.3 million cells of the mouse brain, reduced to the genes of highest variance; see :func:`read_brain_large`."""
    return read_brain_large(
        fetched("brain_large", save_path),
        n_genes=n_genes_to_keep,
        n_cells=max_cells_to_keep,
        n_cells_for_variance=sample_size_gene_var,
        n_cells_at_once=loading_batch_size,
    )


def dataset_10x(
    dataset_name: str | None = None,
    filename: Folder | None = None,
    save_path: Folder = "data/10X",
    return_filtered: bool = True,
    *,
    remove_extracted_data: bool = False,
    **read_options: Any,
) -> AnnData:
    """A data set of 10x Genomics by its name, or a file of that format.

    Parameters
    ----------
    dataset_name
        One of ``scvi.data.published.TENX_GROUPS``; its archive is kept in a folder of that name.
    filename
        A file or folder, if no name is given.
    return_filtered
        The cells that Cell Ranger found, else all barcodes.
    remove_extracted_data
        Taken for scripts that pass it: archives are read as they are, nothing is extracted.
    read_options
        Further arguments of :func:`scvi.data.read_10x`.

    Raises
    ------
    KeyError
        If the name is not known.
    ValueError
        If not exactly one of name and file is given.
    """
    check_flag("remove_extracted_data", remove_extracted_data)
    if (dataset_name is None) == (filename is None):
        raise ValueError("pass one of dataset_name='...' and filename='...'")
    if dataset_name is None:
        return read_10x(Path(str(filename)), **read_options)
    file = tenx_file(dataset_name, "filtered" if check_flag("return_filtered", return_filtered) else "raw")
    return read_10x(download_file(file.url, file.filename, Path(save_path) / dataset_name), **read_options)


def pbmc_dataset(
    save_path: Folder = "data/", save_path_10X: Folder | None = None, *, remove_extracted_data: bool = True
) -> AnnData:
    """Blood cells of two runs of 10x Genomics with 9 cell types; see :func:`scvi.data.read_pbmc`.

    Parameters
    ----------
    save_path, save_path_10X
        Folder of the annotations, and that of the counts where it is another.
    remove_extracted_data
        Taken for scripts that pass it: archives are read as they are, nothing is extracted.

    Returns
    -------
    What that function gives, and in `obs` "batch" ("pbmc8k", "pbmc4k"), "str_labels" and "labels" (its codes).
    """
    check_flag("remove_extracted_data", remove_extracted_data)
    names = ("pbmc8k", "pbmc4k")
    runs = [dataset_10x(name, save_path=save_path if save_path_10X is None else save_path_10X) for name in names]
    adata = read_pbmc(runs, fetched("pbmc_metadata", save_path), fetched("pbmc_gene_info", save_path))
    adata.obs["batch"] = pd.Categorical.from_codes(adata.obs["run"], names)
    adata.obs["str_labels"] = adata.obs["cell_type"]
    adata.obs["labels"] = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    return adata


def breast_cancer_dataset(save_path: Folder = "data/") -> AnnData:
    """Spatial transcriptomics of human breast cancer, layer 2 (Stahl et al. 2016): a cell is a spot called "XxY"."""
    return read_csv(fetched("breast_cancer", save_path), sep="\t")


def mouse_ob_dataset(save_path: Folder = "data/") -> AnnData:
    """Spatial transcriptomics of the mouse's olfactory bulb, replicate 11 (Stahl et al. 2016); cells are spots."""
    return read_csv(fetched("mouse_ob", save_path), sep="\t")


def purified_pbmc_dataset(save_path: Folder = "data/", subset_datasets: Sequence[str | int] | None = None) -> AnnData:
    """Blood cells of ten purified types (Zheng et al. 2017).

    Parameters
    ----------
    subset_datasets
        Types to keep, by name or position in ``scvi.data.published.PURIFIED``; None: all. Cells keep their order.

    Raises
    ------
    ValueError
        If a type is not known, or the file says nowhere which type a cell is of.
    """
    wanted = None if subset_datasets is None else _purified(subset_datasets)
    path = fetched("purified_pbmc", save_path)
    adata = read_h5ad(path)
    if wanted is None:
        return adata
    for column in adata.obs:
        types = adata.obs[column].astype(str)
        if types.isin(PURIFIED).all():
            return adata[types.isin(wanted).to_numpy()].copy()
    raise Unreadable(f"{path} has no column of obs with the types of cells, such as {PURIFIED[0]!r}")


def _purified(chosen: Sequence[str | int]) -> list[str]:
    listed = [chosen] if isinstance(chosen, (str, int)) else list(chosen)
    wrong = [kind for kind in listed if kind not in PURIFIED and kind not in range(len(PURIFIED))]
    if wrong or not listed:
        what = f"has {wrong[0]!r}" if wrong else "is empty"
        raise ValueError(f"subset_datasets {what}; it takes names, or positions from 0, of {', '.join(PURIFIED)}")
    return [kind if isinstance(kind, str) else PURIFIED[kind] for kind in listed]


def retina(save_path: Folder = "data/") -> AnnData:
    """Bipolar cells of the mouse retina in two batches (Shekhar et al. 2016)."""
    return read_h5ad(fetched("retina_h5ad", save_path))


def prefrontalcortex_starmap(save_path: Folder = "data/") -> AnnData:
    """Mouse prefrontal cortex by STARmap, 166 genes in three batches (Wang et al. 2018)."""
    return read_h5ad(fetched("starmap_h5ad", save_path))


def frontalcortex_dropseq(save_path: Folder = "data/") -> AnnData:
    """Mouse frontal cortex by Drop-seq (Saunders et al. 2018)."""
    return read_h5ad(fetched("dropseq_h5ad", save_path))


def heart_cell_atlas_subsampled(save_path: Folder = "data/", remove_nuisance_clusters: bool = True) -> AnnData:
    """20,000 cells of the human heart (Litvinukova et al. 2020).

    Parameters
    ----------
    remove_nuisance_clusters
        Leave out cells whose "cell_type" is "doublets" or "NotAssigned".
    """
    adata = read_h5ad(fetched("heart", save_path))
    if not check_flag("remove_nuisance_clusters", remove_nuisance_clusters):
        return adata
    return adata[~obs_column(adata, "remove_nuisance_clusters", "cell_type").isin(_NUISANCE).to_numpy()].copy()
