"""What a model reads of its cells: the options that say it, and the set-up."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from scvi.cli.models import MODELS
from scvi.cli.options import FILES, Options, positive
from scvi.cli.output import Refused
from scvi.cli.reading import Glance

DATA: Options = {
    "--batch-key": {"metavar": "COLUMN", "help": "column of obs with the batch to correct for"},
    "--labels-key": {
        "metavar": "COLUMN",
        "help": "column of obs with the cell type; scanvi and condscvi learn it, for others it colours the picture",
    },
    "--unlabeled-category": {"metavar": "VALUE", "help": "what that column says where the type is not known (scanvi)"},
    "--layer": {"metavar": "LAYER", "help": "layer with the raw counts (default: X)"},
    "--categorical-covariate": {
        "action": "append",
        "metavar": "COLUMN",
        "help": "a further column whose effect is removed; may be given again",
    },
    "--continuous-covariate": {"action": "append", "metavar": "COLUMN", "help": "the same, of numbers"},
    "--size-factor-key": {"metavar": "COLUMN", "help": "size factors in place of total counts"},
    "--protein-obsm-key": {
        "metavar": "KEY",
        "help": "where in obsm the counts of proteins are (totalvi; default: protein_expression)",
    },
    "--protein-names-key": {"metavar": "KEY", "help": "where in uns their names are, if that is an array (totalvi)"},
    "--spatial": {"type": Path, "metavar": "FILE", "help": "the spatial cells (gimvi); FILE has the dissociated ones"},
    "--non-integer": {
        "choices": ("warn", "refuse", "round"),
        "help": "what to do with counts that are estimates, as after ambient correction (default: warn, and "
        "model them as they are)",
    },
    "--n-top-genes": {
        "type": positive,
        "metavar": "N",
        "help": "fit the N most variable genes (seurat_v3, per batch), kept in var['highly_variable']; "
        "the copy keeps all genes (default: fit all)",
    },
    **FILES,
}
_ALL_BUT_GIMVI = set(MODELS) - {"gimvi"}
# Options that some models alone have a use for.
_ONLY: dict[str, set[str]] = {
    "unlabeled_category": {"scanvi"},
    "start": {"scanvi"},
    "protein_obsm_key": {"totalvi"},
    "protein_names_key": {"totalvi"},
    "spatial": {"gimvi"},
    "preset": {"scvi"},
    "categorical_covariate": _ALL_BUT_GIMVI,
    "continuous_covariate": _ALL_BUT_GIMVI,
    "size_factor_key": _ALL_BUT_GIMVI,
}
_NEEDS = {"scanvi": ("labels_key", "unlabeled_category"), "condscvi": ("labels_key",), "gimvi": ("spatial",)}


def model_option(names: Collection[str] = tuple(MODELS)) -> Options:
    """``--model``."""
    help = "ldvae and linearscvi: linear decoder (default: scvi)"
    return {"--model": {"choices": tuple(names), "type": str.lower, "default": "scvi", "help": help}}


def check_declared(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go with the model, and a lack of those that it needs."""
    for name, models in _ONLY.items():
        if getattr(arguments, name, None) is not None and arguments.model not in models:
            raise Refused(f"{typed(name)} is for --model {' and '.join(sorted(models))}, not for {arguments.model}")
    for name in _NEEDS.get(arguments.model, ()):
        if getattr(arguments, name) is None:
            raise Refused(f"--model {arguments.model} needs {typed(name)}")


def typed(name: str) -> str:
    """An argument as an option."""
    return "--from" if name == "start" else f"--{name.replace('_', '-')}"


def declare(Model: Any, cells: Sequence[Any], arguments: argparse.Namespace) -> None:
    """Sets up the cells as the options say; the gene selection, if one is asked for, goes into the first of them."""
    from scvi.cells.mudata import is_multimodal
    from scvi.cli.genes import select_genes

    for adata in cells:
        if not arguments.n_top_genes or adata is not cells[0]:
            _set_up(Model, adata, arguments, None)
            continue
        if not is_multimodal(adata):
            select_genes(adata, arguments)
        _set_up(Model, adata, arguments, "highly_variable")


def _set_up(Model: Any, adata: Any, arguments: argparse.Namespace, mask: str | None) -> None:
    """Declares what the model reads of the cells."""
    from scvi.cells.mudata import is_multimodal

    keys: dict[str, Any] = {"batch_key": arguments.batch_key, "non_integer": arguments.non_integer or "warn"}
    if arguments.model != "gimvi":
        keys |= {
            "size_factor_key": arguments.size_factor_key,
            "categorical_covariate_keys": arguments.categorical_covariate,
            "continuous_covariate_keys": arguments.continuous_covariate,
        }
    if is_multimodal(adata):
        if arguments.model != "totalvi" or arguments.n_top_genes:
            what = "--n-top-genes" if arguments.n_top_genes else f"--model {arguments.model}"
            raise ValueError(f"{what} does not go with the MuData of {arguments.file}; give it the .h5ad of its RNA")
        Model.setup_mudata(adata, rna_layer=arguments.layer, **keys)
        return
    if arguments.model in ("scanvi", "condscvi"):
        keys["labels_key"] = arguments.labels_key
    if arguments.model == "scanvi":
        keys["unlabeled_category"] = arguments.unlabeled_category
    if arguments.model == "totalvi":
        keys["protein_expression_obsm_key"] = arguments.protein_obsm_key or "protein_expression"
        keys["protein_names_uns_key"] = arguments.protein_names_key or _names_key(adata, arguments)
    Model.setup_anndata(adata, layer=arguments.layer, mask_var=mask, **keys)


def _names_key(adata: Any, arguments: argparse.Namespace) -> str | None:
    """Where readers put the names of proteins whose counts are an array."""
    key = arguments.protein_obsm_key or "protein_expression"
    is_array = key in adata.obsm and not hasattr(adata.obsm[key], "columns")
    return "protein_names" if is_array and "protein_names" in adata.uns else None


def check_columns(seen: Glance, arguments: argparse.Namespace) -> None:
    """Refuses names of columns and of layers that the file does not have."""
    from scvi.cells.checks import found, obs_column

    if seen.cells is None:
        return
    if arguments.labels_key and seen.file == arguments.file:
        obs_column(seen.cells, "labels_key", arguments.labels_key)
    for name in ("batch_key", "size_factor_key"):
        if getattr(arguments, name):
            obs_column(seen.cells, name, getattr(arguments, name))
    for name in ("categorical_covariate", "continuous_covariate"):
        for key in getattr(arguments, name) or ():
            obs_column(seen.cells, name, key)
    if arguments.layer:
        found(dict.fromkeys(seen.layers), "layer", arguments.layer, "in adata.layers")
    if arguments.model == "totalvi" and seen.kind != "h5mu":
        key = arguments.protein_obsm_key or "protein_expression"
        found(dict.fromkeys(seen.obsm), "protein_expression_obsm_key", key, "in adata.obsm")
