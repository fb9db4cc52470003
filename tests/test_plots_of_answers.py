"""Pictures of what questions return: what is drawn, where, and that nothing is shown or written."""

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import scvi
from scvi import plots
from scvi.plots.answers import PANELS
from scvi.queries.calibration import calibration_bins, calibration_error
from scvi.queries.predictive_checks import Beside, PredictiveSums

GENES = [f"gene{i}" for i in range(30)]


def of_comparison(name, first, seed):
    """A table of 30 genes, of which three from `first` on are called."""
    rng = np.random.default_rng(seed)
    is_de = np.isin(np.arange(30), np.arange(first, first + 3))
    table = pd.DataFrame(
        {
            "proba_de": np.where(is_de, 0.999, 0.4 * rng.random(30)),
            "lfc_mean": np.where(is_de, 3.0 + np.arange(30) / 100, rng.normal(0, 0.3, 30)),
            "non_zeros_proportion1": np.where(is_de, 0.9, 0.2),
            "is_de_fdr_0.05": is_de,
            "comparison": name,
            "lfc_data": np.where(is_de, -2.0, 0.1),
            "p_adjusted": np.where(is_de, 1e-8, np.nan),
        },
        index=GENES,
    )
    return table.sort_values("proba_de", ascending=False)


@pytest.fixture
def table():
    return pd.concat([of_comparison("B vs Rest", 0, 1), of_comparison("T vs Rest", 10, 2)])


@pytest.fixture
def ax():
    return Figure().subplots()


def places(ax, number):
    return np.asarray(ax.collections[number].get_offsets())


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_volcano_names_what_is_called(table, ax):
    assert plots.volcano(table, ax, comparison="T vs Rest") is ax
    assert len(places(ax, 0)) == 27
    assert len(places(ax, 1)) == 3
    assert set(texts(ax)) == {"gene10", "gene11", "gene12"}
    np.testing.assert_allclose(sorted(places(ax, 1)[:, 0]), [3.10, 3.11, 3.12])
    np.testing.assert_allclose(places(ax, 1)[:, 1], 3)
    assert (ax.get_title(), ax.get_xlabel()) == ("T vs Rest", "log2 fold change (lfc_mean)")
    plots.volcano(table, ax, comparison="T vs Rest", n_names=0)
    assert len(ax.texts) == 3


def test_a_volcano_of_the_data(table, ax):
    plots.volcano(table, ax, comparison="B vs Rest", answer="data", n_names=2)
    assert len(places(ax, 0)) == 0  # not tested
    np.testing.assert_allclose(places(ax, 1), [[-2, 8]] * 3)
    assert len(ax.texts) == 2
    without = table.drop(columns=["lfc_mean", "proba_de"])
    assert plots.volcano(without, comparison="B vs Rest").get_xlabel() == "log2 fold change (lfc_data)"


def test_certain_genes_have_a_place(ax):
    table = of_comparison("a", 0, 0)
    table["proba_de"], table["p_adjusted"] = 1.0, 0.0
    for answer in ("model", "data"):
        assert np.isfinite(places(plots.volcano(table, Figure().subplots(), answer=answer), 1)).all()


