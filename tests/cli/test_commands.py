"""What each command answers is what the model answers; what is wrong is one line that names the option."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import scvi
from scvi import cli, plots
from scvi.cli import check, messages, output
from scvi.estimators.verdicts import FitCheck, Verdict
from small_cells import make_adata

TINY = ["--set", "n_hidden=8", "--max-epochs", "2"]


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def answer(capsys, *arguments):
    """The JSON object of a command that succeeds."""
    code, out, error = run(capsys, *arguments, "--json")
    assert code == 0, error
    return json.loads(out)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of cells, and a model of each kind that commands treat in its own way, as `scvi train` leaves them."""
    here = tmp_path_factory.mktemp("commands")
    adata = make_adata()
    adata.obs["known"] = np.where(np.arange(adata.n_obs) % 3 == 0, "Unknown", adata.obs["cell_type"])
    adata.write_h5ad(here / "cells.h5ad")
    adata[:, :30].copy().write_h5ad(here / "seq.h5ad")
    adata[::2, 10:36].copy().write_h5ad(here / "spatial.h5ad")
    new = adata[:40].copy()
    new.obs["batch"] = "new"
    new.obs_names = [f"new{i}" for i in range(40)]
    new.write_h5ad(here / "new.h5ad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "available", lambda: False)
        for name, file, *options in (
            ("fit", "cells.h5ad", "--batch-key", "batch", "--labels-key", "cell_type"),
            ("labels", "cells.h5ad", "--model", "scanvi", "--labels-key", "known", "--unlabeled-category", "Unknown"),
            ("cite", "cells.h5ad", "--model", "totalvi", "--protein-obsm-key", "proteins", "--batch-key", "batch"),
            ("joint", "seq.h5ad", "--model", "gimvi", "--spatial", str(here / "spatial.h5ad")),
        ):
            typed = ["train", str(here / file), "--output", str(here / name), *options, *TINY]
            assert cli.main(typed) == 0
    return here


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_de_writes_what_the_model_says(capsys, folder, tmp_path):
    asked = ["--groupby", "cell_type", "--group1", "t0", "--group1", "t1", "--n-samples", 100, "--seed", 3]
    facts = answer(capsys, "de", folder / "fit", *asked, "--output", tmp_path / "new" / "genes.tsv.gz")
    table = pd.read_csv(tmp_path / "new" / "genes.tsv.gz", sep="\t", index_col="gene")
    model = scvi.SCVI.load(folder / "fit" / "model", anndata.read_h5ad(folder / "cells.h5ad"))
    true = model.differential_expression(groupby="cell_type", group1=["t0", "t1"], n_samples=100, seed=3)
    pd.testing.assert_frame_equal(table.rename_axis(None), true, rtol=1e-5, check_dtype=False)
    assert facts["comparisons"] == list(true["comparison"].unique())
    assert facts["called"] == true.groupby("comparison")["is_de_fdr_0.05"].sum().to_dict()
    code, out, error = run(capsys, "de", folder / "fit", *asked)  # to standard output, which holds the table alone
    assert code == 0, error
    assert out.splitlines()[0] == ",".join(["gene", *true])
    assert len(out.splitlines()) == len(true) + 1
    assert "2 comparisons of 40 genes" in error
    assert len(answer(capsys, "de", folder / "fit", *asked)["rows"]) == len(true)


@pytest.mark.parametrize("least", [0, 0.5, 1])
def test_annotate_abstains_as_the_model_does(capsys, folder, tmp_path, least):
    facts = answer(capsys, "annotate", folder / "labels", "--abstain-below", least, "--output", tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv", index_col="cell")
    model = scvi.SCANVI.load(folder / "labels" / "model", anndata.read_h5ad(folder / "cells.h5ad"))
    np.testing.assert_array_equal(table["label"], model.predict(abstain_below=least))
    probabilities = model.predict(soft=True)
    np.testing.assert_allclose(table.filter(like="probability_"), probabilities, rtol=1e-5)
    np.testing.assert_allclose(table["probability"], probabilities.max(axis=1), rtol=1e-5)
    assert facts["without_label"] == (table["label"] == "Unknown").sum() == 150 - sum(facts["labels"].values())


def test_annotate_keeps_labels_that_were_given(capsys, folder, tmp_path):
    answer(capsys, "annotate", folder / "labels", "--keep-observed", "--output", tmp_path / "a.csv")
    table, given = (
        pd.read_csv(tmp_path / "a.csv", index_col="cell"),
        anndata.read_h5ad(folder / "cells.h5ad").obs["known"],
    )
    assert (table["label"] == given)[(given != "Unknown").to_numpy()].all()


def test_impute_writes_denoised_expression(capsys, folder, tmp_path):
    facts = answer(capsys, "impute", folder / "fit", "--output", tmp_path / "d.h5ad", "--library-size", "latent")
    assert (facts["cells"], facts["genes"]) == (150, 40)
    written, cells = anndata.read_h5ad(tmp_path / "d.h5ad"), anndata.read_h5ad(folder / "cells.h5ad")
    true = scvi.SCVI.load(folder / "fit" / "model", cells).get_normalized_expression(library_size="latent", seed=0)
    np.testing.assert_array_equal(written.X, true)
    assert list(written.var_names) == list(true.columns)
    assert written.obs["cell_type"].astype(str).tolist() == cells.obs["cell_type"].tolist()
    asked = ["--genes", "gene3,gene1", "--transform-batch", "b1", "--seed", 2, "--library-size", 1e4]
    answer(capsys, "impute", folder / "fit", "--output", tmp_path / "d.csv", *asked)
    model = scvi.SCVI.load(folder / "fit" / "model", cells)
    true = model.get_normalized_expression(gene_list=["gene3", "gene1"], transform_batch="b1", library_size=1e4, seed=2)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "d.csv", index_col="cell"), true, rtol=1e-5, check_names=False, check_dtype=False
    )


