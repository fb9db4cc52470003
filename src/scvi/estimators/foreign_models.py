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

from scvi.cells.mudata import OBSM_KEY
from scvi.cells.schema import ProteinSchema, Schema
from scvi.estimators.files import DESCRIPTION, StoredModel
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.foreign_weights import EFFICIENCY, Layout, translated
from scvi.estimators.torch_archive import read_archive
from scvi.models.weights import refuse_not_finite

FILE = "model.pt"
# Options that not every model here has, at the values that mean what the networks here compute.
_AS_HERE: dict[str, tuple[Any, ...]] = {
    "datamodule": (None,),
    "registry": (None,),
    "use_size_factor_key": (False,),
}


_SCVI = Layout(("z_encoder.encoder",), ("decoder.px_decoder",), ("l_encoder",))
_TOTALVI = Layout(
    ("encoder.encoder", "encoder.l_gene_encoder"),
    ("decoder",),
    ("encoder.l_gene_encoder", "encoder.l_gene_mean_encoder", "encoder.l_gene_var_encoder"),
    size_sees_covariates=True,
    options={"n_layers_encoder": 2, "encoder_branches": False, "background_deviation": "softplus"},
)
_LAYOUTS = {
    "SCVI": _SCVI,
    "SCANVI": _SCVI._replace(further={"temperature": torch.ones(())}),
    "AUTOZI": _SCVI,
    "LinearSCVI": _SCVI._replace(decoders=("decoder.factor_regressor", "decoder.px_dropout_decoder")),
    "TOTALVI": _TOTALVI,
}


class _Saved(NamedTuple):
    """What the file of a model holds."""

    kind: str  # name of its class
    options: dict[str, Any]  # of its constructor, all in one
    set_up: Mapping[str, Any]  # arguments of its setup_anndata
    fields: Mapping[str, Any]  # what was declared, by the name of the input
    genes: tuple[str, ...]
    weights: dict[str, Tensor]
    attributes: Mapping[str, Any]
    is_multimodal: bool  # whether a MuData was set up

    def place(self, field: str) -> Mapping[str, Any]:
        """Where an input is; empty where there is none."""
        return self.fields.get(field, {}).get("data_registry", {})

    def state(self, field: str) -> Mapping[str, Any]:
        """What is known of an input; empty where there is none."""
        return self.fields.get(field, {}).get("state_registry", {})


def is_foreign(directory: str | os.PathLike[str], prefix: str = "") -> bool:
    """Whether what a directory holds under this prefix is a model of scvi-tools, and none of this package.

    FileNotFoundError where models of scvi-tools under other prefixes are all that it holds.
    """
    source = Path(directory)
    if (source / f"{prefix}{DESCRIPTION}").exists() or not source.is_dir():
        return False
    others = sorted(file.name.removesuffix(FILE) for file in source.glob(f"*{FILE}"))
    if others and prefix not in others and not any(source.glob(f"*{DESCRIPTION}")):
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
            translated(weights, schema, options, _LAYOUTS[estimator]),
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
    method = registry.get("setup_method_name", "setup_anndata")
    if method != "setup_anndata" and (kind, method) != ("TOTALVI", "setup_mudata"):
        raise ValueError(f"it was set up by {method}, which scvi.{kind} does not have")
    options = dict(init["non_kwargs"])
    for further in init["kwargs"].values():
        options |= further
    weights = {name: tensor for name, tensor in content["model_state_dict"].items() if isinstance(tensor, Tensor)}
    fields, is_multimodal = registry["field_registries"], method == "setup_mudata"
    names = fields["X"]["state_registry"]["column_names"] if is_multimodal else content["var_names"]
    genes = tuple(map(str, names))
    return _Saved(kind, options, registry["setup_args"], fields, genes, weights, attributes, is_multimodal)


_FACTORS = "decoder.factor_regressor"
_NORMS = {(True, True): "both", (True, False): "encoder", (False, True): "decoder", (False, False): "none"}


