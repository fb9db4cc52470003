"""Small fits of every estimator and every trainer of 2020, by public names alone: any version of the package runs them.

    python tests/pins/fits.py FOLDER SOURCE [NAME ...]    writes FOLDER/NAME.npz for each fit of the package in SOURCE

A fit takes no arguments, has one seed, three epochs and float32, and returns what it found by name: losses, latents,
answers, weights, and the next numbers of the global generators. See README.md beside this file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scvi
from scvi.dataset import CellMeasurement, GeneExpressionDataset
from scvi.inference import (
    AdapterTrainer,
    AlternateSemiSupervisedTrainer,
    ClassifierTrainer,
    JointSemiSupervisedTrainer,
    JVAETrainer,
    Posterior,
    SemiSupervisedTrainer,
    TotalTrainer,
    UnsupervisedTrainer,
)
from scvi.models import JVAE, LDVAE, SCANVI, TOTALVI, VAE, VAEC, AutoZIVAE, Classifier

Answers = dict[str, np.ndarray]

N, G = 90, 16
TINY: dict[str, Any] = {"n_hidden": 8, "n_latent": 3, "seed": 0}
QUICK: dict[str, Any] = {"max_epochs": 3, "batch_size": 24, "seed": 0, "precision": "float32", "accelerator": "cpu"}
QUICK |= {"weight_decay": 3e-3}  # what it was before it was chosen by the counts
KEYS: dict[str, Any] = {
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor", "treated"],
    "continuous_covariate_keys": ["age", "score"],
}
QUIET: dict[str, Any] = {"show_progbar": False, "use_cuda": False, "frequency": 1}
FITS: dict[str, Callable[[], Mapping[str, Any]]] = {}


def fit(function: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    """Adds a fit under its function's name."""
    FITS[function.__name__] = function
    return function


def run(name: str) -> Answers:
    """What a fit found, as flat arrays; the seed and the generators are as they were before."""
    states = torch.get_rng_state(), np.random.get_state()
    try:
        torch.manual_seed(0)
        np.random.seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = dict(FITS[name]())
        found["next number"] = np.array([torch.rand(()).item(), np.random.rand()])
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
    return dict(_flat("", found))


