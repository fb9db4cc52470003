"""Cuts tests/data/pbmc3k_small.h5ad from pbmc3k.h5ad: all cells, the most variable genes and the markers of the tests.

    python benchmarks/make_test_data.py --data FOLDER

The same input gives the same file, byte for byte, on one version of anndata and HDF5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import h5py
import numpy as np
from linear_factors import GENE_SETS

from scvi.dataset.genes import seurat_v3

TARGET = Path(__file__).parents[1] / "tests" / "data" / "pbmc3k_small.h5ad"
SOURCE = "10x Genomics, 3k PBMCs from a healthy donor, counts of Cell Ranger 1.1.0. Cut to the most variable genes."
LICENCE = "CC BY 4.0 (data of 10x Genomics; see README.md beside this file)"
N_VARIABLE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of pbmc3k.h5ad")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()

    adata = anndata.read_h5ad(arguments.data / "pbmc3k.h5ad")
    markers = np.isin(adata.var_names, [gene for genes in GENE_SETS.values() for gene in genes])
    variable = seurat_v3(adata.X, n_top_genes=N_VARIABLE)["highly_variable"].to_numpy()
    chosen = np.flatnonzero(variable | markers)
    small = anndata.AnnData(adata.X[:, chosen].astype(np.int32), obs=adata.obs[[]], var=adata.var[[]].iloc[chosen])
    smallest = {"compression": "gzip", "compression_opts": 9, "shuffle": True}  # AnnData.write knows no shuffling
    arguments.output.parent.mkdir(exist_ok=True)
    with h5py.File(arguments.output, "w") as file:
        anndata.io.write_elem(file, "/", small, dataset_kwargs=smallest)
        anndata.io.write_elem(file, "uns", {"source": SOURCE, "license": LICENCE})  # HDF5 compresses no single string
    print(f"{arguments.output}: {small.n_obs} cells x {small.n_vars} genes, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
