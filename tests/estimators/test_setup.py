"""What a model reads from an AnnData, in whatever layout, and that it changes nothing there."""

from __future__ import annotations

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
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

FULL: dict[str, Any] = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


def fit(adata: AnnData, setup: dict[str, Any] | None = None, **options: Any) -> scvi.SCVI:
    scvi.SCVI.setup_anndata(adata, **(FULL if setup is None else setup))
    model = scvi.SCVI(adata, **{**TINY, **options})
    model.train(**QUICK)
    return model


def same_model(first: scvi.SCVI, second: scvi.SCVI) -> bool:
    a, b = first.module.state_dict(), second.module.state_dict()
    return (
        all(torch.equal(a[name], b[name]) for name in a)
        and np.array_equal(first.get_latent_representation(), second.get_latent_representation())
        and first.get_elbo(seed=0) == second.get_elbo(seed=0)
    )


@pytest.fixture(scope="module")
def plain() -> scvi.SCVI:
    """The model of csr float32 counts; no test changes it."""
    return fit(make_adata())


# ---- layouts ---------------------------------------------------------------------------------------------------------


def unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """The entries of each row from right to left."""
    order = np.concatenate([np.arange(start, stop)[::-1] for start, stop in zip(x.indptr, x.indptr[1:], strict=False)])
    return sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), shape=x.shape)


def with_stored_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    dense = x.toarray()
    everything = np.indices(dense.shape).reshape(2, -1)
    return sparse.csr_matrix((dense.ravel(), (everything[0], everything[1])), shape=x.shape)


def read_only(x: Any) -> Any:
    for part in (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,):
        part.setflags(write=False)
    return x


def with_long_indices(x: sparse.csr_matrix) -> sparse.csr_matrix:
    x = x.copy()
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    return x


