"""Products in bfloat16 against those of rounded factors, and copies of weights that are never of former ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scvi import kernels
from scvi.fit.optimizer import ClippedAdam
from scvi.fit.scope import Columns
from scvi.kernels import Affine, LowWeights, SparseRows, bf16_products, fused, precision, twin
from scvi.kernels.adam import step
from scvi.kernels.moments import Rule, adam_step

ROUNDING = 2**-8
"""Twice the largest relative error of rounding to bfloat16."""


class Rounded(torch.autograd.Function):
    """Numbers in bfloat16; its gradient is rounded, too."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(ctx: object, d: Tensor) -> Tensor:
        return d.bfloat16().to(d.dtype)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.detach() - b.detach()).norm() / b.detach().norm())


def counts(n: int, g: int) -> Tensor:
    return torch.poisson(torch.rand(n, g, generator=torch.Generator().manual_seed(0)))


# ---- heads and likelihood --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("per_cell", [False, True])
@pytest.mark.parametrize("tile", [2**18, 1000])
def test_heads_and_likelihood_are_those_of_rounded_numbers(
    density: str, per_cell: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_TILE", tile)  # rows at a time: all, or 3
    torch.manual_seed(0)
    n, g, hidden = 20, 301, 64
    x, library = counts(n, g), torch.full((n, 1), 5.5)
    h = torch.randn(n, hidden, requires_grad=True)
    theta = torch.randn(*([n] if per_cell else []), g).requires_grad_()
    weights = [nn.Parameter(torch.randn(g, hidden) / 8) for _ in range(2)]
    biases = [torch.randn(g, requires_grad=True) for _ in range(2)]

    def low() -> Tensor:
        heads = [Affine(h, w, b) for w, b in zip(weights, biases, strict=True)]
        with bf16_products(LowWeights()):
            if density == "poisson":
                return kernels.nll_poisson(x, heads[0], library)
            if density == "nb":
                return kernels.nll_nb(x, heads[0], library, theta)
            return kernels.nll_zinb(x, heads[0], library, theta, heads[1])

    def oracle() -> Tensor:
        a, pi = (
            Rounded.apply(Rounded.apply(h.double()) @ Rounded.apply(w.double()).T) + b
            for w, b in zip(weights, biases, strict=True)
        )
        if density == "poisson":
            return -twin.log_poisson(x, a, library).sum(-1)
        if density == "nb":
            return -twin.log_nb(x, a, library, theta).sum(-1)
        return -twin.log_zinb(x, a, library, theta, pi).sum(-1)

    result, expected = low(), oracle()
    assert result.dtype == torch.float32
    # A logit between two numbers of bfloat16 may go to either, as its sum is rounded: of 64 factors few do.
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=0)
    given = [h, *([] if density == "poisson" else [theta]), *weights[: 1 + (density == "zinb")], biases[0]]
    for a, b in zip(*(torch.autograd.grad(out.sum(), given) for out in (result, expected)), strict=True):
        assert a.dtype == torch.float32
        assert distance(a, b) < 2 * ROUNDING
    assert torch.equal(low(), result)


@pytest.mark.parametrize(("hidden", "is_low"), [(64, True), (32, False)])
def test_large_products_are_near_those_of_float32_and_small_ones_are_the_same(hidden: int, is_low: bool) -> None:
    torch.manual_seed(0)
    x, h, library = counts(16, 300), torch.randn(16, hidden, requires_grad=True), torch.full((16, 1), 5.0)
    weight, bias = nn.Parameter(torch.randn(300, hidden) / 8), nn.Parameter(torch.randn(300))
    head = Affine(h, weight, bias)

    def found(low: LowWeights | None) -> list[Tensor]:
        with bf16_products(low):
            losses = [kernels.nll_nb(x, given, library, torch.zeros(300)) for given in (head, head.compute())]
        slopes = [torch.autograd.grad(loss.sum(), [h, weight, bias]) for loss in losses]
        return [*(loss.detach() for loss in losses), *slopes[0], *slopes[1]]

    for a, b in zip(found(LowWeights()), found(None), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b) != is_low
        assert distance(a, b) < 2 * ROUNDING


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    """A fit recovers from it; a rounding that made numbers of it would hide the fault."""
    weight = nn.Parameter(torch.ones(300, 64))
    with torch.no_grad():
        weight[7, 3] = value
    h, x = torch.ones(4, 64, requires_grad=True), counts(4, 300)
    with bf16_products(LowWeights()):
        loss = kernels.nll_nb(x, Affine(h, weight, torch.zeros(300)), torch.zeros(4, 1), torch.zeros(300)).sum()
        product = kernels.linear(h, weight, None)
    exact = kernels.nll_nb(x, Affine(h, weight, torch.zeros(300)), torch.zeros(4, 1), torch.zeros(300)).sum()
    assert torch.isfinite(loss) == torch.isfinite(exact)
    assert torch.equal(product[:, 7].isnan(), torch.full((4,), np.isnan(value)))
    assert not product[:, 7].isfinite().any()


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("by_input", [False, True])
def test_layers_are_those_of_rounded_factors(by_input: bool, beside: bool) -> None:
    torch.manual_seed(0)
    n, g, width = 16, 300, 64
    x, others = torch.randn(n, g, requires_grad=True), torch.randn(n, 3, requires_grad=True)
    layer, norm = nn.Linear(g + 3 * beside, width), nn.BatchNorm1d(width)
    if by_input:
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    columns = others if beside else None
    given = [x, layer.weight, *([others] if beside else [])]
    whole = torch.cat([x, others], 1) if beside else x

    def rounded() -> Tensor:
        product = whole.detach().bfloat16().double() @ layer.weight.detach().bfloat16().double().T
        return product + layer.bias.detach()

    with bf16_products(LowWeights()):
        out = kernels.linear(x, layer.weight, layer.bias, columns)
        hidden = kernels.hidden_layer(x, layer, norm, 0.0, columns)
    torch.testing.assert_close(out.double(), rounded(), rtol=ROUNDING, atol=1e-2)
    exact = kernels.linear(x, layer.weight, layer.bias, columns)
    exact_hidden = kernels.hidden_layer(x, layer, norm, 0.0, columns)
    upstream = torch.randn(n, width)
    for low, high in ((out, exact), (hidden, exact_hidden)):
        assert low.dtype == torch.float32
        assert 0 < distance(low, high) < 2 * ROUNDING
        found = [torch.autograd.grad((values * upstream).sum(), given, retain_graph=True) for values in (low, high)]
        for a, b in zip(*found, strict=True):
            assert a.dtype == torch.float32
            assert a.stride() == b.stride()
            # A unit near zero is on one side here and on the other there: ReLU makes that a jump.
            assert distance(a, b) < (2 * ROUNDING if low is out else 0.1)


