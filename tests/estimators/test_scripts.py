"""Scripts that exist keep running: the names and the order of arguments that users have in their fingers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scvi
from asking import make
from scvi.estimators.base import Estimator
from small_cells import QUICK, make_adata


@pytest.fixture(autouse=True)
def _settings_are_put_back() -> Iterator[None]:
    before = vars(scvi.settings).copy()
    threads = scvi.settings.num_threads
    yield
    vars(scvi.settings).update(before)
    scvi.settings.num_threads = threads


@pytest.mark.usefixtures("global_numbers")
def test_a_script_of_today(tmp_path: Path) -> None:
    scvi.settings.seed = 0
    scvi.settings.verbosity = 30
    scvi.settings.num_threads = 1
    scvi.settings.batch_size = 64
    scvi.settings.progress_bar_style = "none"

    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    scvi.model.SCVI.setup_anndata(
        adata,
        layer="counts",
        batch_key="batch",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["age"],
    )
    model = scvi.model.SCVI(adata, n_layers=2, n_latent=5, n_hidden=16, gene_likelihood="nb", dispersion="gene-batch")
    model.view_anndata_setup()
    model.train(
        max_epochs=4,
        accelerator="cpu",
        devices="auto",
        train_size=0.9,
        validation_size=None,
        batch_size=32,
        early_stopping=True,
        early_stopping_monitor="elbo_validation",
        early_stopping_patience=10,
        early_stopping_min_delta=0.01,
        check_val_every_n_epoch=1,
        enable_progress_bar=True,
        plan_kwargs={"lr": 2e-3, "weight_decay": 1e-5, "n_epochs_kl_warmup": 2, "reduce_lr_on_plateau": True},
    )
    losses = model.history["elbo_train"], model.history["elbo_validation"]
    assert [len(table) for table in losses] == [4, 4]
    assert model.history["reconstruction_loss_validation"]["reconstruction_loss_validation"].notna().all()
    adata.obsm["X_scVI"] = model.get_latent_representation()
    adata.layers["scvi_normalized"] = model.get_normalized_expression(library_size=1e4)
    np.testing.assert_allclose(adata.layers["scvi_normalized"].sum(1), 1e4, rtol=1e-4)
    subset = adata[adata.obs["cell_type"] == "t1"].copy()
    corrected = model.get_normalized_expression(subset, transform_batch="b0", gene_list=["gene1", "gene2"], n_samples=3)
    assert corrected.shape == (subset.n_obs, 2)
    assert model.get_elbo(indices=model.validation_indices) < 0
    assert model.get_reconstruction_error(adata)["reconstruction_loss"] > 0
    assert model.get_marginal_ll(n_mc_samples=10) < 0

    model.save(tmp_path / "my_model", overwrite=True, save_anndata=True)
    loaded = scvi.model.SCVI.load(tmp_path / "my_model")
    assert np.array_equal(loaded.get_latent_representation(), adata.obsm["X_scVI"])
    assert loaded.is_trained
    assert str(loaded.device) == "cpu"
    loaded.to_device("cpu")


def test_a_script_with_a_linear_decoder() -> None:
    adata = make_adata()
    scvi.model.LinearSCVI.setup_anndata(adata)
    model = scvi.model.LinearSCVI(adata, n_latent=4)
    model.train(max_epochs=3, plan_kwargs={"lr": 5e-3}, check_val_every_n_epoch=3, enable_progress_bar=False)
    loadings = model.get_loadings()
    assert isinstance(loadings, pd.DataFrame)
    assert loadings.shape == (40, 4)


LEADING = {
    "setup_anndata": (
        "adata",
        "layer",
        "batch_key",
        "labels_key",
        "size_factor_key",
        "categorical_covariate_keys",
        "continuous_covariate_keys",
    ),
    "train": ("max_epochs", "accelerator", "devices", "train_size", "validation_size"),
    "get_latent_representation": ("adata", "indices", "give_mean"),
    "get_normalized_expression": (
        "adata",
        "indices",
        "transform_batch",
        "gene_list",
        "library_size",
        "n_samples",
        "n_samples_overall",
    ),
    "get_likelihood_parameters": ("adata", "indices", "n_samples", "give_mean", "batch_size"),
    "get_latent_library_size": ("adata", "indices", "give_mean", "batch_size"),
    "get_elbo": ("adata", "indices", "batch_size"),
    "get_marginal_ll": ("adata", "indices", "n_mc_samples"),
    "save": ("dir_path", "overwrite", "save_anndata"),
    "load": ("dir_path", "adata"),
}
OPTIONS = {
    "n_hidden": 128,
    "n_latent": 10,
    "n_layers": 1,
    "dropout_rate": 0.1,
    "dispersion": "gene",
    "gene_likelihood": "zinb",
    "latent_distribution": "normal",
    "use_observed_lib_size": True,
}


@pytest.mark.parametrize("method", LEADING)
def test_the_order_of_the_leading_arguments(method: str) -> None:
    parameters = [name for name in inspect.signature(getattr(scvi.SCVI, method)).parameters if name != "self"]
    assert tuple(parameters[: len(LEADING[method])]) == LEADING[method]


def test_the_options_and_their_defaults() -> None:
    parameters = list(inspect.signature(scvi.SCVI).parameters.values())[1 : 1 + len(OPTIONS)]
    assert {parameter.name: parameter.default for parameter in parameters} == OPTIONS
    assert [parameter.name for parameter in parameters] == list(OPTIONS)


def small(cls: type[Estimator]) -> Any:
    model = make(cls)
    model.train(**QUICK)
    return model


@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.GIMVI])
def test_what_a_saved_model_reads(cls: type[Estimator], tmp_path: Path) -> None:
    model = small(cls)
    model.save(tmp_path / "model", prefix="my_")
    pd.testing.assert_frame_equal(cls.view_setup_args(tmp_path / "model", prefix="my_"), model.view_anndata_setup())
    assert model.summary_string == repr(model)


def test_the_device_of_a_mapped_model() -> None:
    reference = make(scvi.SCVI, encode_covariates=True)
    reference.train(**QUICK)
    query = make_adata(60, seed=3)
    query.obs["batch"] = "b9"
    for options in ({}, {"accelerator": "cpu", "device": 1}):
        assert scvi.SCVI.load_query_data(query, reference, **options).device.type == "cpu"
    with pytest.raises(ValueError, match="accelerator='tpu'"):
        scvi.SCVI.load_query_data(query, reference, accelerator="tpu")


def test_the_fourth_argument_of_another_package_is_not_taken_for_a_flag() -> None:
    with pytest.raises(ValueError, match="return_dist=128"):
        small(scvi.SCVI).get_latent_representation(None, None, True, 5000, 128)