LAYOUTS: dict[str, Callable[[sparse.csr_matrix], Any]] = {
    **{f"csr of {kind}": (lambda x, kind=kind: x.astype(kind)) for kind in ("float64", "int32", "int64", "uint16")},
    **{f"dense {kind}": (lambda x, kind=kind: x.toarray().astype(kind)) for kind in ("float32", "float64", "int64")},
    "csr array": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "csc array": sparse.csc_array,
    "dense by column": lambda x: np.asfortranarray(x.toarray()),
    "unsorted": unsorted,
    "stored zeros": with_stored_zeros,
    "read only": lambda x: read_only(x.copy()),
    "read only dense": lambda x: read_only(x.toarray()),
    "long indices": with_long_indices,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(layout: str, plain: scvi.SCVI) -> None:
    adata = make_adata()
    adata.X = counts = LAYOUTS[layout](adata.X)
    assert same_model(fit(adata), plain)
    assert type(adata.X) is type(counts)
    assert adata.X.dtype == counts.dtype


@pytest.mark.parametrize("layout", ["csr", "dense", "csc", "unsorted"])
def test_on_disk(layout: str, plain: scvi.SCVI, tmp_path: Path) -> None:
    adata = make_adata()
    if layout != "csr":
        adata.X = {"dense": LAYOUTS["dense float32"], **LAYOUTS}[layout](adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    content = (tmp_path / "cells.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert backed.isbacked
    model = fit(backed)
    assert same_model(model, plain)
    # the order of the indices is kept, sorted or not
    indices = [70, 3, 3, 149, 0]
    latent = plain.get_latent_representation()[indices]
    np.testing.assert_allclose(model.get_latent_representation(indices=indices), latent, rtol=1e-5, atol=1e-6)
    backed.file.close()
    assert (tmp_path / "cells.h5ad").read_bytes() == content


@pytest.mark.parametrize("dense", [False, True])
def test_a_layer(dense: bool, plain: scvi.SCVI) -> None:
    adata = make_adata()
    adata.layers["counts"] = adata.X.toarray() if dense else adata.X
    adata.X = np.log1p(adata.X.toarray())
    model = fit(adata, {**FULL, "layer": "counts"})
    assert same_model(model, plain)
    assert model.view_anndata_setup().loc["counts", "source"] == "adata.layers['counts']"
    other = make_adata()
    other.layers["counts"], other.X = other.X, np.full((N, G), np.nan)
    assert np.array_equal(model.get_latent_representation(other), plain.get_latent_representation())


def test_no_x_beside_a_layer(plain: scvi.SCVI) -> None:
    whole = make_adata()
    adata = AnnData(None, obs=whole.obs, var=whole.var, layers={"counts": whole.X})
    assert same_model(fit(adata, {**FULL, "layer": "counts"}), plain)


def test_views(plain: scvi.SCVI) -> None:
    wide = anndata.concat([make_adata(), make_adata(n=30, seed=1)], index_unique="-", merge="same")
    cells = np.r_[np.arange(0, N)]
    view = wide[cells]
    view_of_view = wide[:170][cells]
    for part in (view, view_of_view):
        assert part.is_view
        names = part.obs_names.tolist()
        model = fit(part)
        assert part.obs_names.tolist() == names
        assert same_model(model, plain)
    assert "_scvi" not in wide.uns


@pytest.mark.parametrize("kind", ["column", "names", "names in any order", "mask", "list mask", "series"])
@pytest.mark.parametrize("layout", ["csr of int32", "dense float32", "csc"])
def test_mask_var_is_a_subset_without_subsetting(kind: str, layout: str) -> None:
    subset = make_adata()[:, ::2].copy()
    expected = fit(subset, {"batch_key": "batch"})
    adata = make_adata()
    adata.X = LAYOUTS[layout](adata.X)
    chosen = adata.var["chosen"]
    mask: Any = {
        "column": "chosen",
        "names": adata.var_names[::2].tolist(),
        "names in any order": adata.var_names[::2][::-1],
        "mask": chosen.to_numpy(),
        "list mask": chosen.tolist(),
        "series": chosen,
    }[kind]
    model = fit(adata, {"batch_key": "batch", "mask_var": mask})
    assert adata.n_vars == G
    assert model.get_normalized_expression().columns.tolist() == subset.var_names.tolist()
    np.testing.assert_array_equal(model.get_latent_library_size(), expected.get_latent_library_size())
    assert same_model(model, expected)


def test_a_boolean_series_is_a_mask_by_name() -> None:
    expected = fit(make_adata(), {"mask_var": "chosen"})
    adata = make_adata()
    shuffled = adata.var["chosen"].sample(frac=1.0, random_state=0)
    assert same_model(fit(adata, {"mask_var": shuffled}), expected)
    for wrong in (shuffled.reset_index(drop=True), shuffled[:-1], shuffled.rename(lambda name: name + "x")):
        with pytest.raises(ValueError, match=r"mask_var is a Series .* whose index is not .* mask_var\.to_numpy\(\)"):
            scvi.SCVI.setup_anndata(adata, mask_var=wrong)


@pytest.mark.parametrize("kind", ["text", "category", "unused categories", "integer", "boolean", "string dtype"])
def test_categories_of_every_type(kind: str) -> None:
    adata = make_adata()
    codes = np.arange(N) % 2
    values: Any = {
        "text": np.array(["no", "yes"])[codes],
        "category": pd.Categorical(np.array(["no", "yes"])[codes]),
        "unused categories": pd.Categorical(np.array(["no", "yes"])[codes], categories=["maybe", "no", "yes"]),
        "integer": codes + 7,
        "boolean": codes == 1,
        "string dtype": pd.array(np.array(["no", "yes"])[codes], dtype="string"),
    }[kind]
    adata.obs["kind"] = values
    expected = make_adata()
    expected.obs["kind"] = codes
    model = fit(adata, {"batch_key": "kind"})
    assert same_model(model, fit(expected, {"batch_key": "kind"}))
    name = values[0]
    frame = model.get_normalized_expression(transform_batch=name, indices=[0], seed=0)
    np.testing.assert_array_equal(frame, model.get_normalized_expression(indices=[0], seed=0))


# ---- what the columns do ---------------------------------------------------------------------------------------------


def test_a_batch_of_its_own_makes_no_difference() -> None:
    adata = make_adata()
    adata.obs["one"] = "all"
    assert same_model(fit(adata, {"batch_key": "one"}), fit(make_adata(), {}))


@pytest.mark.parametrize("encode_covariates", [False, True])
@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.LinearSCVI])
def test_covariates_reach_the_decoder_and_if_wanted_the_encoder(cls: Any, encode_covariates: bool) -> None:
    adata = make_adata()
    cls.setup_anndata(adata, **KEYS)
    model = cls(adata, **TINY, encode_covariates=encode_covariates)
    model.train(**QUICK)
    latent = model.get_latent_representation()
    expression = model.get_normalized_expression(seed=0, return_numpy=True)
    for key, value in {"batch": "b1", "donor": 2, "treated": True, "age": 9.0, "score": 1.0}.items():
        other = adata.copy()
        other.obs[key] = value
        assert np.allclose(model.get_latent_representation(other), latent) is not encode_covariates
        assert not np.allclose(model.get_normalized_expression(other, seed=0, return_numpy=True), expression)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_the_scale_of_a_covariate_makes_no_difference(scale: float) -> None:
    adata = make_adata()
    adata.obs["age"] = adata.obs["age"] * scale
    model, plain = fit(adata, FULL, encode_covariates=True), fit(make_adata(), FULL, encode_covariates=True)
    np.testing.assert_allclose(model.get_latent_representation(), plain.get_latent_representation(), atol=1e-3)
    assert model.get_elbo(seed=0) == pytest.approx(plain.get_elbo(seed=0), rel=1e-4)
    part = model.get_latent_representation(adata[3:5].copy())  # by the moments of all cells, not of these two
    np.testing.assert_allclose(part, model.get_latent_representation(indices=[3, 4]), rtol=1e-4, atol=1e-5)


def test_a_constant_covariate_says_nothing() -> None:
    adata = make_adata()
    adata.obs["age"] = 7e4
    assert np.isfinite(fit(adata).get_elbo())


def without_labels(adata: AnnData) -> None:
    del adata.obs["cell_type"]


def missing_label(adata: AnnData) -> None:
    adata.obs.loc["cell7", "cell_type"] = None


def unknown_label(adata: AnnData) -> None:
    adata.obs.loc["cell7", "cell_type"] = "t9"


@pytest.mark.parametrize("change", [without_labels, missing_label, unknown_label])
def test_cells_without_labels_may_be_asked_about(change: Callable[[AnnData], None], tmp_path: Path) -> None:
    keys = {"batch_key": "batch", "labels_key": "cell_type"}
    plain, labelled = fit(make_adata(), keys), fit(make_adata(), keys, dispersion="gene-label")
    query = make_adata()
    change(query)
    assert np.array_equal(plain.get_latent_representation(query), plain.get_latent_representation())
    assert plain.get_elbo(query, seed=0) == plain.get_elbo(seed=0)
    plain.save(tmp_path / "plain")
    assert scvi.SCVI.load(tmp_path / "plain", query).get_elbo(seed=0) == plain.get_elbo(seed=0)
    with pytest.raises(ValueError, match="labels_key"):
        labelled.get_latent_representation(query)
    if change is not unknown_label:
        with pytest.raises(ValueError, match="labels_key"):
            scvi.SCVI.setup_anndata(query, **keys)


def test_labels_are_read_by_the_dispersion() -> None:
    adata = make_adata()
    model = fit(adata, {"labels_key": "cell_type"}, dispersion="gene-label")
    assert model.module.px_r.shape == (G, 3)
    theta = model.get_likelihood_parameters()["dispersions"]
    expected = model.module.px_r.detach().exp().numpy().T[adata.obs["cell_type"].astype("category").cat.codes]
    np.testing.assert_allclose(theta, expected, rtol=1e-6)


def test_size_factors_are_relative() -> None:
    adata = make_adata()
    totals = np.asarray(adata.X.sum(1)).ravel()
    plain = fit(adata, {})
    latent = plain.get_latent_representation()
    for scale in (1.0, 1e-3):
        other = make_adata()
        other.obs["totals"] = totals * scale
        model = fit(other, {"size_factor_key": "totals"})
        np.testing.assert_allclose(model.get_latent_library_size()[:, 0], totals, rtol=1e-5)
        np.testing.assert_allclose(model.get_latent_representation(), latent, atol=1e-3)


def test_size_factors_are_library_sizes() -> None:
    adata = make_adata()
    model = fit(adata, {"size_factor_key": "size"})
    size = adata.obs["size"].to_numpy()
    expected = size / size.mean() * adata.X.sum() / N
    np.testing.assert_allclose(model.get_latent_library_size()[:, 0], expected, rtol=1e-5)
    values = model.get_normalized_expression(library_size="latent", return_numpy=True)
    np.testing.assert_allclose(values.sum(1), expected, rtol=1e-4)
    other = make_adata(20, seed=1)  # the scale is the model's own, not that of the other cells
    other.obs["size"] = 1.0
    library = model.get_latent_library_size(other)
    np.testing.assert_allclose(library[:, 0], adata.X.sum() / N / size.mean(), rtol=1e-5)


# ---- the caller's object ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["csr of int32", "dense float64", "csc", "unsorted"])
def test_nothing_is_changed(layout: str) -> None:
    adata = make_adata()
    adata.X = LAYOUTS[layout](adata.X)
    x = adata.X
    parts = (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,)
    before, copy = [part.copy() for part in parts], adata.copy()
    model = fit(adata, KEYS)
    model.get_normalized_expression()
    model.get_marginal_ll(n_mc_samples=2)
    assert adata.X is x
    now = (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,)
    assert all(a is b and np.array_equal(a, c) for a, b, c in zip(now, parts, before, strict=True))
    pd.testing.assert_frame_equal(adata.obs, copy.obs)
    pd.testing.assert_frame_equal(adata.var, copy.var)
    assert list(adata.uns) == ["_scvi"]
    assert [*adata.obsm, *adata.varm, *adata.layers, *adata.obsp] == ["proteins"]


def test_a_setup_survives_a_file(plain: scvi.SCVI, tmp_path: Path) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, **FULL)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    model = scvi.SCVI(again, **TINY)
    model.train(**QUICK)
    assert same_model(model, plain)


