"""
Autotune
========

Which number of latent dimensions, which learning rate, how many layers? ``auto_tune_scvi_model`` fits many models and keeps
the best. In 2020 it searched with hyperopt, and with MongoDB where several processes took part; the names are the same, the
search is done by optuna, and workers share a file.

A search is worth its time where data are unlike what the defaults were chosen on, or where fits have to be short, as here.
"""

# %%
# Cells
# -----
# 500 cells, 200 genes, so that a trial takes a second. Models are compared on cells that they were not trained on, and the
# model that is kept is trained on all cells.

import logging
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.inference.autotune import auto_tune_scvi_model
from scvi.models import VAE

logging.getLogger("scvi.inference.autotune").setLevel(logging.WARNING)
scvi.set_seed(0)
folder = tempfile.mkdtemp()
dataset = AnnDatasetFromAnnData(scvi.demo.load()[::2].copy(), batch_label="batch", ctype_label="cell_type")
dataset.subsample_genes(200, mode="variance")

# %%
# A search with the defaults
# --------------------------
# Tried are: latent dimensions, width and number of layers, dropout, likelihood, learning rate. The score is the marginal
# log-likelihood of the test cells (as a loss, lower is better). ``exp_key`` names the search: calling it again with the same name
# and folder goes on where it was, with as many further trials as are missing.
#
# ``parallel=False`` keeps it in this process; by default one process a core takes part.

options = {
    "parallel": False,
    "save_path": folder,
    "train_func_specific_kwargs": {"n_epochs": 20},
    "trainer_specific_kwargs": {"n_epochs_kl_warmup": 5},
    "metric_kwargs": {"n_mc_samples": 10},
    "seed": 0,
}
best_trainer, trials = auto_tune_scvi_model("demo", dataset, max_evals=8, **options)
print(trials.table.round(1).to_string())

# %%
# The best, beside the others
# ---------------------------

losses = np.array(trials.losses())
print("best:", trials.best_trial["result"]["space"])
rates = [result["space"]["train_func_tunable_kwargs"]["lr"] for result in trials.results]
figure, ax = plt.subplots(figsize=(5, 3.5))
ax.scatter(rates, losses)
ax.set(title="trials", xscale="log", xlabel="learning rate", ylabel="negative log-likelihood")
assert losses.min() == trials.best_trial["result"]["loss"]
assert best_trainer.train_set.nb_cells == len(dataset)

# %%
# Beside the defaults
# -------------------
# The default network and the default learning rate, for as many epochs, scored in the same way. In so few steps the learning
# rate decides nearly all: too small, and the fit has not begun; too large, and batch norm lags behind the weights.

scvi.set_seed(0)
vae = VAE(dataset.nb_genes)
trainer = UnsupervisedTrainer(vae, dataset, n_epochs_kl_warmup=5, show_progbar=False, use_cuda=False)
trainer.train(n_epochs=20, lr=1e-3)
default = trainer.test_set.marginal_ll(n_mc_samples=10)
print(f"best of the search {losses.min():.1f}, default {default:.1f}, worst of the search {losses.max():.1f}")
assert losses.min() < losses.max()

# %%
# A space of one's own
# --------------------
# A tuple is an interval, a list a choice, ``"log"`` a logarithmic scale. Any score of a posterior can be the aim: here how well
# batches are mixed, of which high values are good.

space = {
    "model_tunable_kwargs": {"dropout_rate": (0.1, 0.3)},
    "train_func_tunable_kwargs": {"lr": (np.exp(-6), np.exp(-4), "log")},
}
mixed = {**options, "metric_kwargs": None}
trials = auto_tune_scvi_model(
    "mixing",
    dataset,
    metric_name="entropy_batch_mixing",
    posterior_name="train_set",
    space=space,
    max_evals=3,
    use_batches=True,
    train_best=False,
    **mixed,
)
print(trials.table.round(3).to_string())
assert all(0.1 <= result["space"]["model_tunable_kwargs"]["dropout_rate"] <= 0.3 for result in trials.results)

# %%
# More: an objective of one's own (``custom_objective_hyperopt``), data that each worker reads for itself
# (``delayed_populating=True``), and workers on several machines (``storage=``).