@pytest.mark.filterwarnings("default:Observation names are not unique")
def test_impute_takes_cells_whose_names_repeat(capsys, folder, tmp_path):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs_names = ["cell"] * cells.n_obs
    cells.write_h5ad(tmp_path / "same.h5ad")
    answer(capsys, "impute", folder / "fit", tmp_path / "same.h5ad", "--output", tmp_path / "d.h5ad")
    assert anndata.read_h5ad(tmp_path / "d.h5ad").obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()


def test_cells_are_not_taken_where_one_of_two_files_is_gone(capsys, folder, tmp_path):
    shutil.copytree(folder / "joint", tmp_path / "joint")
    (tmp_path / "joint" / "spatial.h5ad").unlink()
    code, _, error = run(capsys, "impute", tmp_path / "joint", "--output", tmp_path / "i.csv")
    assert code == 2
    assert "was saved without its cells: name their file behind it" in error


def test_impute_writes_proteins_beside_genes(capsys, folder, tmp_path):
    files = answer(capsys, "impute", folder / "cite", "--output", tmp_path / "c.csv", "--proteins", "protein2")["files"]
    assert [Path(file).name for file in files] == ["c.csv", "c_proteins.csv"]
    model = scvi.TOTALVI.load(folder / "cite" / "model", anndata.read_h5ad(folder / "cells.h5ad"))
    for file, true in zip(files, model.get_normalized_expression(protein_list=["protein2"], seed=0), strict=True):
        np.testing.assert_allclose(pd.read_csv(file, index_col="cell"), true, rtol=1e-5)
    answer(capsys, "impute", folder / "cite", "--output", tmp_path / "c.h5ad")
    assert anndata.read_h5ad(tmp_path / "c.h5ad").obsm["proteins"].shape == (150, 5)


