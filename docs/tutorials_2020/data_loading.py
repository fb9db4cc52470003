"""
Data loading
============

Files of every common kind become a data set of 2020: a ``GeneExpressionDataset``, which holds counts, batches, labels and
what was measured beside genes. The tutorial of 2020 downloaded its files; this one writes small ones of the same formats
first, with the counts of 400 blood cells, so that it runs anywhere.
"""

# %%
# The files
# ---------
# A folder as Cell Ranger writes it (genes and surface proteins), a table as text, a loom file and an ``.h5ad``.

import gzip
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import scipy.io

folder = Path(tempfile.mkdtemp())
blood = anndata.read_h5ad("../../tests/sample_data/pbmc_cite_small.h5ad")
blood = blood[blood.obs["batch"] == "pbmc_10k"][:400].copy()
proteins = [f"{name}_TotalSeqB" for name in blood.uns["protein_names"]]
features = [*((name, name, "Gene Expression") for name in blood.var_names)]
features += [(name, name, "Antibody Capture") for name in proteins]
counts = scipy.sparse.hstack([blood.X, scipy.sparse.csr_matrix(blood.obsm["protein_counts"])]).T.astype(int)

run = folder / "10X" / "run_1"
run.mkdir(parents=True)
scipy.io.mmwrite(run / "matrix.mtx", counts)
with gzip.open(run / "matrix.mtx.gz", "wb") as packed:
    packed.write((run / "matrix.mtx").read_bytes())
(run / "matrix.mtx").unlink()
for name, lines in {"features": ["\t".join(row) for row in features], "barcodes": blood.obs_names}.items():
    with gzip.open(run / f"{name}.tsv.gz", "wt") as packed:
        packed.write("\n".join(lines) + "\n")

blood.to_df().T.astype(int).to_csv(folder / "blood.csv.gz")  # genes x cells, as most tables are
with h5py.File(folder / "blood.loom", "w") as loom:
    loom["matrix"] = blood.X.toarray().T
    loom["row_attrs/Gene"] = blood.var_names.to_numpy().astype("S")
    loom["col_attrs/ClusterID"] = blood.obs["protein_gate"].astype("category").cat.codes.to_numpy()
blood.write_h5ad(folder / "blood.h5ad")

# %%
# Read them
# ---------
# ``save_path`` is the folder of the data. With ``url=`` each class downloads a file that is not there yet, verifies it and
# finds it again the next time.

from scvi.dataset import AnnDatasetFromAnnData, CsvDataset, Dataset10X, LoomDataset

tenx = Dataset10X(save_path=f"{run}/", measurement_names_column=1)
table = CsvDataset("blood.csv.gz", save_path=str(folder), compression="gzip", new_n_genes=200)
loom_dataset = LoomDataset("blood.loom", save_path=str(folder))
from_anndata = AnnDatasetFromAnnData(ad=anndata.read_h5ad(folder / "blood.h5ad"), ctype_label="protein_gate")

for dataset in (tenx, table, loom_dataset, from_anndata):
    print(f"{type(dataset).__name__:24}{dataset.nb_cells} cells, {dataset.nb_genes} genes")

# %%
# What is in them
# ---------------
# The proteins of the 10x run are a measurement of its own, with names of its columns.

print(tenx)
print(tenx.protein_names[:4], tenx.protein_expression[0, :4])
print(tenx.barcodes.ravel()[:2])
assert np.array_equal(tenx.protein_expression, blood.obsm["protein_counts"])

# %%
# The three that were not asked for fewer genes hold the same counts, whatever the order of their genes:

of_one_gene = [dataset.X[:, list(dataset.gene_names).index("LYZ")] for dataset in (tenx, loom_dataset, from_anndata)]
of_one_gene = [column.toarray().ravel() if scipy.sparse.issparse(column) else column for column in of_one_gene]
assert np.array_equal(of_one_gene[0], of_one_gene[1])
assert np.array_equal(of_one_gene[0], of_one_gene[2])

# %%
# Choose genes and cells
# ----------------------
# Genes by how variable they are, or by position; cells by their total count. Cells that have no counts left are dropped,
# whatever else was measured of them going along.

import matplotlib.pyplot as plt

tenx.subsample_genes(new_n_genes=300, mode="variance")
before = np.ravel(tenx.X.sum(axis=1))
tenx.filter_cells_by_count(200)
after = np.ravel(tenx.X.sum(axis=1))
print(f"{len(before)} cells before, {len(after)} after, with proteins of {len(tenx.protein_expression)}")
assert after.min() >= 200

figure, ax = plt.subplots(figsize=(5, 3.5))
bins = np.linspace(0, before.max(), 40)
ax.hist(before, bins, label="before")
ax.hist(after, bins, label="after")
ax.set(title="total counts", xlabel="counts of a cell", ylabel="cells")
_ = ax.legend()

# %%
# Data sets that are known by name
# --------------------------------
# ``CortexDataset``, ``PbmcDataset``, ``RetinaDataset``, ``BrainSmallDataset``, ``BrainLargeDataset``, ``CbmcDataset``,
# ``HematoDataset``, ``SmfishDataset`` and their kin download their files on first use, for example
# ``CortexDataset(save_path="data", total_genes=558)``. :doc:`/data` has the list, and readers that return an AnnData.
