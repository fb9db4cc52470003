"""Draws from fitted likelihoods against their closed forms, and what is held of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from grids import each_of
from scvi.minibatch import Minibatch
from scvi.models import VAE, VAEC, AutoZIVAE
from scvi.models.scanvae import SCANVAE
from scvi.queries import predictive
from scvi.queries.expression import Wanted

N, G, B, L = 6, 12, 2, 3
SIZES: dict[str, Any] = {"n_batch": B, "n_labels": L, "n_hidden": 8, "n_latent": 3, "use_observed_lib_size": True}
MODELS = {
    "zinb": lambda **options: VAE(G, **SIZES, reconstruction_loss="zinb", **options),
    "nb": lambda **options: VAE(G, **SIZES, reconstruction_loss="nb", **options),
    "poisson": lambda **options: VAE(G, **SIZES, reconstruction_loss="poisson", **options),
    "autozi": lambda **options: AutoZIVAE(G, **SIZES, **options),
    "autozi by label": lambda **options: AutoZIVAE(G, **SIZES, zero_inflation="gene-label", **options),
    "scanvi": lambda **options: SCANVAE(G, **SIZES, **options),
    "vaec": lambda **options: VAEC(G, **SIZES, **options),
}


def cells(seed: int = 0, n: int = N) -> Minibatch:
    rng = np.random.default_rng(seed)
    counts = torch.from_numpy(rng.poisson(rng.gamma(1.0, 8.0, (n, G))).astype(np.float32))
    return Minibatch(
        counts,
        torch.from_numpy(rng.integers(B, size=(n, 1))),
        torch.from_numpy(rng.integers(L, size=(n, 1))),
        l_mean=torch.full((n, 1), 4.5),
        l_var=torch.full((n, 1), 0.1),
    )


def model_of(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS[name](**options).eval()
    if model.dispersion != "gene-cell":  # such that counts differ from Poisson ones
        model.px_r.data.uniform_(-1.0, 1.5)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def latents_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


@torch.no_grad()
def parameters(model: Any, mb: Minibatch, batch: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means before dropout, inverse dispersions and probabilities of dropout at the posterior mean, float64 (n, g)."""
    q = model.latent(mb)
    genes = model.generative(q.z.loc, q.mean_size(mb), mb, batch).genes
    mean = genes.rate.double().numpy()
    theta = np.broadcast_to(genes.theta.double().numpy(), mean.shape)
    if not genes.likelihood.has_dispersion:
        theta = np.full_like(mean, np.inf)
    logits = genes.dropout_logits
    return mean, theta, np.zeros_like(mean) if logits is None else torch.sigmoid(logits.double()).numpy()


def drawn(model: Any, n_samples: int, mb: Minibatch | None = None, **wanted: Any) -> np.ndarray:
    """(n, g, s)"""
    minibatches = [cells() if mb is None else mb]
    blocks = predictive.counts(model, minibatches, Wanted(n_samples=n_samples, **wanted), generator())
    return predictive.in_one_array(blocks, len(minibatches[0]), n_samples).astype(np.float64)


# ---- the likelihoods -------------------------------------------------------------------------------------------------


@each_of(name=[*MODELS], dispersion=["gene", "gene-batch", "gene-label", "gene-cell"], batch=[None, 1])
@pytest.mark.usefixtures("latents_are_means")
def test_counts_have_the_moments_of_the_likelihood(name: str, dispersion: str, batch: int | None) -> None:
    """Mean, variance and share of zeros of a zero-inflated negative binomial, of which all others are limits."""
    model, mb, n_samples = model_of(name, dispersion=dispersion), cells(), 1200
    mean, theta, lost = parameters(model, mb, batch)
    x = drawn(model, n_samples, transform_batch=None if batch is None else [batch])
    assert np.array_equal(x, np.floor(x))
    of_mean = (1 - lost) * mean
    variance = of_mean * (1 + mean * (lost + 1 / theta))
    zeros = lost + (1 - lost) * np.where(np.isinf(theta), np.exp(-mean), (1 + mean / theta) ** -np.minimum(theta, 1e9))
    assert np.abs((x.mean(2) - of_mean) / np.sqrt(variance / n_samples)).max() < 5
    too_many = np.abs((x == 0).mean(2) - zeros) - 5 / n_samples  # of zeros that are rare
    assert (too_many / np.sqrt(zeros * (1 - zeros) / n_samples)).max() < 5
    np.testing.assert_allclose((x.var(2) / variance).mean(), 1, atol=0.1)
    assert np.abs(np.log(x.var(2) / variance)).max() < 1


