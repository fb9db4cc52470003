from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset import declare, register, registered


def set_up(adata: AnnData, name: str = "SCVI", **arguments: Any) -> Any:
    schema, mark = declare(adata, **arguments)
    register(adata, name, schema, mark)
    return schema


def test_one_entry_for_each_class(adata: AnnData) -> None:
    first = set_up(adata, batch_key="batch")
    second = set_up(adata, "LinearSCVI", labels_key="cell_type")
    assert registered(adata, "SCVI") == first
    assert registered(adata, "LinearSCVI") == second
    third = set_up(adata)  # replaces
    assert registered(adata, "SCVI") == third
    assert set(adata.uns) == {"_scvi"}
    assert set(adata.uns["_scvi"]) == {"SCVI", "LinearSCVI"}


def test_nothing_else_is_changed(make: Callable[..., AnnData], keys: dict[str, Any]) -> None:
    for layout in (np.asarray, sp.csr_matrix, sp.csc_matrix):
        adata, before = make(layout), make(layout)
        X = adata.X
        set_up(adata, mask_var="chosen", **keys)
        assert adata.X is X
        del adata.uns["_scvi"]
        assert adata.obs.equals(before.obs)
        assert adata.var.equals(before.var)
        assert (adata.X != before.X).sum() == 0
        assert not adata.uns
        assert not adata.layers
        assert not adata.obsm


def test_no_set_up(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"adata was not set up for SCVI; call SCVI.setup_anndata\(adata, ...\) first"):
        registered(adata, "SCVI")
    set_up(adata, "LinearSCVI")
    with pytest.raises(ValueError, match=r"not set up for SCVI \(it was for 'LinearSCVI'\); call SCVI"):
        registered(adata, "SCVI")


CHANGES: dict[str, Callable[[AnnData], AnnData]] = {
    "fewer cells": lambda a: a[:-1].copy(),
    "other order of cells": lambda a: a[::-1].copy(),
    "fewer genes": lambda a: a[:, :-1].copy(),
    "other order of genes": lambda a: a[:, ::-1].copy(),
    "view": lambda a: a[3:9],
    "renamed cell": lambda a: renamed(a, "obs_names"),
    "renamed gene": lambda a: renamed(a, "var_names"),
    "one count": lambda a: with_counts(a, np.asarray(a.X) + np.eye(*a.shape)),
    "log": lambda a: with_counts(a, np.log1p(np.asarray(a.X))),
    "nan": lambda a: with_counts(a, np.where(np.eye(*a.shape) > 0, np.nan, np.asarray(a.X))),
}


def renamed(adata: AnnData, which: str) -> AnnData:
    names = getattr(adata, which).to_numpy().copy()
    names[1] = "another"
    setattr(adata, which, names)
    return adata


def with_counts(adata: AnnData, X: Any) -> AnnData:
    adata.X = X
    return adata


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_adata_is_refused(adata: AnnData, change: str) -> None:
    set_up(adata)
    with pytest.raises(
        ValueError, match=r"adata has changed since .* SCVI: .*; call SCVI.setup_anndata\(adata, ...\) again"
    ):
        registered(CHANGES[change](adata), "SCVI")


SAME: dict[str, Callable[[AnnData], AnnData]] = {
    "copy": lambda a: a.copy(),
    "view of all": lambda a: a[:],
    "csr": lambda a: with_counts(a, sp.csr_matrix(a.X)),
    "csc": lambda a: with_counts(a, sp.csc_matrix(a.X)),
    "int": lambda a: with_counts(a, np.asarray(a.X).astype(np.int64)),
}


@pytest.mark.parametrize("change", SAME)
def test_storing_the_same_counts_otherwise_is_no_change(adata: AnnData, change: str) -> None:
    schema = set_up(adata)
    assert registered(SAME[change](adata), "SCVI") == schema


def test_what_the_model_does_not_read_may_change(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    schema = set_up(adata, layer="counts", batch_key="batch")
    adata.X = np.log1p(adata.X)
    adata.obsm["X_scVI"] = np.zeros((adata.n_obs, 2))
    adata.obs["leiden"] = "1"
    adata.uns["more"] = {"a": 1}
    assert registered(adata, "SCVI") == schema


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_round_trip_through_a_file(
    make: Callable[..., AnnData], keys: dict[str, Any], tmp_path: Path, layout: Callable
) -> None:
    adata = make(layout)
    schema = set_up(adata, mask_var="chosen", **keys)
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert registered(anndata.read_h5ad(tmp_path / "x.h5ad"), "SCVI") == schema
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert registered(backed, "SCVI") == schema
    backed.file.close()


def test_a_view_becomes_actual_without_a_warning(adata: AnnData) -> None:
    view = adata[5:30, ::2]
    schema = set_up(view)
    assert not view.is_view
    assert registered(view, "SCVI") == schema
    assert not adata.uns


def test_backed(make: Callable[..., AnnData], tmp_path: Path) -> None:
    make(sp.csr_matrix).write_h5ad(tmp_path / "x.h5ad")
    written = (tmp_path / "x.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    schema = set_up(backed)
    assert registered(backed, "SCVI") == schema
    with pytest.raises(ValueError, match=r"open on disk, .* call adata.to_memory\(\) first"):
        set_up(backed[:10])
    backed.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == written


def test_entries_of_other_software(adata: AnnData) -> None:
    adata.uns["_scvi"] = {"data_registry": {"X": 1}, "SCVI": {"of": "another kind"}}
    with pytest.raises(ValueError, match=r"\['SCVI'\] cannot be read .* again"):
        registered(adata, "SCVI")
    schema = set_up(adata)
    assert registered(adata, "SCVI") == schema
    assert adata.uns["_scvi"]["data_registry"] == {"X": 1}
    adata.uns["_scvi"] = "text"
    with pytest.raises(ValueError, match="holds a str that scvi did not write; remove it"):
        set_up(adata)


@pytest.mark.parametrize("entry", ["", "{", "[]", "{}", '{"schema": {}, "fingerprint": "x"}', "null"])
def test_a_damaged_entry(adata: AnnData, entry: str) -> None:
    adata.uns["_scvi"] = {"SCVI": entry}
    with pytest.raises(ValueError, match="cannot be read"):
        registered(adata, "SCVI")


def test_copies_do_not_share_the_entry(adata: AnnData) -> None:
    set_up(adata)
    other = AnnData(adata.X, obs=adata.obs, var=adata.var, uns=dict(adata.uns))
    set_up(other, "LinearSCVI")
    assert set(adata.uns["_scvi"]) == {"SCVI"}


def test_entries_of_the_first_format_are_read(adata: AnnData, keys: dict[str, Any]) -> None:
    schema = set_up(adata, **keys)
    entry = json.loads(adata.uns["_scvi"]["SCVI"])
    assert (entry.pop("format"), entry["schema"].pop("format"), entry["schema"].pop("proteins")) == (2, 3, None)
    adata.uns["_scvi"] = {"SCVI": json.dumps(entry)}  # as tests/golden has it
    assert registered(adata, "SCVI") == schema


def test_entries_of_newer_versions_are_refused(adata: AnnData) -> None:
    set_up(adata)
    entry = json.loads(adata.uns["_scvi"]["SCVI"])
    adata.uns["_scvi"] = {"SCVI": json.dumps({**entry, "format": 3})}
    with pytest.raises(ValueError, match=r"the entry has format 3, .*: update scvi\); call SCVI.setup"):
        registered(adata, "SCVI")
