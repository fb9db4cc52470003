"""Single-cell variational inference: probabilistic models of single-cell counts, fitted fast.

>>> import scvi
>>> scvi.SCVI.setup_anndata(adata, batch_key="batch")
>>> model = scvi.SCVI(adata)
>>> model.train()
>>> adata.obsm["X_scVI"] = model.get_latent_representation()

Everything but the settings is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scvi._settings import set_seed, set_verbosity, settings

if TYPE_CHECKING:
    from scvi import data, dataset, external, inference, model, models, tune
    from scvi.estimators import AUTOZI, GIMVI, SCANVI, SCVI, TOTALVI, CondSCVI, LinearSCVI
    from scvi.estimators.converting import convert
    from scvi.estimators.ranked_genes import rank_genes_groups

__version__ = "1.0.0.dev0"
__author__ = "the scvi developers"
__email__ = "maintainers@users.noreply.example"

__all__ = [
    "AUTOZI",
    "GIMVI",
    "SCANVI",
    "SCVI",
    "TOTALVI",
    "CondSCVI",
    "LinearSCVI",
    "__version__",
    "convert",
    "data",
    "dataset",
    "external",
    "inference",
    "model",
    "models",
    "rank_genes_groups",
    "set_seed",
    "set_verbosity",
    "settings",
    "tune",
]

_MODULES = {
    "cells",
    "data",
    "dataset",
    "demo",
    "estimators",
    "external",
    "fit",
    "inference",
    "kernels",
    "minibatch",
    "model",
    "models",
    "plots",
    "queries",
    "tune",
}


_HOMES = {"convert": "scvi.estimators.converting", "rank_genes_groups": "scvi.estimators.ranked_genes"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"scvi.{name}")
    if name in __all__:  # what is public and neither a module nor imported above is an estimator, or about them
        value = globals()[name] = getattr(import_module(_HOMES.get(name, "scvi.estimators")), name)
        return value
    raise AttributeError(f"module 'scvi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
