"""What was fitted to what, in words, and the lines that do it again."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from scvi.cells.schema import Schema
from scvi.report.blocks import Code, Section, Table, counted, listed
from scvi.report.cells import DATA_SETS, N_CHECKED, Shown, Wish

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "anndata")


def what_was_fitted(model: Any, wish: Wish, looked_at: Shown) -> Section:
    """Cells, genes, batches, options, versions, seeds and commands."""
    schemas = [cells.schema for cells in model._data_sets]
    sizes = _sizes(model, wish, looked_at)
    defaults = type(model)._defaults()
    options = [
        (name, f"{value!r}" if value == defaults.get(name) else f"{value!r} (default {defaults.get(name)!r})")
        for name, value in model.options.items()
    ]
    return Section(
        "fit",
        "What was fitted to what",
        [
            Table("The model and its cells", ("", ""), _facts(model, schemas, sizes, wish), n_texts=2),
            Table("Options of the model", ("option", "value"), options, n_texts=2),
            Code("\n".join(commands(model, wish)), "To repeat it"),
        ],
        [("How many cells and genes?", f"{sizes}{_batches(schemas)}."), *_alone(schemas)],
    )


def _sizes(model: Any, wish: Wish, looked_at: Shown) -> str:
    if len(model._data_sets) == 1:
        return f"{counted(looked_at.of_all, 'cell')} x {counted(model.schema.n_genes, 'gene')}"
    parts = [
        f"{name}: {counted(0 if cells.given is None else cells.given.n_obs, 'cell')} x "
        f"{counted(cells.schema.n_genes, 'gene')}"
        for name, cells in zip(DATA_SETS, model._data_sets, strict=True)
    ]
    return "; ".join(parts)


def _batches(schemas: Sequence[Schema]) -> str:
    keyed = [schema for schema in schemas if schema.batch_key is not None]
    if not keyed:
        return ", one batch (no batch_key was given)" if len(schemas) == 1 else ""
    return "".join(f", {counted(schema.n_batch, 'batch', 'batches')} by {schema.batch_key!r}" for schema in keyed)


def _alone(schemas: Sequence[Schema]) -> list[tuple[str, str]]:
    """What is said of mixing where there is nothing to mix."""
    if len(schemas) > 1 or schemas[0].n_batch > 1:
        return []
    return [("Which batch mixes worst?", "None: the model knows of one batch.")]


def _facts(model: Any, schemas: Sequence[Schema], sizes: str, wish: Wish) -> list[tuple[str, str]]:
    facts = [("Model", f"scvi.{type(model).__name__}"), ("Cells and genes", sizes)]
    sides = zip(("Cells fitted", "Cells for validation"), (model._train_cells, model._validation_cells), strict=True)
    facts += [(name, ", ".join(f"{len(part.positions):,}" for part in parts)) for name, parts in sides if parts]
    for name, schema in zip(DATA_SETS if len(schemas) > 1 else ("",), schemas, strict=True):
        facts += [(f"{what} {name}".strip(), said) for what, said in _reads(schema)]
    epochs = next((len(table) for key, table in model.history.items() if key == "elbo_train"), None)
    if epochs is not None:
        facts.append(("Epochs", f"{epochs}"))
    facts.append(("Device", str(model.device)))
    facts.append(("Seed of this report", str(wish.seed)))
    installed = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    facts.append(("Versions", f"scvi {_own_version()}, {installed}; Python {platform.python_version()}"))
    return facts


def _reads(schema: Schema) -> Iterator[tuple[str, str]]:
    """What a model reads of an AnnData."""
    yield "Counts", schema.counts_name
    columns = {"Batch": schema.batch_key, "Labels": schema.labels_key}
    for what, key in columns.items():
        if key is not None:
            yield what, f"obs[{key!r}]: {listed(schema.categories.get(key, ()), 12)}"
    for key in schema.categorical_covariate_keys:
        yield "Covariate", f"obs[{key!r}]: {listed(schema.categories[key], 12)}"
    for key in schema.continuous_covariate_keys:
        yield "Covariate", f"obs[{key!r}], numbers"
    if schema.size_factor_key is not None:
        yield "Size factors", f"obs[{schema.size_factor_key!r}]"
    if schema.unlabeled_category is not None:
        yield "Unlabelled", repr(schema.unlabeled_category)
    if schema.proteins is not None:
        yield "Proteins", f"{len(schema.proteins.names)}: {listed(schema.proteins.names, 12)}"


def _own_version() -> str:
    from scvi import __version__

    return __version__


# ---- the same again --------------------------------------------------------------------------------------------------


def commands(model: Any, wish: Wish) -> list[str]:
    """Lines of Python that make the model, fit it and write the report."""
    cls = type(model).__name__
    names = ["adata"] if len(model._data_sets) == 1 else ["adata_seq", "adata_spatial"]
    lines = ["import anndata", "import scvi", ""]
    for name, cells in zip(names, model._data_sets, strict=True):
        n = "" if cells.given is None else f"  # the {cells.given.n_obs:,} cells"
        lines.append(f'{name} = anndata.read_h5ad("cells.h5ad"){n}')
    for name, cells in zip(names, model._data_sets, strict=True):
        lines.append(_set_up(cls, name, cells))
    told = {name: value for name, value in model.options.items() if type(model)._defaults().get(name) != value}
    if model._seed is None:
        lines.append("# the weights began as those of another model, or their seed was not kept")
    else:
        told["seed"] = model._seed
    lines.append(f"model = scvi.{cls}({', '.join([*names, *_keywords(told)])})")
    if not model._fits:
        lines.append("model.train()  # with which arguments was not kept")
    lines += [f"model.train({', '.join(_keywords(call, _kept))})" for call in model._fits]
    return [*lines, _of_report(wish)]


def _of_report(wish: Wish) -> str:
    """The line that writes the report again."""
    arguments = {
        "columns": list(wish.columns) or None,
        "labels_key": wish.labels_key,
        "n_cells": None if wish.n_cells == N_CHECKED else wish.n_cells,
        "seed": wish.seed,
    }
    cells = [] if wish.adata is None else ["other_cells"]
    words = ", ".join(['"report.html"', *cells, *_keywords(_given(arguments))])
    line = f"model.report({words})"
    return line if wish.adata is None else f"{line}  # other_cells: {counted(wish.adata.n_obs, 'cell')}"


def _set_up(cls: str, name: str, cells: Any) -> str:
    """The declaration of one data set, as its schema has it."""
    schema: Schema = cells.schema
    keys: dict[str, Any] = {
        "layer": schema.layer,
        "batch_key": schema.batch_key,
        "labels_key": schema.labels_key,
        "unlabeled_category": schema.unlabeled_category,
        "size_factor_key": schema.size_factor_key,
        "categorical_covariate_keys": list(schema.categorical_covariate_keys) or None,
        "continuous_covariate_keys": list(schema.continuous_covariate_keys) or None,
        "mask_var": schema.mask_var,
        "non_integer": None if schema.non_integer == "warn" else schema.non_integer,
    }
    method, proteins = "setup_anndata", schema.proteins
    if proteins is not None and proteins.modalities:
        method = "setup_mudata"
        keys |= {"rna_layer": keys.pop("layer"), "protein_layer": proteins.layer, "modalities": proteins.modalities}
    elif proteins is not None:
        keys["protein_expression_obsm_key"] = proteins.obsm_key
        keys["protein_names_uns_key"] = proteins.names_uns_key
    line = f"scvi.{cls}.{method}({', '.join([name, *_keywords(_given(keys))])})"
    if schema.mask_var is None and cells.adata is not None and cells.adata.n_vars != schema.n_genes:
        line = line[:-1] + f", mask_var=genes)  # genes: names of the {schema.n_genes:,} that were fitted"
    return line


def _keywords(values: Mapping[str, Any], typed: Callable[[Any], str] = repr) -> list[str]:
    """As they are typed."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    return [f"{name}={typed(value)}" for name, value in plain.items()]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, and need not be said."""
    return {name: value for name, value in values.items() if value is not None}


def _kept(value: Any) -> str:
    """An argument of `train`, which is kept as a text in angle brackets where a file has no type for it."""
    if isinstance(value, str) and value.startswith("<") and value.endswith(">"):
        return "..."  # positions of cells and the like, which are not kept
    return repr(value)
