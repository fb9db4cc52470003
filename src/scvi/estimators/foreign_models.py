"""Models that scvi-tools 1.0 to 1.4 saved, in the terms of this package: options, declaration, weights, cells.

The one place that knows how the file is built and where the networks differ in what they call or compute. Nothing in
it is run, see :mod:`scvi.estimators.torch_archive`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scvi.cells.schema import Schema
from scvi.estimators.files import DESCRIPTION, StoredModel
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.torch_archive import read_archive
from scvi.models.weights import refuse_not_finite

FILE = "model.pt"
# Options that not every model here has, at the values that mean what the networks here compute.
_AS_HERE: dict[str, tuple[Any, ...]] = {
    "use_batch_norm": ("both", True),
    "use_layer_norm": ("none", False),
    "deeply_inject_covariates": (True,),
    "batch_representation": ("one-hot",),
    "log_variational": (True,),
    "var_activation": (None,),
    "linear_classifier": (False,),
    "encode_covariates": (False,),
    "bias": (False,),
    "datamodule": (None,),
    "registry": (None,),
    "use_size_factor_key": (False,),
}


class _Layout(NamedTuple):
    """Where a network has layers that see covariates, and what finds out the library size."""

    encoders: tuple[str, ...]  # which see them with `encode_covariates`
    decoders: tuple[str, ...]
    of_size: tuple[str, ...]
    further: dict[str, Tensor]  # what only the networks here have, at values that change nothing


_SCVI = _Layout(("z_encoder.encoder",), ("decoder.px_decoder",), ("l_encoder",), {})
_LAYOUTS = {
    "SCVI": _SCVI,
    "SCANVI": _SCVI._replace(further={"temperature": torch.ones(())}),
    "AUTOZI": _SCVI,
    "LinearSCVI": _SCVI._replace(decoders=("decoder.factor_regressor", "decoder.px_dropout_decoder")),
}


class _Saved(NamedTuple):
    """What the file of a model holds."""

    kind: str  # name of its class
    options: dict[str, Any]  # of its constructor, all in one
    fields: Mapping[str, Any]  # what was declared, by the name of the input
    genes: tuple[str, ...]
    weights: dict[str, Tensor]
    attributes: Mapping[str, Any]

    def place(self, field: str) -> Mapping[str, Any]:
        """Where an input is; empty where there is none."""
        return self.fields.get(field, {}).get("data_registry", {})

    def state(self, field: str) -> Mapping[str, Any]:
        """What is known of an input; empty where there is none."""
        return self.fields.get(field, {}).get("state_registry", {})


def is_foreign(directory: str | os.PathLike[str], prefix: str = "") -> bool:
    """Whether a directory holds a model of scvi-tools, whose file's name has this prefix, and none of this package.

    FileNotFoundError where that of another prefix is all that it holds.
    """
    source = Path(directory)
    if (source / DESCRIPTION).exists() or not source.is_dir():
        return False
    others = sorted(file.name.removesuffix(FILE) for file in source.glob(f"*{FILE}"))
    if others and prefix not in others:
        raise FileNotFoundError(
            f"{source} holds no {prefix}{FILE}; pass prefix={others[0]!r} for the model that it holds"
        )
    return prefix in others


def kind_of(path: Path) -> str:
    """The name of the class of a model of scvi-tools, from its file."""
    with _naming(path):
        return _saved(read_archive(path)).kind


def read(directory: str | os.PathLike[str], prefix: str, estimator: str, known: Mapping[str, Any]) -> StoredModel:
    """What the file of a model of scvi-tools says, as if the model had been saved by this package.

    Parameters
    ----------
    prefix
        Of the names of its files.
    estimator, known
        Name of the class that is to be, and the options that it has, with their default values.

    Raises
    ------
    ValueError
        If the file is damaged or names anything but data; if the model is of another class, or has an option that
        this package does not have.
    """
    path = Path(directory) / f"{prefix}{FILE}"
    with _naming(path):
        saved = _saved(read_archive(path))
        if saved.kind != estimator:
            raise ValueError(f"it holds a {saved.kind} model: load it with scvi.{saved.kind}.load")
        weights = saved.weights
        refuse_not_finite(weights, "it is damaged, take another copy of the model")
        options = _options(saved, known)
        schema = _schema(saved)
        train_cells, validation_cells = (_positions(saved.attributes.get(f"{side}_indices_")) for side in _SIDES)
        return StoredModel(
            estimator,
            options,
            (schema,),
            _history(saved.attributes.get("history_")),
            bool(saved.attributes.get("is_trained_", False)),
            _translated(weights, schema, options, _LAYOUTS[estimator]),
            train_cells,
            validation_cells,
        )


_SIDES = ("train", "validation")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever is wrong in the file is a ValueError that names it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = str(error)
        if isinstance(error, ValueError) and text.startswith(str(path)):
            raise
        if isinstance(error, LookupError):
            text = f"there is no {text}"
        raise ValueError(f"{path}, a model of scvi-tools, is not read: {text}") from error


def _saved(content: Any) -> _Saved:
    attributes = content["attr_dict"]
    registry, init = attributes["registry_"], attributes["init_params_"]
    kind = str(registry["model_name"])
    if kind not in _LAYOUTS:
        raise ValueError(f"it holds a {kind} model; of that package are read: {', '.join(_LAYOUTS)}")
    if registry.get("setup_method_name", "setup_anndata") != "setup_anndata":
        raise ValueError(f"it was set up by {registry['setup_method_name']}; models that setup_anndata set up are read")
    options = dict(init["non_kwargs"])
    for further in init["kwargs"].values():
        options |= further
    weights = {name: tensor for name, tensor in content["model_state_dict"].items() if isinstance(tensor, Tensor)}
    genes = tuple(map(str, content["var_names"]))
    return _Saved(kind, options, registry["field_registries"], genes, weights, attributes)


def _options(saved: _Saved, known: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model, as this package knows them; what the weights tell is not taken from their names.

    One that is not written down has the value that networks without it have.
    """
    given = {**saved.options, "use_observed_lib_size": "library_log_means" not in saved.weights}
    if saved.kind == "LinearSCVI":
        layer = "decoder.factor_regressor.fc_layers.Layer 0."
        given |= {"use_batch_norm": f"{layer}1.weight" in saved.weights, "bias": f"{layer}0.bias" in saved.weights}
    foreign = {name: value for name, value in given.items() if name not in known}
    for name, value in foreign.items():
        if name not in _AS_HERE or value not in _AS_HERE[name]:
            raise ValueError(f"it was made with {name}={value!r}, which scvi.{saved.kind} does not have")
    if given.get("encode_covariates") and not given["use_observed_lib_size"]:
        raise ValueError(
            "it was made with encode_covariates=True and infers the library size from covariates as well, "
            f"which scvi.{saved.kind} does not"
        )
    return {name: given.get(name, default) for name, default in known.items()}


