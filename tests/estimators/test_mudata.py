"""A MuData is minified, prepared for a reference, saved and loaded as a MuData."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scvi
from small_cells import QUICK, TINY, G, N, make_adata

KEYS: dict[str, Any] = {"batch_key": "batch", "protein_layer": "counts"}
KEPT = ["scvi_qz_mean", "scvi_qz_var", "scvi_log_library", "scvi_seen"]


@pytest.fixture(autouse=True, scope="module")
def as_mudata_will_be() -> Iterator[None]:
    with mudata.set_options(pull_on_update=False):
        yield


def make_mdata(n: int = N, seed: int = 0, batch: str | None = None) -> mudata.MuData:
    """Proteins first, in another order and in a layer; a third modality; annotations everywhere."""
    adata, rng = make_adata(n=n, seed=seed), np.random.default_rng(seed)
    table = adata.obsm.pop("proteins")
    if batch is not None:
        adata.obs["batch"] = batch
    adata.obsm["X_pca"], adata.layers["log"] = rng.normal(size=(n, 2)), adata.X.log1p()
    adata.raw = adata
    counts = sparse.csr_matrix(table.to_numpy(np.float32))
    proteins = AnnData(counts.log1p(), obs=pd.DataFrame(index=table.index), var=pd.DataFrame(index=table.columns))
    proteins.layers["counts"], proteins.var["clone"] = counts, [f"clone {name}" for name in table.columns]
    other = AnnData(np.ones((n // 2, 2)), obs=pd.DataFrame(index=table.index[: n // 2]))
    mdata = mudata.MuData({"protein": proteins[rng.permutation(n)].copy(), "rna": adata, "more": other})
    mdata.obs["site"] = pd.Categorical(np.where(np.arange(n) % 2, "north", "south"))
    mdata.obsm["pixels"] = np.arange(2 * n).reshape(n, 2)  # integers, which mudata.read_h5mu cannot read
    mdata.var["known"] = "yes"
    mdata.uns["palette"] = ["red"]
    return mdata


def fit(mdata: mudata.MuData) -> scvi.TOTALVI:
    scvi.TOTALVI.setup_mudata(mdata, **KEYS)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mudata") / "model"
    with mudata.set_options(pull_on_update=False):
        fit(make_mdata()).save(folder)
    return folder


@pytest.fixture
def model(trained: Path) -> scvi.TOTALVI:
    return scvi.TOTALVI.load(trained, make_mdata())


def answers(model: scvi.TOTALVI, mdata: Any = None) -> list[Any]:
    asked = {"adata": mdata, "seed": 0}
    return [
        model.get_latent_representation(**asked),
        *model.get_normalized_expression(**asked, n_samples=2, transform_batch="b1"),
        model.get_protein_foreground_probability(**asked),
    ]


def same_answers(found: list[Any], wanted: list[Any]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        if isinstance(other, pd.DataFrame):
            assert one.index.equals(other.index)


def same_mudata(found: mudata.MuData, wanted: mudata.MuData) -> None:
    """All that a MuData says of cells and features; counts of the modalities apart, and text is categories in files."""
    as_text: dict[str, Any] = {"check_dtype": False, "check_categorical": False}
    assert isinstance(found, mudata.MuData)
    assert list(found.mod) == list(wanted.mod)
    pd.testing.assert_frame_equal(found.obs.drop(columns="observed_lib_size", errors="ignore"), wanted.obs, **as_text)
    pd.testing.assert_frame_equal(found.var, wanted.var, **as_text)
    np.testing.assert_array_equal(found.obsm["pixels"], wanted.obsm["pixels"])
    assert list(found.uns["palette"]) == ["red"]
    for name, modality in wanted.mod.items():
        pd.testing.assert_frame_equal(found.mod[name].obs, modality.obs, **as_text)
        pd.testing.assert_frame_equal(found.mod[name].var, modality.var, **as_text)
        assert list(found.mod[name].obsm) == list(modality.obsm)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [None, "my_"])
def test_a_mudata_is_saved_beside_its_model(model: scvi.TOTALVI, prefix: str | None, tmp_path: Path) -> None:
    mdata, expected = model.mdata, answers(model)
    (tmp_path / "model").mkdir()
    strangers = {"mdata.h5mu", "other_mdata.h5mu"} if prefix else {"notes.txt"}
    for name in strangers:
        (tmp_path / "model" / name).write_text("of a user")
    for _ in range(2):  # the second in the place of the first
        model.save(tmp_path / "model", overwrite=True, save_anndata=True, prefix=prefix)
    own = {f"{prefix or ''}{name}" for name in ("model.json", "weights.safetensors", "mdata.h5mu")}
    assert {path.name for path in (tmp_path / "model").iterdir()} == own | strangers
    assert all((tmp_path / "model" / name).read_text() == "of a user" for name in strangers)
    loaded = scvi.TOTALVI.load(tmp_path / "model", prefix=prefix)
    same_mudata(loaded.mdata, mdata)
    assert loaded.mdata.mod["rna"].raw is not None
    same_answers(answers(loaded), expected)
    assert loaded.get_elbo(seed=0) == pytest.approx(model.get_elbo(seed=0), rel=1e-6)
    assert loaded.train_indices.tolist() == model.train_indices.tolist()
    model.save(tmp_path / "model", overwrite=True, prefix=prefix)  # without cells: those of before are gone
    assert not (tmp_path / "model" / f"{prefix or ''}mdata.h5mu").exists()
    with pytest.raises(ValueError, match="loaded without cells"):
        scvi.TOTALVI.load(tmp_path / "model", prefix=prefix).get_elbo()


def test_a_file_of_a_mudata_is_one_of_mudata(model: scvi.TOTALVI, tmp_path: Path) -> None:
    del model.mdata.obsm["pixels"]
    model.save(tmp_path / "model", save_anndata=True)
    assert mudata.read_h5mu(tmp_path / "model" / "mdata.h5mu").shape == model.mdata.shape


def test_what_a_user_has_under_that_name_is_not_touched_or_read(model: scvi.TOTALVI, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    (tmp_path / "model" / "mdata.h5mu").write_text("of a user")
    with pytest.raises(FileExistsError, match=r"has mdata.h5mu, which no model of this package wrote"):
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
    assert scvi.TOTALVI.load(tmp_path / "model").mdata is None


def test_a_damaged_file_or_what_cannot_be_written_is_named(model: scvi.TOTALVI, tmp_path: Path) -> None:
    model.save(tmp_path / "model", save_anndata=True)
    path = tmp_path / "model" / "mdata.h5mu"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"mdata.h5mu is truncated or no .*pass adata to load without it"):
        scvi.TOTALVI.load(tmp_path / "model")
    model.mdata.mod["rna"].obs["odd"] = [object() for _ in range(N)]
    with pytest.raises(ValueError, match=r"model.mdata.mod\['rna'\].obs\['odd'\] cannot be written"):
        model.save(tmp_path / "other", save_anndata=True)
    assert not (tmp_path / "other").exists()
    model.mdata.mod["rna"].obs["odd"] = "text"
    model.save(tmp_path / "other", save_anndata=True)
    assert model.mdata.mod["rna"].obs["odd"].dtype != "category"  # what is saved stays as it is


# ---- minified --------------------------------------------------------------------------------------------------------


def test_a_minified_mudata_takes_the_place_of_one_with_counts(model: scvi.TOTALVI, tmp_path: Path) -> None:
    mdata, expected, score = model.mdata, answers(model), model.get_elbo(seed=0)
    totals = pd.Series(np.ravel(mdata.mod["rna"].X.sum(1)), index=mdata.mod["rna"].obs_names)
    model.minify_mudata()
    assert mdata.mod["rna"].X.nnz > 0
    assert "scvi_qz_mean" not in mdata.obsm
    model.save(tmp_path / "model", save_anndata=True, prefix="small_")
    for one in (model, scvi.TOTALVI.load(tmp_path / "model", prefix="small_")):
        same_mudata(one.mdata, mdata)
        assert one.minified_data_type == one.mdata.uns["_scvi_adata_minify_type"] == "latent_posterior_parameters"
        assert set(KEPT) < set(one.mdata.obsm)
        np.testing.assert_array_equal(one.mdata.obs["observed_lib_size"], totals.loc[mdata.obs_names])
        for name, modality in one.mdata.mod.items():
            assert modality.X.nnz == 0
            assert modality.shape == mdata.mod[name].shape
            assert modality.raw is None
            assert not modality.layers
        same_answers(answers(one), expected)
        for question in ("get_elbo", "get_marginal_ll", "get_reconstruction_error"):
            with pytest.raises(ValueError, match="minified, and this question needs their counts"):
                getattr(one, question)()
        for wish in (lambda one=one: one.train(**QUICK), one.minify_mudata):
            with pytest.raises(ValueError, match=r"minified, and to .* needs counts"):
                wish()
        with pytest.raises(ValueError, match="minified, its counts were dropped"):
            scvi.TOTALVI.setup_mudata(one.mdata, **KEYS)
        with pytest.raises(ValueError, match="minified, its counts were dropped"):
            scvi.TOTALVI.load_query_data(one.mdata, one)
        assert one.get_elbo(mdata, seed=0) == score
        same_answers(answers(one, one.mdata), expected)


def test_a_minified_mudata_may_come_in_another_order(model: scvi.TOTALVI) -> None:
    expected = pd.DataFrame(model.get_latent_representation(), index=model.mdata.obs_names)
    model.minify_mudata()
    rna = model.mdata.mod["rna"]
    rna._inplace_subset_obs(np.random.default_rng(3).permutation(N))
    found = pd.DataFrame(model.get_latent_representation(), index=model.mdata.obs_names)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    rna.obs["batch"] = np.roll(rna.obs["batch"], 1)
    with pytest.raises(ValueError, match=r"a covariate of \d+ cells has changed since they were minified"):
        model.get_latent_representation()


def test_a_mudata_may_keep_its_counts(model: scvi.TOTALVI, tmp_path: Path) -> None:
    mdata, expected, score = model.mdata, answers(model), model.get_elbo(seed=0)
    model.minify_mudata("latent_posterior_parameters_with_counts")
    model.save(tmp_path / "model", save_anndata=True)
    for one in (model, scvi.TOTALVI.load(tmp_path / "model")):
        same_mudata(one.mdata, mdata)
        assert one.minified_data_type == "latent_posterior_parameters_with_counts"
        assert (one.mdata.mod["rna"].X != mdata.mod["rna"].X).nnz == 0
        assert "observed_lib_size" in one.mdata.obs
        same_answers(answers(one), expected)
        assert one.get_elbo(seed=0) == pytest.approx(score, rel=1e-6)


def test_a_posterior_that_a_mudata_has_is_used(model: scvi.TOTALVI) -> None:
    mean, variance = model.get_latent_representation(return_dist=True)
    model.mdata.obsm["X_latent_qzm"], model.mdata.obsm["mine"] = mean + 1, variance * 2
    with pytest.raises(KeyError, match="'nowhere' is not a key"):
        model.minify_mudata(use_latent_qzm_key="nowhere")
    model.minify_mudata(use_latent_qzv_key="mine")
    found = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(found[0], mean + 1, rtol=1e-6)
    np.testing.assert_allclose(found[1], variance * 2, rtol=1e-6)


def test_a_mudata_is_minified_where_there_is_one(model: scvi.TOTALVI, trained: Path) -> None:
    with pytest.raises(ValueError, match="minified_data_type='counts' is not one of"):
        model.minify_mudata("counts")
    with pytest.raises(ValueError, match="loaded without cells and cannot minify"):
        scvi.TOTALVI.load(trained).minify_mudata()
    model.adata = model.adata.copy()
    with pytest.raises(TypeError, match="not made with a MuData: call minify_adata"):
        model.minify_mudata()


# ---- queries ---------------------------------------------------------------------------------------------------------


def few_features(mdata: mudata.MuData) -> mudata.MuData:
    """Genes backwards without two, and one more; three of the proteins."""
    rna, protein = mdata.mod["rna"], mdata.mod["protein"]
    rna = rna[:, [*range(G - 1, 1, -1)]].copy()
    rna.var_names = [*rna.var_names[:-1], "extra"]
    parts = {**mdata.mod, "rna": rna, "protein": protein[:, [4, 1, 0]].copy()}
    fewer = mudata.MuData(parts)
    fewer.obs["site"], fewer.obsm["pixels"] = mdata.obs["site"], mdata.obsm["pixels"]
    fewer.var["known"], fewer.uns["palette"] = "yes", ["red"]
    return fewer


@pytest.mark.filterwarnings("ignore:adata has 3[0-9] of the .* genes", "ignore:adata has 3 of the 5 proteins")
@pytest.mark.parametrize("inplace", [True, False])
def test_a_mudata_is_prepared(model: scvi.TOTALVI, inplace: bool) -> None:
    query = few_features(make_mdata(40, seed=2, batch="b7"))
    rna, protein, before = query.mod["rna"], query.mod["protein"], few_features(make_mdata(40, seed=2, batch="b7"))
    made = scvi.TOTALVI.prepare_query_mudata(query, model, inplace=inplace)
    assert (made is None) == inplace
    prepared = query if inplace else made
    if inplace:
        assert query.mod["rna"] is rna
        assert query.mod["protein"] is protein
    else:
        same_mudata(query, before)
    assert prepared.obs_names.equals(before.obs_names)
    assert list(prepared.mod) == ["protein", "rna", "more"]
    assert prepared.mod["rna"].var_names.tolist() == list(model.schema.genes)
    assert prepared.mod["protein"].var_names.tolist() == list(model.schema.proteins.names)
    np.testing.assert_array_equal(prepared.obsm["pixels"], before.obsm["pixels"])
    np.testing.assert_array_equal(prepared.mod["rna"].obsm["X_pca"], before.mod["rna"].obsm["X_pca"])
    assert prepared.var.loc["gene5", "known"] == "yes"
    there = before.mod["rna"].var_names.intersection(model.schema.genes)
    np.testing.assert_array_equal(prepared.mod["rna"][:, there].X.toarray(), before.mod["rna"][:, there].X.toarray())
    lost = [gene for gene in model.schema.genes if gene not in there]
    assert len(lost) == 3
    assert prepared.mod["rna"][:, lost].X.nnz == 0
    counts = pd.DataFrame(np.asarray(prepared.mod["protein"].layers["counts"]), columns=model.schema.proteins.names)
    assert counts.columns[counts.isna().any()].tolist() == ["protein2", "protein3"]
    np.testing.assert_array_equal(
        counts[["protein4", "protein1"]], before.mod["protein"][:, ["protein4", "protein1"]].layers["counts"].toarray()
    )
    assert prepared.mod["protein"].var.loc["protein4", "clone"] == "clone protein4"
    mapped = scvi.TOTALVI.load_query_data(prepared, model)
    assert mapped.mdata is prepared
    expected = scvi.TOTALVI.load_query_data(before, model)
    assert isinstance(expected.mdata, mudata.MuData)
    assert mapped.schema == expected.schema
    same_answers(answers(mapped), answers(expected))


def test_a_mudata_that_has_all_is_put_in_order(model: scvi.TOTALVI) -> None:
    names = scvi.TOTALVI.prepare_query_mudata(make_mdata(40), model, return_reference_var_names=True)
    assert {name: index.tolist() for name, index in names.items()} == {
        "rna": list(model.schema.genes),
        "protein": list(model.schema.proteins.names),
    }
    query = make_mdata(40, seed=2, batch="b7")
    backwards = mudata.MuData({name: part[:, ::-1].copy() for name, part in query.mod.items()})
    prepared = scvi.TOTALVI.prepare_query_mudata(backwards, model, inplace=False)
    assert sparse.issparse(prepared.mod["protein"].layers["counts"])
    for name, layer in (("rna", "log"), ("protein", "counts")):
        wanted = query.mod[name]
        assert prepared.mod[name].var_names.equals(wanted.var_names)
        np.testing.assert_array_equal(prepared.mod[name].layers[layer].toarray(), wanted.layers[layer].toarray())


def test_a_query_is_prepared_on_the_way(model: scvi.TOTALVI) -> None:
    query = make_mdata(40, seed=2, batch="b7")
    query = mudata.MuData({**query.mod, "rna": query.mod["rna"][:, :-1].copy()})
    with pytest.warns(UserWarning, match=rf"adata has {G - 1} of the {G} genes"):
        mapped = scvi.TOTALVI.load_query_data(query, model, inplace_subset_query_vars=True)
    assert mapped.mdata is query
    assert query.mod["rna"].n_vars == G
    mapped.train(**QUICK)
    assert np.isfinite(mapped.get_elbo())


def test_what_is_no_query_of_a_mudata_is_refused(model: scvi.TOTALVI) -> None:
    with pytest.raises(TypeError, match="mdata is a AnnData; pass a MuData, or an AnnData to prepare_query_anndata"):
        scvi.TOTALVI.prepare_query_mudata(make_adata(), model)
    with pytest.raises(TypeError, match=r"cannot become an AnnData in place: .* or call prepare_query_mudata"):
        scvi.TOTALVI.prepare_query_anndata(make_mdata(40), model)
    with pytest.raises(ValueError, match="inplace=3 is not True or False"):
        scvi.TOTALVI.prepare_query_mudata(make_mdata(40), model, inplace=3)
    alone = mudata.MuData({"rna": make_mdata(40).mod["rna"]})
    with pytest.raises(KeyError, match=r"modalities\['protein_layer'\]='protein' is not a modality of mdata"):
        scvi.TOTALVI.prepare_query_mudata(alone, model)
    with pytest.raises(ValueError, match="at least 95% are needed"):
        scvi.TOTALVI.prepare_query_mudata(few_features(make_mdata(40)), model, min_genes_found=0.95)
    adata = make_adata()
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    other = scvi.TOTALVI(adata, **TINY)
    with pytest.raises(TypeError, match="a MuData came, but the model was set up with an AnnData"):
        scvi.TOTALVI.prepare_query_mudata(make_mdata(40), other)


# ---- shapes that a MuData may have -----------------------------------------------------------------------------------


def of_one_name() -> mudata.MuData:
    """A gene and a protein are both called CD4, which a MuData warns of."""
    mdata = make_mdata()
    for modality in (mdata.mod["rna"], mdata.mod["protein"]):
        modality.var_names = ["CD4", *modality.var_names[1:]]
    mdata = mudata.MuData({name: mdata.mod[name] for name in ("rna", "protein")})
    mdata.var["known"] = [f"feature {i}" for i in range(mdata.n_vars)]
    return mdata


@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning:mudata")
def test_a_gene_and_a_protein_of_one_name(tmp_path: Path) -> None:
    mdata = of_one_name()
    model = fit(mdata)
    expected = model.get_latent_representation()
    model.minify_mudata()
    model.save(tmp_path / "model", save_anndata=True)
    for one in (model, scvi.TOTALVI.load(tmp_path / "model")):
        pd.testing.assert_frame_equal(one.mdata.var, mdata.var, check_dtype=False)
        np.testing.assert_allclose(one.get_latent_representation(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning:mudata", f"ignore:adata has {G - 1} of")
def test_a_query_with_a_gene_and_a_protein_of_one_name() -> None:
    mdata = of_one_name()
    model, fewer = fit(mdata), mudata.MuData({**of_one_name().mod, "rna": mdata.mod["rna"][:, :-1].copy()})
    fewer.var["known"] = [f"feature {i}" for i in range(fewer.n_vars)]
    prepared = scvi.TOTALVI.prepare_query_mudata(fewer, model, inplace=False)
    wanted = mdata.var["known"].tolist()
    assert prepared.var["known"].tolist()[: G - 1] == wanted[: G - 1]
    assert prepared.var["known"].isna().tolist() == [False] * (G - 1) + [True] + [False] * 5
    assert prepared.mod["rna"].var_names.equals(mdata.mod["rna"].var_names)


def test_a_view_is_a_query_and_is_minified(model: scvi.TOTALVI, tmp_path: Path) -> None:
    whole = make_mdata(60, seed=3)
    view = whole[:40]
    scvi.TOTALVI.prepare_query_mudata(view, model)
    assert view.shape == (40, whole.n_vars)
    assert whole.n_obs == 60
    del whole.obsm["pixels"]  # of which mudata makes no copy of a view
    small = fit(whole[20:])
    small.minify_mudata()
    small.save(tmp_path / "model", save_anndata=True)
    assert scvi.TOTALVI.load(tmp_path / "model").get_latent_representation().shape == (40, 3)


def test_a_mudata_that_is_open_on_disk(model: scvi.TOTALVI, tmp_path: Path) -> None:
    mdata = make_mdata()
    del mdata.obsm["pixels"]
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    expected = model.get_latent_representation()
    backed = mudata.read_h5mu(tmp_path / "cells.h5mu", backed="r")
    assert scvi.TOTALVI.prepare_query_mudata(backed, model, inplace=False).shape == mdata.shape
    with pytest.raises(ValueError, match="open on disk and cannot be changed in place"):
        scvi.TOTALVI.prepare_query_mudata(backed, model)
    model.adata = backed
    model.minify_mudata("latent_posterior_parameters_with_counts")
    assert model.mdata.mod["rna"].X.nnz == mdata.mod["rna"].X.nnz
    model.adata = backed
    model.save(tmp_path / "whole", save_anndata=True)
    model.minify_mudata()
    for one in (model, scvi.TOTALVI.load(tmp_path / "whole")):
        np.testing.assert_allclose(one.get_latent_representation(), expected, rtol=1e-5, atol=1e-6)


def test_a_mudata_in_a_mudata_is_not_written(model: scvi.TOTALVI, tmp_path: Path) -> None:
    model.mdata.mod["more"] = mudata.MuData({"peaks": model.mdata.mod["more"]})
    with pytest.raises(ValueError, match=r"mod\['more'\] is a MuData; modalities that are AnnData can be written"):
        model.save(tmp_path / "model", save_anndata=True)


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_it_does_not_matter_how_mudata_updates(tmp_path: Path) -> None:
    """Its default until 0.4 pulls columns of modalities; nothing of ours warns of it."""
    with mudata.set_options(pull_on_update=None):
        mdata = make_mdata()
    model = fit(mdata)
    model.minify_mudata()
    model.save(tmp_path / "model", save_anndata=True)
    assert list(scvi.TOTALVI.load(tmp_path / "model").mdata.obs) == [*mdata.obs, "observed_lib_size"]
