"""Cuts the demo data of the package from sc_mixology.h5ad: all cells, the 2000 most variable genes.

    python benchmarks/make_demo_data.py --data FOLDER

The same input gives the same file, byte for byte, on one version of anndata and HDF5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import h5py
import numpy as np

from scvi.data.variable_genes import seurat_v3

TARGET = Path(__file__).parents[1] / "src" / "scvi" / "demo_data" / "sc_mixology_demo.h5ad"
SOURCE = (
    "Tian et al., Benchmarking single cell RNA-sequencing analysis pipelines using mixture control experiments, "
    "Nature Methods 16, 479-487 (2019); GEO GSE118767; repository LuyiTian/sc_mixology. Cut to 2000 genes."
)
LICENCE = "MIT, as stated in the repository LuyiTian/sc_mixology (see README.md beside this file)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of sc_mixology.h5ad")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()

    adata = anndata.read_h5ad(arguments.data / "sc_mixology.h5ad")
    chosen = seurat_v3(adata.X, n_top_genes=2000)["highly_variable"].to_numpy()
    small = anndata.AnnData(
        adata.X[:, np.flatnonzero(chosen)].astype(np.int32),
        obs=adata.obs[["cell_type", "batch", "protocol"]],
        var=adata.var[[]][chosen],
    )
    smallest = {"compression": "gzip", "compression_opts": 9, "shuffle": True}  # AnnData.write knows no shuffling
    with h5py.File(arguments.output, "w") as file:
        anndata.io.write_elem(file, "/", small, dataset_kwargs=smallest)
        anndata.io.write_elem(file, "uns", {"source": SOURCE, "license": LICENCE})  # HDF5 compresses no single string
    print(f"{arguments.output}: {small.n_obs} cells x {small.n_vars} genes, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
