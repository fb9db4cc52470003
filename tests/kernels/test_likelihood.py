"""The count likelihoods against float64 oracles: compiled (numba) and in torch operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles
from grids import each_of
from scvi import kernels
from scvi.kernels import twin
from scvi.kernels.fused import count_nll
from scvi.kernels.rows import SparseRows

Nll = Callable[..., Tensor]

MODELS = ("poisson", "nb", "zinb")
DENSITIES = {"poisson": twin.log_poisson, "nb": twin.log_nb, "zinb": twin.log_zinb}
DOORS = {"poisson": kernels.nll_poisson, "nb": kernels.nll_nb, "zinb": kernels.nll_zinb}
INPUTS = ("logits", "log_library", "log_theta", "dropout")


def compiled(x: Tensor, logits: Tensor, library: Tensor, theta: Tensor | None, pi: Tensor | None) -> Tensor:
    return count_nll(SparseRows.of(x), logits, library, theta, pi, 1.0)


def in_torch(x: Tensor, *parameters: Tensor | None) -> Tensor:
    given = [p for p in parameters if p is not None]
    return -DENSITIES[MODELS[len(given) - 2]](x, *given).sum(-1)


PATHS = pytest.mark.parametrize("nll", [compiled, in_torch])


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Problem:
    """Float32 inputs of one likelihood, and what the oracle makes of the very same numbers."""

    def __init__(
        self,
        model: str,
        x: np.ndarray,
        logits: np.ndarray,
        log_library: np.ndarray,
        log_theta: np.ndarray,
        dropout: np.ndarray,
        weight: np.ndarray | float = 1.0,
    ) -> None:
        self.x = np.asarray(x, np.float32)
        n_parameters = 2 + MODELS.index(model)
        arrays = (logits, log_library, log_theta, dropout)[:n_parameters]
        self.parameters = [np.asarray(a, np.float32) for a in arrays] + [None] * (4 - n_parameters)
        self.weight = np.broadcast_to(np.asarray(weight, np.float32), np.shape(logits)[:-1])
        self.expected = oracles.row_loss(self.x, *self.parameters, weight=self.weight)

    def evaluate(self, nll: Nll, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the gradients of its weighted sum."""
        parameters = [None if p is None else torch.tensor(p, dtype=dtype, requires_grad=True) for p in self.parameters]
        loss = nll(torch.tensor(self.x, dtype=dtype), *parameters)
        loss.backward(torch.tensor(self.weight, dtype=dtype))
        gradients = {name: p.grad for name, p in zip(INPUTS, parameters, strict=True) if p is not None}
        return loss.detach(), gradients

    def check(self, nll: Nll, dtype: torch.dtype = torch.float32, accuracy: float = 1e-5, floor: float = 1e-7) -> None:
        loss, gradients = self.evaluate(nll, dtype)
        assert_close(loss, self.expected.nll, accuracy, "nll", floor)
        for name, gradient in gradients.items():
            assert_close(gradient, getattr(self.expected, name), accuracy, f"d/d {name}", floor)


def assert_close(got: Tensor, expected: oracles.Sized, accuracy: float, what: str, floor: float = 1e-7) -> None:
    value = got.double().numpy()
    assert value.shape == expected.value.shape, what
    assert np.isfinite(value).all(), what
    # The floor lets numbers pass that no optimiser could tell from zero (products of many tiny factors).
    excess = np.abs(value - expected.value) / (expected.size + floor)
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= accuracy, (
        f"{what}{list(map(int, worst))}: {value[worst]!r} for {expected.value[worst]!r}, off by {excess[worst]:.2e} "
        f"of the terms' sum {expected.size[worst]:.3e}"
    )


