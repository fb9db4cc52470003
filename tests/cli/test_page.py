"""Every command of the page on the command line runs, in the order in which it stands there, on cells that ship."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import scvi
from foreign_files import Foreign, scvi_like
from scvi import cli, plots
from scvi.cli import check
from small_cells import make_adata

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def write_cells(folder: Path) -> None:
    """The files that the page speaks of."""
    adata = scvi.demo.load()[::8, ::3].copy()
    adata.obs = adata.obs.rename(columns={"batch": "sample"})
    adata.obs["known"] = np.where(np.arange(adata.n_obs) % 2, adata.obs["cell_type"].astype(str), "Unknown")
    adata.write_h5ad(folder / "cells.h5ad")
    new = adata[::3].copy()
    new.obs_names = [f"new-{name}" for name in new.obs_names]
    new.obs["sample"] = "new"
    new.write_h5ad(folder / "new_cells.h5ad")
    adata[:64, 100:].copy().write_h5ad(folder / "dissociated.h5ad")
    adata[64:, 50:400].copy().write_h5ad(folder / "tissue.h5ad")
    adata[:40].copy().write_h5ad(folder / "first.h5ad")
    adata[40:80].copy().write_h5ad(folder / "second.h5ad")
    adata[80:100].to_df().T.to_csv(folder / "counts.csv.gz")
    proteins = anndata.read_h5ad(ROOT / "tests" / "sample_data" / "pbmc_cite_small.h5ad")
    proteins[::12].copy().write_h5ad(folder / "proteins.h5ad")
    scvi_like(Foreign("SCVI", make_adata(30), keys={"batch_key": "batch"})).write(folder / "old_model")


@pytest.mark.slow
@pytest.mark.filterwarnings("default:the reference was built with encode_covariates=False")
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "available", lambda: False)
    monkeypatch.setattr(scvi.demo, "run", lambda output: sys.stdout.write(f"{output}"))  # it has tests of its own
    write_cells(tmp_path)
    answers = {}
    for line in LINES:
        code = cli.main(shlex.split(line)[1:])
        answers[line], error = capsys.readouterr()
        assert code == (check.BAD_FIT if " check " in line and "is bad" in answers[line] else 0), (line, error)
        assert answers[line], line

    for line, answer in answers.items():
        if "--json" in line:
            assert json.loads(answer), line
    obsm = anndata.read_h5ad("fit/cells.h5ad").obsm["X_scVI"]
    np.testing.assert_array_equal(
        scvi.SCVI.load("fit/model", anndata.read_h5ad("cells.h5ad")).get_latent_representation(), obsm
    )
    assert {"proba_de", "p_adjusted"} <= set(pd.read_csv("genes.csv", index_col="gene"))
    assert set(pd.read_csv("two_lines.tsv", sep="\t")["comparison"]) == {"A549 vs H1975"}
    labels, careful = (pd.read_csv(name, index_col="cell") for name in ("labels.csv", "careful.csv"))
    assert (careful["label"] == "Unknown").sum() > (labels["label"] == "Unknown").sum()
    assert anndata.read_h5ad("denoised.h5ad").shape == (len(obsm), 667)
    assert list(pd.read_csv("cite.csv", index_col="cell")) == ["HES4", "MS4A1"]
    assert list(pd.read_csv("cite_proteins.csv", index_col="cell")) == ["CD3", "CD19"]
    assert pd.read_csv("imputed.csv", index_col="cell").shape == (len(obsm) - 64, 617)
    mapped = anndata.read_h5ad("mapped_labels/new_cells.h5ad")
    assert mapped.obsm["X_scANVI"].shape == (mapped.n_obs, 10)
    assert mapped.obs["predictions_scanvi"].notna().all()
    assert anndata.read_h5ad("all.h5ad").obs["file"].value_counts().to_dict() == {"first": 40, "second": 40}
    assert anndata.read_zarr("mixed.zarr").obs["day"].value_counts().to_dict() == {"day0": 40, "counts": 20}
    assert scvi.SCVI.load("new_model").is_trained


def test_every_command_is_on_the_page_and_has_examples_in_its_help(capsys):
    on_page = {line.split()[1] for line in LINES}
    parser = cli._parser()
    commands = next(action for action in parser._actions if action.choices and "train" in action.choices).choices
    assert set(commands) == on_page
    for name, command in commands.items():
        if name == "demo":
            continue
        examples = re.findall(r"^  (scvi .*?)(?:\s{4,}.*)?$", command.epilog, re.MULTILINE)
        assert examples, name
        for example in examples:
            parser.parse_args(shlex.split(example)[1:])  # exits where an option is not known
