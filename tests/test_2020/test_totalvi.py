"""The tutorial on totalVI, with CITE-seq cells that are shipped with the tests in place of the download."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import scvi
from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement
from scvi.inference import TotalPosterior, TotalTrainer
from scvi.models import TOTALVI
from scvi.queries.clustering import knn_accuracy

pytestmark = pytest.mark.slow
FILE = Path(__file__).parents[1] / "sample_data" / "pbmc_cite_small.h5ad"
EARLY_STOPPING = {
    "early_stopping_metric": "elbo",
    "save_best_state_metric": "elbo",
    "patience": 45,
    "threshold": 0,
    "reduce_lr_on_plateau": True,
    "lr_patience": 30,
    "lr_factor": 0.6,
    "posterior_class": TotalPosterior,
}


@pytest.fixture(scope="module")
def cells():
    """The cells whose proteins were measured."""
    adata = anndata.read_h5ad(FILE)
    return adata[adata.obs["batch"] == "pbmc_10k"].copy()


@pytest.fixture(scope="module")
def dataset(cells):
    dataset = AnnDatasetFromAnnData(cells, batch_label="batch", ctype_label="protein_gate")
    names = np.append(np.asarray(cells.uns["protein_names"]).astype(str), "IgG1_control")
    counts = np.column_stack([cells.obsm["protein_counts"], np.ones(len(dataset), int)])
    dataset.initialize_cell_measurement(
        CellMeasurement(name="protein_expression", data=counts, columns_attr_name="protein_names", columns=names)
    )
    dataset.update_genes(np.asarray((dataset.X > 0).mean(axis=0)).ravel() > 0.01)
    dataset.subsample_genes(250)
    keep = ~np.char.startswith(dataset.protein_names.astype(str), "IgG")
    dataset.protein_expression = dataset.protein_expression[:, keep]
    dataset.protein_names = dataset.protein_names[keep]
    totals = dataset.protein_expression.sum(axis=1)
    dataset.update_cells(totals >= np.percentile(totals, 1))
    return dataset


@pytest.fixture(scope="module")
def trained(dataset):
    scvi.set_seed(0)
    totalvae = TOTALVI(dataset.nb_genes, len(dataset.protein_names), n_hidden=64)
    trainer = TotalTrainer(
        totalvae,
        dataset,
        train_size=0.90,
        test_size=0.10,
        use_cuda=False,
        frequency=1,
        show_progbar=False,
        n_iter_kl_warmup=100,
        data_loader_kwargs={"batch_size": 64},
        early_stopping_kwargs=EARLY_STOPPING,
    )
    trainer.train(lr=4e-3, n_epochs=60)
    return trainer


def test_the_data(dataset):
    assert dataset.nb_genes == 250
    assert dataset.protein_expression.shape == (dataset.nb_cells, 14)
    assert 780 <= dataset.nb_cells < 800
    assert {"protein_expression"} == set(dataset.cell_measurements_col_mappings)


def test_both_elbo_curves_fall(trained):
    train, test = trained.history["elbo_train_set"], trained.history["elbo_test_set"]
    assert train[-1] < 0.8 * train[0]
    assert test[-1] < 1.1 * train[-1]


def test_latent_foreground_and_denoised_expression(trained, dataset):
    full = trained.create_posterior(trained.model, dataset, indices=np.arange(len(dataset)), type_class=TotalPosterior)
    full = full.update({"batch_size": 32})
    latent_mean, _, label, library_gene = full.sequential().get_latent()
    assert latent_mean.shape == (len(dataset), 20)
    totals = np.asarray(dataset.X.sum(axis=1)).ravel()
    assert np.corrcoef(np.log(library_gene), np.log(totals))[0, 1] > 0.9
    py_mixing = full.sequential().get_sample_mixing(n_samples=25, give_mean=True)
    denoised_genes, denoised_proteins = full.sequential().get_normalized_denoised_expression(
        n_samples=25, give_mean=True
    )
    assert denoised_genes.shape == dataset.X.shape
    assert denoised_proteins.shape == py_mixing.shape == dataset.protein_expression.shape

    foreground = 1 - py_mixing
    gate = np.asarray(dataset.cell_types)[label]
    gated = gate != "unassigned"
    assert knn_accuracy(latent_mean[gated], gate[gated]) > 0.85
    names = list(dataset.protein_names)
    for protein, types in {
        "CD3": ["CD4 T memory", "CD4 T naive", "CD8 T"],
        "CD19": ["B"],
        "CD14": ["CD14 Mono"],
    }.items():
        for values in (foreground, denoised_proteins):
            assert roc_auc_score(np.isin(gate, types)[gated], values[gated, names.index(protein)]) > 0.9, protein
    scvi.settings.seed = None