def random_problem(model: str, rng: np.random.Generator, shape: tuple[int, ...], per_cell: bool = False) -> Problem:
    """Counts as in an experiment (mostly zeros, some in the thousands), n cells = shape[-2], g genes = shape[-1]."""
    *draws, n, g = shape
    frequency = rng.lognormal(0, 2.5, size=g)
    x = rng.poisson(rng.gamma(0.4, size=(n, g)) * frequency)
    return Problem(
        model,
        x,
        logits=rng.normal(np.log(frequency), 1.5, size=shape),
        log_library=rng.normal(np.log(x.sum(1, keepdims=True) + 1.0), 0.3, size=(*draws, n, 1)),
        log_theta=rng.normal(0, 2.5, size=shape if per_cell else g),
        dropout=rng.normal(-1, 3, size=shape),
        weight=rng.normal(size=shape[:-1]),
    )


# --- the oracle itself ------------------------------------------------------------------------------------------------


def test_oracle_is_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        x = int(rng.choice([0, 0, 1, 2, 7, 100, 10**4, 10**6]))
        log_mu, log_theta = rng.uniform(np.log([1e-8, 1e-4]), np.log([1e6, 1e6]))
        dropout = rng.uniform(-30, 30)
        pairs = [
            (oracles.negative_binomial(x, log_mu, log_theta), oracles.exact_nb(x, log_mu, log_theta)),
            (
                oracles.zero_inflated_negative_binomial(x, log_mu, log_theta, dropout),
                oracles.exact_zinb(x, log_mu, log_theta, dropout),
            ),
        ]
        for density, exact in pairs:
            for name, value in exact.items():
                number = getattr(density, name)
                assert abs(float(value - float(number.value))) <= 1e-11 * float(number.size), (name, x, log_mu)


def test_oracle_gradients_are_derivatives() -> None:
    rng = np.random.default_rng(1)
    problem = random_problem("zinb", rng, (3, 4))
    step = 1e-5
    for name, parameter in zip(INPUTS, problem.parameters, strict=True):
        slope = getattr(problem.expected, name).value
        for position in np.ndindex(parameter.shape):
            sides = []
            for sign in (1, -1):
                moved = [p.astype(np.float64) for p in problem.parameters]
                moved[INPUTS.index(name)][position] += sign * step
                sides.append((problem.weight * oracles.row_loss(problem.x, *moved).nll.value).sum())
            assert slope[position] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-6)


# --- accuracy ---------------------------------------------------------------------------------------------------------

COUNTS = (0, 1, 2, 3, 4, 5, 8, 20, 100, 999, 10**4, 10**5, 10**6)
FRACTIONS = (1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1.001, 1.5, 2.5, 3.0005, 3.25, 7.75, 99.5, 12345.25, 10**5 + 0.5)
"""Counts that are estimates."""
LOG_MEANS = np.linspace(np.log(1e-8), np.log(1e6), 21)
LOG_THETAS = np.linspace(np.log(1e-4), np.log(1e6), 21)
DROPOUTS = (-30.0, -12.0, -4.0, -0.7, 0.0, 0.3, 5.0, 14.0, 30.0)


@each_of(nll=[compiled, in_torch], model=MODELS, counts=[COUNTS, FRACTIONS])
def test_every_entry_of_the_range_of_training(nll: Nll, model: str, counts: tuple[float, ...]) -> None:
    # With one gene the softmax is 1, so each row shows one entry of the density: mu = exp(log_library).
    grid = {
        "poisson": product(counts, LOG_MEANS, [0.0], [0.0]),
        "nb": product(counts, LOG_MEANS, LOG_THETAS, [0.0]),
        "zinb": product(counts, LOG_MEANS, LOG_THETAS, DROPOUTS),
    }[model]
    x, log_mu, log_theta, dropout = np.array(list(grid)).T[..., None]
    # Fractions near 0 and 1 add next to nothing, as the difference of terms of about 1.
    floor = 1e-7 if counts is COUNTS else 1.0
    Problem(model, x, np.full_like(x, 0.5), log_mu, log_theta, dropout).check(nll, floor=floor)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=20),
    log_mu=st.floats(-10, 10),
    log_theta=st.floats(-6, 6),
    dropout=st.floats(-10, 10),
)
def test_densities_of_estimated_counts(x: list[float], log_mu: float, log_theta: float, dropout: float) -> None:
    """Those of scipy's functions, entry by entry, for any x from 0 on: compiled, and in torch at both precisions."""
    counts = np.array(x)[:, None]
    ones = np.ones_like(counts)
    counts[counts < 1e-30] = 0  # what is no normal number of float32
    for model in MODELS:
        problem = Problem(model, counts, 0 * ones, log_mu * ones, log_theta * ones, dropout * ones)
        problem.check(compiled, floor=1.0)
        problem.check(in_torch, floor=1.0)
        problem.check(in_torch, torch.float64, accuracy=1e-9, floor=1.0)


