"""What each compiled kernel is worth: its milliseconds beside those of the torch operations it stands for.

    python benchmarks/kernels.py --data FOLDER

128 cells of pbmc3k, the genes of the highest total, 128 hidden units; forward and backward. Both compute the same, as
the tests check. The rows of one size add up to what a training step saves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, read, table
from torch import Tensor, nn
from train_step import CELLS, HIDDEN, counts_of

from scvi import kernels
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.setup import declare
from scvi.cells.storage import as_dense
from scvi.fit.optimizer import ClippedAdam
from scvi.kernels import Affine, twin
from scvi.kernels.likelihood import negative_binomial_rows, scratch
from scvi.kernels.rows import arrays
from scvi.models.gaussian import draw_with_kl, gaussian_of

Call = Callable[[], object]
REPEATS = 40


def milliseconds(call: Call) -> float:
    def once() -> float:
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    for _ in range(3):
        once()
    return median([once() for _ in range(REPEATS)])


def gradient_of(out: Callable[[], Tensor], given: list[Tensor]) -> Call:
    return lambda: torch.autograd.grad(out().sum(), given)


def loading(data: CellData, rows: np.ndarray) -> tuple[Call, Call]:
    """Rows of a matrix to what a model reads."""
    return lambda: data.minibatch(rows).counts, lambda: torch.from_numpy(as_dense(data.counts[rows])).float()


def likelihood(x: kernels.SparseRows, model: str) -> tuple[Call, Call]:
    """Decoder heads, likelihood and all gradients."""
    g, dense = x.n_genes, x.dense
    h = torch.randn(CELLS, HIDDEN, requires_grad=True)
    theta, library = torch.zeros(g, requires_grad=True), torch.full((CELLS, 1), 7.0)
    weights = [nn.Parameter(torch.randn(g, HIDDEN) / 20) for _ in range(2)]
    biases = [torch.zeros(g, requires_grad=True) for _ in range(2)]
    logits, dropout = (Affine(h, w, b) for w, b in zip(weights, biases, strict=True))
    if model == "nb":
        given = [h, theta, weights[0], biases[0]]
        return (
            gradient_of(lambda: kernels.nll_nb(x, logits, library, theta), given),
            gradient_of(lambda: -twin.log_nb(dense, logits.compute(), library, theta).sum(-1), given),
        )
    given = [h, theta, *weights, *biases]
    return (
        gradient_of(lambda: kernels.nll_zinb(x, logits, library, theta, dropout), given),
        gradient_of(lambda: -twin.log_zinb(dense, logits.compute(), library, theta, dropout.compute()).sum(-1), given),
    )


def likelihood_of_zeros(n_genes: int, model: str) -> tuple[Call, Call]:
    """The likelihood alone and all gradients, written over the logits, where cells have hardly any counts."""
    x = torch.bernoulli(torch.full((CELLS, n_genes), 5e-4))
    logits, theta, library = torch.randn(CELLS, n_genes) - 9, torch.zeros(1, n_genes), torch.full((CELLS, 1), 7.0)
    dropout = torch.randn(CELLS, n_genes if model == "zinb" else 0)
    x_rows, weight = kernels.SparseRows.of(x), torch.full((CELLS,), 1.0 / CELLS)
    biases, sums = torch.zeros(1 + (model == "zinb"), n_genes), torch.zeros(2, n_genes)
    losses, d_library, d_theta = torch.empty(CELLS), torch.empty(CELLS), torch.zeros(1, n_genes)
    counts = arrays(x_rows.starts, x_rows.genes, x_rows.values)
    written = [logits.clone(), dropout.clone()]
    given = arrays(biases, written[0], library.view(-1), theta, written[1], weight)
    results = arrays(losses, d_library, d_theta, sums)
    memory = scratch(n_genes, int(counts[0][1:].max()))
    parameters = [t.requires_grad_() for t in (logits, theta, dropout)[: 3 if model == "zinb" else 2]]

    def ours() -> None:
        negative_binomial_rows(*counts, *given, (0, CELLS), memory, True, *results)

    def theirs() -> Tensor:
        rest = [dropout] if model == "zinb" else []
        return -getattr(twin, f"log_{model}")(x, logits, library, theta[0], *rest).sum(-1)

    return ours, gradient_of(theirs, parameters)


def in_bfloat16(ours: Call, theirs: Call) -> tuple[Call, Call]:
    """Products in bfloat16, of weights that have their copies, beside torch's in float32."""
    low = kernels.LowWeights()

    def call() -> None:
        with kernels.bf16_products(low):
            ours()

    return call, theirs


def first_layer(x: kernels.SparseRows) -> tuple[Call, Call]:
    """log(1 + x) times weights, and the weights' gradient."""
    weight = torch.randn(x.n_genes, HIDDEN).t().requires_grad_()
    dense = x.dense
    return (
        gradient_of(lambda: kernels.linear(x.log1p(), weight, None), [weight]),
        gradient_of(lambda: nn.functional.linear(torch.log1p(dense), weight), [weight]),
    )


