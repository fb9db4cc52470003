"""Checks tell broken fits from good ones, and say what is wrong."""

import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import scvi
from asking import make
from scvi.cells.categories import reads_as_unknown
from scvi.cells.count_checks import EstimatedCounts
from scvi.estimators import verdicts
from scvi.estimators.verdicts import FitCheck, Verdict
from scvi.queries import checks
from scvi.queries.predictive_checks import Beside, PredictiveSums
from small_cells import QUICK, make_adata

SAMPLES = "tests/sample_data"


def busiest(adata: AnnData, n: int) -> AnnData:
    """Its genes with the most counts, without the cells that have none of them."""
    totals = np.asarray(adata.X.sum(0)).ravel()
    chosen = adata[:, np.sort(np.argsort(-totals)[:n])]
    return chosen[np.asarray(chosen.X.sum(1)).ravel() > 0].copy()


@pytest.fixture(scope="module")
def lines(mixology):
    return busiest(mixology, 350)  # with 250 counts are scattered so little that a fit is good or doubtful by its seed


def fitted(adata, batch_key="batch", **arguments):
    scvi.SCVI.setup_anndata(adata, batch_key=batch_key)
    model = scvi.SCVI(adata, seed=0)
    model.train(seed=0, enable_progress_bar=False, **arguments)
    return model


def with_logs(adata: AnnData) -> AnnData:
    changed = adata.copy()
    changed.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    changed.X.data = np.round(100 * np.log1p(changed.X.data))
    return changed


def with_shuffled_batches(adata: AnnData) -> AnnData:
    changed = adata.copy()
    changed.obs["batch"] = np.random.default_rng(0).permutation(adata.obs["batch"].to_numpy().astype(str))
    return changed


@pytest.fixture(scope="module")
def good(lines):
    return fitted(lines)


# ---- six fits --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_fit_of_cell_lines_in_five_batches_is_good(good):
    found = good.check(seed=0)
    assert found.level == "good", found
    assert len(found.verdicts) == 12
    assert not found.skipped


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc3k_small", "pbmc_gated"])
def test_good_fits_of_blood_are_not_bad(name, request):
    adata = busiest(read_h5ad(request.config.rootpath / SAMPLES / f"{name}.h5ad")[:700], 200)
    found = fitted(adata, batch_key=None).check(seed=0)
    assert found.level != "bad", found
    assert all(found[name].level == "good" for name in ("counts", "convergence", "under-fitting")), found
    assert found.skipped["batch column"] == "the cells are of one batch"


@pytest.mark.slow
def test_a_fit_of_two_epochs_has_not_converged(lines):
    found = fitted(lines.copy(), max_epochs=2).check(seed=0)
    bad = {verdict.name for verdict in found.verdicts if verdict.level == "bad"}
    assert bad == {"convergence", "under-fitting"}, found
    assert "train longer" in found["convergence"].advice


@pytest.mark.slow
def test_rounded_logarithms_are_no_counts(lines):
    found = fitted(with_logs(lines)).check(seed=0)
    assert found.level == found["counts"].level == "bad", found
    assert "69" in found["counts"].says
    assert "raw counts" in found["counts"].advice


@pytest.mark.slow
def test_shuffled_batches_say_nothing(lines):
    found = fitted(with_shuffled_batches(lines)).check(seed=0)
    assert [verdict.name for verdict in found.verdicts if verdict.level == "bad"] == ["batch column"], found
    assert "is the batch column right?" in found["batch column"].advice


# ---- residuals by group ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_genes_that_depend_on_a_group_are_named(good, lines):
    rng = np.random.default_rng(0)
    changed = lines.copy()
    treated = rng.random(changed.n_obs) < 0.5
    hit = rng.choice(changed.n_vars, 40, replace=False)
    counts = changed.X.toarray().astype(np.int64)
    counts[np.ix_(treated, hit)] = rng.binomial(counts[np.ix_(treated, hit)], 0.4)
    changed.X = sparse.csr_matrix(counts)
    changed.obs["treatment"] = np.where(treated, "drug", "none")
    found = good.check(changed, groupby=["treatment", "cell_type"], seed=0)
    table = found.residuals["treatment"]
    called = np.flatnonzero((table["p_adjusted"] < 0.05) & (table["log2_fold"].abs() >= 0.5))
    assert len(np.intersect1d(called, hit)) >= 36
    assert len(np.setdiff1d(called, hit)) <= 4
    verdict = found["residuals by treatment"]
    assert verdict.level == "doubtful"
    assert any(gene in verdict.says for gene in changed.var_names[hit])
    assert good.check(lines, groupby="cell_type", seed=0)["residuals by cell_type"].level == "good"


