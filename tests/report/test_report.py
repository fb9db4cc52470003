"""What a report says, of every estimator."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scvi
from asking import ESTIMATORS, cells_of, make, same, weights
from report_cells import IMAGE, TAG, hostile
from scvi import plots
from scvi.report import annotation, blocks, by_type, interactive, write
from scvi.report.again import commands
from scvi.report.cells import Wish
from small_cells import KEYS, QUICK, TINY, make_adata

EACH = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
MOST_BYTES = 3_000_000


class Parsed(HTMLParser):
    """Elements of a page with their attributes, its text by section, and what its scripts are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.sections: dict[str, str] = {}
        self.scripts: list[str] = []
        self._inside, self._section = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "section":
            self._section = str(dict(attrs)["aria-labelledby"])

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.scripts.append(data)
        else:
            self.sections[self._section] = self.sections.get(self._section, "") + data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("\n".join(self.sections.values()).split())


@pytest.fixture(autouse=True)
def flat(monkeypatch):
    """The first two dimensions in place of a UMAP, which takes seconds."""
    monkeypatch.setattr(plots, "umap", lambda latent, seed=0: np.asarray(latent)[:, :2])


@cache
def fitted(cls: type[Any]) -> Any:
    model = make(cls)
    model.train(**QUICK)
    return model


def page_of(model: Any, folder: Path, **arguments: Any) -> Parsed:
    path = model.report(folder / "report.html", **{"seed": 0, "n_cells": 60, **arguments})
    assert path == folder / "report.html"
    assert path.stat().st_size < MOST_BYTES
    return Parsed(path.read_text(encoding="utf-8"))


@EACH
def test_every_estimator_has_one(cls, tmp_path):
    model = fitted(cls)
    page = page_of(model, tmp_path, labels_key="cell_type")
    expected = {"fit", "verdicts", "losses", "map", "mixing"}
    expected |= {"worst-genes"} if len(cells_of(model)) == 1 else {"worst-seq-genes", "worst-spatial-genes"}
    expected |= {"purity"} - ({"purity"} if cls is scvi.CondSCVI else set())
    expected |= {"annotation"} if cls is scvi.SCANVI else set()
    expected |= {"proteins"} if cls is scvi.TOTALVI else set()
    expected |= {"zero-inflation"} if cls is scvi.AUTOZI else set()
    expected |= {"dimensions"} if cls is scvi.LinearSCVI else set()
    expected |= {"differential-expression"} if cls is not scvi.GIMVI else set()
    assert expected <= set(page.sections)
    assert ("left-out" in page.sections) == (cls in (scvi.CondSCVI, scvi.GIMVI))
    assert f"scvi.{cls.__name__}" in page.sections["fit"]
    assert "ScVI" not in page.text
    found = model.check(**({} if cls is scvi.GIMVI else {"groupby": "cell_type"}), n_cells=60, seed=0)
    places = [page.sections["verdicts"].index(f"{one.level}{one.name}: {one.says}") for one in found.verdicts]
    assert places == sorted(places)


def files_of(model: Any) -> dict[str, Any]:
    """Cells of a model by the name of the file that its report reads."""
    cells = cells_of(model)
    return dict(zip(("cells.h5ad",) if len(cells) == 1 else ("seq.h5ad", "spatial.h5ad"), cells, strict=True))


