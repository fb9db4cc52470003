"""The gimVI tutorial of 2020, call by call, on cells that come with the package.

Cells of two technologies: CEL-seq2 with all genes stands for the dissociated cells, Drop-seq with a fifth of the genes
hidden for the spatial ones. The plots are left out.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import JVAETrainer
from scvi.models import JVAE, Classifier

pytestmark = pytest.mark.slow


@pytest.fixture
def technologies(mixology):
    """(data_seq, data_spatial), both with all genes."""
    found = []
    for name in ("CEL-seq2", "Drop-seq"):
        cells = mixology[mixology.obs["protocol"] == name].copy()
        del cells.obs["batch"]
        found.append(AnnDatasetFromAnnData(cells, ctype_label="cell_type"))
    return found


def test_gimvi_tutorial(technologies):
    torch.manual_seed(0)
    data_seq, data_spatial = technologies
    data_seq.make_gene_names_lower()
    data_spatial.make_gene_names_lower()
    data_seq.filter_genes_by_attribute(data_spatial.gene_names)
    data_seq.filter_cells_by_count(1)
    data_spatial.filter_cells_by_count(1)

    train_size = 0.8
    n_genes = data_spatial.nb_genes
    rng = np.random.RandomState(0)
    gene_ids_train = np.sort(rng.choice(range(n_genes), int(n_genes * train_size), False))
    gene_ids_test = sorted(set(range(n_genes)) - set(gene_ids_train))
    data_spatial_partial = deepcopy(data_spatial)
    data_spatial_partial.filter_genes_by_attribute(data_spatial.gene_names[gene_ids_train])
    data_spatial_partial.batch_indices += data_seq.n_batches
    assert (data_seq.nb_genes, data_spatial_partial.nb_genes) == (300, 240)

    datasets = [data_seq, data_spatial_partial]
    model = JVAE(
        [data.nb_genes for data in datasets],
        data_seq.nb_genes,
        [slice(None), gene_ids_train],
        ["zinb", "nb"],
        [True, False],
        n_layers_decoder_individual=0,
        n_layers_decoder_shared=0,
        n_layers_encoder_individual=1,
        n_layers_encoder_shared=1,
        dim_hidden_encoder=64,
        dim_hidden_decoder_shared=64,
        dropout_rate_encoder=0.2,
        dropout_rate_decoder=0.2,
        n_batch=sum(data.n_batches for data in (data_seq, data_spatial)),
        n_latent=8,
    )
    discriminator = Classifier(8, 32, 2, 3, logits=True)
    trainer = JVAETrainer(model, discriminator, datasets, 0.95, frequency=10, kappa=1, show_progbar=False)
    trainer.train(n_epochs=60, lr=4e-3)

    latents = trainer.get_latent()
    assert [z.shape for z in latents] == [(data.nb_cells, 8) for data in datasets]
    _, imputed = trainer.get_imputed_values(normalized=True)
    assert imputed.shape == (data_spatial.nb_cells, n_genes)
    original = data_spatial.X[:, gene_ids_test] / data_spatial.X.sum(axis=1).reshape(-1, 1)
    original = np.asarray(original.todense() if hasattr(original, "todense") else original)
    correlations = [
        spearmanr(imputed[:, gene], original[:, i])[0] if imputed[:, gene].any() else 0.0
        for i, gene in enumerate(gene_ids_test)
    ]
    assert np.median(correlations) > 0.2
    confusion = trainer.get_discriminator_confusion()
    assert confusion.shape == (2, 2)
    reconstruction, kl, told = trainer.get_loss_magnitude()
    assert reconstruction.shape == kl.shape == told.shape == (2,)
    assert len(trainer.history["elbo_train_0"]) == len(trainer.history["elbo_test_1"]) == 7
    assert trainer.history["elbo_test_1"][-1] < trainer.history["elbo_test_1"][0]


def test_special_dataset_size(technologies):
    """34 cells of two identical data sets, 17 for training, minibatches of 8: 8 + 9."""
    data = technologies[0]
    data.update_cells(np.arange(34))
    other = deepcopy(data)
    sizes = [data.nb_genes, other.nb_genes]
    model = JVAE(sizes, data.nb_genes, [slice(None)] * 2, ["zinb", "zinb"], [True, True], n_batch=1)
    trainer = JVAETrainer(
        model,
        Classifier(10, n_labels=2, logits=True),
        [data, other],
        train_size=0.5,
        data_loader_kwargs={"batch_size": 8},
        show_progbar=False,
    )
    trainer.train(n_epochs=1)
    assert trainer.n_iter == 2
