"""Differential expression under the names of 2020: shapes, pairing, groups, and numbers against loops."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from scvi.dataset import CellMeasurement, GeneExpressionDataset
from scvi.inference import Posterior, TotalPosterior, UnsupervisedTrainer, posterior_utils
from scvi.inference.posterior_utils import (
    credible_intervals,
    describe_continuous_distrib,
    pairs_sampler,
    save_cluster_xlsx,
)
from scvi.models import TOTALVI, VAE

VANILLA = ["proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2"]
CHANGE = ["proba_de", "proba_not_de", "bayes_factor", "scale1", "scale2"]
CHANGE += [f"lfc_{name}" for name in ("mean", "median", "std", "min", "max")]
RAW = [f"{name}{side}" for name in ("raw_mean", "non_zeros_proportion", "raw_normalized_mean") for side in (1, 2)]
N, G = 60, 20


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    """Three types of cells; gene 1 marks type a, gene 2 nobody."""
    rng, kind = np.random.default_rng(0), np.arange(N) % 3
    x = rng.poisson(rng.gamma(1.0, 8.0, (3, G))[kind])
    x[:, 1], x[:, 2] = rng.poisson(np.where(kind == 0, 40, 1)), 0
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        x,
        batch_indices=np.arange(N) // 30,
        labels=kind,
        gene_names=[f"gene_{j}" for j in range(G)],
        cell_types=["a", "b", "c"],
    )
    torch.manual_seed(0)
    vae = VAE(G, n_batch=2, n_labels=3, n_hidden=32, n_latent=3)
    trainer = UnsupervisedTrainer(vae, dataset, train_size=1.0, n_epochs_kl_warmup=1, show_progbar=False)
    trainer.train(n_epochs=120, lr=1e-2)
    return trainer.create_posterior(vae, dataset, indices=np.arange(N)).sequential(16)


def of_type(posterior: Posterior, code: int) -> np.ndarray:
    return posterior.gene_dataset.labels.ravel() == code


def groups(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    return of_type(posterior, 0), of_type(posterior, 1)


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_draws_of_a_selection(posterior: Posterior) -> None:
    idx, _ = groups(posterior)
    found = posterior.scale_sampler(idx, n_samples=101)
    assert found["scale"].shape == (100, G)
    np.testing.assert_allclose(found["scale"].sum(axis=1), 1, rtol=1e-5)
    assert found["batch"].tolist() == [0] * 50 + [1] * 50
    mean = posterior.scale_sampler(np.flatnonzero(idx), n_samples=4000, give_mean=True)["scale"]
    np.testing.assert_allclose(mean, posterior.scale_sampler(idx, n_samples=4000)["scale"].mean(axis=0), rtol=0.1)
    own = posterior.scale_sampler(idx, n_samples=7, use_observed_batches=True)
    assert own["scale"].shape == (7, G)
    assert np.isnan(own["batch"]).all()
    assert posterior.scale_sampler(idx, n_samples=None, n_samples_per_cell=3)["scale"].shape == (60, G)
    assert posterior.scale_sampler(idx, n_samples=None, batchid=[1])["scale"].shape == (5000, G)
    part = posterior.scale_sampler(idx, n_samples=10, gene_list=["gene_3", "gene_5"], library_size=100)["scale"]
    assert part.shape == (10, 2)
    assert part.max() > 1
    first, again = (torch.manual_seed(1), posterior.scale_sampler(idx, n_samples=4)["scale"]), torch.manual_seed(1)
    assert again is not None
    np.testing.assert_array_equal(first[1], posterior.scale_sampler(idx, n_samples=4)["scale"])


def test_draws_that_cannot_be(posterior: Posterior) -> None:
    with pytest.raises(ValueError, match="selection=None"):
        posterior.scale_sampler(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="selection chooses no cell"):
        posterior.scale_sampler([])
    with pytest.raises(IndexError, match="selection holds 60"):
        posterior.scale_sampler([60])
    with pytest.raises(AssertionError, match="Unconsistent batch policy"):
        posterior.scale_sampler([1], batchid=[0], use_observed_batches=True)
    with pytest.raises(ValueError, match="not among the codes of the 2 batches"):
        posterior.scale_sampler([1], batchid=[2])
    with pytest.warns(UserWarning, match="both given: n_samples it is"):
        assert len(posterior.scale_sampler([1, 2], n_samples=6, n_samples_per_cell=9)["scale"]) == 6
    with pytest.warns(UserWarning, match="2 draws of each"):
        assert len(posterior.scale_sampler([1, 2], n_samples=1)["scale"]) == 4


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_vanilla(posterior: Posterior) -> None:
    idx1, idx2 = groups(posterior)
    found = posterior.get_bayes_factors(idx1, idx2)
    assert list(found) == VANILLA
    assert found["proba_m1"][1] > 0.95
    np.testing.assert_allclose(found["proba_m1"] + found["proba_m2"], 1)
    odds = np.log(found["proba_m1"] + 1e-8) - np.log(found["proba_m2"] + 1e-8)
    np.testing.assert_allclose(found["bayes_factor"], odds)
    swapped = posterior.get_bayes_factors(idx2, idx1, use_permutation=True, use_observed_batches=True)
    np.testing.assert_allclose(swapped["proba_m2"], found["proba_m1"], atol=0.1)
    itself = posterior.get_bayes_factors(idx1, idx1)
    assert np.abs(itself["bayes_factor"]).max() < 0.3


@pytest.mark.parametrize("use_permutation", [False, True])
def test_change(posterior: Posterior, use_permutation: bool) -> None:
    """As the functions of a user say, and they say the same as the defaults."""
    idx1, idx2 = groups(posterior)

    def found(**options: Any) -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        options |= {"use_permutation": use_permutation, "n_samples": 400, "M_permutation": 300}
        return posterior.get_bayes_factors(idx1, idx2, mode="change", **options)

    default = found(delta=0.7, cred_interval_lvls=[0.5, 0.123456])
    assert [name for name in default if "confidence" not in name] == CHANGE
    assert (default["lfc_confidence_interval_0.5_min"] <= default["lfc_confidence_interval_0.5_max"]).all()
    assert "lfc_confidence_interval_0.123_max" in default
    own = found(change_fn=lambda a, b: np.log2(a) - np.log2(b), m1_domain_fn=lambda r: np.abs(r) >= 0.7)
    for name in CHANGE:
        np.testing.assert_allclose(own[name], default[name], rtol=1e-4, atol=1e-4)
    assert default["lfc_median"][1] > 2
    assert default["proba_de"][1] > 0.95
    for name, value in (("delta", None), ("change_fn", "log-fold")):
        np.testing.assert_array_equal(found(**{name: value})["proba_de"], found(delta=0.5)["proba_de"])
    everything = found(m1_domain_fn=lambda r: r > -np.inf)
    assert (everything["proba_de"] == 1).all()


def test_draws_of_the_same_batch_are_paired(posterior: Posterior) -> None:
    """Frequencies that are the code of the batch: pairs of the same batch do not differ."""
    idx1, idx2 = groups(posterior)
    values = posterior._scale_values
    posterior._scale_values = lambda: lambda decoded: decoded.genes.scale * 0 + of_batch.pop(0)  # type: ignore[method-assign, assignment]
    try:
        model = posterior.model
        generative, of_batch = model.generative, []

        def noted(z: Any, log_size: Any, mb: Any, batch: Any = None) -> Any:
            of_batch.append(2.0**mb.batch)
            return generative(z, log_size, mb, batch)

        model.generative = noted
        for options in ({}, {"use_permutation": True, "M_permutation": 60}):
            found = posterior.get_bayes_factors(idx1, idx2, "change", n_samples=50, **options)
            assert (found["lfc_std"] == 0).all()
        shifted = posterior.get_bayes_factors(idx1, idx2, "change", [1], [0], n_samples=50)
        assert (shifted["lfc_mean"] == 1).all()
        with pytest.warns(UserWarning, match="some batches in common"):
            mixed = posterior.get_bayes_factors(idx1, idx2, "change", [0, 1], [0], n_samples=50)
        assert (mixed["lfc_mean"] == 0.5).all()
    finally:
        posterior._scale_values = values  # type: ignore[method-assign]
        del posterior.model.generative


def test_scores_that_cannot_be(posterior: Posterior) -> None:
    idx1, idx2 = groups(posterior)
    for options, error, message in (
        ({"mode": "odds"}, NotImplementedError, "mode='odds'"),
        ({"change_fn": "ratio"}, ValueError, "'change_fn' attribute not understood"),
        ({"change_fn": lambda a: a}, AssertionError, "change_fn takes 1 positional arguments, and needs 2"),
        ({"m1_domain_fn": lambda a, b: a}, AssertionError, "m1_domain_fn takes 2"),
        ({"change_fn": lambda a, b: a + "b", "mode": "change"}, TypeError, "change_fn cannot be called with arrays"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"M_permutation": 0}, ValueError, "M_permutation=0"),
        ({"batchid1": [0], "use_observed_batches": True}, AssertionError, "Unconsistent"),
        ({"mode": "change", "cred_interval_lvls": [1.5]}, ValueError, "confidence_level=1.5"),
        ({"eps": 1}, TypeError, "eps"),
    ):
        with pytest.raises(error, match=message):
            posterior.differential_expression_score(idx1, idx2, **options)  # type: ignore[arg-type]


def test_the_table(posterior: Posterior) -> None:
    idx1, idx2 = groups(posterior)
    table = posterior.differential_expression_score(idx1, idx2, n_samples=500)
    assert table.columns.tolist() == VANILLA + RAW
    assert sorted(table.index) == sorted(posterior.gene_dataset.gene_names)
    assert table.index[0] == "gene_1"
    assert table["bayes_factor"].is_monotonic_decreasing
    raw = posterior.gene_dataset.raw_counts_properties(idx1, idx2)
    for name, expected in zip(RAW, raw, strict=True):
        np.testing.assert_allclose(table.loc[posterior.gene_dataset.gene_names, name], expected, rtol=1e-5)
    change = posterior.differential_expression_score(idx1, idx2, mode="change", all_stats=False, n_samples=500)
    assert change.columns.tolist() == CHANGE
    assert change["proba_de"].is_monotonic_decreasing
    some = posterior.differential_expression_score(idx1, idx2, n_samples=50, gene_list=["gene_1", "gene_2"])
    assert sorted(some.index) == ["gene_1", "gene_2"]
    assert some.loc["gene_2", "raw_mean1"] == 0


def test_each_cluster_against_the_rest(posterior: Posterior, tmp_path: Any) -> None:
    tables, names = posterior.one_vs_all_degenes(n_samples=200)
    assert names == ["a", "b", "c"]
    assert tables[0].index[0] == "gene_1"
    for name, table in zip(names, tables, strict=True):
        assert table.columns.tolist() == [*VANILLA, *RAW, "clusters"]
        assert (table["clusters"] == name).all()
    alone = posterior.differential_expression_score(of_type(posterior, 0), ~of_type(posterior, 0), n_samples=4000)
    both = tables[0].join(alone, rsuffix="_alone")
    np.testing.assert_allclose(both["proba_m1"], both["proba_m1_alone"], atol=0.15)
    np.testing.assert_allclose(both["raw_mean2"], both["raw_mean2_alone"])
    labels = np.array([7, 3, -1])[posterior.gene_dataset.labels.ravel()]  # no codes, and some cells of no cluster
    folder = f"{tmp_path}/"
    tables, names = posterior.one_vs_all_degenes(
        cell_labels=labels.tolist(), n_samples=50, output_file=True, save_dir=folder, filename="x", mode="change"
    )
    assert names == [3, 7]
    np.testing.assert_allclose(tables[1].sort_index()["raw_mean2"], both.sort_index()["raw_mean2"])
    written = pd.read_excel(f"{folder}differential_expression.x.xlsx", sheet_name=None, index_col=0)
    assert list(written) == ["3", "7"]
    np.testing.assert_allclose(written["7"]["lfc_mean"], tables[1]["lfc_mean"], rtol=1e-5)
    inside = np.arange(N) < 40
    tables, names = posterior.one_vs_all_degenes(subset=inside, min_cells=13, n_samples=50)
    assert names == ["a"]  # 14 of 40 cells; of b and c there are 13
    x = posterior.gene_dataset.X
    of_a = of_type(posterior, 0)
    mean = pd.Series(x[inside & ~of_a].mean(axis=0), posterior.gene_dataset.gene_names)
    np.testing.assert_allclose(tables[0]["raw_mean2"], mean[tables[0].index])
    assert posterior.one_vs_all_degenes(min_cells=40) == ([], [])
    with pytest.raises(ValueError, match="cell_labels has 3 values for the 60 cells"):
        posterior.one_vs_all_degenes(cell_labels=[1, 2, 3])
    types = posterior.gene_dataset.cell_types
    posterior.gene_dataset.cell_types = None
    with pytest.raises(ValueError, match="no cell_types: pass cell_labels"):
        posterior.one_vs_all_degenes()
    posterior.gene_dataset.cell_types = types


def test_states_within_clusters(posterior: Posterior) -> None:
    states = (np.arange(N) >= 30).tolist()
    tables, names = posterior.within_cluster_degenes(
        states, min_cells=1, batch1=[1], batch2=[0], n_samples=50, mode="change"
    )
    assert names == ["a", "b", "c"]
    mask = of_type(posterior, 1) & (np.arange(N) >= 30)
    mean = pd.Series(posterior.gene_dataset.X[mask].mean(axis=0), posterior.gene_dataset.gene_names)
    np.testing.assert_allclose(tables[1]["raw_mean1"], mean[tables[1].index])
    assert posterior.within_cluster_degenes(states, min_cells=10) == ([], [])
    with pytest.raises(ValueError, match="states has 2 values"):
        posterior.within_cluster_degenes([True, False])


def test_draws_of_every_cell(posterior: Posterior) -> None:
    with pytest.warns(DeprecationWarning, match="use scale_sampler"):
        scales, labels = posterior.differential_expression_stats(M_sampling=3)
    assert scales.shape == (3 * N, G)
    np.testing.assert_array_equal(labels, np.repeat(posterior.gene_dataset.labels.ravel(), 3))
    assert scales[labels == 0, 1].mean() > 3 * scales[labels == 1, 1].mean()


def test_the_call_of_release_0_5(posterior: Posterior) -> None:
    idx1, idx2 = groups(posterior)
    table = posterior.differential_expression_score(idx1, idx2, genes=["gene_1", "gene_3"], n_samples=300)
    assert table.columns.tolist() == [
        *("bayes1", "bayes1_permuted", "bayes2", "bayes2_permuted", "mean1", "mean2", "nonz1", "nonz2"),
        *("norm_mean1", "norm_mean2", "scale1", "scale2"),
    ]
    assert table.index.tolist() == ["gene_1", "gene_3"]
    assert table["bayes1"].is_monotonic_decreasing
    assert table.loc["gene_1", "bayes1"] > 3 > 0.5 > abs(table.loc["gene_1", "bayes1_permuted"])
    np.testing.assert_allclose(table["bayes1"], -table["bayes2"], atol=3)
    bare = posterior.differential_expression_score(
        idx1, idx2, sample_pairs=False, n_samples=100, all_stats=False, M_permutation=10
    )
    assert isinstance(bare, np.ndarray)
    assert bare.argmax() == 1


# ---- functions of their own ------------------------------------------------------------------------------------------


def test_pairs() -> None:
    a, b = np.arange(10)[:, None], 100 + np.arange(30)[:, None]
    first, second = pairs_sampler(a, b, use_permutation=False)
    assert first is a
    assert second is b
    first, second = pairs_sampler(a, b, seed=0)
    assert first.shape == second.shape == (40, 1)
    assert first.max() < 10 <= second.min()
    first, second = pairs_sampler(a, b, M_permutation=500, sanity_check_perm=True)
    for side in (first, second):
        assert (side < 10).mean() == pytest.approx(0.25, abs=0.1)
    weights = np.zeros(10)
    weights[3] = 1
    first, _ = pairs_sampler(a, b, M_permutation=20, weights1=weights)
    assert (first == 3).all()
    with pytest.raises(ValueError, match="both arrays need some"):
        pairs_sampler(a, b[:0])


def test_summaries_of_samples() -> None:
    draws = np.random.default_rng(0).normal(size=(500, 3))
    found = describe_continuous_distrib(draws, credible_intervals_levels=[0.9])
    assert list(found)[:5] == ["mean", "median", "std", "min", "max"]
    ends = np.stack([found["confidence_interval_0.9_min"], found["confidence_interval_0.9_max"]], axis=1)
    np.testing.assert_array_equal(ends, credible_intervals(draws, confidence_level=0.9))
    assert credible_intervals(draws).shape == (3, 2)
    assert credible_intervals(draws[:, 0]).shape == (2,)


def test_a_workbook(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [pd.DataFrame({"x": [i]}, index=["g"]) for i in range(4)]
    names = ["T/B", "T*B", "a" * 40, "a" * 35]
    save_cluster_xlsx(tmp_path / "x.xlsx", tables, names)
    written = pd.read_excel(tmp_path / "x.xlsx", sheet_name=None, index_col=0)
    assert list(written) == ["T_B", "T_B 1", "a" * 31, "a" * 29 + " 3"]
    assert [table["x"].item() for table in written.values()] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="4 tables and 1 names"):
        save_cluster_xlsx(tmp_path / "y.xlsx", tables, ["a"])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"pip install 'scvi\[xlsx\]'"):
        save_cluster_xlsx(tmp_path / "y.xlsx", tables, names)


def test_the_names_are_where_scripts_look() -> None:
    for name in ("pairs_sampler", "credible_intervals", "describe_continuous_distrib", "save_cluster_xlsx"):
        assert name in posterior_utils.__all__
    assert inspect.signature(Posterior.differential_expression_score).parameters["use_permutation"].default is False


# ---- genes and proteins ----------------------------------------------------------------------------------------------


def test_genes_and_proteins() -> None:
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 2
    proteins = rng.poisson(np.array([[60, 2, 20], [2, 60, 20]])[kind])
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        rng.poisson(4, (N, G)),
        Ys=[CellMeasurement("protein_expression", proteins, "protein_names", ["CD3", "CD19", "CD45"])],
        batch_indices=np.arange(N) // 30,
        labels=kind,
        gene_names=[f"gene_{j}" for j in range(G)],
        cell_types=["t", "b"],
    )
    torch.manual_seed(0)
    model = TOTALVI(G, 3, n_batch=2, n_hidden=16, n_latent=3).eval()
    posterior = TotalPosterior(model, dataset, indices=np.arange(N)).sequential(32)
    found = posterior.scale_sampler(kind == 0, n_samples=10)["scale"]
    assert found.shape == (10, G + 3)
    assert (found[:, G:] >= 0.5).all()
    assert (posterior.scale_sampler(kind == 0, n_samples=10, eps=9.0)["scale"][:, G:] >= 9).all()
    for mode in ("vanilla", "change"):
        table = posterior.differential_expression_score(kind == 0, kind == 1, mode=mode, n_samples=100)
        assert table.columns.tolist() == (VANILLA if mode == "vanilla" else CHANGE) + RAW
        assert sorted(table.index) == sorted([*dataset.gene_names, "CD3", "CD19", "CD45"])
        assert table.loc["CD3", "raw_mean1"] == pytest.approx(proteins[kind == 0, 0].mean())
        assert table.loc["CD19", "non_zeros_proportion1"] == pytest.approx((proteins[kind == 0, 1] > 0).mean())
        assert table.loc[["CD3", "CD19"], "raw_normalized_mean1"].isna().all()
        assert np.isfinite(table["bayes_factor"]).all()
    tables, names = posterior.one_vs_all_degenes(n_samples=20, normalize_pro=True, include_bg=True, sample_bern=False)
    assert names == ["t", "b"]
    assert len(tables[0]) == G + 3
    parameters = inspect.signature(posterior.differential_expression_score).parameters
    assert parameters["use_permutation"].default is True
    with pytest.raises(NotImplementedError, match="use scale_sampler"):
        posterior.differential_expression_stats()