@each_of(
    nll=[compiled, in_torch],
    model=MODELS,
    shape=[(1, 2), (7, 40), (50, 300), (3, 9, 33), (2, 2, 4, 5)],
    per_cell=[False, True],
)
def test_rows(nll: Nll, model: str, shape: tuple[int, ...], per_cell: bool) -> None:
    random_problem(model, np.random.default_rng(3), shape, per_cell).check(nll)


@PATHS
@pytest.mark.parametrize("model", MODELS)
def test_rows_over_the_whole_range(nll: Nll, model: str) -> None:
    rng = np.random.default_rng(4)
    n, g = 40, 200
    logits = rng.uniform(np.log(1e-8), np.log(1e6), size=(n, g))
    Problem(
        model,
        x=rng.choice(COUNTS, size=(n, g)),
        logits=logits,
        log_library=np.logaddexp.reduce(logits, axis=1)[:, None],
        log_theta=rng.uniform(np.log(1e-4), np.log(1e6), size=g),
        dropout=rng.uniform(-30, 30, size=(n, g)),
        weight=rng.uniform(0.1, 1, size=n),
    ).check(nll)


@pytest.mark.parametrize("model", MODELS)
def test_long_rows(model: str) -> None:
    random_problem(model, np.random.default_rng(5), (3, 20_000)).check(compiled)


@pytest.mark.parametrize("model", MODELS)
def test_twin_in_double_precision_is_exact(model: str) -> None:
    rng = np.random.default_rng(6)
    random_problem(model, rng, (3, 9, 33)).check(in_torch, torch.float64, accuracy=1e-9)


@each_of(model=MODELS, factor=[1.0, 0.83])
def test_gradcheck(model: str, factor: float) -> None:
    problem = random_problem(model, np.random.default_rng(7), (2, 3, 4), per_cell=True)
    problem.x *= np.float32(factor)
    parameters = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in problem.parameters if p is not None]
    x = torch.tensor(problem.x, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *p: DOORS[model](x, *p), parameters)


# --- no NaN, whatever comes -------------------------------------------------------------------------------------------

EXTREMES = {
    "far beyond": {"logits": 100.0, "log_library": 40.0, "log_theta": 40.0, "dropout": 300.0},
    "theta 1e-8 to 1e8": {"logits": 10.0, "log_library": 14.0, "log_theta": 18.5, "dropout": 30.0},
    "large logits": {"logits": 1e4, "log_library": 10.0, "log_theta": 3.0, "dropout": 1e4},
}


@PATHS
@each_of(model=MODELS, extreme=EXTREMES)
def test_finite_beyond_the_range(nll: Nll, model: str, extreme: str) -> None:
    rng = np.random.default_rng(8)
    n, g = 60, 50
    sizes = EXTREMES[extreme]

    def corner(name: str, *shape: int) -> np.ndarray:
        return sizes[name] * rng.choice([-1, -0.9, -0.1, 0, 0.1, 0.9, 1], size=shape)

    x = rng.choice([0, 0, 0, 1, 2, 1000, 10**6], size=(n, g))
    x[:5] = 0
    problem = Problem(
        model,
        x,
        corner("logits", n, g),
        corner("log_library", n, 1),
        corner("log_theta", n, g),
        corner("dropout", n, g),
    )
    loss, gradients = problem.evaluate(nll)
    assert loss.isfinite().all()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name


