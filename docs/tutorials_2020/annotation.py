"""
Annotation
==========

Labels of some cells, carried over to the others by scANVI with the names of 2020: from one technology to another, from the
weights of a fitted scVI, and from ten labels of each kind.

The cells are those of five lung cancer cell lines. Cells sequenced with CEL-seq2 are taken as annotated, those of Drop-seq
are not: their true line, which their genotype tells, is only looked at to score the answers.
"""

# %%
# One technology is labelled
# --------------------------
# A ``SemiSupervisedTrainer`` has two sets of cells. We override its choice: the cells of batch 0 are labelled, those of batch
# 1 are not. What is named in ``to_monitor`` is computed every five epochs.

import numpy as np

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import JointSemiSupervisedTrainer, SemiSupervisedTrainer, UnsupervisedTrainer
from scvi.models import SCANVI, VAE

scvi.set_seed(0)
quiet = {"show_progbar": False, "use_cuda": False}
cells = scvi.demo.load()
gene_dataset = AnnDatasetFromAnnData(cells, batch_label="protocol", ctype_label="cell_type")
gene_dataset.subsample_genes(300, mode="variance")


def of_one_technology(trainer):
    for name, batch in (("labelled_set", 0), ("unlabelled_set", 1)):
        posterior = trainer.create_posterior(indices=(gene_dataset.batch_indices == batch).ravel())
        posterior.to_monitor = ["reconstruction_error", "accuracy"]
        setattr(trainer, name, posterior)
    return trainer


scanvi = SCANVI(gene_dataset.nb_genes, gene_dataset.n_batches, gene_dataset.n_labels)
trainer = of_one_technology(SemiSupervisedTrainer(scanvi, gene_dataset, frequency=5, n_epochs_kl_warmup=10, **quiet))
trainer.train(30, lr=5e-3)

# %%
# The accuracy on both sets, over the fit. That of the labelled cells rises first; the other is what counts.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(5, 3.5))
for name in ("labelled", "unlabelled"):
    accuracy = trainer.history[f"accuracy_{name}_set"]
    ax.plot(np.linspace(0, 30, len(accuracy)), accuracy, label=f"{name} cells")
ax.set(title="accuracy", xlabel="epoch", ylabel="share of right labels", ylim=(0, 1.02))
_ = ax.legend()

# %%
# In figures, beside a vote of neighbours among the labelled cells in the same latent space:

true, predicted = trainer.unlabelled_set.sequential().compute_predictions()
print("scANVI:    ", round(np.mean(true == predicted), 3))
print("neighbours:", round(trainer.labelled_set.nn_latentspace(trainer.unlabelled_set), 3))
assert np.mean(true == predicted) > 0.9

# %%
# A picture of the latent space. Lines should be apart. Technologies lie side by side within a line rather than mixed, after so
# short a fit with the options of 2020: enough for labels to be carried over, not for clusters across both.

full = trainer.full_dataset
latent, batch_indices, labels = full.sequential().get_latent()
panels = plots.plane(
    plots.umap(latent),
    {
        "technology": np.array(["labelled", "unlabelled"])[batch_indices.ravel()],
        "true line": np.asarray(gene_dataset.cell_types)[labels],
    },
)
print("entropy of batch mixing:", round(full.entropy_batch_mixing(), 2), "of", round(np.log(2), 2))

# %%
# From the weights of a fitted scVI
# ---------------------------------
# The networks of ``VAE`` are a part of those of ``SCANVI``, under the same names: its weights are a start that saves time. Only
# a short fit with a small learning rate is left to do.

vae = VAE(gene_dataset.nb_genes, gene_dataset.n_batches, gene_dataset.n_labels)
first = UnsupervisedTrainer(vae, gene_dataset, train_size=1.0, n_epochs_kl_warmup=10, **quiet)
first.train(30, lr=5e-3)

scanvi = SCANVI(
    gene_dataset.nb_genes,
    gene_dataset.n_batches,
    gene_dataset.n_labels,
    classifier_parameters={"dropout_rate": 0.2, "n_hidden": 256, "n_layers": 2},
)
_ = scanvi.load_state_dict(vae.state_dict(), strict=False)
second = of_one_technology(SemiSupervisedTrainer(scanvi, gene_dataset, n_epochs_kl_warmup=None, **quiet))
second.train(15, lr=1e-4)
print("accuracy on the unlabelled cells:", round(second.unlabelled_set.accuracy(), 3))
assert second.unlabelled_set.accuracy() > 0.8

# %%
# Ten labels of each kind
# -----------------------
# ``JointSemiSupervisedTrainer`` draws the labelled cells itself: here ten of each line, 50 of 1021.

few = JointSemiSupervisedTrainer(
    SCANVI(gene_dataset.nb_genes, gene_dataset.n_batches, gene_dataset.n_labels),
    gene_dataset,
    n_labelled_samples_per_class=10,
    classification_ratio=100,
    n_epochs_kl_warmup=10,
    **quiet,
)
few.train(30, lr=5e-3)
print(few.labelled_set.nb_cells, "labels, accuracy on the others:", round(few.unlabelled_set.accuracy(), 3))
assert few.unlabelled_set.accuracy() > 0.85