@pytest.mark.parametrize("given", [[], ["spatial.h5ad"]])
def test_impute_writes_genes_that_were_not_measured(capsys, folder, tmp_path, given):
    files = [folder / name for name in given]
    answer(capsys, "impute", folder / "joint", *files, "--output", tmp_path / "i.csv", "--genes", "gene2,gene35")
    seq, spatial = (anndata.read_h5ad(folder / name) for name in ("seq.h5ad", "spatial.h5ad"))
    assert "gene2" not in spatial.var_names
    model = scvi.GIMVI.load(folder / "joint" / "model", seq, spatial)
    true = model.get_imputed_values(gene_list=["gene2", "gene35"])[1]
    table = pd.read_csv(tmp_path / "i.csv", index_col="cell")
    np.testing.assert_allclose(table, true, rtol=1e-5)
    assert list(table.index) == list(spatial.obs_names)


@pytest.mark.parametrize(("level", "code"), [("good", 0), ("doubtful", 0), ("bad", 3)])
def test_check_ends_with_3_for_a_bad_fit(capsys, folder, monkeypatch, level, code):
    found = FitCheck((Verdict("mixing", level, "it is so", "do this"),), {"counts": "there are none"})
    asked = []
    monkeypatch.setattr(scvi.SCVI, "check", lambda self, **options: asked.append(options) or found)
    got, out, _ = run(capsys, "check", folder / "fit", "--groupby", "cell_type", "--n-cells", 50, "--seed", 4)
    assert (got, out) == (code, f"{found}\n")
    assert asked == [{"groupby": ["cell_type"], "n_cells": 50, "seed": 4}]
    got, out, _ = run(capsys, "check", folder / "fit", "--json")
    verdict = {"name": "mixing", "level": level, "says": "it is so", "advice": "do this"}
    assert (got, json.loads(out)) == (
        code,
        {"level": level, "verdicts": [verdict], "skipped": {"counts": "there are none"}},
    )
    assert check.BAD_FIT == 3


