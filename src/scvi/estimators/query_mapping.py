"""From a fitted reference and cells of new batches to a model that knows both."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn

from scvi._checks import check_flag
from scvi._random import seeded
from scvi._warnings import warn
from scvi.cells.cell_data import CellData
from scvi.cells.missing_genes import as_mudata, become, with_genes
from scvi.cells.mudata import adata_in_order, as_anndata, is_multimodal
from scvi.cells.schema import Schema
from scvi.cells.setup import extended
from scvi.estimators import saving
from scvi.estimators.base import Estimator
from scvi.estimators.class_methods import making_a_model
from scvi.fit.devices import resolve_device
from scvi.models.freezing import Freeze, Scope, columns_of, scope_of, widen

logger = logging.getLogger(__name__)


@making_a_model
def load_query_data(
    cls: type[Estimator],
    adata: AnnData,
    reference_model: Estimator | str | os.PathLike[str],
    freeze_dropout: bool = False,
    unfrozen: bool = False,
    *,
    inplace_subset_query_vars: bool = False,
    freeze_expression: bool = True,
    freeze_decoder_first_layer: bool = True,
    freeze_batchnorm_encoder: bool = True,
    freeze_batchnorm_decoder: bool = True,
    freeze_classifier: bool = True,
    min_genes_found: float = 0.5,
    accelerator: str = "auto",
    device: str | int | Sequence[int] = "auto",
) -> Estimator:
    """A model that knows the cells of `adata` beside those of a fitted reference (Lotfollahi et al. 2022).

    Batches, and categories of categorical covariates, that are new get weights of their own; by default
    :meth:`train` fits these alone, to the cells of `adata`. Everything else stays as it is, bit for bit, and with
    it what the model says of cells of the reference. A new batch starts as the average of the old ones, so that
    the model answers questions before it is trained, too. Where nothing is new, :meth:`train` fits the weights of
    the batches and categories that `adata` has, and the answers about the reference's cells of these move as well.

    The reference is not changed, and neither is `adata`, but for `inplace_subset_query_vars`. The new model's ``adata``
    is the given one, or where genes or proteins are missing a copy as :meth:`prepare_query_anndata` makes it.

    Parameters
    ----------
    adata
        Raw counts, with the columns of ``obs`` (and the layer) that the reference reads; no set-up is needed. Genes
        and proteins may come in any order; further ones are ignored. Missing proteins, or all of them, are taken as
        not measured.
    reference_model
        A fitted model of this class, or the directory of a saved one.
    inplace_subset_query_vars
        Give `adata` itself exactly the reference's genes, in its order, as :meth:`prepare_query_anndata` does.
    freeze_dropout
        No dropout in training.
    unfrozen
        Train all weights, from where they are: the reference's answers change with them.
    freeze_expression, freeze_decoder_first_layer
        False trains the whole first layers of the encoders or the decoders, not their new columns alone.
    freeze_batchnorm_encoder, freeze_batchnorm_decoder
        False trains batch norm, whose moments then follow the query's.
    freeze_classifier
        False trains the classifier of a model that has one, from the labelled cells of the query.
    min_genes_found
        Share of the reference's genes that `adata` has to have. Missing ones are read as zeros.
    accelerator, device
        Where the model is to be, as of :meth:`load`; both 'auto': where the reference is.

    Raises
    ------
    ValueError, TypeError
        If the reference is not fitted or of another class; if too few genes are found; for labels that the
        reference does not know, where it reads them; for whatever else cannot be read.

    Warns
    -----
    UserWarning
        If genes or proteins are missing; if training will not move the query in the latent space, because the
        reference's encoder sees no batch (``encode_covariates=False``); if there is nothing to train.
    """
    freeze = Freeze(
        dropout=freeze_dropout,
        expression=freeze_expression,
        decoder_first_layer=freeze_decoder_first_layer,
        batchnorm_encoder=freeze_batchnorm_encoder,
        batchnorm_decoder=freeze_batchnorm_decoder,
        classifier=freeze_classifier,
        nothing=unfrozen,
    )
    reference = _reference(cls, reference_model)
    reference._require_trained()
    is_anywhere = (accelerator, device) == ("auto", "auto")
    place = reference.device if is_anywhere else resolve_device(accelerator, device)
    if check_flag("inplace_subset_query_vars", inplace_subset_query_vars):
        _become_prepared(adata, reference, min_genes_found)
    found = as_anndata(adata, reference.schema)
    whole = with_genes(found, reference.schema, min_genes_found)
    if whole is not found:
        adata = as_mudata(adata, whole, reference.schema.proteins) if is_multimodal(adata) else whole
        found = as_anndata(adata, reference.schema)
    options = reference.options
    schema, digests = extended(reference.schema, found, cls._reads_labels(options))
    cells = cls._make_cells((schema,), options, (adata,), [digests])
    with seeded(0):  # nothing random is left in it
        module = cls._make_networks((schema,), options).to(reference.device)
    columns = widen(reference.module, module)
    if schema.categories == reference.schema.categories:
        columns = _columns_of_query(cls, schema, options, module, cells[0].own("be mapped"))
    scope = scope_of(module, columns, freeze)
    _report(reference, schema, scope)
    model = cls._assembled(options, module, cells)
    model.is_trained, model._scope = True, scope
    model.to_device(place)
    return model


def prepare_query_anndata(
    cls: type[Estimator],
    adata: AnnData,
    reference_model: Estimator | str | os.PathLike[str],
    return_reference_var_names: bool = False,
    inplace: bool = True,
    *,
    min_genes_found: float = 0.5,
) -> AnnData | pd.Index | None:
    """Cells with exactly the genes of a reference, in its order; missing genes are zero, missing proteins NaN.

    :meth:`load_query_data` does it by itself. This is for looking at the result, and for writing or joining it.

    Parameters
    ----------
    adata
        Cells to map.
    reference_model
        A model of this class, or the directory of a saved one.
    return_reference_var_names
        Return the names of the reference's genes, and do nothing.
    inplace
        Change `adata` itself and return None; otherwise return a new AnnData and leave `adata` as it is.
    min_genes_found
        As in :meth:`load_query_data`, with the same errors and warnings.

    Returns
    -------
    A new AnnData with the cells' annotations, counts and layers; names of genes; or None
    """
    reference = _reference(cls, reference_model)
    if check_flag("return_reference_var_names", return_reference_var_names):
        return pd.Index(reference.schema.genes)
    if not inplace:
        read = adata_in_order(adata, as_anndata(adata, reference.schema))
        return with_genes(read, reference.schema, min_genes_found, no_others=True)
    if is_multimodal(adata):
        raise TypeError(
            f"a {type(adata).__name__} cannot become an AnnData in place: pass inplace=False, or call "
            "prepare_query_mudata"
        )
    _become_prepared(adata, reference, min_genes_found)
    return None


def prepare_query_mudata(
    cls: type[Estimator],
    mdata: Any,
    reference_model: Estimator | str | os.PathLike[str],
    return_reference_var_names: bool = False,
    inplace: bool = True,
    *,
    min_genes_found: float = 0.5,
) -> Any:
    """As :meth:`prepare_query_anndata` for a MuData: the modalities that the reference reads get exactly what it reads.

    Missing genes are zero, missing proteins NaN. Other modalities stay as they are; `raw`, `varm` and `varp` of the two
    are left out.

    Returns
    -------
    A new MuData, or None; or the names of the reference's genes and proteins, by name of the modality
    """
    if not is_multimodal(mdata):
        raise TypeError(f"mdata is a {type(mdata).__name__}; pass a MuData, or an AnnData to prepare_query_anndata")
    check_flag("inplace", inplace)
    reference = _reference(cls, reference_model)
    joined, proteins = as_anndata(mdata, reference.schema), reference.schema.proteins
    if check_flag("return_reference_var_names", return_reference_var_names):
        names = (reference.schema.genes, proteins.names)  # type: ignore[union-attr]  # there are some, or it is refused
        modalities = (proteins.modalities[name] for name in ("rna_layer", "protein_layer"))  # type: ignore[union-attr]
        return {modality: pd.Index(of_it) for modality, of_it in zip(modalities, names, strict=True)}
    if inplace:
        _become_prepared(mdata, reference, min_genes_found)
        return None
    whole = with_genes(joined, reference.schema, min_genes_found, no_others=True)
    return as_mudata(mdata, whole, proteins)


def _become_prepared(data: Any, reference: Estimator, min_genes_found: float) -> None:
    """Gives an AnnData or a MuData exactly the genes, and the proteins, of a reference."""
    schema = reference.schema
    whole = with_genes(as_anndata(data, schema), schema, min_genes_found, no_others=True)
    if is_multimodal(data):
        as_mudata(data, whole, schema.proteins, data)
    else:
        become(data, whole)


def _reference(cls: type[Estimator], reference_model: Estimator | str | os.PathLike[str]) -> Estimator:
    if isinstance(reference_model, (str, os.PathLike)):
        return saving.without_cells(cls, reference_model)
    if type(reference_model) is not cls:
        raise TypeError(
            f"reference_model is a {type(reference_model).__name__}; pass a {cls.__name__} model or the directory "
            "of a saved one"
        )
    return reference_model


def _columns_of_query(
    cls: type[Estimator], schema: Schema, options: Mapping[str, Any], module: nn.Module, data: CellData
) -> dict[str, Tensor]:
    """Masks of the columns of the batches, and categories of covariates, of cells without new ones."""
    keys = [(schema.batch_key, data.batch)]
    if data.categorical is not None:
        keys += list(zip(schema.categorical_covariate_keys, data.categorical.T, strict=True))
    fixed = schema.labels_key if cls._reads_labels(options) else None
    read = [(key, codes) for key, codes in keys if key is not None and key != fixed]
    known = schema.categories
    one_more = known | {key: (*known[key], max(known[key], key=len) + "'") for key, _ in read}
    wider = _of_more_batches(schema, one_more)
    with seeded(0):
        other = cls._make_networks((wider,), options)
    wanted = [torch.from_numpy(np.isin(np.arange(len(known[key])), codes)) for key, codes in read]
    return columns_of(widen(module, other), wanted)


def _of_more_batches(schema: Schema, categories: dict[str, tuple[str, ...]]) -> Schema:
    """The schema with these categories; what it says of a new batch is what it says of the last one."""
    proteins, batch = schema.proteins, schema.batch_key
    n_more = 0 if batch is None else len(categories[batch]) - schema.n_batch
    if proteins is not None:
        proteins = replace(proteins, measured=(*proteins.measured, *proteins.measured[-1:] * n_more))
    prior = (*schema.library_prior, *schema.library_prior[-1:] * n_more)
    return replace(schema, categories=categories, library_prior=prior, proteins=proteins)


def _report(reference: Estimator, new: Schema, scope: Scope) -> None:
    """Says what was added, and warns where training cannot move the query in the latent space."""
    old, seen = reference.schema, reference.options["encode_covariates"] and scope.reaches("embeddings")
    for key, names in new.categories.items():
        if len(names) > len(old.categories[key]):
            logger.info("New categories of %r: %s.", key, ", ".join(names[len(old.categories[key]) :]))
    if not scope.trained:
        warn(
            "the query has no batch and no category of a covariate that the reference does not know, so there is "
            "nothing to train; the model answers questions about it as it is"
        )
        return
    if new.categories == old.categories and any(mask.dim() for mask in scope.trained.values()):
        warn(
            "the query has no batch and no category of a covariate that the reference does not know: training fits the "
            "weights of those that it has, and with them what the model says of the reference's cells of the same "
            "batches; ask the model as it is where that is not wanted"
        )
    if not (seen or scope.reaches("encoder")):
        warn(
            "the reference was built with encode_covariates=False: its encoder sees no batch, so training leaves the "
            "latent representation of the query as it is now and fits the decoder's columns of the new categories only "
            "(normalised expression, likelihoods); build references with encode_covariates=True, or unfreeze more"
        )
