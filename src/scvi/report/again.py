"""The lines of Python that fit the same again, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scvi.cells.schema import Schema
from scvi.report.blocks import counted, listed
from scvi.report.cells import N_CHECKED, Wish

_LOST = "not kept"  # ends a line that says what is missing
_FILES = ("cells",), ("seq", "spatial")  # by the number of data sets


def needed(model: Any, lines: Sequence[str]) -> str:
    """Whether the lines fit the same again, which files they read, and what these have to hold."""
    parts = [_of_file(file, cells) for file, _, cells in _files(model)]
    what = "fit the same again, to the bit on the same machine"
    if any(line.endswith(_LOST) for line in lines):
        what = "fit a model like it, for not all that it began with was kept"
    return f"The lines below {what}. They read {' and '.join(parts)}."


def _of_file(file: str, cells: Any) -> str:
    schema: Schema = cells.schema
    keys = [schema.batch_key, schema.labels_key, schema.size_factor_key]
    keys += [*schema.categorical_covariate_keys, *schema.continuous_covariate_keys]
    columns = [f"obs[{key!r}]" for key in dict.fromkeys(keys) if key is not None]
    if schema.proteins is not None:
        places = {"obsm": schema.proteins.obsm_key, "uns": schema.proteins.names_uns_key}
        columns += [f"{where}[{key!r}]" for where, key in places.items() if key is not None]
    genes = counted(schema.n_genes, "gene")
    holds = [
        f"the {'' if cells.given is None else f'{cells.given.n_obs:,} '}cells that were fitted, and no others",
        f"the {genes} that the lines name, whatever else" if _lists_genes(cells) else f"their {genes}, and no others",
        f"raw counts in {schema.counts_name}",
        *([listed(columns, 12)] if columns else []),
    ]
    return f"{file}, which is to have {'; '.join(holds)}"


def _files(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Name of the file, of the variable, and the cells, of each data set."""
    names = _FILES[len(model._data_sets) - 1]
    for name, cells in zip(names, model._data_sets, strict=True):
        kind = "h5mu" if _is_mudata(cells.schema) else "h5ad"
        yield f"{name}.{kind}", "adata" if len(names) == 1 else f"adata_{name}", cells


def _is_mudata(schema: Schema) -> bool:
    return schema.proteins is not None and bool(schema.proteins.modalities)


def commands(model: Any, wish: Wish) -> list[str]:
    """Lines of Python that make the model, fit it and write the report."""
    cls, files, first = type(model).__name__, list(_files(model)), model._first
    reader = "mudata" if files[0][0].endswith(".h5mu") else "anndata"
    lines = [f"import {reader}", "import scvi", ""]
    lines += [_read(file, name) for file, name, _ in files]
    lines += [f"genes_of_{name} = {list(cells.schema.genes)!r}" for _, name, cells in files if _lists_genes(cells)]
    told = {name: value for name, value in model.options.items() if type(model)._defaults().get(name) != value}
    if first is None:
        lines += [_set_up(cls, name, cells) for _, name, cells in files]
        if model._seed is None:
            lines.append(f"# the weights began as those of another model, or their seed was {_LOST}")
        lines.append(_call(f"model = scvi.{cls}", [name for _, name, _ in files], {**told, **_seed(model._seed)}))
    else:
        lines += _from_first(model, first, told)
    lines += _trained("model", model._fits, model)
    return [*lines, *_of_report(wish, files[0][0].rsplit(".")[-1])]


