"""Does `model.check()` call good fits good and broken ones bad, whatever the data?

    python benchmarks/checks.py --data FOLDER

scVI by default settings on the 2,000 genes with most counts of 1,500 cells each, and the same broken: two epochs;
counts replaced by round(100 log(1 + x)), round(log(1 + x)) or 10 x; the batch shuffled. A row for each fit: the worst
level, the verdicts of that level, and seconds of the fit and of its check. Wanted: no good fit is bad, every broken one
is by the verdict that names the reason (of log1p, which in shallow counts is hardly anything else: not good).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, table

from scvi import SCVI

SETS = {
    "zeisel_cortex": "tissue",
    "pbmc3k": None,
    "kang_ifnb_labelled": "sample",
    "sc_mixology": "batch",
    "starmap_mpfc": "batch",
    "celegans_l2_neurons": "plate",
    "sln_day2": "hashtag",
    "pbmc_cite_10k_5k": "batch",
    "osmfish_cortex": None,
    "endocrinogenesis_e15": None,
}
FITS = ("default", "2 epochs", "100 log1p", "log1p", "times 10", "shuffled batch")
WANTED = {"2 epochs": "convergence", "100 log1p": "counts", "times 10": "counts", "shuffled batch": "batch column"}
N_CELLS, N_GENES = 1500, 2000


def load(folder: Path, name: str) -> AnnData:
    """Some cells and genes, none of them empty."""
    adata = most_counted(read(folder, name), N_GENES)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(adata.n_obs)[:N_CELLS])
    adata = adata[chosen].copy()
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


def broken(adata: AnnData, how: str, batch_key: str | None) -> AnnData:
    """The cells as a user might give them by mistake."""
    adata = adata.copy()
    if how in ("100 log1p", "log1p"):
        adata.X.data = np.round((100 if how == "100 log1p" else 1) * np.log1p(adata.X.data))
    if how == "times 10":
        adata.X.data = 10 * adata.X.data
    if how == "shuffled batch":
        adata.obs[batch_key] = np.random.default_rng(1).permutation(adata.obs[batch_key].to_numpy().astype(str))
    return adata


def row(adata: AnnData, name: str, how: str, batch_key: str | None) -> list[str]:
    """One fit, and what is said of it."""
    SCVI.setup_anndata(adata, batch_key=batch_key)
    model = SCVI(adata, seed=0)
    begin = time.perf_counter()
    model.train(max_epochs=2 if how == "2 epochs" else None, seed=0, enable_progress_bar=False)
    fitted = time.perf_counter()
    found = model.check(seed=0)
    done = time.perf_counter()
    worst = [verdict.name for verdict in found.verdicts if verdict.level == found.level != "good"]
    is_right = found.level != "bad" if how == "default" else worst and WANTED.get(how, worst[0]) in worst
    times = [f"{fitted - begin:.1f}", f"{done - fitted:.1f}"]
    return [name, how, *times, "right" if is_right else "WRONG", found.level, ", ".join(worst)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--fits", nargs="*", default=list(FITS), choices=FITS)
    options = parser.parse_args()
    print(f"{machine()}; load {load_average()}")
    rows = []
    for name in options.sets:
        adata, batch_key = load(options.data, name), SETS[name]
        for how in options.fits:
            if how != "shuffled batch" or batch_key is not None:
                rows.append(row(broken(adata, how, batch_key), name, how, batch_key))
                print(" | ".join(rows[-1]), flush=True)
    print(table(("data", "fit", "fit, s", "check, s", "", "level", "verdicts"), rows))


if __name__ == "__main__":
    main()
