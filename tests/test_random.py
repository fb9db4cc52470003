"""Seeds, and a context whose random numbers are nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

from scvi._random import seeded

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(3, 4),
    "randn": lambda: torch.randn((5,), dtype=torch.float64),
    "randint": lambda: torch.randint(9, (7,)),
    "randint from": lambda: torch.randint(3, 9, (7,)),
    "randperm": lambda: torch.randperm(8),
    "uniform_": lambda: torch.rand(3) + torch.zeros(3).uniform_(),
    "normal_": lambda: torch.empty(5).normal_(1.0, 2.0),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "gamma": lambda: torch._standard_gamma(torch.ones(4)),
    "gamma of torch's distributions": lambda: torch.distributions.Gamma(2.0, torch.ones(3)).rsample(),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "linear": lambda: nn.Linear(3, 4).weight.detach(),
    "embedding": lambda: nn.Embedding(3, 4).weight.detach(),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(5)),
    "kaiming": lambda: nn.init.kaiming_normal_(torch.empty(3, 3)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_are_those_of_the_global_generator(draw: Callable[[], Tensor]) -> None:
    before = torch.get_rng_state()
    torch.manual_seed(7)
    expected = draw(), draw()
    torch.set_rng_state(before)
    with seeded(7):
        found = draw(), draw()
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(*expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", [nn.functional.dropout, nn.functional.alpha_dropout, nn.Dropout()])
def test_a_draw_that_cannot_be_given_a_generator_is_refused(draw: Callable[..., Tensor]) -> None:
    before = torch.get_rng_state()
    with seeded(0), pytest.raises(RuntimeError, match="dropout draws from torch's global generator and can be given"):
        draw(torch.ones(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_of_torch_stay_as_they_are() -> None:
    with seeded(0), pytest.raises(TypeError, match="randn"):
        torch.randn("text")


def test_a_generator_that_is_given_is_kept() -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    with seeded(0):
        assert torch.equal(torch.rand(3, generator=torch.Generator().manual_seed(4)), expected)


def test_other_threads_do_not_notice() -> None:
    turn = Barrier(2, timeout=30)

    def inside() -> Tensor:
        with seeded(3):
            first = torch.rand(2)
            turn.wait()  # the other draws now
            turn.wait()
            return torch.cat([first, torch.rand(2)])

    expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
    here = torch.Generator()
    here.set_state(torch.get_rng_state())
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(inside)
        turn.wait()
        assert torch.equal(torch.rand(5), torch.rand(5, generator=here))
        turn.wait()
        assert torch.equal(result.result(), expected)