def beside(n_cells, counts, drawn):
    """What is found where each gene has Poisson counts and draws of these means."""
    rng = np.random.default_rng(0)
    shape = n_cells, len(counts)
    sums, nothing = PredictiveSums(), np.zeros((n_cells, 0))
    x, y = (rng.poisson(means, shape).astype(np.float32) for means in (counts, drawn))
    sums.add(Beside(slice(0, n_cells), x, np.broadcast_to(counts, shape), y, None, nothing))
    return sums.result()


@pytest.mark.parametrize("n_cells", [50, 100, 200, 2000])
def test_what_few_cells_differ_by_chance_is_not_held_against_a_fit(n_cells):
    means = np.random.default_rng(1).uniform(0.1, 2, 1000)
    same = beside(n_cells, means, means)
    assert verdicts.of_zeros(same, "genes").level == "good"
    assert verdicts.of_worst(same, "genes").level == "good"
    assert verdicts.of_zeros(beside(n_cells, means, 2 * means), "genes").level != "good"


def test_columns_that_are_no_groups_are_refused(quick):
    model, adata = quick
    adata.obs["id"] = adata.obs_names
    with pytest.raises(KeyError, match=r"groupby='cell_typ' is not a column of adata\.obs.*cell_type"):
        model.check(groupby="cell_typ")
    with pytest.raises(ValueError, match="groupby='id' has 150 different values"):
        model.check(groupby="id")
    with pytest.raises(TypeError, match=r"groupby=3 is not the name of a column of adata\.obs"):
        model.check(groupby=3)


def test_estimates_are_compared_as_the_whole_numbers_that_draws_are():
    adata = make_adata()
    counts = adata.X.toarray()
    adata.X = sparse.csr_matrix(np.where(counts > 0, 1.02 * counts, 0.2))  # a little is everywhere
    with pytest.warns(EstimatedCounts):
        model = make(scvi.SCVI, adata)
    model.train(**QUICK)
    found = model.check(seed=0)
    assert found["counts"].level == "good"
    np.testing.assert_allclose(found.predictive["genes"].features["zeros"], (counts == 0).mean(0))


# ---- what any check says ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick():
    adata = make_adata()
    model = make(scvi.SCVI, adata)
    model.train(**QUICK)
    return model, adata


@pytest.fixture(scope="module")
def answer(quick):
    return quick[0].check(seed=0, groupby="cell_type")


def test_the_most_doubtful_comes_first(answer):
    levels = [["bad", "doubtful", "good"].index(verdict.level) for verdict in answer.verdicts]
    assert levels == sorted(levels)
    assert answer.level == answer.verdicts[0].level == "bad"  # three epochs


def test_a_check_prints_what_its_table_has(answer):
    table, text = answer.to_frame(), str(answer)
    assert list(table.columns) == ["level", "says", "advice"]
    assert table.index.is_unique
    assert text.splitlines()[0].startswith("this fit is bad: ")
    for name, row in table.iterrows():
        assert f"{row['level']:8}  {name}: {row['says']}" in text
        assert row["advice"] in text
        assert (row["advice"] == "") == (row["level"] == "good")


def test_a_verdict_is_found_by_name(answer):
    assert answer["counts"].name == "counts"
    with pytest.raises(KeyError, match="no verdict 'count'"):
        answer["count"]
    with pytest.raises(KeyError, match="'over-fitting': no validation"):
        FitCheck((), {"over-fitting": "no validation cells are known"})["over-fitting"]


def test_an_empty_check_is_good():
    assert FitCheck(()).level == "good"
    assert FitCheck((Verdict("a", "doubtful", "b", "c"),)).level == "doubtful"


