import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from scvi.inference import Posterior, UnsupervisedTrainer
from scvi.inference.posterior import SequentialSubsetSampler
from scvi.inference.posterior_utils import entropy_batch_mixing, entropy_from_indices
from scvi.inference.trainer import SequentialSubsetSampler as ByItsOldPath
from scvi.minibatch import Minibatch
from scvi.models import VAE
from scvi.models.log_likelihood import compute_elbo


@pytest.fixture
def posterior(vae, dataset):
    vae.eval()
    return Posterior(vae, dataset, indices=np.arange(60), data_loader_kwargs={"batch_size": 25})


def counts(posterior):
    return torch.cat([x for x, *_ in posterior]).numpy()


# Cells ----------------------------------------------------------------------------------------------------------------


def test_tensors_and_minibatches(posterior, dataset):
    x, l_mean, l_var, batch, labels = next(iter(posterior.sequential()))
    assert np.array_equal(x, dataset.X[:25])
    assert np.allclose(l_mean, dataset.local_means[:25])
    assert np.allclose(l_var, dataset.local_vars[:25])
    assert np.array_equal(batch, dataset.batch_indices[:25])
    assert np.array_equal(labels, dataset.labels[:25])
    assert [tensor.dtype for tensor in (x, l_mean, l_var, batch, labels)] == [torch.float32] * 3 + [torch.int64] * 2
    minibatches = list(posterior.sequential().minibatches())
    assert [len(minibatch) for minibatch in minibatches] == [25, 25, 10]
    assert isinstance(minibatches[0], Minibatch)
    assert torch.equal(minibatches[0].x, x)


def test_with_indices_the_order_is_random_every_time(posterior, dataset):
    first, second = counts(posterior), counts(posterior)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, dataset.X)
    assert np.array_equal(first.sum(0), dataset.X.sum(0))


def test_without_indices_the_order_is_that_of_the_data_set_unless_shuffled(vae, dataset):
    assert np.array_equal(counts(Posterior(vae, dataset)), dataset.X)
    shuffled = Posterior(vae, dataset, shuffle=True)
    assert not np.array_equal(counts(shuffled), dataset.X)
    assert np.array_equal(shuffled.indices, np.arange(60))
    with pytest.raises(ValueError, match="indices is mutually exclusive with shuffle"):
        Posterior(vae, dataset, shuffle=True, indices=[0])


def test_sequential_keeps_the_order_given(vae, dataset):
    chosen = [7, 3, 3, 59]
    posterior = Posterior(vae, dataset, indices=chosen)
    assert np.array_equal(counts(posterior.sequential()), dataset.X[chosen])
    assert isinstance(posterior.sequential().data_loader.sampler, SequentialSubsetSampler)
    assert ByItsOldPath is SequentialSubsetSampler


def test_sequential_keeps_the_batch_size_unless_given(posterior):
    assert posterior.update({"batch_size": 32}).sequential().data_loader.batch_size == 32
    assert posterior.sequential(batch_size=3).data_loader.batch_size == 3
    assert posterior.data_loader.batch_size == 25


def test_the_batch_size_is_128_unless_given(vae, dataset):
    assert Posterior(vae, dataset).data_loader.batch_size == 128


def test_masks(vae, dataset):
    mask = dataset.labels == 1  # (n, 1)
    posterior = Posterior(vae, dataset, indices=mask)
    assert np.array_equal(posterior.indices, np.flatnonzero(mask))
    assert np.array_equal(posterior.original_indices, posterior.indices)
    assert posterior.nb_cells == mask.sum()
    assert posterior.posterior_type == "Posterior"


@pytest.mark.parametrize(
    ("indices", "error"),
    [([0, 60], IndexError), ([-1], IndexError), ([0.5], ValueError), ([True, False], ValueError), (["a"], ValueError)],
)
def test_bad_indices_are_refused(vae, dataset, indices, error):
    with pytest.raises(error, match="indices"):
        Posterior(vae, dataset, indices=indices)


