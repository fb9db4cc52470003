"""What is written: as anndata writes it, without a change to the object, and tried before the long work."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

import scvi
from columns import REFUSED, WRITTEN
from scvi._writing import writable, write_h5ad
from scvi.estimators import files
from small_cells import QUICK, TINY, make_adata

OPTIONS = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ALL = sorted(WRITTEN)
SOME = st.lists(st.sampled_from(ALL), max_size=15, unique=True)


def table(names: list[str], n: int, index: Any) -> pd.DataFrame:
    return pd.DataFrame({name: WRITTEN[name](n) for name in names}, index=index)


def full(obs: list[str], var: list[str], seed: int = 0) -> AnnData:
    """Cells with such columns in every table that has text as categories in a file, and more beside them."""
    adata = make_adata(12, 8, seed=seed)
    adata.obs = adata.obs.join(table(obs, 12, adata.obs_names))
    adata.raw = AnnData(adata.X, obs=adata.obs[[]], var=table(var, 8, adata.var_names))
    adata.var = adata.var.join(table(var, 8, adata.var_names))
    adata.obs_names.name = "barcode"
    adata.obsm["table"] = table(
        [name for name in obs if name in ("bool", "Int64 with NA", "float32")], 12, adata.obs_names
    )
    adata.varm["more"], adata.obsp["near"] = np.ones((8, 2)), sparse.csr_matrix(np.eye(12))
    adata.layers["spliced"] = adata.X.toarray()
    adata.uns |= {
        "colours": np.array(["red", "blue"]),
        "nested": {"list": [1, 2], "none": None, "text": "x", "flag": True},
    }
    adata.uns["frame"] = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    return adata


def same(first: AnnData, second: AnnData) -> None:
    for part in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(first, part), getattr(second, part))
    pd.testing.assert_frame_equal(first.raw.var, second.raw.var)
    pd.testing.assert_frame_equal(first.uns.pop("frame"), second.uns.pop("frame"))
    pd.testing.assert_frame_equal(first.obsm["table"], second.obsm["table"])
    assert repr(first.uns) == repr(second.uns)
    assert (first.X != second.X).nnz == (first.raw.X != second.raw.X).nnz == 0
    assert np.array_equal(first.layers["spliced"], second.layers["spliced"])
    assert (first.obsp["near"] != second.obsp["near"]).nnz == 0
    assert np.array_equal(first.varm["more"], second.varm["more"])


def model_of(adata: AnnData) -> scvi.SCVI:
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    return scvi.SCVI(adata, **TINY)


@OPTIONS
@given(obs=SOME, var=SOME)
@example(obs=ALL, var=ALL)
def test_what_anndata_writes_is_saved_and_comes_back_the_same(
    obs: list[str], var: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("f")
    adata = full(obs, var)
    model = model_of(adata)
    adata.copy().write_h5ad(folder / "plain.h5ad")
    before = [adata.obs.copy(), adata.var.copy(), adata.raw.var.copy()]
    model.save(folder / "model", save_anndata=True)
    for old, new in zip(before, [adata.obs, adata.var, adata.raw.var], strict=True):
        pd.testing.assert_frame_equal(old, new)
    same(anndata.read_h5ad(folder / "plain.h5ad"), scvi.SCVI.load(folder / "model").adata)


def layout(path: Path) -> dict[str, Any]:
    """Names, types and attributes of all that is in a file."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        found["/"] = sorted(file.attrs.items())
        file.visititems(lambda name, item: found.update({name: (sorted(item.attrs), getattr(item, "dtype", None))}))
    return found


@pytest.mark.parametrize("chosen", [slice(None), slice(None, None, 2)])
@pytest.mark.parametrize("counts", ["X", "none"])
def test_the_file_is_laid_out_as_by_anndata(chosen: slice, counts: str, tmp_path: Path) -> None:
    adata = full(ALL, ALL)
    if counts == "none":
        adata.X = None
    part = adata[chosen, chosen]
    write_h5ad(tmp_path / "ours.h5ad", writable(part, "adata"), compression="gzip")
    assert part.is_view
    part.copy().write_h5ad(tmp_path / "plain.h5ad", compression="gzip")
    assert layout(tmp_path / "ours.h5ad") == layout(tmp_path / "plain.h5ad")
    assert (tmp_path / "ours.h5ad").stat().st_size <= 1.1 * (tmp_path / "plain.h5ad").stat().st_size