def test_a_copy_of_an_adata_is_set_up_too(plain: scvi.SCVI) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, **FULL)
    model = scvi.SCVI(adata.copy(), **TINY)
    model.train(**QUICK)
    assert same_model(model, plain)


def test_the_last_setup_counts() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    first = scvi.SCVI(adata, **TINY)
    scvi.SCVI.setup_anndata(adata)
    assert scvi.SCVI(adata, **TINY).schema.batch_key is None
    assert first.schema.batch_key == "batch"  # a model keeps its own
    first.train(**QUICK)
    assert np.isfinite(first.get_elbo())


def normalise_in_place(adata: AnnData) -> None:
    adata.X.data /= 2.0


def replace_counts(adata: AnnData) -> None:
    adata.X = np.log1p(adata.X.toarray())


def one_count_more(adata: AnnData) -> None:
    adata.X.data[-1] += 1


def rename_cells(adata: AnnData) -> None:
    adata.obs_names = adata.obs_names + "-1"


def swap_genes(adata: AnnData) -> None:
    adata.var_names = adata.var_names[::-1]


def drop_cells(adata: AnnData) -> None:
    adata._inplace_subset_obs(np.arange(100))


def drop_genes(adata: AnnData) -> None:
    adata._inplace_subset_var(np.arange(30))