# ---- what was declared -----------------------------------------------------------------------------------------------


def _schema(saved: _Saved) -> Schema:
    """The declaration; what scvi-tools did not write down of the cells is not known."""
    if saved.place("size_factor"):
        raise ValueError(
            f"it was set up with size_factor_key={saved.place('size_factor').get('attr_key')!r}: its decoder then "
            "gives numbers that are no frequencies, which the networks here do not"
        )
    if saved.state("panel"):
        raise ValueError("it was set up with panel_key, which this package does not have")
    batch_key, labels_key = _column(saved, "batch"), _column(saved, "labels")
    covariates = saved.state("extra_categorical_covs")
    keys = tuple(map(str, covariates.get("field_keys", ())))
    categories = {key: _texts(covariates["mappings"][key]) for key in keys}
    for field, key in (("batch", batch_key), ("labels", labels_key)):
        if key is not None:
            categories[key] = _texts(saved.state(field)["categorical_mapping"])
    unlabeled = saved.state("labels").get("unlabeled_category")
    if labels_key is not None and unlabeled is not None:
        categories[labels_key] = tuple(name for name in categories[labels_key] if name != str(unlabeled))
    continuous = _texts(saved.state("extra_continuous_covs").get("columns", ()))
    counts = saved.place("X")
    return Schema(
        layer=str(counts["attr_key"]) if counts.get("attr_name") == "layers" else None,
        batch_key=batch_key,
        labels_key=labels_key,
        categorical_covariate_keys=keys,
        continuous_covariate_keys=continuous,
        genes=saved.genes,
        categories=categories,
        library_prior=_library_prior(saved, 1 if batch_key is None else len(categories[batch_key])),
        continuous_moments=((0.0, 1.0),) * len(continuous),  # their networks see covariates as they are
        unlabeled_category=None if unlabeled is None or labels_key is None else str(unlabeled),
    )


