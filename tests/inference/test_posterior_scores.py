"""Scores and pictures of a latent space under their names of 2020, against scikit-learn, formulas and loops."""

import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.mixture import GaussianMixture

from scvi.dataset import CellMeasurement, GeneExpressionDataset
from scvi.inference import Posterior, TotalPosterior
from scvi.inference.posterior_utils import (
    knn_purity,
    nn_overlap,
    plot_imputation,
    proximity_imputation,
    unsupervised_clustering_accuracy,
)
from scvi.models import TOTALVI, VAE


@pytest.fixture
def posterior(vae, dataset):
    return Posterior(vae.eval(), dataset, indices=np.arange(60))


@pytest.fixture
def clumps(posterior, monkeypatch):
    """The same, of a model that places each type of cells in a clump of its own, one of them in two."""
    labels = posterior.gene_dataset.labels.ravel()
    places = np.random.default_rng(0).normal(size=(60, 3)) + 5 * np.eye(3)[labels]
    places[labels == 2] += 9 * (np.arange((labels == 2).sum()) % 2)[:, None]
    monkeypatch.setattr(posterior, "placed", lambda give_mean=True: (places, np.arange(60) % 2, labels))
    return posterior


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_cells_are_placed_in_their_order(posterior, dataset):
    latent, batches, labels = posterior.placed()
    assert np.array_equal(latent, posterior.sequential().get_latent()[0])
    assert np.array_equal(batches, dataset.batch_indices.ravel())
    assert np.array_equal(labels, dataset.labels.ravel())
    assert not np.array_equal(posterior.placed(give_mean=False)[0], latent)


@pytest.mark.parametrize("algorithm", ["knn", "gmm"])
def test_clustering_scores_are_those_of_scikit_learn(clumps, algorithm):
    latent, _, labels = clumps.placed()
    method = KMeans(3, n_init=200, random_state=4) if algorithm == "knn" else GaussianMixture(3, random_state=4)
    found = method.fit_predict(latent)
    accuracy = max(  # over all assignments
        np.mean(np.array(names)[found] == labels)
        for names in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    )
    expected = (
        silhouette_score(latent, labels),
        normalized_mutual_info_score(labels, found),
        adjusted_rand_score(labels, found),
        accuracy,
    )
    scores = clumps.clustering_scores(prediction_algorithm=algorithm, seed=4)
    assert scores == pytest.approx(expected)
    assert scores[3] == unsupervised_clustering_accuracy(labels, found)[0]
    assert 0.3 < scores[2] < 1  # neither chance nor perfect: a mistake would show


def test_clustering_scores_of_one_label_are_none_and_unknown_algorithms_refused(posterior, dataset):
    with pytest.raises(ValueError, match="prediction_algorithm='leiden' is not one of 'knn', 'gmm'"):
        posterior.clustering_scores("leiden")
    single = GeneExpressionDataset()
    single.populate_from_data(dataset.X)
    assert Posterior(posterior.model, single).clustering_scores() is None


def test_scores_draw_from_torch_s_generator_alone_and_are_repeatable(clumps):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    torch.manual_seed(5)
    first = clumps.clustering_scores("gmm")
    torch.manual_seed(5)
    assert clumps.clustering_scores("gmm") == first
    assert np.array_equal(np.random.get_state()[1], before)


def test_knn_purity_is_the_mean_over_labels(clumps):
    latent, _, labels = clumps.placed()
    nearest = np.argsort(cdist(latent, latent) + 1e9 * np.eye(60), axis=1)[:, :30]
    share = (labels[nearest] == labels[:, None]).mean(axis=1)
    expected = np.mean([share[labels == label].mean() for label in range(3)])
    assert clumps.knn_purity() == pytest.approx(expected) == pytest.approx(knn_purity(latent, labels))
    assert knn_purity(latent, labels[:, None], n_neighbors=5) > clumps.knn_purity()
    assert Posterior.knn_purity.mode == "max"