OF_NAMES = [rename_cells, swap_genes, drop_cells, drop_genes]
OF_COUNTS = [normalise_in_place, replace_counts, one_count_more]


@pytest.mark.parametrize("change", OF_NAMES)
def test_an_adata_that_changed_after_setup_is_refused(change: Callable[[AnnData], None]) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    change(adata)
    with pytest.raises(ValueError, match=r"has changed since it was set up for SCVI.*call SCVI\.setup_anndata"):
        scvi.SCVI(adata, **TINY)


@pytest.mark.parametrize("change", OF_COUNTS)
def test_counts_that_changed_after_setup_are_refused_where_they_are_read(change: Callable[[AnnData], None]) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    change(adata)
    model = scvi.SCVI(adata, **TINY)
    with pytest.raises(ValueError, match=r"adata\.X has changed since the model was made"):
        model.train(**QUICK)
    assert not model.is_trained


@pytest.mark.parametrize("change", [*OF_COUNTS, swap_genes])
def test_an_adata_that_changed_under_a_model_is_refused(change: Callable[[AnnData], None]) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    trained = fit(adata, {})
    change(adata)
    with pytest.raises(ValueError, match=r"changed since the model was made.*Put the raw counts back"):
        model.train(**QUICK)
    assert not model.is_trained
    with pytest.raises(ValueError, match=r"changed since the model was made.*pass other cells as adata"):
        trained.get_latent_representation()
    assert trained.get_latent_representation(make_adata()).shape == (N, 3)


