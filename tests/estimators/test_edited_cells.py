"""The same object is not the same cells: whatever is edited, and whenever, an answer is about the cells as they are.

Each edit is made in place, between set-up, model, fit and question. What follows is either refused, or the same as if
the cells had been like that from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import scvi
from asking import (
    ESTIMATORS,
    ask,
    by_data_set,
    equal,
    is_paired,
    names_of_cells,
    options_of,
    questions,
    same,
    set_up,
    weights,
    with_partner,
)
from scvi.estimators.base import Estimator
from small_cells import KEYS, QUICK, TINY, N, make_adata

EACH = pytest.mark.parametrize("cls", ESTIMATORS, ids=[cls.__name__ for cls in ESTIMATORS])
BRIEF = {**QUICK, "max_epochs": 1}
REFUSED = (ValueError,)


def shuffled(n: int) -> np.ndarray:
    return np.random.default_rng(5).permutation(n)


def moved(values: Any) -> np.ndarray:
    return np.roll(np.asarray(values), 1)


def set_column(key: str, change: Callable[[pd.Series], Any]) -> Callable[[AnnData], None]:
    def edit(adata: AnnData) -> None:
        adata.obs[key] = change(adata.obs[key])

    return edit


def one_count(adata: AnnData) -> None:
    adata.X.data[len(adata.X.data) // 2] += 1


def other_matrix(adata: AnnData) -> None:
    adata.X = adata.X * 2


def logarithms(adata: AnnData) -> None:
    adata.X = np.log1p(adata.X)


def swapped_names(adata: AnnData) -> None:
    adata.obs_names = [*adata.obs_names[1::-1], *adata.obs_names[2:]]


def renamed_genes(adata: AnnData) -> None:
    adata.var_names = [*adata.var_names[1::-1], *adata.var_names[2:]]


def one_value_in_place(adata: AnnData) -> None:
    adata.obs.iloc[7, adata.obs.columns.get_loc("age")] += 1


def one_protein(adata: AnnData) -> None:
    adata.obsm["proteins"].iloc[7, 2] += 5


def other_proteins(adata: AnnData) -> None:
    adata.obsm["proteins"] = adata.obsm["proteins"] * 2


def renamed_proteins(adata: AnnData) -> None:
    adata.obsm["proteins"].columns = adata.obsm["proteins"].columns[::-1]


EDITS: dict[str, Callable[[AnnData], Any]] = {
    "order of cells": lambda a: a._inplace_subset_obs(shuffled(a.n_obs)),
    "some cells": lambda a: a._inplace_subset_obs(np.arange(a.n_obs) % 5 > 0),
    "names of two cells": swapped_names,
    "names of all cells": lambda a: setattr(a, "obs_names", a.obs_names + "-1"),
    "order of genes": lambda a: a._inplace_subset_var(shuffled(a.n_vars)),
    "some genes": lambda a: a._inplace_subset_var(np.arange(a.n_vars) > 3),
    "names of two genes": renamed_genes,
    "one count": one_count,
    "another matrix": other_matrix,
    "logarithms": logarithms,
    "batch": set_column("batch", lambda c: pd.Categorical(moved(c))),
    "one batch less": set_column("batch", lambda c: c.astype(str).replace("b2", "b1")),
    "unknown batch": set_column("batch", lambda c: c.astype(str).replace("b2", "b9")),
    "labels": set_column("cell_type", moved),
    "size factors": set_column("size", lambda c: c * np.linspace(1, 3, len(c))),
    "covariate": one_value_in_place,
    "category": set_column("donor", lambda c: (c + 1) % 4),
    "no column": lambda a: a.obs.drop(columns="age", inplace=True),
    "one protein": one_protein,
    "all proteins": other_proteins,
    "names of proteins": renamed_proteins,
    "what is not read": lambda a: a.obs.insert(0, "more", 1),
}
EDIT = pytest.mark.parametrize("edit", EDITS)


def cells_for(cls: type[Estimator]) -> list[AnnData]:
    """Cells that are set up, all of their columns being read that a model can read."""
    adatas = with_partner(cls, make_adata())
    set_up(cls, *adatas, **KEYS)
    return adatas


def make(cls: type[Estimator], adatas: list[AnnData]) -> Any:
    return cls(*adatas, **options_of(cls, TINY))


def holder(cls: type[Estimator]) -> str:
    """The attribute that holds the cells that are edited."""
    return "adata" if not is_paired(cls) else names_of_cells(cls)[0]


def without_setup(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.uns.clear()
    return adata


@cache
def fitted(cls: type[Estimator], folder: Path) -> Path:
    model = make(cls, cells_for(cls))
    model.train(**BRIEF)
    model.save(folder / cls.__name__)
    return folder / cls.__name__


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted")


# ---- an edit at each stage -------------------------------------------------------------------------------------------


@EDIT
@EACH
def test_between_set_up_and_model(cls: type[Estimator], edit: str) -> None:
    adatas = cells_for(cls)
    EDITS[edit](adatas[0])
    try:
        model = make(cls, adatas)
        model.train(**BRIEF)
    except REFUSED:
        assert edit != "what is not read"
        return
    fresh = [without_setup(adatas[0]), *adatas[1:]]
    set_up(cls, *fresh, **KEYS)
    other = make(cls, fresh)
    other.train(**BRIEF)
    assert same(weights(model), weights(other))


@EDIT
@EACH
def test_between_model_and_fit(cls: type[Estimator], edit: str) -> None:
    """The constants of the set-up, such as the prior of the library size, stay those of the cells that were set up."""
    adatas = cells_for(cls)
    model, other = make(cls, adatas), make(cls, cells_for(cls))
    EDITS[edit](adatas[0])
    try:
        model.train(**BRIEF)
    except REFUSED:
        assert edit != "what is not read"
        assert not model.is_trained
        return
    setattr(other, holder(cls), adatas[0].copy())
    other.train(**BRIEF)
    assert same(weights(model), weights(other))
    assert all(map(np.array_equal, by_data_set(model.train_indices), by_data_set(other.train_indices)))


@EDIT
@EACH
def test_between_fit_and_question(cls: type[Estimator], edit: str, folder: Path) -> None:
    adatas = with_partner(cls, make_adata())
    model = cls.load(fitted(cls, folder), *adatas)
    EDITS[edit](adatas[0])
    for question in questions(cls, by_cell=True):
        try:
            answer = ask(model, question)
        except REFUSED:
            assert edit != "what is not read"
            continue
        assert equal(answer, ask(model, question, adata=adatas[0].copy())), question


def made(edits: list[str], adata: AnnData) -> bool:
    """Makes edits one after the other; False if one of them cannot be made after those before it."""
    for edit in edits:
        try:
            EDITS[edit](adata)
        except (KeyError, IndexError, ValueError):
            return False
    return True


SEVERAL = st.lists(st.sampled_from(sorted(EDITS)), min_size=1, max_size=4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # several edits together may make cells far
@settings(max_examples=40, deadline=None)
@given(SEVERAL, st.sampled_from([scvi.SCVI, scvi.SCANVI, scvi.TOTALVI]), st.data())
def test_several_edits_with_questions_in_between(
    folder: Path, edits: list[str], cls: type[Estimator], data: st.DataObject
) -> None:
    adata = make_adata()
    model = cls.load(fitted(cls, folder), adata)
    names = questions(cls, by_cell=True)
    for edit in edits:
        if not made([edit], adata):
            return
        question = data.draw(st.sampled_from(names))
        cells = data.draw(st.none() | st.lists(st.integers(0, adata.n_obs - 1), min_size=1, max_size=5))
        try:
            answer = ask(model, question, indices=cells)
        except REFUSED:
            continue
        assert equal(answer, ask(model, question, adata=adata.copy(), indices=cells))


@pytest.mark.filterwarnings("ignore::UserWarning")  # several edits together may make cells far
@settings(max_examples=20, deadline=None)
@given(SEVERAL, SEVERAL)
def test_several_edits_before_and_after_the_model_is_made(before: list[str], after: list[str]) -> None:
    (adata,) = cells_for(scvi.SCVI)
    same_cells = without_setup(adata)
    if not made(before, adata):
        return
    try:
        model = make(scvi.SCVI, [adata])
    except REFUSED:
        return
    set_up(scvi.SCVI, same_cells, **KEYS)
    other = make(scvi.SCVI, [same_cells])
    if not made(after, adata):
        return
    try:
        model.train(**BRIEF)
    except REFUSED:
        return
    other.adata = adata.copy()
    other.train(**BRIEF)
    assert same(weights(model), weights(other))


def test_edits_make_a_difference(folder: Path) -> None:
    """Some answer of some model is another one for each of them, but for what is not read."""
    for name, edit in EDITS.items():
        changed = False
        for cls in (scvi.SCVI, scvi.SCANVI, scvi.TOTALVI):
            adata = make_adata()
            model = cls.load(fitted(cls, folder), adata)
            before = ask(model, "get_elbo"), ask(model, "get_latent_representation")
            edit(adata)
            try:
                after = ask(model, "get_elbo"), ask(model, "get_latent_representation")
            except REFUSED:
                changed = True
            else:
                changed |= not all(map(equal, before, after))
        assert changed or name in ("what is not read", "names of all cells", "names of two cells", "order of genes")


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_changed_counts_are_refused_with_the_remedy(folder: Path) -> None:
    adata = make_adata()
    model = scvi.SCVI.load(fitted(scvi.SCVI, folder), adata)
    adata.X.data[adata.X.indptr[7]] += 1
    with pytest.raises(ValueError, match=r"counts of 'cell7' are others \(1 of.*raw counts back.*model.adata ="):
        model.get_latent_representation()
    assert len(model.get_latent_representation(indices=[3, 8])) == 2  # whose counts did not change
    model.adata = adata  # as they are now
    assert len(model.get_latent_representation()) == N


def test_an_interrupted_first_epoch_leaves_the_model_as_it_was() -> None:
    """Validation cells are read last."""
    (adata,) = cells_for(scvi.SCVI)
    model = make(scvi.SCVI, [adata])
    model.train(**BRIEF)
    before, held_out = weights(model), model.validation_indices[0]
    adata.X.data[adata.X.indptr[held_out]] += 1
    history = model.history["elbo_train"].copy()
    with pytest.raises(ValueError, match=rf"counts of 'cell{held_out}' are others"):
        model.train(**BRIEF)
    assert same(weights(model), before)
    pd.testing.assert_frame_equal(model.history["elbo_train"], history)


@pytest.mark.parametrize("is_fitted", [False, True])
def test_renamed_cells_that_were_normalised_are_not_fitted(is_fitted: bool) -> None:
    """Nothing is known of the counts of other names, so they are judged by all that are read."""
    (adata,) = cells_for(scvi.SCVI)
    model = make(scvi.SCVI, [adata])
    if is_fitted:
        model.train(**BRIEF)
    before = weights(model)
    adata.obs_names = adata.obs_names + "-1"
    adata.X = np.log1p(adata.X.multiply(1e4 / adata.X.sum(axis=1)).tocsr())
    with pytest.raises(ValueError, match="holds a non-integer value"):
        model.train(**BRIEF, train_size=1.0)
    assert model.is_trained is is_fitted
    assert same(weights(model), before)


def test_the_constants_of_a_set_up_belong_to_its_cells() -> None:
    """Library prior, scale of size factors and moments of covariates are those of the cells a model was made with."""
    (adata,) = cells_for(scvi.SCVI)
    model = make(scvi.SCVI, [adata])
    schema = model.schema
    other = make_adata(90, seed=3)
    other.obs["age"] += 5
    set_up(scvi.SCVI, other, **KEYS)
    model.adata = other
    assert model.schema == schema
    assert make(scvi.SCVI, [other]).schema.continuous_moments != schema.continuous_moments


@EACH
def test_assigned_cells_are_the_models_cells(cls: type[Estimator], folder: Path) -> None:
    model = cls.load(fitted(cls, folder), *with_partner(cls, make_adata()))
    other = make_adata(60, seed=4)
    setattr(model, holder(cls), other)
    assert getattr(model, holder(cls)) is other
    for question in questions(cls, by_cell=True):
        assert equal(ask(model, question), ask(model, question, adata=other.copy()))
    model.train(**BRIEF)
    wrong = other[:, :5].copy()
    with pytest.raises(ValueError, match=r"lacks .* of the .* genes"):
        setattr(model, holder(cls), wrong)
    with pytest.raises(TypeError, match=r"adata is a str; pass an anndata\.AnnData"):
        setattr(model, holder(cls), "cells")
    wrong = make_adata(60)
    wrong.X = -wrong.X
    with pytest.raises(ValueError, match="negative"):
        setattr(model, holder(cls), wrong)
    assert getattr(model, holder(cls)) is other


def test_a_model_of_two_data_sets_has_no_adata(folder: Path) -> None:
    model = scvi.GIMVI.load(fitted(scvi.GIMVI, folder))
    with pytest.raises(AttributeError, match="has two data sets: adata_seq and adata_spatial"):
        model.adata  # noqa: B018
    with pytest.raises(AttributeError, match="two data sets: adata_seq and adata_spatial; assign to one"):
        model.adata = make_adata()
    assert model.adata_seq is model.adata_spatial is None


def test_cells_that_were_minified_are_as_they_are(folder: Path) -> None:
    model = scvi.SCVI.load(fitted(scvi.SCVI, folder), make_adata())
    model.minify_adata()
    before = model.get_latent_representation()
    order = shuffled(N)
    model.adata._inplace_subset_obs(order)
    assert np.array_equal(model.get_latent_representation(), before[order])
    model.adata._inplace_subset_obs(np.arange(N) < 40)
    assert np.array_equal(model.get_latent_representation(), before[order][:40])
    frequencies = model.get_normalized_expression(return_numpy=True)
    model.adata.obs["batch"] = pd.Categorical(moved(model.adata.obs["batch"]))
    assert not np.array_equal(model.get_normalized_expression(return_numpy=True), frequencies)


def test_a_view_of_the_cells_is_asked_about_as_it_is(folder: Path) -> None:
    adata = make_adata()
    model = scvi.SCVI.load(fitted(scvi.SCVI, folder), adata)
    view = adata[::-2]
    assert np.array_equal(model.get_latent_representation(view), model.get_latent_representation(view.copy()))
    adata.X.data[:] = 1
    assert np.array_equal(model.get_latent_representation(view), model.get_latent_representation(view.copy()))
    model = scvi.SCVI.load(fitted(scvi.SCVI, folder), make_adata()[:50])
    assert len(model.get_latent_representation()) == 50


def test_no_question_looks_at_more_than_it_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scvi.SCVI.load(fitted(scvi.SCVI, folder), make_adata())
    read: list[int] = []
    rows_to_sparse = scvi.cells.cell_data.rows_to_sparse
    monkeypatch.setattr(
        "scvi.cells.cell_data.rows_to_sparse", lambda c, rows, *a: read.append(len(rows)) or rows_to_sparse(c, rows, *a)
    )
    for where in ("scvi.cells.encode.counted", "scvi.cells.count_checks.blocks"):
        monkeypatch.setattr(where, None)
    for adata in (None, make_adata()):
        read.clear()
        model.get_latent_representation(adata, indices=np.arange(10))
        assert sum(read) == 10


# ---- the cells of a fit ----------------------------------------------------------------------------------------------


def names(model: Any, side: str) -> list[set[str]]:
    data_sets = [model.adata] if hasattr(model, "adata") else [model.adata_seq, model.adata_spatial]
    found = by_data_set(getattr(model, side))
    return [set(adata.obs_names[cells]) for adata, cells in zip(data_sets, found, strict=True)]


@EACH
@pytest.mark.parametrize("side", ["train_indices", "validation_indices"])
def test_they_are_the_same_cells_in_other_data(cls: type[Estimator], side: str, tmp_path: Path) -> None:
    adatas = cells_for(cls)
    model = make(cls, adatas)
    model.train(**BRIEF)
    before = names(model, side)
    model.save(tmp_path / "model")
    for others in ([a[::-1].copy() for a in adatas], [a[shuffled(a.n_obs)[:70]].copy() for a in adatas]):
        loaded = cls.load(tmp_path / "model", *others)
        there = [set(other.obs_names) for other in others]
        assert names(loaded, side) == [cells & found for cells, found in zip(before, there, strict=True)]
        loaded.save(tmp_path / "again", overwrite=True)
        assert names(cls.load(tmp_path / "again", *adatas), side) == before
    adatas[0]._inplace_subset_obs(shuffled(N)[:80])
    assert names(model, side)[0] == before[0] & set(adatas[0].obs_names)
    strangers = [AnnData(a.X, obs=a.obs.set_index(a.obs_names + "x"), var=a.var, obsm={}) for a in adatas]
    for adata, stranger in zip(adatas, strangers, strict=True):
        stranger.obsm["proteins"] = adata.obsm["proteins"].set_index(stranger.obs_names)
    assert names(cls.load(tmp_path / "model", *strangers), side) == [set()] * len(adatas)
    assert all(len(cells) == 0 for cells in by_data_set(getattr(cls.load(tmp_path / "model"), side)))


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_of_repeated_names_are_found_in_the_same_order_only(tmp_path: Path) -> None:
    adata = make_adata()
    adata.obs_names = [f"cell{i // 2 if i < 20 else i}" for i in range(N)]
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY)
    model.train(**BRIEF)
    model.save(tmp_path / "model")
    same_cells = scvi.SCVI.load(tmp_path / "model", adata.copy())
    assert same_cells.train_indices.tolist() == model.train_indices.tolist()
    backwards = scvi.SCVI.load(tmp_path / "model", adata[::-1].copy())
    expected = {N - 1 - i for i in model.train_indices if i >= 20}
    assert set(backwards.train_indices) == expected
    single = adata[20:].copy()
    single.obs_names = ["cell0", *single.obs_names[1:]]  # one of two, nobody knows which
    assert 0 not in scvi.SCVI.load(tmp_path / "model", single).train_indices


# ---- several modalities ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def as_mudata_will_be() -> Iterator[None]:
    with mudata.set_options(pull_on_update=False):
        yield


MUDATA_KEYS: dict[str, Any] = {"batch_key": "batch", "labels_key": "cell_type", "continuous_covariate_keys": ["age"]}


def modalities() -> mudata.MuData:
    """The cells of `make_adata`, the proteins first and in another order."""
    adata = make_adata()
    table = adata.obsm.pop("proteins")
    proteins = AnnData(
        table.to_numpy(np.float32), obs=pd.DataFrame(index=table.index), var=pd.DataFrame(index=table.columns)
    )
    return mudata.MuData({"protein": proteins[shuffled(N)].copy(), "rna": adata})


def multimodal() -> tuple[mudata.MuData, Any]:
    mdata = modalities()
    scvi.TOTALVI.setup_mudata(mdata, **MUDATA_KEYS)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**BRIEF)
    return mdata, model


def replace_modality(mdata: mudata.MuData, name: str, rows: np.ndarray) -> None:
    mdata.mod[name]._inplace_subset_obs(rows)


def one_protein_of(mdata: mudata.MuData) -> None:
    mdata.mod["protein"].X[3, 2] += 5


MUDATA_EDITS: dict[str, Callable[[mudata.MuData], Any]] = {
    "order of a modality": lambda m: replace_modality(m, "rna", shuffled(N)[::-1]),
    "order of another": lambda m: replace_modality(m, "protein", shuffled(N)[::-1]),
    "a modality filtered": lambda m: replace_modality(m, "rna", np.arange(N) < 100),
    "all filtered": lambda m: mudata.pp.filter_obs(m, m.obs_names[:60]) if hasattr(mudata, "pp") else None,
    "batch": lambda m: set_column("batch", lambda c: pd.Categorical(moved(c)))(m.mod["rna"]),
    "covariate": lambda m: one_value_in_place(m.mod["rna"]),
    "one count": lambda m: one_count(m.mod["rna"]),
    "one protein": one_protein_of,
    "names of proteins": lambda m: setattr(m.mod["protein"], "var_names", m.mod["protein"].var_names[::-1]),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, model = multimodal()
    folder = tmp_path_factory.mktemp("mudata") / "model"
    model.save(folder)
    return folder


def test_a_mudata_answers_in_its_own_order() -> None:
    mdata, model = multimodal()
    assert not mdata.obs_names.equals(mdata.mod["rna"].obs_names)
    assert model.adata.obs_names.equals(mdata.obs_names)
    rna, protein = model.get_normalized_expression()
    assert rna.index.equals(mdata.obs_names)
    assert protein.index.equals(mdata.obs_names)
    latent = pd.DataFrame(model.get_latent_representation(), index=mdata.obs_names)
    joined = make_adata()
    joined.obsm["protein_expression"] = joined.obsm.pop("proteins")
    model.adata = joined
    np.testing.assert_allclose(latent.loc[joined.obs_names], model.get_latent_representation(), rtol=1e-4, atol=1e-5)
    model.adata = mdata
    assert model.mdata is mdata
    mask = np.arange(N) % 3 == 0
    assert np.array_equal(model.get_latent_representation(indices=mask), latent.to_numpy()[mask])
    model.minify_adata()
    assert model.adata.obs_names.equals(mdata.obs_names)
    np.testing.assert_allclose(model.get_latent_representation(), latent, rtol=1e-4, atol=1e-5)


def test_the_split_of_a_mudata_is_in_its_own_order() -> None:
    mdata = modalities()
    scvi.TOTALVI.setup_mudata(mdata, **MUDATA_KEYS)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**BRIEF, validation_indices=[3, 5, 8])
    assert model.validation_indices.tolist() == [3, 5, 8]
    held_out = mdata.obs_names[[3, 5, 8]]
    replace_modality(mdata, "rna", shuffled(N)[::-1])
    mdata.update()
    assert set(mdata.obs_names[model.validation_indices]) == set(held_out)


def test_a_model_is_saved_whatever_became_of_its_mudata(saved: Path, tmp_path: Path) -> None:
    mdata = modalities()
    model = scvi.TOTALVI.load(saved, mdata)
    replace_modality(mdata, "rna", np.arange(N) < 100)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="different cells"):
        model.save(tmp_path / "other", save_anndata=True)
    assert not (tmp_path / "other").exists()
    assert len(scvi.TOTALVI.load(tmp_path / "model", modalities()).get_latent_representation()) == N


@pytest.mark.parametrize("edit", MUDATA_EDITS)
def test_an_edited_mudata(edit: str, saved: Path) -> None:
    mdata = modalities()
    model = scvi.TOTALVI.load(saved, mdata)
    before = model.get_elbo(return_mean=False)
    MUDATA_EDITS[edit](mdata)
    try:
        answer = ask(model, "get_elbo")
    except REFUSED:
        assert edit in ("a modality filtered", "one count")
        return
    assert equal(answer, ask(model, "get_elbo", adata=mdata.copy()))
    assert not np.array_equal(answer[0], before) or edit.startswith("order")


@pytest.mark.parametrize("edit", MUDATA_EDITS)
def test_a_mudata_that_is_edited_after_its_set_up(edit: str) -> None:
    mdata = modalities()
    scvi.TOTALVI.setup_mudata(mdata, **MUDATA_KEYS)
    MUDATA_EDITS[edit](mdata)
    try:
        model = scvi.TOTALVI(mdata, **TINY)
        model.train(**BRIEF)
    except REFUSED:
        return
    fresh = mdata.copy()
    scvi.TOTALVI.setup_mudata(fresh, **MUDATA_KEYS)
    other = scvi.TOTALVI(fresh, **TINY)
    other.train(**BRIEF)
    assert same(weights(model), weights(other))


def test_a_mudata_whose_names_are_out_of_date_is_refused() -> None:
    mdata = modalities()
    for name in ("rna", "protein"):
        replace_modality(mdata, name, mdata.mod[name].obs_names.isin([f"cell{i}" for i in range(90)]))
    with pytest.raises(ValueError, match=r"150 mdata.obs_names are not those of the 90 cells.*Call mdata.update\(\)"):
        scvi.TOTALVI.setup_mudata(mdata, **MUDATA_KEYS)


def test_the_joined_cells_stay_the_same_object_until_they_change() -> None:
    mdata, model = multimodal()
    joined = model.adata
    joined.obsm["X_totalVI"] = model.get_latent_representation()
    model.get_elbo()
    assert model.adata is joined
    set_column("batch", lambda c: pd.Categorical(moved(c)))(mdata.mod["rna"])
    model.get_elbo()
    assert list(model.adata.obs["batch"]) == list(mdata.mod["rna"].obs["batch"].loc[mdata.obs_names])


def test_the_joined_cells_are_those_that_the_mudata_has_now(tmp_path: Path) -> None:
    mdata, model = multimodal()
    mdata.mod["rna"].obs["batch"] = "b1"
    model.save(tmp_path / "model", save_anndata=True)
    for joined in (scvi.TOTALVI.load(tmp_path / "model").adata, model.adata):
        assert set(joined.obs["batch"]) == {"b1"}
    order = shuffled(N)
    mdata = mudata.MuData({name: modality[order].copy() for name, modality in mdata.mod.items()})
    model.adata = mdata
    assert model.adata.obs_names.equals(mdata.obs_names)


@pytest.mark.parametrize("edit", ["batch", "unknown batch", "covariate", "some cells", "one protein"])
def test_an_edit_of_the_joined_cells_is_not_passed_over(edit: str) -> None:
    mdata, model = multimodal()
    before = ask(model, "get_elbo")
    joined = model.adata
    joined.obsm["proteins"] = joined.obsm["protein_expression"].copy()
    EDITS[edit](joined)
    joined.obsm["protein_expression"] = joined.obsm.pop("proteins")
    with pytest.raises(ValueError, match=r"model.adata was edited, .* edit mdata.mod.* or assign the edited AnnData"):
        model.get_elbo()
    with pytest.raises(ValueError, match=r"model\.adata was edited"):
        model.train(**BRIEF)
    if edit != "unknown batch":
        answer = ask(model, "get_elbo", adata=joined)
        model.adata = joined
        assert equal(ask(model, "get_elbo"), answer)
    model.adata = mdata
    assert equal(ask(model, "get_elbo"), before)
