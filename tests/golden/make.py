"""Writes golden models: tiny fitted models as one version of the package wrote them, for all later ones to read.

    python tests/golden/make.py

A golden folder holds the model (`weights.safetensors`, `model.json`) and `expected.json`: which cells it was fitted to,
what it was asked and what it said, and which weights a further epoch changes. `uns_v1.json` holds what `setup_anndata`
wrote into `uns`, `cells_v1.h5ad` the same in a file. What is there is never written again: a new format gets new
folders and files, under a new number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import scvi

HERE = Path(__file__).parent
VERSION = 3
TINY: dict[str, Any] = {"n_hidden": 4, "n_latent": 2, "seed": 0}
QUICK: dict[str, Any] = {"max_epochs": 5, "batch_size": 12, "seed": 0, "enable_progress_bar": False}
KEYS: dict[str, Any] = {
    "batch_key": "batch",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor", "treated"],
    "continuous_covariate_keys": ["age"],
}
SETUPS: dict[str, dict[str, Any]] = {
    "SCVI": KEYS | {"labels_key": "kind", "layer": "twice", "mask_var": "chosen"},
    "LinearSCVI": {"batch_key": "batch"},
    "AUTOZI": {"batch_key": "batch", "labels_key": "kind"},
    "SCANVI": {"batch_key": "batch", "labels_key": "some", "unlabeled_category": "Unknown"},
    "CondSCVI": {"batch_key": "batch", "labels_key": "kind"},
    "TOTALVI": {"batch_key": "batch", "protein_expression_obsm_key": "proteins"},
    "GIMVI": {"batch_key": "batch"},
}
MODALITIES: dict[str, Any] = {"batch_key": "batch", "modalities": {"batch_key": "protein"}}
Question = tuple[str, dict[str, Any], float]  # method, arguments, how far the answer may be apart, relatively
QUESTIONS: list[Question] = [
    ("get_latent_representation", {"return_dist": True}, 1e-4),
    ("get_latent_library_size", {}, 1e-4),
    ("get_marginal_ll", {"n_mc_samples": 500, "seed": 0}, 2e-2),
]
LATENT = QUESTIONS[:2]
Golden = tuple[Any, str | list[str], list[Question]]  # model, its cells, questions


# ---- cells -----------------------------------------------------------------------------------------------------------


class Modalities:
    """What is read of a MuData."""

    def __init__(self, **mod: AnnData) -> None:
        self.mod, self.uns = mod, {}
        self.is_view = False
        self.obs = pd.DataFrame(index=mod["rna"].obs_names)


def cells(part: str) -> Any:
    """All of the 36 cells of three batches, or the part that a golden model was fitted to."""
    stored = json.loads((HERE / "cells_v1.json").read_text())
    counts, proteins = np.array(stored["counts"], np.float32), np.array(stored["proteins"])
    obs = pd.DataFrame(stored["obs"], index=[f"cell{i}" for i in range(len(counts))])
    var = pd.DataFrame(
        {"chosen": np.arange(counts.shape[1]) % 4 > 0}, index=[f"gene{j}" for j in range(counts.shape[1])]
    )
    table = pd.DataFrame(proteins, index=obs.index, columns=[f"protein{j}" for j in range(proteins.shape[1])])
    X = sparse.csr_matrix(counts)
    adata = AnnData(X, obs=obs, var=var, obsm={"proteins": table}, layers={"twice": X * 2})
    if part == "modalities":
        proteins = AnnData(table.to_numpy(np.float32), obs=obs[["batch"]], var=pd.DataFrame(index=table.columns))
        return Modalities(rna=AnnData(X, obs=obs.drop(columns="batch"), var=var), protein=proteins)
    return PARTS[part](adata).copy()


PARTS: dict[str, Callable[[AnnData], AnnData]] = {  # beside "modalities"
    "all": lambda adata: adata,
    "reference": lambda adata: adata[adata.obs["batch"] != "b2"],
    "query": lambda adata: adata[adata.obs["batch"] == "b2"],
    "sequenced": lambda adata: adata[:24, :12],
    "spatial": lambda adata: adata[24:, [7, 2, 3, 5, 12, 9]],
}


# ---- models ----------------------------------------------------------------------------------------------------------


def fitted(cls: type[Any], part: str = "all", setup: Mapping[str, Any] | None = None, **options: Any) -> Any:
    adata = cells(part)
    cls.setup_anndata(adata, **(SETUPS[cls.__name__] if setup is None else setup))
    model = cls(adata, **TINY, **options)
    model.train(**QUICK)
    return model


def scvi_keys() -> Golden:
    """All that can be declared, and options that are not the usual ones."""
    options = {"dispersion": "gene-label", "use_observed_lib_size": False, "encode_covariates": True, "n_layers": 2}
    setup = {name: value for name, value in SETUPS["SCVI"].items() if name != "size_factor_key"}
    return fitted(scvi.SCVI, setup=setup, latent_distribution="ln", gene_likelihood="nb", **options), "all", QUESTIONS


def scvi_size_factors() -> Golden:
    return fitted(scvi.SCVI, gene_likelihood="poisson"), "all", QUESTIONS


def scvi_minified() -> Golden:
    model = fitted(scvi.SCVI, setup={"batch_key": "batch"})
    model.minify_adata()
    return model, "saved", LATENT


def scvi_query() -> Golden:
    reference = fitted(scvi.SCVI, "reference", {"batch_key": "batch"}, encode_covariates=True)
    model = scvi.SCVI.load_query_data(cells("query"), reference)
    model.train(**QUICK)
    return model, "query", QUESTIONS


def linear_scvi() -> Golden:
    return fitted(scvi.LinearSCVI), "all", [*QUESTIONS, ("get_loadings", {}, 1e-4)]


def autozi() -> Golden:
    model = fitted(scvi.AUTOZI, alpha_prior=None, beta_prior=None, zero_inflation="gene-batch")
    return model, "all", [*QUESTIONS, ("get_alphas_betas", {}, 1e-4)]


def scanvi() -> Golden:
    return fitted(scvi.SCANVI), "all", [*QUESTIONS, ("predict", {"soft": True}, 1e-4)]


def scanvi_untrained() -> Golden:
    """Made from an SCVI model and not fitted yet."""
    first = fitted(scvi.SCVI, setup={"batch_key": "batch", "labels_key": "some"})
    return scvi.SCANVI.from_scvi_model(first, "Unknown", seed=0), "all", []


def scanvi_query() -> Golden:
    reference = fitted(scvi.SCANVI, "reference", encode_covariates=True)
    model = scvi.SCANVI.load_query_data(cells("query"), reference)
    model.train(**QUICK)
    return model, "query", [*QUESTIONS, ("predict", {"soft": True}, 1e-4)]


def cond_scvi() -> Golden:
    return fitted(scvi.CondSCVI), "all", [*QUESTIONS, ("get_label_expression", {"n_samples": 4000, "seed": 0}, 5e-2)]


def totalvi() -> Golden:
    """With a protein that one batch lacks."""
    return fitted(scvi.TOTALVI, protein_dispersion="protein-batch"), "all", QUESTIONS


def totalvi_modalities() -> Golden:
    """Of a MuData, with the batches of the proteins."""
    mdata = cells("modalities")
    scvi.TOTALVI.setup_mudata(mdata, **MODALITIES)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**QUICK)
    return model, "modalities", QUESTIONS


def totalvi_latent_library() -> Golden:
    """Whose networks of the library size had other names in the second format."""
    return fitted(scvi.TOTALVI, use_observed_lib_size=False), "all", QUESTIONS


def totalvi_query() -> Golden:
    """Mapped, with such networks, all of which train."""
    reference = fitted(scvi.TOTALVI, "reference", use_observed_lib_size=False)
    model = scvi.TOTALVI.load_query_data(cells("query"), reference, unfrozen=True, freeze_dropout=True)
    model.train(**QUICK)
    return model, "query", QUESTIONS


def gimvi() -> Golden:
    data_sets = [cells("sequenced"), cells("spatial")]
    for adata in data_sets:
        scvi.GIMVI.setup_anndata(adata, **SETUPS["GIMVI"])
    model = scvi.GIMVI(*data_sets, **TINY)
    model.train(**QUICK)
    names = ("get_latent_representation", "get_imputed_values", "get_discriminator_confusion")
    return model, ["sequenced", "spatial"], [(name, {}, 1e-4) for name in names]


MAKERS = (
    scvi_keys,
    scvi_size_factors,
    scvi_minified,
    scvi_query,
    linear_scvi,
    autozi,
    scanvi,
    scanvi_untrained,
    scanvi_query,
    cond_scvi,
    totalvi,
    totalvi_modalities,
    totalvi_latent_library,
    totalvi_query,
    gimvi,
)
MODELS = {make.__name__: make for make in MAKERS}


# ---- files -----------------------------------------------------------------------------------------------------------


def plain(answer: Any) -> Any:
    """An answer as nested lists."""
    if isinstance(answer, Mapping):
        return {str(name): plain(part) for name, part in answer.items()}
    if isinstance(answer, (tuple, list)):
        return [plain(part) for part in answer]
    return np.asarray(answer).astype(float).round(7).tolist()


def weights_changed_by(model: Any, **arguments: Any) -> list[str]:
    """Names of the weights that a further fit changes."""
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    model.train(**{**QUICK, "max_epochs": 1, **arguments})
    return [name for name, value in model.module.state_dict().items() if not value.equal(before[name])]


def write_model(name: str, folder: Path) -> None:
    model, part, questions = MODELS[name]()
    model.save(folder, save_anndata=part == "saved")
    expected: dict[str, Any] = {
        "cells": part,
        "is_trained": model.is_trained,
        "epochs": len(model.history.get("lr", [])),
        "train_indices": plain(model.train_indices) if model.is_trained else None,
        "questions": [
            [method, given, within, plain(getattr(model, method)(**given))] for method, given, within in questions
        ],
    }
    if part != "saved":
        expected["changes"] = weights_changed_by(model)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def listed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as JSON can say it."""
    return {"declared": entry["declared"], "digests": entry["digests"].tolist()}


def write_entries(target: Path, h5ad: Path) -> None:
    """What each estimator writes into `uns`, by names of the estimator and the cells, and cells with all of it."""
    adata, entries = cells("all"), {}
    for name, setup in SETUPS.items():
        for part in ("sequenced", "spatial") if name == "GIMVI" else ("all",):
            found = cells(part) if name == "GIMVI" else adata
            getattr(scvi, name).setup_anndata(found, **setup)
            entries[f"{name} {part}"] = listed(found.uns["_scvi"][name])
    mdata = cells("modalities")
    scvi.TOTALVI.setup_mudata(mdata, **MODALITIES)
    entries["TOTALVI modalities"] = listed(mdata.uns["_scvi"]["TOTALVI"])
    target.write_text(json.dumps(entries, indent=1) + "\n")
    adata.write_h5ad(h5ad)


def main() -> None:
    for name in MODELS:
        folder = HERE / f"{name}_v{VERSION}"
        if not folder.exists():
            write_model(name, folder)
    target = HERE / f"uns_v{VERSION}.json"
    if not target.exists():
        write_entries(target, HERE / f"cells_v{VERSION}.h5ad")


if __name__ == "__main__":
    main()