def test_what_does_not_matter_may_change() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY)
    adata.obs["cluster"] = "1"
    adata.var["mean"] = 0.0
    adata.obsm["X_pca"] = np.zeros((N, 2))
    adata.layers["log"] = np.log1p(adata.X.toarray())
    adata.uns["colours"] = ["red"]
    adata.X = adata.X.tocsc()
    model.train(**QUICK)
    adata.obsm["X_scVI"] = model.get_latent_representation()
    assert scvi.SCVI(adata, **TINY).schema == model.schema


def test_a_category_that_appears_after_setup_is_refused() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    adata.obs["batch"] = ["b9", *adata.obs["batch"].astype(str)[1:]]
    with pytest.raises(ValueError, match=r"batch_key='batch' holds categories that the model has never seen: 'b9'"):
        scvi.SCVI(adata, **TINY)


class Narrow(scvi.SCVI):
    """A user's subclass, which says less or asks under other names."""

    def __init__(self, adata: AnnData, width: int = 8) -> None:
        super().__init__(adata, n_hidden=width, n_latent=3, gene_likelihood="nb", seed=0)


def test_a_subclass_with_a_constructor_of_its_own(cells: AnnData, tmp_path: Path) -> None:
    Narrow.setup_anndata(cells, batch_key="batch")
    model = Narrow(cells, width=16)
    assert (model.options["n_hidden"], model.options["n_latent"]) == (16, 3)
    assert model.options["gene_likelihood"] == "nb"
    assert model.options["use_observed_lib_size"] is True
    assert model.module.z_encoder.mean_encoder.weight.shape == (3, 16)
    model.save(tmp_path / "model")
    assert Narrow.load(tmp_path / "model", cells).options == model.options


def test_names_in_arrays_of_numpy(cells: AnnData) -> None:
    scvi.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.SCVI(cells, **TINY)
    model.train(**QUICK)
    one, alike = (
        model.get_normalized_expression(transform_batch=name, gene_list=genes, seed=0)
        for name, genes in (("b0", "gene3"), (np.array("b0"), np.array("gene3")))
    )
    pd.testing.assert_frame_equal(one, alike)
