"""The basic tutorial and the one on the linear decoder, on real cells."""

import anndata
import numpy as np
import pytest

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer, load_posterior
from scvi.models import LDVAE, VAE
from scvi.queries.clustering import batch_entropy, kmeans_scores, knn_accuracy, max_batch_entropy

pytestmark = pytest.mark.slow
QUIET = {"show_progbar": False, "use_cuda": False}


def all_cells(trainer, gene_dataset):
    full = trainer.create_posterior(trainer.model, gene_dataset, indices=np.arange(len(gene_dataset)))
    return full.update({"batch_size": 32})


@pytest.fixture(scope="module")
def gene_dataset(real_cells):
    return AnnDatasetFromAnnData(real_cells, batch_label="batch", ctype_label="cell_type")


@pytest.fixture(scope="module")
def trained(gene_dataset):
    scvi.set_seed(0)
    vae = VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches)
    trainer = UnsupervisedTrainer(vae, gene_dataset, train_size=0.90, frequency=5, n_epochs_kl_warmup=10, **QUIET)
    trainer.train(n_epochs=60, lr=5e-3)
    return trainer


def test_the_data(gene_dataset, real_cells):
    assert "GeneExpressionDataset object with n_cells x nb_genes = 1021 x 300" in repr(gene_dataset)
    assert (gene_dataset.n_batches, gene_dataset.n_labels) == (5, 5)
    assert np.array_equal(np.asarray(gene_dataset.cell_types)[gene_dataset.labels.ravel()], real_cells.obs["cell_type"])


def test_both_elbo_curves_fall(trained):
    train, test = trained.history["elbo_train_set"], trained.history["elbo_test_set"]
    assert len(train) == len(test) == 60 // 5 + 1
    assert train[-1] < 0.1 * train[0]
    assert 0.97 * train[-1] < test[-1] < 1.1 * train[-1]
    assert np.all(np.diff(train[:4]) < 0)


def test_the_latent_space_shows_cell_lines_not_batches(trained, gene_dataset, real_cells):
    full = all_cells(trained, gene_dataset)
    latent, batch_indices, labels = full.sequential().get_latent()
    assert latent.shape == (1021, 10)
    assert np.array_equal(labels, gene_dataset.labels.ravel())
    assert knn_accuracy(latent, labels) > 0.98
    assert kmeans_scores(latent, labels)["ARI"] > 0.55
    assert batch_entropy(latent, batch_indices.ravel()) > 0.45 * max_batch_entropy(batch_indices.ravel())
    post = anndata.AnnData(real_cells.X, obsm={"X_scVI": latent})
    post.obs["cell_type"] = np.asarray(gene_dataset.cell_types)[labels]
    assert np.array_equal(post.obs["cell_type"].astype(str), real_cells.obs["cell_type"].astype(str))


def test_expected_counts_and_normalised_expression_resemble_the_counts(trained, gene_dataset, real_cells):
    full = all_cells(trained, gene_dataset)
    imputed_values = full.sequential().imputation()
    normalized_values = full.sequential().get_sample_scale()
    counts = real_cells.X.toarray()
    assert imputed_values.shape == normalized_values.shape == counts.shape
    assert np.allclose(normalized_values.sum(axis=1), 1, atol=1e-4)
    log = np.log1p
    for line in range(5):  # the profile of each cell line
        cells = gene_dataset.labels.ravel() == line
        observed = (counts[cells] / counts[cells].sum(axis=1, keepdims=True)).mean(axis=0)
        assert np.corrcoef(log(1e4 * observed), log(1e4 * normalized_values[cells].mean(axis=0)))[0, 1] > 0.95
    assert np.corrcoef(log(counts).ravel(), log(imputed_values).ravel())[0, 1] > 0.8
    total = log(counts.sum(axis=1))
    assert np.corrcoef(total, log(imputed_values.sum(axis=1)))[0, 1] > 0.5
    assert np.corrcoef(total, full.get_stats())[0, 1] > 0.5


def test_saving_and_loading(trained, gene_dataset, tmp_path):
    full = all_cells(trained, gene_dataset)
    full.save_posterior(tmp_path / "full")
    retrieved = load_posterior(
        dir_path=tmp_path / "full",
        model=VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches),
        use_cuda=False,
    )
    assert np.array_equal(retrieved.sequential().get_latent()[0], full.sequential().get_latent()[0])
    assert retrieved.data_loader.batch_size == 32


