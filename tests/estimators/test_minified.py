"""Cells without counts: what a model answers, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from asking import ESTIMATORS, SETUP, options_of, set_up
from scvi.estimators.base import Estimator
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

MINIFIED = [cls for cls in ESTIMATORS if hasattr(cls, "minify_adata")]

VARIANTS: dict[str, dict[str, Any]] = {
    "observed library": {},
    "inferred library": {"use_observed_lib_size": False},
    "simplex": {"latent_distribution": "ln", "encode_covariates": True},
    "by batch": {"dispersion": "gene-batch"},
}
ANSWERED: dict[str, dict[str, Any]] = {
    "get_latent_representation": {},
    "get_latent_library_size": {},
    "get_normalized_expression": {"n_samples": 3, "library_size": "latent", "transform_batch": "b1"},
    "get_likelihood_parameters": {"n_samples": 2},
}
REFUSED = ["get_elbo", "get_reconstruction_error", "get_marginal_ll"]


@pytest.fixture(params=MINIFIED, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Estimator]:
    return request.param


def make(cls: type[Estimator], setup: Any = None, **options: Any) -> Any:
    cells = make_adata()
    cells.varm["loadings"] = np.ones((G, 2))
    cells.obsm["X_umap"], cells.layers["log"] = np.ones((N, 2)), cells.X.log1p()
    set_up(cls, cells, **(setup or {"batch_key": "batch"}))
    model = cls(cells, **options_of(cls, {**TINY, **options}))
    model.train(**QUICK)
    return model


def answers(model: Any, **arguments: Any) -> list[np.ndarray]:
    found = []
    for name, options in ANSWERED.items():
        answer = getattr(model, name)(**options, **arguments, seed=0)
        parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else [answer]
        found += [np.asarray(part) for part in parts]
    return [*found, *model.get_latent_representation(**arguments, return_dist=True)]


def close(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for found, wanted in zip(first, second, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)  # cells asked for in other minibatches


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_answers_stay_as_they_were(cls: type[Estimator], options: dict[str, Any], tmp_path: Path) -> None:
    model = make(cls, **options)
    cells = model.adata
    expected, some, scores = answers(model), answers(model, indices=[7, 3, 3]), model.get_elbo(seed=0)
    before = cells.copy()
    assert model.minify_adata() is None
    close(answers(model), expected)
    close(answers(model, indices=[7, 3, 3]), some)
    assert cells.X is not None
    assert (cells.X != before.X).nnz == 0
    assert list(cells.obsm) == list(before.obsm)
    assert model.get_elbo(cells, seed=0) == scores
    model.save(tmp_path / "model", save_anndata=True)
    loaded = cls.load(tmp_path / "model")
    close(answers(loaded), expected)
    close(answers(cls.load(tmp_path / "model", model.adata[20:40])), answers(model, indices=range(20, 40)))
    close(answers(cls.load(tmp_path / "model", cells)), expected)
    close(answers(loaded, adata=model.adata), expected)


def test_with_every_input(cls: type[Estimator]) -> None:
    model = make(cls, {**KEYS, "mask_var": "chosen"}, encode_covariates=True)
    expected = answers(model)
    model.minify_adata()
    close(answers(model), expected)


def test_counts_are_dropped_and_the_rest_is_kept(cls: type[Estimator]) -> None:
    model = make(cls)
    cells = model.adata
    mean, variance = model.get_latent_representation(return_dist=True)
    model.minify_adata()
    assert isinstance(model.adata, AnnData)
    assert sparse.isspmatrix_csr(model.adata.X)
    assert model.adata.X.nnz == 0
    assert model.adata.shape == cells.shape
    assert list(model.adata.layers) == []
    kept = set(cells.obsm) - set(SETUP.get(cls, {}).values())  # what set-up was told of are counts
    if cls.__name__ in ("TOTALVI", "CondSCVI"):
        kept.add("scvi_seen")  # of batches or labels
    assert set(model.adata.obsm) == kept | {"scvi_qz_mean", "scvi_qz_var", "scvi_log_library"}
    np.testing.assert_array_equal(model.adata.obsm["scvi_qz_mean"], mean)
    np.testing.assert_array_equal(model.adata.obsm["scvi_qz_var"], variance)
    np.testing.assert_allclose(np.exp(model.adata.obsm["scvi_log_library"]), cells.X.sum(1), rtol=1e-5)
    np.testing.assert_array_equal(model.adata.obs["observed_lib_size"], np.ravel(cells.X.sum(1)))
    pd.testing.assert_frame_equal(model.adata.obs.drop(columns="observed_lib_size"), cells.obs)
    np.testing.assert_array_equal(model.adata.varm["loadings"], cells.varm["loadings"])
    pd.testing.assert_frame_equal(model.adata.var, cells.var)


def test_what_needs_counts_is_refused(cls: type[Estimator]) -> None:
    model = make(cls)
    cells = model.adata
    model.minify_adata()
    for question in REFUSED:
        with pytest.raises(ValueError, match=r"minified.*needs their counts: pass the AnnData with counts"):
            getattr(model, question)()
    with pytest.raises(ValueError, match="minified, and to train needs counts"):
        model.train(**QUICK)
    with pytest.raises(ValueError, match="minified, and to minify needs counts"):
        model.minify_adata()
    with pytest.raises(ValueError, match="minified, its counts were dropped"):
        set_up(cls, model.adata)
    with pytest.raises(ValueError, match="minified, its counts were dropped"):
        cls.load_query_data(model.adata, model)
    assert np.isfinite(model.get_elbo(cells))


def test_what_another_model_kept_is_refused(cls: type[Estimator], tmp_path: Path) -> None:
    model, other = make(cls), make(cls, seed=1)
    model.save(tmp_path / "model")
    model.minify_adata()
    with pytest.raises(ValueError, match="minified by another model"):
        other.get_latent_representation(model.adata)
    first = cls.load(tmp_path / "model", make_adata())
    assert np.isfinite(first.get_latent_representation(model.adata)).all()
    first.train(**QUICK)
    with pytest.raises(ValueError, match="before its last training"):
        first.get_latent_representation(model.adata)
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="minified by another model"):
        cls.load(tmp_path / "other", model.adata)


def test_what_was_kept_has_to_be_readable(cls: type[Estimator]) -> None:
    model = make(cls)
    model.minify_adata()
    broken = model.adata.copy()
    del broken.obsm["scvi_qz_var"]
    with pytest.raises(ValueError, match=r"cannot be read.*scvi_qz_var"):
        model.get_latent_representation(broken)
    cells = make_adata()
    set_up(cls, cells)
    with pytest.raises(RuntimeError, match="not trained"):
        cls(cells, **TINY).minify_adata()


def test_a_minified_reference_takes_queries(cls: type[Estimator]) -> None:
    model = make(cls, encode_covariates=True)
    query = make_adata(n=40, seed=1)
    query.obs["batch"] = "new"
    expected = cls.load_query_data(query, model)
    model.minify_adata()
    mapped = cls.load_query_data(query, model)
    np.testing.assert_array_equal(mapped.get_latent_representation(), expected.get_latent_representation())


def test_columns_that_the_encoder_saw_are_those_that_it_saw(cls: type[Estimator], tmp_path: Path) -> None:
    keys = {"batch_key": "batch", "labels_key": "cell_type", "continuous_covariate_keys": ["age"]}
    model = make(cls, keys, encode_covariates=True)
    before = model.get_latent_representation()
    model.minify_adata()
    seen = ["batch", "age", *(["cell_type"] if cls.__name__ == "CondSCVI" else [])]
    seen = [key for key in seen if key in model.view_anndata_setup()["source"].str.extract(r"'(.*)'")[0].tolist()]
    for key in seen:
        column = model.adata.obs[key].copy()
        model.adata.obs[key] = np.roll(column, 1)
        with pytest.raises(ValueError, match=r"a covariate of \d+ cells has changed since they were minified"):
            model.get_latent_representation()
        model.adata.obs[key] = column.where(np.arange(N) != 7, column[column != column.iloc[7]].iloc[0])
        same = np.delete(np.arange(N), 7)
        close([model.get_latent_representation(indices=same)], [before[same]])
        with pytest.raises(ValueError, match="covariate of 1 cells"):
            model.get_normalized_expression()
        model.adata.obs[key] = column
    model.save(tmp_path / "model", save_anndata=True)
    backwards = cls.load(tmp_path / "model").adata[::-1]
    close([model.get_latent_representation(backwards)], [before[::-1]])


def test_what_the_encoder_does_not_see_is_as_it_is(cls: type[Estimator]) -> None:
    model = make(cls, {"batch_key": "batch", "size_factor_key": "size"}, encode_covariates=False)
    cells = model.adata.copy()
    model.minify_adata()
    assert "scvi_seen" not in model.adata.obsm or cls.__name__ == "CondSCVI"  # which sees labels in any case
    for adata in (cells, model.adata):
        adata.obs["batch"] = np.roll(adata.obs["batch"], 1)
        adata.obs["size"] *= np.linspace(1, 3, N)
    close(answers(model), answers(model, adata=cells))


def test_marks_and_layers_that_are_asked_for(cls: type[Estimator], tmp_path: Path) -> None:
    model = make(cls)
    assert model.minified_data_type is None
    logged = model.adata.layers["log"].copy()
    with pytest.raises(KeyError, match=r"layers='lag' is not in adata\.layers; did you mean 'log'"):
        model.minify_adata(layers=["lag"])
    model.minify_adata(layers="log")
    assert (model.adata.layers["log"] != logged).nnz == 0
    model.save(tmp_path / "model", save_anndata=True)
    for one in (model, cls.load(tmp_path / "model")):
        assert one.minified_data_type == "latent_posterior_parameters"
        assert one.adata.uns["_scvi_adata_minify_type"] == "latent_posterior_parameters"


def test_the_counts_may_be_kept(cls: type[Estimator], tmp_path: Path) -> None:
    """All that is kept is there, and all questions are answered as before."""
    model = make(cls)
    cells, expected, score = model.adata, answers(model), model.get_elbo(seed=0)
    mean, _ = model.get_latent_representation(return_dist=True)
    model.minify_adata("latent_posterior_parameters_with_counts")
    model.save(tmp_path / "model", save_anndata=True)
    for one in (model, cls.load(tmp_path / "model")):
        assert one.minified_data_type == "latent_posterior_parameters_with_counts"
        assert (one.adata.X != cells.X).nnz == 0
        np.testing.assert_array_equal(one.adata.obsm["scvi_qz_mean"], mean)
        np.testing.assert_array_equal(one.adata.obs["observed_lib_size"], np.ravel(cells.X.sum(1)))
        close(answers(one), expected)
        assert one.get_elbo(seed=0) == score
    assert "scvi_qz_mean" not in cells.obsm
    with pytest.raises(ValueError, match="minified_data_type='counts' is not one of 'latent_posterior_parameters'"):
        model.minify_adata("counts")


def test_a_posterior_that_was_computed_already_is_used(cls: type[Estimator]) -> None:
    """As in scripts, which write it into `obsm` first."""
    model = make(cls)
    mean, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["my_variance"] = mean + 1, variance * 2
    for wrong, message in (("nowhere", "'nowhere' is not a key"), ("X_umap", "does not hold finite numbers")):
        with pytest.raises(ValueError, match=message):
            model.minify_adata(use_latent_qzm_key=wrong)
    model.minify_adata(use_latent_qzm_key="X_latent_qzm", use_latent_qzv_key="my_variance")
    found = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(found[0], mean + 1, rtol=1e-6)
    np.testing.assert_allclose(found[1], variance * 2, rtol=1e-6)