def test_columns_that_only_anndata_and_not_its_writer_is_content_with(tmp_path: Path) -> None:
    """Names of the type "string" and text of it without repeats: a file has them as text."""
    adata = make_adata(12, 8)
    adata.obs["string"] = pd.array([f"row {i}" for i in range(12)], dtype="string")
    adata.var.index = adata.var.index.astype("string")
    with pytest.raises(RuntimeError, match="allow_write_nullable_strings"):
        adata.copy().write_h5ad(tmp_path / "plain.h5ad")
    model_of(adata).save(tmp_path / "model", save_anndata=True)
    loaded = scvi.SCVI.load(tmp_path / "model").adata
    assert loaded.obs["string"].tolist() == adata.obs["string"].tolist()
    assert loaded.var_names.tolist() == adata.var_names.tolist()
    with anndata.settings.override(allow_write_nullable_strings=True):
        model_of(make_adata(12, 8))
        model = model_of(adata)
        model.save(tmp_path / "model", save_anndata=True, overwrite=True)
    assert scvi.SCVI.load(tmp_path / "model").adata.obs["string"].dtype == "string"


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("kind", ["view", "backed", "repeated names", "minified"])
def test_cells_of_every_kind(kind: str, tmp_path: Path) -> None:
    adata = make_adata()
    adata.obs["note"] = WRITTEN["text with NaN"](adata.n_obs)
    if kind == "view":
        adata = adata[::2]
    elif kind == "backed":
        adata.copy().write_h5ad(tmp_path / "f.h5ad")
        adata = anndata.read_h5ad(tmp_path / "f.h5ad", backed="r")
    elif kind == "repeated names":
        adata.obs_names = ["cell"] * adata.n_obs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
        model = model_of(adata)
    adata = model.adata
    if kind == "minified":
        model.train(**QUICK)
        adata = model.minify_adata() or model.adata
    expected = adata.obs["note"].astype("category").to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model", save_anndata=True)
    found = anndata.read_h5ad(tmp_path / "model" / "adata.h5ad").obs["note"]
    assert found.dtype == "category"
    pd.testing.assert_series_equal(pd.Series(found.to_numpy()), pd.Series(expected))
    if kind == "backed":
        adata.file.close()


# ---- what cannot be written ------------------------------------------------------------------------------------------


def no_file(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("writing has begun")


OTHER_TABLES = ("var", "raw.var", "obsm['prot']", "uns['frame']")


@pytest.mark.parametrize(
    ("name", "where"),
    [(name, "obs") for name in REFUSED] + [(name, where) for name in list(REFUSED)[2:5] for where in OTHER_TABLES],
)
def test_what_cannot_be_written_is_named_before_anything_is(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = make_adata(12, 12)
    adata.raw = adata
    adata.obsm["prot"] = pd.DataFrame({"y": range(12)}, index=adata.obs_names)
    adata.uns["frame"] = pd.DataFrame({"y": range(12)})
    tables = {"obs": adata.obs, "var": adata.var, "raw.var": adata.raw.var, "obsm['prot']": adata.obsm["prot"]}
    place = {**tables, "uns['frame']": adata.uns["frame"]}[where]
    model = model_of(adata)
    model.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    place["x"] = REFUSED[name](12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=r"."):
            adata.copy().write_h5ad(tmp_path / "plain.h5ad")
    (tmp_path / "plain.h5ad").unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", no_file)
        with pytest.raises(ValueError, match=r"cannot be written to a file: it .*, or delete it first\.$") as error:
            model.save(tmp_path / "model", overwrite=True, save_anndata=True)
    assert str(error.value).startswith(f"model.adata.{where}['x'] ")
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    if "Convert it" in str(error.value):  # the remedy is one
        exec(str(error.value).partition("Convert it, ")[2].partition(", or delete")[0], {"model": model})
    else:
        assert name.startswith("text ")
        del place["x"]
    model.save(tmp_path / "model", overwrite=True, save_anndata=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.uns.update({"x": object()}), r"model\.adata\.uns\['x'\] cannot .* \(object\)\. Turn it into text"),
        (lambda a: a.uns.update({"x": {"y": {1, 2}}}), r"model\.adata\.uns\['x'\]\['y'\] cannot be written"),
        (lambda a: a.uns.update({"x": {3: 1}}), r"model\.adata\.uns\['x'\]\[3\] cannot .* Give it another name"),
        (lambda a: a.uns.update({"": 1}), r"model\.adata\.uns\[''\] cannot be written .* Give it another name"),
        (lambda a: a.uns.update({"x": a.X.tocoo()}), r"model\.adata\.uns\['x'\] cannot .*coo_matrix"),
        (lambda a: a.layers.update({"x": np.full(a.shape, 1, object)}), r"model\.adata\.layers\['x'\] cannot"),
        (lambda a: a.obs.insert(0, 3, 1.5), r"model\.adata\.obs cannot .* 3 of type .* Rename or delete columns"),
        (lambda a: a.obs.insert(0, "_index", 1), r"model\.adata\.obs cannot .* '_index' is a reserved name"),
        (lambda a: a.obs.insert(0, "age", 1, allow_duplicates=True), r"model\.adata\.obs cannot .* repeated column"),
        (lambda a: a.obs.index.set_names("age", inplace=True), r"model\.adata\.obs cannot .*index\.name \('age'\)"),
        (lambda a: a.obs.insert(0, "x\0", 1), r"model\.adata\.obs cannot be written"),
    ],
)
def test_other_things_that_cannot_be_written(change: Any, says: str, tmp_path: Path) -> None:
    adata = make_adata()
    model = model_of(adata)
    change(adata)
    with pytest.raises(ValueError, match=says):
        model.save(tmp_path / "model", save_anndata=True)
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path / "model")


