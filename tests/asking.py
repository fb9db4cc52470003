"""How the common suites set up, make and ask an estimator. What to ask is read off the class."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scvi
from scvi.estimators.base import Estimator
from small_cells import TINY, G, N, make_adata

EXPORTED = [getattr(scvi, name) for name in scvi.estimators.__all__]
ESTIMATORS: tuple[type[Estimator], ...] = tuple(found for found in EXPORTED if inspect.isclass(found))
M = 90  # cells of the second data set, where a model is made with two

# What set-up cannot do without.
SETUP: dict[type[Estimator], dict[str, Any]] = {
    scvi.SCANVI: {"labels_key": "cell_type", "unlabeled_category": "t2"},
    scvi.CondSCVI: {"labels_key": "cell_type"},
    scvi.TOTALVI: {"protein_expression_obsm_key": "proteins"},
}
# Options that an estimator has under another name.
NAMES: dict[type[Estimator], dict[str, str]] = {
    scvi.TOTALVI: {
        "dispersion": "gene_dispersion",
        "n_layers": "n_layers_encoder",
        "dropout_rate": "dropout_rate_encoder",
    }
}
# The question about every gene, where it is another.
EXPRESSION: dict[type[Estimator], str] = {
    scvi.GIMVI: "get_imputed_values",
}
# Public, but no questions: what every estimator has, what tests of their own call, and other ways to make a model.
ON_EVERY = {"setup_anndata", "view_anndata_setup", "train", "save", "load", "device", "to_device", "adata"}
ON_EVERY |= {"train_indices", "validation_indices", "test_indices", "history_", "is_trained_", "get_var_names"}
ON_EVERY |= {"view_setup_args", "summary_string"}
ELSEWHERE = {"load_query_data", "prepare_query_anndata", "minify_adata", "from_scvi_model", "setup_mudata", "mdata"}
ELSEWHERE |= {"adata_seq", "adata_spatial", "adatas", "minify_mudata", "minified_data_type", "n_latent"}
ELSEWHERE |= {"prepare_query_mudata", "check", "report", "get_aggregated_posterior", "differential_abundance"}
# Arguments that make an answer small, or of one row a cell.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "get_normalized_expression": {"n_samples": 2},
    "get_likelihood_parameters": {"n_samples": 2},
    "get_elbo": {"return_mean": False},
    "get_reconstruction_error": {"return_mean": False},
    "get_marginal_ll": {"return_mean": False, "n_mc_samples": 4},
    "predict": {"soft": True},
    "get_label_expression": {"n_samples": 20},
    "get_feature_correlation_matrix": {"n_samples": 2},
    "differential_expression": {"groupby": "cell_type", "n_samples": 20},
    "get_importance_weights": {"n_mc_samples": 5},
}
# Their answers are about genes or all cells together, or have the cells elsewhere.
NOT_BY_CELL = {
    "get_importance_weights",
    "get_loadings",
    "get_label_expression",
    "get_alphas_betas",
    "get_zero_inflation",
    "get_feature_correlation_matrix",
    "get_discriminator_confusion",
    "differential_expression",
}
# By default their answers are means; with these arguments they are draws.
MEANS = {"get_latent_representation", "get_latent_library_size", "get_imputed_values", "predict"}
DRAWN = {"give_mean": False, "deterministic": False, "use_posterior_mean": False}


def public(cls: type[Estimator]) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def questions(cls: type[Estimator], by_cell: bool = False) -> list[str]:
    """Those that a class lists; all, or those with an answer for each cell."""
    return sorted(public(cls) - ON_EVERY - ELSEWHERE - (NOT_BY_CELL if by_cell else set()))


def parameters(owner: Any, method: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(owner, method)).parameters)


def names_of_cells(cls: type[Estimator]) -> list[str]:
    """Arguments of the constructor, and attributes, that are cells: one AnnData, or two."""
    return [name for name in inspect.signature(cls).parameters if name.startswith("adata")]


def is_paired(cls: type[Estimator]) -> bool:
    return len(names_of_cells(cls)) == 2


def with_partner(cls: type[Estimator], adata: AnnData) -> list[AnnData]:
    """Cells to make a model with; for one of two data sets also others, with 19 of their genes and three more."""
    genes = [30, *range(8, 26), *range(G, G + 3)]
    return [adata, make_adata(M, G + 3, seed=2)[:, genes].copy()] if is_paired(cls) else [adata]


def cells_of(model: Any) -> list[AnnData]:
    """The cells a model was made with."""
    return [getattr(model, name) for name in names_of_cells(type(model))]


def set_up(cls: type[Estimator], *adatas: AnnData, **keys: Any) -> None:
    """Sets up each, with the keys that the class knows."""
    known = inspect.signature(cls.setup_anndata).parameters
    keys = {name: key for name, key in keys.items() if name in known}
    for adata in adatas:
        assert cls.setup_anndata(adata, **{**SETUP.get(cls, {}), **keys}) is None


def options_of(cls: type[Estimator], options: dict[str, Any]) -> dict[str, Any]:
    """Options under the names of the class, which are those that it has."""
    named = {NAMES.get(cls, {}).get(name, name): value for name, value in options.items()}
    return {name: value for name, value in named.items() if name in inspect.signature(cls).parameters}


def make(
    cls: type[Estimator], adata: AnnData | None = None, setup: dict[str, Any] | None = None, **options: Any
) -> Any:
    """A small model."""
    adatas = with_partner(cls, make_adata() if adata is None else adata)
    set_up(cls, *adatas, **({"batch_key": "batch"} if setup is None else setup))
    return cls(*adatas, **options_of(cls, {**TINY, **options}))


def ask(model: Any, question: str, *, own_draws: bool = False, **arguments: Any) -> list[np.ndarray]:
    """The answer as arrays, made with seed 0 unless `own_draws`; other cells of the first data set as `adata`."""
    known = parameters(model, question)
    given = {**ARGUMENTS.get(question, {}), **arguments}
    if "adata" in given and "adatas" in known:
        given["adatas"] = [given.pop("adata"), None]
    if "seed" in known and not own_draws:
        given.setdefault("seed", 0)
    return arrays(getattr(model, question)(**given))


def drawn(model: Any, question: str) -> dict[str, Any]:
    """Arguments with which the answer depends on the seed."""
    known = parameters(model, question)
    return {name: value for name, value in DRAWN.items() if name in known} if question in MEANS else {}


def arrays(answer: Any) -> list[np.ndarray]:
    """All parts of an answer; several sparse matrices are draws."""
    if sparse.issparse(answer):
        return [answer.toarray()]
    if isinstance(answer, pd.DataFrame):
        return [answer.select_dtypes(["number", "bool"]).to_numpy(np.float64)]
    if isinstance(answer, dict | tuple | list):
        parts = answer.values() if isinstance(answer, dict) else answer
        return [array for part in parts for array in arrays(part)]
    return [np.asarray(answer)]


def rows(answer: list[np.ndarray]) -> list[int]:
    """How many cells each part is about."""
    return [part.shape[0 if part.ndim == 1 else -2] for part in answer]


def n_cells(model: Any, answer: list[np.ndarray], n: int = N) -> list[int]:
    """How many it should be about, if the first data set has `n`."""
    return [n, M] if is_paired(type(model)) else [n] * len(answer)


def take(answer: list[np.ndarray], cells: Any) -> list[np.ndarray]:
    return [np.take(part, cells, axis=0 if part.ndim == 1 else -2) for part in answer]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model._networks.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def by_data_set(positions: Any) -> list[np.ndarray]:
    """Positions of cells, as a list for each data set."""
    return positions if isinstance(positions, list) else [positions]
