"""Layers, heads and optimiser on compiled code, against torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from grids import each_of
from scvi import kernels
from scvi.kernels import Affine, SparseRows
from scvi.kernels.fused import count_nll
from scvi.kernels.networks import SparseLinear
from scvi.models.gaussian import draw_with_kl, gaussian_of

THREADS = pytest.mark.parametrize("n_threads", [1, 2, 3])


@pytest.fixture
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def counts(n: int, g: int, density: float = 0.2) -> SparseRows:
    matrix = sparse.random(n, g, density, format="csr", dtype=np.float32, random_state=0)
    matrix.data = np.ceil(5 * matrix.data)
    return kernels.rows_to_sparse(matrix, np.arange(n), None, g)


def gradients(out: Tensor, given: list[Tensor], weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((out * weights).sum(), given))


def check(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], given: list[Tensor], rtol: float = 1e-4) -> None:
    """Both give the same results and gradients."""
    expected, result = theirs(), ours()
    torch.testing.assert_close(result, expected, rtol=rtol, atol=1e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(gradients(result, given, weights), gradients(expected, given, weights), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-4)


# --- sparse rows ------------------------------------------------------------------------------------------------------


def test_sparse_rows_are_what_they_stand_for() -> None:
    x = counts(9, 30)
    dense = x.dense
    assert x.shape == dense.shape == (9, 30)
    assert x.density == pytest.approx(float((dense > 0).float().mean()))
    assert torch.equal(x.sums(), dense.sum(1, keepdim=True))
    torch.testing.assert_close(x.log1p().dense, torch.log1p(dense))
    torch.testing.assert_close(x.log1p().sums(), torch.log1p(dense).sum(1, keepdim=True))
    back = SparseRows.of(dense)
    assert torch.equal(back.dense, dense)
    assert torch.equal(back.genes, x.genes)
    assert len(SparseRows.of(torch.zeros(3, 4)).values) == 0


@pytest.mark.parametrize("rows", [[0], [8, 0, 8, 3], [], list(range(9))])
def test_rows_are_taken_in_any_order(rows: list[int]) -> None:
    x, wanted = counts(9, 30), np.array(rows, np.int64)
    taken = x.take(wanted, x.starts.numpy())
    assert torch.equal(taken.dense, x.dense[wanted])
    assert torch.equal(taken.sums(), x.sums()[wanted])


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3], indirect=True)
@each_of(shape=[(1, 5), (130, 401)], bias=[True, False], beside=[0, 3], by_gene=[True, False])
def test_a_linear_layer_of_sparse_rows(
    shape: tuple[int, int], bias: bool, beside: int, by_gene: bool, n_threads: int
) -> None:
    torch.manual_seed(0)
    x, (n, g) = counts(*shape), shape
    weight = torch.randn(g + beside, 37).t() if by_gene else torch.randn(37, g + beside)
    given = [weight.requires_grad_()]
    b = torch.randn(37, requires_grad=True) if bias else None
    more = torch.randn(n, beside, requires_grad=True) if beside else None
    given += [t for t in (b, more) if t is not None]
    dense = x.dense if more is None else torch.cat([x.dense, more], 1)
    check(
        lambda: SparseLinear.apply(x, weight, b, more),
        lambda: nn.functional.linear(dense, weight, b),
        given,
    )


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_the_door_of_linear_layers_is_one(density: float) -> None:
    x, weight, bias = counts(20, 50, density), torch.randn(8, 52), torch.randn(8)
    more = torch.randn(20, 2)
    expected = nn.functional.linear(torch.cat([x.dense, more], 1), weight, bias)
    for given in (x, x.dense):
        torch.testing.assert_close(kernels.linear(given, weight, bias, more), expected, rtol=1e-4, atol=1e-4)


def hidden_parts(width: int, d: int, by_gene: bool, bias: bool = True) -> tuple[nn.Linear, nn.BatchNorm1d]:
    """A linear layer and a norm, the same for the same arguments."""
    torch.manual_seed(0)
    layer, norm = nn.Linear(width, d, bias=bias), nn.BatchNorm1d(d, momentum=0.01, eps=1e-3)
    if by_gene:
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, d))
        norm.bias.copy_(torch.linspace(-1, 1, d))
    return layer, norm


@each_of(
    shape=[(2, 2, 3), (33, 5, 30), (140, 128, 200)], beside=[0, 2], density=[None, 0.1, 0.9], by_gene=[True, False]
)
def test_a_hidden_layer(shape: tuple[int, int, int], beside: int, density: float | None, by_gene: bool) -> None:
    """Of dense and of sparse rows, with columns beside them, and weights laid out by output and by input."""
    n, d, g = shape
    (layer, norm), (other, its_norm) = (hidden_parts(g + beside, d, by_gene, density != 0.1) for _ in range(2))
    x = torch.randn(n, g).requires_grad_() if density is None else counts(n, g, density)
    dense = x.dense if isinstance(x, SparseRows) else x
    more = torch.randn(n, beside).requires_grad_() if beside else None
    given = [t for t in (x, more) if isinstance(t, Tensor)]
    ours = kernels.hidden_layer(x, layer, norm, 0.0, more)
    theirs = torch.relu(its_norm(other(dense if more is None else torch.cat([dense, more], 1))))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    weights = torch.randn(n, d)
    pairs = zip(
        gradients(ours, [*given, *layer.parameters(), *norm.parameters()], weights),
        gradients(theirs, [*given, *other.parameters(), *its_norm.parameters()], weights),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    (by_weight,) = torch.autograd.grad(kernels.hidden_layer(x, layer, norm, 0.0, more).sum(), layer.weight)
    if by_gene or density != 0.1:  # where sparse rows meet other weights, the optimiser copies their gradient
        assert by_weight.stride() == layer.weight.stride()
    its_norm(other(dense if more is None else torch.cat([dense, more], 1)))
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(value, its_norm.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_and_its_gradient() -> None:
    torch.manual_seed(0)
    layer, norm = nn.Linear(100, 100, bias=False), nn.BatchNorm1d(100)
    layer.weight = nn.Parameter(torch.eye(100))
    x = torch.randn(400, 100, requires_grad=True)
    torch.manual_seed(1)
    out = kernels.hidden_layer(x, layer, norm, 0.3)
    whole = torch.relu((x - x.mean(0)) / x.std(0, unbiased=False))
    positive = whole > 1e-3
    dropped = (out == 0) & positive
    assert float(dropped.sum() / positive.sum()) == pytest.approx(0.3, abs=0.01)
    kept = positive & ~dropped
    torch.testing.assert_close(out[kept], whole[kept] / 0.7, rtol=1e-3, atol=1e-3)
    # rows and columns are dropped independently of one another
    share = dropped.float().sum(0) / positive.float().sum(0)
    assert 0.02 < float(share.std()) < 0.05
    again = kernels.hidden_layer(x, layer, norm, 0.3)
    assert float(((again == 0) != (out == 0)).float().mean()) > 0.1
    torch.manual_seed(1)
    assert torch.equal(kernels.hidden_layer(x, layer, norm, 0.3), out)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.isfinite().all()


def test_what_is_no_number_goes_through_a_hidden_layer() -> None:
    layer, x = nn.Linear(3, 3, bias=False), torch.randn(8, 3)
    layer.weight = nn.Parameter(torch.eye(3))
    x[:, 0] = torch.where(torch.arange(8) == 0, torch.inf, x[:, 0])
    out = kernels.hidden_layer(x.nan_to_num(posinf=3e38) * torch.tensor([1e9, 1.0, 1.0]), layer, nn.BatchNorm1d(3), 0.0)
    assert out.isnan().any()


def test_columns_that_do_not_belong_to_a_hidden_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="5 columns do not belong"):
        kernels.hidden_layer(torch.ones(4, 5), nn.Linear(3, 2), nn.BatchNorm1d(2), 0.0)


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2], indirect=True)
@pytest.mark.parametrize("per_cell", [False, True])
@pytest.mark.parametrize("model", ["poisson", "nb", "zinb"])
def test_heads_and_likelihood_in_one(model: str, per_cell: bool, n_threads: int) -> None:
    torch.manual_seed(0)
    n, g, hidden = 40, 60, 16
    x, h = counts(n, g), torch.randn(n, hidden, requires_grad=True)
    heads = [(torch.randn(g, hidden) / 4).requires_grad_() for _ in range(2)]
    biases = [torch.randn(g, requires_grad=True) for _ in range(2)]
    library = torch.full((n, 1), 5.0, requires_grad=True)
    theta = None if model == "poisson" else torch.randn((n, g) if per_cell else (g,)).requires_grad_()
    waiting = [Affine(h, w, b) for w, b in zip(heads, biases, strict=True)]
    dropout = waiting[1] if model == "zinb" else None
    given = [h, heads[0], biases[0], library]
    given += [] if theta is None else [theta]
    given += [heads[1], biases[1]] if dropout is not None else []
    for weight in (1.0, 1 / n):  # the gradient that is expected, and another

        def ours(weight: float = weight) -> Tensor:
            return count_nll(x, waiting[0], library, theta, dropout, weight)

        def theirs() -> Tensor:
            computed = None if dropout is None else dropout.compute()
            return count_nll(x, waiting[0].compute(), library, theta, computed, 1.0)

        check(ours, theirs, given, rtol=1e-3)
    loss = ours().sum()
    once = torch.autograd.grad(loss, given, retain_graph=True)
    for _ in range(3):
        loss.backward(retain_graph=True)
    for p, gradient in zip(given, once, strict=True):
        torch.testing.assert_close(p.grad, 3 * gradient)


def test_heads_of_two_hidden_layers_are_computed_each() -> None:
    torch.manual_seed(0)
    x, h, other = counts(10, 20), torch.randn(10, 4), torch.randn(10, 4)
    w, b = torch.randn(20, 4), torch.randn(20)
    library, theta = torch.full((10, 1), 5.0), torch.zeros(20)
    waiting = kernels.nll_zinb(x, Affine(h, w, b), library, theta, Affine(other, w, b))
    computed = kernels.nll_zinb(x, Affine(h, w, b).compute(), library, theta, Affine(other, w, b).compute())
    torch.testing.assert_close(waiting, computed)


@pytest.mark.parametrize("width", [4, 12])
def test_weights_of_another_width_are_refused(width: int) -> None:
    x = counts(5, 10)
    for given in (x, x.dense):
        with pytest.raises(ValueError, match="10 columns do not belong to weights"):
            kernels.linear(given, torch.randn(3, width), None)
    with pytest.raises(ValueError, match="11 columns"):
        kernels.linear(x, torch.randn(3, 10), None, torch.ones(5, 1))


@pytest.mark.parametrize("gene", [5, 2**31 - 1, -1])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_damaged_matrix_is_refused(gene: int, mapped: bool) -> None:
    matrix = sparse.csr_matrix(np.ones((4, 5), np.float32))
    matrix.indices[7] = gene
    columns = np.arange(5, dtype=np.int32) if mapped else None
    with pytest.raises(ValueError, match="row 1 of the counts names a gene that is not among the 5"):
        kernels.rows_to_sparse(matrix, np.arange(4), columns, 5)
    assert len(kernels.rows_to_sparse(matrix, np.array([0, 2]), columns, 5)) == 2


def test_a_gaussian_of_two_heads() -> None:
    torch.manual_seed(0)
    h = torch.randn(20, 8, requires_grad=True)
    mean, log_variance = nn.Linear(8, 3), nn.Linear(8, 3)
    given = [h, mean.weight, mean.bias, log_variance.weight, log_variance.bias]

    def scale() -> Tensor:
        return (log_variance(h).exp() + 1e-4).sqrt()

    check(lambda: gaussian_of(h, mean, log_variance, 1e-4).loc, lambda: mean(h), given[:3])
    check(lambda: gaussian_of(h, mean, log_variance, 1e-4).scale, scale, [h, *given[3:]])


def test_a_draw_and_its_divergence() -> None:
    torch.manual_seed(0)
    loc, scale = torch.randn(20, 3, requires_grad=True), torch.rand(20, 3).add(0.2).requires_grad_()
    q = torch.distributions.Normal(loc, scale)
    generator = torch.Generator()
    noise = torch.randn(20, 3, generator=generator.manual_seed(5))
    check(lambda: draw_with_kl(q, generator.manual_seed(5))[0], lambda: loc + scale * noise, [loc, scale])
    prior = torch.distributions.Normal(0.0, 1.0)
    check(lambda: draw_with_kl(q)[1], lambda: torch.distributions.kl_divergence(q, prior).sum(-1), [loc, scale])


@each_of(asked=["draw", "kl", "loc", "scale", "all"], first=["draw", "moments"], dtype=[torch.float32, torch.float64])
def test_heads_draw_and_divergence_in_one(asked: str, first: str, dtype: torch.dtype) -> None:
    """Whatever is asked for, and whether moments are asked for before the draw or after it."""
    torch.manual_seed(0)
    h = torch.randn(20, 8, dtype=dtype, requires_grad=True)
    mean, log_variance = nn.Linear(8, 3).to(dtype), nn.Linear(8, 3).to(dtype)
    given, noise = [h, *mean.parameters(), *log_variance.parameters()], torch.randn(20, 3, dtype=dtype)

    def chosen(loc: Tensor, scale: Tensor, z: Tensor, kl: Tensor) -> Tensor:
        parts = {"draw": z, "kl": kl[:, None], "loc": loc, "scale": scale}
        return torch.cat([*parts.values()], 1) if asked == "all" else parts[asked]

    def ours() -> Tensor:
        q = gaussian_of(h, mean, log_variance, 1e-4)
        moments = [q.loc, q.scale] if first == "moments" else []
        z, kl = q.draw_with_kl(noise)
        return chosen(*(moments or [q.loc, q.scale]), z, kl)

    def theirs() -> Tensor:
        loc, scale = mean(h), (log_variance(h).exp() + 1e-4).sqrt()
        q, prior = torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0)
        return chosen(loc, scale, loc + scale * noise, torch.distributions.kl_divergence(q, prior).sum(-1))

    result, expected = ours(), theirs()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape, dtype=dtype)
    found = [torch.autograd.grad((out * weights).sum(), given, allow_unused=True) for out in (result, expected)]
    for a, b in zip(*found, strict=True):
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_gaussian_that_waits_is_one_as_any_other() -> None:
    torch.manual_seed(0)
    h, mean, log_variance = torch.randn(20, 8), nn.Linear(8, 3), nn.Linear(8, 3)
    waiting = gaussian_of(h, mean, log_variance, 1e-4)
    with torch.no_grad():
        made = gaussian_of(h, mean, log_variance, 1e-4)
    z = torch.randn(5, 20, 3)
    torch.testing.assert_close(waiting.log_prob(z), made.log_prob(z))
    torch.testing.assert_close(waiting.expand((5, 20, 3)).entropy(), made.expand((5, 20, 3)).entropy())
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(kl(waiting, made), torch.zeros(20, 3), rtol=0, atol=1e-5)
    assert waiting.loc.requires_grad
    assert waiting.batch_shape == made.batch_shape