@PATHS
@pytest.mark.parametrize("broken", INPUTS)
def test_not_a_number_shows(nll: Nll, broken: str) -> None:
    problem = random_problem("zinb", np.random.default_rng(9), (4, 30))
    parameter = problem.parameters[INPUTS.index(broken)]
    parameter[(0,) * parameter.ndim] = np.nan
    loss, _ = problem.evaluate(nll)
    affected = slice(None) if broken == "log_theta" else slice(1)
    assert loss[affected].isnan().all()


# --- the doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_door_takes_the_compiled_path_for_float32_and_torch_otherwise(model: str) -> None:
    problem = random_problem(model, np.random.default_rng(10), (6, 20))
    given = [torch.tensor(p) for p in problem.parameters if p is not None]
    padded = [*given, None, None][:4]
    x = torch.tensor(problem.x)
    assert torch.equal(DOORS[model](x, *given), compiled(x, *padded))
    doubles = [p.double() for p in given]
    assert torch.equal(DOORS[model](x.double(), *doubles), in_torch(x.double(), *doubles))


@pytest.mark.parametrize("model", MODELS)
def test_expected_gradient_is_only_a_shortcut(model: str) -> None:
    problem = random_problem(model, np.random.default_rng(11), (6, 20))
    problem.weight = np.full(6, 0.25, np.float32)
    loss, gradients = problem.evaluate(compiled)
    again, shortcut = problem.evaluate(lambda *args: count_nll(SparseRows.of(args[0]), *args[1:], 0.25))
    assert torch.equal(loss, again)
    for name in gradients:
        assert torch.equal(gradients[name], shortcut[name])


def test_shared_and_repeated_theta_agree() -> None:
    problem = random_problem("nb", np.random.default_rng(12), (5, 12))
    x, logits, library, theta, _ = (None if a is None else torch.tensor(a) for a in (problem.x, *problem.parameters))
    whole = kernels.nll_nb(x, logits, library, theta)
    assert torch.allclose(whole, kernels.nll_nb(x, logits, library, theta.expand(5, 12)), rtol=1e-6)
    draws = kernels.nll_nb(x, logits.expand(3, 5, 12), library, theta.expand(5, 12))
    assert draws.shape == (3, 5)
    assert torch.allclose(draws, whole.expand(3, 5), rtol=1e-6)


def test_layout_of_the_inputs_does_not_matter() -> None:
    problem = random_problem("zinb", np.random.default_rng(13), (6, 8))
    contiguous = [torch.tensor(a) for a in (problem.x, *problem.parameters)]
    strided = [a.t().contiguous().t() if a.dim() == 2 else a for a in contiguous]
    assert torch.equal(kernels.nll_zinb(*strided), kernels.nll_zinb(*contiguous))


def test_inputs_stay_as_they_are() -> None:
    problem = random_problem("zinb", np.random.default_rng(14), (6, 8))
    before = [torch.tensor(a) for a in (problem.x, *problem.parameters)]
    given = [a.clone() for a in before]
    for a in given[1:]:
        a.requires_grad_()
    kernels.nll_zinb(*given).sum().backward()
    for old, new in zip(before, given, strict=True):
        assert torch.equal(old, new.detach())


def test_no_gradient_where_none_is_asked_for() -> None:
    problem = random_problem("zinb", np.random.default_rng(15), (6, 8))
    x, logits, library, theta, dropout = (torch.tensor(a) for a in (problem.x, *problem.parameters))
    assert not kernels.nll_zinb(x, logits, library, theta, dropout).requires_grad
    theta.requires_grad_()
    kernels.nll_zinb(x, logits, library, theta, dropout).sum().backward()
    assert theta.grad is not None
    assert logits.grad is None


