import json
import os
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scvi
from scvi import plots
from scvi.cli import main

N, G = 90, 40


def counts_file(path, **changes):
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 3
    rates = rng.gamma(1.0, 2.0, size=(3, G))[kind]
    adata = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(rates).astype(np.int32)),
        obs=pd.DataFrame(
            {"sample": [f"s{i % 2}" for i in range(N)], "kind": list("abc") * 30}, index=[f"cell{i}" for i in range(N)]
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(G)]),
    )
    adata.layers["log"] = np.log1p(adata.X.toarray())
    for name, value in changes.items():
        setattr(adata, name, value)
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return counts_file(tmp_path_factory.mktemp("input") / "cells.h5ad")


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def assert_refused(result, code, *parts):
    """One line on standard error that holds all the parts, and the exit code."""
    got, _, error = result
    assert got == code, error
    assert error.startswith("scvi: error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


# What the shell sees ----------------------------------------------------------------------------------------------


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"scvi {scvi.__version__}\n", "")
    assert "scvi train --help" in run(capsys, "--help")[1]
    taught = run(capsys, "train", "--help")[1]
    for word in ("--batch-key", "--n-top-genes", "--resume", "obsm", "examples:", "raw"):
        assert word in taught
    assert "--output" in run(capsys, "demo", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND"]),
        (["fit"], ["'fit'"]),
        (["train"], ["FILE.h5ad", "--output"]),
        (["train", "x.h5ad", "--output", "out", "--max-epochs", "-1"], ["--max-epochs", "'-1'"]),
        (["train", "x.h5ad", "--output", "out", "--n-latent", "0"], ["--n-latent", "'0'"]),
        (["train", "x.h5ad", "--output", "out", "--n-top-genes", "1.5"], ["--n-top-genes", "'1.5'"]),
        (["train", "x.h5ad", "--output", "out", "--seed", str(2**32)], ["--seed", str(2**32)]),
        (["train", "x.h5ad", "--output", "out", "--model", "pca"], ["--model", "'pca'", "ldvae"]),
        (["train", "x.h5ad", "--output", "out", "--resume", "--overwrite"], ["--resume", "--overwrite"]),
        (["train", "x.h5ad", "--output", "out", "--batch", "b"], ["--batch"]),
        (["train", "x.h5ad", "--output", "out"], ["'x.h5ad'"]),
    ],
)
def test_bad_usage_is_one_line_and_code_2(capsys, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(capsys, *arguments), 2, *parts, "--help")
    assert not list(tmp_path.iterdir())


def test_no_file_of_the_user_is_overwritten(capsys, cells, tmp_path):
    output = tmp_path / "out"
    output.write_text("mine")
    assert_refused(run(capsys, "train", cells, "--output", output), 2, "is a file")
    output.unlink()
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert_refused(run(capsys, "train", cells, "--output", output), 2, "is not empty", "--resume", "--overwrite")
    assert_refused(run(capsys, "train", cells, "--output", output, "--resume"), 2, "holds no run")
    assert_refused(run(capsys, "train", cells, "--output", cells.parent, "--overwrite"), 2, "holds the input")
    assert [path.name for path in output.iterdir()] == ["notes.txt"]


def broken(path):
    path.write_bytes(b"no HDF5")


def with_counts(change):
    def write(path):
        counts_file(path, X=change(np.ones((N, G), np.float32)))

    return write


def poisoned(value):
    def change(x):
        x[3, 5] = value
        return x

    return change