@each_of(name=["zinb", "nb", "poisson"], dispersion=["gene", "gene-label", "gene-cell"])
@pytest.mark.usefixtures("latents_are_means")
def test_denoised_draws_are_gamma_around_the_mean(name: str, dispersion: str) -> None:
    model, mb, n_samples = model_of(name, dispersion=dispersion), cells(), 3000
    mean, theta, _ = parameters(model, mb)
    mean = 1000 * mean / mean.sum(1, keepdims=True)
    blocks = predictive.denoised(model, [mb], Wanted(n_samples=n_samples), 1000.0, generator())
    x = predictive.in_one_array(blocks, N, n_samples).astype(np.float64)
    if name == "poisson":
        np.testing.assert_allclose(x, np.broadcast_to(mean[..., None], x.shape), rtol=1e-4)
        return
    variance = mean**2 / theta
    assert np.abs((x.mean(2) - mean) / np.sqrt(variance / n_samples)).max() < 5
    np.testing.assert_allclose((x.var(2) / variance).mean(), 1, atol=0.05)


def test_draws_are_of_the_posterior_and_not_of_its_mean() -> None:
    """Their variance is that of the likelihood and that of its mean over the posterior."""
    model, mb = model_of("poisson"), cells()
    with torch.no_grad():
        q = model.latent(mb)
        z = q.z.loc + q.z.scale * torch.randn(3000, *q.z.loc.shape, generator=generator(1))
        rate = model.generative(z, q.mean_size(mb), mb).genes.rate.double().numpy()
    x = drawn(model, 3000)
    np.testing.assert_allclose((x.var(2) / (rate.mean(0) + rate.var(0))).mean(), 1, atol=0.06)
    assert (rate.var(0) / rate.mean(0)).mean() > 0.15  # so that the posterior's share is seen


def test_counts_without_dropout() -> None:
    model = model_of("zinb")
    with_dropout, without = (
        predictive.in_one_array(predictive.counts(model, [cells()], Wanted(n_samples=50), generator(), flag), N, 50)
        for flag in (True, False)
    )
    assert (with_dropout <= without).all()
    assert (with_dropout == 0).mean() > (without == 0).mean() + 0.1


@pytest.mark.parametrize("log_theta", [-200.0, 200.0])
@pytest.mark.usefixtures("latents_are_means")
def test_dispersions_beyond_float32(log_theta: float) -> None:
    """Their limits: hardly a count, or Poisson counts."""
    model = model_of("nb")
    model.px_r.data.fill_(log_theta)
    x, (mean, *_) = drawn(model, 400), parameters(model, cells())
    assert np.isfinite(x).all()
    if log_theta < 0:
        assert (x == 0).mean() > 0.999
    else:
        np.testing.assert_allclose((x.var(2) / mean).mean(), 1, atol=0.05)


# ---- blocks, cells, genes --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("latents_are_means")
def test_blocks_of_draws_and_minibatches_come_to_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    model, minibatches = model_of("nb"), [cells(i, n) for i, n in enumerate((3, 5, 1))]
    monkeypatch.setattr("scvi.models.base._MAX_ELEMENTS", 2 * 5 * G)
    blocks = list(predictive.counts(model, minibatches, Wanted(n_samples=400), generator()))
    assert max(block.values["genes"].size for block in blocks) <= 2 * 5 * G
    x = predictive.in_one_array(blocks, 9, 400)
    means = np.concatenate([parameters(model, mb)[0] for mb in minibatches])
    assert np.corrcoef(x.mean(2).ravel(), means.ravel())[0, 1] > 0.98
    assert len(np.unique(x.sum((0, 1)))) > 100  # each draw is another
    draws = predictive.SparseDraws()
    for block in blocks:
        draws.add(block)
    found = draws.array(9, G, 400)
    assert found.format == "coo"
    assert found.dtype == np.float32
    assert {coordinate.dtype for coordinate in found.coords} == {np.dtype(np.int32)}
    assert np.array_equal(found.toarray(), x)
    assert np.array_equal(found.sum(axis=2), x.sum(2))


def test_one_draw_is_a_csr_matrix() -> None:
    model, minibatches = model_of("zinb"), [cells(0, 4), cells(1, 3)]
    blocks = list(predictive.counts(model, minibatches, Wanted(), generator()))
    draws = predictive.SparseDraws()
    for block in blocks:
        draws.add(block)
    found = draws.array(7, G, 1)
    assert isinstance(found, sparse.csr_matrix)
    assert found.has_canonical_format
    assert np.array_equal(found.toarray(), predictive.in_one_array(blocks, 7, 1)[:, :, 0])


