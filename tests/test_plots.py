import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from scvi import plots

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def latent():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)) + 8 * np.eye(4)[np.arange(60) % 3]


@pytest.fixture
def flat(monkeypatch):
    """The first two dimensions in place of a UMAP, which takes seconds."""
    monkeypatch.setattr(plots, "umap", lambda latent, seed=0: np.asarray(latent)[:, :2])


@pytest.fixture
def figures(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, file: drawn.append(figure))
    return drawn


def legend_texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.slow
def test_umap_is_repeatable_and_keeps_neighbours(latent):
    places = plots.umap(latent, seed=3)
    assert places.shape == (60, 2)
    np.testing.assert_array_equal(places, plots.umap(latent, seed=3))
    centres = np.stack([places[i::3].mean(axis=0) for i in range(3)])
    spread = max(np.linalg.norm(places[i::3] - centres[i], axis=1).mean() for i in range(3))
    assert min(np.linalg.norm(centres[i] - centres[i - 1]) for i in range(3)) > 2 * spread


def test_neighbours_of_a_umap_are_the_nearest_cells(latent):
    cells, distances = plots._nearest(latent, 15)
    between = np.linalg.norm(latent[:, None] - latent, axis=-1)
    np.testing.assert_array_equal(np.sort(cells), np.sort(between.argsort(axis=1)[:, :15]))
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :15], atol=1e-6)


@pytest.mark.slow
def test_umap_neither_compares_pairs_in_python_nor_compiles_a_search(latent, monkeypatch):
    import umap.umap_

    def asked(*args, **kwargs):
        raise AssertionError("neighbours are known")

    for name in ("pairwise_distances", "nearest_neighbors"):
        monkeypatch.setattr(umap.umap_, name, asked)
    assert np.isfinite(plots.umap(latent)).all()
    assert np.isfinite(plots.umap(latent[:5])).all()
    assert np.isfinite(plots.umap(np.repeat(latent[:4], 10, axis=0))).all()
    monkeypatch.setattr(plots, "_MOST_COMPARED", 59)
    with pytest.raises(AssertionError, match="neighbours are known"):
        plots.umap(latent)


def test_too_few_cells_for_a_umap_are_refused(latent):
    with pytest.raises(ValueError, match="at least 5 cells, got 4"):
        plots.umap(latent[:4])


def test_before_after_has_two_columns_and_a_legend_a_row(flat, figures, latent):
    batches = np.arange(60) % 5
    plots.before_after(latent, latent[:, 1:], batches, list("abc") * 20, "unused.png")
    grid = np.reshape(figures[0].axes, (2, 2))
    assert [axes.get_title() for axes in grid[0]] == ["before: PCA", "after: scVI"]
    assert legend_texts(grid[0, 1]) == list("01234")
    assert legend_texts(grid[1, 1]) == list("abc")
    np.testing.assert_allclose(
        np.sort(grid[1, 1].collections[0].get_offsets(), axis=0), np.sort(latent[:, 1:3], axis=0)
    )


def test_each_cell_has_the_colour_of_its_group(flat, figures, latent):
    groups = np.array(list("abc") * 20)
    plots.latent_umap(latent, {"group": groups}, "unused.png")
    points = figures[0].axes[0].collections[0]
    expected = dict(zip("abc", plots.PALETTE, strict=False))
    for place, colour in zip(points.get_offsets(), points.get_facecolors(), strict=True):
        cell = np.argmin(np.abs(latent[:, :2] - place).sum(axis=1))
        assert matplotlib.colors.to_hex(colour).upper() == expected[groups[cell]]