def test_report_writes_what_was_asked_for(capsys, folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(scvi.SCVI, "report", lambda self, path, **options: asked.append(options) or path.touch())
    options = [
        "--columns",
        "donor",
        "--columns",
        "age",
        "--labels-key",
        "cell_type",
        "--title",
        "A title",
        "--n-cells",
        9,
    ]
    page = tmp_path / "new" / "r.html"
    assert answer(capsys, "report", folder / "fit", *options, "--output", page) == {"output": str(page)}
    told = {"labels_key": "cell_type", "title": "A title", "n_cells": 9, "seed": 0}
    assert asked == [{"columns": ["donor", "age"], **told}]
    assert page.exists()
    command = [
        "train",
        folder / "cells.h5ad",
        "--output",
        tmp_path / "fit",
        "--labels-key",
        "cell_type",
        "--report",
        *TINY,
    ]
    assert answer(capsys, *command)["report"] == str(tmp_path / "fit" / "report.html")
    assert asked[1:] == [{"labels_key": "cell_type", "seed": 0}]


def test_a_report_that_fails_costs_nothing_but_the_report(capsys, folder, tmp_path, monkeypatch):
    def fail(self, path, **options):
        raise ZeroDivisionError("no page")

    monkeypatch.setattr(scvi.SCVI, "report", fail)
    command = ["train", folder / "cells.h5ad", "--output", tmp_path / "fit", "--report", *TINY]
    code, out, error = run(capsys, *command)
    assert code == 0
    assert "no report, all else is written (ZeroDivisionError: no page)" in error
    assert "report.html" not in out


@pytest.mark.filterwarnings("default:the reference was built with", "default:the query has no batch")
def test_map_writes_latent_space_and_labels_and_leaves_the_reference(capsys, folder, tmp_path):
    before = {file: file.read_bytes() for file in sorted((folder / "labels").rglob("*")) if file.is_file()}
    facts = answer(capsys, "map", folder / "labels", folder / "new.h5ad", "--output", tmp_path / "m", "--max-epochs", 0)
    assert (facts["epochs"], facts["history"]) == (0, None)
    written = anndata.read_h5ad(tmp_path / "m" / "new.h5ad")
    model = scvi.SCANVI.load(tmp_path / "m" / "model", written)
    np.testing.assert_array_equal(written.obs["predictions_scanvi"], model.predict())
    np.testing.assert_array_equal(written.obsm["X_scANVI"], model.get_latent_representation())
    facts = answer(capsys, "map", folder / "fit", folder / "new.h5ad", "--output", tmp_path / "n", "--max-epochs", 3)
    assert scvi.SCVI.load(tmp_path / "n" / "model").schema.batch_names == ("b0", "b1", "b2", "new")
    assert len(pd.read_csv(tmp_path / "n" / "history.csv")) == 3
    assert before == {file: file.read_bytes() for file in sorted((folder / "labels").rglob("*")) if file.is_file()}


@pytest.mark.filterwarnings("default:the query has no batch", "default:the reference was built with")
def test_map_trains_nothing_where_nothing_is_new(capsys, folder, tmp_path):
    code, _, error = run(capsys, "map", folder / "fit", folder / "cells.h5ad", "--output", tmp_path / "m")
    assert code == 0, error
    assert "nothing is new, so nothing is trained" in error
    one, two = (scvi.SCVI.load(place / "model").module.state_dict() for place in (folder / "fit", tmp_path / "m"))
    assert all(one[name].equal(two[name]) for name in one)


def test_convert_joins_files(capsys, folder, tmp_path):
    table = anndata.read_h5ad(folder / "new.h5ad").to_df()
    table.T.to_csv(tmp_path / "genes.csv")
    facts = answer(
        capsys,
        "convert",
        f"a={folder / 'cells.h5ad'}",
        tmp_path / "genes.csv",
        "--genes-in-rows",
        "--output",
        tmp_path / "s.zarr",
    )
    assert (facts["cells"], facts["genes"]) == (190, 40)
    written = anndata.read_zarr(tmp_path / "s.zarr")
    assert written.obs["sample"].value_counts().to_dict() == {"a": 150, "genes": 40}
    np.testing.assert_array_equal(written.X[150:].toarray(), table)
    trained = answer(capsys, "train", tmp_path / "s.zarr", "--on-disk", "--output", tmp_path / "fit", *TINY)
    assert trained["cells"] == [190]


def test_what_is_trained_from_disk_has_a_copy_without_counts(capsys, folder, tmp_path):
    out = tmp_path / "fit"
    answer(capsys, "train", folder / "cells.h5ad", "--on-disk", "--output", out, "--batch-key", "batch", *TINY)
    written = anndata.read_h5ad(out / "cells.h5ad")
    assert written.X is None
    model = scvi.SCVI.load(out / "model", anndata.read_h5ad(folder / "cells.h5ad"))
    np.testing.assert_allclose(written.obsm["X_scVI"], model.get_latent_representation(), rtol=1e-5, atol=1e-5)
    code, _, error = run(capsys, "de", out, "--groupby", "cell_type")
    assert code == 2
    assert "have no counts: name the file" in error
    asked = ["--groupby", "cell_type", "--n-samples", 10, "--on-disk"]
    assert answer(capsys, "de", out, folder / "cells.h5ad", *asked)["genes"] == 40


def test_train_is_told_what_is_set_by_name(capsys, folder, tmp_path):
    asked = ["--set", "gene_likelihood=nb", "--set", "lr=0.004", "--batch-size", 32, "--precision", "float32"]
    keys = ["--categorical-covariate", "donor", "--categorical-covariate", "treated", "--continuous-covariate", "age"]
    answer(capsys, "train", folder / "cells.h5ad", "--output", tmp_path / "fit", *TINY, *asked, *keys)
    model = scvi.SCVI.load(tmp_path / "fit" / "model")
    assert (model.options["n_hidden"], model.options["gene_likelihood"]) == (8, "nb")
    assert model.schema.categorical_covariate_keys == ("donor", "treated")
    assert model.schema.continuous_covariate_keys == ("age",)
    assert model.history["lr"]["lr"].max() <= 0.004
    code, _, error = run(
        capsys, "train", folder / "cells.h5ad", "--output", tmp_path / "fit", *TINY, *keys[:2], "--resume"
    )
    assert code == 2
    for typed in ("--categorical-covariate donor --categorical-covariate treated", "--batch-size 32", "--set lr=0.004"):
        assert typed in error


def test_scanvi_starts_from_an_scvi(capsys, folder, tmp_path):
    asked = ["--model", "scanvi", "--labels-key", "known", "--unlabeled-category", "Unknown", "--from", folder / "fit"]
    answer(
        capsys,
        "train",
        folder / "cells.h5ad",
        "--output",
        tmp_path / "fit",
        *asked,
        "--max-epochs",
        1,
        "--set",
        "lr=1e-9",
    )
    first = scvi.SCVI.load(folder / "fit" / "model").module.state_dict()
    second = scvi.SCANVI.load(tmp_path / "fit" / "model").module.state_dict()
    name = "z_encoder.encoder.fc_layers.Layer 0.0.weight"
    np.testing.assert_allclose(first[name], second[name], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "key"), [("autozi", "X_AutoZI"), ("condscvi", "X_CondSCVI"), ("linearscvi", "X_scVI")]
)
def test_train_writes_what_a_model_is_fitted_for(capsys, folder, tmp_path, model, key):
    asked = ["--model", model, "--labels-key", "cell_type", "--n-top-genes", 30, *TINY]
    facts = answer(capsys, "train", folder / "cells.h5ad", "--output", tmp_path / "fit", *asked)
    assert facts["latent"] == key
    written = anndata.read_h5ad(tmp_path / "fit" / "cells.h5ad")
    assert written.obsm[key].shape == (150, 10)
    fitted = getattr(scvi, facts["estimator"]).load(
        tmp_path / "fit" / "model", anndata.read_h5ad(folder / "cells.h5ad")
    )
    if model == "autozi":
        pd.testing.assert_series_equal(
            written.var["zero_inflation"].dropna(), fitted.get_zero_inflation(), check_dtype=False, check_names=False
        )
    if model == "linearscvi":
        np.testing.assert_array_equal(written.varm["loadings"].dropna(), fitted.get_loadings())
    assert written.var["highly_variable"].sum() == 30


