"""What README and the quickstart say runs, in the order in which it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import matplotlib.image
import pytest

import scvi

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.py"))


# Pages on other cells than those of the demonstration: their file, and where the latent space of the example goes.
CELLS = {"docs/models/totalvi.md": ("pbmc_cite_small.h5ad", "X_totalVI", 20)}


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


# One interpreter imports what all pages wait for, nothing of scvi; each goes on from there in a process of its own.
RUN_PAGES = """
import os, sys
import anndata, numba, scipy.sparse, torch._dynamo
for page, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    if os.fork() == 0:
        os.chdir(folder)
        exec(compile(open("page.py", encoding="utf-8").read(), page, "exec"), {"__name__": "__main__"})
        sys.exit()
    if os.wait()[1]:
        print("FAILED", page, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_python_blocks_run(tmp_path):
    pages = [page for page in PAGES if "```python" in text(page)]
    arguments = [argument for i, page in enumerate(pages) for argument in (page, prepared(page, tmp_path / f"{i}"))]
    done = subprocess.run([sys.executable, "-c", RUN_PAGES, *arguments], capture_output=True, text=True, check=False)
    assert "FAILED" not in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def prepared(page, folder):
    """A folder with the code of a page, and with the cells that it reads."""
    file, key, width = CELLS.get(page, (None, "X_scVI", 10))
    cells = scvi.demo.load() if file is None else anndata.read_h5ad(ROOT / "tests" / "sample_data" / file)
    adata = cells[::16].copy()  # all epochs of a default fit, but of one minibatch each
    if file is None:
        adata.obs = adata.obs.rename(columns={"batch": "sample"})
    folder.mkdir()
    adata.write_h5ad(folder / "cells.h5ad")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text(page), re.DOTALL))
    if key in code:
        code += f'\nassert adata.obsm["{key}"].shape == ({adata.n_obs}, {width})\n'
    (folder / "page.py").write_text(code, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / example], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())
    assert len(text(example).splitlines()) < 80


def test_readme_begins_with_the_commands_that_set_everything_up():
    commands = re.findall(r"```(?:sh|python)\n(.*?)```", text("README.md"), re.DOTALL)
    assert [line.split("#")[0].strip() for line in commands[0].splitlines()] == ["make demo", "make test"]
    assert "import anndata, scvi" in commands[1]
    assert len(commands[1].replace("\n\n", "\n").splitlines()) == 6
    assert text("README.md").index("Python 3.11") < text("README.md").index("import anndata")


def test_bench_gives_each_script_options_that_it_has():
    recipe = text("Makefile").split("\nbench:")[1].split("\n\n")[0]
    for line in recipe.splitlines()[1:]:
        script, *options = line.split("python ")[1].split()
        assert not [option for option in options if option.startswith("$") and option != "$(DATA)"]
        assert all(f'"{option}"' in text(script) for option in options if option.startswith("--"))


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