@pytest.mark.parametrize("kinds", [2, 20])
def test_cells_without_a_value_are_grey(flat, figures, latent, kinds):
    groups = np.array([f"{i % kinds:02}" for i in range(60)], dtype=object)
    groups[:7] = [None, np.nan, None, np.nan, pd.NA, None, None]
    plots.latent_umap(latent, {"kind": pd.Series(groups)}, "unused.png")
    axes = figures[0].axes[0]
    assert legend_texts(axes) == [*(f"{i:02}" for i in range(kinds)), "unlabelled"]
    grey = matplotlib.colors.to_hex(plots.UNLABELLED)
    places, colours = axes.collections[0].get_offsets(), axes.collections[0].get_facecolors()
    cells = [np.argmin(np.abs(latent[:, :2] - place).sum(axis=1)) for place in places]
    assert {cell for cell, colour in zip(cells, colours, strict=True) if matplotlib.colors.to_hex(colour) == grey} == {
        *range(7)
    }


def test_many_groups_get_distinct_colours_and_a_legend_that_ends(flat, figures, latent):
    plots.latent_umap(latent, {"well": pd.Categorical(np.arange(60)), "none": np.zeros(60)}, "unused.png")
    wells, single = figures[0].axes
    assert len(np.unique(wells.collections[0].get_facecolors(), axis=0)) == 60
    assert legend_texts(wells)[:3] == ["0", "1", "2"]
    assert legend_texts(wells)[-1] == f"and {60 - plots.MAX_LEGEND} more"
    assert legend_texts(single) == ["0.0"]


def test_without_groups_there_is_no_legend(flat, figures, latent):
    plots.latent_umap(latent, {}, "unused.png")
    assert figures[0].axes[0].get_legend() is None


def test_the_file_is_whole_or_absent(flat, latent, tmp_path, monkeypatch):
    file = tmp_path / "picture.png"
    plots.latent_umap(latent, {"a": np.arange(60) % 2}, file)
    assert file.read_bytes().startswith(PNG)
    before = file.read_bytes()

    def full(figure, path, **options):
        path.write_bytes(PNG)
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="disk full"):
        plots.latent_umap(latent, {}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert file.read_bytes() == before


def test_the_state_of_matplotlib_is_left_alone(flat, latent, tmp_path):
    before = dict(matplotlib.rcParams)
    plots.latent_umap(latent, {}, tmp_path / "picture.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_missing_package_names_the_extra(latent, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert not plots.available()
    with pytest.raises(ImportError, match=r'pip install "scvi\[plot\]"'):
        plots.umap(latent)


def test_imputed_values_are_drawn_below_ten_with_their_slope():
    rng = np.random.default_rng(0)
    original = rng.gamma(2.0, 2.0, size=400)
    imputed = 0.5 * original + rng.normal(0, 0.1, size=400)
    axes = plots.imputation(original, imputed, "hidden counts")
    near = (original < 10) & (imputed < 10)
    slope = np.linalg.lstsq(original[near, None], imputed[near], rcond=None)[0][0]
    equal, best = axes.get_lines()
    np.testing.assert_allclose(equal.get_ydata(), [0, 10])
    np.testing.assert_allclose(best.get_ydata(), [0, 10 * slope])
    assert axes.get_title() == "hidden counts"
    assert axes.get_xlim() == axes.get_ylim() == (0, 10)
    density = axes.collections[0].get_array().reshape(50, 50)  # y along the rows: highest along the line
    side = np.linspace(0, 10, 50)
    assert np.abs(side[density.argmax(axis=0)] - slope * side)[5:35].max() < 0.5


@pytest.mark.parametrize(
    "pairs", [np.zeros((0, 2)), np.ones((1, 2)), np.ones((9, 2)), np.outer(range(9), [1, 2]), np.full((5, 2), 99.0)]
)
def test_imputed_values_without_a_density_are_points(pairs):
    axes = plots.imputation(*pairs.T)
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), pairs[np.all(pairs < 10, axis=1)])


def test_imputed_values_are_drawn_on_given_axes_and_must_match():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert plots.imputation([1, 2, 4], [2, 1, 3], axes=axes) is axes
    with pytest.raises(ValueError, match="2 imputed values do not belong to 3 original ones"):
        plots.imputation([1, 2, 3], [1, 2])
