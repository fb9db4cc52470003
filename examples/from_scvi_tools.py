"""Every name of docs/from-scvi-tools.md once, on counts that ship with the package and on drawn ones.

python examples/from_scvi_tools.py

Needs mudata, and nothing of the web: data sets that would be downloaded are named only.
"""

import inspect
import tempfile
from pathlib import Path

import mudata

import scvi

mudata.set_options(pull_on_update=False)  # as it will be

scvi.settings.seed, scvi.settings.batch_size, scvi.settings.progress_bar_style = 0, 128, "none"
scvi.settings.dl_num_workers, scvi.settings.dl_persistent_workers, scvi.settings.warnings_stacklevel = 0, False, 2
scvi.settings.jax_preallocate_gpu_memory, scvi.settings.logging_dir = False, "logs"
scvi.settings.num_threads = 1  # the cells are few
print("log level:", scvi.settings.verbosity)
folder = Path(tempfile.mkdtemp())
short = {"max_epochs": 3}

# ---- data: files of one's own, and what would be downloaded
cells = scvi.demo.load()[::4].copy()
cells.write_h5ad(folder / "cells.h5ad")
cells[:20].to_df().to_csv(folder / "cells.csv")
print(scvi.data.read_csv(folder / "cells.csv").shape, scvi.data.read_text(folder / "cells.csv").shape)
adata = scvi.data.read_h5ad(folder / "cells.h5ad")
scvi.data.poisson_gene_selection(adata, n_top_genes=500, batch_key="batch", subset=True)
drawn = scvi.data.synthetic_iid(batch_size=100, n_genes=40, n_proteins=5)
drawn.var["feature_types"] = ["Antibody Capture"] * 5 + ["Gene Expression"] * 35
print(scvi.data.organize_cite_seq_10x(drawn, copy=True).obsm["protein_expression"].shape)
for of_the_web in (
    *(scvi.data.read_loom, scvi.data.cortex, scvi.data.smfish, scvi.data.pbmc_dataset, scvi.data.dataset_10x),
    *(scvi.data.brainlarge_dataset, scvi.data.retina, scvi.data.prefrontalcortex_starmap),
    *(scvi.data.frontalcortex_dropseq, scvi.data.pbmcs_10x_cite_seq, scvi.data.heart_cell_atlas_subsampled),
    *(scvi.data.purified_pbmc_dataset, scvi.data.spleen_lymph_cite_seq, scvi.data.pbmc_seurat_v4_cite_seq),
    *(scvi.data.breast_cancer_dataset, scvi.data.mouse_ob_dataset),
):
    print(f"{of_the_web.__name__}: {inspect.getdoc(of_the_web).splitlines()[0]}")

# ---- SCVI
held_out = adata.obs["batch"] == adata.obs["batch"].unique()[-1]
query, reference = adata[held_out].copy(), adata[~held_out].copy()
scvi.SCVI.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
model = scvi.model.SCVI(reference, n_latent=8, encode_covariates=True)
model.train(**short, early_stopping=True, plan_kwargs={"lr": 2e-3, "n_epochs_kl_warmup": 2})
print(model.summary_string, model.is_trained, sorted(model.history), model.view_anndata_setup(), sep="\n")
print(len(model.train_indices), len(model.validation_indices), len(model.test_indices), model.get_var_names()[:2])
model.adata.obsm["X_scVI"] = model.get_latent_representation()
print(model.get_batch_representation().shape, model.get_latent_library_size().shape, model.device)
print(model.get_normalized_expression(library_size=1e4, gene_list=reference.var_names[:3], n_samples=2).shape)
print(model.differential_expression(groupby="cell_type", group1="H838", n_samples=200).head(3))
print(sorted(model.get_likelihood_parameters()), model.get_elbo(), model.get_reconstruction_error())
print(model.get_marginal_ll(n_mc_samples=10, indices=range(50)))
print(model.get_importance_weights(n_mc_samples=10, indices=range(50)).shape)
print(model.posterior_predictive_sample(n_samples=2, gene_list=reference.var_names[:3]).shape)
print(model.differential_abundance(sample_key="batch").shape, model.get_aggregated_posterior().batch_shape)

# ---- files, devices, query cells
model.save(folder / "model", overwrite=True, save_anndata=True)
model = scvi.SCVI.load(folder / "model")
model.to_device("cpu")
print(scvi.SCVI.view_setup_args(folder / "model"))
scvi.SCVI.prepare_query_anndata(query, model)
mapped = scvi.SCVI.load_query_data(query, folder / "model")
mapped.train(**short, plan_kwargs={"weight_decay": 0.0})
print("mapped:", mapped.get_latent_representation().shape)
model.minify_adata()
print(model.minified_data_type)

# ---- labels
annotator = scvi.SCANVI.from_scvi_model(scvi.SCVI.load(folder / "model"), "unknown", labels_key="cell_type")
annotator.train(**short)
print("known again:", (annotator.predict() == reference.obs["cell_type"].to_numpy()).mean())
scvi.CondSCVI.setup_anndata(reference, labels_key="cell_type", batch_key="batch")
scvi.CondSCVI(reference).train(**short)

# ---- factors, and zero inflation
scvi.LinearSCVI.setup_anndata(reference, batch_key="batch")
linear = scvi.LinearSCVI(reference, n_latent=5)
linear.train(**short)
print("loadings:", linear.get_loadings().shape)
scvi.AUTOZI.setup_anndata(reference, batch_key="batch")
autozi = scvi.AUTOZI(reference)
autozi.train(**short)
print(sorted(autozi.get_alphas_betas()))

# ---- proteins
scvi.TOTALVI.setup_anndata(drawn, "protein_expression", batch_key="batch")
proteins = scvi.TOTALVI(drawn, n_latent=5)
proteins.train(**short)
print(proteins.get_protein_foreground_probability().shape, proteins.get_protein_background_mean(None, None, None).shape)
print(proteins.get_feature_correlation_matrix(n_samples=2).shape, sorted(proteins.posterior_predictive_sample()))
modalities = scvi.data.synthetic_iid(batch_size=100, n_genes=40, n_proteins=5, n_regions=0, return_mudata=True)
scvi.TOTALVI.setup_mudata(modalities, batch_key="batch", modalities={"protein_layer": "protein_expression"})
joint = scvi.TOTALVI(modalities, n_latent=5)
joint.train(**short)
scvi.TOTALVI.prepare_query_mudata(modalities, joint, inplace=False)
joint.minify_mudata()

# ---- genes that a spatial measurement lacks
spatial = reference[::2, :300].copy()
for of_both in (reference, spatial):
    scvi.GIMVI.setup_anndata(of_both)
imputing = scvi.GIMVI(reference, spatial, n_latent=5)
imputing.train(**short)
print("imputed:", imputing.get_imputed_values()[1].shape)
