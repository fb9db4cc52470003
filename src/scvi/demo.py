"""The demo: real cells from five experimental batches fall into their true cell lines."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi.estimators import SCVI


_SCORES = {
    "ARI": "clusters agree with cell lines, ARI",
    "NMI": "clusters agree with cell lines, NMI",
    "knn_accuracy": "15 neighbours vote for the right line",
    "batch_entropy": "entropy of batch mixing",
}


def load() -> AnnData:
    """Gives 1021 cells of five lung cancer cell lines, sequenced in five batches: raw counts of 2000 genes.

    ``obs`` has the `batch`, the `protocol` (CEL-seq2 or Drop-seq) and the `cell_type`: the cell line as the genotype
    of the cell tells it, so it is true. Tian et al., Nature Methods 16, 479-487 (2019), GSE118767; MIT licence.
    """
    import anndata

    with as_file(files("scvi").joinpath("demo_data", "sc_mixology_demo.h5ad")) as file:
        return anndata.read_h5ad(file)


def run(output: str | os.PathLike[str] = "scvi-demo", *, seed: int = 0, max_epochs: int | None = None) -> Path | None:
    """Fits scVI to the demo data, prints how good the fit is, draws the cells before and after, and writes a report.

    Parameters
    ----------
    output
        Folder of the picture and of the report, made if need be.
    seed
        Of the fit. The split into cells to fit and cells to score is always the same.
    max_epochs
        Passes over the data; None for what `SCVI.train` chooses.

    Returns
    -------
    pathlib.Path or None
        The report, `report.html`, or without the packages of `[report]` the picture, `before-after.png`; None without
        those of `[plot]`.

    Raises
    ------
    OSError
        If the folder cannot be made or written to, before anything is fitted.
    KeyboardInterrupt
        If the fit was ended with Ctrl-C: a model fitted in part has no scores worth showing.
    """
    found = results(output, seed=seed, max_epochs=max_epochs)
    return found["report"] or found["picture"]


def results(
    output: str | os.PathLike[str] = "scvi-demo", *, seed: int = 0, max_epochs: int | None = None
) -> dict[str, Any]:
    """What :func:`run` does, and the figures that it prints.

    Returns
    -------
    dict
        ``held_out_elbo``, in nats per cell; ``scores`` of 'PCA', of 'scVI' and the 'best' that could be, each with
        'ARI', 'NMI', 'knn_accuracy' and 'batch_entropy'; ``picture`` and ``report``, a path each, or None where it was
        not made.
    """
    from scvi import plots, report
    from scvi.queries import clustering

    picture, page = (Path(output) / name for name in ("before-after.png", "report.html"))
    if plots.available():  # a place that cannot be written to is found before the fit
        picture.parent.mkdir(parents=True, exist_ok=True)
        for file in (picture, page):
            if file.is_dir():
                raise IsADirectoryError(f"{str(file)!r} is a folder; move it away or choose another output")
    adata = load()
    print(f"{adata.n_obs} cells x {adata.n_vars} genes: 5 lung cancer cell lines in 5 batches (Tian et al. 2019)")
    model, elbo = _fit(adata, seed, max_epochs)
    print(f"held-out ELBO: {elbo:.1f} nats per cell (closer to 0 is better)\n")

    before, after = clustering.pca(adata.X), model.get_latent_representation(adata)
    best = dict.fromkeys(_SCORES, 1.0) | {"batch_entropy": clustering.max_batch_entropy(adata.obs["batch"])}
    scores = {"PCA": _scores(adata, before), "scVI": _scores(adata, after), "best": best}
    _print_scores(scores)
    found = {"held_out_elbo": elbo, "scores": scores, "picture": None, "report": None}
    if not plots.available():
        print('\nNo picture: it needs matplotlib and umap-learn, pip install "scvi[plot]"')
        return found
    plots.before_after(before, after, adata.obs["batch"], adata.obs["cell_type"], picture, seed=seed)
    print(f"\nthe same in a picture: {picture}", flush=True)
    if not report.available():
        print('no report: it needs jinja2 and bokeh, pip install "scvi[report]"')
        return found | {"picture": picture}
    title = "scVI on five cell lines in five batches"
    model.report(page, labels_key="cell_type", columns="protocol", title=title, seed=seed)
    print(f"a page on the fit, to open in a browser: {page}")
    return found | {"picture": picture, "report": page}


def _fit(adata: AnnData, seed: int, max_epochs: int | None) -> tuple[SCVI, float]:
    """A model fitted to nine cells of ten, and its mean ELBO on the tenth, which it has never seen."""
    from scvi.estimators import SCVI

    order = np.random.RandomState(0).permutation(adata.n_obs)
    held_out, fitted = np.split(order, [adata.n_obs // 10])
    train = adata[fitted].copy()
    print(f"fitting scVI to {len(fitted)} of them ...", flush=True)
    begin = time.perf_counter()
    SCVI.setup_anndata(train, batch_key="batch")
    model = SCVI(train, seed=seed)
    model.train(max_epochs=max_epochs, seed=seed)
    if model.was_interrupted:
        raise KeyboardInterrupt
    print(f"fitted in {time.perf_counter() - begin:.0f} s; scoring the {len(held_out)} others ...", flush=True)
    return model, float(model.get_elbo(adata[held_out]))


def _scores(adata: AnnData, latent: npt.ArrayLike) -> dict[str, float]:
    """ARI and NMI of clusters, share of right neighbourhoods, entropy of batch mixing."""
    from scvi.queries import clustering

    labels = adata.obs["cell_type"]
    clusters = clustering.kmeans_scores(latent, labels)
    mixing = clustering.batch_entropy(latent, adata.obs["batch"])
    found = (clusters["ARI"], clusters["NMI"], clustering.knn_accuracy(latent, labels), mixing)
    return {name: float(value) for name, value in zip(_SCORES, found, strict=True)}


def _print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{'':38}{'PCA':>7}{'scVI':>8}{'best':>8}")
    for name, says in _SCORES.items():
        plain, fitted, best = (scores[column][name] for column in ("PCA", "scVI", "best"))
        print(f"{says:38}{plain:7.3f}{fitted:8.3f}{best:8.3f}")
