"""Cuts the files of tests/sample_data from benchmark files.

pbmc3k_small has all cells of pbmc3k, the most variable genes and the markers of the tests; pbmc_gated some cells with a
type of pbmc_cite_10k_5k, and the most variable genes.

    python benchmarks/make_test_data.py --data FOLDER

The same input gives the same files, byte for byte, on one version of anndata and HDF5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import h5py
import numpy as np
from anndata import AnnData
from linear_factors import GENE_SETS

from scvi.data.variable_genes import seurat_v3

TARGET = Path(__file__).parents[1] / "tests" / "sample_data"
SOURCES = {
    "pbmc3k_small": "10x Genomics, 3k PBMCs from a healthy donor, counts of Cell Ranger 1.1.0. "
    "Cut to the most variable genes.",
    "pbmc_gated": "10x Genomics, 10k PBMCs from a healthy donor with TotalSeq-B antibodies, as filtered and matched "
    "for Gayoso et al. 2021. Cut to some cells with a gate on their proteins, and to the most variable genes.",
}
LICENCE = "CC BY 4.0 (data of 10x Genomics; see README.md beside this file)"


def pbmc3k_small(folder: Path) -> AnnData:
    """All cells, 1000 genes and the markers of LinearSCVI's tests."""
    adata = anndata.read_h5ad(folder / "pbmc3k.h5ad")
    markers = np.isin(adata.var_names, [gene for genes in GENE_SETS.values() for gene in genes])
    chosen = np.flatnonzero(seurat_v3(adata.X, n_top_genes=1000)["highly_variable"].to_numpy() | markers)
    return AnnData(adata.X[:, chosen].astype(np.int32), obs=adata.obs[[]], var=adata.var[[]].iloc[chosen])


def pbmc_gated(folder: Path) -> AnnData:
    """1500 cells with a type, 500 genes."""
    adata = anndata.read_h5ad(folder / "pbmc_cite_10k_5k.h5ad")
    adata = adata[(adata.obs["batch"] == "pbmc_10k") & (adata.obs["protein_gate"] != "unassigned")].copy()
    genes = np.flatnonzero(seurat_v3(adata.X, n_top_genes=500)["highly_variable"].to_numpy())
    cells = np.sort(np.random.default_rng(0).choice(adata.n_obs, 1500, replace=False))
    small = adata[cells, genes]
    types = small.obs[["protein_gate"]].rename(columns={"protein_gate": "cell_type"}).astype(str).astype("category")
    return AnnData(small.X.astype(np.int32), obs=types, var=small.var[[]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark files")
    parser.add_argument("--output", type=Path, default=TARGET, help="folder to write to")
    arguments = parser.parse_args()

    arguments.output.mkdir(exist_ok=True)
    smallest = {"compression": "gzip", "compression_opts": 9, "shuffle": True}  # AnnData.write knows no shuffling
    for name, cut in (("pbmc3k_small", pbmc3k_small), ("pbmc_gated", pbmc_gated)):
        small, target = cut(arguments.data), arguments.output / f"{name}.h5ad"
        with h5py.File(target, "w") as file:
            anndata.io.write_elem(file, "/", small, dataset_kwargs=smallest)
            said = {"source": SOURCES[name], "license": LICENCE}  # HDF5 compresses no single string
            anndata.io.write_elem(file, "uns", said)
        print(f"{target}: {small.n_obs} cells x {small.n_vars} genes, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
