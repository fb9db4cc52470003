"""What bad input gets: a clear error before anything is trained or written. And what may look bad, but works."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scvi
from scvi.fit.fit import Fit
from small_cells import QUICK, TINY, G, N, make_adata

Change = Callable[[AnnData], AnnData | None]


@pytest.fixture(scope="module")
def fitted() -> scvi.SCVI:
    """A model that no test changes."""
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY)
    model.train(**QUICK)
    return model


def changed(change: Change | None) -> AnnData:
    adata = make_adata()
    new = None if change is None else change(adata)
    return adata if new is None else new


def count(value: float, cell: int = 100, gene: int = 7) -> Change:
    """One entry with this value."""

    def change(adata: AnnData) -> None:
        counts = adata.X.toarray()
        counts[cell, gene] = value
        adata.X = sparse.csr_matrix(counts)

    return change


def dense(change: Change) -> Change:
    def change_dense(adata: AnnData) -> None:
        change(adata)
        adata.X = adata.X.toarray()

    return change_dense


def column(key: str, values: Any, cells: Any = slice(None)) -> Change:
    def change(adata: AnnData) -> None:
        new = adata.obs[key].astype(object) if key in adata.obs else pd.Series(0, index=adata.obs_names, dtype=object)
        new.iloc[cells] = values
        adata.obs[key] = new if isinstance(new.iloc[0], str) else new.infer_objects()

    return change


def frequencies(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(adata.X / adata.X.sum(1))


def repeated_genes(adata: AnnData) -> None:
    adata.var_names = ["gene1", *adata.var_names[1:]]


def two_columns(adata: AnnData) -> AnnData:
    obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    adata.obs = obs
    return adata


def without_x(adata: AnnData) -> AnnData:
    return AnnData(None, obs=adata.obs, var=adata.var, layers={"spliced": adata.X})


def zeros(adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)


def text_counts(adata: AnnData) -> AnnData:
    # anndata itself only takes such a matrix as a layer
    adata.layers["text"] = np.full(adata.shape, "1")
    return adata


REFUSE = {"non_integer": "refuse"}
WRONG_SETUPS: dict[str, tuple[Change | None, dict[str, Any], str]] = {
    "NaN": (
        count(np.nan),
        {},
        r"adata\.X holds a non-finite value: nan in cell 'cell100', gene 'gene7'\. .* raw counts",
    ),
    "NaN, dense": (dense(count(np.nan)), {}, r"non-finite value: nan in cell 'cell100', gene 'gene7'"),
    "infinite": (count(np.inf), {}, r"non-finite value: inf in cell 'cell100'"),
    "negative": (count(-1), {}, r"negative value: -1\.0 in cell 'cell100', gene 'gene7'"),
    "negative, dense": (dense(count(-3)), {}, r"negative value: -3\.0"),
    "not an integer": (count(2.5), REFUSE, r"non-integer value: 2\.5 in cell 'cell100', gene 'gene7'"),
    "the first value": (count(0.5, 0, 0), REFUSE, r"non-integer value: 0\.5 in cell 'cell0', gene 'gene0'"),
    "the last value": (count(0.5, N - 1, G - 1), REFUSE, r"0\.5 in cell 'cell149', gene 'gene39'"),
    "normalised, counts in a layer": (frequencies, {}, r"non-integer.*pass layer='\.\.\.' \(there are 'counts'\)"),
    "a gene that is not read": (
        count(0.5, gene=7),
        {"mask_var": "chosen", **REFUSE},
        r"0\.5 in cell 'cell100', gene 'gene7'",
    ),
    "no rule for estimates": (
        None,
        {"non_integer": "floor"},
        "non_integer='floor' is not one of 'warn', 'refuse', 'ro",
    ),
    "text": (text_counts, {"layer": "text"}, r"holds <U1 values; pass counts as integers or floats"),
    "all zero": (zeros, {}, r"every count of adata\.X is zero"),
    "no X": (without_x, {}, r"adata\.X is None; pass layer='\.\.\.' \(there are 'spliced'\)"),
    "one cell": (lambda a: a[:1].copy(), {}, r"adata has 1 cells; a model is fitted to two or more"),
    "no cell": (lambda a: a[:0].copy(), {}, r"adata has 0 cells"),
    "one gene": (lambda a: a[:, :1].copy(), {}, r"1 of the 1 genes of adata would be read; a model reads two or more"),
    "one gene of many": (None, {"mask_var": ["gene3"]}, r"1 of the 40 genes of adata would be read"),
    "repeated genes": (repeated_genes, {}, r"1 names that occur more than once: 'gene1'.*var_names_make_unique"),
    "unknown layer": (None, {"layer": "counts"}, r"layer='counts' is not in adata\.layers; there are none"),
    "misspelt layer": (
        frequencies,
        {"layer": "count"},
        r"layer='count' is not in adata\.layers; did you mean 'counts'\?",
    ),
    "misspelt batch": (None, {"batch_key": "Batch"}, r"batch_key='Batch' is not a column.*did you mean 'batch'\?"),
    "misspelt labels": (None, {"labels_key": "celltype"}, r"labels_key='celltype'.*did you mean 'cell_type'\?"),
    "unknown key": (None, {"batch_key": "xyz"}, r"batch_key='xyz' is not a column of adata\.obs; there are 'batch', "),
    "misspelt size": (None, {"size_factor_key": "sizes"}, r"size_factor_key='sizes'.*did you mean 'size'\?"),
    "misspelt covariate": (
        None,
        {"categorical_covariate_keys": ["donor", "treatd"]},
        r"categorical_covariate_keys='treatd' is not a column.*did you mean 'treated'\?",
    ),
    "misspelt number": (
        None,
        {"continuous_covariate_keys": ["aeg"]},
        r"continuous_covariate_keys='aeg' is not a column.*did you mean 'age'\?",
    ),
    "a string for a list": (
        None,
        {"categorical_covariate_keys": "donor"},
        r"categorical_covariate_keys='donor' is a string; pass a list: \['donor'\]",
    ),
    "a covariate twice": (None, {"continuous_covariate_keys": ["age", "age"]}, r"names 'age' more than once"),
    "two columns of a name": (two_columns, {"batch_key": "batch"}, r"batch_key='batch': adata\.obs has 2 columns"),
    "NaN in the batch": (
        column("batch", np.nan, [4, 8]),
        {"batch_key": "batch"},
        r"batch_key: adata\.obs\['batch'\] is missing \(NaN\) in 2 cells: 'cell4', 'cell8'\. Drop these cells or give",
    ),
    "None in the labels": (column("cell_type", None, [4]), {"labels_key": "cell_type"}, r"labels_key: .*'cell4'"),
    "NaN in a covariate": (
        column("donor", np.nan, [5]),
        {"categorical_covariate_keys": ["donor"]},
        r"categorical_covariate_keys: adata\.obs\['donor'\] is missing \(NaN\) in 1 cells: 'cell5'",
    ),
    "NaN in a number": (
        column("age", np.nan, [6]),
        {"continuous_covariate_keys": ["age"]},
        r"continuous_covariate_keys: adata\.obs\['age'\] must be finite; it is nan in cell 'cell6'",
    ),
    "infinite number": (column("age", np.inf, [6]), {"continuous_covariate_keys": ["age"]}, r"finite; it is inf"),
    "words for numbers": (
        None,
        {"continuous_covariate_keys": ["cell_type"]},
        r"adata\.obs\['cell_type'\] holds object values, not numbers; .*categorical_covariate_keys",
    ),
    "size of zero": (column("size", 0.0, [7]), {"size_factor_key": "size"}, r"must be positive and finite; it is 0\.0"),
    "negative size": (column("size", -1.0, [7]), {"size_factor_key": "size"}, r"it is -1\.0 in cell 'cell7'"),
    "misspelt mask": (
        None,
        {"mask_var": "chosn"},
        r"mask_var='chosn' is not a column of adata\.var; did you mean 'chosen'\?",
    ),
    "unknown genes": (
        None,
        {"mask_var": ["gene1", "gene2", "gen3"]},
        r"mask_var names 1 genes that adata lacks: 'gen3'; did you mean 'gene3'\?",
    ),
    "a short mask": (None, {"mask_var": np.ones(7, dtype=bool)}, r"mask_var has shape \(7,\); .* each of 40 genes"),
    "a mask of nothing": (None, {"mask_var": np.zeros(G, dtype=bool)}, r"0 of the 40 genes of adata would be read"),
    "a gene twice": (None, {"mask_var": ["gene1", "gene2", "gene1"]}, r"mask_var names 'gene1' more than once"),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")  # anndata's own
@pytest.mark.parametrize("name", WRONG_SETUPS)
def test_refused_at_setup(name: str) -> None:
    change, setup, message = WRONG_SETUPS[name]
    adata = changed(change)
    before = adata.copy()
    with pytest.raises((ValueError, TypeError), match=message):
        scvi.SCVI.setup_anndata(adata, **setup)
    assert "_scvi" not in adata.uns
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    for now, then in ((adata.X, before.X), *((adata.layers[name], before.layers[name]) for name in before.layers)):
        if now is not None and now.dtype.kind == "f":
            np.testing.assert_array_equal(*(x.toarray() if sparse.issparse(x) else x for x in (now, then)))


@pytest.mark.parametrize("wrong", [None, "cells.h5ad", np.ones((3, 2)), pd.DataFrame({"a": [1, 2]})])
def test_other_types_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"adata is a \w+; pass an anndata\.AnnData"):
        scvi.SCVI.setup_anndata(wrong)


@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_bad_counts_on_disk_are_refused(layout: str, tmp_path: Path) -> None:
    adata = changed(count(2.5) if layout == "csr" else dense(count(2.5)))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"non-integer value: 2\.5 in cell 'cell100', gene 'gene7'"):
        scvi.SCVI.setup_anndata(backed, **REFUSE)
    assert "_scvi" not in backed.uns
    backed.file.close()
    assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_a_failed_setup_leaves_the_one_before() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    before = dict(adata.uns["_scvi"])
    with pytest.raises(ValueError, match="labels_key"):
        scvi.SCVI.setup_anndata(adata, labels_key="lables")
    assert dict(adata.uns["_scvi"]) == before
    assert scvi.SCVI(adata, **TINY).schema.batch_key == "batch"


# ---- options of a model ----------------------------------------------------------------------------------------------

WRONG_OPTIONS = [
    ("n_latent", 0),
    ("n_latent", -5),
    ("n_latent", 2.5),
    ("n_latent", "10"),
    ("n_latent", None),
    ("n_hidden", 0),
    ("n_layers", 0),
    ("dropout_rate", 1.0),
    ("dropout_rate", -0.1),
    ("dropout_rate", np.nan),
    ("dropout_rate", "0.1"),
    ("dispersion", "gene-bach"),
    ("dispersion", None),
    ("gene_likelihood", "gaussian"),
    ("gene_likelihood", ["zinb"]),
    ("latent_distribution", "gamma"),
    ("n_latent", True),
    ("n_layers", True),
    ("dropout_rate", True),
    ("use_observed_lib_size", "no"),
    ("use_observed_lib_size", None),
    ("encode_covariates", 3),
    ("seed", True),
    ("seed", -1),
    ("seed", 1.5),
    ("seed", "0"),
]


@pytest.mark.parametrize(("option", "value"), WRONG_OPTIONS)
def test_refused_options(option: str, value: Any) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    with pytest.raises(ValueError, match=rf"^{option}={re.escape(repr(value))}"):
        scvi.SCVI(adata, **{**TINY, option: value})


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("use_batch_norm", "one of True, False, 'encoder', 'decoder', 'none', 'both'"),
        ("use_layer_norm", "one of 'encoder', 'decoder', 'none', 'both'"),
        ("bias", "True or False"),
        ("encode_covariates", "True or False"),
        ("deeply_inject_covariates", "True or False"),
        ("log_variational", "True or False"),
    ],
)
def test_refused_options_of_a_linear_decoder(option: str, wanted: str) -> None:
    adata = make_adata()
    scvi.LinearSCVI.setup_anndata(adata)
    with pytest.raises(ValueError, match=rf"^{option}='yes' is not {wanted}"):
        scvi.LinearSCVI(adata, **TINY, **{option: "yes"})


@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.LinearSCVI])
def test_size_factors_leave_nothing_to_infer(cls: Any) -> None:
    adata = make_adata()
    cls.setup_anndata(adata, size_factor_key="size")
    with pytest.warns(UserWarning, match=r"use_observed_lib_size=False .* size_factor_key='size' gives them"):
        cls(adata, **TINY, use_observed_lib_size=False)
    cls(adata, **TINY)


@pytest.mark.parametrize("wrong", [None, "cells.h5ad", np.ones((3, 2))])
def test_a_model_of_another_type(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"adata is a \w+; pass an anndata\.AnnData"):
        scvi.SCVI(wrong)


@pytest.mark.parametrize("device", ["banana", None, True, -1, 99, 1.5, "meta", "cuda:99", torch.device("meta"), [0]])
def test_refused_devices(fitted: scvi.SCVI, device: Any) -> None:
    with pytest.raises(ValueError, match=rf"^device={re.escape(repr(device))} is not a device of this machine.* 'cpu'"):
        fitted.to_device(device)
    assert fitted.device == torch.device("cpu")


# ---- arguments of train ----------------------------------------------------------------------------------------------

WRONG_FITS: list[tuple[dict[str, Any], str]] = [
    ({"max_epochs": -1}, "max_epochs=-1 is not a positive integer"),
    ({"max_epochs": 0}, "max_epochs=0"),
    ({"max_epochs": 2.5}, r"max_epochs=2\.5"),
    ({"max_epochs": "10"}, "max_epochs='10'"),
    ({"train_size": 1.5}, r"train_size=1\.5 is not a share of the cells, a number above 0 and at most 1"),
    ({"train_size": 0}, "train_size=0 is not a share"),
    ({"train_size": -0.5}, r"train_size=-0\.5"),
    ({"train_size": np.nan}, "train_size=nan"),
    ({"train_size": "0.9"}, "train_size='0.9'"),
    ({"train_size": 0.005}, r"1 of 150 cells are left for training \(train_size=0\.005\).*validate on fewer"),
    ({"validation_size": 1.5}, r"validation_size=1\.5"),
    ({"validation_size": -0.1}, r"validation_size=-0\.1"),
    ({"train_size": 0.9, "validation_size": 0.2}, r"train_size=0\.9 and validation_size=0\.2 add up to more than 1"),
    ({"validation_indices": [N]}, rf"validation_indices holds {N}; there are {N} cells"),
    ({"validation_indices": [-1]}, "validation_indices holds -1"),
    ({"validation_indices": ["cell1"]}, "validation_indices must be a list of cell positions or a mask"),
    ({"validation_indices": [True]}, "the mask in validation_indices has 1 values for 150 cells"),
    (
        {"validation_indices": range(N)},
        r"0 of 150 cells are left for training \(the others are in validation_indices\)",
    ),
    ({"batch_size": 0}, "batch_size=0 is not an integer of at least 2"),
    ({"batch_size": 1}, "batch_size=1 is not an integer of at least 2"),
    ({"batch_size": -64}, "batch_size=-64"),
    ({"batch_size": 12.5}, r"batch_size=12\.5"),
    ({"lr": 0}, "lr=0 is not a positive number"),
    ({"lr": -1e-3}, r"lr=-0\.001"),
    ({"lr": np.nan}, "lr=nan"),
    ({"lr": np.inf}, "lr=inf"),
    ({"lr": "fast"}, "lr='fast'"),
    ({"lr_schedule": "cosine"}, "lr_schedule='cosine' is not one of 'one-cycle', 'constant', 'plateau'"),
    ({"precision": "bf17"}, "precision='bf17' is not one of 'float32', 'bf16', 'auto'"),
    ({"weight_decay": -1}, "weight_decay=-1"),
    ({"gradient_clip": 0}, "gradient_clip=0 is not a positive number"),
    ({"kl_warmup": 1.5}, r"kl_warmup=1\.5 is not a share of the planned steps"),
    ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch=0"),
    ({"early_stopping": "yes"}, "early_stopping='yes' is not True or False"),
    ({"early_stopping_patience": 0}, "early_stopping_patience=0"),
    ({"early_stopping_min_delta": -1}, "early_stopping_min_delta=-1"),
    ({"early_stopping_monitor": "loss"}, "early_stopping_monitor='loss' is not one of 'elbo_validation'"),
    ({"early_stopping": True, "train_size": 1.0}, "of which there are none: lower train_size"),
    ({"plan_kwargs": {"learning_rate": 1}}, r"unknown keys \['learning_rate'\]; known are lr, "),
    ({"plan_kwargs": {"lr": -1}}, "lr=-1"),
    ({"plan_kwargs": {"n_epochs_kl_warmup": -3}}, r"plan_kwargs\['n_epochs_kl_warmup'\]=-3"),
    ({"plan_kwargs": 3}, "plan_kwargs=3 is not a dictionary"),
    ({"accelerator": "tpu"}, "accelerator='tpu' is not one of 'auto', 'cpu', 'gpu'"),
    ({"accelerator": "mps"}, "accelerator='mps' is not available on this machine; use accelerator='cpu'"),
    ({"devices": "banana"}, "devices='banana': a model is fitted on one device"),
    ({"accelerator": "cpu", "devices": 7}, "devices=7: a model is fitted on one device"),
    ({"accelerator": "cpu", "devices": [0, 1]}, r"devices=\[0, 1\]: a model is fitted on one device"),
    ({"accelerator": "cpu", "devices": [99]}, r"devices=\[99\] is not there: this machine has 1 of 'cpu'"),
    ({"accelerator": "cpu", "devices": True}, "devices=True"),
    ({"plan_kwargs": {3: 1, "b": 2}}, r"unknown keys \[3, 'b'\]; known are lr, "),
    ({"plan_kwargs": {"classification_ratio": 50}}, "'classification_ratio', which belongs to models with a classif"),
    ({"checkpoint_dir": __file__}, "checkpoint_dir='.*' cannot be made"),
    ({"checkpoint_dir": Path(__file__) / "checkpoint"}, "checkpoint_dir='.*' cannot be made"),
    ({"seed": -3}, "seed=-3 is not an integer from 0"),
    ({"seed": 2**32}, "seed=4294967296"),
    ({"resume": True}, "resume=True needs checkpoint_dir"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_FITS, ids=[str(arguments) for arguments, _ in WRONG_FITS])
def test_refused_before_training(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments.get("accelerator") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")

    def no_training(self: Fit, *arguments: Any) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr(Fit, "run", no_training)
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    folder = {} if "resume" in arguments else {"checkpoint_dir": tmp_path / "checkpoint"}
    with pytest.raises((ValueError, IndexError), match=message):
        model.train(**{**QUICK, **folder, **arguments})
    assert not model.is_trained
    assert model.history == {}
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert not (tmp_path / "checkpoint").exists()


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    for name in ("gpu", "cuda"):
        with pytest.raises(ValueError, match=rf"accelerator='{name}' is not available on this machine"):
            scvi.SCVI(adata, **TINY).train(**QUICK, accelerator=name)


# ---- questions (all of them are asked wrongly in estimators/test_common.py) ------------------------------------------


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_genes_at_query_time(fitted: scvi.SCVI) -> None:
    with pytest.raises(ValueError, match=r"1 names that occur more than once: 'gene1'"):
        fitted.get_latent_representation(changed(repeated_genes))


def test_a_missing_column_at_query_time(fitted: scvi.SCVI) -> None:
    other = make_adata(20)
    other.obs = other.obs.rename(columns={"batch": "batches"})
    with pytest.raises(ValueError, match=r"batch_key='batch' is not a column.*did you mean 'batches'\?"):
        fitted.get_latent_representation(other)


def test_a_missing_category_at_query_time(fitted: scvi.SCVI) -> None:
    with pytest.raises(ValueError, match=r"batch_key: adata\.obs\['batch'\] is missing \(NaN\) in 1 cells: 'cell2'"):
        fitted.get_elbo(changed(column("batch", np.nan, [2])))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_bad_counts_at_query_time(fitted: scvi.SCVI, value: float) -> None:
    with pytest.raises(ValueError, match=r"in cell 'cell100', gene 'gene7'\. The model needs raw counts"):
        fitted.get_normalized_expression(changed(count(value)))


@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_one_count_that_is_no_integer_is_named(fitted: scvi.SCVI, layout: str) -> None:
    """It may be an estimate, so that it is not refused: at set-up, and in other cells."""
    adata = changed(count(2.5) if layout == "csr" else dense(count(2.5)))
    named = r"adata\.X holds .* no integers: 1 of [\d,]+ .*, as 2\.5 in cell 'cell100', gene 'gene7'"
    with pytest.warns(UserWarning, match=named):
        scvi.SCVI.setup_anndata(adata)
    with pytest.warns(UserWarning, match=named):
        fitted.get_normalized_expression(adata)


# ---- what works ------------------------------------------------------------------------------------------------------


def works(
    adata: AnnData, setup: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **arguments: Any
) -> Any:
    """Fits a model without any warning and asks it everything; answers are finite."""
    scvi.SCVI.setup_anndata(adata, **(setup or {}))
    model = scvi.SCVI(adata, **{**TINY, **(options or {})})
    model.train(**{**QUICK, **arguments})
    finite(model)
    return model


def finite(model: scvi.SCVI) -> None:
    answers = [
        model.get_latent_representation(),
        model.get_latent_library_size(),
        model.get_normalized_expression(),
        model.get_normalized_expression(library_size="latent"),
        *model.get_likelihood_parameters().values(),
        model.get_elbo(return_mean=False),
        *model.get_reconstruction_error(return_mean=False).values(),
        model.get_marginal_ll(n_mc_samples=3, return_mean=False),
    ]
    assert all(np.isfinite(np.asarray(answer)).all() for answer in answers)
    assert all(np.isfinite(table).all(axis=None) for table in model.history.values())


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_fewer_cells_than_a_minibatch(n: int) -> None:
    model = works(make_adata(n), train_size=1.0, batch_size=64)
    assert len(model.train_indices) == n


@pytest.mark.parametrize("n", range(32, 49))
def test_every_number_of_cells_modulo_the_minibatch(n: int) -> None:
    model = works(make_adata(n), train_size=1.0, batch_size=16)
    assert model.get_latent_representation(batch_size=16).shape == (n, 3)


@pytest.mark.parametrize("train_size", [0.999, 0.5, 0.02])
def test_few_cells_on_either_side(train_size: float) -> None:
    works(make_adata(), train_size=np.float32(train_size))


def test_every_kind_of_split() -> None:
    model = works(make_adata(), train_size=0.5, validation_size=0.2)
    assert (len(model.train_indices), len(model.validation_indices)) == (75, 30)
    assert not set(model.train_indices) & set(model.validation_indices)
    model = works(make_adata(), validation_indices=[140, 3, 77])
    assert model.validation_indices.tolist() == [140, 3, 77]
    assert sorted({*model.train_indices, 140, 3, 77}) == list(range(N))
    mask = np.arange(N) >= 100
    assert works(make_adata(), validation_indices=mask).validation_indices.tolist() == list(range(100, 150))
    for arguments in ({"train_size": 1.0}, {"validation_size": 0}, {"validation_indices": []}):
        model = works(make_adata(), **arguments)
        assert len(model.validation_indices) == 0
        assert not [name for name in model.history if "validation" in name]


@pytest.mark.parametrize(
    "options", [{}, {"use_observed_lib_size": False}, {"gene_likelihood": "nb"}, {"gene_likelihood": "poisson"}]
)
def test_empty_cells_are_kept_with_one_warning(options: dict[str, Any]) -> None:
    adata = make_adata()
    counts = adata.X.toarray()
    counts[[3, 50, 149]] = 0
    adata.X = sparse.csr_matrix(counts)
    with pytest.warns(UserWarning, match=r"3 of 150 cells have no count.*\('cell3', 'cell50', 'cell149'\)") as caught:
        works(adata, {"batch_key": "batch"}, options)
    assert len(caught) == 1


def test_empty_genes() -> None:
    adata = make_adata()
    counts = adata.X.toarray()
    counts[:, [2, 39]] = 0
    adata.X = sparse.csr_matrix(counts)
    model = works(adata)
    assert (model.get_normalized_expression()[["gene2", "gene39"]].mean() < 1e-3).all()


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_counts_up_to_a_million(likelihood: str) -> None:
    adata = make_adata()
    counts = adata.X.toarray()
    counts[::7, 3] = 1e6
    counts[5] = 1e6
    adata.X = counts
    works(adata, options={"gene_likelihood": likelihood}, max_epochs=10)


def test_two_cells_and_two_genes() -> None:
    counts = np.array([[1.0, 0.0], [3.0, 2.0]], dtype=np.float32)
    obs, var = pd.DataFrame(index=["a", "b"]), pd.DataFrame(index=["x", "y"])
    works(AnnData(counts, obs=obs, var=var), train_size=1.0)


def test_the_same_counts_everywhere() -> None:
    adata = make_adata()
    adata.X = np.ones(adata.shape, dtype=np.int64)
    works(adata, {"batch_key": "batch"}, {"use_observed_lib_size": False})


def test_a_batch_and_a_label_of_one_cell() -> None:
    adata = make_adata()
    adata.obs["batch"] = ["lonely", *["crowd"] * (N - 1)]
    adata.obs["cell_type"] = [*["common"] * (N - 1), "rare"]
    keys = {"batch_key": "batch", "labels_key": "cell_type"}
    works(adata, keys, {"dispersion": "gene-batch", "use_observed_lib_size": False})
    works(adata, keys, {"dispersion": "gene-label"})


def test_names_of_every_kind() -> None:
    adata = make_adata()
    adata.var_names = [f"Größe {i}/\"'[]\n" for i in range(G)]
    adata.obs_names = [f"細胞 {i}" for i in range(N)]
    adata.obs["batch"] = np.array(["a/b", "", "ü "])[np.arange(N) % 3]
    model = works(adata, {"batch_key": "batch"})
    assert model.get_normalized_expression(gene_list=[adata.var_names[3]], transform_batch="").shape == (N, 1)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_of_the_same_name() -> None:
    adata = make_adata()
    adata.obs_names = ["cell"] * N
    works(adata)


def test_one_number_of_cells_one_model_whatever_the_thread_count() -> None:
    adata = make_adata()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first = works(adata)
        again = works(adata)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(first.get_latent_representation(), again.get_latent_representation())


def test_counts_are_never_dense() -> None:
    """A matrix of 300 MB, were it dense, of which 0.3 % are counts."""
    rng = np.random.default_rng(0)
    n, g, per_cell = 15_000, 5_000, 15
    columns = rng.integers(g, size=n * per_cell)
    counts = sparse.csr_matrix(
        (np.ones(n * per_cell, np.float32), (np.arange(n).repeat(per_cell), columns)), shape=(n, g)
    )
    adata = AnnData(counts)
    tracemalloc.start()
    try:
        scvi.SCVI.setup_anndata(adata)
        model = scvi.SCVI(adata, **TINY)
        model.train(max_epochs=1, batch_size=256, enable_progress_bar=False, seed=0)
        model.get_latent_representation()
        model.get_elbo()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("gene", [-1, 40])
def test_a_matrix_that_names_genes_which_are_not_there_is_refused(cells: AnnData, gene: int) -> None:
    cells.X.indices[5] = gene
    with pytest.raises(ValueError, match=rf"adata.X is damaged: it has counts of gene number {gene}.*from 0 to 39"):
        scvi.SCVI.setup_anndata(cells)