def test_sparse_rows_are_multiplied_in_float32() -> None:
    x = SparseRows.of((torch.rand(16, 300, generator=torch.Generator().manual_seed(0)) < 0.1).float())
    layer, norm = nn.Linear(300, 64), nn.BatchNorm1d(64)
    expected = kernels.hidden_layer(x, layer, norm, 0.0)
    with bf16_products(LowWeights()):
        assert torch.equal(kernels.hidden_layer(x, layer, norm, 0.0), expected)


@pytest.mark.parametrize("beside", [False, True])
def test_rows_made_dense_in_bfloat16_are_those_that_are_rounded_afterwards(beside: bool) -> None:
    rows = SparseRows.of(counts(16, 300)).over(torch.full((16, 1), 3.0))  # thirds, which bfloat16 rounds
    columns = torch.rand(16, 3) if beside else None
    layer, norm = nn.Linear(300 + 3 * beside, 64), nn.BatchNorm1d(64)

    def results(x: Tensor | SparseRows) -> list[Tensor]:
        with bf16_products(LowWeights()):
            hidden = kernels.hidden_layer(x, layer, norm, 0.0, columns)
            out = kernels.linear(x, layer.weight, layer.bias, columns)
        return [hidden, out, *torch.autograd.grad(hidden.sum() + out.square().sum(), layer.parameters())]

    for found, expected in zip(results(rows), results(rows.dense), strict=True):
        assert torch.equal(found, expected)


# ---- copies of weights -----------------------------------------------------------------------------------------------


def weights_of(n: int = 300) -> list[nn.Parameter]:
    torch.manual_seed(0)
    by_input = torch.randn(64, n).t()
    return [nn.Parameter(torch.randn(n, 64)), nn.Parameter(by_input), nn.Parameter(torch.randn(7))]


