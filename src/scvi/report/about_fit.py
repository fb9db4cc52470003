"""What was fitted to what, in words, and the lines that do it again."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from scvi.cells.schema import Schema
from scvi.report.again import commands, needed
from scvi.report.blocks import Code, Section, Table, Text, counted, listed
from scvi.report.cells import DATA_SETS, Shown, Wish

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "anndata")


def what_was_fitted(model: Any, wish: Wish, looked_at: Shown) -> Section:
    """Cells, genes, batches, options, versions, seeds and commands."""
    schemas = [cells.schema for cells in model._data_sets]
    sizes = _sizes(model, wish, looked_at)
    lines = commands(model, wish)
    return Section(
        "fit",
        "What was fitted to what",
        [
            Table("The model and its cells", ("", ""), _facts(model, schemas, sizes, wish), n_texts=2),
            Text(needed(model, lines)),
            Code("\n".join(lines), "To repeat it"),
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
    facts += _options(model)
    epochs = next((len(table) for key, table in model.history.items() if key == "elbo_train"), None)
    if epochs is not None:
        facts.append(("Epochs", f"{epochs}"))
    facts.append(("Device", str(model.device)))
    facts.append(("Seed of this report", str(wish.seed)))
    installed = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    facts.append(("Versions", f"scvi {_own_version()}, {installed}; Python {platform.python_version()}"))
    return facts


def _options(model: Any) -> Iterator[tuple[str, str]]:
    """Those that were chosen, and those that are the defaults."""
    defaults = type(model)._defaults()
    chosen = [name for name, value in model.options.items() if value != defaults.get(name)]
    said = [f"{name}={model.options[name]!r} (default {defaults.get(name)!r})" for name in chosen]
    yield "Options chosen", ", ".join(said) or "none"
    yield "Options by default", ", ".join(f"{k}={v!r}" for k, v in model.options.items() if k not in chosen) or "none"


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