# ---- --dry-run -------------------------------------------------------------------------------------------------------

DRY = [
    ["train", "CELLS", "--output", "NEW", "--batch-key", "batch", "--n-top-genes", "20"],
    ["check", "fit", "CELLS"],
    ["report", "fit", "CELLS", "--output", "NEW.html"],
    ["annotate", "labels", "CELLS", "--output", "NEW.csv"],
    ["de", "fit", "CELLS", "--groupby", "cell_type"],
    ["impute", "fit", "CELLS", "--output", "NEW.h5ad"],
    ["map", "fit", "CELLS", "--output", "NEW"],
    ["convert", "CELLS", "--output", "NEW.zarr"],
    ["tune", "CELLS", "--output", "NEW", "--n-trials", "5"],
]


@pytest.mark.parametrize("command", DRY, ids=lambda command: command[0])
def test_a_dry_run_reads_no_counts_and_writes_nothing(capsys, folder, tmp_path, command):
    (tmp_path / "cells.h5ad").write_bytes((folder / "cells.h5ad").read_bytes())
    with h5py.File(tmp_path / "cells.h5ad", "a") as file:
        del file["X/data"]  # who reads counts finds none
    names = {"CELLS": tmp_path / "cells.h5ad", "fit": folder / "fit", "labels": folder / "labels"}
    typed = [names.get(word, str(word).replace("NEW", str(tmp_path / "new"))) for word in command]
    before = {path: path.stat().st_mtime_ns for place in (folder, tmp_path) for path in place.rglob("*")}
    code, out, error = run(capsys, *typed, "--dry-run")
    assert code == 0, error
    assert "cells.h5ad: an .h5ad file" in out
    assert "150 cells x 40 genes" in out
    assert [line.split()[1] for line in out.splitlines()][-1] == "write"
    facts = answer(capsys, *typed, "--dry-run")
    assert facts["dry_run"]
    assert facts["reads"][-1]["columns"] == [*list(make_adata().obs), "known"]
    assert facts["does"]
    assert before == {path: path.stat().st_mtime_ns for place in (folder, tmp_path) for path in place.rglob("*")}
    assert run(capsys, *typed)[0] == 1  # which does read them


