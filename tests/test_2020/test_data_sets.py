"""The tutorials on loading data (what needs no file format) and on harmonization, on real cells."""

import logging

import numpy as np
import pytest

from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE
from scvi.queries.clustering import batch_entropy, knn_accuracy


@pytest.fixture
def with_measurement(mixology):
    """The cells, with some genes taken out of the counts and attached as a measurement."""
    genes = [str(name) for name in mixology.var_names[[5, 50, 150]]]
    values = mixology[:, genes].X.toarray().astype(np.int64)
    dataset = AnnDatasetFromAnnData(
        mixology[:, ~mixology.var_names.isin(genes)].copy(), batch_label="batch", ctype_label="cell_type"
    )
    dataset.initialize_cell_measurement(CellMeasurement("protein_expression", values, "protein_names", genes))
    return dataset, genes, values


def test_loading_and_inspecting(with_measurement, mixology):
    dataset, genes, values = with_measurement
    shown = repr(dataset).split("\n")
    assert shown[0] == "GeneExpressionDataset object with n_cells x nb_genes = 1021 x 297"
    assert "    cell_categorical_attribute_names: 'batch_indices', 'labels'" in shown
    assert "    cell_measurements_col_mappings: 'protein_expression': 'protein_names'" in shown
    assert isinstance(dataset.X, np.ndarray)
    assert dataset.gene_names.dtype == "<U64"
    assert dataset.protein_names.tolist() == genes
    assert np.array_equal(dataset.protein_expression, values)
    assert all(mask.all() for mask in dataset.get_batch_mask_cell_measurement("protein_expression"))
    assert dataset.X.sum() == mixology.X.sum() - values.sum()


def test_choosing_genes_and_cells(with_measurement, mixology, caplog):
    dataset, _, values = with_measurement
    counts = mixology[:, dataset.gene_names].X.toarray()
    kept = np.argsort(-counts.var(axis=0), kind="stable")[:150]
    with caplog.at_level(logging.INFO, logger="scvi.dataset"):
        dataset.subsample_genes(new_n_genes=150, mode="variance")
    assert "Downsampling from 297 to 150 genes" in caplog.text
    assert "Filtering non-expressing cells." in caplog.text
    np.testing.assert_array_equal(dataset.X, counts[:, kept])

    totals = counts[:, kept].sum(axis=1)
    least = int(np.quantile(totals, 0.02))
    cells = totals >= least
    dataset.filter_cells_by_count(least)
    assert 950 < dataset.nb_cells == cells.sum() < 1021
    np.testing.assert_array_equal(dataset.protein_expression, values[cells])

    few = np.flatnonzero([name.endswith("77") for name in dataset.gene_names])
    left = dataset.X[:, few]
    caplog.clear()
    dataset.subsample_genes(subset_genes=few)
    np.testing.assert_array_equal(dataset.X, left[left.any(axis=1)])
    np.testing.assert_array_equal(dataset.protein_expression, values[cells][left.any(axis=1)])
    assert not left.any(axis=1).all()
    assert "data has empty cells" in caplog.text


@pytest.mark.parametrize("mode", ["seurat_v2", "cell_ranger", "seurat_v3"])
def test_highly_variable_genes_tell_the_cell_lines_apart(gene_dataset, mode):
    dataset = gene_dataset
    dataset.filter_genes_by_count(2, per_batch=True)
    dataset.subsample_genes(40, mode=mode)
    assert dataset.nb_genes == 40
    dataset.normalize()
    expression = np.log1p(dataset.norm_X)
    assert knn_accuracy(expression, dataset.labels.ravel()) > 0.9


def test_there_and_back_through_anndata(with_measurement):
    dataset, _, _ = with_measurement
    dataset.map_cell_types({("HCC827", "H1975"): "lung"})
    dataset.remap_categorical_attributes()
    again = AnnDatasetFromAnnData(dataset.to_anndata())
    assert repr(again) == repr(dataset)
    assert again.cell_types.tolist() == dataset.cell_types.tolist()
    assert again.batch_names.tolist() == dataset.batch_names.tolist()
    for name in ("labels", "batch_indices", "local_means", "local_vars", "protein_expression"):
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
    np.testing.assert_array_equal(again.X, dataset.X)


def test_harmonization(mixology):
    """Two conditions, read one by one with genes of their own, become batches 0 and 1 of one data set."""
    conditions = ("sc_celseq2", "sc_dropseq")
    control, stimulated = (
        AnnDatasetFromAnnData(
            mixology[mixology.obs["batch"] == name, np.delete(np.arange(300), drop)].copy(), ctype_label="cell_type"
        )
        for name, drop in zip(conditions, ([3, 7], [7, 11, 12]), strict=True)
    )
    control.subsample_genes(10**5)  # not so many: nothing happens
    stimulated.reorder_genes(stimulated.gene_names[::-1])
    sizes = len(control), len(stimulated)
    names = control.gene_names.copy(), stimulated.gene_names.copy()

    all_dataset = GeneExpressionDataset()
    all_dataset.populate_from_datasets([control, stimulated])
    assert np.array_equal(control.gene_names, names[0])
    assert np.array_equal(stimulated.gene_names, names[1])
    assert all_dataset.nb_cells == sum(sizes)
    assert all_dataset.nb_genes == 296
    assert all_dataset.batch_indices.ravel().tolist() == [0] * sizes[0] + [1] * sizes[1]
    merged = all_dataset.cell_types[all_dataset.labels.ravel()]
    separate = [part.cell_types[part.labels.ravel()] for part in (control, stimulated)]
    assert np.array_equal(merged, np.concatenate(separate))
    source = mixology[mixology.obs["batch"] == conditions[1], all_dataset.gene_names].X
    np.testing.assert_array_equal(all_dataset.X[sizes[0] :], source.toarray())

    vae = VAE(
        all_dataset.nb_genes,
        n_batch=all_dataset.n_batches,
        n_labels=all_dataset.n_labels,
        n_hidden=128,
        n_latent=30,
        n_layers=2,
        dispersion="gene",
    )
    options = {"n_epochs_kl_warmup": 10, "show_progbar": False, "use_cuda": False}
    trainer = UnsupervisedTrainer(vae, all_dataset, train_size=1.0, **options)
    trainer.train(n_epochs=100, lr=5e-3)
    full = trainer.create_posterior(trainer.model, all_dataset, indices=np.arange(len(all_dataset)))
    latent, batch_indices, labels = full.sequential().get_latent()
    assert knn_accuracy(latent, labels) > 0.95
    before = batch_entropy(np.log1p(all_dataset.X), batch_indices.ravel())
    assert batch_entropy(latent, batch_indices.ravel()) > 1.5 * before