def test_the_tables_have_the_names_of_genes(answer, quick):
    genes = list(quick[1].var_names)
    assert list(answer.predictive["genes"].features.index) == genes
    assert list(answer.residuals) == ["batch", "cell_type"]
    assert all(list(table.index) == genes for table in answer.residuals.values())
    assert set(answer.residuals["batch"]["group"]) <= {"b0", "b1", "b2"}


def test_the_same_seed_gives_the_same_check(quick, answer):
    model, _ = quick
    again = model.check(seed=0, groupby="cell_type")
    assert again.verdicts == answer.verdicts
    pd.testing.assert_frame_equal(again.predictive["genes"].cells, answer.predictive["genes"].cells)
    assert not model.check(seed=1).predictive["genes"].cells.equals(answer.predictive["genes"].cells)


def test_cells_are_drawn_and_bounded(quick):
    model, adata = quick
    found = model.check(n_cells=50, seed=0).predictive["genes"].cells
    assert len(found) == 50
    assert set(found["total"]) <= set(np.asarray(adata.X.sum(1)).ravel())
    assert len(model.check(indices=np.arange(40), seed=0).predictive["genes"].cells) == 40


def test_few_cells_are_refused(quick):
    with pytest.raises(ValueError, match="a check needs 30 cells at least, got 29"):
        quick[0].check(indices=np.arange(29))
    with pytest.raises(ValueError, match="n_cells"):
        quick[0].check(n_cells=5)


def test_without_validation_cells_it_is_said():
    model = make(scvi.SCVI)
    model.train(**QUICK, train_size=1.0)
    assert model.check(seed=0).skipped == {"over-fitting": "no validation cells are known"}


def test_models_without_history_are_checked(quick):
    model, adata = quick
    before, model.history = model.history, {}
    try:
        found = model.check(adata, seed=0)
    finally:
        model.history = before
    assert set(found.skipped) == {"convergence", "warm-up", "over-fitting"}


def test_early_stopping_is_judged_by_the_weights_that_it_left():
    model = make(scvi.SCVI)
    model.train(**QUICK)
    model.history["elbo_validation"].iloc[-1] = 1e9  # as if these weights were from before
    assert "1000000000" not in model.check(seed=0)["over-fitting"].says


def test_an_untrained_model_and_cells_without_counts_are_refused():
    model = make(scvi.SCVI)
    with pytest.raises(RuntimeError, match="not trained"):
        model.check()
    model.train(**QUICK)
    model.minify_adata()
    with pytest.raises(ValueError, match="minified"):
        model.check()


@pytest.mark.parametrize("cls", [scvi.SCANVI, scvi.CondSCVI, scvi.LinearSCVI, scvi.AUTOZI])
def test_each_estimator_is_checked(cls):
    model = make(cls)
    model.train(**QUICK)
    found = model.check(seed=0)
    assert {"counts", "under-fitting", "worst genes", "convergence"} <= {verdict.name for verdict in found.verdicts}


def test_a_fit_that_validation_cells_gain_nothing_from_has_converged():
    """As one that begins with the weights of another: they lose at first, and are back where they were in the end."""
    n = 20
    course = {
        "elbo_train": 2720 - 35 * np.linspace(0, 1, n) ** 2,
        "elbo_validation": 2734 + 40 * np.sin(np.arange(n) / 6.04),
    }
    history = {name: pd.DataFrame({name: values}) for name, values in course.items()}
    assert verdicts.of_convergence(checks.convergence(history)).level == "good"
    history["elbo_validation"] = 14 + history["elbo_train"].rename(columns={"elbo_train": "elbo_validation"})
    assert verdicts.of_convergence(checks.convergence(history)).level == "bad"


def history_of(losses, accuracies):
    columns = {"classification_loss_train": losses, "accuracy_validation": accuracies}
    return {name: pd.DataFrame({name: values}) for name, values in columns.items() if values is not None}


