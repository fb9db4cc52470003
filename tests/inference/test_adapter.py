import numpy as np
import pytest
import torch

from scvi.inference import AdapterTrainer, Posterior, UnsupervisedTrainer
from scvi.models import VAE


@pytest.fixture
def trained(vae, dataset):
    trainer = UnsupervisedTrainer(vae, dataset, train_size=0.5, show_progbar=False, n_epochs_kl_warmup=None)
    trainer.train(n_epochs=3)
    return trainer


def test_only_the_encoders_adapt_each_path_from_where_they_were(trained, vae, dataset):
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    adapter = AdapterTrainer(vae, dataset, trained.test_set, frequency=1)
    adapter.show_progbar = False
    starts = []
    adapter.on_training_begin = lambda: starts.append(vae.z_encoder.mean_encoder.weight.detach().clone())
    best = adapter.train(n_path=2, n_epochs=2)
    changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"z_encoder", "l_encoder"}
    assert all(torch.equal(start, before["z_encoder.mean_encoder.weight"]) for start in starts)
    assert len(adapter.history["elbo_test_set"]) == 2 * 3
    assert best == min(adapter.history["elbo_test_set"])
    assert not vae.training


def test_an_observed_library_has_one_encoder_to_adapt(dataset):
    vae = VAE(dataset.nb_genes, n_batch=2, n_hidden=16, n_latent=3, use_observed_lib_size=True)
    adapter = AdapterTrainer(vae, dataset, Posterior(vae, dataset))
    adapter.show_progbar = False
    assert np.isfinite(adapter.train(n_path=1, n_epochs=1))


def test_too_few_cells_are_refused(vae, dataset):
    with pytest.raises(ValueError, match="posterior_test has 2 cells, at least 5"):
        AdapterTrainer(vae, dataset, Posterior(vae, dataset, indices=[0, 1]))


def test_the_decoder_gets_no_gradient(trained, vae, dataset):
    vae.zero_grad()
    adapter = AdapterTrainer(vae, dataset, trained.test_set)
    adapter.show_progbar = False
    adapter.train(n_path=1, n_epochs=1)
    assert all(parameter.grad is None for parameter in vae.decoder.parameters())
    assert all(parameter.requires_grad for parameter in vae.parameters())
    with pytest.raises(TypeError, match="has no argument 'nonsense'"):
        adapter.train(n_path=1, n_epochs=1, nonsense=1)
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_no_path_is_refused(trained, vae, dataset):
    with pytest.raises(ValueError, match="n_path=0"):
        AdapterTrainer(vae, dataset, trained.test_set).train(n_path=0)