def _options(saved: _Saved, known: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model, as this package knows them; what the weights tell is not taken from their names.

    One that is not written down has the value that networks without it have.
    """
    layout = _LAYOUTS[saved.kind]
    given = {**layout.options, **saved.options, "use_observed_lib_size": "library_log_means" not in saved.weights}
    if saved.kind == "TOTALVI":  # both came with the same version
        given["relative_counts"] = EFFICIENCY in saved.weights
    if saved.kind == "LinearSCVI":
        layer = "fc_layers.Layer 0."
        norms = [f"{part}.{layer}1.weight" in saved.weights for part in ("z_encoder.encoder", _FACTORS)]
        given["use_batch_norm"] = _NORMS[norms[0], norms[1]]
        given["bias"] = f"{_FACTORS}.{layer}0.bias" in saved.weights
    foreign = {name: value for name, value in given.items() if name not in known}
    for name, value in foreign.items():
        if name not in _AS_HERE or value not in _AS_HERE[name]:
            raise ValueError(f"it was made with {name}={value!r}, which scvi.{saved.kind} does not have")
    sizes_are_given = _size_factor(saved) is not None
    seen = given.get("encode_covariates") and not layout.size_sees_covariates
    if seen and not (given["use_observed_lib_size"] or sizes_are_given):
        raise ValueError(
            "it was made with encode_covariates=True and infers the library size from covariates as well, "
            f"which scvi.{saved.kind} does not"
        )
    if sizes_are_given:
        if "scale_activation" not in known:
            raise ValueError(
                f"it was set up with size_factor_key={_size_factor(saved)!r}, of which scvi.{saved.kind} makes "
                "something else"
            )
        given |= {"scale_activation": "softplus", "use_observed_lib_size": True}
    if given.get("var_activation", "") is None:
        given["var_activation"] = "exp"
    return {name: given.get(name, default) for name, default in known.items()}


# ---- what was declared -----------------------------------------------------------------------------------------------


def _schema(saved: _Saved) -> Schema:
    """The declaration; what scvi-tools did not write down of the cells is not known."""
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
    n_batch = 1 if batch_key is None else len(categories[batch_key])
    return Schema(
        layer=str(counts["attr_key"]) if counts.get("attr_name") == "layers" else None,
        batch_key=batch_key,
        labels_key=labels_key,
        categorical_covariate_keys=keys,
        continuous_covariate_keys=continuous,
        size_factor_key=_size_factor(saved),
        genes=saved.genes,
        categories=categories,
        library_prior=_library_prior(saved, n_batch),
        continuous_moments=((0.0, 1.0),) * len(continuous),  # their networks see covariates as they are
        unlabeled_category=None if unlabeled is None or labels_key is None else str(unlabeled),
        proteins=_proteins(saved, n_batch),
    )


def _column(saved: _Saved, field: str) -> str | None:
    """The column of ``adata.obs`` of categories; None where the package made one of its own."""
    key = saved.state(field).get("original_key")
    return None if key is None or str(key).startswith("_scvi_") else str(key)


def _size_factor(saved: _Saved) -> str | None:
    """The column of ``adata.obs`` with size factors, which are taken as they are; None without them."""
    key = saved.place("size_factor").get("attr_key")
    return None if key is None else str(key)


def _texts(values: Collection[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _proteins(saved: _Saved, n_batch: int) -> ProteinSchema | None:
    """Where the proteins are; all were measured where nothing says which were, batch by batch."""
    place, state = saved.place("proteins"), saved.state("proteins")
    if not place:
        return None
    names = _texts(state["column_names"])
    mask = {int(code): row for code, row in (state.get("protein_batch_mask") or {}).items()}
    measured = tuple(
        tuple(bool(flag) for flag in mask.get(code, np.ones(len(names), dtype=bool))) for code in range(n_batch)
    )
    if saved.is_multimodal:
        layer = str(place["attr_key"]) if place["attr_name"] == "layers" else None
        modalities = _modalities(saved)
        return ProteinSchema(obsm_key=OBSM_KEY, modalities=modalities, layer=layer, names=names, measured=measured)
    uns_key = saved.set_up.get("protein_names_uns_key")
    return ProteinSchema(obsm_key=str(place["attr_key"]), names_uns_key=uns_key, names=names, measured=measured)


def _modalities(saved: _Saved) -> dict[str, str]:
    """Modalities of the two counts by argument, and of columns of others than that of the RNA by name of the column.

    Columns without one are of the MuData itself, where they are looked for in any case.
    """
    rna = str(saved.place("X")["mod_key"])
    columns = {key: field for field in ("batch", "labels") if (key := _column(saved, field)) is not None}
    columns |= dict.fromkeys(_keys_of(saved, "extra_categorical_covs", "field_keys"), "extra_categorical_covs")
    columns |= dict.fromkeys(_keys_of(saved, "extra_continuous_covs", "columns"), "extra_continuous_covs")
    places = {key: saved.place(field).get("mod_key") for key, field in columns.items()}
    elsewhere = {key: str(place) for key, place in places.items() if place is not None and place != rna}
    return {"rna_layer": rna, "protein_layer": str(saved.place("proteins")["mod_key"]), **elsewhere}


def _keys_of(saved: _Saved, field: str, name: str) -> tuple[str, ...]:
    return _texts(saved.state(field).get(name, ()))


def _library_prior(saved: _Saved, n_batch: int) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the log library sizes by batch; those of a model that observes them play no part."""
    if "library_log_means" not in saved.weights:
        return ((0.0, 1.0),) * n_batch
    moments = (saved.weights[name].flatten().tolist() for name in ("library_log_means", "library_log_vars"))
    return tuple(zip(*moments, strict=True))


# ---- what was fitted -------------------------------------------------------------------------------------------------


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