@pytest.mark.parametrize(
    ("losses", "accuracies", "level"),
    [
        (2 * np.exp(-np.arange(50) / 5), np.full(50, 0.9), "good"),
        (2 * np.exp(-np.arange(50) / 5), None, "good"),
        (2 - 1.5 * np.arange(10) / 10, None, "doubtful"),  # it falls on and on
        (2 - 1.5 * (np.arange(10) / 10) ** 2, None, "bad"),  # faster and faster
        (2 * np.exp(-np.arange(50) / 5), np.linspace(0.5, 0.9, 50), "doubtful"),  # labels change still
        (0.3 - 0.0001 * np.arange(50), None, "good"),  # a mapped model, whose classifier has nothing to learn
        (np.array([1.0]), None, "doubtful"),
    ],
)
def test_a_classifier_that_still_learns_is_seen(losses, accuracies, level):
    found = verdicts.of_classifier(checks.classifier(history_of(losses, accuracies)))
    assert found.level == level, found
    assert ("train longer" in found.advice) == (level != "good")
    assert ("labelled validation cells are right" in found.says) == (accuracies is not None)


def test_the_classifier_of_few_epochs_has_not_converged():
    model = make(scvi.SCANVI)
    model.train(**QUICK)
    assert model.check(seed=0)["classifier"].level == "bad"
    without = make(scvi.SCVI)
    without.train(**QUICK)
    found = without.check(seed=0)
    assert "classifier" not in {*found.to_frame().index, *found.skipped}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, True) for name in ("Unassigned", "unknown", "NA", "n/a", "not_assigned", "?", "", "unknown cells")),
        *((name, False) for name in ("NK", "Na+ cells", "B", "Unstable", "naive", "None-such", "Missing link")),
    ],
)
def test_labels_that_read_as_none(name, says):
    assert reads_as_unknown(name) == says


@pytest.mark.parametrize("declared", ["Unknown", "t2"])
def test_a_label_that_reads_as_none_is_named_with_what_to_do(declared):
    """What is advised is done, and the doubt is gone."""
    adata = make_adata()
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"].replace({"t1": "unassigned"}))
    keys = {"labels_key": "cell_type", "unlabeled_category": declared}
    model = make(scvi.SCANVI, adata, keys)
    model.train(**QUICK)
    found = model.check(seed=0)["labels"]
    n = int((adata.obs["cell_type"] == "unassigned").sum())
    assert f"'unassigned' ({n} cells) reads as if the label were not known" in found.says
    if declared == "Unknown":  # which does not occur
        keys["unlabeled_category"] = re.search("unlabeled_category='(.*)'", found.advice)[1]
    else:
        exec(re.search(r"(adata\.obs.* = .*), set up again", found.advice)[1], {"adata": adata})
    model = make(scvi.SCANVI, adata, keys)
    model.train(**QUICK)
    assert model.check(seed=0)["labels"].level == "good"
    assert model.schema.n_labels == 2 - (declared == "t2")


def test_proteins_are_checked_where_they_were_measured():
    adata = make_adata()
    adata.obsm["proteins"].loc[adata.obs["batch"] == "b0", "protein1"] = 0
    model = make(scvi.TOTALVI, adata)
    model.train(**QUICK)
    found = model.check(seed=0)
    measured = adata.obs["batch"] != "b0"
    of_protein = found.predictive["proteins"].features.loc["protein1"]
    np.testing.assert_allclose(of_protein["mean"], adata.obsm["proteins"]["protein1"][measured].mean(), rtol=1e-5)
    assert found["zeros of proteins"].says


def test_two_data_sets_are_checked_each_and_together():
    model = make(scvi.GIMVI)
    model.train(**QUICK)
    found = model.check(seed=0, groupby="cell_type")
    assert {"seq counts", "spatial counts", "data set mixing", "convergence"} <= set(found.to_frame().index)
    assert {"seq cell_type", "spatial cell_type"} <= set(found.residuals)
    assert list(found.predictive["spatial genes"].features.index) == list(model.adata_spatial.var_names)
    assert len(found.predictive["spatial genes"].cells) == model.adata_spatial.n_obs


def test_the_page_names_every_verdict(answer, request):
    page = (request.config.rootpath / "docs" / "checks.md").read_text(encoding="utf-8")
    for verdict in answer.verdicts:
        name = "residuals by sample" if verdict.name.startswith("residuals") else verdict.name
        assert f"| `{name}` |" in page
