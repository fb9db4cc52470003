"""What a model has to bring, and what it is given: a toy one of accessibility, outside the family of counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Latent, Model, Moments, batch_codes
from scvi.models.decoded import Decoded, Modality
from scvi.models.layers import FCLayers
from scvi.models.modules import Encoder
from scvi.queries import latent, likelihood
from scvi.queries.expression import Wanted, expected, likelihood_parameters

N, G, D, K = 6, 8, 2, 2  # cells, peaks, latent dimensions, batches


@dataclass(frozen=True)
class Peaks(Modality):
    """Whether peaks are open: Bernoulli."""

    logits: Tensor

    def nll(self, mb: Minibatch, weight: float | Tensor = 1.0, generator: torch.Generator | None = None) -> Tensor:
        is_open = (mb.x > 0).float().expand_as(self.logits)
        return binary_cross_entropy_with_logits(self.logits, is_open, reduction="none").sum(-1)

    def expected(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def parameters(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"probability": self.expected()}


class PeakModel(Model):
    """z ~ Normal(0, I), x ~ Bernoulli(sigmoid(f(z, s)))."""

    def __init__(self, n_input: int, n_batch: int) -> None:
        super().__init__()
        self.n_input, self.n_batch = n_input, n_batch
        self.encoder = Encoder(n_input, D, n_hidden=16, dropout_rate=0.0)
        self.decoder = FCLayers(D, n_input, [n_batch], use_batch_norm=False, use_relu=False, dropout_rate=0.0)

    def generative(self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None) -> Decoded:
        return Decoded(peaks=Peaks(self.decoder(z, *self.categories(mb, batch_codes(mb, batch)))))

    def variational(self, mb: Minibatch) -> Latent:
        return Latent(self.encoder.encode(mb.counts), None)

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        z, log_size, kl = self.variational(mb).draw_with_kl(mb, generator)
        return Elbo(self.generative(z, log_size, mb).nll(mb, 1 / len(mb)), kl)

    def start(self, moments: Moments) -> None:
        with torch.no_grad():
            is_closed = torch.exp(-moments.mean_size * moments.frequencies)  # if counts are about Poisson
            self.decoder.fc_layers[0][0].bias.copy_(torch.logit(1 - is_closed, eps=1e-4))


def make() -> PeakModel:
    torch.manual_seed(0)
    return PeakModel(G, K).eval()


def cells() -> Minibatch:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((N, G), 0.4), generator=generator)
    return Minibatch(SparseRows.of(counts), torch.randint(K, (N, 1), generator=generator), torch.zeros(N, 1).long())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_it_trains() -> None:
    model, mb = make().train(), cells()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(mb).objective()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_its_evidence_is_above_the_elbo() -> None:
    model, mb = make(), cells()
    elbo = np.mean([likelihood.elbo(model, [mb], torch.Generator().manual_seed(i)) for i in range(200)], axis=0)
    assert (likelihood.marginal(model, [mb], 2000, generator()) > elbo).all()
    assert set(likelihood.reconstruction(model, [mb])) == {"peaks"}


def test_draws_of_latent_variables_are_weighed_by_their_density() -> None:
    model, mb = make(), cells()
    with torch.no_grad():
        q = model.variational(mb)
        z, _, log_weights = q.weighted_draws(mb, 5, generator())
        want = log_weights + torch.distributions.Bernoulli(logits=model.decoder(z, mb.batch)).log_prob(
            (mb.x > 0).float()
        ).sum(-1)
        torch.testing.assert_close(model.importance_draws(mb, q, 5, generator()).log_weights, want)


def test_questions_reach_its_modality() -> None:
    model, mb = make(), cells()

    def values(decoded: Decoded) -> dict[str, Tensor]:
        return {"open": decoded["peaks"].expected()}

    both, *each = (
        expected(model, [mb, mb], values, Wanted(transform_batch=batches, n_samples=3), generator())["open"]
        for batches in ([0, 1], [0], [1])
    )
    assert both.shape == (2 * N, G)
    np.testing.assert_allclose(both, np.mean(each, axis=0), rtol=1e-5)
    draws = likelihood_parameters(model, [mb], Wanted(n_samples=3, return_mean=False), generator())
    assert draws["probability"].shape == (3, N, G)
    assert latent.latent(model, [mb]).shape == (N, D)


def test_its_start_and_its_sizes() -> None:
    model = make()
    means = torch.linspace(0.1, 2.0, G)
    model.start(Moments(means / means.sum(), torch.zeros(G), mean_size=float(means.sum())))
    nn.init.zeros_(model.decoder.fc_layers[0][0].weight)
    mb = cells()
    peaks = model.generative(torch.zeros(N, D), torch.zeros(N, 1), mb)["peaks"]
    torch.testing.assert_close(peaks.parameters()["probability"], (1 - torch.exp(-means)).expand(N, G))
    model.check_fits(G, K, 1)
    with pytest.raises(ValueError, match=r"n_input=8 for 9 genes.*n_batch=2 for batch codes up to 2"):
        model.check_fits(G + 1, K + 1, 1)
