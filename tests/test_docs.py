"""What README and the quickstart say runs, in the order in which it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

import scvi

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text(page)])
def test_python_blocks_run(page, tmp_path):
    adata = scvi.demo.load()[::4]
    adata.obs = adata.obs.rename(columns={"batch": "sample"})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text(page), re.DOTALL))
    code += f'\nassert adata.obsm["X_scVI"].shape == ({adata.n_obs}, 10)'
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", text(page))
    missing = [
        target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert not missing


def test_the_figure_is_a_picture():
    height, width, _ = matplotlib.image.imread(ROOT / "docs" / "demo.png").shape
    assert width > 800
    assert height > 600
