"""Cells, genes and batches that are given as Series: cells by the names of their index, names as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scvi
from asking import ESTIMATORS, ask, cells_of, equal, is_paired, make, parameters, questions, same, weights
from scvi.estimators.base import Estimator
from small_cells import QUICK, G, N, make_adata

FIT = {**QUICK, "max_epochs": 1}


def trained(cls: type[Estimator]) -> Any:
    model = make(cls)
    model.train(**FIT)
    return model


def shuffled(values: Any, names: pd.Index) -> pd.Series:
    """A Series with a value for each name, in another order."""
    return pd.Series(values, index=names).sample(frac=1.0, random_state=1)


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if not is_paired(cls)], ids=lambda cls: cls.__name__)
def test_a_mask_of_cells_in_every_question(cls: type[Estimator]) -> None:
    model, other = trained(cls), make_adata()[::-1].copy()
    mask = np.arange(N) % 9 == 4
    for question in questions(cls, by_cell=True):
        if "indices" not in parameters(model, question):
            continue
        for adata, names in ((None, model.adata.obs_names), (other, other.obs_names)):
            given = {"adata": adata, "batch_size": 5}
            expected = ask(model, question, indices=np.flatnonzero(mask), **given)
            assert equal(ask(model, question, indices=shuffled(mask, names), **given), expected)
            assert equal(ask(model, question, indices=shuffled(mask, names).astype("boolean"), **given), expected)
        with pytest.raises(
            ValueError, match="indices is a Series of True and False whose index is not that of the cells"
        ):
            ask(model, question, indices=pd.Series(mask))
        with pytest.raises(ValueError, match="indices is a mask that is neither True nor False"):
            ask(model, question, indices=shuffled(mask, names).where(lambda values: values))


@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.GIMVI], ids=lambda cls: cls.__name__)
def test_a_mask_of_validation_cells(cls: type[Estimator]) -> None:
    masks = [np.arange(adata.n_obs) % 10 == 7 for adata in cells_of(make(cls))]

    def fit(given: list[Any]) -> Any:
        model = make(cls)
        model.train(**FIT, validation_indices=given if is_paired(cls) else given[0])
        return model

    names = [adata.obs_names for adata in cells_of(make(cls))]
    expected = fit([np.flatnonzero(mask) for mask in masks])
    model = fit([shuffled(mask, index) for mask, index in zip(masks, names, strict=True)])
    assert same(weights(model), weights(expected))
    model = make(cls)
    before = weights(model)
    wrong: list[Any] = [pd.Series(mask) for mask in masks]
    named = r"validation_indices\[0\]" if is_paired(cls) else "validation_indices"
    with pytest.raises(ValueError, match=rf"{named} is a Series .* pass {named}\.to_numpy\(\)"):
        model.train(**FIT, validation_indices=wrong if is_paired(cls) else wrong[0])
    assert same(weights(model), before)


def test_names_of_genes_and_proteins() -> None:
    """The order is that of the values, whatever the index."""
    model = trained(scvi.TOTALVI)
    genes, proteins = ["gene7", "gene3"], ["protein2", "protein0"]
    expected = model.get_normalized_expression(gene_list=genes, protein_list=proteins, seed=0)
    index = ["gene3", "gene7"]
    for kind in (
        pd.Index,
        np.array,
        lambda names: pd.Series(names, index=index),
        lambda names: pd.array(names, "string"),
    ):
        answer = model.get_normalized_expression(gene_list=kind(genes), protein_list=kind(proteins), seed=0)
        for found, table in zip(answer, expected, strict=True):
            pd.testing.assert_frame_equal(found, table)
    mask = pd.Series(np.arange(G) < 3, index=model.adata.var_names)
    for wrong in (mask, mask.to_numpy(), mask.tolist()):
        with pytest.raises(
            ValueError, match=r"gene_list has True, which is not a gene; pass the names .*: names\[mask\]"
        ):
            model.get_normalized_expression(gene_list=wrong)
    with pytest.raises(ValueError, match=r"protein_list has True, .*: names\[mask\]"):
        model.get_normalized_expression(protein_list=[True, False])


def test_a_column_of_batches_is_no_list_of_them() -> None:
    model = trained(scvi.SCVI)
    batches = pd.Series(["b2", "b0"], index=["x", "y"])
    expected = model.get_normalized_expression(transform_batch=["b2", "b0"], seed=0)
    pd.testing.assert_frame_equal(model.get_normalized_expression(transform_batch=batches, seed=0), expected)
    column = model.adata.obs["batch"]
    message = f"transform_batch has {N} entries and the model 3 batches: .* None decodes each cell in its own batch"
    for wrong in (column, column.array, column.tolist()):
        with pytest.raises(ValueError, match=message):
            model.get_normalized_expression(transform_batch=wrong)
