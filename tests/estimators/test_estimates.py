"""Counts that are estimates: what is asked for at set-up is done wherever an estimator reads counts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

import scvi
from asking import ESTIMATORS, SETUP, ask, equal, is_paired, make, questions, set_up, with_partner
from scvi.cells.count_checks import EstimatedCounts
from scvi.estimators.base import Estimator
from small_cells import QUICK, make_adata

EACH = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
PACKAGE = Path(scvi.__file__).parent
BRIEF = {**QUICK, "max_epochs": 1}


def estimates(n: int = 150) -> AnnData:
    """Genes less their own share, as after decontamination."""
    adata = make_adata(n)
    adata.X = adata.X.multiply(np.random.default_rng(3).uniform(0.85, 0.98, adata.n_vars)).tocsr()
    return adata


def rounded(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.X.data = np.rint(adata.X.data)
    adata.X.eliminate_zeros()
    return adata


def said(call: Callable[[], Any]) -> list[str]:
    """What is said of estimates, outside of the package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [w for w in caught if w.category is EstimatedCounts]
    assert not any(Path(w.filename).is_relative_to(PACKAGE) for w in found)
    return [str(w.message) for w in found]


@EACH
def test_told_once_wherever_cells_are_given(cls: type[Estimator], tmp_path: Path) -> None:
    """At set-up, in a question about other cells and at load; not when the model is made, fitted or asked."""
    adata, *partner = with_partner(cls, estimates())
    (message,) = said(lambda: set_up(cls, adata, batch_key="batch"))
    assert message.startswith("adata.X holds values that are no integers: 100.0% of those that are not 0, as ")
    for other in partner:
        set_up(cls, other, batch_key="batch")
    model: Any = make(cls, make_adata())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = cls(adata, *partner, n_latent=3, seed=0)
        own.train(**BRIEF)
        for question in questions(cls):
            ask(own, question)
        own.save(tmp_path / "model")
        model.train(**BRIEF)
    for question in questions(cls, by_cell=True):
        assert len(said(lambda question=question: ask(model, question, adata=estimates(20)))) == 1, question
    assert len(said(lambda: cls.load(tmp_path / "model", estimates(), *partner))) == 1


@EACH
@pytest.mark.parametrize("rule", ["refuse", "round"])
def test_other_cells_obey_the_rule_of_the_model(cls: type[Estimator], rule: str, tmp_path: Path) -> None:
    model = make(cls, make_adata(), {"batch_key": "batch", "non_integer": rule})
    model.train(**BRIEF)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", *([make_adata(), model.adata_spatial] if is_paired(cls) else [make_adata()]))
    for asked in (model, loaded):
        for question in questions(cls, by_cell=True):
            if rule == "refuse":
                with pytest.raises(ValueError, match=r"adata\.X holds a non-integer value.*non_integer='warn'"):
                    ask(asked, question, adata=estimates(20))
            else:
                answers = [ask(asked, question, adata=adata) for adata in (estimates(20), rounded(estimates(20)))]
                assert equal(*answers), question


@EACH
def test_rounded_cells_are_fitted_and_asked_like_integers(cls: type[Estimator]) -> None:
    setup = {"batch_key": "batch", "non_integer": "round"}
    models = [make(cls, adata, setup) for adata in (estimates(), rounded(estimates()))]
    for model in models:
        model.train(**QUICK)
    for question in questions(cls):
        assert equal(*(ask(model, question) for model in models)), question


@EACH
def test_normalised_cells_are_refused_by_every_rule(cls: type[Estimator]) -> None:
    for rule in ("warn", "refuse", "round"):
        adata = make_adata()
        adata.X = (adata.X / adata.X.sum(1)).tocsr() * 1e4
        with pytest.raises(ValueError, match="non-integer"):
            cls.setup_anndata(adata, **SETUP.get(cls, {}), non_integer=rule)
        assert "_scvi" not in adata.uns


@EACH
def test_the_argument_is_the_last_and_documented(cls: type[Estimator]) -> None:
    parameters = inspect.signature(cls.setup_anndata).parameters
    assert parameters["non_integer"].default == "warn"
    assert list(parameters)[-1] == "non_integer"


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if hasattr(cls, "load_query_data")])
@pytest.mark.parametrize("rule", ["warn", "refuse", "round"])
def test_mapping(cls: type[Estimator], rule: str) -> None:
    model = make(cls, make_adata(), {"batch_key": "batch", "non_integer": rule}, encode_covariates=True)
    model.train(**BRIEF)
    query = estimates()
    query.obs["batch"] = "new"
    if rule == "refuse":
        with pytest.raises(ValueError, match="non-integer"):
            cls.load_query_data(query, model)
        return
    mapped: list[Any] = []
    assert len(said(lambda: mapped.append(cls.load_query_data(query, model)))) == (rule == "warn")
    mapped[0].train(**BRIEF)
    if rule == "round":
        other = cls.load_query_data(rounded(query), model)
        other.train(**BRIEF)
        assert equal(*(ask(m, "get_latent_representation") for m in (mapped[0], other)))


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_proteins_and_a_mudata() -> None:
    from mudata import MuData

    adata = make_adata()
    proteins = AnnData(adata.obsm["proteins"].to_numpy() * 0.9, obs=adata.obs[[]].copy())
    proteins.var_names = adata.obsm["proteins"].columns
    mdata = MuData({"rna": AnnData(adata.X * 0.97, obs=adata.obs.copy()), "protein": proteins})
    keys = {"batch_key": "batch", "modalities": {"batch_key": "rna"}}
    (message,) = said(lambda: scvi.TOTALVI.setup_mudata(mdata, **keys))
    assert "adata.X holds" in message
    assert "adata.obsm['protein_expression'] holds" in message
    with pytest.raises(ValueError, match="non-integer"):
        scvi.TOTALVI.setup_mudata(mdata, **keys, non_integer="refuse")
    assert said(lambda: scvi.TOTALVI.setup_mudata(mdata, **keys, non_integer="round")) == []
    model = scvi.TOTALVI(mdata, n_hidden=8, n_latent=3)
    assert (model._cells.data.proteins == np.rint(proteins.X)).all()
    assert float(next(model._cells.data.minibatches()).x.frac().abs().max()) == 0


def test_real_cells_after_ambient_correction_are_fitted_as_well() -> None:
    """What is near in one latent space is near in the other, as between two fits of the counts."""
    adata = anndata.read_h5ad(Path(__file__).parents[1] / "sample_data" / "pbmc3k_small.h5ad")[:800, ::2].copy()
    counts = adata.X.toarray().astype(np.float64)
    corrected = adata.copy()
    soup = counts.sum(0) / counts.sum()
    corrected.X = np.maximum(counts - 0.05 * counts.sum(1, keepdims=True) * soup, 0).astype(np.float32)
    with pytest.warns(EstimatedCounts):
        scvi.SCVI.setup_anndata(corrected)
    scvi.SCVI.setup_anndata(adata)
    latents = []
    for cells, seed in ((adata, 0), (adata, 1), (corrected, 0)):
        model = scvi.SCVI(cells, n_hidden=32, seed=seed)
        model.train(max_epochs=15, seed=seed, enable_progress_bar=False)
        latents.append(model.get_latent_representation())
    of_counts, again, of_estimates = (
        NearestNeighbors(n_neighbors=30).fit(z).kneighbors(return_distance=False) for z in latents
    )

    def shared(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([len(np.intersect1d(x, y)) for x, y in zip(a, b, strict=True)])) / 30

    assert shared(of_counts, of_estimates) > 0.85 * shared(of_counts, again)
