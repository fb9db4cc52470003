"""What is special about TOTALVI: two modalities, missing proteins, MuData, and real cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scvi
from scvi.fit.ranks import ALONE
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

P = 5
PROTEINS = [f"protein{j}" for j in range(P)]
REAL = Path(__file__).parents[1] / "sample_data" / "pbmc_cite_small.h5ad"


def fit(adata: AnnData, options: dict[str, Any] | None = None, **keys: Any) -> scvi.TOTALVI:
    scvi.TOTALVI.setup_anndata(adata, "proteins", **{"batch_key": "batch"} | keys)
    model = scvi.TOTALVI(adata, **TINY, **options or {})
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def model() -> scvi.TOTALVI:
    return fit(make_adata())


@pytest.fixture(scope="module")
def patchy() -> scvi.TOTALVI:
    """Batch b1 measured neither protein1 nor protein4; zero-inflated genes."""
    adata = make_adata()
    adata.obsm["proteins"].loc[(adata.obs["batch"] == "b1").to_numpy(), ["protein1", "protein4"]] = 0
    return fit(adata, {"gene_likelihood": "zinb"})


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


# ---- expression ------------------------------------------------------------------------------------------------------


def test_expression_is_what_the_network_says(model: scvi.TOTALVI, no_noise: None) -> None:
    mb = model._cells.data.minibatch(np.arange(N))
    with torch.no_grad():
        q = model.module.variational(mb)
        decoded = model.module.generative(q.z.loc, mb.totals.log(), mb)
        genes, proteins = decoded.genes, decoded.proteins
        log_mean = proteins.log_background.loc + proteins.log_background.scale.square() / 2  # of a log-normal
        back, fore = log_mean.exp(), (log_mean + proteins.log_factor).exp()
        shares = proteins.foreground_probability
    rna, protein = model.get_normalized_expression()
    assert rna.shape == (N, G)
    assert protein.shape == (N, P)
    assert list(rna.index) == list(protein.index) == list(model.adata.obs_names)
    assert list(protein.columns) == PROTEINS
    np.testing.assert_allclose(rna, genes.scale, rtol=1e-4)
    np.testing.assert_allclose(rna.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(protein, shares * fore, rtol=1e-3)
    whole = model.get_normalized_expression(include_protein_background=True)[1]
    np.testing.assert_allclose(whole, shares * fore + (1 - shares) * back, rtol=1e-3)
    scaled = model.get_normalized_expression(scale_protein=True)[1]
    np.testing.assert_allclose(scaled, protein.div(protein.sum(axis=1), axis=0), rtol=1e-4)
    drawn = model.get_normalized_expression(sample_protein_mixing=True, seed=0)[1].to_numpy()
    assert (np.isclose(drawn, 0) | np.isclose(drawn, fore, rtol=1e-3)).all()
    latent = model.get_normalized_expression(library_size="latent")[0]
    np.testing.assert_allclose(latent, rna * np.asarray(model.adata.X.sum(axis=1)), rtol=1e-3)
    np.testing.assert_allclose(model.get_protein_foreground_probability(), shares, rtol=1e-3, atol=1e-5)


def test_parts_and_draws(model: scvi.TOTALVI) -> None:
    genes, proteins = ["gene7", "gene2"], ["protein3", "protein0"]
    whole = model.get_normalized_expression(seed=0)
    rna, protein = model.get_normalized_expression(gene_list=genes, protein_list=proteins, seed=0)
    pd.testing.assert_frame_equal(rna, whole[0][genes])
    pd.testing.assert_frame_equal(protein, whole[1][proteins])
    several = model.get_normalized_expression(n_samples=4, return_mean=False, protein_list="protein3", indices=[4, 1])
    assert [part.shape for part in several] == [(4, 2, G), (4, 2, 1)]
    arrays = model.get_normalized_expression(return_numpy=True, seed=0)
    assert np.array_equal(arrays[1], whole[1].to_numpy())
    few = model.get_normalized_expression(n_samples_overall=7)
    assert [part.shape for part in few] == [(7, G), (7, P)]
    draws = model.get_protein_foreground_probability(n_samples=3, return_mean=False)
    assert draws.shape == (3, N, P)
    assert ((draws >= 0) & (draws <= 1)).all()
    with pytest.raises(
        ValueError, match=r"protein_list has 'protien3', which is not a protein.*did you mean 'protein3'"
    ):
        model.get_normalized_expression(protein_list=["protien3"])
    with pytest.raises(ValueError, match=r"gene_list has 'protein3'"):
        model.get_normalized_expression(gene_list=["protein3"])
    for name in ("sample_protein_mixing", "scale_protein", "include_protein_background"):
        with pytest.raises(ValueError, match=rf"{name}=2 is not True or False"):
            model.get_normalized_expression(**{name: 2})
    with pytest.raises(ValueError, match="transform_batch='b9' is not a batch"):
        model.get_protein_foreground_probability(transform_batch="b9")
    with pytest.raises(ValueError, match="return_mean=3 is not True or False"):
        model.get_protein_foreground_probability(return_mean=3)


def test_several_batches_are_averaged(model: scvi.TOTALVI, no_noise: None) -> None:
    each = [model.get_normalized_expression(transform_batch=name) for name in ("b0", "b2")]
    both = model.get_normalized_expression(transform_batch=["b0", "b2"])
    for part in range(2):
        np.testing.assert_allclose(both[part], (each[0][part] + each[1][part]) / 2, rtol=1e-4)


# ---- missing proteins ------------------------------------------------------------------------------------------------


def test_what_a_batch_did_not_measure_is_nan_there(patchy: scvi.TOTALVI, no_noise: None) -> None:
    missing = np.zeros((N, P), dtype=bool)
    missing[np.ix_(patchy.adata.obs["batch"] == "b1", [1, 4])] = True
    for answer in (
        patchy.get_normalized_expression()[1],
        patchy.get_normalized_expression(n_samples=3, include_protein_background=True, scale_protein=True)[1],
        patchy.get_protein_foreground_probability(),
    ):
        assert np.array_equal(answer.isna().to_numpy(), missing)
    assert patchy.get_normalized_expression()[0].notna().all().all()
    there = patchy.get_normalized_expression(transform_batch="b1")[1]
    assert there[["protein1", "protein4"]].isna().all().all()
    imputed = [patchy.get_normalized_expression(transform_batch=name)[1] for name in ("b0", ["b0", "b1"])]
    assert imputed[0].notna().all().all()
    np.testing.assert_allclose(imputed[1]["protein1"], imputed[0]["protein1"], rtol=1e-5)  # b1 has no say in it
    scaled = patchy.get_normalized_expression(scale_protein=True)[1]
    np.testing.assert_allclose(scaled.sum(axis=1), 1, rtol=1e-4)


def test_hidden_values_make_no_difference_to_the_loss_but_zeros_do(patchy: scvi.TOTALVI) -> None:
    adata = patchy.adata.copy()
    zeros = scvi.TOTALVI(adata, **TINY, gene_likelihood="zinb", override_missing_proteins=True)
    zeros.module.load_state_dict(patchy.module.state_dict())
    zeros.is_trained = True
    in_b1 = np.flatnonzero(adata.obs["batch"] == "b1")
    others = np.flatnonzero(adata.obs["batch"] != "b1")
    scores = [m.get_elbo(indices=in_b1, return_mean=False, seed=0) for m in (patchy, zeros)]
    assert (scores[0] > scores[1]).all()
    assert np.array_equal(*(m.get_elbo(indices=others, return_mean=False, seed=0) for m in (patchy, zeros)))
    assert zeros.get_normalized_expression()[1].notna().all().all()


def test_override_is_remembered(tmp_path: Path) -> None:
    adata = make_adata()
    adata.obsm["proteins"].loc[(adata.obs["batch"] == "b1").to_numpy(), "protein1"] = 0
    for override in (False, True):
        model = fit(adata, {"override_missing_proteins": override})
        model.save(tmp_path / str(override))
        for again in (model, scvi.TOTALVI.load(tmp_path / str(override), adata)):
            assert again.get_protein_foreground_probability()["protein1"].isna().any() != override


def test_the_background_starts_where_the_data_say() -> None:
    adata = make_adata()
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    starts = []
    for empirical in (None, True, False):
        model = scvi.TOTALVI(adata, **TINY, empirical_protein_background_prior=empirical)
        before = model.module.background_pro_alpha.clone()
        model._start([model._cells.data], [np.arange(N)], ALONE)
        starts.append(model.module.background_pro_alpha.detach())
        assert torch.equal(before, starts[-1]) is (empirical is False)
    assert torch.equal(starts[0], starts[1])
    np.testing.assert_allclose(starts[0].mean(1)[:3], np.log(3), atol=0.4)  # see small_cells.make_adata
    with pytest.raises(ValueError, match="empirical_protein_background_prior='yes' is not True or False"):
        scvi.TOTALVI(adata, empirical_protein_background_prior="yes")


def test_a_latent_library_size_and_a_latent_space_on_the_simplex() -> None:
    model = fit(make_adata(), {"use_observed_lib_size": False, "latent_distribution": "ln"})
    np.testing.assert_allclose(model.get_latent_representation(mc_samples=50, seed=0).sum(axis=1), 1, rtol=1e-4)
    sizes = model.get_latent_library_size()
    assert sizes.shape == (N, 1)
    assert (sizes > 0).all()
    assert model.get_marginal_ll(n_mc_samples=50, seed=0) > model.get_elbo(seed=0)


def test_dispersions_by_batch_and_label() -> None:
    model = fit(
        make_adata(), {"gene_dispersion": "gene-batch", "protein_dispersion": "protein-label"}, labels_key="cell_type"
    )
    assert model.module.px_r.shape == (G, 3)
    assert model.module.py_r.shape == (P, 3)
    phi = model.get_likelihood_parameters()["protein_dispersions"]
    codes = model.adata.obs["cell_type"].astype("category").cat.codes.to_numpy().copy()
    np.testing.assert_allclose(phi, model.module.py_r.detach().exp().T[codes], rtol=1e-5)


def test_the_reconstruction_error_of_each_modality(patchy: scvi.TOTALVI) -> None:
    """The parts of the ELBO, at the same draws; a protein that a batch did not measure adds nothing."""
    losses = patchy.get_reconstruction_error(return_mean=False, seed=0)
    assert list(losses) == ["reconst_loss_gene", "reconst_loss_protein"]
    assert all(loss.shape == (N,) for loss in losses.values())
    assert (
        losses["reconst_loss_gene"] + losses["reconst_loss_protein"] < -patchy.get_elbo(return_mean=False, seed=0)
    ).all()
    means = patchy.get_reconstruction_error(seed=0)
    assert means == pytest.approx({name: loss.mean() for name, loss in losses.items()})
    assert min(means.values()) > 0


# ---- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "patchy"])
def test_predictive_samples(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    samples = model.posterior_predictive_sample(n_samples=50, seed=0)
    assert list(samples) == ["rna", "protein"]
    assert sparse.issparse(samples["rna"])
    genes, proteins = samples["rna"].toarray(), samples["protein"]
    assert genes.shape == (N, G, 50)
    assert proteins.shape == (N, P, 50)
    assert (genes == np.floor(genes)).all()
    assert (proteins == np.floor(proteins)).all()
    parameters = model.get_likelihood_parameters(n_samples=50, give_mean=True, seed=0)
    shares = 1 / (1 + np.exp(-parameters["protein_mixing"]))
    fore, back = parameters["protein_foreground"], parameters["protein_background"]
    expected = (shares * back + (1 - shares) * fore).mean(axis=0)
    np.testing.assert_allclose(proteins.mean(axis=(0, 2)), expected, rtol=0.25)
    kept = 1 / (1 + np.exp(parameters["dropout"])) if "dropout" in parameters else 1.0
    in_all = (parameters["mean"] * kept).mean(axis=0)
    np.testing.assert_allclose(genes.mean(axis=(0, 2)).sum(), in_all.sum(), rtol=0.1)
    assert np.corrcoef(genes.mean(axis=(0, 2)), in_all)[0, 1] > 0.9  # no gene is in the place of another
    assert np.corrcoef(genes.sum(axis=(1, 2)), (parameters["mean"] * kept).sum(axis=1))[0, 1] > 0.9  # and no cell
    some = model.posterior_predictive_sample(
        indices=[3, 1], gene_list=["gene5"], protein_list=["protein2", "protein0"], transform_batch="b0", seed=0
    )
    assert sparse.issparse(some["rna"])
    assert some["rna"].shape == (2, 1)
    assert some["protein"].shape == (2, 2)
    with pytest.raises(ValueError, match="names several batches"):
        model.posterior_predictive_sample(transform_batch=["b0", "b1"])
    with pytest.raises(ValueError, match="n_samples=0"):
        model.posterior_predictive_sample(n_samples=0)


def test_the_mean_of_the_background(patchy: scvi.TOTALVI) -> None:
    """It is that of many draws of the background, and of what was not measured there is none."""
    found = patchy.get_protein_background_mean(seed=0)
    assert found.shape == (N, P)
    missing = patchy.get_protein_foreground_probability(seed=0).isna().to_numpy()
    assert missing.any()
    assert np.array_equal(np.isnan(found), missing)
    drawn = patchy.get_likelihood_parameters(n_samples=400, give_mean=True, seed=1)["protein_background"]
    found = np.mean([patchy.get_protein_background_mean(seed=seed) for seed in range(10)], axis=0)
    np.testing.assert_allclose(np.nanmean(found, axis=0), drawn.mean(axis=0, where=~missing), rtol=0.1)
    assert np.array_equal(patchy.get_protein_background_mean(indices=[4, 2], seed=0).shape, (2, P))


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_correlations(model: scvi.TOTALVI, kind: str) -> None:
    matrix = model.get_feature_correlation_matrix(n_samples=4, correlation_type=kind, seed=0)
    assert list(matrix.index) == list(matrix.columns) == [*model.schema.genes, *PROTEINS]
    values = matrix.to_numpy()
    np.testing.assert_allclose(np.diag(values), 1)
    np.testing.assert_allclose(values, values.T, atol=1e-9)
    assert (np.abs(values) <= 1 + 1e-6).all()
    both = model.get_feature_correlation_matrix(n_samples=2, transform_batch=["b0", "b1"], seed=0)
    assert np.isfinite(both.to_numpy()).all()
    logs = model.get_feature_correlation_matrix(n_samples=4, correlation_type=kind, log_transform=True, seed=0)
    difference = np.abs(logs - matrix).to_numpy().max()
    # Ranks stay, but for neighbours that rounding makes one.
    assert difference > 0.01 if kind == "pearson" else difference < 1e-4
    with pytest.raises(ValueError, match=r"correlation_type='kendall' is not one of 'spearman', 'pearson'"):
        model.get_feature_correlation_matrix(correlation_type="kendall")


def test_likelihood_parameters(model: scvi.TOTALVI, patchy: scvi.TOTALVI) -> None:
    names = {"mean", "dispersions", *(f"protein_{x}" for x in ("background", "foreground", "mixing", "dispersions"))}
    assert set(model.get_likelihood_parameters()) == names
    assert set(patchy.get_likelihood_parameters()) == names | {"dropout"}
    found = model.get_likelihood_parameters(n_samples=3)
    assert found["mean"].shape == (3, N, G)
    assert found["protein_mixing"].shape == (3, N, P)
    assert (found["protein_foreground"] >= found["protein_background"]).all()


# ---- query mapping ---------------------------------------------------------------------------------------------------


def test_a_new_batch_without_some_proteins(model: scvi.TOTALVI) -> None:
    query = make_adata(n=60, seed=2)
    query.obs["batch"] = "b7"
    query.obsm["proteins"]["protein3"] = 0
    mapped = scvi.TOTALVI.load_query_data(query, model)
    assert mapped.schema.proteins.measured == ((True,) * P,) * 3 + ((True, True, True, False, True),)
    mapped.train(**QUICK)
    assert mapped.module.background_pro_alpha.shape == (P, 4)
    assert mapped.get_normalized_expression()[1]["protein3"].isna().all()
    assert mapped.get_normalized_expression(transform_batch="b0")[1].notna().all().all()
    before = model.get_normalized_expression(seed=0)
    after = mapped.get_normalized_expression(model.adata, seed=0)
    for part in range(2):
        np.testing.assert_allclose(after[part], before[part], rtol=1e-4)


@pytest.mark.filterwarnings("ignore:the query has no batch")
@pytest.mark.parametrize("batch", ["b1", "b7"], ids=["known", "new"])
def test_proteins_that_a_query_lacks_are_not_measured(model: scvi.TOTALVI, tmp_path: Path, batch: str) -> None:
    query = make_adata(n=60, seed=2)
    query.obs["batch"] = batch
    query.obsm["proteins"] = query.obsm["proteins"][["protein3", "protein0", "protein1"]]
    lacking = ["protein2", "protein4"]
    expected = query.obsm["proteins"].copy()
    with pytest.warns(UserWarning, match=r"3 of the 5 proteins.*not measured: 'protein2', 'protein4'"):
        mapped = scvi.TOTALVI.load_query_data(query, model)
    pd.testing.assert_frame_equal(query.obsm["proteins"], expected)
    if batch == "b7":
        mapped.train(**QUICK)
    own = mapped.get_normalized_expression(seed=0)[1]
    assert own.columns[own.isna().all()].tolist() == lacking
    assert mapped.get_normalized_expression(transform_batch="b0", seed=0)[1].notna().all(axis=None)
    mb = mapped._cells.data.minibatch(np.arange(7))
    assert mb.measured.tolist() == [[name not in lacking for name in PROTEINS]] * 7
    assert (mb.proteins[:, [2, 4]] == 0).all()
    with pytest.warns(UserWarning, match="not measured"):
        prepared = scvi.TOTALVI.prepare_query_anndata(query, model, inplace=False)
    assert prepared.obsm["proteins"].columns.tolist() == PROTEINS
    elbos = [mapped.get_elbo(cells, return_mean=False, seed=0) for cells in (prepared, None)]
    np.testing.assert_allclose(*elbos, rtol=1e-5)
    mapped.save(tmp_path / "model", save_anndata=True)
    loaded = scvi.TOTALVI.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.get_normalized_expression(seed=0)[1], own)


def test_a_query_without_any_protein(model: scvi.TOTALVI) -> None:
    query = make_adata(n=60, seed=2)
    query.obs["batch"] = "b7"
    del query.obsm["proteins"]
    with pytest.warns(UserWarning, match=r"0 of the 5 proteins"):
        mapped = scvi.TOTALVI.load_query_data(query, model)
    mapped.train(**QUICK)
    assert "proteins" not in query.obsm
    assert np.isfinite(mapped.get_elbo())
    assert not mapped._cells.data.measured.any()
    assert mapped.get_normalized_expression(transform_batch="b0")[1].notna().all(axis=None)
    same = mapped.get_normalized_expression(model.adata, seed=0)[1]
    np.testing.assert_allclose(same, model.get_normalized_expression(seed=0)[1], rtol=1e-4)


def test_a_reference_that_lacks_proteins_and_a_query_that_lacks_others(patchy: scvi.TOTALVI) -> None:
    query = make_adata(n=60, seed=2)
    query.obs["batch"] = np.where(np.arange(60) % 2, "b1", "b7")
    query.obsm["proteins"] = query.obsm["proteins"].drop(columns="protein0")
    with pytest.warns(UserWarning, match=r"4 of the 5 proteins.*: 'protein0'"):
        mapped = scvi.TOTALVI.load_query_data(query, patchy)
    assert mapped.schema.proteins.measured[:3] == patchy.schema.proteins.measured
    assert mapped.schema.proteins.measured[3] == (False, True, True, True, True)
    measured = mapped._cells.data.minibatch(np.arange(2)).measured
    assert measured.tolist() == [[False, True, True, True, True], [False, False, True, True, False]]
    mapped.train(**QUICK)
    assert np.isfinite(mapped.get_elbo())


@pytest.mark.filterwarnings("ignore:the query has no batch")
def test_a_reference_without_batches_and_a_query_without_proteins() -> None:
    model = fit(make_adata(), batch_key=None)
    query = make_adata(n=30, seed=2)
    del query.obsm["proteins"]
    with pytest.warns(UserWarning, match=r"0 of the 5 proteins"):
        mapped = scvi.TOTALVI.load_query_data(query, model)
    assert mapped.get_normalized_expression()[1].isna().all(axis=None)
    assert mapped.get_normalized_expression(transform_batch="0")[1].notna().all(axis=None)


def test_a_mudata_is_prepared_for_a_reference() -> None:
    reference = make_mdata()
    scvi.TOTALVI.setup_mudata(reference, batch_key="batch")
    model = scvi.TOTALVI(reference, **TINY)
    model.train(**QUICK)
    query = make_mdata(n=40, seed=2)
    query.mod["protein"] = query.mod["protein"][:, [4, 1, 0]].copy()
    with pytest.warns(UserWarning, match=r"3 of the 5 proteins"):
        prepared = scvi.TOTALVI.prepare_query_anndata(query, model, inplace=False)
    assert prepared.obsm["protein_expression"].columns.tolist() == PROTEINS
    with pytest.raises(TypeError, match="a Pair cannot become an AnnData in place: pass inplace=False"):
        scvi.TOTALVI.prepare_query_anndata(query, model, inplace=True)
    query = query.mod["rna"]
    query.obs["batch"] = "b7"
    with pytest.warns(UserWarning, match=r"0 of the 5 proteins"):
        mapped = scvi.TOTALVI.load_query_data(query, model)
    mapped.train(**QUICK)
    assert np.isfinite(mapped.get_elbo())


def test_a_mudata_is_mapped_onto_a_mudata() -> None:
    reference = make_mdata()
    scvi.TOTALVI.setup_mudata(reference, batch_key="batch")
    model = scvi.TOTALVI(reference, **TINY)
    model.train(**QUICK)
    query = make_mdata(n=40, seed=2)
    query.mod["rna"].obs["batch"] = "b7"
    mapped = scvi.TOTALVI.load_query_data(query, model)
    mapped.train(**QUICK)
    assert mapped.schema.batch_names == ("b0", "b1", "b2", "b7")
    assert np.isfinite(mapped.get_elbo(query))


@pytest.mark.parametrize("mapped", [False, True], ids=["reference", "mapped"])
def test_a_checkpoint_with_the_former_names_of_weights_is_gone_on_with(mapped: bool, tmp_path: Path) -> None:
    """Names of weights are in what tells fits apart, too, where a part of the weights is trained."""
    cells = make_adata()
    reference = fit(cells[cells.obs["batch"] != "b2"].copy(), {"use_observed_lib_size": False})

    def make() -> scvi.TOTALVI:
        if mapped:
            return scvi.TOTALVI.load_query_data(cells[cells.obs["batch"] == "b2"].copy(), reference, unfrozen=True)
        return scvi.TOTALVI(reference.adata, **TINY, use_observed_lib_size=False)

    whole, resumed = make(), make()
    whole.train(**QUICK, checkpoint_dir=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {name: value.replace("encoder.l_gene_", "encoder.l_") for name, value in file.metadata().items()}
    save_file({name.replace(".l_gene_", ".l_"): t for name, t in load_file(path).items()}, path, metadata)
    resumed.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    state = resumed.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.module.state_dict().items())


# ---- MuData ----------------------------------------------------------------------------------------------------------


class Pair:
    """The part of a MuData that is read."""

    def __init__(self, **mod: AnnData) -> None:
        self.mod, self.uns, self.is_view = dict(mod), {}, False
        self.obs = pd.DataFrame(index=next(iter(mod.values())).obs_names)


def make_mdata(n: int = N, seed: int = 0) -> Pair:
    adata = make_adata(n=n, seed=seed)
    proteins = AnnData(
        sparse.csr_matrix(adata.obsm["proteins"].to_numpy(np.float32)), var=pd.DataFrame(index=PROTEINS), obs=adata.obs
    )
    rna = AnnData(adata.X, obs=adata.obs.drop(columns="donor"), var=adata.var)
    return Pair(rna=rna, protein=proteins)


def test_a_mudata_gives_the_model_of_the_anndata(model: scvi.TOTALVI, tmp_path: Path) -> None:
    mdata = make_mdata()
    scvi.TOTALVI.setup_mudata(mdata, batch_key="batch")
    assert list(mdata.uns) == ["_scvi"]
    assert "_scvi" not in mdata.mod["rna"].uns
    twin = scvi.TOTALVI(mdata, **TINY)
    twin.train(**QUICK)
    assert twin.mdata is mdata
    assert twin.adata.X is mdata.mod["rna"].X  # shared, not copied
    for mine, theirs in zip(
        twin.get_normalized_expression(seed=0), model.get_normalized_expression(seed=0), strict=True
    ):
        pd.testing.assert_frame_equal(mine, theirs)
    pd.testing.assert_frame_equal(
        twin.get_normalized_expression(mdata, seed=0)[1], twin.get_normalized_expression(make_mdata(), seed=0)[1]
    )
    other = make_mdata(n=20, seed=1)
    other.mod["protein"] = other.mod["protein"][::-1].copy()  # found by name
    expected = model.get_latent_representation(make_adata(n=20, seed=1))
    assert np.array_equal(twin.get_latent_representation(other), expected)
    twin.save(tmp_path / "model")
    loaded = scvi.TOTALVI.load(tmp_path / "model", mdata)
    assert np.array_equal(loaded.get_latent_representation(), twin.get_latent_representation())
    with pytest.raises(TypeError, match="a MuData came, but the model was set up with an AnnData"):
        model.get_latent_representation(mdata)


def test_layers_and_columns_of_other_modalities() -> None:
    mdata = make_mdata()
    rna, protein = mdata.mod["rna"], mdata.mod["protein"]
    rna.layers["counts"], protein.layers["adt"] = rna.X, protein.X
    rna.X, protein.X = rna.X * 0.5, protein.X * 0.5
    mdata = Pair(gex=rna, cite=protein)
    places = {"rna_layer": "gex", "protein_layer": "cite", "categorical_covariate_keys": "cite", "batch_key": "gex"}
    keys = {name: value for name, value in KEYS.items() if name != "labels_key"}
    scvi.TOTALVI.setup_mudata(mdata, "counts", "adt", **keys, modalities=places)
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**QUICK)
    assert np.isfinite(model.get_elbo())
    assert model.schema.proteins.modalities == {
        "rna_layer": "gex",
        "protein_layer": "cite",
        "donor": "cite",
        "treated": "cite",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": {"rna_layer": "gex"}}, r"modalities\['rna_layer'\]='gex' is not a modality of mdata"),
        ({"modalities": {"rna": "rna"}}, r"modalities has 'rna', which is no argument with a modality"),
        ({"protein_layer": "counts"}, r"protein_layer='counts' is not a layer"),
        ({"rna_layer": "counts"}, r"layer='counts' is not in adata.layers"),
        ({"batch_key": "bathc"}, r"batch_key='bathc' is not a column"),
        (
            {"batch_key": "score2", "modalities": {"batch_key": "protein"}},
            r"'score2' is not a column of mdata.mod\['protein'\]",
        ),
    ],
    ids=str,
)
def test_wrong_mudata_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scvi.TOTALVI.setup_mudata(make_mdata(), **arguments)


def test_other_mudata_are_refused() -> None:
    mdata = make_mdata()
    mdata.mod["protein"] = mdata.mod["protein"][:-1].copy()
    with pytest.raises(ValueError, match=r"'rna' and 'protein' have different cells.*intersect_obs"):
        scvi.TOTALVI.setup_mudata(mdata)
    with pytest.raises(TypeError, match="pass a MuData"):
        scvi.TOTALVI.setup_mudata(make_adata())
    with pytest.raises(ValueError, match="not set up for TOTALVI"):
        scvi.TOTALVI(make_mdata())
    mdata = make_mdata()
    scvi.TOTALVI.setup_mudata(mdata)
    mdata.mod["protein"].X[0, 0] += 1
    with pytest.raises(ValueError, match="adata has changed since it was set up"):
        scvi.TOTALVI(mdata, **TINY)


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_a_real_mudata() -> None:
    import mudata

    pair = make_mdata()
    batch = pair.mod["rna"].obs.pop("batch")
    mdata = mudata.MuData(pair.mod)
    mdata.obs["batch"] = batch  # of the cells, not of a modality
    scvi.TOTALVI.setup_mudata(mdata, batch_key="batch")
    model = scvi.TOTALVI(mdata, **TINY)
    model.train(**QUICK)
    assert model.schema.batch_names == ("b0", "b1", "b2")
    assert np.isfinite(model.get_elbo(mdata))


# ---- real cells ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[scvi.TOTALVI, AnnData, np.ndarray]:
    """Fitted with the proteins of 200 of the 800 cells hidden; the cells, and which are hidden."""
    adata = anndata.read_h5ad(REAL)
    hidden = np.random.default_rng(0).permutation(np.flatnonzero(adata.obs["batch"] == "pbmc_10k"))[:200]
    adata.obs["panel"] = adata.obs["batch"].astype(str)
    adata.obs.iloc[hidden, adata.obs.columns.get_loc("panel")] = "hidden"
    adata.obsm["shown"] = np.where(
        (adata.obs["panel"] == "pbmc_10k").to_numpy()[:, None], adata.obsm["protein_counts"], 0
    )
    scvi.TOTALVI.setup_anndata(adata, "shown", "protein_names", batch_key="panel")
    model = scvi.TOTALVI(adata, n_hidden=128, seed=0)
    model.train(seed=0, enable_progress_bar=False)
    return model, adata, hidden


@pytest.mark.slow
def test_hidden_proteins_are_imputed(real: tuple[scvi.TOTALVI, AnnData, np.ndarray]) -> None:
    model, adata, hidden = real
    _, imputed = model.get_normalized_expression(
        indices=hidden, transform_batch="pbmc_10k", include_protein_background=True, n_samples=10, seed=0
    )
    true = np.log1p(adata.obsm["protein_counts"][hidden])
    r = pd.Series(
        [np.corrcoef(np.log1p(imputed.iloc[:, j]), true[:, j])[0, 1] for j in range(14)], index=imputed.columns
    )
    assert (r[["CD3", "CD4", "CD14", "CD127"]] > 0.8).all()
    assert r.mean() > 0.64
    assert model.get_protein_foreground_probability(indices=hidden).isna().all().all()


@pytest.mark.slow
def test_foregrounds_are_those_of_the_gates(real: tuple[scvi.TOTALVI, AnnData, np.ndarray]) -> None:
    model, adata, _ = real
    gate = adata.obs["protein_gate"]
    for panel in ("pbmc_10k", "hidden"):
        cells = np.flatnonzero((adata.obs["panel"] == panel) & (gate != "unassigned"))
        fore = model.get_protein_foreground_probability(indices=cells, transform_batch="pbmc_10k", n_samples=10, seed=0)
        for protein, types in {
            "CD3": ("CD4 T memory", "CD4 T naive", "CD8 T"),
            "CD19": ("B",),
            "CD14": ("CD14 Mono",),
        }.items():
            assert roc_auc_score(gate.iloc[cells].isin(types), fore[protein]) > 0.95, (panel, protein)


@pytest.mark.slow
def test_cells_of_the_three_panels_mix(real: tuple[scvi.TOTALVI, AnnData, np.ndarray]) -> None:
    from scvi.queries.clustering import batch_entropy, knn_accuracy, max_batch_entropy

    model, adata, _ = real
    latent = model.get_latent_representation()
    panel = adata.obs["panel"].to_numpy()
    assert batch_entropy(latent, panel) > 0.5 * max_batch_entropy(panel)
    gated = ~adata.obs["protein_gate"].isin(["unassigned", "unlabelled"]).to_numpy()
    assert knn_accuracy(latent[gated], adata.obs["protein_gate"][gated]) > 0.85


def test_a_mudata_is_no_cells_of_a_model_of_genes_alone(cells: AnnData) -> None:
    scvi.SCVI.setup_anndata(cells)
    model = scvi.SCVI(cells, **TINY)
    model.train(**QUICK)
    with pytest.raises(TypeError, match=r"pass an anndata\.AnnData$"):
        model.get_elbo(make_mdata())
