"""The notebook with the figures of the paper: likelihood, imputation, clusters, differences, draws, on real cells."""

from importlib.resources import as_file, files
from pathlib import Path

import anndata
import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import sparse
from scipy.stats import spearmanr

import scvi
from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset
from scvi.inference import AdapterTrainer, UnsupervisedTrainer
from scvi.models import VAE

pytestmark = pytest.mark.slow
QUIET = {"show_progbar": False, "use_cuda": False}
CELLS = Path(__file__).parents[1] / "sample_data"


@pytest.fixture(scope="module")
def gene_dataset(real_cells):
    return AnnDatasetFromAnnData(real_cells, batch_label="batch", ctype_label="cell_type")


def fitted(gene_dataset, n_epochs=30, corruption=None, **options):
    """A trainer and the posterior of all cells; the last steps are small, for batch norm lags behind large ones."""
    scvi.set_seed(0)
    vae = VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches)
    warm_up = {"n_epochs_kl_warmup": None, "n_iter_kl_warmup": 80}
    trainer = UnsupervisedTrainer(vae, gene_dataset, **{"train_size": 0.9, **warm_up, **QUIET, **options})
    if corruption is not None:
        trainer.corrupt_posteriors(**corruption)
    trainer.train(n_epochs=n_epochs, lr=5e-3)
    trainer.train(n_epochs=max(n_epochs // 4, 1), lr=2e-4)
    trainer.uncorrupt_posteriors()
    return trainer, trainer.create_posterior(vae, gene_dataset, indices=np.arange(len(gene_dataset)))


@pytest.fixture(scope="module")
def trained(gene_dataset):
    return fitted(gene_dataset)


@pytest.fixture(scope="module")
def full(trained):
    return trained[1]


def test_run_time_on_a_subset(gene_dataset_of_its_own):
    gene_dataset_of_its_own.subsample_cells(300)
    assert len(gene_dataset_of_its_own) == 300
    trainer, _ = fitted(gene_dataset_of_its_own, n_epochs=2)
    assert trainer.training_time > 0


@pytest.fixture
def gene_dataset_of_its_own(mixology):
    return AnnDatasetFromAnnData(mixology, batch_label="batch", ctype_label="cell_type")


def test_held_out_likelihood(gene_dataset):
    trainer, _ = fitted(gene_dataset, n_epochs=20, train_size=0.5)
    before = trainer.test_set.elbo()
    adapter = AdapterTrainer(trainer.model, gene_dataset, trainer.test_set)
    adapter.show_progbar = False
    assert adapter.train(n_path=1, n_epochs=1) < 1.02 * before
    assert trainer.test_set.marginal_ll(n_mc_samples=20) < trainer.test_set.elbo()


@pytest.mark.parametrize("corruption", ["uniform", "binomial"])
def test_hidden_counts_are_imputed_better_than_without_a_model(gene_dataset_of_its_own, corruption, tmp_path):
    data_set = gene_dataset_of_its_own
    trainer, full = fitted(data_set, n_epochs=40, corruption={"rate": 0.1, "corruption": corruption})
    original_list, imputed_list = full.imputation_benchmark(
        n_samples=1, show_plot=False, title_plot=corruption, save_path=str(tmp_path)
    )
    assert (tmp_path / f"{corruption}.png").stat().st_size > 5_000
    score = full.imputation_score(original_list=original_list, imputed_list=imputed_list)
    true, noisy = data_set.X, data_set.corrupted_X
    if sparse.issparse(true):
        true, noisy = true.toarray(), noisy.toarray()
    cells, genes = np.nonzero(true != noisy)
    assert sum(map(len, original_list)) == len(cells) > 1000
    shares = noisy.sum(axis=0) / noisy.sum()
    without_model = np.median(np.abs(true[cells, genes] - shares[genes] * noisy.sum(axis=1)[cells]))
    assert score < 0.9 * without_model
    assert trainer.train_set.imputation_score() == pytest.approx(score, rel=0.1)


def test_clusters_and_mixing(full, gene_dataset):
    for algorithm in ("knn", "gmm"):
        asw, nmi, ari, uca = full.clustering_scores(prediction_algorithm=algorithm)
        assert asw > 0.2
        assert nmi > 0.6
        assert ari > 0.4
        assert uca > 0.55
    assert full.knn_purity() > 0.95
    shares = np.bincount(gene_dataset.batch_indices.ravel()) / len(gene_dataset)
    assert full.entropy_batch_mixing() > -0.4 * np.sum(shares * np.log(shares))


def test_differences_of_lines_and_of_a_line_with_itself(full, gene_dataset):
    one, other = (np.flatnonzero(gene_dataset.labels.ravel() == line) for line in (1, 4))
    options = {"n_samples": 200, "M_permutation": 40_000, "all_stats": False}
    scvi.set_seed(0)
    table = full.differential_expression_score(one, other, **options)
    assert set(table.columns) == {"proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2"}
    same = full.differential_expression_score(one, one, **options)
    assert (table["bayes_factor"].abs() >= 3).sum() > 30
    assert not (same["bayes_factor"].abs() >= 3).any()
    counts = gene_dataset.X.toarray() if sparse.issparse(gene_dataset.X) else gene_dataset.X
    shares = [counts[cells].sum(axis=0) / counts[cells].sum() for cells in (one, other)]
    change = np.log2((shares[0] + 1e-5) / (shares[1] + 1e-5))
    factors = table.loc[gene_dataset.gene_names, "bayes_factor"].to_numpy()
    assert spearmanr(factors, change)[0] > 0.9


def test_library_sizes_and_zeros_are_explained(full, gene_dataset):
    counts = gene_dataset.X.toarray() if sparse.issparse(gene_dataset.X) else gene_dataset.X
    assert np.corrcoef(full.get_stats(), np.log(counts.sum(axis=1)))[0, 1] > 0.5
    dropout, means, dispersions = full.generate_parameters()
    assert dropout.shape == means.shape == dispersions.shape == counts.shape
    lost = 1 / (1 + np.exp(-dropout))
    zeros = lost + (1 - lost) * (dispersions / (dispersions + means)) ** dispersions
    observed = (counts == 0).mean(axis=0)
    assert np.corrcoef(zeros.mean(axis=0), observed)[0, 1] > 0.7  # the fit is short
    assert np.abs(zeros.mean(axis=0) - observed).mean() < 0.12


def test_counts_that_the_model_would_measure(trained, gene_dataset):
    train_set = trained[0].train_set
    gene = str(gene_dataset.gene_names[7])
    drawn, counts = train_set.generate(genes=[gene], n_samples=30)
    assert drawn.shape == (train_set.nb_cells, 1, 30)
    column = gene_dataset.X[train_set.indices, 7]
    true = column.toarray().ravel() if sparse.issparse(column) else column
    assert np.array_equal(np.sort(counts.ravel()), np.sort(true))
    assert np.log(drawn.mean()) == pytest.approx(np.log(true.mean()), abs=0.6)
    drawn, counts = train_set.generate(genes=list(gene_dataset.gene_names[:20].astype(str)), n_samples=30)
    correlations = [np.corrcoef(drawn[:, g].mean(axis=1), counts[:, g])[0, 1] for g in range(20)]
    assert np.median(correlations) > 0.55, correlations


def test_two_batches_that_mix():
    """Step 11 of the basic tutorial: genes that both batches have, then as many as there is room for."""
    with as_file(files("scvi") / "demo_data" / "sc_mixology_demo.h5ad") as path:
        adata = anndata.read_h5ad(path)
    data_set = AnnDatasetFromAnnData(adata, batch_label="protocol", ctype_label="cell_type")
    data_set.filter_genes_by_count(per_batch=True)
    data_set.subsample_genes(300)
    _, full = fitted(data_set, n_epochs=20)
    shares = np.bincount(data_set.batch_indices.ravel()) / len(data_set)
    assert 0.45 * -np.sum(shares * np.log(shares)) < full.entropy_batch_mixing() <= np.log(2)


def test_pictures(full, tmp_path):
    panels = full.show_t_sne(n_samples=300, color_by="batches and labels", save_name=str(tmp_path / "both.png"))
    assert [axes.get_title() for axes in panels] == ["batches", "labels"]
    assert [len(axes.get_legend().get_texts()) for axes in panels] == [5, 5]
    places, chosen = full.apply_t_sne(full.sequential().get_latent()[0], n_samples=300)
    labels = full.gene_dataset.labels[chosen]
    for color_by in ("", "scalar", "labels"):
        axes = full.show_t_sne(color_by=color_by, latent=places, labels=labels)
        assert isinstance(axes, Axes)
    assert [path.name for path in tmp_path.iterdir()] == ["both.png"]


def test_counts_without_structure_have_no_clusters():
    rng = np.random.default_rng(0)
    data_set = GeneExpressionDataset()
    labels = rng.integers(3, size=400)
    data_set.populate_from_data(rng.negative_binomial(2, 0.2, size=(400, 60)) + 1, labels=labels)
    _, full = fitted(data_set, n_epochs=10)
    asw, nmi, ari, uca = full.clustering_scores()
    assert max(asw, nmi, ari) < 0.1
    assert uca < 0.5
    assert full.knn_purity() == pytest.approx(1 / 3, abs=0.03)


def test_neighbours_by_genes_are_neighbours_by_proteins():
    adata = anndata.read_h5ad(CELLS / "pbmc_cite_small.h5ad")
    counts = adata.obsm["protein_counts"]
    measured = np.asarray(counts.sum(axis=1)).ravel() > 0
    adata = adata[measured].copy()
    logs = np.log1p(np.asarray(adata.obsm["protein_counts"], dtype=float))
    data_set = AnnDatasetFromAnnData(adata)
    names = [f"protein {i}" for i in range(logs.shape[1])]
    centred = logs - logs.mean(axis=1, keepdims=True)
    data_set.initialize_cell_measurement(CellMeasurement("protein_expression_clr", centred, "protein_names_clr", names))
    _, full = fitted(data_set, n_epochs=30)
    correlation, enrichment = full.nn_overlap_score(k=20)
    assert correlation > 0.1
    assert enrichment > 2
