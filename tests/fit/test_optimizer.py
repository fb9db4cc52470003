"""One pass of clipping and Adam, against torch's own, and the way that waits for no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from scvi.fit.optimizer import ClippedAdam
from scvi.fit.scope import Columns
from scvi.kernels.moments import Rule, adam_step

Step = Callable[[ClippedAdam, Tensor], Tensor]


def compiled(optimizer: ClippedAdam, loss: Tensor) -> Tensor:
    return optimizer.clipped_step(loss)


def on_a_device(optimizer: ClippedAdam, loss: Tensor) -> Tensor:
    with torch.no_grad():
        rule = Rule(optimizer.lr, optimizer.eps, optimizer.max_norm, optimizer.decoupled)
        return adam_step(optimizer.moments, range(len(optimizer.parameters)), loss, rule)


STEPS = pytest.mark.parametrize("step", [compiled, on_a_device])


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def parameters() -> list[nn.Parameter]:
    """Small and large, and one laid out column by column."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(7,), (300, 200), (64, 32)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[2] = tensors[2].t()
    return [nn.Parameter(t) for t in tensors]


def slopes(number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + number)
    return [torch.randn(p.shape, generator=generator) for p in parameters()]


@STEPS
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_penalty_that_is_taken_off_the_weights(step: Step, weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = ClippedAdam(ours, 0.01, 1e-8, weight_decay, None, undecayed=ours[:1], decoupled=True)
    groups = [{"params": theirs[1:]}, {"params": theirs[:1], "weight_decay": 0.0}]
    expected = torch.optim.AdamW(groups, lr=0.01, eps=1e-8, weight_decay=weight_decay)
    for number in range(5):
        for p, q, g in zip(ours, theirs, slopes(number), strict=True):
            p.grad, q.grad = torch.empty_like(p).copy_(g), g.clone()
        assert bool(step(optimizer, torch.tensor(1.0)))
        expected.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("three_threads")
@STEPS
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [None, 1.0, 1e6])
def test_steps_are_those_of_torch(step: Step, max_norm: float | None, weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = ClippedAdam(ours, 0.01, 1e-8, weight_decay, max_norm)
    expected = torch.optim.Adam(theirs, lr=0.01, eps=1e-8, weight_decay=weight_decay)
    for number in range(5):
        optimizer.forget_gradients()
        for p, q, g in zip(ours, theirs, slopes(number), strict=True):
            p.grad, q.grad = torch.empty_like(p).copy_(g), g.clone()
        torch.nn.utils.clip_grad_norm_(theirs, math.inf if max_norm is None else max_norm)
        assert bool(step(optimizer, torch.tensor(1.0)))
        expected.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    for i, q in enumerate(theirs):
        for name, value in expected.state[q].items():
            torch.testing.assert_close(optimizer.tensors()[f"{i}.{name}"], value, rtol=1e-4, atol=1e-7)


@STEPS
def test_the_penalty_is_not_for_all(step: Step) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = ClippedAdam(ours, 0.01, 1e-8, 0.1, 1.0, undecayed=[ours[1]])
    groups = [{"params": [theirs[0], theirs[2]]}, {"params": [theirs[1]], "weight_decay": 0.0}]
    expected = torch.optim.Adam(groups, lr=0.01, eps=1e-8, weight_decay=0.1)
    for number in range(3):
        for p, q, g in zip(ours, theirs, slopes(number), strict=True):
            p.grad, q.grad = torch.empty_like(p).copy_(g), g.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        assert bool(step(optimizer, torch.tensor(1.0)))
        expected.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("given", [[0, 1, 2], [0, 2]])
def test_gradients_side_by_side_make_the_same_step(given: list[int]) -> None:
    """As who adds up the gradients of several processes leaves them; a parameter without a gradient stays."""
    separate, together = parameters(), parameters()
    a, b = (ClippedAdam(some, 0.01, 1e-8, 0.1, 1.0) for some in (separate, together))
    for number in range(3):
        for optimizer in (a, b):
            optimizer.forget_gradients()
            for i in given:
                optimizer.parameters[i].grad = torch.empty_like(optimizer.parameters[i]).copy_(slopes(number)[i])
        flat = b.flat_gradient()
        assert flat is b.flat_gradient()
        assert flat.is_contiguous()
        total = sum(float(slopes(number)[i].sum()) for i in given)
        assert float(flat.sum()) == pytest.approx(total, rel=1e-4, abs=1e-3)
        flat *= 2.0
        for i in given:
            a.parameters[i].grad *= 2.0
        a.clipped_step(torch.tensor(1.0))
        b.clipped_step(torch.tensor(1.0))
    assert all(torch.equal(p, q) for p, q in zip(separate, together, strict=True))
    assert torch.equal(together[1], parameters()[1]) == (1 not in given)


def test_other_numbers_than_float32_are_refused() -> None:
    with pytest.raises(ValueError, match=r"some are torch\.float64 on cpu"):
        ClippedAdam([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())], 0.1, 1e-8)