def test_differential_expression_of_two_lines(trained, gene_dataset, real_cells):
    full = all_cells(trained, gene_dataset)
    cell_idx1, cell_idx2 = (gene_dataset.labels.ravel() == line for line in (0, 3))
    scvi.set_seed(0)
    table = full.differential_expression_score(cell_idx1, cell_idx2, n_samples=100, M_permutation=100000)
    assert table.shape == (300, 11)
    assert table["bayes_factor"].is_monotonic_decreasing
    np.testing.assert_allclose(table["proba_m1"] + table["proba_m2"], 1)
    counts = real_cells.X.toarray().astype(float)
    relative = counts / counts.mean(axis=1, keepdims=True)
    for side, cells in ((1, cell_idx1), (2, cell_idx2)):
        expected = {
            "raw_mean": counts[cells].mean(axis=0),
            "non_zeros_proportion": (counts[cells] > 0).mean(axis=0),
            "raw_normalized_mean": relative[cells].mean(axis=0),
        }
        for name, values in expected.items():
            found = table.loc[real_cells.var_names, f"{name}{side}"]
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-6, err_msg=name)
    # what the counts show is what the model says: the genes that differ most, and the order of the others
    ratio = np.log2((table["raw_normalized_mean1"] + 0.01) / (table["raw_normalized_mean2"] + 0.01))
    assert table["proba_m1"][ratio > 3].min() > 0.9
    assert table["proba_m1"][ratio < -3].max() < 0.1
    assert (ratio.abs() > 3).sum() > 10
    assert ratio.corr(np.log2(table["scale1"] / table["scale2"]), method="spearman") > 0.9
    again = full.differential_expression_score(cell_idx1, cell_idx1, n_samples=100)
    assert np.abs(again["bayes_factor"]).median() < 0.5  # a line does not differ from itself


def test_the_genes_of_every_line(trained, gene_dataset):
    full = all_cells(trained, gene_dataset)
    scvi.set_seed(0)
    per_cluster_de, cluster_id = full.one_vs_all_degenes(cell_labels=gene_dataset.labels.ravel(), min_cells=1)
    assert cluster_id == list(range(5))
    markers = [table[:10].index for table in per_cluster_de]
    shown = np.log10(
        1 + np.stack([table.loc[np.concatenate(markers), "raw_normalized_mean1"] for table in per_cluster_de], axis=1)
    )
    assert shown.shape == (50, 5)
    assert np.mean(shown.argmax(axis=1) == np.repeat(np.arange(5), 10)) > 0.9


def test_the_batch_correction_says_that_the_warm_up_did_not_end(gene_dataset, caplog):
    trainer = UnsupervisedTrainer(VAE(gene_dataset.nb_genes, n_batch=5), gene_dataset, train_size=0.9, **QUIET)
    with caplog.at_level("INFO", logger="scvi"):
        trainer.train(n_epochs=2, lr=1e-3)
    assert any("warmup" in message.lower() for message in caplog.messages)


def test_the_tutorial_at_full_length(gene_dataset):
    vae = VAE(gene_dataset.nb_genes)
    trainer = UnsupervisedTrainer(vae, gene_dataset, train_size=0.90, frequency=5, **QUIET)
    trainer.train(n_epochs=400, lr=1e-3)
    train, test = trainer.history["elbo_train_set"], trainer.history["elbo_test_set"]
    assert len(train) == len(test) == len(np.linspace(0, 400, 81))
    assert train[-1] < test[-1] < 0.1 * test[0]
    latent, _, labels = all_cells(trainer, gene_dataset).sequential().get_latent()
    assert knn_accuracy(latent, labels) > 0.98


def test_the_linear_decoder(gene_dataset, real_cells):
    vae = LDVAE(
        gene_dataset.nb_genes,
        n_batch=gene_dataset.n_batches,
        n_latent=10,
        n_layers_encoder=1,
        n_hidden=128,
        reconstruction_loss="nb",
        latent_distribution="normal",
    )
    trainer = UnsupervisedTrainer(vae, gene_dataset, frequency=1, n_epochs_kl_warmup=None, **QUIET)
    trainer.train(lr=5e-3, n_epochs=60)
    assert len(trainer.history["elbo_train_set"]) == 61
    assert trainer.history["elbo_test_set"][-1] < 0.1 * trainer.history["elbo_test_set"][0]

    latent, _, labels = all_cells(trainer, gene_dataset).sequential().get_latent()
    assert knn_accuracy(latent, labels) > 0.95
    loadings = vae.get_loadings()
    assert loadings.shape == (300, 10)

    # what the loadings say of a cell line's genes is what its counts show
    counts = real_cells.X.toarray()
    profile = np.stack([np.log(counts[labels == line].sum(axis=0) + 1) for line in range(5)])
    explained = np.stack([latent[labels == line].mean(axis=0) for line in range(5)]) @ loadings.T
    for seen, told in zip(profile - profile.mean(axis=0), explained - explained.mean(axis=0), strict=True):
        assert np.corrcoef(seen, told)[0, 1] > 0.5
