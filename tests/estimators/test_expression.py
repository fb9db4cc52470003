"""Counts drawn again, correlations and importance weights, asked of estimators."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scvi
from small_cells import QUICK, TINY, G, N, make_adata


def fit(cls: Any = scvi.SCVI, setup: dict[str, Any] | None = None, **options: Any) -> Any:
    adata = make_adata()
    cls.setup_anndata(adata, **({"batch_key": "batch"} if setup is None else setup))
    model = cls(adata, **{**TINY, **options})
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def model() -> scvi.SCVI:
    return fit()


# ---- counts drawn again ----------------------------------------------------------------------------------------------


def test_one_draw_and_several(model: scvi.SCVI) -> None:
    one = model.posterior_predictive_sample(seed=0)
    assert isinstance(one, sparse.csr_matrix)
    assert (one.shape, one.dtype) == ((N, G), np.float32)
    several = model.posterior_predictive_sample(n_samples=3, seed=0)
    assert several.shape == (N, G, 3)
    assert not np.array_equal(several.toarray()[..., 0], several.toarray()[..., 1])
    assert np.array_equal(several.toarray(), model.posterior_predictive_sample(n_samples=3, seed=0).toarray())


def test_cells_and_genes_come_in_the_order_wanted(model: scvi.SCVI) -> None:
    cells, genes = [30, 2, 2], ["gene9", "gene0"]
    draws = model.posterior_predictive_sample(indices=cells, gene_list=genes, n_samples=800, seed=0).toarray()
    assert draws.shape == (3, 2, 800)
    parameters = model.get_likelihood_parameters(indices=cells, n_samples=400, give_mean=True, seed=1)
    expected = (parameters["mean"] / (1 + np.exp(parameters["dropout"])))[:, [9, 0]]
    np.testing.assert_allclose(draws.mean(2), expected, rtol=0.25)
    assert not np.array_equal(draws[1], draws[2])


def test_another_batch(model: scvi.SCVI) -> None:
    totals = {}
    for name in ("b0", "b1", "b2"):
        draws = model.posterior_predictive_sample(transform_batch=name, n_samples=40, seed=0).sum(axis=2)
        scales = model.get_normalized_expression(transform_batch=name, n_samples=10, library_size="latent", seed=0)
        assert np.corrcoef(draws.mean(0), scales.mean())[0, 1] > 0.9
        totals[name] = draws.mean(0)
    assert not np.allclose(totals["b0"], totals["b1"], rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples=0 is not a positive integer"),
        ({"n_samples": "3"}, "n_samples='3' is not a positive integer"),
        ({"n_samples": True}, "n_samples=True is not a positive integer"),
        ({"gene_list": ["gene1", "gen2"]}, "gene_list has 'gen2', which is not a gene of the model; did you mean"),
        ({"gene_list": [True] + [False] * (G - 1)}, "pass the names that a mask chooses"),
        ({"transform_batch": "b9"}, "transform_batch='b9' is not a batch"),
        ({"transform_batch": ["b0", "b1"]}, "names several batches; counts are drawn in one"),
        ({"silent": 1}, "silent=1 is not True or False"),
        ({"indices": []}, "indices choose no cell"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn(model: scvi.SCVI, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.posterior_predictive_sample(**arguments)


def test_views_masks_and_names(model: scvi.SCVI) -> None:
    mask = np.arange(N) % 10 == 0
    by_mask = model.posterior_predictive_sample(indices=mask, seed=0).toarray()
    assert by_mask.shape == (15, G)
    of_a_view = model.posterior_predictive_sample(model.adata[mask], seed=0).toarray()
    assert np.array_equal(of_a_view, by_mask)
    series = pd.Series(mask, index=model.adata.obs_names)
    assert np.array_equal(model.posterior_predictive_sample(indices=series, seed=0).toarray(), by_mask)
    one = model.posterior_predictive_sample(gene_list="gene3", seed=0)
    assert one.shape == (N, 1)


def test_cells_in_a_file(model: scvi.SCVI, tmp_path: Any) -> None:
    adata = make_adata()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for ask in (
        lambda cells: model.posterior_predictive_sample(cells, n_samples=2, seed=0).toarray(),
        lambda cells: model.get_feature_correlation_matrix(cells, n_samples=1, seed=0),
        lambda cells: model.get_importance_weights(cells, n_mc_samples=3, seed=0),
    ):
        assert np.array_equal(ask(backed), ask(adata))
    backed.file.close()


def test_minified_cells() -> None:
    """Draws need the posterior alone, weights need counts."""
    model = fit()
    before = model.posterior_predictive_sample(n_samples=2, seed=0).toarray()
    correlations = model.get_feature_correlation_matrix(n_samples=1, seed=0)
    model.minify_adata()
    np.testing.assert_allclose(
        model.posterior_predictive_sample(n_samples=2, seed=0).toarray().mean(), before.mean(), rtol=0.05
    )
    np.testing.assert_allclose(model.get_feature_correlation_matrix(n_samples=1, seed=0), correlations, atol=0.2)
    for ask in (model.get_importance_weights, lambda: model.get_normalized_expression(weights="importance")):
        with pytest.raises(ValueError, match="minified, and this question needs their counts"):
            ask()


# ---- correlations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_a_table_of_correlations(model: scvi.SCVI, kind: Any) -> None:
    found = model.get_feature_correlation_matrix(n_samples=3, correlation_type=kind, seed=0)
    assert list(found.index) == list(found.columns) == list(model.schema.genes)
    np.testing.assert_allclose(np.diag(found), 1)
    some = model.get_feature_correlation_matrix(
        n_samples=30, correlation_type=kind, gene_list=["gene4", "gene1", "gene20"], seed=1
    )
    assert list(some.columns) == ["gene4", "gene1", "gene20"]
    many = model.get_feature_correlation_matrix(n_samples=30, correlation_type=kind, seed=0)
    np.testing.assert_allclose(some, many.loc[some.index, some.index], atol=0.05)
    other_size = model.get_feature_correlation_matrix(n_samples=3, rna_size_factor=7.0, correlation_type=kind, seed=0)
    np.testing.assert_allclose(other_size, found, atol=1e-4)


def test_correlations_are_averaged_over_batches(model: scvi.SCVI) -> None:
    asked = {"n_samples": 20, "correlation_type": "pearson"}
    each = [model.get_feature_correlation_matrix(transform_batch=name, seed=0, **asked) for name in ("b0", "b1")]
    both = model.get_feature_correlation_matrix(transform_batch=["b0", "b1"], seed=0, **asked)
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, atol=0.06)


def test_what_cannot_be_correlated(model: scvi.SCVI) -> None:
    for arguments, message in (
        ({"correlation_type": "kendall"}, "correlation_type='kendall' is not one of 'spearman', 'pearson'"),
        ({"rna_size_factor": 0}, "rna_size_factor=0 is not a positive number"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"transform_batch": []}, "transform_batch is an empty list"),
        ({"gene_list": []}, "gene_list is an empty list; None asks about all genes"),
    ):
        with pytest.raises(ValueError, match=message):
            model.get_feature_correlation_matrix(**arguments)


# ---- importance weights ----------------------------------------------------------------------------------------------


def test_weights_of_some_cells(model: scvi.SCVI) -> None:
    weights, z = model.get_importance_weights(indices=[5, 3], n_mc_samples=200, return_latent=True, seed=0)
    assert (weights.shape, z.shape) == ((200, 2), (200, 2, 3))
    np.testing.assert_allclose(weights.sum(0), 1)
    mean, variance = model.get_latent_representation(indices=[5, 3], return_dist=True)
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(variance.max() / 200))
    again = model.get_importance_weights(indices=[5, 3], n_mc_samples=200, n_mc_samples_per_pass=200, seed=0)
    assert np.array_equal(again, weights)
    cut = model.get_importance_weights(indices=[5, 3], n_mc_samples=200, truncation=True, seed=0)
    assert cut.max() < weights.max()
    for arguments in ({"n_mc_samples": 0}, {"n_mc_samples_per_pass": 0}, {"truncation": None}, {"return_latent": 1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            model.get_importance_weights(**arguments)


def test_a_weighted_mean_is_that_of_the_weights(model: scvi.SCVI) -> None:
    """Of many draws: the draws of the two questions are not the same."""
    weights = model.get_importance_weights(indices=[7], n_mc_samples=4000, seed=1)
    draws = model.get_normalized_expression(indices=[7], n_samples=4000, return_mean=False, seed=1)
    by_hand = (weights[..., None] * draws).sum(0)
    asked = {"indices": [7], "weights": "importance", "n_mc_samples": 4000}
    found = model.get_normalized_expression(**asked, seed=1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3)
    kept = model.get_normalized_expression(**asked, n_samples=900, return_mean=False, seed=2)
    assert kept.shape == (900, 1, G)
    some = found.to_numpy()[0] > 0.02
    np.testing.assert_allclose(kept.mean(0)[0, some], found.to_numpy()[0, some], rtol=0.1)
    overall = model.get_normalized_expression(**asked, n_samples_overall=50, seed=0)
    assert overall.index.tolist() == ["cell7"] * 50
    assert len(np.unique(overall.to_numpy(), axis=0)) > 5


def test_uniform_weights_are_none(model: scvi.SCVI) -> None:
    asked = {"n_samples": 3, "seed": 0}
    pd.testing.assert_frame_equal(
        model.get_normalized_expression(weights="uniform", **asked), model.get_normalized_expression(**asked)
    )
    for weights in ("best", 1, np.ones(3)):
        with pytest.raises(ValueError, match=r"weights=.* is not one of 'uniform', 'importance'"):
            model.get_normalized_expression(weights=weights)


# ---- real cells ------------------------------------------------------------------------------------------------------


def test_counts_drawn_again_look_like_those_of_real_cells(mixology: Any) -> None:
    """By the shares of zeros of genes, and of cells; broken fits do not."""
    adata = mixology.copy()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, seed=0)
    model.train(max_epochs=8, seed=0, enable_progress_bar=False)
    counts = adata.X.toarray()

    def likeness() -> tuple[float, float]:
        """Rank correlation over genes and over cells."""
        drawn = model.posterior_predictive_sample(seed=0).toarray()
        by_gene, by_cell = ([(x == 0).mean(axis) for x in (counts, drawn)] for axis in (0, 1))
        return stats.spearmanr(*by_gene)[0], stats.spearmanr(*by_cell)[0]

    fitted = likeness()
    assert fitted[0] > 0.985  # 0.992, and 0.995 of a longer fit
    assert fitted[1] > 0.95
    weights = {name: value.clone() for name, value in model.module.state_dict().items()}
    for name in ("px_r", "decoder.px_scale_decoder.0.bias"):
        model.module.load_state_dict(weights | {name: weights[name].flip(0)})
        assert likeness()[0] < 0.97