def stepped(optimizer: ClippedAdam, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in optimizer.parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.clipped_step(torch.tensor(0.0))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_adam_writes_the_copies_with_the_weights(n_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        low, weights = LowWeights(), weights_of(1001)
        copies = [low.of(w) for w in weights[:2]]
        versions = [c._version for c in copies]
        optimizer, other = ClippedAdam(weights, 0.1, 1e-8, low=low), ClippedAdam(weights_of(1001), 0.1, 1e-8)
        for seed in range(3):
            stepped(optimizer, seed)
            stepped(other, seed)
            for copy, w, alone in zip(copies, weights, other.parameters, strict=False):
                assert torch.equal(w, alone)  # the weights know nothing of their copies
                assert torch.equal(copy, w.bfloat16())
                assert copy.stride() == w.stride()
    finally:
        torch.set_num_threads(before)
    assert all(c._version > v for c, v in zip(copies, versions, strict=True))  # graphs from before a step are refused
    for copy, w in zip(copies, weights, strict=False):
        copy.zero_()
        assert low.of(w) is copy
        assert not copy.any()  # it was believed: no pass over the weights made it again


CHANGES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda w: w.mul_(2),
    "a state dict": lambda w: nn.ParameterDict({"w": w}).load_state_dict({"w": w * 2}),
    "other memory": lambda w: setattr(w, "data", w.data * 2),
    "a view": lambda w: w[3:5].zero_(),
    "an initialisation": nn.init.ones_,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_never_of_former_weights(change: str) -> None:
    low, weight = LowWeights(), weights_of()[0]
    optimizer = ClippedAdam([weight], 0.1, 1e-8, low=low)
    low.of(weight)
    for seed in range(2):  # before the first step and after one
        before = weight.detach().clone()
        with torch.no_grad():
            CHANGES[change](weight)
        assert seed or not torch.equal(weight, before)
        assert torch.equal(low.of(weight), weight.bfloat16())
        stepped(optimizer, seed)
        assert torch.equal(low.of(weight), weight.bfloat16())


def test_what_torch_does_not_see_is_asked_for_again() -> None:
    low, weight = LowWeights(), weights_of()[0]
    low.of(weight)
    weight.data.mul_(2)
    low.forget()
    assert torch.equal(low.of(weight), weight.bfloat16())


def test_steps_of_other_devices_and_of_columns_are_seen() -> None:
    low, weight = LowWeights(), weights_of()[0]
    low.of(weight)
    optimizer = ClippedAdam([weight], 0.1, 1e-8, low=low)
    weight.grad = torch.ones_like(weight)
    adam_step(optimizer.moments, [0], torch.tensor(0.0), Rule(0.1, 1e-8))
    assert torch.equal(low.of(weight), weight.bfloat16())
    columns = Columns(weight, torch.arange(64) < 3)
    optimizer = ClippedAdam([], 0.1, 1e-8, columns=[columns], low=low)
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.clipped_step(torch.tensor(0.0))
    assert not torch.equal(weight, before)
    assert torch.equal(low.of(weight), weight.bfloat16())


def test_a_step_that_is_not_taken_leaves_the_copy() -> None:
    low, weight = LowWeights(), weights_of()[0]
    copy, before = low.of(weight), weight.bfloat16()
    optimizer = ClippedAdam([weight], 0.1, 1e-8, low=low)
    weight.grad = torch.full_like(weight, np.nan)
    assert not optimizer.clipped_step(torch.tensor(0.0))
    assert torch.equal(copy, before)


def test_what_is_no_parameter_is_not_kept() -> None:
    low, made = LowWeights(), torch.randn(300, 64)
    assert low.of(made) is not low.of(made)
    assert torch.equal(low.of(made), made.bfloat16())


def test_the_bits_of_copies_are_those_of_torch() -> None:
    """All kinds of numbers: halves between two, the largest, subnormal ones, infinities and none."""
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    halves = (np.arange(2**16, dtype=np.uint32) << 16) | np.uint32(0x8000)
    special = np.array([0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001, 0, 1 << 31], np.uint32)
    values = np.concatenate([bits, halves, special]).view(np.float32)
    p, zeros = values.copy(), np.zeros_like(values)
    copy, pieces = np.empty(len(values), np.uint16), np.array([[0, 0, len(values), 0]])
    numbers = np.array([[0.0, 1.0, 0.0, 1.0]], np.float32)  # nothing is taken off, and the learning rate is 0
    places = [np.array([a.ctypes.data]) for a in (p, copy, zeros)]
    step(*places, np.zeros_like(zeros), np.zeros_like(zeros), pieces, numbers, np.float32(1), np.float32(1))
    left = torch.from_numpy(p)
    expected = left.bfloat16()
    found = torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(found.isnan(), expected.isnan())
    is_number = ~expected.isnan()
    assert torch.equal(found[is_number].view(torch.int16), expected[is_number].view(torch.int16))
    assert torch.equal(left.view(torch.int32)[is_number], torch.from_numpy(values).view(torch.int32)[is_number])


@pytest.mark.parametrize(
    ("density", "in_float32", "in_bf16"), [(0.1, True, True), (0.2, True, False), (0.3, False, False)]
)
def test_a_first_layer_is_sparse_up_to_a_share_that_its_precision_says(
    density: float, in_float32: bool, in_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = (torch.arange(4 * 300).view(4, 300) % 10 < 10 * density).float()
    x, layer, norm = kernels.SparseRows.of(dense), nn.Linear(300, 128), nn.BatchNorm1d(128)
    assert x.density == pytest.approx(density)
    monkeypatch.setattr(precision, "_has_tiles", lambda: False)
    shapes: list[type] = []
    checked = kernels._checked

    def noted(*given: Any) -> Any:
        found = checked(*given)
        shapes.append(type(found))
        return found

    monkeypatch.setattr(kernels, "_checked", noted)
    for weights in (None, kernels.LowWeights()):
        with kernels.bf16_products(weights):
            kernels.hidden_layer(x, layer, norm, 0.0)
    assert [kind is kernels.SparseRows for kind in shapes] == [in_float32, in_bf16]
    monkeypatch.setattr(precision, "_has_tiles", lambda: True)
    with kernels.bf16_products(kernels.LowWeights()):
        assert precision.dense_from(layer.weight) < 0.1
        assert precision.dense_from(torch.ones(128, 128)) == 0.25  # small: its products are not in bfloat16