@pytest.mark.parametrize(
    ("write", "options", "parts"),
    [
        (broken, [], ["cells.h5ad", "no readable .h5ad"]),
        (with_counts(poisoned(np.nan)), [], ["cell3", "gene5"]),
        (with_counts(poisoned(-1)), [], ["-1", "gene5"]),
        (with_counts(poisoned(0.5)), [], ["0.5", "gene5"]),
        (counts_file, ["--layer", "log"], ["log"]),
        (counts_file, ["--layer", "lgo"], ["lgo", "log"]),
        (counts_file, ["--batch-key", "smaple"], ["smaple", "sample"]),
        (counts_file, ["--labels-key", "king"], ["king", "kind"]),
        (counts_file, ["--n-top-genes", G + 1], ["--n-top-genes", str(G)]),
        (lambda path: counts_file(path, var_names=["gene"] * G), [], ["gene"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_bad_data_is_one_line_and_code_1_and_nothing_is_written(capsys, tmp_path, write, options, parts):
    file, output = tmp_path / "cells.h5ad", tmp_path / "out"
    write(file)
    assert_refused(run(capsys, "train", file, "--output", output, *options), 1, *parts)
    assert not output.exists()


def test_debug_shows_the_traceback(tmp_path):
    broken(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=r"no readable \.h5ad"):
        main(["--debug", "train", str(tmp_path / "cells.h5ad"), "--output", str(tmp_path / "out")])


# What a run writes ------------------------------------------------------------------------------------------------


def test_train_writes_everything(capsys, cells, tmp_path, no_picture):
    output = tmp_path / "new" / "out"
    code, out, error = run(
        capsys, "train", cells, "--output", output, "--batch-key", "sample", "--labels-key", "kind", "--max-epochs", 2
    )
    assert code == 0, error
    assert {path.name for path in output.iterdir()} == {"cells.h5ad", "history.csv", "model", "options.json"}
    assert f"{N} cells x {G} genes" in out
    assert 'pip install "scvi[plot]"' in out

    given, written = anndata.read_h5ad(cells), anndata.read_h5ad(output / "cells.h5ad")
    assert (written.X != given.X).nnz == 0
    np.testing.assert_array_equal(written.layers["log"], given.layers["log"])
    assert written.obs.equals(given.obs)
    assert written.obsm["X_scVI"].shape == (N, 10)

    history = pd.read_csv(output / "history.csv", index_col="epoch")
    assert len(history) == 2
    assert {"elbo_train", "elbo_validation"} <= set(history)
    assert np.isfinite(history).all(axis=None)

    model = scvi.SCVI.load(output / "model", adata=written)
    np.testing.assert_array_equal(model.get_latent_representation(), written.obsm["X_scVI"])
    assert json.loads((output / "options.json").read_text())["batch_key"] == "sample"


def test_linear_decoder_top_genes_and_layer(capsys, tmp_path, no_picture):
    file = counts_file(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(file)
    adata.layers["counts"], adata.X = adata.X, adata.layers["log"]
    adata.write_h5ad(file)
    output = tmp_path / "out"
    options = ["--layer", "counts", "--model", "ldvae", "--n-latent", 4, "--n-top-genes", 15, "--batch-key", "sample"]
    code, _, error = run(capsys, "train", file, "--output", output, "--max-epochs", 1, *options)
    assert code == 0, error
    written = anndata.read_h5ad(output / "cells.h5ad")
    assert written.shape == (N, G)
    assert written.var["highly_variable"].sum() == 15
    assert written.obsm["X_scVI"].shape == (N, 4)
    model = scvi.LinearSCVI.load(output / "model", adata=written)
    assert list(model.get_loadings().index) == list(written.var_names[written.var["highly_variable"]])


def test_same_seed_same_latent_space(capsys, cells, tmp_path, no_picture):
    latents = []
    for run_number, seed in enumerate((3, 3, 4)):
        output = tmp_path / str(run_number)
        assert run(capsys, "train", cells, "--output", output, "--max-epochs", 1, "--seed", seed)[0] == 0
        latents.append(anndata.read_h5ad(output / "cells.h5ad").obsm["X_scVI"])
    np.testing.assert_array_equal(latents[0], latents[1])
    assert not np.allclose(latents[0], latents[2])


def test_overwrite_replaces_own_files_only(capsys, cells, tmp_path, no_picture):
    output = tmp_path / "out"
    assert run(capsys, "train", cells, "--output", output, "--max-epochs", 1)[0] == 0
    (output / "notes.txt").write_text("mine")
    assert_refused(run(capsys, "train", cells, "--output", output), 2, "is not empty")
    assert run(capsys, "train", cells, "--output", output, "--max-epochs", 3, "--overwrite")[0] == 0
    assert len(pd.read_csv(output / "history.csv")) == 3
    assert (output / "notes.txt").read_text() == "mine"


def test_resume_of_a_complete_run_changes_nothing(capsys, cells, tmp_path, no_picture):
    output = tmp_path / "out"
    assert run(capsys, "train", cells, "--output", output, "--max-epochs", 1, "--resume")[0] == 0
    before = (output / "cells.h5ad").read_bytes()
    code, out, _ = run(capsys, "train", cells, "--output", output, "--max-epochs", 1, "--resume")
    assert code == 0
    assert "complete" in out
    assert (output / "cells.h5ad").read_bytes() == before
    assert_refused(
        run(capsys, "train", cells, "--output", output, "--max-epochs", 1, "--resume", "--seed", 5), 2, "--seed 0"
    )


@pytest.mark.slow
def test_ctrl_c_and_resume_give_what_an_uninterrupted_run_gives(cells, tmp_path):
    code = "import sys; from scvi import cli, plots; plots.available = lambda: False; sys.exit(cli.main())"
    command = [sys.executable, "-c", code, "train", cells, "--max-epochs", "300", "--output"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    subprocess.run([*command, whole], check=True, **options)

    first = subprocess.Popen([*command, halves], text=True, **options)
    until = time.monotonic() + 60
    while not list(halves.glob("checkpoint/*.safetensors")) and first.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGINT)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 130, error
    assert "--resume" in error
    assert "Traceback" not in error
    assert {path.name for path in halves.iterdir()} == {"checkpoint", "options.json"}

    subprocess.run([*command, halves, "--resume"], check=True, **options)
    assert {path.name for path in halves.iterdir()} == {path.name for path in whole.iterdir()}
    one, two = (anndata.read_h5ad(folder / "cells.h5ad").obsm["X_scVI"] for folder in (whole, halves))
    np.testing.assert_array_equal(one, two)
    assert (whole / "history.csv").read_text() == (halves / "history.csv").read_text()


@pytest.mark.slow
def test_the_picture_is_drawn_where_the_extra_is_installed(capsys, cells, tmp_path):
    code, out, error = run(capsys, "train", cells, "--output", tmp_path / "out", "--max-epochs", 1)
    assert code == 0, error
    assert "umap.png" in out
    assert (tmp_path / "out" / "umap.png").read_bytes().startswith(b"\x89PNG")


def test_too_few_cells_for_a_picture_are_fitted_all_the_same(capsys, cells, tmp_path):
    file = tmp_path / "three.h5ad"
    anndata.read_h5ad(cells)[:3].write_h5ad(file)
    code, _, error = run(capsys, "train", file, "--output", tmp_path / "out", "--max-epochs", 1)
    assert code == 0, error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "three.h5ad",
        "history.csv",
        "model",
        "options.json",
    }


# The demo ---------------------------------------------------------------------------------------------------------


def scores_in(text):
    """Rows of the printed table: PCA, scVI, best."""
    rows = [line.rsplit(maxsplit=3) for line in text.splitlines() if line.endswith(("1.000", "1.591"))]
    return {name.strip(): [float(value) for value in values] for name, *values in rows}


@pytest.mark.slow
def test_demo_prints_scores_and_draws(capsys, tmp_path):
    code, out, error = run(capsys, "demo", "--output", tmp_path / "out")
    assert code == 0, error
    assert (tmp_path / "out" / "before-after.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "out" / "before-after.png") in out
    elbo = float(out.split("held-out ELBO: ")[1].split()[0])
    assert -2640 < elbo < -2000  # another package's best known figure is -2626
    scores = scores_in(out)
    pca, fitted, best = zip(*scores.values(), strict=True)
    assert pca == pytest.approx((0.674, 0.797, 1.0, 0.637), abs=2e-3)
    assert best == (1, 1, 1, 1.591)
    assert fitted[0] > 0.85  # K-means cuts a cell line in two with some seeds
    assert fitted[1] > 0.9
    assert fitted[2] > 0.99
    assert fitted[3] > 1.2


def test_demo_without_pictures_says_so(capsys, tmp_path, monkeypatch, no_picture):
    from scvi import demo

    monkeypatch.chdir(tmp_path)
    assert demo.run(max_epochs=1) is None
    assert 'pip install "scvi[plot]"' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