def hidden_layer() -> tuple[Call, Call]:
    """A linear layer of a latent space, batch norm, ReLU and dropout."""
    x, layer, norm = torch.randn(CELLS, 10, requires_grad=True), nn.Linear(10, HIDDEN), nn.BatchNorm1d(HIDDEN)
    given = [x, *layer.parameters(), *norm.parameters()]
    return (
        gradient_of(lambda: kernels.hidden_layer(x, layer, norm, 0.1), given),
        gradient_of(lambda: nn.functional.dropout(torch.relu(norm(layer(x))), 0.1), given),
    )


def posterior() -> tuple[Call, Call]:
    """Mean and variance of the latent state, a draw, and its divergence from the prior."""
    h, mean, log_variance = torch.randn(CELLS, HIDDEN, requires_grad=True), nn.Linear(HIDDEN, 10), nn.Linear(HIDDEN, 10)
    given, noise = [h, *mean.parameters(), *log_variance.parameters()], torch.randn(CELLS, 10)
    prior = torch.distributions.Normal(0.0, 1.0)

    def ours() -> Tensor:
        z, kl = draw_with_kl(gaussian_of(h, mean, log_variance, 1e-4))
        return z.sum(1) + kl

    def theirs() -> Tensor:
        q = torch.distributions.Normal(mean(h), (log_variance(h).exp() + 1e-4).sqrt(), validate_args=False)
        z = q.loc + q.scale * noise
        return z.sum(1) + torch.distributions.kl_divergence(q, prior).sum(1)

    return gradient_of(ours, given), gradient_of(theirs, given)


def proteins() -> tuple[Call, Call]:
    """Likelihood of 100 proteins, background or foreground, and all gradients."""
    shape = (CELLS, 100)
    y = torch.poisson(torch.rand(shape) * 40)
    given = [torch.randn(shape, requires_grad=True) for _ in range(3)] + [torch.zeros(shape[1], requires_grad=True)]
    return (
        gradient_of(lambda: kernels.nll_nb_mixture(y, *given), given),
        gradient_of(lambda: -twin.log_nb_mixture(y, *given).sum(-1), given),
    )


def optimiser(n_genes: int, low: kernels.LowWeights | None = None) -> tuple[Call, Call]:
    """Clipping and Adam on the weights of the first layer and of two heads."""
    both = []
    for _ in range(2):
        weights = [nn.Parameter(torch.randn(n_genes, HIDDEN)) for _ in range(3)]
        for w in weights:
            w.grad = torch.randn_like(w)
        both.append(weights)
    ours = ClippedAdam(both[0], 1e-3, 1e-8, 1e-3, 1.0, low=low)
    for weight in both[0] if low is not None else ():
        low.of(weight)
    theirs = torch.optim.Adam(both[1], lr=1e-3, eps=1e-8, weight_decay=1e-3, fused=True)
    loss = torch.tensor(0.0)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(both[1], 1.0)
        theirs.step()

    return lambda: ours.clipped_step(loss), step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--genes", nargs="+", type=int, default=[2000, 10000])
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    source = read(arguments.data, "pbmc3k")
    print(machine())
    print(f"load average {load_average()}; medians of {REPEATS}\n")
    ours, theirs = (milliseconds(call) for call in proteins())
    rows = [["likelihood of proteins", "100", "", f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}"]]
    for n_genes in arguments.genes:
        counts, _ = counts_of(source, n_genes, np.random.default_rng(0))
        adata = AnnData(counts)
        data = encode(adata, declare(adata)[0])
        cells = np.random.default_rng(0).permutation(len(data))[:CELLS]
        x = data.minibatch(cells).counts
        pairs = {
            "loading": loading(data, cells),
            "loading from an array": loading(replace(data, counts=counts.toarray()), cells),
            "first layer": first_layer(x),
            "hidden layer": hidden_layer(),
            "heads, draw and divergence": posterior(),
            "heads and likelihood, zinb": likelihood(x, "zinb"),
            "heads and likelihood, nb": likelihood(x, "nb"),
            "heads and likelihood, zinb, bf16": in_bfloat16(*likelihood(x, "zinb")),
            "zeros alone, one thread, zinb": likelihood_of_zeros(n_genes, "zinb"),
            "zeros alone, one thread, nb": likelihood_of_zeros(n_genes, "nb"),
            "clipping and Adam": optimiser(n_genes),
            "clipping and Adam, with copies": optimiser(n_genes, kernels.LowWeights()),
        }
        for name, (ours, theirs) in pairs.items():
            a, b = milliseconds(ours), milliseconds(theirs)
            rows.append(
                [
                    name,
                    f"{n_genes:,}",
                    "0%" if name.startswith("zeros") else f"{x.density:.0%}",
                    f"{a:.2f}",
                    f"{b:.2f}",
                    f"{b / a:.1f}",
                ]
            )
    print(table(["kernel", "genes", "non-zero", "ms", "torch ms", "ratio"], rows))


if __name__ == "__main__":
    main()
