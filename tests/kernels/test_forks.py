"""Children that are forked after a fit on several threads: they answer and train, and nobody waits for ever.

All is done in a process of its own, since a fork copies whatever the process of the tests has begun.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import scvi

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there are forks in common use, and GNU's OpenMP")

TESTS = str(Path(__file__).parent.parent)
BEGIN = """
import multiprocessing, sys, threading
import numpy as np
import torch
import scvi
from small_cells import QUICK, TINY, make_adata
from scvi.kernels import forks

LIMIT = 60  # seconds
torch.set_num_threads(2)
adata = make_adata(400)
scvi.SCVI.setup_anndata(adata, batch_key="batch")
model = scvi.SCVI(adata, **TINY)
model.train(**QUICK)
matrix = torch.rand(600, 600)
latent, product = model.get_latent_representation(), (matrix @ matrix).tanh().sum()

def in_a_child(work):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=work)
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        sys.exit(f"{work.__name__} hangs")
    if child.exitcode:
        sys.exit(f"{work.__name__} failed")

def alike(found, expected):
    return np.array_equal(found, expected) or (torch.get_num_threads() == 1 and np.allclose(found, expected, 0.1, 0.1))

def asks():
    assert alike(model.get_latent_representation(), latent)

def trains():
    trained = scvi.SCVI(adata, **TINY)
    trained.train(**QUICK)
    assert alike(trained.get_latent_representation(), latent)

def multiplies():
    assert alike((matrix @ matrix).tanh().sum(), product)

def everything():
    for work in (asks, trains, multiplies):
        in_a_child(work)
"""


def run(script: str, first: str = "") -> None:
    script = f"import sys; sys.path.insert(0, {TESTS!r})\n{first}\n{BEGIN}\n{script}"
    path = os.pathsep.join([str(Path(scvi.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr


def test_children_of_a_process_that_has_trained() -> None:
    run(
        """
everything()
trains()  # the parent itself goes on

def is_a_parent():
    trains()
    in_a_child(trains)

in_a_child(is_a_parent)
raised = []
threading.excepthook = lambda found: raised.append(found.exc_value)
thread = threading.Thread(target=is_a_parent)
thread.start()
thread.join()
assert not raised, raised
"""
    )


def test_other_libraries_and_workers_of_a_loader() -> None:
    run(
        """
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

def clusters():
    KMeans(3, n_init=1, random_state=0).fit_predict(matrix.repeat(4, 1).numpy())

clusters()
in_a_child(clusters)

dataset = AnnDatasetFromAnnData(adata)
options = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": LIMIT}
trainer = UnsupervisedTrainer(VAE(dataset.nb_genes), dataset, show_progbar=False, data_loader_kwargs=options)
trainer.train(n_epochs=2)
""",
        first="from sklearn.cluster import KMeans",  # before torch, it runs on an OpenMP of its own
    )


def test_where_openmp_cannot_end_its_threads_a_child_works_on_one() -> None:
    run(
        """
def has_one_thread():
    assert torch.get_num_threads() == 1

forks._end_threads = lambda library: False
in_a_child(has_one_thread)
everything()
assert torch.get_num_threads() == 2
"""
    )
