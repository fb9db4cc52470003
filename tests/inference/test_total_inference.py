"""TotalTrainer and TotalPosterior: the objective, the adversary, and every answer in its shape and order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load_file, save_file

import scvi
from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset
from scvi.inference import TotalPosterior, TotalTrainer, load_posterior
from scvi.models import TOTALVI, Classifier

N, G, P = 90, 12, 4
QUIET: dict[str, Any] = {"show_progbar": False, "use_cuda": False}


def make_dataset(n_batches: int = 2, missing: bool = False) -> GeneExpressionDataset:
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(2, size=N), np.arange(N) % n_batches
    proteins = rng.poisson(np.array([[30, 2, 20, 5], [2, 40, 20, 5]])[kind])
    if missing:
        proteins[batch == 1, 2] = 0
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        rng.poisson(rng.gamma(1.0, 4.0, (2, G))[kind]) + 1,
        Ys=[CellMeasurement("protein_expression", proteins, "protein_names", ["CD3", "CD19", "CD45", "CD15"])],
        batch_indices=batch,
        labels=kind,
        gene_names=[f"gene{j}" for j in range(G)],
    )
    return dataset


def make(n_batches: int = 2, **options: Any) -> tuple[GeneExpressionDataset, TOTALVI]:
    dataset = make_dataset(n_batches)
    return dataset, TOTALVI(G, P, **{"n_batch": n_batches, "n_labels": 2, "n_hidden": 16, "n_latent": 3} | options)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


@pytest.fixture(scope="module", params=[1, 2], ids=["one batch", "two batches"])
def posterior(request: pytest.FixtureRequest) -> TotalPosterior:
    torch.manual_seed(0)
    dataset, model = make(request.param, reconstruction_loss_gene="zinb")
    trainer = TotalTrainer(model, dataset, n_iter_kl_warmup=10, **QUIET)
    trainer.train(n_epochs=3)
    return trainer.create_posterior(model, dataset, indices=np.arange(N)).update({"batch_size": 32})


# ---- training --------------------------------------------------------------------------------------------------------


def test_the_defaults_of_the_paper() -> None:
    dataset, model = make()
    trainer = TotalTrainer(model, dataset, **QUIET)
    assert (trainer.train_set.nb_cells, trainer.test_set.nb_cells, trainer.validation_set.nb_cells) == (81, 9, 0)
    assert all(type(p) is TotalPosterior for p in (trainer.train_set, trainer.test_set, trainer.create_posterior()))
    assert trainer.n_iter_kl_warmup == 0.75 * N
    stopping = trainer.early_stopping
    assert (stopping.early_stopping_metric, stopping.save_best_state_metric) == ("elbo", "elbo")
    assert (stopping.patience, stopping.threshold, stopping.lr_patience, stopping.lr_factor) == (45, 0, 30, 0.6)
    assert trainer.frequency == 1
    trainer.train(n_epochs=2)
    assert len(trainer.history["elbo_test_set"]) == 4  # before, two epochs, the best weights again
    no_test = TotalTrainer(model, dataset, train_size=1.0, **QUIET)
    no_test.train(n_epochs=1)
    assert no_test.early_stopping.early_stopping_metric is None
    never = TotalTrainer(model, dataset, early_stopping_kwargs=None, **QUIET)
    assert never.early_stopping.early_stopping_metric is None
    with pytest.raises(ValueError, match="early_stopping_kwargs='on' is not one of 'auto'"):
        TotalTrainer(model, dataset, early_stopping_kwargs="on", **QUIET)


def test_the_objective(no_noise: None) -> None:
    dataset, model = make()
    trainer = TotalTrainer(model, dataset, n_iter_kl_warmup=40, pro_recons_weight=0.25, **QUIET)
    trainer.n_iter = 10
    model.eval()
    tensors = next(iter(trainer.train_set.sequential(20)))
    x, l_mean, l_var, batch, label, y = tensors
    assert y.shape == (20, P)
    genes, proteins, kl_z, kl_l, kl_back = model(x, y, l_mean, l_var, batch, label)
    expected = (genes + 0.25 * proteins + kl_l + 0.25 * (kl_z + kl_back)).mean()
    torch.testing.assert_close(trainer.loss(tensors), expected)


def test_training_learns_both_modalities() -> None:
    torch.manual_seed(0)
    dataset, model = make()
    trainer = TotalTrainer(model, dataset, n_iter_kl_warmup=20, data_loader_kwargs={"batch_size": 32}, **QUIET)
    before = [trainer.test_set.reconstruction_error(mode) for mode in ("gene", "protein")]
    trainer.train(n_epochs=40, lr=4e-3)
    after = [trainer.test_set.reconstruction_error(mode) for mode in ("gene", "protein")]
    assert all(b < a for a, b in zip(before, after, strict=True))
    assert trainer.history["elbo_train_set"][-1] < 0.7 * trainer.history["elbo_train_set"][0]
    mixing = trainer.create_posterior(indices=np.arange(N)).sequential().get_sample_mixing(n_samples=5)
    kind = dataset.labels.ravel()
    assert mixing[kind == 0, 0].mean() < mixing[kind == 1, 0].mean()


def test_odd_numbers_of_cells() -> None:
    dataset = make_dataset()
    dataset.update_cells(np.arange(34))
    model = TOTALVI(G, P, n_batch=2, n_hidden=8, n_latent=2)
    trainer = TotalTrainer(model, dataset, train_size=0.5, data_loader_kwargs={"batch_size": 8}, **QUIET)
    trainer.train(n_epochs=1)
    assert np.isfinite(trainer.test_set.elbo())


def test_the_background_may_start_where_the_data_say() -> None:
    dataset, model = make()
    kept = model.background_pro_alpha.clone()
    TotalTrainer(model, dataset, **QUIET).train(n_epochs=0)
    assert torch.equal(model.background_pro_alpha, kept)
    trainer = TotalTrainer(model, dataset, empirical_protein_background_prior=True, **QUIET)
    trainer.train(n_epochs=0)
    np.testing.assert_allclose(model.background_pro_alpha.detach()[:2].exp(), 2, atol=0.9)


def test_missing_proteins_are_said(caplog: pytest.LogCaptureFixture) -> None:
    dataset = make_dataset(missing=True)
    mask = dataset.get_batch_mask_cell_measurement("protein_expression")
    with caplog.at_level(logging.WARNING, logger="scvi"):
        TotalTrainer(TOTALVI(G, P, n_batch=2, protein_batch_mask=mask), dataset, **QUIET)
        assert not caplog.records
        TotalTrainer(TOTALVI(G, P, n_batch=2), dataset, **QUIET)
    assert "Batch 1 has no count of the proteins 'CD45'" in caplog.text
    dataset.protein_expression = np.log1p(dataset.protein_expression)
    with caplog.at_level(logging.WARNING, logger="scvi"):
        TotalTrainer(TOTALVI(G, P, n_batch=2, protein_batch_mask=mask), dataset, **QUIET)
    assert "protein_expression holds values that are no counts" in caplog.text


# ---- the adversary ---------------------------------------------------------------------------------------------------


def test_the_discriminator_tells_batches_and_the_model_fools_it() -> None:
    torch.manual_seed(0)
    dataset, model = make()
    trainer = TotalTrainer(model, dataset, use_adversarial_loss=True, n_iter_kl_warmup=None, kappa=5.0, **QUIET)
    z, batch = torch.randn(20, 3), torch.randint(2, (20, 1))
    log_p = torch.log_softmax(trainer.discriminator.eval()(z), -1)
    true, other = log_p.gather(1, batch), log_p.gather(1, 1 - batch)
    torch.testing.assert_close(trainer.loss_discriminator(z, batch), -true.mean())
    torch.testing.assert_close(trainer.loss_discriminator(z, batch, predict_true_class=False), -other.mean())
    before = [p.clone() for p in trainer.discriminator.parameters()]
    trainer.train(n_epochs=2)
    after = list(trainer.discriminator.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not trainer.discriminator.training


def test_the_adversary_fades_with_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, model = make()
    seen = []
    own = TotalTrainer.loss_discriminator
    monkeypatch.setattr(
        TotalTrainer, "loss_discriminator", lambda self, *a, **k: seen.append(self.n_iter) or own(self, *a, **k)
    )
    trainer = TotalTrainer(model, dataset, use_adversarial_loss=True, n_iter_kl_warmup=3, **QUIET)
    trainer.train(n_epochs=6)
    assert set(seen) == {0, 1, 2}


def test_one_batch_has_no_adversary() -> None:
    dataset, model = make(1)
    trainer = TotalTrainer(model, dataset, use_adversarial_loss=True, **QUIET)
    assert not trainer.use_adversarial_loss
    trainer.train(n_epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": -0.5}, "kappa=-0.5 is not None or a number of at least 0"),
        ({"pro_recons_weight": -1.0}, "pro_recons_weight=-1.0 is not a number of at least 0"),
        ({"pro_recons_weight": float("nan")}, "pro_recons_weight=nan"),
        ({"use_adversarial_loss": 2}, "use_adversarial_loss=2 is not True or False"),
        ({"empirical_protein_background_prior": "yes"}, "empirical_protein_background_prior='yes'"),
        ({"discriminator": Classifier(3, n_labels=2)}, "make it with logits=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    dataset, model = make()
    with pytest.raises(ValueError, match=message):
        TotalTrainer(model, dataset, **QUIET, **options)


def test_a_model_without_batches_starts_its_background_at_all_cells() -> None:
    starts = []
    for n_batches in (1, 3):  # of the data
        dataset, _ = make(n_batches)
        _, model = make(1, n_batch=0)
        torch.manual_seed(0)
        trainer = TotalTrainer(model, dataset, empirical_protein_background_prior=True, **QUIET)
        trainer.on_training_begin()
        starts.append(model.background_pro_alpha.detach().clone())
    assert torch.equal(*starts)


def test_a_discriminator_may_be_given() -> None:
    dataset, model = make()
    given = torch.nn.Linear(3, 2)
    before = given.weight.clone()
    trainer = TotalTrainer(model, dataset, use_adversarial_loss=True, discriminator=given, n_iter_kl_warmup=50, **QUIET)
    trainer.train(n_epochs=1)
    assert not torch.equal(given.weight, before)


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_scores_add_up(posterior: TotalPosterior, no_noise: None) -> None:
    genes, proteins = posterior.compute_reconstruction_error(posterior.model)
    assert posterior.reconstruction_error() == pytest.approx(genes + proteins)
    assert posterior.reconstruction_error("gene") == pytest.approx(genes)
    assert posterior.reconstruction_error("protein") == pytest.approx(proteins)
    assert posterior.elbo() > genes + proteins
    assert posterior.elbo() == pytest.approx(posterior.compute_elbo(posterior.model))
    with pytest.raises(ValueError, match="mode='rna' is not one of 'total', 'gene', 'protein'"):
        posterior.reconstruction_error("rna")


def test_the_marginal_likelihood_is_above_the_elbo(posterior: TotalPosterior) -> None:
    torch.manual_seed(0)
    elbo = np.mean([posterior.elbo() for _ in range(20)])
    assert posterior.marginal_ll(n_mc_samples=300) < elbo
    assert posterior.compute_marginal_log_likelihood(n_samples_mc=20, batch_size=50) < elbo + 5
    with pytest.raises(ValueError, match="n_samples_mc=0"):
        posterior.marginal_ll(0)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_latent(posterior: TotalPosterior, no_noise: None) -> None:
    latent, batches, labels, library = posterior.sequential().get_latent()
    data_set = posterior.gene_dataset
    assert latent.shape == (N, 3)
    np.testing.assert_allclose(latent.sum(1), 1, rtol=1e-5)  # 'ln'
    assert np.array_equal(batches, data_set.batch_indices)
    assert np.array_equal(labels, data_set.labels.ravel())
    assert library.shape == (N,)
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (data_set.X, data_set.protein_expression))
    expected = posterior.model.sample_from_posterior_l(x, y, torch.tensor(data_set.batch_indices.astype(int)))
    np.testing.assert_allclose(library, expected.detach()[:, 0], rtol=1e-3)
    drawn = posterior.sequential().get_latent(sample=True)
    assert [part.shape for part in drawn] == [(N, 3), (N, 1), (N,), (N,)]
    if data_set.n_batches == 2:
        assert 0 <= posterior.entropy_batch_mixing() <= np.log(2)


def test_shapes(posterior: TotalPosterior) -> None:
    s = posterior.sequential()
    assert s.get_protein_background_mean().shape == (N, P)
    assert s.get_sample_dropout().shape == s.get_sample_dropout(n_samples=3).shape == (N, G)
    assert s.get_sample_dropout(n_samples=3, give_mean=False).shape == (N, G, 3)
    assert s.get_sample_mixing(n_samples=3).shape == s.get_protein_mean(n_samples=3, transform_batch=0).shape == (N, P)
    assert s.get_sample_mixing(n_samples=3, give_mean=False).shape == (N, P, 3)
    assert s.get_protein_mean(n_samples=3, give_mean=False).shape == (N, P, 3)
    assert s.get_sample_scale().shape == (N, G + P)
    genes, proteins = s.get_normalized_denoised_expression(n_samples=3)
    assert (genes.shape, proteins.shape) == ((N, G), (N, P))
    genes, proteins = s.get_normalized_denoised_expression(n_samples=3, give_mean=False, transform_batch=[0])
    assert (genes.shape, proteins.shape) == ((N, G, 3), (N, P, 3))
    assert s.imputation().shape == (N, G)
    assert s.imputation(n_samples=2).shape == (2, N, G)
    samples, originals = s.generate(n_samples=1)
    assert samples.shape == (N, G + P, 1)
    expected = np.concatenate([s.gene_dataset.X, s.gene_dataset.protein_expression], axis=1)
    assert np.array_equal(originals, expected)
    assert s.generate_denoised_samples(n_samples=2, transform_batch=0).shape == (N, G + P, 2)
    for mode in ("spearman", "pearson"):
        matrix = s.generate_feature_correlation_matrix(n_samples=2, correlation_mode=mode, transform_batch=[0])
        assert matrix.shape == (G + P, G + P)
        np.testing.assert_allclose(np.diag(matrix), 1)


def test_expression_against_the_methods_of_the_model(posterior: TotalPosterior, no_noise: None) -> None:
    s, d = posterior.sequential(), posterior.gene_dataset
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (d.X, d.protein_expression))
    given = (x, y, torch.tensor(d.batch_indices.astype(int)), torch.tensor(d.labels.astype(int)))
    out = posterior.model.inference(*given)
    py_ = {name: value.detach() for name, value in out["py_"].items()}
    pi = torch.sigmoid(py_["mixing"])
    np.testing.assert_allclose(s.get_sample_mixing(), pi, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(s.get_sample_dropout(), torch.sigmoid(out["px_"]["dropout"]).detach(), rtol=1e-4)
    np.testing.assert_allclose(s.get_protein_background_mean(), py_["rate_back"], rtol=1e-4)
    whole = (1 - pi) * py_["rate_fore"] + pi * py_["rate_back"]
    np.testing.assert_allclose(s.get_protein_mean(), whole, rtol=1e-4)
    np.testing.assert_allclose(s.imputation(), out["px_"]["rate"].detach(), rtol=1e-4)
    for options in ({}, {"include_bg": True}, {"normalize_pro": True}):
        mine = s.get_sample_scale(sample_bern=False, eps=0.25, **options)
        parts = posterior.model.get_sample_scale(*given, sample_bern=False, eps=0.25, **options)
        np.testing.assert_allclose(mine, torch.cat(parts, -1).detach(), rtol=1e-4)
    genes, proteins = s.get_normalized_denoised_expression(sample_protein_mixing=False)
    np.testing.assert_allclose(genes, out["px_"]["scale"].detach(), rtol=1e-4)
    np.testing.assert_allclose(proteins, (1 - pi) * py_["rate_fore"], rtol=1e-4)
    drawn = s.get_normalized_denoised_expression()[1]
    assert (np.isclose(drawn, 0) | np.isclose(drawn, py_["rate_fore"], rtol=1e-3)).all()


def test_another_batch(no_noise: None) -> None:
    dataset, model = make(2)
    s = TotalPosterior(model.eval(), dataset, indices=np.arange(N)).sequential()
    each = [s.get_protein_mean(transform_batch=b) for b in (0, 1)]
    assert not np.allclose(*each)
    np.testing.assert_allclose(s.get_protein_mean(transform_batch=[0, 1]), np.mean(each, axis=0), rtol=1e-5)
    own = s.get_protein_mean()
    np.testing.assert_allclose(own, np.where(dataset.batch_indices == 0, *each), rtol=1e-4)
    for ask in (s.get_protein_mean, s.get_sample_scale, s.generate_denoised_samples):
        with pytest.raises(ValueError, match="transform_batch=2"):
            ask(transform_batch=2)


def test_generated_counts_have_the_expected_means(posterior: TotalPosterior) -> None:
    scvi.set_seed(0)
    s = posterior.sequential()
    samples, _ = s.generate(n_samples=60)
    assert (samples == np.floor(samples)).all()
    expected = np.concatenate([s.imputation(20).mean(0), s.get_protein_mean(20)], axis=1)
    np.testing.assert_allclose(samples.mean((0, 2)), expected.mean(0), rtol=0.25)
    denoised = s.generate_denoised_samples(n_samples=60, rna_size_factor=100)
    genes, proteins = s.get_normalized_denoised_expression(20, sample_protein_mixing=False)
    np.testing.assert_allclose(denoised[:, :G].mean((0, 2)), 100 * genes.mean(0), rtol=0.25)
    np.testing.assert_allclose(denoised[:, G:].mean((0, 2)), proteins.mean(0), rtol=0.25)
    scvi.settings.seed = None


@pytest.mark.parametrize("factor", [0, -1.0, float("nan")])
def test_a_size_factor_that_is_none_is_refused(posterior: TotalPosterior, factor: float) -> None:
    for method in (posterior.generate_denoised_samples, posterior.generate_feature_correlation_matrix):
        with pytest.raises(ValueError, match=f"rna_size_factor={factor!r} is not a positive number"):
            method(n_samples=2, rna_size_factor=factor)


def test_corrupted_counts_come_with_the_proteins(posterior: TotalPosterior) -> None:
    posterior.gene_dataset.corrupt(rate=0.5)
    x, *_, y = next(iter(posterior.corrupted().sequential(N)))
    assert not np.array_equal(x.numpy(), posterior.gene_dataset.X)
    assert np.array_equal(y.numpy(), posterior.gene_dataset.protein_expression)
    assert len(next(iter(posterior.corrupted().uncorrupted()))) == 6


def test_save_and_load(posterior: TotalPosterior, tmp_path: Path, no_noise: None) -> None:
    posterior.save_posterior(tmp_path / "posterior")
    n_batch = posterior.gene_dataset.n_batches
    twin = TOTALVI(G, P, n_batch=n_batch, n_labels=2, n_hidden=16, n_latent=3, reconstruction_loss_gene="zinb")
    loaded = load_posterior(tmp_path / "posterior", twin, use_cuda=False)
    assert type(loaded) is TotalPosterior
    assert np.array_equal(loaded.gene_dataset.protein_expression, posterior.gene_dataset.protein_expression)
    assert list(loaded.gene_dataset.protein_names) == ["CD3", "CD19", "CD45", "CD15"]
    assert np.array_equal(loaded.sequential().get_sample_mixing(), posterior.sequential().get_sample_mixing())


def test_a_posterior_with_the_former_names_of_weights_is_read(posterior: TotalPosterior, tmp_path: Path) -> None:
    posterior.save_posterior(tmp_path / "posterior")
    path = tmp_path / "posterior" / "weights.safetensors"
    save_file({name.replace(".l_gene_", ".l_"): value for name, value in load_file(path).items()}, path)
    n_batch = posterior.gene_dataset.n_batches
    twin = TOTALVI(G, P, n_batch=n_batch, n_labels=2, n_hidden=16, n_latent=3, reconstruction_loss_gene="zinb")
    state = load_posterior(tmp_path / "posterior", twin, use_cuda=False).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in posterior.model.state_dict().items())


def test_what_does_not_fit_is_refused() -> None:
    dataset, model = make()
    narrow = make_dataset()
    narrow.protein_expression = narrow.protein_expression[:, :3]
    with pytest.raises(ValueError, match="n_input_proteins=4, the data set has 3"):
        TotalPosterior(model, narrow).elbo()
    bare = GeneExpressionDataset()
    bare.populate_from_data(dataset.X)
    with pytest.raises(
        ValueError, match="no measurement 'protein_expression': add one with initialize_cell_measurement"
    ):
        TotalPosterior(model, bare)
    with pytest.raises(ValueError, match="n_samples=0"):
        TotalPosterior(model, dataset).get_sample_mixing(n_samples=0)


def test_cells_of_two_anndata_with_different_proteins() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for n, names in ((40, ["CD3", "CD19", "CD45"]), (30, ["CD45", "CD15"])):
        adata = AnnData(
            rng.poisson(4, (n, G)).astype(np.float32) + 1,
            obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]),
            var=pd.DataFrame(index=[f"gene{j}" for j in range(G)]),
            obsm={"protein_expression": rng.poisson(9, (n, len(names))) + 1},
            uns={"protein_names": np.array(names)},
        )
        parts.append(
            AnnDatasetFromAnnData(adata, cell_measurements_col_mappings={"protein_expression": "protein_names"})
        )
    dataset = GeneExpressionDataset()
    dataset.populate_from_datasets(parts, cell_measurement_intersection={"protein_expression": False})
    assert list(dataset.protein_names) == ["CD15", "CD19", "CD3", "CD45"]
    mask = dataset.get_batch_mask_cell_measurement("protein_expression")
    assert [row.tolist() for row in mask] == [[False, True, True, True], [True, False, False, True]]
    assert list(parts[0].protein_names) == ["CD3", "CD19", "CD45"]
    again = AnnDatasetFromAnnData(dataset.to_anndata())
    for data in (dataset, again):
        model = TOTALVI(G, P, n_batch=2, n_hidden=16, n_latent=3, protein_batch_mask=mask)
        trainer = TotalTrainer(model, data, **QUIET)
        trainer.train(n_epochs=2)
        assert np.isfinite(trainer.history["elbo_test_set"]).all()