def test_nn_overlap_score_compares_with_proteins(vae, dataset):
    assert Posterior(vae, dataset).nn_overlap_score() is None
    proteins = np.random.default_rng(0).normal(size=(60, 4))
    dataset.initialize_cell_measurement(
        CellMeasurement("protein_expression_clr", proteins, "protein_names_clr", list("abcd"))
    )
    cells = np.random.default_rng(1).permutation(60)[:40]
    posterior = Posterior(vae, dataset, indices=cells)
    latent = posterior.placed()[0]
    matrices = []
    for space in (latent, proteins[cells]):
        nearest = np.argsort(cdist(space, space) + 1e9 * np.eye(40), axis=1)[:, :10]
        matrices.append(np.zeros((40, 40)))
        np.put_along_axis(matrices[-1], nearest, 1, axis=1)
    correlation, enrichment = posterior.nn_overlap_score(k=10)
    assert correlation == pytest.approx(spearmanr(*(matrix.ravel() for matrix in matrices))[0])
    assert enrichment == pytest.approx(matrices[0].ravel() @ matrices[1].ravel() * 40**2 / 400**2)
    assert posterior.nn_overlap_score() == nn_overlap(latent, proteins[cells], k=39)


def test_proteins_and_genes_have_the_same_scores(dataset):
    dataset.initialize_cell_measurement(
        CellMeasurement("protein_expression", dataset.X[:, :4].astype(int), "protein_names", list("abcd"))
    )
    model = TOTALVI(20, 4, n_batch=2, n_hidden=16, n_latent=3, latent_distribution="normal")
    posterior = TotalPosterior(model, dataset, indices=np.arange(60))
    latent, _, labels, _ = posterior.sequential().get_latent()
    assert posterior.knn_purity() == knn_purity(latent, labels)
    assert posterior.clustering_scores()[0] == pytest.approx(silhouette_score(latent, labels))
    assert posterior.nn_overlap_score() is None
    assert isinstance(posterior.show_t_sne(n_samples=20), Axes)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_some_cells_are_placed_by_t_sne():
    labels = np.arange(90) % 3
    latent = np.random.default_rng(0).normal(size=(90, 6)) + 20 * np.eye(3, 6)[labels]
    places, chosen = Posterior.apply_t_sne(latent, n_samples=60, seed=0)
    assert places.shape == (60, 2)
    assert len(np.unique(chosen)) == 60
    assert not np.array_equal(chosen, np.sort(chosen))
    assert knn_purity(places, labels[chosen], n_neighbors=5) > 0.95
    again = Posterior.apply_t_sne(latent, 60, seed=0)
    assert np.array_equal(places, again[0])
    assert np.array_equal(chosen, again[1])


@pytest.mark.parametrize("n_samples", [None, 0])
def test_all_cells_are_placed_in_their_order(n_samples):
    latent = np.random.default_rng(0).normal(size=(12, 1))  # ten cells suffice, and a single dimension
    places, chosen = Posterior.apply_t_sne(latent, n_samples)
    assert places.shape == (12, 2)
    assert np.array_equal(chosen, np.arange(12))


def test_cells_on_a_plane_stay_where_they_are():
    latent = np.random.default_rng(0).normal(size=(50, 2))
    places, chosen = Posterior.apply_t_sne(latent, 20, seed=1)
    assert len(chosen) == 20
    assert np.array_equal(places, latent[chosen])


def test_bad_arguments_of_t_sne_are_refused(posterior):
    with pytest.raises(ValueError, match="n_samples=-3 is not a number of cells"):
        posterior.apply_t_sne(np.zeros((9, 3)), -3)
    with pytest.raises(ValueError, match=r"got shape \(9,\)"):
        posterior.apply_t_sne(np.zeros(9))
    with pytest.raises(ValueError, match="at least 5 cells, got 4"):
        posterior.apply_t_sne(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="color_by='batch' is not one of '', 'scalar', 'batches'"):
        posterior.show_t_sne(color_by="batch")
    with pytest.raises(ValueError, match="labels must have a code for each of the 60 cells to colour them, got 0"):
        posterior.show_t_sne(color_by="labels", latent=np.zeros((60, 2)))


@pytest.fixture
def places():
    """A plane on which the place of a cell says which one it is."""
    return np.stack([np.arange(60), -np.arange(60)], axis=1) / 10.0