def run_again(lines: Sequence[str], files: Mapping[str, Any], folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """Runs lines as they are shown where these files are; the model that they make."""
    for name, adata in files.items():
        written = adata.copy()
        written.uns.pop("_scvi", None)
        written.write_h5ad(folder / name)
    patch.chdir(folder)
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names["model"]


@EACH
def test_the_commands_do_it_again_to_the_bit(cls, tmp_path, monkeypatch):
    """What a model says of itself after it was saved and loaded, too."""
    model = fitted(cls)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", *cells_of(model))
    for one in (model, loaded):
        lines = [line for line in commands(one, Wish(None, (), None, 60, 0)) if "model.report" not in line]
        assert same(weights(model), weights(run_again(lines, files_of(model), tmp_path, monkeypatch)))


def code_of(page: Path) -> list[str]:
    """The lines that a page shows, as they are copied from it."""
    (shown,) = re.findall(
        r"aria-label=\"To repeat it\"><code>(.*?)</code>", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return html.unescape(re.sub(r"<[^>]*>", "", shown)).splitlines()


@pytest.mark.parametrize("kind", ["a column", "all", "others", "on other cells"])
def test_the_code_of_a_page_runs_where_the_file_is(kind, tmp_path, monkeypatch):
    """Of which `var` lacks the column that chose the genes, and which has others; with the report at its end."""
    monkeypatch.setattr(plots, "find_spec", lambda name: None)  # no pictures, which take a while
    adata = make_adata()
    adata.layers["raw"] = adata.X.copy()
    chosen = {"a column": {"mask_var": "chosen"}, "others": {"mask_var": list(adata.var_names[3:9])}}.get(kind, {})
    setup = {**KEYS, "layer": "raw", **chosen}
    model = make(scvi.SCVI, adata, setup)
    model.train(**QUICK, validation_indices=np.arange(5, 40))
    other = {"adata": make_adata(60, seed=3)} if kind == "on other cells" else {}
    if other:
        other["adata"].layers["raw"] = other["adata"].X.copy()
    page = model.report(tmp_path / "first.html", seed=0, n_cells=60, **other)
    text = Parsed(page.read_text(encoding="utf-8")).sections["fit"]
    genes = (
        f"the {model.schema.n_genes} genes that the lines name, whatever else"
        if chosen
        else "their 40 genes, and no others"
    )
    assert f"cells.h5ad, which is to have the 150 cells that were fitted, and no others; {genes}; raw counts in" in text
    assert "in adata.layers['raw']; obs['batch'], obs['cell_type'], obs['size'], " in text
    bare = adata.copy()
    del bare.var["chosen"]
    files = {
        "cells.h5ad": bare,
        **{f"{name}_cells.h5ad": x for name, x in zip(["other"], other.values(), strict=False)},
    }
    again = run_again(code_of(page), files, tmp_path, monkeypatch)
    assert same(weights(model), weights(again))
    first, second = (Parsed((tmp_path / f"{name}.html").read_text(encoding="utf-8")) for name in ("first", "report"))
    assert first.sections["verdicts"] == second.sections["verdicts"]


def test_the_code_for_a_mudata_reads_one(tmp_path, monkeypatch):
    import mudata

    with mudata.set_options(pull_on_update=False):
        adata = make_adata()
        mdata = mudata.MuData({"rna": adata, "protein": AnnData(adata.obsm.pop("proteins"))})
        mdata.write_h5mu(tmp_path / "cells.h5mu")
        scvi.TOTALVI.setup_mudata(mdata, batch_key="batch")
        model = scvi.TOTALVI(mdata, **TINY)
        model.train(**QUICK)
        lines = commands(model, Wish(None, (), None, 60, 0))[:-1]
        assert same(weights(model), weights(run_again(lines, {}, tmp_path, monkeypatch)))


@pytest.mark.parametrize("options", [{}, {"dispersion": "gene-label"}])
def test_the_code_of_a_model_that_began_as_another_fits_both(options, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    adata = make_adata()
    first = make(scvi.SCVI, adata, {"batch_key": "batch", "labels_key": "cell_type"} if options else None, **options)
    first.train(**QUICK)
    model = scvi.SCANVI.from_scvi_model(first, "t1", labels_key="cell_type", linear_classifier=True, seed=3)
    model.train(**{**QUICK, "max_epochs": 2})
    model.save(tmp_path / "model")
    for one in (model, scvi.SCANVI.load(tmp_path / "model", adata)):
        lines = code_of(one.report(tmp_path / "first.html", seed=0, n_cells=60))[:-1]
        assert same(weights(model), weights(run_again(lines, {"cells.h5ad": adata}, tmp_path, monkeypatch)))
    other = scvi.SCANVI.from_scvi_model(first, "t1", labels_key="cell_type", adata=make_adata(seed=4), seed=3)
    other.train(**QUICK)
    page = page_of(other, tmp_path)
    assert "fit a model like it, for not all that it began with was kept" in page.sections["fit"]
    assert run_again(code_of(tmp_path / "report.html"), {"cells.h5ad": other.adata}, tmp_path, monkeypatch).is_trained


def test_the_commands_name_all_that_was_told():
    model = make(scvi.SCVI, setup=KEYS, gene_likelihood="nb")
    model.train(**QUICK, precision="float32", validation_indices=np.arange(9))
    model.train(max_epochs=1, kl_warmup=0.5, seed=3, enable_progress_bar=False, gradient_clip=None, precision="float32")
    lines = commands(model, Wish(None, ("score",), "cell_type", 60, 0))
    assert all(f"{name}={value!r}" in lines[4] for name, value in KEYS.items())
    assert "gene_likelihood='nb'" in lines[5]
    first = "model.train(max_epochs=3, batch_size=64, precision='float32', seed=0)"
    assert lines[6] == f"{first}  # also validation_indices, not kept"
    assert lines[7] == "model.train(max_epochs=1, gradient_clip=None, kl_warmup=0.5, precision='float32', seed=3)"
    assert lines[8] == "model.report(\"report.html\", columns=['score'], labels_key='cell_type', n_cells=60, seed=0)"


def test_options_that_were_chosen_are_told_from_defaults(tmp_path):
    text = " ".join(page_of(fitted(scvi.SCVI), tmp_path).sections["fit"].split())
    chosen, others = text.split("Options chosen")[1].split("Options by default")
    assert chosen.strip() == "n_hidden=8 (default 128), n_latent=3 (default 10)"
    assert "n_layers=1, " in others
    assert "n_hidden" not in others.split("Epochs")[0]


def test_it_answers_what_is_asked_first(tmp_path):
    """Sizes, trust, convergence, the worst batch and the worst genes, as the numbers behind them say."""
    model = fitted(scvi.SCVI)
    page = page_of(model, tmp_path, n_cells=150)
    first = page.sections[""]
    assert "150 cells x 40 genes, 3 batches by 'batch'" in first
    found = model.check(n_cells=150, seed=0)
    assert f"It is {found.level}" in first
    assert found["convergence"].says in first
    worst = re.findall(r"(\w+) \([0-9.]+\)", found["worst genes"].says)
    assert f"{worst[0]}, {worst[1]} and {worst[2]}: their counts vary" in first


@pytest.mark.parametrize("zero_inflation", ["gene", "gene-batch", "gene-cell"])
def test_genes_with_too_many_zeros_are_counted_and_named(zero_inflation, monkeypatch):
    model = make(scvi.AUTOZI, zero_inflation=zero_inflation)
    model.train(**QUICK)
    section = write.of_genes.zero_inflated(model)
    assert (section is None) == (zero_inflation == "gene-cell")
    if section is None:
        left_out: dict[str, str] = {}
        assert list(write._of_genes(model, left_out)) == []
        assert "Zero-inflated genes" in left_out
        return
    found = pd.DataFrame(model.get_zero_inflation()).max(axis=1).sort_values(ascending=False)
    ((_, answer),) = section.short
    called = found.index[found > 0.5]
    assert answer.startswith(f"{len(called)} of 40 genes")
    assert not len(called) or f"first {called[0]}" in answer


def test_dimensions_are_read_by_their_genes():
    model = fitted(scvi.LinearSCVI)
    rows = {row[0]: row[1:] for row in write.of_genes.dimensions(model).blocks[1].rows}
    loadings = model.get_loadings()
    assert list(rows) == list(loadings)
    for name, values in loadings.items():
        rise, fall = (text.replace(" and ", ", ").split(", ") for text in rows[name])
        assert rise == list(values.nlargest(5).index)
        assert fall == list(values.nsmallest(5).index)


@pytest.mark.parametrize("apart", ["b0", "b2"])
def test_the_batch_that_mixes_worst_is_first(tmp_path, apart):
    adata = make_adata(300)
    cells = (adata.obs["batch"] == apart).to_numpy()
    counts = adata.X.toarray()
    counts[np.ix_(cells, np.arange(0, 40, 2))] = 0  # it lacks half of the genes
    adata.X = type(adata.X)(counts)
    model = make(scvi.SCVI, adata, setup={})  # which is not told of it
    model.train(max_epochs=15, seed=0, enable_progress_bar=False)
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    looked_at = write.shown(model, Wish(None, (), None, 60, 0))
    looked_at = type(looked_at)(**{**vars(looked_at), "batch": adata.obs["batch"].astype(object)})
    section = write.space.mixing(looked_at, 0, False, "batch")
    ((_, answer),) = section.short
    assert answer.startswith(f"{apart}: ")
    rows = section.blocks[-1].rows
    assert rows[0][0] == apart
    shares = [float(row[2].rstrip(" %")) for row in rows]
    assert shares == sorted(shares)
    assert shares[0] < 75


def in_types(types: dict[str, tuple[int, int, float]]) -> write.Shown:
    """Cells of types that are far from each other, with so many cells in two batches, so far apart within the type."""
    rng = np.random.default_rng(0)
    parts = [
        rng.normal([20 * i, d * j], 1, (n, 2)) for i, (*ns, d) in enumerate(types.values()) for j, n in enumerate(ns)
    ]
    labels = [name for name, (n, m, _) in types.items() for _ in range(n + m)]
    batch = [name for n, m, _ in types.values() for name in ["one"] * n + ["two"] * m]
    latent = np.concatenate(parts)
    n = len(latent)
    return write.Shown(np.arange(n), n, latent, {}, pd.Series(batch), pd.Series(labels), np.arange(n), None)


def test_a_type_that_is_not_mixed_is_named_and_types_of_one_batch_are_no_bad_score():
    looked_at = in_types(
        {
            "B": (300, 200, 0),
            "T": (100, 80, 9),
            "NK": (40, 40, 3),
            "DC": (50, 0, 0),
            "pDC": (50, 4, 0),
            "rare": (6, 5, 0),
        }
    )
    section = by_type.mixing_by_type(looked_at, looked_at.labels, "", 0, False, "batch")
    ((_, answer),) = section.short
    assert re.fullmatch(
        r"Not mixed: T \(\d %\)\. Partly: NK \([345]\d %\)\. Mixed: B \((9\d|10\d) %\)\. Only in batch one: DC\. "
        r"Too few cells outside batch one: pDC\. Too few cells to say in every batch: rare\.",
        answer,
    ), answer
    scored, others = section.blocks[1:]
    assert [row[0] for row in scored.rows] == ["T", "NK", "B"]
    assert dict(others.rows)["DC"] == "only in batch one"
    assert (
        by_type.mixing_by_type(looked_at, looked_at.labels.where(looked_at.batch == "one"), "", 0, False, "x") is None
    )


def test_in_a_report_mixing_is_that_of_each_type(tmp_path):
    """Of a classifier cells without a label, too; where types are known in one batch alone it says so."""
    page = page_of(fitted(scvi.SCVI), tmp_path, labels_key="cell_type")
    assert "Are batches mixed in each cell type?" in page.sections[""]
    assert all(name in page.sections["mixing-by-type"] for name in ("t0", "t1", "t2"))
    assert "what the classifier calls them" in page_of(fitted(scvi.SCANVI), tmp_path).sections["mixing-by-type"]
    adata = make_adata()
    adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "b1")
    page = page_of(fitted(scvi.SCVI), tmp_path, adata=adata, labels_key="known")
    assert "Mixing in each cell type: only cells of one batch have a type" in page.sections["left-out"]


def test_columns_that_are_not_named_are_not_in_the_file(tmp_path):
    adata = make_adata()
    adata.obs["patient"] = [f"Jane Doe {i % 7}" for i in range(adata.n_obs)]
    model = make(scvi.SCVI, adata)
    model.train(**QUICK)
    path = model.report(tmp_path / "report.html", columns="donor", seed=0, n_cells=60)
    text = path.read_text(encoding="utf-8")
    assert "patient" not in text.replace("input", "")
    assert "Jane Doe" not in text
    assert "donor" in text
    with pytest.raises(KeyError, match=r"columns='donr' is not a column of adata.obs; did you mean 'donor'"):
        model.report(tmp_path / "report.html", columns=["donr"])


def test_names_of_cells_and_genes_are_text(tmp_path):
    adata = hostile()
    model = make(scvi.SCVI, adata, setup={"batch_key": TAG})
    model.train(**QUICK)
    page = page_of(model, tmp_path, labels_key="cell_type", title="<b>title</b>")
    assert not [attributes for attributes in page.all("img") if "onerror" in attributes]
    assert not page.all("b")
    assert not any("window.wrong" in script and "docs_json" not in script for script in page.scripts)
    assert TAG in page.sections["fit"]
    assert IMAGE in page.sections["worst-genes"] or IMAGE in page.text or "onerror" in " ".join(page.scripts)


@EACH
def test_without_the_extra_plot_it_has_no_pictures_and_says_so(cls, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    page = page_of(fitted(cls), tmp_path, labels_key="cell_type")
    assert not page.all("img")
    assert 'pip install "scvi[plot]"' in page.sections["left-out"]
    assert "worst-genes" in page.sections or "worst-seq-genes" in page.sections


def test_pictures_are_described_and_nothing_is_asked_of_a_network(tmp_path):
    page = page_of(fitted(scvi.SCVI), tmp_path, labels_key="cell_type")
    images = page.all("img")
    assert len(images) > 8
    assert all(len(image["alt"]) > 20 and image["src"].startswith("data:image/webp;base64,") for image in images)
    assert all(image["width"] and image["height"] for image in images)
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(str(address).startswith(("data:", "#")) for address in addresses)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert page.all("html") == [{"lang": "en"}]


def test_the_library_is_there_as_it_was_installed_with_its_licence(tmp_path):
    import bokeh

    folder = Path(bokeh.__file__).parent
    path = fitted(scvi.SCVI).report(tmp_path / "report.html", seed=0, n_cells=60)
    text = path.read_text(encoding="utf-8")
    for name in ("bokeh", "bokeh-widgets", "bokeh-tables"):
        script = (folder / "server" / "static" / "js" / f"{name}.min.js").read_text(encoding="utf-8")
        assert re.sub(r"\n//# sourceMappingURL=.*\n?$", "", script.rstrip()) in text
    licence = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    assert "Anaconda" in licence
    assert " ".join(licence.split()) in Parsed(text).text


def test_cells_without_counts_are_reported_as_far_as_they_can(tmp_path):
    model = make(scvi.SCVI)
    model.train(**QUICK)
    model.minify_adata()
    page = page_of(model, tmp_path, labels_key="cell_type")
    assert "Verdicts, and counts beside draws: these cells are minified" in page.sections["left-out"]
    assert {"fit", "losses", "map", "mixing", "purity", "differential-expression"} <= set(page.sections)


def test_of_other_cells_and_of_few(tmp_path):
    model = fitted(scvi.SCANVI)
    page = page_of(model, tmp_path, adata=make_adata(90, seed=4))
    assert "90 cells x 40 genes" in page.sections[""]
    assert 'other_cells = anndata.read_h5ad("other_cells.h5ad")  # 90 cells' in page.sections["fit"]
    assert 'model.report("report.html", other_cells, labels_key=' in page.sections["fit"]
    assert "given for this report, which flatters the classifier if" in page.sections[""]
    page = page_of(model, tmp_path, adata=make_adata(4))
    assert "a check needs 30 cells" in page.sections["left-out"]
    assert "it needs 5 cells" in page.sections["left-out"]


def test_the_cells_of_the_fit_are_no_others(tmp_path):
    """They are not called held out because they were named."""
    model = fitted(scvi.SCANVI)
    (named, plain) = (page_of(model, tmp_path, adata=adata) for adata in (model.adata, None))
    assert named.sections["annotation"] == plain.sections["annotation"]
    assert "that the classifier was trained on" in plain.sections["annotation"]


def test_a_column_in_angle_brackets_is_typed_as_it_is(tmp_path):
    adata = make_adata(60)
    adata.obs["<batch>"] = adata.obs["batch"]
    model = make(scvi.SCVI, adata, {"batch_key": "<batch>"})
    model.train(**QUICK)
    assert "setup_anndata(adata, batch_key='<batch>')" in page_of(model, tmp_path).sections["fit"]


def test_mixing_is_left_out_where_the_cells_looked_at_are_of_one_batch():
    looked_at = write.Shown(
        np.arange(20), 20, np.zeros((20, 2)), {}, pd.Series(["a"] * 19 + ["b"]), None, np.arange(10), None
    )
    left_out: dict[str, str] = {}
    model = fitted(scvi.SCVI)
    assert list(write._of_latent_space(model, Wish(None, (), None, 60, 0), looked_at, None, False, left_out)) == []
    assert left_out["Mixing of batches"] == "the cells that were looked at are of one batch"


def test_the_same_seed_gives_the_same_page(tmp_path):
    def body(name: str) -> str:
        text = fitted(scvi.SCVI).report(tmp_path / name, seed=1, n_cells=60).read_text(encoding="utf-8")
        return text[: text.index("<footer>")]  # after it come the day, and numbers that bokeh draws

    assert re.sub(r'id="[^"]+"', "", body("a")) == re.sub(r'id="[^"]+"', "", body("b"))


def test_what_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    model = fitted(scvi.SCVI)
    monkeypatch.setattr(write, "shown", lambda *_: pytest.fail("cells were read"))
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        model.report(tmp_path)
    with pytest.raises(FileNotFoundError, match="is in no folder that is there"):
        model.report(tmp_path / "none" / "report.html")
    for table, words in ((pd.DataFrame({"gene": [1]}), "no column comparison, lfc_mean and proba_de"), ([], "a list")):
        with pytest.raises((TypeError, ValueError), match=words):
            model.report(tmp_path / "report.html", differential_expression=table)
    with pytest.raises(RuntimeError, match="not trained"):
        make(scvi.SCVI).report(tmp_path / "report.html")
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'a report needs jinja2 and bokeh: pip install "scvi\[report\]"'):
        model.report(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_types_that_lie_apart_and_types_that_do_not_are_named():
    names = ["T", "NK", "B"]
    shares, sizes = pd.Series([0.3, 0.8, 0.98], names), pd.Series([10, 10, 80], names)
    words = write.space._in_words(shares, sizes)
    assert words == (
        "On average 89 % of a cell's neighbours are of its type. 90 % or more: B (98 %). Less than 70 %: T (30 %)."
    )


def test_of_one_batch_it_says_so(tmp_path):
    model = make(scvi.SCVI, setup={})
    model.train(**QUICK)
    assert "None: the model knows of one batch." in page_of(model, tmp_path).sections[""]


def test_small_probabilities_are_not_zero():
    assert interactive._small(np.array([1e-150, 0.5])).tolist() == [1e-150, 0.5]
    assert interactive._small(np.array([0.0, 0.5])).dtype == np.float32


def test_labels_are_trusted_by_how_often_they_are_right():
    """B is right, T is taken for NK in a third of its cells, and there are three cells of DC."""
    names = ["B", "T", "NK", "DC"]
    known = np.repeat([0, 1, 2, 3], [50, 60, 40, 3])
    answers = known.copy()
    answers[50:70] = 2
    probabilities = np.full((len(known), 4), 0.02)
    probabilities[np.arange(len(known)), answers] = 0.94
    probabilities[-1] = [0.3, 0.3, 0.1, 0.3]
    section = annotation.annotation(
        annotation.Judged(names, probabilities, known, np.arange(len(known)), annotation._HELD_OUT), with_pictures=False
    )
    words = {row[0]: row[1] for row in section.blocks[1].rows}
    assert words["B"] == "yes"
    assert words["T"] == "no, 33 % are taken for NK"
    assert words["NK"].startswith("no")  # of those that are called so a third is T
    assert words["DC"] == "too few cells to say (3)"
    ((_, answer),) = section.short
    assert "To be trusted: B. Not to be trusted: T and NK. Too few labelled cells to say: DC (2 of 3 right)." in answer
    assert "1 of the 153 cells shown" in section.blocks[-1].text


def test_a_label_that_reads_as_none_is_said_beside_the_accuracy(tmp_path):
    names, known = ["B", "NA", "T"], np.repeat([0, 1, 2], [40, 40, 20])
    probabilities = np.eye(3)[np.where(known == 1, 0, known)]  # all of NA are taken for B
    found = annotation.Judged(names, probabilities, known, np.arange(100), annotation._HELD_OUT)
    ((_, answer),) = annotation.annotation(found, with_pictures=False).short
    assert answer.startswith("The label is right in 60 % of 100 labelled cells held out of the fit. 'NA' reads as if")
    assert "without it: 100 %." in answer
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"t1": "unassigned"})
    model = make(scvi.SCANVI, adata)
    model.train(**QUICK)
    page = page_of(model, tmp_path)
    assert "'unassigned' reads as if the label were not known" in page.sections[""]
    assert model.check(seed=0)["labels"].advice in page.sections["verdicts"]


def test_the_course_of_a_classifier_is_beside_that_of_the_loss(tmp_path):
    model = fitted(scvi.SCANVI)
    page = page_of(model, tmp_path)
    losses = model.history["classification_loss_train"].iloc[:, 0]
    ends = "".join(blocks.number(losses.iloc[i], 4) for i in (0, -1))
    assert f"classification losstraining cells{ends}" in page.sections["losses"].replace("\n", "")
    assert "accuracyvalidation cells" in page.sections["losses"]
    pictures = [image["alt"] for image in page.all("img") if "classification_loss_train from" in image["alt"]]
    assert len(pictures) == 1
    assert f"Did the classifier converge? No: {model.check(seed=0, n_cells=60)['classifier'].says}" in page.text
    other = page_of(fitted(scvi.SCVI), tmp_path)
    assert "classif" not in other.sections["losses"] + other.sections[""]


def test_the_map_of_many_cells_is_thinned_and_says_so():
    n = 20_000
    columns = {f"c{i}": pd.Series(np.arange(n) % 7) for i in range(9)}
    rng = np.random.default_rng(0)
    looked_at = write.Shown(np.arange(n), n, rng.normal(size=(n, 2)), columns, None, None, np.arange(9), None)
    section = write.space.umap(looked_at, 0)
    source = section.blocks[1].model.children[1].renderers[0].data_source
    assert len(source.data["x"]) == 180_000 // 13
    assert "13,846 of them are drawn" in section.blocks[0].text