def test_all_that_cannot_be_written_is_named() -> None:
    adata = make_adata()
    for i in range(8):
        adata.obs[f"x{i}"] = REFUSED["dates"](adata.n_obs)
    says = r"^adata\.obs\['x0'\] .* So it is with adata\.obs\['x1'\], .*, adata\.obs\['x5'\] and others\.$"
    with pytest.raises(ValueError, match=says):
        writable(adata, "adata")


def test_either_data_set_of_gimvi(tmp_path: Path) -> None:
    pair = [make_adata(30, seed=seed) for seed in (0, 1)]
    pair[1].obs_names = [f"spatial {i}" for i in range(30)]
    for adata in pair:
        scvi.GIMVI.setup_anndata(adata)
        adata.obs["note"] = WRITTEN["text with NaN"](30)
    model = scvi.GIMVI(*pair, n_latent=3, seed=0)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = scvi.GIMVI.load(tmp_path / "model")
    assert loaded.adata_spatial.obs["note"].dtype == "category"
    pair[1].obs["note"] = REFUSED["text and numbers"](30)
    with pytest.raises(ValueError, match=r"^model\.adata_spatial\.obs\['note'\] cannot"):
        model.save(tmp_path / "model", save_anndata=True, overwrite=True)
    assert pair[0].obs["note"].dtype == object


def test_large_arrays_of_numbers_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from scvi import _writing

    tried = []
    monkeypatch.setattr(_writing, "write_elem", lambda store, key, value: tried.append(value))
    adata = make_adata()
    adata.layers["large"], adata.layers["sparse"] = np.zeros(adata.shape), adata.X
    monkeypatch.setattr(_writing, "_BELIEVED", 1000)
    writable(adata, "adata")
    assert not any(getattr(value, "shape", None) == adata.shape for value in tried)


# ---- queries ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> scvi.SCVI:
    adata = make_adata(60, 20)
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY, encode_covariates=True)
    model.train(**QUICK)
    return model


@OPTIONS
@given(var=SOME, missing=st.sets(st.integers(0, 19), max_size=9), others=st.integers(0, 3), named=st.booleans())
@example(var=ALL, missing={0, 3}, others=1, named=True)
@example(var=ALL, missing=set(range(9)), others=0, named=False)
@pytest.mark.filterwarnings("ignore:adata has", "ignore:the query has no batch")
def test_padded_queries_are_written(
    reference: scvi.SCVI,
    var: list[str],
    missing: set[int],
    others: int,
    named: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("f")
    query = make_adata(12, 20 + others, seed=1)
    query.var = query.var.join(table(var, 20 + others, query.var_names))
    query = query[:, [i for i in range(20 + others) if i not in missing][::-1]].copy()
    if named:  # a column of the index's name, the same as it
        query.var_names.name = "gene"
        query.var["gene"] = query.var_names.to_numpy()
    for name in var:  # of text with gaps, gaps may be left alone: anndata does not write these
        if query.var[name].isna().all() and query.var[name].dtype == object:
            del query.var[name]
    prepared = scvi.SCVI.prepare_query_anndata(query, reference, inplace=False)
    prepared.copy().write_h5ad(folder / "query.h5ad")
    written = anndata.read_h5ad(folder / "query.h5ad")
    found = [gene for gene in reference.schema.genes if gene in query.var_names]
    for name in query.var:
        old, new = query.var[name].loc[found], written.var[name].loc[found]
        old = old.map(lambda value: value.decode() if isinstance(value, bytes) else value)
        assert [a if pd.notna(a) else None for a in old] == [b if pd.notna(b) else None for b in new]
        assert written.var[name].drop(found).isna().all()
    model = scvi.SCVI.load_query_data(query, reference)
    model.save(folder / "model", save_anndata=True)
    pd.testing.assert_frame_equal(scvi.SCVI.load(folder / "model").adata.obs, written.obs)
    scvi.SCVI.prepare_query_anndata(query, reference, inplace=True)
    query.write_h5ad(folder / "query.h5ad")


@pytest.mark.filterwarnings("ignore:adata has")
def test_flags_of_missing_genes_are_not_known(reference: scvi.SCVI) -> None:
    query = make_adata(12, 20)[:, 5:].copy()
    query.var["objects"] = query.var["chosen"].astype(object)
    query.var["text"] = np.where(np.arange(15) < 3, "a", None)
    prepared = scvi.SCVI.prepare_query_anndata(query, reference, inplace=False)
    for name in ("chosen", "objects"):
        assert prepared.var[name].dtype == "boolean"
        assert prepared.var[name].isna().tolist() == [True] * 5 + [False] * 15
    assert prepared.var["chosen"].iloc[5:].astype(bool).tolist() == query.var["chosen"].tolist()
    assert prepared.var["text"].isna().sum() == 17