def test_a_part_of_other_numbers_is_refused() -> None:
    """A step would change what lies between its rows."""
    whole = torch.ones(3, 4)
    with pytest.raises(ValueError, match="row by row or column by column in memory, some are parts of others"):
        ClippedAdam([nn.Parameter(whole[:, :2])], 0.1, 1e-8)
    assert ClippedAdam([nn.Parameter(whole[:2])], 0.1, 1e-8).parameters


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no parameters to fit: none of them asks for a gradient"):
        ClippedAdam([], 0.1, 1e-8)


@STEPS
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_no_step_is_taken_where_something_is_not_finite(step: Step, fault: str) -> None:
    given = parameters()
    optimizer = ClippedAdam(given, 0.01, 1e-8, 0.1, 1.0)
    for p, g in zip(given, slopes(0), strict=True):
        p.grad = torch.empty_like(p).copy_(g)
    loss = torch.tensor(math.nan if fault == "loss" else 1.0)
    if fault == "gradient":
        given[1].grad[3, 3] = math.inf
    assert not bool(step(optimizer, loss))
    for p, before in zip(given, parameters(), strict=True):
        assert torch.equal(p, before)
    assert not any(state.any() for state in optimizer.tensors().values())


def test_parameters_may_come_late_stay_away_or_move_in_memory() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = ClippedAdam(ours, 0.01, 1e-8)
    expected = torch.optim.Adam(theirs, lr=0.01, eps=1e-8)
    before = [p.detach().clone() for p in ours]
    assert bool(optimizer.clipped_step(torch.tensor(0.0)))
    assert all(torch.equal(p, q) for p, q in zip(ours, before, strict=True))
    for number, chosen in enumerate([(0, 1), (0, 2), (0, 1, 2), (0, 1, 2)]):
        optimizer.forget_gradients()
        expected.zero_grad()
        if number == 3:
            ours[1].data = ours[1].data.clone()
        for i in chosen:
            gradient = slopes(number)[i]
            ours[i].grad, theirs[i].grad = torch.empty_like(ours[i]).copy_(gradient), gradient
        optimizer.clipped_step(torch.tensor(0.0))
        expected.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_graph_from_before_a_step_is_refused() -> None:
    (p,) = given = [nn.Parameter(torch.ones(3))]
    optimizer = ClippedAdam(given, 0.01, 1e-8)
    loss = p.square().sum()
    loss.backward(retain_graph=True)
    optimizer.clipped_step(loss)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_that_was_saved_row_by_row_goes_on_the_same() -> None:
    whole, first = parameters(), parameters()
    a, b = ClippedAdam(whole, 0.01, 1e-8), ClippedAdam(first, 0.01, 1e-8)

    def steps(optimizer: ClippedAdam, numbers: range) -> None:
        for number in numbers:
            for p, g in zip(optimizer.parameters, slopes(number), strict=True):
                p.grad = g
            optimizer.clipped_step(torch.tensor(0.0))

    steps(a, range(4))
    steps(b, range(2))
    saved = {name: value.contiguous().clone() for name, value in b.tensors().items()}
    other = [nn.Parameter(p.detach().clone()) for p in first]
    c = ClippedAdam(other, 0.01, 1e-8)
    c.load(saved)
    steps(c, range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(whole, other, strict=True))


def test_columns_are_stepped_as_if_they_were_all_there_is() -> None:
    """Neither clipping, nor momentum, nor the L2 penalty sees the rest, which keeps its bits, whatever its gradient."""
    mask = torch.tensor([False, True] * 16)
    whole = nn.Parameter(torch.randn(32, 100, generator=torch.Generator().manual_seed(0)).t())
    start, part = whole.detach().clone(), nn.Parameter(whole.detach()[:, mask].clone())
    ours = ClippedAdam([], 0.01, 1e-8, 0.1, 1.0, columns=[Columns(whole, mask)])
    theirs = torch.optim.Adam([part], lr=0.01, eps=1e-8, weight_decay=0.1)
    for number in range(4):
        gradient = torch.randn(100, 32, generator=torch.Generator().manual_seed(number))
        ours.forget_gradients()
        assert whole.grad is None
        whole.grad, part.grad = gradient, gradient[:, mask]
        torch.nn.utils.clip_grad_norm_([part], 1.0)
        ours.clipped_step(torch.tensor(1.0))
        theirs.step()
    torch.testing.assert_close(whole[:, mask], part, rtol=1e-4, atol=1e-6)
    assert torch.equal(whole[:, ~mask], start[:, ~mask])
    unpenalised = ClippedAdam([], 0.01, 1e-8, 0.1, None, [whole], [Columns(whole, mask)])
    assert unpenalised.moments.decay == [0.0]
    before = whole.detach().clone()
    whole.grad = torch.full_like(whole, torch.nan)
    assert not ours.clipped_step(torch.tensor(1.0))
    assert torch.equal(whole, before)
