"""Runs the Python of the pages while the site is built, and puts what it prints and draws below it.

A page is one program: its blocks that begin with ```python, in order, in a folder with a file `cells.h5ad`. Blocks that
begin with ```py read somebody's own files and are only shown.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import traceback
from multiprocessing import get_context
from pathlib import Path
from weakref import WeakSet

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DOCS = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CELLS = {"models/totalvi": "pbmc_cite_small.h5ad", "proteins": "pbmc_cite_small.h5ad"}
"""Pages on other cells than those of the demonstration: their file in tests/sample_data."""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("run_pages", True, "env", types=[bool])
    app.connect("builder-inited", run_pages)
    app.connect("source-read", show_output)
    return {"parallel_read_safe": True}


def run_pages(app: Sphinx) -> None:
    """Runs every page, and the README, each in a process of its own; a page that fails ends the build."""
    app.outputs_of_pages = {}
    if not app.config.run_pages:
        return
    import anndata  # noqa: F401  (what all pages wait for is imported once, nothing of scvi)
    import numba  # noqa: F401
    import torch._dynamo  # noqa: F401

    files = {path.relative_to(DOCS).with_suffix("").as_posix(): path for path in DOCS.rglob("*.md")}
    files = {page: path for page, path in files.items() if not page.startswith(("_build", "gallery"))}
    files["README"] = DOCS.parent / "README.md"
    codes = {page: BLOCK.findall(path.read_text(encoding="utf-8")) for page, path in files.items()}
    codes = {page: blocks for page, blocks in codes.items() if blocks}
    pictures = Path(app.outdir).parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as workers:
        tasks = [(page, blocks, pictures) for page, blocks in codes.items()]
        found = workers.starmap(outputs, tasks, chunksize=1)
    app.outputs_of_pages = dict(zip(codes, found, strict=True))
    failed = [f"{page}.md:\n{said}" for page, said in app.outputs_of_pages.items() if isinstance(said, str)]
    if failed:
        raise ExtensionError("\n".join(failed))


def outputs(page: str, blocks: list[str], pictures: Path) -> list[tuple[str, list[str]]] | str:
    """What each block prints, and the files of what it draws; of a page that fails, the error."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(page)
        names = {"__name__": "__main__"}
        found = []
        for i, block in enumerate(blocks):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                    exec(compile(block, f"{page}.md, block {i}", "exec"), names)
            except Exception:
                return f"{block}\n{traceback.format_exc()}"
            files = []
            for j, figure in enumerate(figures(names)):
                files.append(pictures / f"{page.replace('/', '-')}-{i}-{j}.png")
                figure.savefig(files[-1], dpi=100, bbox_inches="tight")
            found.append((printed.getvalue(), [file.relative_to(DOCS).as_posix() for file in files]))
        return found


def prepare(page: str) -> None:
    """The cells that the pages read, in the folder where they are run."""
    import anndata
    import torch

    import scvi

    torch.set_num_threads(1)  # the workers are as many as there are cores
    if page in CELLS:
        adata = anndata.read_h5ad(DOCS.parent / "tests" / "sample_data" / CELLS[page])
    else:
        adata = scvi.demo.load()
        adata.obs = adata.obs.rename(columns={"batch": "sample"})
    adata[::4].copy().write_h5ad("cells.h5ad")


def show_output(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts what the blocks of a page printed and drew below them."""
    found = iter(app.outputs_of_pages.get(page, []))

    def with_output(block: re.Match[str]) -> str:
        printed, files = next(found, ("", []))
        shown = block[0] + (f"\n\n```text\n{printed.rstrip()}\n```" if printed.strip() else "")
        return shown + "".join(f"\n\n![What the code above draws](/{file})" for file in files)

    source[0] = BLOCK.sub(with_output, source[0])


_SHOWN: WeakSet = WeakSet()


def figures(names: dict[str, object]) -> list:
    """Figures of matplotlib behind the values of a program, each the first time that it is met."""
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    values = [value for name, value in names.items() if not name.startswith("__")]
    drawn = [part for value in values for part in (value.flat if isinstance(value, np.ndarray) else [value])[:1]]
    found = {part.figure: None for part in drawn if isinstance(part, (Axes, Figure))}
    new = [figure for figure in found if figure not in _SHOWN]
    _SHOWN.update(new)
    return new


def scrape_figures(block: tuple, variables: dict, gallery: dict) -> str:
    """The pictures of a block of a tutorial, for sphinx-gallery."""
    from sphinx_gallery.scrapers import figure_rst

    files, titles = [], []
    for figure, file in zip(figures(variables["example_globals"]), variables["image_path_iterator"], strict=False):
        figure.savefig(file, dpi=100, bbox_inches="tight")
        files.append(file)
        titles += [axes.get_title() for axes in figure.axes if axes.get_title()]
    return figure_rst(files, gallery["src_dir"], ", ".join(titles))