def _from_first(model: Any, first: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """Of a model that began with the weights of another, that one too."""
    (cells,), schema = model._data_sets, model.schema
    own = {name: told[name] for name in ("linear_classifier", "classifier_parameters") if name in told}
    shared = {name: value for name, value in told.items() if name not in own}
    of_model = {"labels_key": schema.labels_key, **own, **_seed(model._seed)}
    return [
        _set_up("SCVI", "adata", cells, labels_key=first["labels_key"], unlabeled_category=None),
        _call("first = scvi.SCVI", ["adata"], {**shared, **_seed(first["seed"])}),
        *_trained("first", first["fits"]),
        _call(
            f"model = scvi.{type(model).__name__}.from_scvi_model", ["first", repr(schema.unlabeled_category)], of_model
        ),
    ]


def _trained(name: str, fits: list[dict[str, Any]], model: Any = None) -> Iterator[str]:
    """The calls of `train`; what was not kept of them is said beside them."""
    if not fits:
        yield f"{name}.train()  # with which arguments was {_LOST}"
    for i, call in enumerate(fits):
        told = dict(call)
        if "validation_indices" in told and model is not None and i == len(fits) - 1 and len(model._data_sets) == 1:
            told["validation_indices"] = model.validation_indices.tolist()
        lost = [key for key, value in told.items() if _is_lost(value)]
        line = _call(f"{name}.train", [], {key: value for key, value in told.items() if key not in lost})
        yield f"{line}  # also {listed(lost)}, {_LOST}" if lost else line


def _is_lost(value: Any) -> bool:
    """Whether an argument of `train` was kept as a text in angle brackets, because a file has no type for it."""
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


def _of_report(wish: Wish, kind: str) -> Iterator[str]:
    """The lines that write the report again."""
    arguments = {
        "columns": list(wish.columns) or None,
        "labels_key": wish.labels_key,
        "n_cells": None if wish.n_cells == N_CHECKED else wish.n_cells,
        "seed": wish.seed,
    }
    cells = [] if wish.adata is None else ["other_cells"]
    if wish.adata is not None:
        yield f"{_read(f'other_cells.{kind}', 'other_cells')}  # {counted(wish.adata.n_obs, 'cell')}"
    yield _call("model.report", ['"report.html"', *cells], _given(arguments))


def _read(file: str, name: str) -> str:
    """The line that reads a file."""
    if file.endswith(".h5mu"):
        return f'{name} = mudata.read_h5mu("{file}")'
    return f'{name} = anndata.read_h5ad("{file}")'


def _lists_genes(cells: Any) -> bool:
    """Whether genes were chosen: by a column of var, which a file may lack, or among more."""
    schema: Schema = cells.schema
    if _is_mudata(schema):
        return False  # all genes of a modality are read
    return schema.mask_var is not None or cells.adata is None or cells.adata.n_vars != schema.n_genes


def _set_up(cls: str, name: str, cells: Any, **other: Any) -> str:
    """The declaration of one data set, as its schema has it, but for `other` keys."""
    schema: Schema = cells.schema
    keys: dict[str, Any] = {
        "layer": schema.layer,
        "batch_key": schema.batch_key,
        "labels_key": schema.labels_key,
        "unlabeled_category": schema.unlabeled_category,
        "size_factor_key": schema.size_factor_key,
        "categorical_covariate_keys": list(schema.categorical_covariate_keys) or None,
        "continuous_covariate_keys": list(schema.continuous_covariate_keys) or None,
        "non_integer": None if schema.non_integer == "warn" else schema.non_integer,
        **other,
    }
    method, proteins = "setup_anndata", schema.proteins
    if proteins is not None and _is_mudata(schema):
        method = "setup_mudata"
        keys |= {"rna_layer": keys.pop("layer"), "protein_layer": proteins.layer, "modalities": proteins.modalities}
    elif proteins is not None:
        keys["protein_expression_obsm_key"] = proteins.obsm_key
        keys["protein_names_uns_key"] = proteins.names_uns_key
    genes = [f"mask_var=genes_of_{name}"] if _lists_genes(cells) else []
    return f"scvi.{cls}.{method}({', '.join([name, *_keywords(_given(keys)), *genes])})"


def _call(what: str, arguments: list[str], values: Mapping[str, Any]) -> str:
    return f"{what}({', '.join([*arguments, *_keywords(values)])})"


def _keywords(values: Mapping[str, Any], typed: Callable[[Any], str] = repr) -> list[str]:
    """As they are typed."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    return [f"{name}={typed(value)}" for name, value in plain.items()]


def _seed(seed: int | None) -> dict[str, int]:
    return {} if seed is None else {"seed": seed}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, and need not be said."""
    return {name: value for name, value in values.items() if value is not None}
