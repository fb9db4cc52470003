"""Transfer of labels to cells whose label is hidden, beside published figures of the same protocol.

    python benchmarks/annotation.py --data FOLDER

Protocol. Genes: 2000 by the seurat_v3 method. pbmc_cite_10k_5k: the 10k cells with a gate, genes chosen within both
batches, each label hidden with probability 0.9. zeisel_cortex: 10 labels a class. sln_day2: each of the 35 unbalanced
labels hidden with probability 0.8. Always by numpy's default_rng(0). SCVI with default options, then
SCANVI.from_scvi_model with default options. Scores are of the hidden cells: accuracy, its mean over classes (balanced),
expected calibration error (10 bins of equal width), and of 15-NN: fitted to the labelled cells, in the latent space of
that same SCVI. `abstained`: share of cells without an answer under ``predict(abstain_below=0.9)``, and the accuracy of
the others.

`--steps` prints processor milliseconds per training step instead (128 cells, in epochs after the first; one thread),
beside the matrix products of scVI's step measured in the same run: of SCVI; of SCANVI, where 10 % of the cells have a
label; of CondSCVI, whose cells all have one; and of VAEC without labels, which encodes and decodes a cell once for
every label.

Reference: scvi-tools 1.4.2, 100 (pbmc) or 200 (zeisel) epochs of SCVI, then 20 or 50 of SCANVI; one seed. Seconds are
of another machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from sklearn.neighbors import KNeighborsClassifier
from train_step import CELLS, HIDDEN, bare_products

from scvi import SCANVI, SCVI, CondSCVI
from scvi.cells.encode import encode
from scvi.cells.setup import declare
from scvi.data.variable_genes import seurat_v3
from scvi.fit.fit import Fit
from scvi.fit.plan import Plan
from scvi.models import VAEC
from scvi.queries.calibration import calibration_error

UNKNOWN = "Unknown"
EPOCHS = {"train_size": 1.0, "batch_size": CELLS, "seed": 0, "enable_progress_bar": False, "kl_warmup": 0.0}
HEADER = ("", "accuracy", "balanced", "15-NN", "ECE", "abstained", "accuracy of the rest", "s SCVI", "s SCANVI")


@dataclass(frozen=True)
class Task:
    """Where the labels are, which are hidden, and what others reach."""

    label: str
    batch: str | None = None
    hidden: float | None = None  # probability; None: all but 10 of each class
    reference: tuple[str, ...] = ()


TASKS = {
    "pbmc_cite_10k_5k": Task("protein_gate", hidden=0.9, reference=(".925", ".882", ".931", "", "", "", "80", "22")),
    "zeisel_cortex": Task("cell_type", reference=(".883", "", "", "", "", "", "81", "29")),
    "sln_day2": Task("cell_type", batch="hashtag", hidden=0.8),
}


def select(adata: AnnData, batch: str | None = None) -> AnnData:
    """2000 genes, by scanpy where it is installed."""
    if find_spec("scanpy"):
        import scanpy

        scanpy.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=2000, batch_key=batch)
        chosen = adata.var["highly_variable"].to_numpy()
    else:
        batches = None if batch is None else adata.obs[batch].to_numpy()
        chosen = seurat_v3(adata.X, 2000, batches)["highly_variable"].to_numpy()
    return adata[:, chosen].copy()


def load(folder: Path, name: str) -> AnnData:
    """Cells and genes of the protocol, with the columns 'truth' and 'label'."""
    task, adata = TASKS[name], read(folder, name)
    if name == "pbmc_cite_10k_5k":
        adata = select(adata, "batch")
        adata = adata[(adata.obs["batch"] == "pbmc_10k") & (adata.obs[task.label] != "unassigned")].copy()
    else:
        adata = select(adata[adata.obs[task.batch] != "Doublet"].copy() if task.batch else adata)
    truth, rng = adata.obs[task.label].astype(str).to_numpy(), np.random.default_rng(0)
    if task.hidden is not None:
        hidden = rng.random(len(truth)) < task.hidden
    else:
        hidden = np.ones(len(truth), dtype=bool)
        for kind in np.unique(truth):
            hidden[rng.permutation(np.flatnonzero(truth == kind))[:10]] = False
    adata.obs["truth"], adata.obs["label"] = truth, np.where(hidden, UNKNOWN, truth)
    return adata


def fit(adata: AnnData, task: Task, seed: int, **options: float | None) -> list[float]:
    """Figures in the order of the header."""
    quiet = {"seed": seed, "enable_progress_bar": False}
    SCVI.setup_anndata(adata, batch_key=task.batch)
    first = SCVI(adata, seed=seed)
    begin = time.perf_counter()
    first.train(**quiet)
    between = time.perf_counter()
    model = SCANVI.from_scvi_model(first, UNKNOWN, labels_key="label", seed=seed)
    model.train(**quiet, **options)
    seconds = between - begin, time.perf_counter() - between

    hidden = (adata.obs["label"] == UNKNOWN).to_numpy()
    truth, latent = adata.obs["truth"].to_numpy(), first.get_latent_representation()
    neighbours = KNeighborsClassifier(15).fit(latent[~hidden], truth[~hidden])
    found, cautious = model.predict(soft=True)[hidden], model.predict(abstain_below=0.9)[hidden]
    answers, truth = found.columns.to_numpy()[found.to_numpy().argmax(1)], truth[hidden]
    answered = cautious != UNKNOWN
    return [
        float(np.mean(answers == truth)),
        float(np.mean([np.mean(answers[truth == kind] == kind) for kind in np.unique(truth)])),
        neighbours.score(latent[hidden], truth),
        calibration_error(found.to_numpy(), found.columns.get_indexer(truth)),
        float(1 - answered.mean()),
        float(np.mean(cautious[answered] == truth[answered])),
        *seconds,
    ]


def run(name: str, arguments: argparse.Namespace) -> None:
    adata, task = load(arguments.data, name), TASKS[name]
    known = adata.obs["label"] != UNKNOWN
    print(f"{name}: {adata.n_obs} cells, {known.sum()} labelled, {adata.obs['truth'].nunique()} labels\n")
    options = {"weight_decay": arguments.weight_decay}
    ours = np.array([fit(adata, task, seed, **options) for seed in range(arguments.seeds)])
    mean, spread = ours.mean(0), np.ptp(ours, axis=0) / 2
    cells = [f"{m:.3f} ±{s:.3f}" for m, s in zip(mean[:6], spread[:6], strict=True)]
    rows = [[f"scvi, mean of {len(ours)} seeds", *cells, *(f"{value:.0f}" for value in mean[6:])]]
    if task.reference:
        rows.append(["reference", *task.reference])
    print(table(HEADER, rows), end="\n\n", flush=True)


def print_steps(adata: AnnData) -> None:
    """Of the default models, whose loss is the likelihood of 'zinb', on one thread."""
    torch.set_num_threads(1)
    products, n_labels = bare_products(adata.n_vars, 2, HIDDEN), adata.obs["truth"].nunique()
    SCVI.setup_anndata(adata)
    SCANVI.setup_anndata(adata, "label", UNKNOWN)
    CondSCVI.setup_anndata(adata, "truth")
    models = {cls.__name__: cls(adata, seed=0) for cls in (SCVI, SCANVI, CondSCVI)}
    calls = {name: lambda n, m=model: m.train(n, **EPOCHS) for name, model in models.items()}
    calls[f"VAEC, {n_labels} labels to sum over"] = lambda n: marginal_fit(adata, n_labels, n)
    n_steps, rows = adata.n_obs // CELLS, []
    for name, train in calls.items():
        train(1)
        step = milliseconds(partial(train, 3), 3 * n_steps)
        product = milliseconds(lambda: [products() for _ in range(50)], 50)
        rows.append([name, f"{step:.1f}", f"{product:.1f}", f"{step / product:.1f}"])
    print(table(["", "step ms", "products of scVI ms", "ratio"], rows))


def milliseconds(call: Callable[[], object], n: int) -> float:
    """Of the processor on this thread, for each of n parts."""
    begin = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - begin) / n


def marginal_fit(adata: AnnData, n_labels: int, n_epochs: int) -> None:
    """VAEC, told no label."""
    data, cells = encode(adata, declare(adata)[0]), np.arange(adata.n_obs)
    data.labels[:] = -1
    model = VAEC(adata.n_vars, 1, n_labels, use_observed_lib_size=True)
    Fit(model, data, cells, cells[:0], Plan(n_epochs, CELLS), seed=0, show_progbar=False).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", choices=TASKS, default=list(TASKS), help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--steps", action="store_true", help="time training steps instead")
    parser.add_argument("--weight-decay", type=float, help="of SCANVI; default: what train chooses")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    chosen = "scanpy" if find_spec("scanpy") else "scvi.data.variable_genes.seurat_v3 (scanpy is not installed)"
    print(f"load average {load_average()}; genes chosen by {chosen}; ± is half the range over seeds\n")
    for name in arguments.sets:
        print_steps(load(arguments.data, name)) if arguments.steps else run(name, arguments)


if __name__ == "__main__":
    main()