def test_a_dot_plot_has_the_top_genes_of_each_comparison(table, ax):
    plots.dot_plot(table, ax, n_genes=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B vs Rest", "T vs Rest"]
    genes = [label.get_text() for label in ax.get_xticklabels()]
    assert len(genes) == 4
    assert set(genes[:2]) < {"gene0", "gene1", "gene2"}
    assert set(genes[2:]) < {"gene10", "gene11", "gene12"}
    points = ax.collections[0]
    by_place = dict(zip(map(tuple, points.get_offsets()), points.get_array(), strict=True))
    rows = dict(list(table.groupby("comparison")))
    for (x, y), fold in by_place.items():
        assert fold == rows[["B vs Rest", "T vs Rest"][int(y)]]["lfc_mean"][genes[int(x)]]
    sizes = points.get_sizes().reshape(2, 4)
    assert (sizes[0, :2] > 2 * sizes[0, 2:]).all()


def test_a_gene_and_a_protein_of_one_name_are_not_mixed_up(table):
    with pytest.raises(ValueError, match=r"'CD4' is the name of several rows of 'B vs Rest'.*use_field='rna'"):
        plots.dot_plot(table.rename(index={"gene3": "CD4", "gene4": "CD4"}))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda t: t, {}, "2 comparisons: say comparison= which one, of ['B vs Rest', 'T vs Rest']"),
        (lambda t: t, {"comparison": "B"}, "comparison='B' is not one of"),
        (lambda t: t, {"comparison": "B vs Rest", "answer": "residual"}, "'lfc_residual' and 'p_residual_adjusted'"),
        (lambda t: t, {"comparison": "B vs Rest", "fdr": 0.1}, "the table has no column 'is_de_fdr_0.1'"),
        (lambda t: t[["comparison"]], {"comparison": "B vs Rest"}, "it has ['comparison']"),
    ],
)
def test_what_a_table_lacks_is_named(table, change, arguments, message):
    with pytest.raises((KeyError, ValueError), match=re.escape(message)):
        plots.volcano(change(table), **arguments)


def test_calibration_shows_the_bins_of_the_error(ax):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.3] * 3, 500)
    codes = (p.cumsum(1) < rng.random((500, 1))).sum(1)
    table = pd.DataFrame(p, columns=["a", "b", "c"])
    plots.calibration(table, np.array(["a", "b", "c"])[codes], ax)
    given, right, share = calibration_bins(p, codes)
    np.testing.assert_allclose(places(ax, 0), np.column_stack([given, right]))
    assert share.sum() == pytest.approx(1)
    assert share @ np.abs(given - right) == pytest.approx(calibration_error(p, codes))
    assert ax.get_title() == f"calibration error {calibration_error(p, codes):.3f}"
    with pytest.raises(KeyError, match="labels has 'd', which is no column of probabilities"):
        plots.calibration(table, ["d"] * 500)
    np.testing.assert_allclose(places(plots.calibration(p, codes), 0), places(ax, 0))


def test_history_is_drawn_by_epoch(ax):
    losses = {name: pd.DataFrame({name: [1e6, 5.0, 4.0, *[3.0] * 40]}) for name in ("elbo_train", "kl_weight")}
    plots.history(losses, ax)
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata()[:3], [1, 2, 3])
    assert ax.get_ylim()[1] < 10  # the first epoch does not hide the others
    with pytest.raises(KeyError, match="the history has no 'elbo'; it has \\['elbo_train', 'kl_weight'\\]"):
        plots.history(losses, names=["elbo"])
    with pytest.raises(KeyError, match="elbo_train"):
        plots.history({})
    assert len(plots.history(losses, names="kl_weight").get_lines()) == 1
    many = {f"loss{i}": losses["elbo_train"] for i in range(12)}
    assert len(plots.history(many, names=list(many)).get_lines()) == 12


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    sums = PredictiveSums()
    x, y = rng.poisson(3.0, (40, 10)), rng.poisson(3.0, (40, 10))
    x[:, 0] = 0  # a gene without counts has no coefficient of variation
    sums.add(Beside(slice(0, 40), x, np.full(x.shape, 3.0), y, None, rng.random((40, 10))))
    return sums.result()


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_shows_counts_against_draws(found, ax, panel):
    assert plots.predictive(found, ax, panel=panel) is ax
    assert ax.get_title() == panel
    if panel == "zeros":
        np.testing.assert_allclose(places(ax, 0), found.features[["zeros", "zeros_drawn"]])
    if panel == "cv of cells":
        np.testing.assert_allclose(places(ax, 0), found.cells[["cv", "cv_drawn"]])
    if panel == "intervals":
        np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), found.intervals["covered"])
    ax.figure.canvas.draw()