def test_a_dry_run_finds_columns_that_are_not_there(capsys, folder, tmp_path):
    for option, key in (("--batch-key", "btach"), ("--layer", "counts"), ("--continuous-covariate", "aeg")):
        code, _, error = run(
            capsys, "train", folder / "cells.h5ad", "--output", tmp_path / "o", option, key, "--dry-run"
        )
        assert code == 1
        assert f"{option}={key!r} is not" in error


# ---- what is wrong ---------------------------------------------------------------------------------------------------

TRAIN, TUNE = ["train", "cells.h5ad", "--output", "o"], ["tune", "cells.h5ad", "--output", "t"]
SCANVI = ["--model", "scanvi", "--labels-key", "known", "--unlabeled-category", "Unknown"]
WRONG = [
    ([*TRAIN, "--model", "scanvi"], 2, "--model scanvi needs --labels-key"),
    ([*TRAIN, "--model", "gimvi"], 2, "--model gimvi needs --spatial"),
    ([*TRAIN, "--unlabeled-category", "x"], 2, "--unlabeled-category is for --model scanvi"),
    ([*TRAIN, "--preset", "quick", "--model", "autozi"], 2, "--preset is for --model scvi"),
    ([*TRAIN, "--set", "n_hiden=8"], 2, "did you mean 'n_hidden'"),
    ([*TRAIN, "--set", "n_latent=8"], 2, "--set n_latent"),
    ([*TRAIN, "--set", "8"], 2, "'8' is not NAME=VALUE"),
    ([*TRAIN, "--device", "tpu"], 2, "argument --device: 'tpu' is not auto, cpu"),
    ([*TRAIN, "--device", "gpu:99"], 1, "--device='gpu'"),
    ([*TRAIN, "--model", "totalvi"], 1, "--protein-obsm-key='protein_expression'"),
    ([*TRAIN, "--categorical-covariate", "donr"], 1, "did you mean 'donor'"),
    ([*TRAIN, "--max-epochs", "2", "--preset", "quick"], 1, "--preset='quick' and --max-epochs"),
    ([*TRAIN, *SCANVI, "--from", "fit", "--batch-key", "batch"], 2, "--batch-key does not go with --from"),
    ([*TRAIN, *SCANVI, "--from", "nowhere", "--dry-run"], 2, "there is no folder 'nowhere'"),
    ([*TRAIN, *SCANVI, "--from", "cite"], 1, "--from 'cite' holds a model of TOTALVI"),
    (["de", "fit", "--groupby", "cell_tpe"], 1, "--groupby='cell_tpe' is not a column"),
    (["de", "fit", "--groupby", "cell_type", "--group1", "t9"], 1, "t9"),
    (["de", "fit", "--groupby", "cell_type", "--sample-key", "dono"], 1, "--sample-key='dono'"),
    (["de", "fit", "--groupby", "cell_type", "--output", "x.xlsx"], 2, "does not end with .csv, .tsv"),
    (["de", "fit", "--groupby", "cell_type", "--output", "cells.csv"], 2, "is there already; add --overwrite"),
    (["de", "joint", "--groupby", "cell_type"], 1, "'joint' holds a model of GIMVI"),
    (["de", "nowhere", "--groupby", "cell_type"], 2, "there is no folder 'nowhere'"),
    (["de", ".", "--groupby", "cell_type"], 2, "'.' holds no model"),
    (["de", "fit/model", "--groupby", "cell_type"], 0, ""),
    (["annotate", "fit"], 1, "'fit' holds a model of SCVI; this is a question to SCANVI"),
    (["annotate", "labels", "--abstain-below", "2"], 2, "argument --abstain-below: '2' is not a number from 0 to 1"),
    (["annotate", "labels", "cells.loom"], 1, "cells.loom"),
    (["impute", "fit"], 2, "required: --output"),
    (["impute", "fit", "--output", "x.csv", "--genes", "gene1,nope"], 1, "--genes has 'nope'"),
    (["impute", "fit", "--output", "x.csv", "--proteins", "a"], 2, "--proteins is for TOTALVI"),
    (["impute", "joint", "--output", "x.csv", "--transform-batch", "a"], 2, "GIMVI"),
    (["train", "cells.h5ad", "--output", "fit", *SCANVI, "--from", "fit", "--overwrite"], 2, "holds the model"),
    (["map", "fit", "new.h5ad", "--output", "fit", "--overwrite"], 2, "holds the model 'fit/model', which would be"),
    (["impute", "cite", "--output", "there.csv"], 2, "'there_proteins.csv', for the proteins, is there already"),
    (["impute", "fit", "--output", "fit/cells.h5ad", "--overwrite"], 2, "holds the cells, which would be overwritten"),
    (["de", "fit", "--groupby", "cell_type", "--strata", "dono", "--dry-run"], 1, "--strata='dono' is not a column"),
    (["check", "fit", "--groupby", "cell_tpe", "--dry-run"], 1, "--groupby='cell_tpe' is not a column"),
    (["report", "fit", "--columns", "dono", "--output", "r.html", "--dry-run"], 1, "'dono' is not a column"),
    (["tune", "cells.h5ad", "--output", "fit"], 2, "'fit' holds a model that no search has fitted"),
    (["tune", "cells.h5ad", "--output", "t", "--storag", "postgresql://me:secret@host/db"], 2, "me:***@host/db"),
    (["map", "joint", "new.h5ad", "--output", "o"], 1, "a model of GIMVI"),
    (["map", "fit", "few.h5ad", "--output", "o", "--min-genes-found", "0.9"], 1, "at least 90% are needed"),
    (["convert", "cells.h5ad", "--output", "x.csv"], 2, "does not end with .h5ad or .zarr"),
    (["convert", "cells.h5ad", "--output", "new.h5ad"], 2, "is there already"),
    (["convert", "cells.h5ad", "--output", "cells.h5ad", "--overwrite"], 2, "is an input"),
    (["convert", "cells.h5ad", "fit/cells.h5ad", "--output", "x.h5ad"], 2, "two inputs are called 'cells'"),
    (["convert", "a=nope.h5ad", "--output", "x.h5ad"], 2, "there is no file"),
    ([*TUNE, "--metric", "elbow"], 1, "--metric='elbow' is not"),
    ([*TUNE, "--search", "n_latent=a..b"], 2, "argument --search: 'n_latent=a..b' is no range"),
    ([*TUNE, "--search", "n_latnt=5..9"], 1, "n_latnt"),
    ([*TUNE, "--model", "gimvi"], 2, "invalid choice: 'gimvi'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "code", "says"), WRONG, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_errors_are_one_line_and_name_the_option(capsys, folder, monkeypatch, command, code, says):
    monkeypatch.chdir(folder)
    Path("cells.csv").touch()
    Path("there_proteins.csv").touch()
    make_adata()[:20, :10].copy().write_h5ad("few.h5ad")
    got, _, error = run(capsys, *command)
    assert got == code, error
    if code:
        assert says in error
        lines = [line for line in error.splitlines() if line.startswith("scvi: error: ")]
        assert len(lines) == 1
        assert error.splitlines()[-1] == lines[0]
    assert not Path("o").exists()


def test_a_password_is_never_printed(capsys, folder, tmp_path, caplog):
    url = "postgresql://me:hunter2@127.0.0.1:9/studies?password=hunter2"
    command = ["tune", folder / "cells.h5ad", "--output", tmp_path / "t", "--storage", url]
    code, out, error = run(capsys, *command, "--dry-run")
    assert code == 0, error
    assert "me:***@127.0.0.1:9/studies" in out
    dry = out + error
    code, out, error = run(capsys, *command)
    assert code == 1
    assert "127.0.0.1" in error
    assert "hunter2" not in dry + out + error + caplog.text


def test_what_is_said_hides_passwords_and_names_options(capsys):
    messages.say("postgres://me:p@ss/w:rd@host/db: batch_key=1, layer='x', obs['batch_key'], a layer", "error")
    said = capsys.readouterr().err
    assert said == "scvi: error: postgres://me:***@host/db: --batch-key=1, --layer='x', obs['batch_key'], a layer\n"
    paths = "/data/n_cells/batch_key.h5ad: obs[\"n_samples\"], batch_key/cells.h5ad and 'n_cells'"
    messages.say(f"{paths}: leave out n_cells.")
    assert capsys.readouterr().err == f"{paths}: leave out --n-cells.\n"


def test_the_demo_speaks_on_standard_error_where_json_is_asked_for(capsys, tmp_path, monkeypatch):
    fit = scvi.demo._fit
    monkeypatch.setattr(scvi.demo, "_fit", lambda adata, seed, max_epochs: fit(adata, seed, 1))
    code, out, error = run(capsys, "demo", "--output", tmp_path, "--json")
    assert code == 0, error
    facts = json.loads(out)
    assert (facts["output"], facts["picture"], facts["report"]) == (str(tmp_path), None, None)
    assert f"held-out ELBO: {facts['held_out_elbo']:.1f} " in error
    names = ["ARI", "NMI", "knn_accuracy", "batch_entropy"]
    assert {column: list(scores) for column, scores in facts["scores"].items()} == dict.fromkeys(
        ["PCA", "scVI", "best"], names
    )
    assert f"{facts['scores']['PCA']['ARI']:7.3f}{facts['scores']['scVI']['ARI']:8.3f}   1.000\n" in error
    code, out, _ = run(capsys, "demo", "--output", tmp_path / "new", "--dry-run")
    assert code == 0
    written = [f"would write  {tmp_path / 'new' / name}" for name in ("before-after.png", "report.html")]
    assert out.splitlines()[-2:] == written
    assert not (tmp_path / "new").exists()


# ---- around ----------------------------------------------------------------------------------------------------------


def test_tune_searches_goes_on_and_says_what_is_best(capsys, folder, tmp_path):
    command = [
        "tune",
        folder / "cells.h5ad",
        "--output",
        tmp_path / "t",
        "--batch-key",
        "batch",
        "--search",
        "n_latent=3..9",
    ]
    command += ["--search", "n_hidden=8", "--search", "max_epochs=1", "--search", "gene_likelihood=zinb,nb"]
    facts = answer(capsys, *command, "--n-trials", 1, "--no-refit")
    assert facts["model"] is None
    facts = answer(capsys, *command, "--n-trials", 2)
    assert facts["trials"] == {"complete": 2}
    assert facts["model_args"]["n_hidden"] == 8
    assert facts["train_args"] == {"max_epochs": 1}
    assert scvi.SCVI.load(tmp_path / "t" / "model").options["n_latent"] == facts["model_args"]["n_latent"]
    code, out, error = run(capsys, *command, "--n-trials", 2)
    assert code == 0, error
    assert f"elbo {facts['best_value']:.6g}" in out


def test_copies_are_named_after_their_inputs():
    names = {
        "a.h5ad": "a.h5ad",
        "a.h5mu": "a.h5mu",
        "a.csv.gz": "a.h5ad",
        "a.tar.gz": "a.h5ad",
        "run.v3": "run.h5ad",
        "a": "a.h5ad",
    }
    assert {name: output.copy_name(name) for name in names} == names
    assert output.copies_of(Path("o"), {"file": "a.csv", "spatial": "../b.h5ad"}) == [Path("o/a.h5ad")]


def test_importing_the_command_loads_nothing_heavy():
    heavy = ["torch", "anndata", "pandas", "numba", "optuna", "jinja2", "h5py"]
    code = f"import sys, scvi.cli; scvi.cli._parser(); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(folder):
    code = "import sys; from scvi.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "convert", folder / "cells.h5ad", "--output", folder / "x.zarr", "--dry-run"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
