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
from scvi.cli import output as folders
from scvi.cli.output import Output
from scvi.estimators import base, files
from scvi.fit import checkpoint
from scvi.fit import fit as fitting

N, G = 90, 40


def counts_file(path, **changes):
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 3
    rates = rng.gamma(1.0, 2.0, size=(3, G))[kind]
    adata = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(rates).astype(np.int32)),
        obs=pd.DataFrame(
            {
                "sample": [f"s{i % 2}" for i in range(N)],
                "kind": list("abc") * 30,
                "gappy": pd.Categorical([None, "a", "b"] * 30),
            },
            index=[f"cell{i}" for i in range(N)],
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
    assert_refused(run(capsys, "train", cells, "--output", output, "--overwrite"), 2, "holds no run", "another")
    assert [path.name for path in output.iterdir()] == ["notes.txt"]


def run_of_before(folder, **changes):
    """A folder as a run that was interrupted leaves it."""
    folder.mkdir()
    options = {"batch_key": None, "labels_key": None, "layer": None, "n_top_genes": None, "model": "scvi"}
    options |= {"n_latent": 10, "max_epochs": None, "seed": 0, "file": "cells.h5ad", "scvi_version": "1"}
    (folder / "options.json").write_text(json.dumps(options | changes))
    return folder


@pytest.mark.parametrize("content", ["[1]", "{", '{"seed": 0}', '{"scvi_version": null}', "[" * 9999, "\xff"])
@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_foreign_record_is_named_and_nothing_is_removed(capsys, cells, tmp_path, content, option):
    (tmp_path / "model").mkdir()
    for name in ("options.json", "history.csv", "model/model.json"):
        (tmp_path / name).write_text(content, encoding="latin-1")
    before = sorted(tmp_path.rglob("*"))
    result = run(capsys, "train", cells, "--output", tmp_path, option)
    assert_refused(result, 2, str(tmp_path / "options.json"), "not what `scvi train` writes", "name another folder")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model/notes.txt", "file"), ("model", "file"), ("checkpoint", "file"), ("umap.png", "folder"),
     ("history.csv", "folder"), ("cells.h5ad", "folder")],
)  # fmt: skip
def test_what_is_in_the_way_is_found_before_the_fit_and_kept(capsys, cells, tmp_path, name, kind):
    folder = run_of_before(tmp_path / "out", file="cells.h5ad")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).mkdir() if kind == "folder" else (folder / name).write_text("mine")
    for option in ("--resume", "--overwrite"):
        assert_refused(run(capsys, "train", cells, "--output", folder, option), 2, str(folder / name), "move it away")
    assert (folder / name).exists()


def test_a_copy_that_no_run_wrote_is_kept(capsys, cells, tmp_path):
    folder = run_of_before(tmp_path / "out", file="other.h5ad")
    (folder / "cells.h5ad").write_text("mine")
    assert_refused(run(capsys, "train", cells, "--output", folder, "--overwrite"), 2, "not of the earlier run")
    assert (folder / "cells.h5ad").read_text() == "mine"


def test_an_input_that_is_the_copy_of_an_earlier_run_is_kept(capsys, cells, tmp_path):
    folder = run_of_before(tmp_path / "out", file="other.h5ad")
    (folder / "other.h5ad").write_bytes(cells.read_bytes())
    (tmp_path / "link.h5ad").symlink_to(folder / "other.h5ad")
    result = run(capsys, "train", tmp_path / "link.h5ad", "--output", folder, "--overwrite")
    assert_refused(result, 2, "holds the input")
    assert (folder / "other.h5ad").exists()


@pytest.mark.parametrize("file", ["../cells.h5ad", "/cells.h5ad", "", 5, None])
def test_a_record_cannot_name_files_elsewhere(cells, tmp_path, file):
    victim = tmp_path / "cells.h5ad"
    victim.write_text("mine")
    output = Output(run_of_before(tmp_path / "out", file=file), cells)
    output.check({}, resume=False, overwrite=True)
    output.clear()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("began", "options", "parts"),
    [
        ({}, ["--max-epochs", 3], ["without --max-epochs"]),
        ({"max_epochs": 3}, [], ["--max-epochs 3"]),
        ({"batch_key": "my batch"}, [], ["--batch-key 'my batch'"]),
        ({"batch_key": "b", "seed": 4}, ["--seed", 5], ["--batch-key b, --seed 4"]),
        ({"file": "other.h5ad"}, [], ["'other.h5ad'", "'cells.h5ad'"]),
    ],
)
def test_resume_says_what_to_type(capsys, cells, tmp_path, began, options, parts):
    folder = run_of_before(tmp_path / "out", **began)
    assert_refused(run(capsys, "train", cells, "--output", folder, "--resume", *options), 2, *parts)