def test_all_panels_in_one_figure(found, tmp_path):
    figure = plots.predictive_panels(found)
    assert len(figure.axes) == 5
    figure.savefig(tmp_path / "checks.png", dpi=40)
    with pytest.raises(ValueError, match="panel='zero' is not one of"):
        plots.predictive(found, panel="zero")


def test_nothing_is_shown_or_written_and_no_state_of_matplotlib_is_touched(table, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    one = table[table["comparison"] == "B vs Rest"]
    for ax in (plots.volcano(one), plots.dot_plot(table), plots.predictive(found)):
        assert isinstance(ax, Axes)
        ax.figure.savefig(tmp_path / "picture.png", dpi=40)
    (tmp_path / "picture.png").unlink()
    assert dict(matplotlib.rcParams) == before
    assert not list(tmp_path.iterdir())


def test_answers_of_a_model_are_drawn():
    from asking import make
    from small_cells import QUICK

    model = make(scvi.SCVI)
    model.train(**QUICK)
    table = model.differential_expression(groupby="cell_type", seed=0, n_samples=100)
    plots.volcano(table, comparison=table["comparison"].iloc[0])
    assert len(plots.dot_plot(table, n_genes=3).get_yticklabels()) == 3
    assert len(plots.history(model.history).get_lines()) == 2
    plots.predictive(model.check(seed=0).predictive["genes"])


def test_cells_on_a_plane_have_the_colour_of_their_group(ax):
    rng = np.random.default_rng(0)
    positions, groups = rng.normal(size=(60, 2)), np.array(list("abc") * 20)
    assert plots.embedding(positions, groups, ax, title="kind") is ax
    assert ax.get_title() == "kind"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abc")
    np.testing.assert_allclose(np.sort(places(ax, 0), axis=0), np.sort(positions, axis=0))
    with pytest.raises(ValueError, match=r"got shapes \(60, 2\) and \(3,\)"):
        plots.embedding(positions, list("abc"))


def test_scores_of_groups_stand_beside_those_of_pca(ax):
    shares = pd.DataFrame({"latent": [0.9, 0.5], "pca": [0.2, 0.6]}, index=["b0", "b1"])
    assert plots.beside_pca(shares, ax, xlabel="mixing") is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b0", "b1"]
    of_pca, of_latent = (np.asarray(ax.collections[i].get_offsets()) for i in (1, 2))
    np.testing.assert_allclose(of_latent[:, 0], shares["latent"])
    np.testing.assert_allclose(of_pca[:, 0], shares["pca"])
    assert of_latent[0, 1] > of_latent[1, 1]  # the first is on top
    assert ax.get_xlabel() == "mixing"
    with pytest.raises(KeyError, match="has no column 'pca'"):
        plots.beside_pca(shares[["latent"]])


def test_confusions_are_shaded_by_row_and_numbered(ax):
    table = pd.DataFrame([[8, 2], [0, 5]], index=["B", "T"], columns=["B", "T"])
    assert plots.confusion(table, ax) is ax
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.8, 0.2], [0, 1]])
    assert sorted(text.get_text() for text in ax.texts) == ["2", "5", "8"]
    many = plots.confusion(pd.DataFrame(np.eye(20)))
    assert not many.texts


def test_foreground_of_proteins_stands_beside_their_background(ax):
    table = pd.DataFrame({"background": [1.0, 0.0], "foreground": [30.0, 2.0]}, index=["CD3", "CD19"])
    assert plots.foreground(table, ax) is ax
    low, high = (np.asarray(ax.collections[i].get_offsets())[:, 0] for i in (1, 2))
    np.testing.assert_allclose(high, [30, 2])
    np.testing.assert_allclose(low, [1, 0.01])
    with pytest.raises(KeyError, match="has no column 'foreground'"):
        plots.foreground(table[["background"]])
    ax.figure.canvas.draw()