def _flat(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays under paths of names, of nested answers."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, (tuple, list)) and not all(isinstance(part, (bool, int, float, str)) for part in value):
        for i, part in enumerate(value):
            yield from _flat(f"{name}.{i}", part)
    elif value is not None:
        yield name, _array(value)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    array = value.toarray() if sparse.issparse(value) else np.asarray(value)
    return array.astype(str) if array.dtype.kind in "OUT" else array


# ---- cells -----------------------------------------------------------------------------------------------------------


def cells(n: int = N, g: int = G, seed: int = 0) -> AnnData:
    """Counts (n, g) of three cell types in three batches as csr of float32, with all that an estimator can read."""
    rng = np.random.default_rng(seed)
    batch, kind = np.arange(n) % 3, rng.integers(3, size=n)
    means = rng.gamma(1.0, 4.0, (3, g))[kind] * rng.gamma(8.0, 1 / 8, (3, g))[batch] * rng.gamma(4.0, 1 / 4, (n, 1))
    counts = rng.poisson(means)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "batch": np.array(["b0", "b1", "b2"])[batch],
            "kind": np.array(["t0", "t1", "t2"])[kind],
            "donor": rng.integers(4, size=n),
            "treated": rng.random(n) < 0.5,
            "size": rng.uniform(0.5, 2.0, n),
            "age": rng.normal(5.0, 1.0, n),
            "score": rng.normal(size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    obs["some"] = np.where(np.arange(n) % 4 == 0, "Unknown", obs["kind"])
    var = pd.DataFrame({"chosen": np.arange(g) % 4 > 0}, index=[f"gene{j}" for j in range(g)])
    levels = np.array([[40.0, 3, 3, 20], [3, 60, 3, 20], [3, 3, 30, 2]])[kind]
    proteins = pd.DataFrame(rng.poisson(levels), index=obs.index, columns=[f"protein{j}" for j in range(4)])
    X = sparse.csr_matrix(counts.astype(np.float32))
    return AnnData(X, obs=obs, var=var, obsm={"proteins": proteins}, layers={"twice": X * 2})


def cells_with_missing_proteins() -> AnnData:
    """In the second batch one protein was not measured."""
    found = cells()
    found.obsm["proteins"].loc[found.obs["batch"] == "b1", "protein2"] = 0
    return found


def batches_of(*names: str, found: AnnData | None = None) -> AnnData:
    found = cells() if found is None else found
    return found[found.obs["batch"].isin(names)].copy()


def pair() -> tuple[AnnData, AnnData]:
    """Sequenced and spatial cells: genes 0 to 15 in 90 cells, genes 12, 3 to 9, 16 and 17 in 50 others."""
    both = cells(140, 18)
    spatial = both[90:, [12, *range(3, 10), 16, 17]].copy()
    spatial.obs["batch"] = np.where(np.arange(50) % 2, "s0", "b1")
    return both[:90, :16].copy(), spatial


def data_set(dense: bool = False, proteins: bool = False, missing: bool = False) -> GeneExpressionDataset:
    """The same cells for the 2020 door."""
    source = cells_with_missing_proteins() if missing else cells()
    found = GeneExpressionDataset()
    measured = CellMeasurement(
        "protein_expression", source.obsm["proteins"].to_numpy(), "protein_names", list(source.obsm["proteins"])
    )
    found.populate_from_data(
        source.X.toarray() if dense else source.X,
        Ys=[measured] if proteins else (),
        batch_indices=np.arange(N) % 3,
        labels=source.obs["kind"].astype("category").cat.codes.to_numpy(),
        gene_names=source.var_names.to_numpy(),
        cell_types=["t0", "t1", "t2"],
    )
    return found


# ---- the AnnData door ------------------------------------------------------------------------------------------------


def answers(model: Any, **questions: Mapping[str, Any]) -> dict[str, Any]:
    """What every estimator of one AnnData is asked, and its own questions with their arguments."""
    found: dict[str, Any] = {"history": history(model)}
    asked: dict[str, Mapping[str, Any]] = {
        "get_latent_representation": {"return_dist": True},
        "get_latent_library_size": {"give_mean": False},
        "get_normalized_expression": {"n_samples": 2, "transform_batch": model.adata.obs["batch"].unique().tolist()},
        "get_likelihood_parameters": {"n_samples": 2, "give_mean": True},
        "get_elbo": {"return_mean": False},
        "get_reconstruction_error": {"return_mean": False},
        "get_marginal_ll": {"return_mean": False, "n_mc_samples": 4},
        **questions,
    }
    for name, arguments in asked.items():
        found[name] = getattr(model, name)(**arguments, seed=0)
    found["one draw"] = model.get_latent_representation(give_mean=False, seed=0)
    found["own batch"] = model.get_normalized_expression(library_size="latent", seed=0)
    found["options"] = [str(model.options), str(model.is_trained)]
    return found | split(model) | weights(model.module)


def history(model: Any) -> dict[str, Any]:
    return {name: [table.index.to_numpy(), table[name].to_numpy()] for name, table in model.history.items()}


def split(model: Any) -> dict[str, Any]:
    return {"train cells": model.train_indices, "validation cells": model.validation_indices}


def weights(network: Any) -> dict[str, Any]:
    """All of the state dict: its names, and one array of the numbers."""
    state = network.state_dict()
    return {
        "weights": torch.cat([value.detach().reshape(-1).double() for value in state.values()]),
        "names of weights": [f"{name} {tuple(value.shape)}" for name, value in state.items()],
    }


def fitted(
    cls: type[Any], adata: AnnData | None = None, setup: Any = None, options: Any = None, train: Any = None
) -> Any:
    adata = cells() if adata is None else adata
    cls.setup_anndata(adata, **{"batch_key": "batch", **(setup or {})})
    model = cls(adata, **TINY, **(options or {}))
    model.train(**QUICK | (train or {}))
    return model


@fit
def scvi_default() -> Any:
    return answers(fitted(scvi.SCVI))


@fit
def scvi_covariates() -> Any:
    options = {"encode_covariates": True, "n_layers": 2, "gene_likelihood": "nb"}
    setup = {**KEYS, "layer": "twice", "mask_var": "chosen"}
    return answers(fitted(scvi.SCVI, setup=setup, options=options))


@fit
def scvi_latent_library() -> Any:
    options = {"use_observed_lib_size": False, "dispersion": "gene-batch", "encode_covariates": True}
    return answers(fitted(scvi.SCVI, options=options))


@fit
def scvi_ln() -> Any:
    return answers(fitted(scvi.SCVI, options={"latent_distribution": "ln", "gene_likelihood": "poisson"}))


@fit
def scvi_gene_label() -> Any:
    return answers(fitted(scvi.SCVI, setup={"labels_key": "kind"}, options={"dispersion": "gene-label"}))


@fit
def scvi_gene_cell_dense() -> Any:
    adata = cells()
    adata.X = adata.X.toarray()
    return answers(fitted(scvi.SCVI, adata, options={"dispersion": "gene-cell", "gene_likelihood": "nb"}))


@fit
def scvi_no_batch() -> Any:
    model = fitted(scvi.SCVI, setup={"batch_key": None}, options={"dropout_rate": 0.0})
    return answers(model, get_normalized_expression={"n_samples": 2})


@fit
def scvi_other_plan() -> Any:
    """Plateau, early stopping, cells of one's own for validation, and a second call that goes on."""
    train = {
        "lr_schedule": "plateau",
        "early_stopping": True,
        "early_stopping_patience": 2,
        "early_stopping_monitor": "reconstruction_loss_validation",
        "validation_indices": np.arange(0, N, 5),
        "gradient_clip": None,
        "kl_warmup": 0.5,
        "weight_decay": 0.0,
        "lr": 1e-3,
        "check_val_every_n_epoch": 2,
    }
    model = fitted(scvi.SCVI, train=train)
    model.train(**{**QUICK, "max_epochs": 2}, lr_schedule="constant", plan_kwargs={"lr": 2e-3})
    return answers(model)


@fit
def scvi_own_defaults() -> Any:
    """Without epochs and size of minibatches: how much is fitted is chosen by the number of cells."""
    adata = cells(30)
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, n_hidden=4, n_latent=2, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        model.train(seed=0, precision="float32", accelerator="cpu", checkpoint_dir=folder)
    last = {name: table.tail(1).to_numpy() for name, table in model.history.items()}
    return {"epochs": len(model.history["lr"]), "last": last} | split(model)


@fit
def scvi_on_disk() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        adata = cells()
        adata.write_h5ad(Path(folder) / "cells.h5ad")
        backed = anndata.read_h5ad(Path(folder) / "cells.h5ad", backed="r")
        try:
            return answers(fitted(scvi.SCVI, backed))
        finally:
            backed.file.close()


@fit
def scvi_minified() -> Any:
    model = fitted(scvi.SCVI, options={"use_observed_lib_size": False})
    model.minify_adata()
    asked = ("get_latent_representation", "get_normalized_expression", "get_likelihood_parameters")
    return {name: getattr(model, name)(seed=0) for name in asked}


@fit
def linear_scvi() -> Any:
    model = fitted(scvi.LinearSCVI)
    return answers(model) | {"loadings": model.get_loadings()}


@fit
def linear_scvi_plain() -> Any:
    options = {"use_batch_norm": False, "bias": True, "encode_covariates": True, "use_observed_lib_size": False}
    model = fitted(scvi.LinearSCVI, setup=KEYS | {"size_factor_key": None}, options=options)
    return answers(model) | {"loadings": model.get_loadings()}


@fit
def autozi() -> Any:
    model = fitted(scvi.AUTOZI)
    return answers(model) | {"zeros": model.get_zero_inflation(), "alphas betas": model.get_alphas_betas()}


@fit
def autozi_learned_priors() -> Any:
    options = {
        "alpha_prior": None,
        "beta_prior": None,
        "zero_inflation": "gene-batch",
        "dispersion": "gene-label",
        "use_observed_lib_size": False,
    }
    model = fitted(scvi.AUTOZI, setup={"labels_key": "kind"}, options=options)
    return answers(model) | {"zeros": model.get_zero_inflation(), "alphas betas": model.get_alphas_betas()}


@fit
def autozi_gene_cell() -> Any:
    options = {"zero_inflation": "gene-cell", "latent_distribution": "ln", "minimal_dropout": 0.05}
    return answers(fitted(scvi.AUTOZI, options=options))


PARTLY = {"labels_key": "some", "unlabeled_category": "Unknown"}


def annotated(model: Any) -> Any:
    return answers(model) | {
        "predictions": model.predict(),
        "probabilities": model.predict(soft=True),
        "temperature": model.module.temperature,
    }


@fit
def scanvi() -> Any:
    return annotated(fitted(scvi.SCANVI, setup=PARTLY))


@fit
def scanvi_options() -> Any:
    options = {"encode_covariates": True, "dispersion": "gene-label", "use_observed_lib_size": False}
    train = {"n_samples_per_label": 5, "classification_ratio": 3.0, "calibrate": False}
    return annotated(fitted(scvi.SCANVI, setup=PARTLY | KEYS | {"size_factor_key": None}, options=options, train=train))


@fit
def scanvi_from_scvi_model() -> Any:
    first = fitted(scvi.SCVI, setup={"labels_key": "some"}, options={"encode_covariates": True})
    model = scvi.SCANVI.from_scvi_model(first, "Unknown", seed=0)
    before = weights(model.module)["weights"]
    model.train(**QUICK)
    return annotated(model) | {"weights before": before}


@fit
def cond_scvi() -> Any:
    model = fitted(scvi.CondSCVI, setup={"labels_key": "kind"}, options={"encode_covariates": True})
    return answers(model) | {"labels": model.get_label_expression(n_samples=10, seed=0)}


@fit
def cond_scvi_latent_library() -> Any:
    options = {"use_observed_lib_size": False, "dispersion": "gene-label", "latent_distribution": "ln"}
    return answers(fitted(scvi.CondSCVI, setup={"labels_key": "kind"}, options=options))


PROTEINS = {"protein_expression_obsm_key": "proteins"}
OF_PROTEINS: dict[str, Mapping[str, Any]] = {
    "get_protein_foreground_probability": {"n_samples": 2, "transform_batch": "b0"},
    "get_feature_correlation_matrix": {"n_samples": 2},
    "posterior_predictive_sample": {"n_samples": 2},
}


@fit
def totalvi() -> Any:
    return answers(fitted(scvi.TOTALVI, setup=PROTEINS), **OF_PROTEINS)


@fit
def totalvi_missing_proteins() -> Any:
    model = fitted(scvi.TOTALVI, cells_with_missing_proteins(), PROTEINS)
    asked = {"transform_batch": ["b0", "b2"], "include_protein_background": True, "scale_protein": True}
    imputed = model.get_normalized_expression(**asked, sample_protein_mixing=True, seed=0)
    return answers(model, **OF_PROTEINS) | {"imputed": imputed}


@fit
def totalvi_options() -> Any:
    options = {
        "gene_dispersion": "gene-label",
        "protein_dispersion": "protein-batch",
        "gene_likelihood": "zinb",
        "latent_distribution": "ln",
        "use_observed_lib_size": False,
        "empirical_protein_background_prior": False,
        "override_missing_proteins": True,
        "n_layers_encoder": 2,
    }
    setup = PROTEINS | KEYS | {"size_factor_key": None, "labels_key": "kind"}
    return answers(fitted(scvi.TOTALVI, cells_with_missing_proteins(), setup, options), **OF_PROTEINS)


def joined(options: Any = None, setup: Any = None, train: Any = None) -> Any:
    data_sets = pair()
    for adata in data_sets:
        scvi.GIMVI.setup_anndata(adata, **{"batch_key": "batch", **(setup or {})})
    model = scvi.GIMVI(*data_sets, **TINY, **(options or {}))
    model.train(**QUICK | (train or {}))
    return {
        "history": history(model),
        "latent": model.get_latent_representation(),
        "one draw": model.get_latent_representation(deterministic=False, seed=0),
        "elbo": model.get_elbo(return_mean=False, seed=0),
        "imputed": model.get_imputed_values(),
        "rates": model.get_imputed_values(normalized=False, deterministic=False, decode_mode=0, seed=0),
        "confusion": model.get_discriminator_confusion(),
        **split(model),
        **weights(model.module),
    }


@fit
def gimvi() -> Any:
    return joined()


@fit
def gimvi_options() -> Any:
    options = {
        "generative_distributions": ["nb", "poisson"],
        "model_library_size": [True, True],
        "n_layers_decoder": 1,
        "dispersion": "gene-label",
    }
    return joined(options, {"labels_key": "kind"}, {"kappa": 2.0, "early_stopping": True, "lr_schedule": "constant"})


@fit
def gimvi_no_adversary() -> Any:
    return joined(train={"kappa": 0.0})


def mapped(cls: type[Any], setup: Any = None, found: AnnData | None = None, **frozen: Any) -> Any:
    """A reference of two batches, and cells of a third one that lack a gene."""
    found = cells() if found is None else found
    reference = fitted(cls, batches_of("b0", "b1", found=found), setup, {"encode_covariates": True})
    query = batches_of("b2", found=found)[:, 1:].copy()
    cls.prepare_query_anndata(query, reference, inplace=True)
    model = cls.load_query_data(query, reference, **frozen)
    model.train(**QUICK)
    return model


@fit
def query_scvi() -> Any:
    return answers(mapped(scvi.SCVI))


@fit
def query_scvi_unfrozen() -> Any:
    return answers(mapped(scvi.SCVI, freeze_batchnorm_decoder=False, freeze_decoder_first_layer=False))


@fit
def query_linear_scvi() -> Any:
    return answers(mapped(scvi.LinearSCVI, freeze_dropout=True))


@fit
def query_autozi() -> Any:
    return answers(mapped(scvi.AUTOZI))


@fit
def query_scanvi() -> Any:
    return annotated(mapped(scvi.SCANVI, PARTLY, freeze_classifier=False))


@fit
def query_cond_scvi() -> Any:
    return answers(mapped(scvi.CondSCVI, {"labels_key": "kind"}))


@fit
def query_totalvi() -> Any:
    found = cells()
    found.obsm["proteins"].loc[found.obs["batch"] == "b2", "protein2"] = 0
    return answers(mapped(scvi.TOTALVI, PROTEINS, found))


# ---- the door of 2020 ------------------------------------------------------------------------------------------------


def network(cls: type[Any], data: GeneExpressionDataset, **options: Any) -> Any:
    return cls(data.nb_genes, n_batch=data.n_batches, n_labels=data.n_labels, n_hidden=8, n_latent=3, **options)


def scores(trainer: Any, posterior: Any) -> dict[str, Any]:
    """What a trainer noted, and what a posterior of all cells in their order answers."""
    torch.manual_seed(1)
    found = {
        "elbo": posterior.elbo(),
        "reconstruction": posterior.reconstruction_error(),
        "marginal": posterior.marginal_ll(n_mc_samples=4),
    }
    return noted(trainer) | found | weights(trainer.model)


def noted(trainer: Any) -> dict[str, Any]:
    return {"history": dict(trainer.history), "steps": trainer.n_iter, "epoch": trainer.epoch}


def everything(trainer: Any) -> Posterior:
    return trainer.create_posterior(trainer.model, trainer.gene_dataset, indices=np.arange(N)).sequential(32)


def of_counts(posterior: Any) -> dict[str, Any]:
    """What a posterior of a model of counts alone answers."""
    torch.manual_seed(2)
    return {
        "latent": posterior.get_latent(),
        "one draw": posterior.get_latent(give_mean=False)[0],
        "library": posterior.get_stats(),
        "scale": posterior.get_sample_scale(n_samples=2, transform_batch=1),
        "imputed": posterior.imputation(n_samples=2),
    }


def unsupervised(model: Any, data: GeneExpressionDataset, **options: Any) -> Any:
    given = {"n_epochs_kl_warmup": 2, "batch_size": 24, "train_size": 0.7, "test_size": 0.2, **QUIET}
    trainer = UnsupervisedTrainer(model, data, **{**given, **options})
    trainer.train(n_epochs=3, lr=1e-2)
    posterior = everything(trainer)
    return scores(trainer, posterior) | of_counts(posterior)


@fit
def unsupervised_vae() -> Any:
    data = data_set()
    return unsupervised(network(VAE, data), data)


@fit
def unsupervised_vae_options() -> Any:
    """Early stopping, best weights, reduced rate of learning, annealing by step, an array, an odd network."""
    data = data_set(dense=True)
    stopping = {
        "early_stopping_metric": "elbo",
        "save_best_state_metric": "reconstruction_error",
        "on": "test_set",
        "patience": 1,
        "threshold": 1e6,
        "reduce_lr_on_plateau": True,
        "lr_patience": 0,
        "lr_factor": 0.1,
    }
    model = network(VAE, data, dispersion="gene-batch", reconstruction_loss="nb", latent_distribution="ln", n_layers=2)
    metrics = ["entropy_batch_mixing", "reconstruction_error"]
    return unsupervised(
        model,
        data,
        n_iter_kl_warmup=4,
        n_epochs_kl_warmup=None,
        early_stopping_kwargs=stopping,
        metrics_to_monitor=metrics,
        normalize_loss=True,
        weight_decay=1e-3,
        seed=3,
    )


@fit
def unsupervised_vae_observed_library() -> Any:
    data = data_set()
    model = network(VAE, data, use_observed_lib_size=True, reconstruction_loss="poisson", encode_covariates=True)
    return unsupervised(model, data)


@fit
def unsupervised_vae_corrupted() -> Any:
    data = data_set(dense=True)
    trainer = UnsupervisedTrainer(network(VAE, data, dispersion="gene-label"), data, batch_size=24, **QUIET)
    trainer.corrupt_posteriors(rate=0.2, corruption="binomial")
    trainer.train(n_epochs=2)
    trainer.uncorrupt_posteriors()
    trainer.train(n_epochs=1)
    return scores(trainer, everything(trainer)) | {"corrupted": data.corrupted_X}


@fit
def unsupervised_ldvae() -> Any:
    data = data_set()
    model = network(LDVAE, data)
    return unsupervised(model, data) | {"loadings": model.get_loadings()}


@fit
def unsupervised_autozi() -> Any:
    data = data_set()
    model = network(AutoZIVAE, data, zero_inflation="gene")
    trainer = UnsupervisedTrainer(model, data, n_epochs_kl_warmup=2, batch_size=24, **QUIET)
    trainer.train(n_epochs=3, lr=1e-2)
    posterior = everything(trainer)
    return scores(trainer, posterior) | {
        "alphas betas": model.get_alphas_betas(),
        "latent": posterior.get_latent(),
        "scale": posterior.get_sample_scale(),
    }


@fit
def classifier_of_counts() -> Any:
    data = data_set()
    trainer = ClassifierTrainer(Classifier(G, 8, 3), data, train_size=0.6, test_size=0.2, batch_size=24, **QUIET)
    trainer.train(n_epochs=3, lr=1e-2)
    soft = trainer.compute_predictions(soft=True)
    return noted(trainer) | {"predictions": trainer.compute_predictions(), "soft": soft} | weights(trainer.model)


@fit
def classifier_of_latents() -> Any:
    data = data_set()
    vae = network(VAE, data)
    trainer = ClassifierTrainer(
        Classifier(4, 8, 3, logits=True), data, sampling_model=vae, sampling_zl=True, batch_size=24, **QUIET
    )
    trainer.train(n_epochs=3, lr=1e-2)
    return noted(trainer) | {"predictions": trainer.compute_predictions(soft=True)} | weights(trainer.model)


def semi_supervised(trainer_class: type[Any], model_class: type[Any], **options: Any) -> Any:
    data = data_set()
    model = network(model_class, data, **options)
    trainer = trainer_class(
        model, data, n_labelled_samples_per_class=6, n_epochs_kl_warmup=2, batch_size=24, seed=1, **QUIET
    )
    trainer.train(n_epochs=3, lr=1e-2)
    full = trainer.full_dataset.sequential(32)
    return scores(trainer, full) | {
        "labelled": trainer.labelled_set.indices,
        "predictions": full.compute_predictions(soft=True),
        "accuracy": [trainer.unlabelled_set.accuracy(), full.unsupervised_classification_accuracy()],
    }


@fit
def semi_supervised_scanvi() -> Any:
    return semi_supervised(SemiSupervisedTrainer, SCANVI)


@fit
def semi_supervised_vaec() -> Any:
    return semi_supervised(SemiSupervisedTrainer, VAEC)


@fit
def joint_semi_supervised_scanvi() -> Any:
    return semi_supervised(JointSemiSupervisedTrainer, SCANVI, use_observed_lib_size=True, dispersion="gene-label")


@fit
def joint_semi_supervised_vaec() -> Any:
    return semi_supervised(JointSemiSupervisedTrainer, VAEC)


@fit
def alternate_semi_supervised_scanvi() -> Any:
    groups = {"labels_groups": [0, 0, 1], "use_labels_groups": True}
    return semi_supervised(AlternateSemiSupervisedTrainer, SCANVI, **groups)


@fit
def alternate_semi_supervised_vaec() -> Any:
    return semi_supervised(AlternateSemiSupervisedTrainer, VAEC, reconstruction_loss="nb", n_layers=2)


def of_proteins(data: GeneExpressionDataset, options: Any = None, **given: Any) -> Any:
    model = TOTALVI(G, 4, n_batch=3, n_labels=3, n_hidden=8, n_latent=3, **(options or {}))
    trainer = TotalTrainer(model, data, **{"batch_size": 24, "n_iter_kl_warmup": 5, **QUIET, **given})
    trainer.train(n_epochs=3)
    posterior = everything(trainer)
    torch.manual_seed(2)
    return scores(trainer, posterior) | {
        "latent": posterior.get_latent(),
        "library": posterior.get_stats(),
        "by modality": [posterior.reconstruction_error("gene"), posterior.reconstruction_error("protein")],
        "expression": posterior.get_normalized_denoised_expression(n_samples=2, transform_batch=[0, 1]),
        "mixing": posterior.get_sample_mixing(n_samples=2),
        "background": posterior.get_protein_background_mean(),
        "proteins": posterior.get_protein_mean(n_samples=2),
        "scale": posterior.get_sample_scale(include_bg=True),
        "imputed": posterior.imputation(n_samples=2),
        "generated": posterior.generate(n_samples=2),
        "denoised": posterior.generate_denoised_samples(n_samples=2),
        "correlations": posterior.generate_feature_correlation_matrix(n_samples=2),
    }


@fit
def total() -> Any:
    return of_proteins(data_set(proteins=True))


@fit
def total_adversary() -> Any:
    data = data_set(proteins=True, missing=True)
    measured = [np.ones(4, bool) for _ in range(3)]
    measured[1][2] = False
    options = {
        "protein_batch_mask": measured,
        "reconstruction_loss_gene": "zinb",
        "protein_dispersion": "protein-label",
    }
    return of_proteins(
        data,
        options,
        use_adversarial_loss=True,
        kappa=2.0,
        pro_recons_weight=0.5,
        empirical_protein_background_prior=True,
        n_epochs_kl_warmup=2,
        n_iter_kl_warmup=None,
    )


def jvae(kappa: float) -> Any:
    seen = np.array([3, 0, 5, 7, 12])
    data_sets = []
    for i, genes in enumerate((np.arange(G), seen)):
        source, found = cells(60 - 20 * i, seed=i), GeneExpressionDataset()
        counts = source.X.toarray()[:, genes]
        counts[:, 1] += 1
        names = source.var_names.to_numpy()[genes]
        found.populate_from_data(
            counts, batch_indices=np.full(len(counts), i), gene_names=names, remap_attributes=False
        )
        data_sets.append(found)
    sizes = {"n_latent": 3, "dim_hidden_encoder": 8, "dim_hidden_decoder_shared": 8, "n_layers_decoder_shared": 1}
    model = JVAE([G, 5], G, [slice(None), seen], ["zinb", "nb"], [True, False], n_batch=2, **sizes)
    discriminator = Classifier(3, 8, 2, 2, logits=True)
    trainer = JVAETrainer(
        model, discriminator, data_sets, train_size=0.7, kappa=kappa, n_epochs_kl_warmup=2, batch_size=16, **QUIET
    )
    trainer.train(n_epochs=3, lr=1e-2)
    return noted(trainer) | {
        "latent": trainer.get_latent(),
        "imputed": trainer.get_imputed_values(),
        "rates": trainer.get_imputed_values(normalized=False, deterministic=False, decode_mode=0),
        "confusion": trainer.get_discriminator_confusion(),
        "magnitudes": trainer.get_loss_magnitude(),
        "elbo": [posterior.elbo() for posterior in trainer.all_dataset],
        "discriminator": weights(discriminator),
        **weights(model),
    }


@fit
def jvae_adversary() -> Any:
    return jvae(kappa=5.0)


@fit
def jvae_alone() -> Any:
    return jvae(kappa=0.0)


@fit
def adapter() -> Any:
    data = data_set()
    model = network(VAE, data)
    first = UnsupervisedTrainer(model, data, train_size=0.5, batch_size=24, **QUIET)
    first.train(n_epochs=3)
    trainer = AdapterTrainer(model, data, first.test_set, frequency=1)
    trainer.show_progbar = False
    best = trainer.train(n_path=2, n_epochs=3)
    return noted(trainer) | {"best": best, "latent": everything(first).get_latent()} | weights(model)


def main(folder: str, source: str, *names: str) -> None:
    if not Path(scvi.__file__).is_relative_to(source):
        raise SystemExit(f"{scvi.__file__} was imported, not the package in {source}")
    for name in names or FITS:
        path = Path(folder) / f"{name}.npz"
        part = path.with_name(f"{name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                np.savez(file, **run(name))
            part.replace(path)
        except Exception:
            part.unlink(missing_ok=True)
            sys.stderr.write(f"{name} failed:\n{traceback.format_exc()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
