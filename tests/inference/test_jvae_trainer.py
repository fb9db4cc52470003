"""The adversarial trainer of JVAE: its schedule, its losses by hand, its answers in the order of the data sets."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from scvi.dataset import GeneExpressionDataset
from scvi.inference import JVAETrainer, load_posterior
from scvi.inference.jvae_trainer import JPosterior
from scvi.kernels import fused
from scvi.models import JVAE, Classifier

N, G, SEEN = (60, 40), 9, np.array([3, 0, 5, 7])
QUIET: dict[str, Any] = {"show_progbar": False, "use_cuda": False, "batch_size": 16}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def data_set(n: int, genes: np.ndarray, batch: int, seed: int) -> GeneExpressionDataset:
    rng = np.random.default_rng(seed)
    means = rng.gamma(2.0, 2.0, (2, G))[rng.integers(2, size=n)][:, genes]
    counts = rng.poisson(means).astype(np.float32)
    counts[:, 0] += 1
    found = GeneExpressionDataset()
    names = np.array([f"gene{j}" for j in genes])
    found.populate_from_data(counts, batch_indices=np.full(n, batch), gene_names=names, remap_attributes=False)
    return found


@pytest.fixture
def data_sets() -> list[GeneExpressionDataset]:
    return [data_set(N[0], np.arange(G), 0, 0), data_set(N[1], SEEN, 1, 1)]


def make(data_sets: list[GeneExpressionDataset], **options: Any) -> JVAETrainer:
    model = JVAE(
        [G, 4], G, [slice(None), SEEN], ["zinb", "nb"], [True, False], n_latent=3, dim_hidden_encoder=8, n_batch=2
    )
    discriminator = Classifier(3, 8, 2, 2, logits=True)
    return JVAETrainer(model, discriminator, data_sets, **{"train_size": 0.5, **QUIET, **options})


def test_posteriors(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets)
    assert [p.nb_cells for p in trainer.all_dataset] == [60, 40]
    assert [p.nb_cells for p in trainer.all_train] == [30, 20]
    assert [p.mode for p in trainer.all_train] == [0, 1]
    assert trainer.train_1 is trainer.all_train[1]
    assert trainer.test_0 is trainer.all_test[0]
    assert set(trainer._posteriors) == {"train_0", "train_1", "test_0", "test_1"}
    assert all(isinstance(p, JPosterior) for p in trainer.all_validation)


def test_an_epoch_is_a_pass_over_the_largest(data_sets: list[GeneExpressionDataset]) -> None:
    for sets, modes in ((data_sets, (0, 1)), (data_sets[::-1], (1, 0))):
        trainer = make(data_sets)
        trainer.all_train = tuple(trainer.all_train[i] for i in modes)
        for i, posterior in enumerate(trainer.all_train):
            trainer.register_posterior(f"train_{i}", posterior)
        steps = list(trainer.data_loaders_loop())
        assert len(steps) == len(sets) == 2  # 30 cells: 16 + 14
        largest = int(np.argmax([p.nb_cells for p in trainer.all_train]))
        assert sum(len(step[largest][0]) for step in steps) == 30


def test_training(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets, frequency=1, n_epochs_kl_warmup=4)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    judge = [p.clone() for p in trainer.discriminator.parameters()]
    trainer.train(n_epochs=3, lr_d=1e-2)
    assert trainer.kl_weight == 0.5
    assert trainer.n_iter == 6
    assert not trainer.model.training
    assert not trainer.discriminator.training
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert {"decoder.px_scale_decoder.0.weight", "px_r", "z_encoder.mean_encoder.weight"} <= changed
    assert all(not torch.equal(p, q) for p, q in zip(trainer.discriminator.parameters(), judge, strict=True))
    for name in ("elbo_train_0", "elbo_train_1", "elbo_test_0", "elbo_test_1"):
        assert len(trainer.history[name]) == 4
        assert np.isfinite(trainer.history[name]).all()
    for name in ("discriminator_loss", "discriminator_accuracy"):  # nothing was said before the first epoch
        assert len(trainer.history[name]) == 3
    assert all(0 <= value <= 1 for value in trainer.history["discriminator_accuracy"])


def test_without_an_adversary(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets, kappa=0, frequency=1, n_epochs_kl_warmup=None)
    judge = [p.clone() for p in trainer.discriminator.parameters()]
    trainer.train(n_epochs=1)
    assert trainer.kl_weight == 1.0
    assert all(torch.equal(p, q) for p, q in zip(trainer.discriminator.parameters(), judge, strict=True))
    assert "discriminator_loss" not in trainer.history


def test_the_loss_by_hand(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets)
    trainer.model.eval()
    trainer.kl_weight = 0.25
    tensors = next(iter(trainer.data_loaders_loop()))
    torch.manual_seed(1)
    loss = trainer.loss(tensors)
    torch.manual_seed(1)
    terms = [trainer.model(*t, mode=i) for i, t in enumerate(tensors)]
    expected = sum((rec + 0.25 * kl).sum() for rec, kl, _ in terms) / sum(len(t[0]) for t in tensors)
    torch.testing.assert_close(loss, expected)
    torch.manual_seed(1)
    reconstructions, divergences = trainer.loss(tensors, return_details=True)
    torch.testing.assert_close(reconstructions[1], terms[1][0].mean())
    torch.testing.assert_close(divergences[0], terms[0][1].mean())


def test_the_discriminators_loss_by_hand(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets)
    trainer.discriminator.eval()
    latents = [torch.randn(5, 3), torch.randn(4, 3)]
    log_p = [torch.log_softmax(trainer.discriminator(z), -1) for z in latents]
    own = trainer.loss_discriminator(latents, return_details=True)
    torch.testing.assert_close(own, [-log_p[0][:, 0].mean(), -log_p[1][:, 1].mean()])
    other = trainer.loss_discriminator(latents, predict_true_class=False)
    torch.testing.assert_close(other, -log_p[0][:, 1].mean() - log_p[1][:, 0].mean())


def test_answers(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets)
    trainer.train(n_epochs=2)
    model = trainer.model
    x = [torch.from_numpy(np.asarray(data.X)) for data in data_sets]
    batch = [torch.from_numpy(data.batch_indices.astype(np.int64)) for data in data_sets]
    with torch.no_grad():
        for i, z in enumerate(trainer.get_latent()):
            np.testing.assert_allclose(z, model.sample_from_posterior_z(x[i], i, deterministic=True), atol=1e-5)
        for normalized, sample in ((True, model.sample_scale), (False, model.sample_rate)):
            for i, values in enumerate(trainer.get_imputed_values(normalized=normalized)):
                expected = sample(x[i], i, batch[i], deterministic=True)
                assert values.shape == (N[i], G)
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
        other = trainer.get_imputed_values(decode_mode=1, transform_batch=1)
        expected = model.sample_scale(x[0], 0, batch[0], deterministic=True, decode_mode=1, transform_batch=1)
        np.testing.assert_allclose(other[0], expected, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(trainer.get_latent(deterministic=False)[0], trainer.get_latent()[0])
    confusion = trainer.get_discriminator_confusion()
    np.testing.assert_allclose(confusion.sum(1), 1.0, rtol=1e-5)
    magnitudes = trainer.get_loss_magnitude()
    assert [m.shape for m in magnitudes] == [(2,)] * 3
    assert all((m > 0).all() for m in magnitudes)
    assert (trainer.get_loss_magnitude(one_sample=True)[0] < magnitudes[0]).all()


def test_a_posterior_of_one_data_set_answers_as_any(data_sets: list[GeneExpressionDataset], tmp_path: Any) -> None:
    trainer = make(data_sets)
    trainer.train(n_epochs=2)
    posterior = trainer.all_dataset[1]
    scores = posterior.elbo(), posterior.reconstruction_error(), posterior.marginal_ll(20)
    assert np.isfinite(scores).all()
    z, batches, _ = posterior.get_latent()
    assert np.array_equal(z, trainer.get_latent()[1])
    assert (batches == 1).all()
    assert posterior.get_stats().shape == (40,)
    scale = posterior.get_sample_scale(gene_list=["gene0", "gene7"])  # genes of the data set, under their names
    assert list(scale.columns) == ["gene0", "gene7"]
    every = posterior.get_sample_scale()
    np.testing.assert_allclose(every.sum(1), 1.0, rtol=1e-5)
    assert posterior.imputation(n_samples=2).shape == (2, 40, 4)
    trainer.test_1.save_posterior(tmp_path / "saved")
    again = load_posterior(tmp_path / "saved", deepcopy(trainer.model))
    assert isinstance(again, JPosterior)
    assert again.mode == 1
    assert np.isfinite(again.elbo())
    assert load_posterior(tmp_path / "saved", deepcopy(trainer.model), mode=0).mode == 0
    with pytest.raises(ValueError, match="mode=-1 is not an integer of at least 0"):
        JPosterior(trainer.model, data_sets[0], mode=-1)


def test_same_seed_same_weights(data_sets: list[GeneExpressionDataset]) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        trainer = make(data_sets)
        trainer.train(n_epochs=2)
        states.append(trainer.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_bad_input(data_sets: list[GeneExpressionDataset]) -> None:
    with pytest.raises(ValueError, match="has 1 data sets, the model was made for 2"):
        make(data_sets[:1])
    with pytest.raises(ValueError, match="kappa=-1 is not a number of at least 0"):
        make(data_sets, kappa=-1)
    with pytest.raises(ValueError, match="n_epochs_kl_warmup=-1 is negative"):
        make(data_sets, n_epochs_kl_warmup=-1)
    with pytest.raises(ValueError, match="make it with logits=True"):
        JVAETrainer(make(data_sets).model, Classifier(3, 8, 2), data_sets, **QUIET)
    with pytest.raises(TypeError, match="lr_f"):
        make(data_sets).train(n_epochs=1, lr_f=1e-3)
    with pytest.raises(ValueError, match="lr_d=0 is not a positive number"):
        make(data_sets).train(n_epochs=1, lr_d=0)
    swapped = make(data_sets[::-1])
    with pytest.raises(ValueError, match=r"dim_input_list\[0\]=9 for 4 genes"):
        swapped.train(n_epochs=1)
    with pytest.raises(ValueError, match="transform_batch=2 is not a batch of this model, which has 0 to 1"):
        make(data_sets).get_imputed_values(transform_batch=2)
    data_sets[1].batch_indices = np.full(40, 2)
    with pytest.raises(ValueError, match="n_batch=2 for batch codes up to 2"):
        make(data_sets).train(n_epochs=1)


def test_nothing_is_noted_that_no_history_holds(data_sets: list[GeneExpressionDataset]) -> None:
    trainer = make(data_sets)
    trainer.train(n_epochs=2)
    assert trainer._told == []
    assert "discriminator_loss" not in trainer.history


def test_the_likelihood_gets_the_gradient_that_it_expects(
    data_sets: list[GeneExpressionDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other costs a second pass: the loss is a mean over the cells of all data sets."""
    said, expected = [], fused._as_expected
    monkeypatch.setattr(fused, "_as_expected", lambda *given: said.append(expected(*given)) or said[-1])
    make(data_sets, kappa=0.0).train(n_epochs=1)
    assert said
    assert all(said)