def test_two_backward_passes_add_up() -> None:
    problem = random_problem("zinb", np.random.default_rng(16), (6, 8))
    x, *parameters = (torch.tensor(a) for a in (problem.x, *problem.parameters))
    for p in parameters:
        p.requires_grad_()
    loss = kernels.nll_zinb(x, *parameters).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in parameters]
    for times in (2, 3):
        loss.backward(retain_graph=True)
        for p, gradient in zip(parameters, once, strict=True):
            torch.testing.assert_close(p.grad, times * gradient)
    for p in parameters:
        p.grad.zero_()
    loss.backward()
    for p, gradient in zip(parameters, once, strict=True):
        assert torch.equal(p.grad, gradient)


def test_second_derivatives_are_refused_not_wrong() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = kernels.nll_poisson(torch.ones(2, 3), logits, torch.zeros(2, 1)).square().sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (3, 4)], ids=str)
def test_counts_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"counts"):
        kernels.nll_poisson(torch.zeros(shape), torch.zeros(2, 4), torch.zeros(2, 1))


# --- threads and cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_honours_the_number_of_torch_threads(model: str, torch_threads: Callable[[int], None]) -> None:
    problem = random_problem(model, np.random.default_rng(17), (64, 200))
    for n_threads in (1, 2, 3):
        torch_threads(n_threads)
        problem.check(compiled)
        loss, gradients = problem.evaluate(compiled)
        again, repeated = problem.evaluate(compiled)
        assert torch.equal(loss, again)
        for name in gradients:
            assert torch.equal(gradients[name], repeated[name]), name


def test_one_torch_thread_means_one_thread(
    torch_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scvi.kernels import fused

    seen: set[int] = set()

    def noted(*args: object) -> None:
        seen.add(threading.get_ident())
        original(*args)

    original = fused.negative_binomial_rows
    monkeypatch.setattr(fused, "negative_binomial_rows", noted)
    problem = random_problem("zinb", np.random.default_rng(18), (64, 30))
    torch_threads(1)
    problem.evaluate(compiled)
    assert seen == {threading.get_ident()}


def test_many_python_threads_at_once() -> None:
    problem = random_problem("zinb", np.random.default_rng(19), (64, 300))
    expected, _ = problem.evaluate(compiled)
    results: list[list[Tensor]] = [[] for _ in range(6)]

    def work(own: list[Tensor]) -> None:
        own.extend(problem.evaluate(compiled)[0] for _ in range(10))

    workers = [threading.Thread(target=work, args=(own,)) for own in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [len(own) for own in results] == [10] * 6
    assert all(torch.equal(loss, expected) for own in results for loss in own)


def test_compiled_code_is_cached() -> None:
    from scvi.kernels.likelihood import negative_binomial_rows

    random_problem("nb", np.random.default_rng(20), (2, 3)).evaluate(compiled)
    folder = Path(negative_binomial_rows.stats.cache_path)
    assert list(folder.glob("*negative_binomial_rows*.nbi"))


@pytest.mark.parametrize("log_library", [20.0, 40.0, 85.0])
def test_no_count_is_more_than_certain_at_absurd_means(log_library: float) -> None:
    """An untrained library encoder may ask for them; a density above 1 would pass for the best fit."""
    x, logits = torch.full((1, 50), 3.0), torch.zeros(1, 50)
    library, log_theta = torch.full((1, 1), log_library), torch.linspace(-3, 3, 50)
    smaller = kernels.nll_nb(x, logits, library - 5, log_theta)
    assert kernels.nll_nb(x, logits, library, log_theta) >= smaller > 0
    assert kernels.nll_zinb(x, logits, library, log_theta, torch.zeros(1, 50)) > 0
