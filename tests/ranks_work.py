"""Fits on which one process and several have to agree: imported by test_ranks.py, and run by torchrun as a script.

    torchrun --nproc_per_node 2 ranks_work.py FOLDER WORK...

does some of `WORK`; each process writes what came of it into FOLDER. An answer is a dict of arrays. There is nothing in
FOLDER but what the processes put there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import numpy as np
import torch
from anndata import AnnData

import scvi
from asking import ESTIMATORS, options_of, set_up, with_partner
from scvi.cells.on_disk import SparseOnDisk
from scvi.fit.objectives import NegativeElbo
from scvi.fit.optimizer import ClippedAdam
from small_cells import TINY, make_adata

RANK = int(os.environ.get("RANK", "0"))
Answer = dict[str, Any]
# In bfloat16 sums of another order, rounded, are further apart.
QUIET: dict[str, Any] = {"enable_progress_bar": False, "seed": 0, "precision": "float32"}


# ---- models --------------------------------------------------------------------------------------------------------


def small(cls: type[Any], n: int = 150, **options: Any) -> Any:
    """A model of few cells, with dropout, labels that are not known and proteins that were not measured in a batch."""
    adata = make_adata(n)
    if cls is scvi.TOTALVI:
        adata.obsm["proteins"].loc[adata.obs["batch"] == "b1", ["protein1", "protein3"]] = 0
    cells = with_partner(cls, adata)
    set_up(cls, *cells, batch_key="batch", labels_key="cell_type")
    return cls(*cells, **options_of(cls, {**TINY, "dropout_rate": 0.2, **options}))


def mixology(n_genes: int = 300) -> AnnData:
    with as_file(files("scvi").joinpath("demo_data", "sc_mixology_demo.h5ad")) as file:
        return anndata.read_h5ad(file)[:, :n_genes].copy()


def history(model: Any) -> Answer:
    """All values of the history, and the weights."""
    values = {name: table[name].to_numpy(np.float64) for name, table in model.history.items()}
    return values | {"weights": weights(model), "epochs": np.array(len(model.history["kl_weight"]))}


def weights(model: Any) -> np.ndarray:
    return torch.cat([t.reshape(-1).double() for t in model._networks.state_dict().values()]).numpy()


# ---- gradients -----------------------------------------------------------------------------------------------------


@contextmanager
def noted_gradients() -> Iterator[list[np.ndarray]]:
    """The gradient of each step, as the optimiser gets it."""
    noted: list[np.ndarray] = []
    step = ClippedAdam.clipped_step

    def noting(self: ClippedAdam, loss: torch.Tensor) -> torch.Tensor:
        noted.append(torch.cat([g.flatten() for g in self.gradients()]).double().numpy().copy())
        return step(self, loss)

    with patch.object(ClippedAdam, "clipped_step", noting):
        yield noted


def gradients(cls: type[Any], **options: Any) -> Callable[[Path], Answer]:
    def work(folder: Path) -> Answer:
        model = small(cls, **options)
        with noted_gradients() as noted:
            model.train(1, batch_size=63, max_steps=2, train_size=0.8, **QUIET)
        return {"first": noted[0], "second": noted[1], **history(model)}

    return work


def gradients_of_query(folder: Path) -> Answer:
    """Of a mapped model, of which columns of weights are trained."""
    reference = small(scvi.SCVI)
    reference.train(1, batch_size=64, **QUIET)
    query = make_adata(90, seed=3)
    query.obs["batch"] = "new"
    model = scvi.SCVI.load_query_data(query, reference)
    with noted_gradients() as noted:
        model.train(1, batch_size=31, max_steps=2, **QUIET)
    return {"first": noted[0], "second": noted[1], **history(model)}


# ---- fits ----------------------------------------------------------------------------------------------------------


def fit_scvi(folder: Path) -> Answer:
    adata = mixology()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, n_hidden=64, seed=0)
    model.train(8, batch_size=64, **QUIET)
    return history(model)


def fit_scanvi(folder: Path) -> Answer:
    adata = mixology()
    adata.obs["some"] = np.where(np.arange(adata.n_obs) % 3 == 0, adata.obs["cell_type"].astype(str), "unknown")
    scvi.SCANVI.setup_anndata(adata, labels_key="some", unlabeled_category="unknown", batch_key="batch")
    model = scvi.SCANVI(adata, n_hidden=64, seed=0)
    model.train(8, batch_size=64, **QUIET)
    return history(model) | {"temperature": model.module.temperature.numpy()}


def fit_totalvi(folder: Path) -> Answer:
    model = small(scvi.TOTALVI, n=600, n_hidden=32, n_latent=8)
    model.train(8, batch_size=64, **QUIET)
    return history(model)


def fit_few(folder: Path) -> Answer:
    """The last minibatch of validation cells is one cell, of which one process has none."""
    model = small(scvi.SCVI)
    model.train(3, batch_size=7, validation_indices=np.arange(3, 32), **QUIET)
    return history(model)


def fit_fewer(folder: Path) -> Answer:
    """Three cells of training, less than a minibatch."""
    model = small(scvi.SCVI)
    model.train(2, batch_size=64, validation_indices=np.arange(3, 150), **QUIET)
    return history(model)


def fit_nan(folder: Path) -> Answer:
    """One cell, of which one process alone knows, has a loss that is none in one step."""
    loss, calls = NegativeElbo.loss, iter(range(10**6))

    def spoilt(self: Any, mb: Any, kl_weight: float) -> Any:
        value, terms = loss(self, mb, kl_weight)
        last = mb.part is None or RANK == 1
        return (value * torch.nan if next(calls) == 3 and last else value), terms

    model = small(scvi.SCVI)
    with patch.object(NegativeElbo, "loss", spoilt):
        model.train(4, batch_size=32, **QUIET)
    return history(model)


def fit_stops(folder: Path) -> Answer:
    model = small(scvi.SCVI)
    model.train(
        60,
        batch_size=32,
        early_stopping=True,
        early_stopping_patience=2,
        lr_schedule="plateau",
        kl_warmup=0.05,
        **QUIET,
    )
    return history(model)


class InLastProcess:
    """A callback that does something in the last of two processes, or the only one, after the third epoch."""

    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.act = act

    def on_epoch_end(self, training: Any, _: Any) -> None:
        if training.current_epoch == 2 and int(os.environ.get("WORLD_SIZE", "1")) == RANK + 1:
            self.act(training)


def fit_callback(folder: Path) -> Answer:
    model = small(scvi.SCVI)
    stop = InLastProcess(lambda training: setattr(training, "should_stop", True))
    model.train(60, batch_size=32, callbacks=[stop], **QUIET)
    return history(model)


def fit_sigterm(folder: Path) -> Answer:
    model = small(scvi.SCVI)
    end = InLastProcess(lambda training: os.kill(os.getpid(), signal.SIGTERM))
    model.train(60, batch_size=32, callbacks=[end], checkpoint_dir=folder / "ended", **QUIET)
    return {"interrupted": np.array(model.was_interrupted), **history(model)}


def fit_on_disk(folder: Path) -> Answer:
    """Rows that were read of a file, in which the set-up is kept, beside the fit."""
    path, cells, read, rows = folder / f"cells{RANK}.h5ad", make_adata(600), SparseOnDisk.read, [0]
    scvi.SCVI.setup_anndata(cells, batch_key="batch")
    cells.write_h5ad(path)

    def counted(self: SparseOnDisk, wanted: np.ndarray) -> Any:
        rows[0] += len(wanted)
        return read(self, wanted)

    with patch.object(SparseOnDisk, "read", counted):
        adata = anndata.read_h5ad(path, backed="r")
        model = scvi.SCVI(adata, **TINY)
        model.train(3, batch_size=64, checkpoint_dir=folder / "on disk", **QUIET)
    adata.file.close()
    return {"rows": np.array(rows[0]), **history(model)}


def fit_seedless(folder: Path) -> Answer:
    """Weights, split and order are those of the first process where each would have its own."""
    model = small(scvi.SCVI, seed=None)
    model.train(2, batch_size=32, enable_progress_bar=False)
    model.save(folder / "saved")
    return history(model)


def work_silently(folder: Path) -> Answer:
    messages: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    package, handler, model = logging.getLogger("scvi"), Noting(), small(scvi.SCVI)
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    model.train(1, batch_size=32, **QUIET)
    package.removeHandler(handler)
    package.setLevel(logging.WARNING)
    return {"messages": np.array(len(messages)), "threads": np.array(torch.get_num_threads())}


def refused(folder: Path) -> Answer:
    """What is said to processes whose validation cells, cells, options or checkpoints differ."""
    names = make_adata(150)
    names.obs_names = [f"{name} of process {RANK}" for name in names.obs_names]
    scvi.SCVI.setup_anndata(names, batch_key="batch")
    last = {"checkpoint_dir": folder / "of the last"} if RANK else {}
    told: dict[str, tuple[Any, dict[str, Any]]] = {
        "validation": (small(scvi.SCVI), {"validation_indices": np.arange(30) + RANK}),
        "cells": (scvi.SCVI(names, **TINY), {}),
        "options": (small(scvi.SCVI, dropout_rate=0.1 * RANK), {}),
        "checkpoint": (small(scvi.SCVI), last),
    }
    said = {}
    for name, (model, arguments) in told.items():
        try:
            model.train(1, batch_size=32, **arguments, **QUIET)
        except ValueError as error:
            said[name] = np.array(str(error))
    return said


def fit_long(folder: Path) -> Answer:
    """Six epochs with checkpoints, which `killed` does not reach the end of."""
    return _long(folder / "long", resume=(folder / "long").exists())


def killed(folder: Path) -> Answer:
    return _long(folder / "long", callbacks=[InLastProcess(lambda _: os.kill(os.getpid(), signal.SIGKILL))])


def _long(checkpoint_dir: Path, **more: Any) -> Answer:
    model = small(scvi.SCVI)
    with patch("scvi.fit.fit._STEPS_BETWEEN_SNAPSHOTS", 1):
        model.train(6, batch_size=32, checkpoint_dir=checkpoint_dir, **more, **QUIET)
    return history(model)


WORK: dict[str, Callable[[Path], Answer]] = {
    **{f"gradients of {cls.__name__}": gradients(cls) for cls in ESTIMATORS},
    "gradients without dropout": gradients(scvi.SCVI, dropout_rate=0.0),
    "gradients by label": gradients(scvi.SCANVI, dispersion="gene-label"),
    "gradients of embeddings": gradients(scvi.SCVI, batch_representation="embedding", n_layers=2),
    "gradients of a query": gradients_of_query,
    "SCVI": fit_scvi,
    "SCANVI": fit_scanvi,
    "TOTALVI": fit_totalvi,
    "few cells": fit_few,
    "fewer cells": fit_fewer,
    "not finite": fit_nan,
    "early stopping": fit_stops,
    "callback": fit_callback,
    "SIGTERM": fit_sigterm,
    "on disk": fit_on_disk,
    "no seed": fit_seedless,
    "silence": work_silently,
    "different": refused,
    "long": fit_long,
    "killed": killed,
}


def main(folder: str, *names: str) -> None:
    answers: Answer = {}
    for name in names:
        answers |= {f"{name}/{key}": value for key, value in WORK[name](Path(folder)).items()}
    np.savez(Path(folder) / f"process{RANK}.npz", **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
