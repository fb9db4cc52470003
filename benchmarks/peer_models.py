"""Models that scvi-tools saved, beside what that package answers on the same cells.

    python benchmarks/peer_models.py --data FOLDER

FOLDER holds the cells, a directory for each model, and `NAME.expected.npz` with the answers. Each figure is the largest
difference, over the largest absolute value of the answer. Compared are mean and variance of q(z | x), expected
frequencies and log-likelihood at that mean (of AUTOZI that of the zero-inflated component), what a class says of its
own, and the same of the model after `scvi.convert`. The ELBO is a mean over draws: its difference is in standard
deviations, and must be below 5. Exits with 1 if another one is above 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from anndata import AnnData, read_h5ad
from common import table

import scvi
from scvi.estimators.torch_archive import read_archive

LIMIT, LIMIT_OF_DRAWS = 1e-4, 5.0
# Folder -> class, file of cells (None: those beside the model), prefix.
MODELS: dict[str, tuple[str, str | None, str | None]] = {
    "scvi": ("SCVI", "cells.h5ad", None),
    "scvi_options": ("SCVI", "cells.h5ad", "my_"),
    "scvi_minified": ("SCVI", None, None),
    "linear": ("LinearSCVI", "cells.h5ad", None),
    "scanvi": ("SCANVI", None, None),
    "autozi": ("AUTOZI", "cells.h5ad", None),
    "totalvi": ("TOTALVI", "proteins.h5ad", None),
}


@torch.no_grad()
def at_the_mean(model: Any, counts: AnnData | None) -> dict[str, np.ndarray]:
    """Expected frequencies, log-likelihood of genes and what is said of proteins, at the posterior mean of each cell.

    Parameters
    ----------
    counts
        The cells, for the log-likelihood; None: the model's own.
    """
    found: dict[str, list[np.ndarray]] = {}
    for mb in model._ask(counts, None, 128, needs_counts=False):
        q = model.module.latent(mb)
        component = {"delta": torch.zeros(mb.counts.shape[1])} if isinstance(model, scvi.AUTOZI) else {}
        decoded = model.module.generative(q.z.loc, q.mean_size(mb), mb, **component)
        answers = {"expression": decoded.genes.scale, "log_px": -decoded.genes.nll(mb)}
        if "proteins" in decoded:
            proteins = decoded.proteins
            answers |= {"back_alpha": proteins.log_background.loc, "mixing": proteins.mixing}
            answers |= {"fore_scale": proteins.log_factor.exp(), "batch": mb.batch}
        for name, value in answers.items():
            found.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def answers(model: Any, counts: AnnData | None) -> dict[str, np.ndarray]:
    """All that can be compared, under the names of the files."""
    mean, variance = model.get_latent_representation(return_dist=True)
    found = {"latent": mean, "latent_var": variance, **at_the_mean(model, counts)}
    if isinstance(model, scvi.SCANVI):
        found["predict"] = model.predict(soft=True).to_numpy()
    if isinstance(model, scvi.LinearSCVI):
        found["loadings"] = model.get_loadings().to_numpy()
    if isinstance(model, scvi.AUTOZI):
        found |= model.get_alphas_betas()
    return found


def compared(model: Any, counts: AnnData | None, expected: Any, efficiency: Any) -> Iterator[tuple[str, float, float]]:
    """Names, differences and their limits; `efficiency` of proteins in batches, (p, k) logarithms, None without any."""
    found = answers(model, counts)
    if "batch" in found:  # the background here is that of the rates, in which the efficiency of a batch is a factor
        found["back_alpha"] = found["back_alpha"] - efficiency.T.numpy()[found["batch"][:, 0]]
    for name in expected.files:
        if name == "elbo_mean_sd":
            mean, deviation = expected[name]
            elbos = [float(-np.mean(model.get_elbo(counts, seed=seed))) for seed in range(20)]
            yield "ELBO", abs(np.mean(elbos) - abs(mean)) / deviation, LIMIT_OF_DRAWS
        else:
            yield name, float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()), LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    rows, worst = [], 0.0
    for name in arguments.only:
        kind, cells, prefix = MODELS[name]
        folder = arguments.data / name
        adata = None if cells is None else read_h5ad(arguments.data / cells)
        counts = read_h5ad(arguments.data / "cells.h5ad") if name == "scvi_minified" else adata
        with np.load(arguments.data / f"{name}.expected.npz") as expected, TemporaryDirectory() as out:
            weights = read_archive(folder / f"{prefix or ''}model.pt")["model_state_dict"]
            efficiency = weights.get("log_per_batch_efficiency")
            loaded = getattr(scvi, kind).load(folder, adata, prefix=prefix)
            scvi.convert(folder, Path(out) / "model", prefix=prefix)
            converted = getattr(scvi, kind).load(Path(out) / "model", adata)
            for how, model in (("load", loaded), ("convert", converted)):
                for what, difference, limit in compared(model, counts, expected, efficiency):
                    rows.append((name, how, what, f"{difference:.1e}", "" if difference <= limit else "TOO LARGE"))
                    worst = max(worst, difference / limit)
    print(table(("model", "by", "answer", "difference", ""), rows))
    sys.exit(int(worst > 1))


if __name__ == "__main__":
    main()