def test_other_cells_in_place_and_back(posterior, dataset):
    former = posterior.data_loader
    posterior.update_sampler_indices([5, 5, 9])
    assert np.array_equal(posterior.indices, [5, 5, 9])
    assert np.array_equal(counts(posterior).sum(0), dataset.X[[5, 5, 9]].sum(0))
    assert posterior.update({"batch_size": 2}).nb_cells == 3
    posterior.data_loader = former
    assert posterior.corrupted.__self__.nb_cells == posterior.update({"batch_size": 2}).nb_cells == 60


def test_derived_posteriors_leave_the_first_alone(posterior):
    kwargs = dict(posterior.data_loader_kwargs)
    posterior.update({"batch_size": 2, "drop_last": True}).sequential()
    assert posterior.data_loader_kwargs == kwargs
    assert not isinstance(posterior.data_loader.sampler, SequentialSubsetSampler)


def test_corrupted_and_uncorrupted(posterior, dataset):
    dataset.corrupt(rate=0.5, corruption="binomial")
    corrupted = posterior.corrupted().sequential()
    assert np.array_equal(counts(corrupted), dataset.corrupted_X)
    assert not np.array_equal(dataset.corrupted_X, dataset.X)
    assert np.array_equal(counts(corrupted.uncorrupted()), dataset.X)
    assert corrupted.reads_corrupted
    assert not posterior.reads_corrupted


def test_loader_options_of_torch(posterior, dataset):
    assert [len(x) for x, *_ in posterior.update({"drop_last": True})] == [25, 25]
    workers = posterior.sequential().update({"num_workers": 2, "pin_memory": True})
    assert np.array_equal(counts(workers), dataset.X)


@pytest.mark.parametrize("copied", [deepcopy, lambda posterior: pickle.loads(pickle.dumps(posterior))])
def test_copies(posterior, dataset, copied):
    assert np.array_equal(counts(copied(posterior).sequential()), dataset.X)


def test_raw_data(vae, dataset):
    x, labels = Posterior(vae, dataset, indices=[4, 2]).raw_data()
    assert np.array_equal(x, dataset.X[[4, 2]])
    assert np.array_equal(labels, dataset.labels.ravel()[[4, 2]])


# Scores ---------------------------------------------------------------------------------------------------------------


def test_modes():
    modes = {name: getattr(Posterior, name).mode for name in ("elbo", "reconstruction_error", "marginal_ll")}
    assert set(modes.values()) == {"min"}
    assert Posterior.entropy_batch_mixing.mode == "max"


def test_scores_agree_with_a_loop_over_the_cells(posterior, vae):
    posterior = posterior.sequential()
    total = {"elbo": 0.0, "reconstruction_error": 0.0}
    torch.manual_seed(3)
    for x, l_mean, l_var, batch, labels in posterior:
        rest, kl, _ = vae(x, l_mean, l_var, batch, labels)
        total["elbo"] += (rest + kl).sum().item()
    torch.manual_seed(3)
    for x, _, _, batch, labels in posterior:
        out = vae.inference(x, batch, labels)
        loss = vae.get_reconstruction_loss(x, out["px_rate"], out["px_r"], out["px_dropout"])
        total["reconstruction_error"] += loss.sum().item()
    for name, value in total.items():
        torch.manual_seed(3)
        assert getattr(posterior, name)() == pytest.approx(value / 60, rel=1e-5)
        assert isinstance(getattr(posterior, name)(), float)


def test_more_draws_tighten_the_marginal_likelihood(posterior):
    few, more = (np.mean([posterior.marginal_ll(n_mc_samples=n) for _ in range(5)]) for n in (1, 50))
    elbo = np.mean([posterior.elbo() for _ in range(5)])
    assert more < few
    assert more < elbo


def test_scores_leave_a_training_model_as_it_is(posterior, vae):
    vae.train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    posterior.elbo(), posterior.get_latent(), posterior.imputation(), posterior.get_stats()
    assert vae.training
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_posterior_without_cells_says_so(vae, dataset):
    empty = Posterior(vae, dataset, indices=[])
    assert empty.nb_cells == 0
    for method in (empty.elbo, empty.reconstruction_error, empty.marginal_ll, empty.get_latent, empty.imputation):
        with pytest.raises(ValueError, match="this posterior has no cells"):
            method()