def test_draws_without_any_count() -> None:
    """Such as of genes that are not expressed."""
    nothing = predictive.Drawn(slice(0, 2), slice(0, 1), {"genes": np.zeros((1, 2, 3), np.float32)})
    draws = predictive.SparseDraws()
    draws.add(nothing)
    assert draws.array(2, 3, 1).toarray().tolist() == [[0.0] * 3] * 2


@pytest.mark.usefixtures("latents_are_means")
@pytest.mark.parametrize("name", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_some_genes_are_drawn_alone(name: str, dispersion: str) -> None:
    model, some = model_of(name, dispersion=dispersion), np.array([7, 0, 7])
    mean, _, lost = (values[:, some] for values in parameters(model, cells()))
    x = drawn(model, 2000, genes=some)
    assert x.shape == (N, 3, 2000)
    np.testing.assert_allclose(x.mean((0, 2)), ((1 - lost) * mean).mean(0), rtol=0.15)


def test_several_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="2 batches to decode in"):
        drawn(model_of("nb"), 2, transform_batch=[0, 1])


def test_the_mode_of_the_model_is_its_own_between_blocks() -> None:
    model = model_of("nb").train()
    blocks = predictive.counts(model, [cells(), cells()], Wanted(n_samples=2), generator())
    for _ in blocks:
        assert model.training
        assert torch.is_grad_enabled()


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_what_is_held_is_a_block_and_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As arrays of numpy, whose allocations tracemalloc sees; draws 64 times as many hold no more."""
    model, n_minibatches, n = model_of("nb"), 15, 100
    model.px_r.data.fill_(-4.0)  # few counts
    monkeypatch.setattr("scvi.models.base._MAX_ELEMENTS", 4 * n * G)
    of_a_block = 4 * n * G * 4

    def minibatches() -> Iterator[Minibatch]:
        return (cells(i, n) for i in range(n_minibatches))

    def peak(n_samples: int) -> tuple[int, int]:
        tracemalloc.start()
        draws = predictive.SparseDraws()
        for block in predictive.counts(model, minibatches(), Wanted(n_samples=n_samples), generator()):
            draws.add(block)
        found = draws.array(n_minibatches * n, G, n_samples)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest, found.data.nbytes * 4

    few, many = peak(2), peak(64)
    assert many[1] > 20 * few[1]
    for highest, answer in (few, many):
        assert highest < 1.3 * answer + 20 * of_a_block
    dense = n_minibatches * n * G * 64 * 4
    assert many[0] < dense / 2


def test_correlations_by_moments_hold_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("nb")
    minibatches = [cells(i, 100) for i in range(20)]
    monkeypatch.setattr("scvi.queries.correlation._BLOCK", 10_000)

    def peak(n_samples: int, kind: Any) -> int:
        tracemalloc.start()
        wanted = Wanted(n_samples=n_samples)
        predictive.correlations(model, lambda: minibatches, wanted, 1000.0, kind, generator())
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    all_draws = 20 * 100 * 40 * G * 4
    peak(1, "pearson"), peak(1, "spearman")  # loads what there is to load
    assert peak(40, "pearson") < all_draws / 2
    assert all_draws < peak(40, "spearman") < 2.3 * all_draws


def test_correlations_of_logarithms() -> None:
    model, mb = model_of("nb"), cells()
    found = predictive.correlations(model, lambda: [mb], Wanted(n_samples=3), 50.0, "pearson", generator(), True)
    blocks = predictive.denoised(model, [mb], Wanted(n_samples=3), 50.0, generator())
    rows = np.concatenate([predictive.side_by_side(block).reshape(-1, G) for block in blocks])
    np.testing.assert_allclose(found, np.corrcoef(np.log1p(rows.astype(np.float64)), rowvar=False), atol=1e-5)


# ---- minified cells --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("latents_are_means")
def test_cells_without_counts_are_drawn_from_what_is_kept() -> None:
    model, mb = model_of("nb"), cells()
    with torch.no_grad():
        kept = model.summary(mb)
    bare = replace(mb, counts=torch.zeros_like(mb.counts), log_size=kept["log_library"], kept=kept)
    assert np.array_equal(drawn(model, 5, bare), drawn(model, 5, mb))
