"""Dropout from a generator: torch's numbers, in this thread alone, on every path of a hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from scvi.kernels import dropout, dropout_from, hidden_layer
from scvi.models.layers import FCLayers


def layers(dtype: torch.dtype = torch.float32, resting: bool = False) -> Callable[[Tensor], Tensor]:
    """Two hidden layers in training; `resting`: their batch norm is not."""
    made = FCLayers(6, 6, n_layers=2, n_hidden=6, dropout_rate=0.5).to(dtype)
    for module in made.modules():
        if resting and isinstance(module, nn.BatchNorm1d):
            module.eval()
    return lambda x: made(x.to(dtype))


LINEAR = nn.Linear(6, 6)
PATHS: dict[str, Callable[[Tensor], Tensor]] = {
    "compiled": lambda x: hidden_layer(x, LINEAR, nn.BatchNorm1d(6), 0.5),
    "torch operations": lambda x: hidden_layer(x.double(), deepcopy(LINEAR).double(), nn.BatchNorm1d(6).double(), 0.5),
    "alone": lambda x: dropout(x, 0.5),
    "layers": layers(),
    "layers of float64": layers(torch.float64),
    "layers with resting batch norm": layers(resting=True),
}
EACH = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
X = torch.linspace(-1, 2, 60).view(10, 6).sin()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@EACH
def test_the_numbers_are_those_of_the_global_generator(path: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(5)
    expected = path(X)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    with dropout_from(torch.Generator().manual_seed(5)):
        assert torch.equal(path(X), expected)
        assert not torch.equal(path(X), expected)
    assert torch.equal(torch.get_rng_state(), before)


@EACH
def test_without_one_it_follows_the_global_seed(path: Callable[[Tensor], Tensor]) -> None:
    before = torch.get_rng_state()
    with dropout_from(torch.Generator()), dropout_from(None):
        path(X)
    assert not torch.equal(torch.get_rng_state(), before)


def test_it_holds_in_this_thread_only() -> None:
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    with dropout_from(generator), ThreadPoolExecutor(1) as pool:
        pool.submit(PATHS["compiled"], X).result()
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_gradient_goes_where_nothing_was_dropped() -> None:
    x = torch.ones(400, requires_grad=True)
    with dropout_from(torch.Generator().manual_seed(0)):
        out = dropout(x, 0.25)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    assert out[out != 0].tolist() == pytest.approx([4 / 3] * int((out != 0).sum()))
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.08)


def test_what_is_no_number_stays_none_and_no_rate_drops_nothing() -> None:
    with dropout_from(torch.Generator().manual_seed(0)):
        assert bool(dropout(torch.full((9,), torch.nan), 0.5).isnan().all())
        assert torch.equal(dropout(X, 0.0), X)