def test_entropy_of_batch_mixing(posterior, vae, make_dataset):
    assert 0 <= posterior.entropy_batch_mixing() <= np.log(2) + 1e-9
    three = make_dataset(n_batches=3)
    mixed = Posterior(VAE(20, n_batch=3), three).entropy_batch_mixing(seed=0)
    assert np.log(2) < mixed <= np.log(3) + 1e-9  # a network that is not fitted sees hardly any difference
    assert Posterior(vae, make_dataset(n_batches=1)).entropy_batch_mixing() is None


def test_entropy_batch_mixing_of_mixed_and_separate_batches():
    rng = np.random.default_rng(0)
    latent, batches = rng.normal(size=(400, 2)), np.arange(400) % 2
    assert entropy_batch_mixing(latent, batches, seed=0) == pytest.approx(np.log(2), abs=0.02)
    assert entropy_batch_mixing(latent + 100 * batches[:, None], batches, seed=0) == 0
    assert entropy_batch_mixing(latent, batches * 0) == 0
    assert entropy_batch_mixing(latent[:3], [0, 1, 1], seed=0) <= np.log(2)  # two neighbours each
    torch.manual_seed(1)
    first = entropy_batch_mixing(latent, batches)
    torch.manual_seed(1)
    assert entropy_batch_mixing(latent, batches) == first
    with pytest.raises(ValueError, match=r"got shapes \(400, 2\) and \(3,\)"):
        entropy_batch_mixing(latent, [0, 1, 1])


def test_entropy_batch_mixing_of_two_batches_has_the_formula_of_2020():
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(150, 3))
    batches = (latent[:, 0] + rng.normal(size=150) > 0).astype(int)

    def of_cell(cell):  # the binary entropy of the share of batch 1 among the 50 nearest others
        distances = np.linalg.norm(latent - latent[cell], axis=1)
        share = batches[np.argsort(distances)[1:51]].mean()
        return 0.0 if share in (0, 1) else -share * np.log(share) - (1 - share) * np.log(1 - share)

    entropies = np.array([of_cell(cell) for cell in range(150)])
    pools = [entropies[pool].mean() for pool in np.random.default_rng(7).integers(0, 150, (50, 100))]
    assert entropy_batch_mixing(latent, batches, seed=7) == pytest.approx(np.mean(pools))
    assert entropy_batch_mixing(latent, batches, n_pools=3000, seed=1) == pytest.approx(entropies.mean(), abs=0.005)


