"""Seconds until a fit says what the reference says after its own epochs, for the estimators other than SCVI.

    python benchmarks/seconds_to_reference.py --data FOLDER

Fits of 5, 10, 15, 20, 30 and 50 epochs, each with a schedule of its own and all else by default, shortest first, until
one has the reference's figure: what the shortest fit that does takes, which one does not know beforehand. SCVI, with
which SCANVI starts, has as many epochs as SCANVI. Seed 0; seconds are of the processor and of the fit alone (GIMVI: and
of its answer); those of the reference (scvi-tools 1.4.2) are of the clock, of another machine.

SCVI: benchmarks/time_to_quality.py. Protocols: annotation.py, proteins.py, imputation.py (mean over three splits of the
median over genes) and quality.py.
"""

from __future__ import annotations

import argparse
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import annotation
import imputation
import numpy as np
import proteins
import quality
import torch
from common import DEFAULT_DATA, load_average, machine, table

from scvi import SCANVI, SCVI, LinearSCVI

LENGTHS = (5, 10, 15, 20, 30, 50)
Fitted = Callable[[int], tuple[float, float]]  # epochs -> figure and seconds
HEADER = ("", "figure", "reference", "its epochs", "its seconds", "ours", "epochs", "seconds")


def quietly(model: Any, n_epochs: int, **options: Any) -> float:
    """Fits, and says in how many seconds."""
    begin = time.process_time()
    model.train(max_epochs=n_epochs, seed=0, enable_progress_bar=False, **options)
    return time.process_time() - begin


def linear(folder: Path) -> Fitted:
    train, held_out = quality.split(quality.load(folder, "zeisel_cortex"))
    LinearSCVI.setup_anndata(train)

    def fit(n_epochs: int) -> tuple[float, float]:
        model = LinearSCVI(train, seed=0)
        seconds = quietly(model, n_epochs, train_size=1.0)
        return quality.held_out_elbo(model, held_out), seconds

    return fit


def annotated(folder: Path) -> Fitted:
    adata = annotation.load(folder, "zeisel_cortex")
    hidden, truth = (adata.obs["label"] == annotation.UNKNOWN).to_numpy(), adata.obs["truth"].to_numpy()
    SCVI.setup_anndata(adata)

    def fit(n_epochs: int) -> tuple[float, float]:
        first = SCVI(adata, seed=0)
        seconds = quietly(first, n_epochs)
        model = SCANVI.from_scvi_model(first, annotation.UNKNOWN, labels_key="label", seed=0)
        seconds += quietly(model, n_epochs)
        return float(np.mean(model.predict()[hidden] == truth[hidden])), seconds

    return fit


def with_proteins(folder: Path) -> Fitted:
    adata = proteins.cells_of(folder)

    def fit(n_epochs: int) -> tuple[float, float]:
        found = proteins.imputation(adata, Namespace(max_epochs=n_epochs), 0)
        return found["mean"], found["seconds"]

    return fit


def spatial(folder: Path) -> Fitted:
    seq, measured = imputation.load(folder, "hypothalamus")
    shared = [gene for gene in measured.var_names if gene in set(seq.var_names)]

    def of_split(n_epochs: int, hidden: list[str]) -> float:
        arguments = Namespace(kappa=5.0, max_epochs=n_epochs, weight_decay=None)
        predicted, _ = imputation.impute(seq, measured, hidden, 0, arguments)
        return float(np.median(imputation.correlations(predicted, measured[:, hidden].X.toarray())))

    def fit(n_epochs: int) -> tuple[float, float]:
        rng, begin = np.random.default_rng(0), time.process_time()
        orders = [np.sort(rng.permutation(len(shared))[: imputation.N_HIDDEN["hypothalamus"]]) for _ in range(3)]
        medians = [of_split(n_epochs, [shared[i] for i in order]) for order in orders]
        return float(np.mean(medians)), (time.process_time() - begin) / len(orders)

    return fit


# Title -> what fits it, figure, reference, its epochs and seconds.
MODELS: dict[str, tuple[Callable[[Path], Fitted], str, float, str, str]] = {
    "LinearSCVI, zeisel_cortex": (linear, "held-out ELBO", -2907.1, "400", "143"),
    "SCANVI, zeisel_cortex": (annotated, "accuracy, hidden labels", 0.883, "200 + 50", "81 + 29"),
    "GIMVI, hypothalamus": (spatial, "Spearman, hidden genes", np.mean((0.283, 0.364, 0.317)), "200", "21"),
    "TOTALVI, pbmc_cite_10k": (with_proteins, "correlation, hidden proteins", 0.754, "100", "115"),
}


def row(title: str, folder: Path) -> list[str]:
    make, figure, reference, epochs, seconds = MODELS[title]
    fit, digits = make(folder), 1 if abs(reference) > 1 else 3
    fit(1)  # the kernels compile
    for n_epochs in LENGTHS:
        found, taken = fit(n_epochs)
        if found >= reference:
            break
    reached = (str(n_epochs), f"{taken:.1f}") if found >= reference else ("not reached", "")
    return [title, figure, f"{reference:.{digits}f}", epochs, seconds, f"{found:.{digits}f}", *reached]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL", help="default: all"
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{machine()}\nload average {load_average()}\n")
    print(table(HEADER, [row(title, arguments.data) for title in arguments.models]))


if __name__ == "__main__":
    main()
