"""NegativeBinomial and ZeroInflatedNegativeBinomial: densities, moments, draws, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

import oracles
from scvi.models import distributions
from scvi.models.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from scvi.models.log_likelihood import log_nb_positive, log_zinb_positive


def parameters(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mu, theta, pi = (2 * normal()).exp(), normal().exp(), 2 * normal()
    return torch.poisson(mu, generator=generator), mu, theta, pi


def test_poisson_is_torchs() -> None:
    assert distributions.Poisson is torch.distributions.Poisson


def test_log_prob_is_the_log_function() -> None:
    x, mu, theta, pi = parameters(20, 30)
    nb, zinb = NegativeBinomial(mu=mu, theta=theta), ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=pi)
    assert torch.allclose(nb.log_prob(x), log_nb_positive(x, mu, theta), rtol=0, atol=1e-8)
    assert torch.allclose(zinb.log_prob(x), log_zinb_positive(x, mu, theta, pi), rtol=0, atol=1e-8)


def test_densities_against_scipy() -> None:
    x, mu, theta, pi = parameters(20, 30)
    scipy_nb = stats.nbinom(theta.numpy(), (theta / (theta + mu)).numpy())
    expected = torch.from_numpy(scipy_nb.logpmf(x.numpy()))
    assert torch.allclose(NegativeBinomial(mu=mu, theta=theta).log_prob(x), expected, rtol=1e-6, atol=1e-6)
    zinb = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=pi).log_prob(x)
    assert torch.allclose(zinb, torch.from_numpy(oracles.log_zinb(x, mu, theta, pi)), rtol=1e-9, atol=1e-9)


def test_probabilities_sum_to_one() -> None:
    counts = torch.arange(3000.0, dtype=torch.float64)[:, None]
    _, mu, theta, pi = parameters(1, 8)
    mu = mu.clamp(max=20)
    for p in (
        NegativeBinomial(mu=mu, theta=theta + 1),
        ZeroInflatedNegativeBinomial(mu=mu, theta=theta + 1, zi_logits=pi),
    ):
        assert torch.allclose(p.log_prob(counts).exp().sum(0), torch.ones(8, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("form", ["probs", "logits"])
def test_counts_and_logits(form: str) -> None:
    x, _, total, logits = parameters(6, 5)
    given = {"logits": logits} if form == "logits" else {"probs": torch.sigmoid(logits)}
    ours, theirs = NegativeBinomial(total_count=total, **given), TorchNegativeBinomial(total, **given)
    assert torch.allclose(ours.mu, theirs.mean)
    assert torch.equal(ours.theta, total)
    assert torch.allclose(ours.log_prob(x), theirs.log_prob(x), atol=1e-6)


def test_logits_win_over_probabilities() -> None:
    p = NegativeBinomial(total_count=torch.tensor(2.0), probs=torch.tensor(0.9), logits=torch.tensor(0.0))
    assert p.mu == 2.0


def test_conversions() -> None:
    _, mu, theta, _ = parameters(6, 5)
    total, logits = distributions._convert_mean_disp_to_counts_logits(mu, theta, eps=0.0)
    assert total is theta
    back_mu, back_theta = distributions._convert_counts_logits_to_mean_disp(total, logits)
    assert torch.allclose(back_mu, mu)
    assert back_theta is theta
    _, shifted = distributions._convert_mean_disp_to_counts_logits(mu, theta)
    assert torch.allclose(shifted, torch.log(mu + 1e-6) - torch.log(theta + 1e-6))
    with pytest.raises(AssertionError):
        distributions._convert_mean_disp_to_counts_logits(mu, None)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mu": 1.0, "theta": 1.0, "total_count": 1.0, "probs": 0.5},
        {"theta": 1.0},
        {"mu": 1.0},
        {"total_count": 1.0},
        {"mu": -1.0, "theta": 1.0},
        {"mu": 1.0, "theta": -1.0},
        {"mu": float("nan"), "theta": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [NegativeBinomial, ZeroInflatedNegativeBinomial])
def test_wrong_parameters_are_refused(cls: type[NegativeBinomial], given: dict[str, float]) -> None:
    extra = {"zi_logits": torch.zeros(2)} if cls is ZeroInflatedNegativeBinomial else {}
    with pytest.raises(ValueError, match=r"\w"):
        cls(**{name: torch.full((2,), value) for name, value in given.items()}, **extra)


def test_wrong_inflation_is_refused() -> None:
    with pytest.raises(ValueError, match="zi_logits"):
        ZeroInflatedNegativeBinomial(mu=torch.ones(2), theta=torch.ones(2))
    with pytest.raises(ValueError, match="zi_logits"):
        ZeroInflatedNegativeBinomial(mu=torch.ones(2), theta=torch.ones(2), zi_logits=torch.full((2,), torch.nan))


def test_validation_can_be_switched_off() -> None:
    p = NegativeBinomial(mu=torch.tensor([torch.nan]), theta=torch.ones(1), validate_args=False)
    assert p.mu.isnan().all()
    one = torch.ones(1, 1)
    assert NegativeBinomial(mu=one, theta=one, validate_args=False).log_prob(one / 2).isfinite().all()  # and no warning


@pytest.mark.parametrize("value", [-1.0, 0.5], ids=str)
def test_values_that_are_no_counts_warn(value: float) -> None:
    nb = NegativeBinomial(mu=torch.ones(1, 2), theta=torch.ones(1, 2))
    zinb = ZeroInflatedNegativeBinomial(
        mu=torch.ones(1, 2), theta=torch.ones(1, 2), zi_logits=torch.zeros(1, 2), validate_args=False
    )
    for p in (nb, zinb):
        with pytest.warns(UserWarning, match="The value argument must be within the support of the distribution"):
            p.log_prob(torch.tensor([[1.0, value]]))


def test_broadcasting() -> None:
    mu, theta, pi = torch.ones(3, 4, 5), torch.ones(5), torch.zeros(4, 5)
    zinb = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=pi)
    assert zinb.mu.shape == zinb.theta.shape == zinb.zi_logits.shape == zinb.batch_shape == (3, 4, 5)
    assert zinb.log_prob(torch.zeros(4, 5)).shape == (3, 4, 5)
    assert NegativeBinomial(mu=mu, theta=torch.ones(4, 5)).log_prob(torch.zeros(4, 5)).shape == (3, 4, 5)
    assert torch.allclose(zinb.zi_probs, torch.full((3, 4, 5), 0.5))


@pytest.mark.parametrize("inflated", [False, True])
def test_draws_have_the_right_moments(inflated: bool) -> None:
    torch.manual_seed(0)
    mu, theta = torch.tensor([[0.3, 4.0, 50.0]]), torch.tensor([[0.5, 3.0, 1000.0]])
    pi = torch.tensor([[-1.0, 0.5, 0.0]])
    p = (
        ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=pi)
        if inflated
        else NegativeBinomial(mu=mu, theta=theta)
    )
    n = 200_000
    draws = p.sample((n,))
    assert draws.shape == (n, 1, 3)
    assert torch.equal(draws, draws.round())
    assert (draws >= 0).all()
    standard_error = (p.variance / n).sqrt()
    assert ((draws.mean(0) - p.mean).abs() < 5 * standard_error).all()
    assert torch.allclose(draws.var(0), p.variance, rtol=0.05)
    zeros = (draws == 0).float().mean(0)
    assert torch.allclose(zeros, p.log_prob(torch.zeros(1, 3)).exp(), atol=5e-3)


def test_draws_carry_no_gradient() -> None:
    mu = torch.ones(2, 3, requires_grad=True)
    p = ZeroInflatedNegativeBinomial(mu=mu, theta=torch.ones(3), zi_logits=torch.zeros(3))
    assert p.sample().shape == (2, 3)
    assert not p.sample((4,)).requires_grad


def test_mean_zero_draws_zero() -> None:
    p = NegativeBinomial(mu=torch.zeros(2, 3), theta=torch.ones(2, 3))
    assert torch.equal(p.sample((5,)), torch.zeros(5, 2, 3))
