"""Whoever gives a model cells that are far from its own is told so once, at the line that gives them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData

import scvi
from asking import ESTIMATORS, is_paired, make
from scvi.estimators.base import Estimator
from small_cells import QUICK, make_adata

COLUMNS = {"continuous_covariate_keys": ["age", "score"], "size_factor_key": "size"}


def setup_of(cls: type[Estimator]) -> dict[str, Any]:
    known = inspect.signature(cls.setup_anndata).parameters
    return {"batch_key": "batch", **{name: key for name, key in COLUMNS.items() if name in known}}


def trained(cls: type[Estimator]) -> Any:
    model = make(cls, setup=setup_of(cls))
    model.train(**{**QUICK, "max_epochs": 1})
    return model


def far_cells(cls: type[Estimator]) -> tuple[AnnData, list[str]]:
    """The cells of a model in other units, and what there is to say of them."""
    adata, keys = make_adata(), setup_of(cls)
    adata.X = adata.X * 50
    adata.obs["age"] *= 12
    adata.obs["size"] *= 1000
    columns = [*keys.get("continuous_covariate_keys", [])[:1], *([keys["size_factor_key"]] if len(keys) == 3 else [])]
    return adata, [*(f"adata.obs[{key!r}]: " for key in columns), "the total counts of a cell over the model's genes: "]


def said(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    far = [w for w in caught if "far from those that the model was fitted to" in str(w.message)]
    assert all(w.filename == __file__ for w in far)
    return [str(w.message) for w in far]


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_questions_and_loading(cls: type[Estimator], tmp_path: Path) -> None:
    model, (adata, findings) = trained(cls), far_cells(cls)
    model.save(tmp_path / "model")
    other, rest = ([adata, None], [model.adata_spatial]) if is_paired(cls) else (adata, [])
    calls = {
        "a question": lambda: model.get_latent_representation(other),
        "loading": lambda: cls.load(tmp_path / "model", adata, *rest),
    }
    for name, call in calls.items():
        (message,) = said(call)
        assert all(finding in message for finding in findings), (name, message)
        assert message.count("in the reference") == len(findings)
    own = [make_adata(), None] if is_paired(cls) else make_adata()
    assert said(lambda: model.get_latent_representation(own)) == []
    assert said(lambda: cls.load(tmp_path / "model", make_adata(), *rest)) == []


def test_cells_that_were_given_before() -> None:
    """A model's own cells are looked at where they are edited in place, and others when they take their place."""
    model = trained(scvi.SCVI)
    model.adata.obs["age"] = model.adata.obs["age"] * 12
    (message,) = said(model.get_latent_representation)
    assert "adata.obs['age']" in message
    assert said(model.get_latent_representation) == []
    adata, findings = far_cells(scvi.SCVI)
    (message,) = said(lambda: setattr(model, "adata", adata))
    assert all(finding in message for finding in findings)
    assert said(lambda: setattr(model, "adata", make_adata())) == []


def test_the_cells_of_a_question_alone_are_looked_at() -> None:
    model, (adata, _) = trained(scvi.SCVI), far_cells(scvi.SCVI)
    near = make_adata()
    adata = anndata.concat([near, adata], index_unique="-")
    for batch_size in (7, None):
        ask = partial(model.get_latent_representation, adata, batch_size=batch_size)
        assert said(partial(ask, indices=np.arange(near.n_obs))) == []
        assert len(said(partial(ask, indices=np.arange(near.n_obs) + near.n_obs))) == 1


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if hasattr(cls, "load_query_data")])
def test_mapping(cls: type[Estimator]) -> None:
    model, (adata, findings) = trained(cls), far_cells(cls)
    adata.obs["batch"] = "new"
    mapped: list[Any] = []
    (message,) = said(lambda: mapped.append(cls.load_query_data(adata, model)))
    assert all(finding in message for finding in findings)
    assert said(mapped[0].get_latent_representation) == []  # its own cells, of which was told
    near = make_adata()
    near.obs["batch"] = "new"
    assert said(lambda: cls.load_query_data(near, model)) == []


def test_minified_cells_are_judged_by_their_columns() -> None:
    """Their counts are gone, and so is their depth."""
    model = trained(scvi.SCVI)
    model.minify_adata()
    minified = model.adata.copy()
    assert said(lambda: model.get_latent_representation(minified.copy())) == []
    minified.obs["age"] *= 12
    (message,) = said(lambda: model.get_latent_representation(minified))
    assert "adata.obs['age']" in message
    assert "total counts" not in message


def test_models_of_earlier_versions_say_nothing(tmp_path: Path) -> None:
    from golden.make import HERE, cells

    adata = cells("all")
    adata.obs["age"] = np.asarray(adata.obs["age"], dtype=float) * 1000
    assert said(lambda: scvi.SCVI.load(HERE / "scvi_keys_v2", adata)) == []


def test_gimvi_of_hardly_any_shared_genes(tmp_path: Path) -> None:
    """Said when the model is made, not whenever it is read."""
    sequenced, spatial = make_adata(), make_adata(60, 30, seed=1)
    spatial.var_names = [*spatial.var_names[:2], *spatial.var_names[2:].str.capitalize()]
    for adata in (sequenced, spatial):
        scvi.GIMVI.setup_anndata(adata)
    message = r"share 2 genes, of 40 and 30, .*only one has 'Gene2', .*'gene2' .*upper and lower case"
    with pytest.warns(UserWarning, match=message) as caught:
        model = scvi.GIMVI(sequenced, spatial, n_hidden=8, n_latent=3, seed=0)
    assert [w.filename for w in caught] == [__file__]
    model.save(tmp_path / "model")
    scvi.GIMVI.load(tmp_path / "model", sequenced, spatial)
    spatial.var_names = spatial.var_names.str.capitalize()
    scvi.GIMVI.setup_anndata(spatial)
    with pytest.raises(ValueError, match=r"no gene in common.*upper and lower case"):
        scvi.GIMVI(sequenced, spatial, seed=0)
