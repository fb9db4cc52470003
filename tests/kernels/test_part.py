"""Rows that processes share: here two threads stand for the processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scvi import kernels
from scvi.kernels import Part
from scvi.kernels.part import present_work


class Threads:
    """What two threads know of each other."""

    def __init__(self) -> None:
        self.barrier, self.given = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2


class One:
    """One of them."""

    def __init__(self, number: int, both: Threads) -> None:
        self.number, self.both = number, both

    def sum(self, tensor: Tensor) -> Tensor:
        self.both.given[self.number] = tensor.clone()
        self.both.barrier.wait()
        total = self.both.given[0] + self.both.given[1]
        self.both.barrier.wait()
        return total

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(float(flag))))

    def part_of(self, n_rows: int) -> Part:
        mine = torch.zeros(2, dtype=torch.int64)
        mine[self.number] = n_rows
        ends = self.sum(mine).cumsum(0)
        return Part(torch.arange(n_rows) + int(ends[self.number]) - n_rows, int(ends[-1]))


def in_both(parts: list[Part], work: Callable[[int], list[Tensor]]) -> list[list[Tensor]]:
    """What each thread makes of its part."""
    both = Threads()

    def one(number: int) -> list[Tensor]:
        with kernels.in_part(parts[number], One(number, both)):
            return work(number)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(one, range(2)))


def parts_of(n: int, n_first: int, seed: int) -> list[Part]:
    """Any `n_first` of n rows, and the others."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [Part(order[:n_first], n), Part(order[n_first:], n)]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 9), st.integers(0, 99), st.sampled_from([0.0, 0.5]))
def test_hidden_layers_of_parts_are_those_of_the_whole(n: int, n_first: int, seed: int, rate: float) -> None:
    parts, generator = parts_of(n, min(n_first, n), seed), torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator) * 3 + 20
    upstream = torch.randn(n, 4, generator=generator)
    whole, norms = nn.BatchNorm1d(4, momentum=0.1), [nn.BatchNorm1d(4, momentum=0.1) for _ in range(2)]

    linear = nn.Linear(4, 4, bias=False)
    linear.weight = nn.Parameter(torch.eye(4))

    def layer(norm: nn.BatchNorm1d, rows: Tensor, above: Tensor) -> list[Tensor]:
        rows = rows.clone().requires_grad_()
        with kernels.dropout_from(torch.Generator().manual_seed(seed)):
            out = kernels.hidden_layer(rows, linear, norm, rate)
        return [out.detach(), *torch.autograd.grad(out, [rows, norm.weight, norm.bias], above)]

    expected = layer(whole, x, upstream)
    found = in_both(parts, lambda i: layer(norms[i], x[parts[i].places], upstream[parts[i].places]))
    for i, part in enumerate(parts):
        for ours, theirs in zip(found[i][:2], expected[:2], strict=True):
            torch.testing.assert_close(ours, theirs[part.places], rtol=1e-3, atol=2e-4)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(getattr(norms[i], name), getattr(whole, name), rtol=1e-4, atol=1e-4)
    for ours, other, theirs in zip(found[0][2:], found[1][2:], expected[2:], strict=True):
        torch.testing.assert_close(ours + other, theirs, rtol=1e-3, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 99))
def test_random_numbers_of_parts_are_those_of_the_whole(n: int, n_first: int, seed: int) -> None:
    parts = parts_of(n, min(n_first, n), seed)
    chances = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed + 1)) + 0.01

    def draws(rows: Tensor) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        normal = kernels.drawn_rows(lambda shape: torch.randn(shape, generator=generator), (len(rows), 3))
        several = kernels.drawn_rows(lambda shape: torch.randn(shape, generator=generator), (2, len(rows), 3))
        with kernels.dropout_from(generator):
            kept = kernels.dropout(torch.ones(len(rows), 4), 0.5)
        chosen = kernels.drawn_from_rows(lambda of: torch.multinomial(of, 1, generator=generator), rows)
        return [normal, several.transpose(0, 1), kept, chosen, torch.rand(3, generator=generator)]

    *of_rows, after = draws(chances)
    for part, found in zip(parts, in_both(parts, lambda i: draws(chances[parts[i].places])), strict=True):
        for ours, theirs in zip(found, of_rows, strict=False):
            torch.testing.assert_close(ours, theirs[part.places], rtol=0, atol=0)
        torch.testing.assert_close(found[-1], after, rtol=0, atol=0)  # the generators are where that of the whole is


def test_rows_that_were_made_of_others_are_counted_anew() -> None:
    parts = parts_of(5, 2, 0)

    def work(number: int) -> list[Tensor]:
        agree = torch.tensor([kernels.all_agree(True), kernels.all_agree(number == 0)])
        with kernels.recounted(3 + number):
            inside = kernels.drawn_rows(lambda shape: torch.arange(shape[0]).unsqueeze(1), (3 + number, 1))
        outside = kernels.drawn_rows(lambda shape: torch.arange(shape[0]).unsqueeze(1), (len(parts[number].places), 1))
        return [agree, inside[:, 0], outside[:, 0]]

    for number, (agree, inside, outside) in enumerate(in_both(parts, work)):
        assert agree.tolist() == [True, False]
        assert inside.tolist() == [[0, 1, 2], [3, 4, 5, 6]][number]
        assert outside.tolist() == parts[number].places.tolist()


def test_outside_of_a_part_nothing_is_shared() -> None:
    with kernels.in_part(None, One(0, Threads())):
        assert kernels.all_agree(True)
        with kernels.recounted(4):
            assert present_work() is None