@pytest.mark.parametrize("command", [["demo"], ["train", "FILE"]])
def test_a_place_that_cannot_be_written_to_is_found_before_the_fit(capsys, cells, tmp_path, monkeypatch, command):
    command = [cells if word == "FILE" else word for word in command]
    file = tmp_path / "file"
    file.write_text("mine")
    assert_refused(run(capsys, *command, "--output", file), 2, "is a file; name a folder")
    assert_refused(run(capsys, *command, "--output", file / "below" / "it"), 2, "lies below", str(file))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_refused(run(capsys, *command, "--output", tmp_path / "new" / "out"), 2, "may not write", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def broken(path):
    path.write_bytes(b"no HDF5")


def nullable_text(path):
    """In a table that has no categories for it, which anndata writes with a setting only."""
    table = pd.DataFrame({"x": pd.array(["a"] * N, dtype="string")}, index=[f"cell{i}" for i in range(N)])
    with anndata.settings.override(allow_write_nullable_strings=True):
        counts_file(path, obsm={"notes": table})


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
        (nullable_text, [], ["adata.obsm['notes']['x'] cannot be written to a file: it holds string values"]),
        (with_counts(poisoned(np.nan)), [], ["cell3", "gene5"]),
        (with_counts(poisoned(-1)), [], ["-1", "gene5"]),
        (with_counts(poisoned(0.5)), ["--non-integer", "refuse"], ["0.5", "gene5", "--non-integer='warn'"]),
        (with_counts(lambda x: x / 7), ["--n-top-genes", 9], ["0.142", "cell0", "gene0"]),
        (counts_file, ["--layer", "log"], ["log"]),
        (counts_file, ["--layer", "lgo"], ["--layer='lgo'", "log"]),
        (counts_file, ["--batch-key", "smaple"], ["--batch-key='smaple'", "sample"]),
        (counts_file, ["--labels-key", "king"], ["--labels-key='king'", "kind"]),
        (counts_file, ["--n-top-genes", G + 1], ["--n-top-genes", str(G)]),
        (counts_file, ["--n-top-genes", G + 1, "--layer", "log"], ["--n-top-genes", str(G)]),
        (lambda path: counts_file(path, var_names=["gene"] * G), [], ["gene"]),
        (with_counts(poisoned(-1)), ["--n-top-genes", 9], ["-1", "cell3", "gene5", "pass --layer='...'"]),
        (counts_file, ["--layer", "lgo", "--n-top-genes", 9], ["--layer='lgo'", "log"]),
        (counts_file, ["--batch-key", "smaple", "--n-top-genes", 9], ["--batch-key='smaple'", "sample"]),
        (counts_file, ["--batch-key", "gappy"], ["--batch-key: ", "NaN"]),
        (with_counts(lambda x: x.astype(np.complex64)), [], ["complex64"]),
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
    assert f"{N} cells x {G} genes" in error
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


def test_text_of_pandas_is_copied_as_text(capsys, tmp_path, no_picture):
    with anndata.settings.override(allow_write_nullable_strings=True):
        obs = pd.DataFrame({"id": pd.array([f"x{i}" for i in range(N)], dtype="string")})
        counts_file(tmp_path / "cells.h5ad", obs=obs.set_axis([f"cell{i}" for i in range(N)]))
    code, _, error = run(capsys, "train", tmp_path / "cells.h5ad", "--output", tmp_path / "out", "--max-epochs", 1)
    assert code == 0, error
    assert anndata.read_h5ad(tmp_path / "out" / "cells.h5ad").obs["id"].tolist() == [f"x{i}" for i in range(N)]


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


@pytest.mark.filterwarnings("default:adata.X holds values that are no integers")
@pytest.mark.parametrize("rule", [[], ["--non-integer", "round"]])
def test_estimates_are_told_once(capsys, tmp_path, no_picture, rule):
    counts = np.random.default_rng(0).poisson(2.0, (N, G)).astype(np.float32) + 1
    file = counts_file(tmp_path / "cells.h5ad", X=counts * 0.97)
    command = ["train", file, "--output", tmp_path / "out", "--max-epochs", 1, "--n-top-genes", 9, *rule]
    code, _, error = run(capsys, *command)
    assert code == 0, error
    assert error.count("holds values that are no integers") == (not rule)
    assert error.count("--non-integer='round' has the nearest integers read") == (not rule)
    model = scvi.SCVI.load(tmp_path / "out" / "model")
    assert model.schema.non_integer == ("round" if rule else "warn")


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

    other = tmp_path / "other.h5ad"
    other.write_bytes(cells.read_bytes())
    assert run(capsys, "train", other, "--output", output, "--max-epochs", 1, "--overwrite")[0] == 0
    assert {path.name for path in output.iterdir()} == {
        "other.h5ad", "history.csv", "model", "options.json", "notes.txt"
    }  # fmt: skip


def test_only_files_of_a_run_are_removed(cells, tmp_path):
    output = Output(run_of_before(tmp_path / "out"), cells)
    for name in ("model/model.json", "model/weights.safetensors", "checkpoint/.checkpoint.7.safetensors"):
        (output.folder / name).parent.mkdir(exist_ok=True)
        (output.folder / name).touch()
    (output.checkpoint / "mine.txt").touch()
    output.clear()
    left = {path.relative_to(output.folder).as_posix() for path in output.folder.rglob("*")}
    assert left == {"options.json", "checkpoint", "checkpoint/mine.txt"}


def test_the_names_of_our_files_are_those_that_are_written():
    assert set(folders.MODEL_FILES) == {files.DESCRIPTION, files.WEIGHTS, files.ADATA}
    assert folders.CHECKPOINT_FILES[0] == checkpoint.FILE_NAME


def test_labels_are_for_the_picture_only(capsys, cells, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "latent_umap", lambda latent, colour_by, file, seed: drawn.update(colour_by))
    output = tmp_path / "out"
    code, _, error = run(capsys, "train", cells, "--output", output, "--labels-key", "gappy", "--max-epochs", 1)
    assert code == 0, error
    assert drawn["gappy"].isna().sum() == N // 3
    unlabelled = anndata.read_h5ad(cells)
    del unlabelled.obs["gappy"]
    assert scvi.SCVI.load(output / "model", unlabelled).schema.labels_key is None


def test_a_picture_that_fails_costs_nothing_but_the_picture(capsys, cells, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("numba is upset")

    monkeypatch.setattr(plots, "latent_umap", fail)
    command = ["train", cells, "--max-epochs", 1, "--output"]
    code, _, error = run(capsys, *command, tmp_path / "out")
    assert code == 0
    assert "scvi: warning: no picture, all else is written (ZeroDivisionError: numba is upset)" in error
    names = {"cells.h5ad", "history.csv", "model", "options.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert "is complete" in run(capsys, *command, tmp_path / "out", "--resume")[1]

    with pytest.raises(ZeroDivisionError):
        main(["--debug", *map(str, command), str(tmp_path / "debug")])
    assert {path.name for path in (tmp_path / "debug").iterdir()} == {*names, "checkpoint"}
    monkeypatch.setattr(plots, "latent_umap", lambda latent, colour_by, file, seed: file.touch())
    code, out, error = run(capsys, *command, tmp_path / "debug", "--resume")
    assert code == 0, error
    assert "complete" not in out
    assert {path.name for path in (tmp_path / "debug").iterdir()} == {*names, "umap.png"}
    one, two = (scvi.SCVI.load(tmp_path / name / "model").module.state_dict() for name in ("out", "debug"))
    assert all(one[name].equal(two[name]) for name in one)


def test_what_nobody_foresaw_is_one_line_too(capsys, cells, tmp_path, monkeypatch):
    def fail(adata, **keys):
        raise IndexError("too far")

    monkeypatch.setattr(scvi.SCVI, "setup_anndata", fail)
    result = run(capsys, "train", cells, "--output", tmp_path / "out")
    assert_refused(result, 1, "IndexError: too far", "--debug")


@pytest.mark.filterwarnings("default:1 of 90 cells have no count")
def test_counts_are_set_up_once(capsys, tmp_path, monkeypatch, no_picture):
    counts = np.random.default_rng(0).poisson(2.0, (N, G)).astype(np.float32)
    counts[4] = 0
    file = counts_file(tmp_path / "cells.h5ad", X=counts)
    calls, declare = [], base.declare
    monkeypatch.setattr(base, "declare", lambda adata, **keys: calls.append(keys) or declare(adata, **keys))
    command = ["train", file, "--output", tmp_path / "out", "--max-epochs", 1, "--n-top-genes", 9]
    code, _, error = run(capsys, *command)
    assert code == 0, error
    assert [keys["mask_var"] for keys in calls] == ["highly_variable"]
    assert error.count("cells have no count") == 1


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
@pytest.mark.usefixtures("ctrl_c")
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
    assert out.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "919 cells x 2,000 genes, 5 batches by" in page
    assert len(page.encode()) < 3_000_000
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


@pytest.mark.filterwarnings("default:Training stopped at KL weight")
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_demo_without_scores(capsys, tmp_path, monkeypatch, no_picture):
    def stop(self):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fitting.Fit, "on_iteration_begin", stop)
    code, out, error = run(capsys, "demo", "--output", tmp_path / "out")
    assert code == 130
    assert error.splitlines()[-1] == "scvi: interrupted"
    assert "ELBO" not in out


def test_the_demo_finds_a_bad_place_before_the_fit(tmp_path, monkeypatch):
    from scvi import demo

    monkeypatch.setattr(demo, "_fit", lambda *args: pytest.fail("fitted"))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        demo.run(tmp_path / "file")
    (tmp_path / "before-after.png").mkdir()
    with pytest.raises(IsADirectoryError, match="move it away"):
        demo.run(tmp_path)


def test_demo_without_pictures_says_so(capsys, tmp_path, monkeypatch, no_picture):
    from scvi import demo

    monkeypatch.chdir(tmp_path)
    assert demo.run(max_epochs=1) is None
    assert 'pip install "scvi[plot]"' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
