"""What scvi.AUTOZI alone has."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import beta

import scvi
from small_cells import QUICK, TINY, G, N

KEYS = {"batch_key": "batch", "labels_key": "cell_type"}


def fitted(cells: AnnData, zero_inflation: str, **options: object) -> scvi.AUTOZI:
    scvi.AUTOZI.setup_anndata(cells, **KEYS)
    model = scvi.AUTOZI(cells, zero_inflation=zero_inflation, **options, **TINY)
    model.train(**QUICK)
    return model


def test_one_number_a_gene(cells: AnnData) -> None:
    model = fitted(cells, "gene")
    found = model.get_alphas_betas()
    assert found["alpha_posterior"].shape == found["beta_posterior"].shape == (G,)
    assert found["alpha_prior"].tolist() == found["beta_prior"].tolist() == [0.5]
    series = model.get_zero_inflation()
    expected = beta.cdf(0.5, found["alpha_posterior"].astype(float), found["beta_posterior"].astype(float))
    np.testing.assert_allclose(series, expected)
    assert series.index.tolist() == cells.var_names.tolist()


@pytest.mark.parametrize(("kind", "names"), [("gene-batch", ["b0", "b1", "b2"]), ("gene-label", ["t0", "t1", "t2"])])
def test_one_number_a_gene_and_category(cells: AnnData, kind: str, names: list[str]) -> None:
    model = fitted(cells, kind, alpha_prior=None, beta_prior=None)
    assert model.get_alphas_betas()["alpha_prior"].shape == (1, 3)
    table = model.get_zero_inflation()
    assert table.shape == (G, 3)
    assert table.columns.tolist() == names
    assert model.get_normalized_expression(transform_batch="b1", seed=0).shape == (N, G)
    assert np.isfinite([model.get_elbo(seed=0), model.get_marginal_ll(n_mc_samples=5, seed=0)]).all()


def test_one_number_an_entry(cells: AnnData) -> None:
    model = fitted(cells, "gene-cell")
    assert model.get_alphas_betas()["alpha_posterior"].shape == (N, G)
    table = model.get_zero_inflation()
    assert (table.index.tolist(), table.columns.tolist()) == (cells.obs_names.tolist(), cells.var_names.tolist())
    some = model.get_zero_inflation(indices=[7, 3], batch_size=1)
    pd.testing.assert_frame_equal(some, table.iloc[[7, 3]], rtol=1e-4)


def test_cells_are_not_chosen_where_genes_have_one_number(cells: AnnData) -> None:
    model = fitted(cells, "gene")
    for question in (model.get_alphas_betas, model.get_zero_inflation):
        with pytest.raises(ValueError, match=r"zero_inflation='gene': .* leave out adata and indices"):
            question(indices=[0])


def test_labels_are_read_where_they_matter(cells: AnnData) -> None:
    model = fitted(cells, "gene-label")
    del cells.obs["cell_type"]
    with pytest.raises(ValueError, match="cell_type"):
        model.get_elbo(cells.copy())


def test_train_shows_its_learning_rate(cells: AnnData) -> None:
    own, others = (inspect.signature(cls.train).parameters for cls in (scvi.AUTOZI, scvi.SCVI))
    assert own["lr"].default == 0.015
    assert {n: p.default for n, p in own.items() if n != "lr"} == {n: p.default for n, p in others.items() if n != "lr"}
    model = fitted(cells, "gene")
    assert model.history["lr"]["lr"].max() <= 0.015
    model.train(**{**QUICK, "lr": 0.5}, lr_schedule="constant")
    assert model.history["lr"]["lr"].iloc[-1] == 0.5
    with pytest.raises(TypeError, match="max_epoch"):
        model.train(max_epoch=3)


def test_bad_options_are_refused(cells: AnnData) -> None:
    scvi.AUTOZI.setup_anndata(cells)
    for option, value in [("alpha_prior", 2), ("minimal_dropout", 1), ("zero_inflation", "genes")]:
        with pytest.raises(ValueError, match=f"{option}={value!r}"):
            scvi.AUTOZI(cells, **{option: value})
