"""Models of cells whose batches and labels are numbers, asked about cells that spell them in another way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scvi
from small_cells import QUICK, TINY, make_adata

SPELLINGS: dict[str, Callable[[np.ndarray], Any]] = {
    "integers": lambda codes: codes,
    "floats": lambda codes: codes.astype(np.float32),
    "nullable": lambda codes: pd.array(codes, dtype="Int64"),
    "text": lambda codes: codes.astype(str),
    "text of floats": lambda codes: codes.astype(float).astype(str),
    "categories": lambda codes: pd.Categorical(codes.astype(float)),
}
FLAGS: dict[str, Callable[[np.ndarray], Any]] = {
    "flags": lambda codes: codes == 1,
    "nullable flags": lambda codes: pd.array(codes == 1, dtype="boolean"),
    "flags as text": lambda codes: (codes == 1).astype(str),
    **SPELLINGS,
}


def codes_of(adata: AnnData, column: str) -> np.ndarray:
    return adata.obs[column].astype(str).str[1:].astype(int).to_numpy()


def spelled(batch: str, label: str, flag: str, n: int = 90) -> AnnData:
    """The same cells, with columns of numbers that are spelled as it is asked for."""
    adata = make_adata(n)
    adata.obs["number"] = SPELLINGS[batch](codes_of(adata, "batch"))
    adata.obs["kind"] = SPELLINGS[label](codes_of(adata, "cell_type") - 1)  # -1 stands for unlabelled
    adata.obs["flag"] = FLAGS[flag](adata.obs["treated"].astype(int).to_numpy())
    return adata


SETUP: dict[str, Any] = {"batch_key": "number", "categorical_covariate_keys": ["flag"]}


def names(numbers: list[int], spelling: str) -> list[str]:
    return [str(value) for value in pd.Series(SPELLINGS[spelling](np.array(numbers))).tolist()]


@pytest.fixture(scope="module", params=[("integers", "flags"), ("text of floats", "flags as text")])
def reference(request: pytest.FixtureRequest) -> scvi.SCVI:
    batch, flag = request.param
    adata = spelled(batch, "integers", flag)
    scvi.SCVI.setup_anndata(adata, **SETUP)
    model = scvi.SCVI(adata, **TINY, encode_covariates=True)
    model.train(**QUICK)
    return model


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_a_model_answers_for_its_cells_in_any_spelling(reference: scvi.SCVI, flag: str, tmp_path: Path) -> None:
    reference.save(tmp_path / "model")
    latent = reference.get_latent_representation()
    for batch in SPELLINGS:
        adata = spelled(batch, "integers", flag)
        np.testing.assert_array_equal(reference.get_latent_representation(adata), latent)
    np.testing.assert_array_equal(scvi.SCVI.load(tmp_path / "model", adata).get_latent_representation(), latent)


@pytest.mark.parametrize("batch", [1, 1.0, "1", "1.0", True, "True", np.int8(1), np.float64(1), np.True_])
def test_an_argument_names_a_batch_in_any_spelling(reference: scvi.SCVI, batch: Any) -> None:
    name = reference.schema.batch_names[1]
    for one, its_name in ((batch, name), ([0, batch], [reference.schema.batch_names[0], name])):
        found, expected = (
            reference.get_normalized_expression(transform_batch=wanted, indices=[0, 1, 2], seed=0)
            for wanted in (one, its_name)
        )
        pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="transform_batch='01' is not a batch of the model"):
        reference.get_normalized_expression(transform_batch="01")


def test_a_query_brings_no_batch_that_is_there_in_another_spelling(reference: scvi.SCVI) -> None:
    known = reference.schema
    query = spelled("floats", "integers", "integers")
    with pytest.warns(UserWarning, match="does not know: training fits the weights of"):
        assert scvi.SCVI.load_query_data(query, reference).schema == known
    query.obs["number"] += 2.0  # of 2, 3 and 4 the first is known
    mapped = scvi.SCVI.load_query_data(query, reference)
    assert mapped.schema.batch_names == (*known.batch_names, "3.0", "4.0")
    assert mapped.schema.categories["flag"] == known.categories["flag"]
    np.testing.assert_array_equal(
        mapped.get_normalized_expression(indices=[3], transform_batch="4", seed=0),
        mapped.get_normalized_expression(indices=[3], transform_batch=4.0, seed=0),
    )


@pytest.mark.parametrize("label", sorted(SPELLINGS))
@pytest.mark.parametrize("unknown", [-1, -1.0, "-1"])
def test_cells_are_unlabelled_in_any_spelling(label: str, unknown: Any) -> None:
    """Their category is no label, and labels are answered as the column has them."""
    adata = spelled("integers", label, "flags")
    scvi.SCANVI.setup_anndata(adata, "kind", unknown, batch_key="number")
    model = scvi.SCANVI(adata, **TINY)
    model.train(**QUICK)
    nowhere, *known = names([-1, 0, 1], label)
    assert model.schema.label_names == tuple(known)
    assert set(model.predict()) <= set(known)
    assert set(model.predict(abstain_below=1.0)) == {nowhere}
    observed = model.predict(keep_observed=True)
    for other in SPELLINGS:
        query = spelled("floats", other, "flags")
        np.testing.assert_array_equal(model.predict(query, keep_observed=True), observed)


@pytest.mark.parametrize("label", ["floats", "text"])
def test_labels_of_an_scvi_model_go_on_in_another_spelling(label: str) -> None:
    """A dispersion by label belongs to its label, whichever way the column is spelled that scANVI reads."""
    adata = spelled("integers", "integers", "flags")
    scvi.SCVI.setup_anndata(adata, batch_key="number", labels_key="kind")
    first = scvi.SCVI(adata, **TINY, dispersion="gene-label")
    first.train(**QUICK)
    order = [1, -1, 0]
    column = SPELLINGS[label](codes_of(adata, "cell_type") - 1)
    adata.obs["again"] = pd.Categorical(column, categories=SPELLINGS[label](np.array(order)))
    model = scvi.SCANVI.from_scvi_model(first, -1, labels_key="again")
    assert model.schema.label_names == tuple(names([1, 0], label))
    px_r = first.module.state_dict()["px_r"]
    np.testing.assert_array_equal(model.module.state_dict()["px_r"], px_r[:, [2, 1]])  # of -1, 0 and 1


def test_labels_are_asked_for_in_any_spelling() -> None:
    adata = spelled("integers", "floats", "flags")
    scvi.CondSCVI.setup_anndata(adata, "kind", batch_key="number")
    model = scvi.CondSCVI(adata, **TINY)
    model.train(**QUICK)
    asked = {"n_samples": 5, "seed": 0}
    profiles = model.get_label_expression(["-1.0", "1.0"], transform_batch="2", **asked)
    assert profiles.index.tolist() == ["-1.0", "1.0"]
    pd.testing.assert_frame_equal(model.get_label_expression([-1, True], transform_batch=2.0, **asked), profiles)
    pd.testing.assert_frame_equal(model.get_label_expression(np.array([-1, 1]), transform_batch=[2], **asked), profiles)


def test_labels_of_two_data_sets_are_joined_in_any_spelling(tmp_path: Path) -> None:
    seq, spatial = spelled("integers", "text", "flags"), spelled("floats", "floats", "flags", n=60)
    spatial.obs["kind"] += 1.0  # -1, 0 and 1 in the one, 0, 1 and 2 in the other
    for adata in (seq, spatial):
        scvi.GIMVI.setup_anndata(adata, batch_key="number", labels_key="kind")
    model = scvi.GIMVI(seq, spatial, **TINY, dispersion="gene-label")
    assert model.module.n_labels == 4
    model.train(**QUICK)
    elbo = model.get_elbo(seed=0)
    spatial.obs["kind"] = spatial.obs["kind"].astype(int).astype("category")
    assert model.get_elbo([None, spatial.copy()], seed=0) == elbo
    model.save(tmp_path / "model")
    seq.obs["kind"] = seq.obs["kind"].astype(float)
    assert scvi.GIMVI.load(tmp_path / "model", seq, spatial).get_elbo(seed=0) == elbo


def test_genes_are_found_by_name_alone() -> None:
    adata = make_adata()
    adata.var_names = [str(number) for number in range(adata.n_vars)]
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    model.train(**QUICK)
    assert model.get_normalized_expression(indices=[0], gene_list=["3"]).columns.tolist() == ["3"]
    for name in ("3.0", 3.0, True):
        with pytest.raises(ValueError, match="is not a gene"):
            model.get_normalized_expression(indices=[0], gene_list=[name])  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_proteins_of_a_mudata_in_batches_of_any_spelling() -> None:
    """The columns of a MuData are matched as those of an AnnData are, and so are the batches that imputation names."""
    from mudata import MuData

    def joined(batch: str) -> Any:
        adata = spelled(batch, "integers", "flags")
        proteins = AnnData(adata.obsm["proteins"].astype(np.float32), obs=adata.obs[["number"]])
        rna = AnnData(adata.X, obs=adata.obs[["flag"]], var=adata.var)
        return MuData({"rna": rna, "protein": proteins})

    mdata = joined("integers")
    modalities = {"batch_key": "protein"}
    scvi.TOTALVI.setup_mudata(mdata, batch_key="number", modalities=modalities)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**QUICK)
    latent, imputed = model.get_latent_representation(), model.get_normalized_expression(transform_batch="2", seed=0)
    for batch in SPELLINGS:
        np.testing.assert_array_equal(model.get_latent_representation(joined(batch)), latent)
    for mine, theirs in zip(model.get_normalized_expression(transform_batch=2.0, seed=0), imputed, strict=True):
        pd.testing.assert_frame_equal(mine, theirs)