@pytest.mark.parametrize("shares", [[1, 1], [1, 1, 1], [4, 2, 1, 1], [1] * 7])
def test_entropy_batch_mixing_of_any_number_of_batches(shares):
    batches = np.random.default_rng(0).permutation(np.repeat(np.arange(len(shares)), 300 * np.array(shares)))
    latent = np.random.default_rng(1).normal(size=(len(batches), 2))
    share = np.array(shares) / sum(shares)
    mixed = -np.sum(share * np.log(share))
    # among 400 neighbours the entropy is low by (k - 1) / 800 in the mean (Miller and Madow)
    found = entropy_batch_mixing(latent, batches, n_neighbors=400, n_pools=200, seed=0)
    assert found == pytest.approx(mixed - (len(shares) - 1) / 800, abs=0.01)
    apart = entropy_batch_mixing(latent + 100 * batches[:, None], batches, seed=0)
    assert apart == 0
    halves = entropy_batch_mixing(latent + 100 * (batches[:, None] // 2), batches, n_neighbors=200, seed=0)
    assert 0 < halves < mixed or len(shares) == 2  # pairs of batches mix


def test_entropy_from_indices():
    assert entropy_from_indices([3, 3, 3]) == 0
    assert entropy_from_indices([0, 1, 2, 3]) == pytest.approx(np.log(4))


# Latent space and expression ------------------------------------------------------------------------------------------


def test_the_latent_space_lines_up_with_the_codes(posterior, vae, dataset):
    latent, batches, labels = posterior.sequential().get_latent()
    assert (latent.shape, batches.shape, labels.shape) == ((60, 3), (60, 1), (60,))
    assert np.array_equal(batches, dataset.batch_indices)
    assert np.array_equal(labels, dataset.labels.ravel())
    x = torch.tensor(dataset.X)
    assert np.allclose(latent, vae.sample_from_posterior_z(x, give_mean=True).detach(), atol=1e-5)

    shuffled, batches, labels = posterior.get_latent()  # in one and the same random order
    order = [int(np.argmin(np.abs(latent - row).sum(1))) for row in shuffled]
    assert sorted(order) == list(range(60))
    assert np.array_equal(batches, dataset.batch_indices[order])
    assert np.array_equal(labels, dataset.labels.ravel()[order])


def test_draws_of_the_latent_space(posterior):
    means, *_ = posterior.sequential().get_latent()
    draws, *_ = posterior.sequential().get_latent(give_mean=False)
    assert draws.shape == means.shape
    assert not np.allclose(draws, means, atol=1e-3)


def test_library_sizes(posterior, vae, dataset):
    stats = posterior.get_stats()
    assert stats.shape == (60,)
    torch.manual_seed(0)
    many = np.mean([posterior.get_stats() for _ in range(200)], axis=0)
    x = torch.tensor(dataset.X)
    means, variances, _ = vae.l_encoder(torch.log1p(x))
    assert np.allclose(many, means.detach().ravel(), atol=5 * (variances.max().sqrt() / 200**0.5).item())


def test_normalised_expression(posterior, dataset):
    posterior = posterior.sequential()
    scale = posterior.get_sample_scale()
    assert isinstance(scale, np.ndarray)
    assert scale.shape == (60, 20)
    assert np.allclose(scale.sum(1), 1, atol=1e-5)
    assert np.allclose(posterior.get_sample_scale(library_size=100).sum(1), 100, atol=1e-3)


def test_normalised_expression_of_some_genes(posterior):
    table = posterior.get_sample_scale(gene_list=["gene_7", "gene_2"])
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["gene_2", "gene_7"]  # in the order of the data set
    assert isinstance(posterior.get_sample_scale(gene_list=["gene_7"]), np.ndarray)
    assert list(posterior.get_sample_scale(gene_list=["gene_7"], return_df=True)) == ["gene_7"]
    assert posterior.get_sample_scale(return_df=True).shape == (60, 20)
    assert isinstance(posterior.get_sample_scale(gene_list=["gene_2", "gene_7"], return_df=False), np.ndarray)
    with pytest.raises(ValueError, match="1 unknown genes, such as 'gene_x'"):
        posterior.get_sample_scale(gene_list=["gene_2", "gene_x"])


def test_several_draws_of_the_normalised_expression(posterior):
    assert posterior.get_sample_scale(n_samples=4).shape == (60, 20)
    assert posterior.get_sample_scale(n_samples=4, return_mean=False).shape == (4, 60, 20)
    draws = posterior.get_sample_scale(n_samples=4, return_mean=False, gene_list=["gene_2", "gene_7"])
    assert draws.shape == (4, 60, 2)
    with pytest.raises(ValueError, match="return_df=True needs return_mean=True"):
        posterior.get_sample_scale(n_samples=4, return_mean=False, return_df=True)


def test_imputation_has_one_row_a_cell_whatever_the_minibatches(posterior, vae):
    assert posterior.imputation().shape == (60, 20)
    posterior = posterior.sequential(batch_size=7)
    draws = posterior.imputation(n_samples=200)
    assert draws.shape == (200, 60, 20)
    one_minibatch = posterior.sequential(batch_size=60).imputation(n_samples=200)
    assert np.allclose(np.log(draws.mean(0)), np.log(one_minibatch.mean(0)), atol=0.5)


def test_imputation_in_another_batch(posterior, vae):
    posterior = posterior.sequential(batch_size=60)

    def given(transform_batch):
        torch.manual_seed(0)
        return posterior.imputation(transform_batch=transform_batch)

    torch.manual_seed(0)
    x, _, _, batch, labels = next(iter(posterior))
    expected = vae.get_sample_rate(x, batch, labels, transform_batch=1).detach().numpy()
    assert np.allclose(given(1), expected, rtol=1e-4)
    assert np.allclose(given([0, 1]), (given(0) + given(1)) / 2, rtol=1e-4)
    assert np.allclose(given(np.array([0, 1])), given([0, 1]))
    assert not np.allclose(given(0), given(1), rtol=1e-3)


@pytest.mark.parametrize("transform_batch", [2, -1, [0, 2], []])
def test_unknown_batches_are_refused(posterior, transform_batch):
    with pytest.raises(ValueError, match="is not among the codes of the 2 batches, 0 to 1"):
        posterior.imputation(transform_batch=transform_batch)


# What can go wrong ----------------------------------------------------------------------------------------------------


def test_scores_see_cells_that_the_iteration_drops(vae, dataset):
    vae.eval()
    options = {"batch_size": 40}
    with torch.no_grad():
        vae.z_encoder.var_encoder.bias.fill_(-30)  # hardly any noise
        vae.l_encoder.var_encoder.bias.fill_(-30)
    whole = Posterior(vae, dataset, data_loader_kwargs=options)
    dropping = Posterior(vae, dataset, data_loader_kwargs=options | {"drop_last": True})
    assert [len(x) for x, *_ in dropping] == [40]
    assert dropping.elbo() == pytest.approx(whole.elbo(), rel=0.01)
    assert dropping.reconstruction_error() == pytest.approx(whole.reconstruction_error(), rel=0.01)
    assert np.array_equal(dropping.get_latent()[0], whole.get_latent()[0])
    assert len(dropping.imputation()) == len(dropping.get_stats()) == 60


def test_scores_are_means_over_the_cells_that_come(vae, dataset):
    vae.eval()
    one_batch = [next(iter(Posterior(vae, dataset)))]
    torch.manual_seed(0)
    alone = compute_elbo(vae, one_batch)
    torch.manual_seed(0)
    assert compute_elbo(vae, iter(one_batch)) == alone
    with pytest.raises(ValueError, match="yields no cells"):
        compute_elbo(vae, [])


@pytest.mark.parametrize("n_samples", [0, 1.5])
def test_a_number_of_draws_below_one_is_refused(posterior, n_samples):
    for call in (posterior.get_sample_scale, posterior.imputation):
        with pytest.raises(ValueError, match="is not a number of draws"):
            call(n_samples=n_samples)
    with pytest.raises(ValueError, match="is not a number of draws"):
        posterior.marginal_ll(n_mc_samples=n_samples)


@pytest.mark.parametrize("code", [0.7, "b1", [0, 0.5]])
def test_a_batch_that_is_no_code_is_refused(posterior, code):
    with pytest.raises(ValueError, match="is not the code of a batch"):
        posterior.imputation(transform_batch=code)


def test_a_model_of_other_data_is_refused(dataset, make_dataset):
    for model in (VAE(21, n_batch=2), VAE(20, n_batch=2, n_labels=2, dispersion="gene-label")):
        for query in (Posterior(model, dataset).elbo, UnsupervisedTrainer(model, dataset, show_progbar=False).train):
            with pytest.raises(ValueError, match="was made for other data"):
                query()
    three = make_dataset(n_batches=3)
    with pytest.raises(ValueError, match="n_batch=2 for batch codes up to 2"):
        Posterior(VAE(20, n_batch=2), three).get_latent()
    known = np.flatnonzero(three.batch_indices.ravel() < 2)
    assert len(Posterior(VAE(20, n_batch=2), three, indices=known).get_latent()[0]) == len(known)
    assert np.isfinite(Posterior(VAE(20), three).elbo())


def test_the_data_set_is_read_as_it_is_now(posterior, dataset):
    dataset.X = dataset.X * 2
    assert np.array_equal(counts(posterior.sequential()), posterior.raw_data()[0])
    dataset.corrupt(0.9, "binomial")
    corrupted = posterior.corrupted().sequential()
    dataset.corrupt(0.9, "binomial")
    assert np.array_equal(counts(corrupted), dataset.corrupted_X)
    dataset.X = dataset.X
    with pytest.raises(ValueError, match="no corrupted_X"):
        next(iter(corrupted))