def colours(axes):
    """By cell, as hexadecimal numbers."""
    points = axes.collections[0]
    found = {
        round(10 * x): colour for (x, _), colour in zip(points.get_offsets(), points.get_facecolors(), strict=True)
    }
    return [matplotlib.colors.to_hex(found[cell]) for cell in sorted(found)]


def legend(axes):
    return None if axes.get_legend() is None else [text.get_text() for text in axes.get_legend().get_texts()]


def test_cells_are_coloured_by_batch_and_by_label(posterior, dataset, places):
    batches, labels = dataset.batch_indices.ravel(), dataset.labels.ravel()
    panels = posterior.show_t_sne(
        color_by="batches and labels", latent=places, batch_indices=batches, labels=labels, n_samples=10
    )
    assert [axes.get_title() for axes in panels] == ["batches", "labels"]
    assert [legend(axes) for axes in panels] == [["0", "1"], ["a", "b", "c"]]
    for axes, codes in zip(panels, (batches, labels), strict=True):
        assert len(set(zip(colours(axes), codes, strict=True))) == codes.max() + 1
    assert panels[0].figure.get_size_inches() == pytest.approx((14, 7))


def test_one_panel(posterior, dataset, places):
    labels = dataset.labels.ravel()
    plain = posterior.show_t_sne(latent=places)
    assert legend(plain) is None
    assert len(set(colours(plain))) == 1
    assert plain.figure.get_size_inches() == pytest.approx((10, 10))
    for kind in ("batches", "labels"):
        axes = posterior.show_t_sne(50, color_by=kind, seed=0)
        assert len(axes.collections[0].get_offsets()) == 50
        assert legend(axes) == (["0", "1"] if kind == "batches" else ["a", "b", "c"])
    known = posterior.show_t_sne(color_by="batches", latent=places, batch_indices=dataset.batch_indices, n_batch=1)
    assert legend(known) == ["0", "unlabelled"]
    scale = posterior.show_t_sne(color_by="scalar", latent=places, labels=labels / 2)
    points = scale.collections[0]
    assert dict(zip(np.round(10 * points.get_offsets()[:, 0]), points.get_array(), strict=True)) == dict(
        enumerate(labels / 2)
    )
    dataset.cell_types = None
    assert legend(posterior.show_t_sne(color_by="labels", latent=places, labels=labels)) == ["0", "1", "2"]


def test_another_latent_space_is_placed(posterior, dataset):
    latent = np.random.default_rng(0).normal(size=(60, 7))
    axes = posterior.show_t_sne(20, color_by="labels", latent=latent, labels=dataset.labels, seed=0)
    places, _ = posterior.apply_t_sne(latent, 20, seed=0)
    assert np.allclose(np.sort(axes.collections[0].get_offsets(), axis=0), np.sort(places, axis=0))


def test_pictures_are_written_and_shown_only_when_asked(posterior, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    posterior.show_t_sne(latent=places)
    plot_imputation(places[:, 0], places[:, 0] + 1, title="picture")
    assert not list(tmp_path.iterdir())
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    posterior.show_t_sne(latent=places, save_name="cells.pdf")
    assert (tmp_path / "cells.pdf").read_bytes().startswith(b"%PDF")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.pdf"]


# ---- imputation from neighbours --------------------------------------------------------------------------------------


def test_proximity_imputation_weighs_neighbours_by_their_distance():
    rng = np.random.default_rng(0)
    known, values, asked = rng.normal(size=(30, 2)), rng.random((30, 5)), rng.normal(size=(8, 2))
    found = proximity_imputation(known, values, asked, k=3)
    for row, place in zip(found, asked, strict=True):
        distances = np.linalg.norm(known - place, axis=1)
        nearest = np.argsort(distances)[:3]
        assert np.allclose(row, np.average(values[nearest], axis=0, weights=1 / distances[nearest]))
    assert np.allclose(proximity_imputation(known, values, known), values)
    with pytest.raises(ValueError, match="k=31 is not a number of neighbours, an integer from 1 to 30"):
        proximity_imputation(known, values, asked, k=31)


def test_a_model_of_other_data_is_refused_before_any_work(dataset):
    other = Posterior(VAE(21, n_batch=2), dataset)
    for score in (other.knn_purity, other.clustering_scores, other.show_t_sne):
        with pytest.raises(ValueError, match="was made for other data"):
            score()
