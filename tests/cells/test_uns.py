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
from small_cells import same_set_up


def set_up(adata: AnnData, name: str = "SCVI", **arguments: Any) -> Any:
    setup = declare(adata, **arguments)
    register(adata, name, setup)
    return setup.schema


def test_one_entry_for_each_class(adata: AnnData) -> None:
    first = set_up(adata, batch_key="batch")
    second = set_up(adata, "LinearSCVI", labels_key="cell_type")
    assert registered(adata, "SCVI").schema == first
    assert registered(adata, "LinearSCVI").schema == second
    third = set_up(adata)  # replaces
    assert registered(adata, "SCVI").schema == third
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
    "batches": lambda a: with_column(a, "batch", lambda values: np.roll(values, 1)),
    "one batch less": lambda a: with_column(a, "batch", lambda values: np.where(values == "a", "b", values)),
    "new batch": lambda a: with_column(a, "batch", lambda values: np.where(values == "a", "x", values)),
    "labels": lambda a: with_column(a, "cell_type", lambda values: 1 - values),
    "size factors": lambda a: with_column(a, "size", lambda values: values * 2),
    "covariate": lambda a: with_column(a, "age", lambda values: values + 1e-3),
    "category": lambda a: with_column(a, "treated", np.logical_not),
    "no column": lambda a: without_column(a, "donor"),
    "mask": lambda a: with_mask(a),
}


def renamed(adata: AnnData, which: str) -> AnnData:
    names = getattr(adata, which).to_numpy().copy()
    names[1] = "another"
    setattr(adata, which, names)
    return adata


def with_column(adata: AnnData, key: str, change: Callable[[np.ndarray], np.ndarray]) -> AnnData:
    adata.obs[key] = change(adata.obs[key].to_numpy())
    return adata


def without_column(adata: AnnData, key: str) -> AnnData:
    del adata.obs[key]
    return adata


def with_mask(adata: AnnData) -> AnnData:
    adata.var["chosen"] = ~adata.var["chosen"]
    return adata


def with_counts(adata: AnnData, X: Any) -> AnnData:
    adata.X = X
    return adata


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_adata_is_refused(adata: AnnData, keys: dict[str, Any], change: str) -> None:
    set_up(adata, mask_var="chosen", **keys)
    with pytest.raises(
        ValueError, match=r"adata has changed since .* SCVI: .*; call SCVI.setup_anndata\(adata, ...\) again"
    ):
        registered(CHANGES[change](adata), "SCVI")


def test_the_refusal_says_what_changed(adata: AnnData, keys: dict[str, Any]) -> None:
    set_up(adata, **keys)
    adata.obs["size"] *= 2
    with pytest.raises(ValueError, match=r"for SCVI: adata.obs\['size'\] \(what was read then is not what is there"):
        registered(adata, "SCVI")


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
    changed = SAME[change](adata)
    found = registered(changed, "SCVI")
    assert found.schema == schema
    assert np.array_equal(found.digests, declare(changed).digests)


