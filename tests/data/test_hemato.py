"""The three files of Tusi et al. 2018, small, in their formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

import published_files as files
from published_files import N, X
from scvi.data import read_hemato
from scvi.data.archives import extract


def written(folder: Path) -> tuple[dict, tuple[Path, Path, Path]]:
    made = files.hemato(folder)
    spring, genes = extract(folder / "data.zip", folder)
    return made, (folder / "bBM.raw_umifm_counts.csv.gz", spring, genes)


def test_cells_and_genes_that_all_files_have(tmp_path):
    made, paths = written(tmp_path)
    adata = read_hemato(*paths)
    cells = [i for i in range(4, N) if made["libraries"][i] != "basal_bm1"]
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray()[np.ix_(cells, [8, 1, 4])])
    assert adata.var_names.tolist() == made["genes"]
    assert adata.obs["cell_id"].tolist() == [f"c{i}" for i in cells]
    spring = made["spring"].loc[adata.obs["cell_id"]]
    inner = (spring[["Pr_Gr", "Pr_Er"]] > 0).all(axis=1) & (spring[["Pr_Gr", "Pr_Er"]] < 1).all(axis=1)
    expected = logit(spring["Pr_Gr"][inner]) - logit(spring["Pr_Er"][inner])
    np.testing.assert_allclose(adata.obs["fate_score"][inner.to_numpy()], expected)
    assert np.isfinite(adata.obs["fate_score"]).all()


def test_without_cells_or_columns_in_common(tmp_path):
    _, paths = written(tmp_path)
    spring = paths[1]
    spring.write_text(spring.read_text().replace("\nc", "\nd"))
    with pytest.raises(ValueError, match="no cells in common"):
        read_hemato(*paths)
    spring.write_text(spring.read_text().replace("Pr_Er", "Er"))
    with pytest.raises(ValueError, match="no columns \\['Pr_Er'\\]"):
        read_hemato(*paths)
    paths[2].write_text("none\n")
    spring.write_text(spring.read_text().replace("Er", "Pr_Er"))
    with pytest.raises(ValueError, match="none of the genes to keep"):
        read_hemato(*paths)
