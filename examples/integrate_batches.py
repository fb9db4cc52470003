"""Five batches of the same five cell lines into one latent space: AnnData in, AnnData out.

    python examples/integrate_batches.py [output.h5ad]

Uses the counts that ship with the package (Tian et al., Nature Methods 2019).
"""

import sys

import scvi
from scvi.queries.clustering import batch_entropy, knn_accuracy, max_batch_entropy

adata = scvi.demo.load()
scvi.SCVI.setup_anndata(adata, batch_key="batch")
model = scvi.SCVI(adata, seed=0)
model.train(seed=0)

adata.obsm["X_scVI"] = model.get_latent_representation()
adata.layers["scvi_normalized"] = model.get_normalized_expression(library_size=1e4, seed=0).to_numpy()

lines, batches = adata.obs["cell_type"].to_numpy(), adata.obs["batch"].to_numpy()
print(f"cells among neighbours of their own line: {knn_accuracy(adata.obsm['X_scVI'], lines):.3f}")
print(f"entropy of batches around a cell: {batch_entropy(adata.obsm['X_scVI'], batches):.2f}", end=" ")
print(f"of at most {max_batch_entropy(batches):.2f}")
if len(sys.argv) > 1:
    adata.write_h5ad(sys.argv[1])