def test_what_the_model_does_not_read_may_change(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    schema = set_up(adata, layer="counts", batch_key="batch")
    adata.X = np.log1p(adata.X)
    adata.obsm["X_scVI"] = np.zeros((adata.n_obs, 2))
    adata.obs["leiden"] = "1"
    adata.uns["more"] = {"a": 1}
    assert registered(adata, "SCVI").schema == schema


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_round_trip_through_a_file(
    make: Callable[..., AnnData], keys: dict[str, Any], tmp_path: Path, layout: Callable
) -> None:
    adata = make(layout)
    schema = set_up(adata, mask_var="chosen", **keys)
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert registered(anndata.read_h5ad(tmp_path / "x.h5ad"), "SCVI").schema == schema
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert registered(backed, "SCVI").schema == schema
    backed.file.close()


def test_a_view_becomes_actual_without_a_warning(adata: AnnData) -> None:
    view = adata[5:30, ::2]
    schema = set_up(view)
    assert not view.is_view
    assert registered(view, "SCVI").schema == schema
    assert not adata.uns


def test_backed(make: Callable[..., AnnData], tmp_path: Path) -> None:
    make(sp.csr_matrix).write_h5ad(tmp_path / "x.h5ad")
    written = (tmp_path / "x.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    schema = set_up(backed)
    assert registered(backed, "SCVI").schema == schema
    with pytest.raises(ValueError, match=r"open on disk, .* call adata.to_memory\(\) first"):
        set_up(backed[:10])
    backed.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == written


def test_entries_of_other_software(adata: AnnData) -> None:
    adata.uns["_scvi"] = {"data_registry": {"X": 1}, "SCVI": {"of": "another kind"}}
    with pytest.raises(ValueError, match=r"\['SCVI'\] cannot be read .* again"):
        registered(adata, "SCVI")
    schema = set_up(adata)
    assert registered(adata, "SCVI").schema == schema
    assert adata.uns["_scvi"]["data_registry"] == {"X": 1}
    adata.uns["_scvi"] = "text"
    with pytest.raises(ValueError, match="holds a str that scvi did not write; remove it"):
        set_up(adata)


@pytest.mark.parametrize(
    "entry",
    [
        *["", "{", "[]", "{}", '{"schema": {}, "fingerprint": "x"}', "null"],
        *[{}, {"declared": "{}"}, {"declared": '{"format": 3, "schema": {}, "fingerprint": {}}', "digests": [1]}],
    ],
)
def test_a_damaged_entry(adata: AnnData, entry: Any) -> None:
    adata.uns["_scvi"] = {"SCVI": entry}
    with pytest.raises(ValueError, match="cannot be read"):
        registered(adata, "SCVI")


def test_digests_of_fewer_cells_are_refused(adata: AnnData) -> None:
    set_up(adata)
    entry = adata.uns["_scvi"]["SCVI"]
    entry["digests"] = entry["digests"][:10]
    with pytest.raises(ValueError, match=rf"digests of 10 cells, for {adata.n_obs}; call SCVI.setup_anndata.* again"):
        registered(adata, "SCVI")


def test_copies_do_not_share_the_entry(adata: AnnData) -> None:
    set_up(adata)
    other = AnnData(adata.X, obs=adata.obs, var=adata.var, uns=dict(adata.uns))
    set_up(other, "LinearSCVI")
    assert set(adata.uns["_scvi"]) == {"SCVI"}


def old_entry(adata: AnnData, number: int) -> str:
    """What an earlier version wrote, as tests/golden has it."""
    declared = json.loads(adata.uns["_scvi"]["SCVI"]["declared"])
    declared |= {"format": number, "fingerprint": "of all counts"}
    if number == 1:
        assert (declared.pop("format"), declared["schema"].pop("proteins")) == (1, None)
        declared["schema"].pop("format")
    return json.dumps(declared)


@pytest.mark.parametrize("number", [1, 2])
def test_entries_of_earlier_formats_are_declarations(adata: AnnData, keys: dict[str, Any], number: int) -> None:
    """They are made anew of the cells as they are."""
    schema = set_up(adata, **keys)
    adata.uns["_scvi"] = {"SCVI": old_entry(adata, number)}
    assert registered(adata, "SCVI").schema == schema
    adata.obs["size"] *= 2
    adata.X = adata.X * 3
    assert same_set_up(registered(adata, "SCVI"), declare(adata, mask_var=schema.genes, **keys))


def test_entries_of_newer_versions_are_refused(adata: AnnData) -> None:
    set_up(adata)
    entry = adata.uns["_scvi"]["SCVI"]
    entry["declared"] = json.dumps({**json.loads(entry["declared"]), "format": 4})
    with pytest.raises(ValueError, match=r"the entry has format 4, .*: update scvi\); call SCVI.setup"):
        registered(adata, "SCVI")