def _column(saved: _Saved, field: str) -> str | None:
    """The column of ``adata.obs`` of categories; None where the package made one of its own."""
    key = saved.state(field).get("original_key")
    return None if key is None or str(key).startswith("_scvi_") else str(key)


def _texts(values: Collection[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _library_prior(saved: _Saved, n_batch: int) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the log library sizes by batch; those of a model that observes them play no part."""
    if "library_log_means" not in saved.weights:
        return ((0.0, 1.0),) * n_batch
    moments = (saved.weights[name].flatten().tolist() for name in ("library_log_means", "library_log_vars"))
    return tuple(zip(*moments, strict=True))


# ---- what was fitted -------------------------------------------------------------------------------------------------


def _translated(
    weights: Mapping[str, Tensor], schema: Schema, options: Mapping[str, Any], layout: _Layout
) -> dict[str, Tensor]:
    """Weights in the order of columns of this package, without those that are of no use."""
    unused = ["library_log_means", "library_log_vars"]
    if options["use_observed_lib_size"]:
        unused += layout.of_size
    kept = {name: tensor for name, tensor in weights.items() if not _is_part_of(name, unused)}
    kept |= layout.further
    seeing = layout.decoders + (layout.encoders if options.get("encode_covariates") else ())
    n_codes = sum(n for n in (schema.n_batch, *schema.n_cats_per_cov) if n > 1)
    for name, tensor in kept.items():
        if schema.n_continuous and name.endswith(".0.weight") and _is_part_of(name, seeing):
            kept[name] = _reordered(tensor, n_codes, schema.n_continuous, "Layer 0." in name)
    return kept


def _is_part_of(name: str, modules: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _reordered(weight: Tensor, n_codes: int, n_continuous: int, is_first: bool) -> Tensor:
    """Columns of continuous covariates after those of codes, where they stand before; only first layers have some."""
    n_inputs = weight.shape[1] - n_codes
    inputs, codes = weight[:, :n_inputs], weight[:, n_inputs:]
    if not is_first:
        return torch.cat([inputs, codes, torch.zeros(len(weight), n_continuous)], dim=1)
    return torch.cat([inputs[:, :-n_continuous], codes, inputs[:, -n_continuous:]], dim=1)


def _history(tables: Mapping[str, pd.DataFrame] | None) -> dict[str, pd.DataFrame]:
    """Numbers by epoch or step, under the names that they have."""
    found = {}
    for name, table in (tables or {}).items():
        values = np.asarray(table.iloc[:, 0], dtype=np.float64)
        found[str(name)] = pd.DataFrame(
            {str(name): values}, index=pd.Index(np.asarray(table.index, dtype=np.int64), name=table.index.name)
        )
    return found


def _positions(positions: Any) -> list[FittedCells] | None:
    """Cells of one side of the split, which have no names in the file."""
    if positions is None:
        return None
    return [FittedCells(None, np.asarray(positions, dtype=np.int64), "")]
