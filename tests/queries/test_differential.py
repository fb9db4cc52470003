"""Fold changes and their probabilities against closed forms, on a model whose posterior is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal

from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Latent, Model, Moments
from scvi.models.decoded import Decoded, GeneCounts
from scvi.models.likelihood import make_likelihood
from scvi.queries.decoded_draws import Draws, decoded, drawn_cells
from scvi.queries.differential import Wish, compare, estimated_delta, estimated_pseudocounts
from scvi.queries.groups import Comparison, GroupCounts, Groups
from scvi.queries.pool_draws import PoolDraws

SLOPES = np.array([0.0, 0.3, 1.0, -2.0])
"""Of the logits of the genes; a last gene has nearly all counts, so that the shares of the others are lognormal."""
OTHERS = 20.0


class Known(Model):
    """z ~ Normal(mean of the cell, 0.5), logits of the genes are linear in z; batch k adds k to z."""

    n_input = len(SLOPES) + 1
    n_batch = 3

    def variational(self, mb: Minibatch) -> Latent:
        return Latent(Normal(mb.x[:, :1], 0.5), None)

    def generative(self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None) -> Decoded:
        logits = torch.cat([(z + mb.batch) * torch.tensor(SLOPES).float(), torch.full_like(z, OTHERS)], dim=-1)
        return Decoded(genes=GeneCounts(make_likelihood("poisson"), logits, log_size, torch.zeros(5), None))

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        raise NotImplementedError

    def start(self, moments: Moments) -> None:
        raise NotImplementedError


MEANS = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 3.0])
CODES = np.array([0, 0, 0, 1, 1, 2])


def read(cells: np.ndarray, at_once: int = 4) -> Iterator[Minibatch]:
    """Cells whose mean is their first count, all of batch 0."""
    for start in range(0, len(cells), at_once):
        part = cells[start : start + at_once]
        x = torch.ones(len(part), 5)
        x[:, 0] = torch.from_numpy(MEANS[part]).float()
        yield Minibatch(counts=x, batch=torch.zeros(len(part), 1).long(), labels=None)  # type: ignore[arg-type]


def scale(found: Decoded) -> Tensor:
    return found.genes.scale


def ask(groups: Groups, wish: Wish, **options: Any) -> list[dict[str, np.ndarray]]:
    return compare(Known(), read, scale, groups, wish, np.random.default_rng(0), **options)


PAIR = Groups(CODES, (Comparison("b", "a", (1,), (0,)), Comparison("a", "rest", (0,), (1, 2))))
MANY = Wish(pseudocounts=0.0, n_draws=60_000)


@pytest.mark.parametrize("delta", [0.0, 0.25, 1.5])
def test_against_the_closed_form(delta: float) -> None:
    answer, rest = ask(PAIR, Wish("change", delta, 0.0, MANY.n_draws, (0.9,)))
    spread = np.abs(SLOPES) * np.sqrt(0.5) / np.log(2)  # of a difference of two posteriors, in log2
    mean = SLOPES * 1.0 / np.log(2)
    for name, expected in (("lfc_mean", mean), ("lfc_median", mean), ("lfc_std", spread)):
        np.testing.assert_allclose(answer[name][:4], expected, atol=0.02)
    proba = norm.sf(delta, mean[1:], spread[1:]) + norm.cdf(-delta, mean[1:], spread[1:])
    np.testing.assert_allclose(answer["proba_de"][1:4], proba, atol=0.006)
    np.testing.assert_allclose(
        answer["bayes_factor"], np.log(answer["proba_de"] + 1e-8) - np.log(answer["proba_not_de"] + 1e-8)
    )
    interval = [answer[f"lfc_confidence_interval_0.9_{end}"][1:4] for end in ("min", "max")]
    np.testing.assert_allclose(interval, norm.interval(0.9, mean[1:], spread[1:]), atol=0.25)
    # the rest is a mixture of two of its cells with mean 1 and one with mean 3
    away = np.array([1.0, 1.0, 3.0])[:, None] * -SLOPES[1:] / np.log(2)
    of_rest = (norm.sf(delta, away, spread[1:]) + norm.cdf(-delta, away, spread[1:])).mean(axis=0)
    np.testing.assert_allclose(rest["proba_de"][1:4], of_rest, atol=0.006)
    np.testing.assert_allclose(rest["lfc_mean"][:4], -SLOPES * 5 / 3 / np.log(2), atol=0.03)


def test_which_is_larger() -> None:
    answer, _ = ask(PAIR, Wish("vanilla", n_draws=MANY.n_draws))
    expected = norm.cdf(np.sign(SLOPES[1:]) / np.sqrt(0.5))
    np.testing.assert_allclose(answer["proba_m1"][1:4], expected, atol=0.006)
    np.testing.assert_allclose(answer["proba_m2"], 1 - answer["proba_m1"])
    np.testing.assert_allclose(answer["scale1"][1:4], np.exp(SLOPES[1:] + SLOPES[1:] ** 2 / 8 - OTHERS), rtol=0.03)


def test_draws_of_the_same_batch_are_compared() -> None:
    """Batch k adds k to z of both: the difference has no more spread than within one batch."""
    answer, _ = ask(PAIR, MANY, batches=([0, 1, 2], [0, 1, 2]))
    np.testing.assert_allclose(answer["lfc_std"][1:4], np.abs(SLOPES[1:]) * np.sqrt(0.5) / np.log(2), atol=0.02)
    np.testing.assert_allclose(answer["scale1"][2], np.exp([1, 2, 3]).mean() * np.exp(1 / 8 - OTHERS), rtol=0.03)
    shifted, _ = ask(PAIR, MANY, batches=([2], [0, 1]))
    np.testing.assert_allclose(shifted["lfc_mean"][:4], SLOPES * 2.5 / np.log(2), atol=0.02)


def test_draws_are_of_the_groups_and_batches() -> None:
    rng = np.random.default_rng(0)
    pools = PoolDraws.of(PAIR, 10, ([0, 2], [0, 2]), rng)
    assert len(pools.draws.cells) == 3 * 10  # each pool once, though pool 0 and pool 1 are in both comparisons
    first, second = pools.sides(PAIR.comparisons[0], rng)
    for pool, rows in ((1, first), (0, second)):
        counts = np.bincount(pools.draws.cells[rows], minlength=6)
        assert counts[pool == CODES].sum() == 10
        assert np.ptp(counts[pool == CODES]) <= 1
    first, second = pools.sides(PAIR.comparisons[1], rng)
    assert pools.draws.batches is not None
    np.testing.assert_array_equal(pools.draws.batches[first], np.tile([0, 2], 5))
    np.testing.assert_array_equal(pools.draws.batches[second], np.tile([0, 2], 5))
    assert np.isin(pools.draws.cells[second], [3, 4]).sum() == 7  # two of three cells


def test_cells_of_both_groups_are_not_compared_with_themselves() -> None:
    overlapping = Groups(CODES, (Comparison("b", "a and b", (1,), (0, 1)), Comparison("a", "a", (0,), (0,))))
    pools = PoolDraws.of(overlapping, 10, (None, None), np.random.default_rng(0))
    for comparison in overlapping.comparisons:
        first, second = pools.sides(comparison, np.random.default_rng(0))
        assert not set(first) & set(second)
    assert len(pools.draws.cells) == 4 * 10
    _, itself = ask(overlapping, MANY)
    np.testing.assert_allclose(itself["lfc_std"][1:4], np.abs(SLOPES[1:]) * np.sqrt(0.5) / np.log(2), atol=0.02)


def test_cells_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 12, 1000):
        counts = np.bincount(drawn_cells(np.arange(5) + 2, n, rng), minlength=7)
        assert counts[:2].sum() == 0
        assert counts.sum() == n
        assert np.ptp(counts[2:]) <= 1
    often = sum(np.bincount(drawn_cells(np.arange(3), 1, rng), minlength=3) for _ in range(3000))
    np.testing.assert_allclose(often, 1000, atol=120)


def test_the_minibatches_make_no_difference() -> None:
    draws = Draws(np.array([5, 0, 5, 3, 1, 0]))
    found = [
        decoded(Known(), lambda cells, n=n: read(cells, n), draws, scale, np.random.default_rng(1)) for n in (1, 2, 9)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-6)
    assert len(np.unique(found[0][:, 1])) == 6  # each draw is one of its own


def counted(sums: list[list[float]]) -> GroupCounts:
    values = np.array(sums)
    return GroupCounts(np.ones_like(values), values, np.minimum(values, 1), values, values.shape[1])


def test_genes_without_counts_are_not_told_from_one_another() -> None:
    counts = counted([[0, 4, 9, 0, 100], [3, 5, 1, 0, 100], [1, 1, 1, 1, 1]])
    answer, rest = ask(PAIR, Wish(n_draws=500, pseudocounts=0.0), counts=counts)
    assert answer["proba_de"][3] == 0 < rest["proba_de"][3]
    assert answer["bayes_factor"][3] == pytest.approx(np.log(1e-8), abs=1e-6)
    vanilla, _ = ask(PAIR, Wish("vanilla", n_draws=500), counts=counts)
    assert vanilla["bayes_factor"][3] == 0


def test_pseudocounts_are_what_cannot_be_told_from_none() -> None:
    counts = counted([[0, 4, 9, 0, 100], [3, 5, 1, 0, 191], [1, 1, 1, 1, 1]])
    comparison = PAIR.comparisons[0]
    low, high = np.full(5, 1e-9), np.full(5, 0.02)
    assert estimated_pseudocounts(low, low, counts, comparison) == pytest.approx(1 / 113)
    assert estimated_pseudocounts(low, high, counts, comparison) == pytest.approx(0.02)
    assert estimated_pseudocounts(low, low, None, comparison) == 1e-6
    answer, _ = ask(PAIR, Wish(n_draws=50), counts=counts)
    assert np.unique(answer["pseudocounts"]).tolist() == pytest.approx([1 / 113])


def test_delta_is_twice_the_spread_of_what_does_not_differ() -> None:
    rng = np.random.default_rng(0)
    changes = rng.normal(0, 0.2, 4000)
    assert estimated_delta(changes, None) == pytest.approx(0.4, rel=0.05)
    changes[:800] += 5
    assert estimated_delta(changes, None) == pytest.approx(0.4, rel=0.35)
    changes[10] = np.nan
    assert estimated_delta(changes, np.arange(4000) >= 800) == pytest.approx(0.4, rel=0.05)
    assert estimated_delta(changes / 100, None) == 0.1
    assert estimated_delta(changes * 100, None) == 1.0
    assert estimated_delta(changes, np.zeros(4000, dtype=bool)) == 0.1
    answer, _ = ask(PAIR, Wish(delta=None, n_draws=100))
    assert np.unique(answer["delta"]).tolist() == [estimated_delta(answer["lfc_mean"], None)]


def test_what_was_not_measured_is_left_out() -> None:
    def some(found: Decoded) -> Tensor:
        values = found.genes.scale.clone()
        values[::2, 1] = torch.nan  # of every other draw
        values[:, 3] = torch.nan
        return values

    for wish in (Wish(n_draws=4000, pseudocounts=0.0), Wish("vanilla", n_draws=4000)):
        found = compare(Known(), read, some, PAIR, wish, np.random.default_rng(0))[0]
        whole = ask(PAIR, wish)[0]
        name = "proba_m1" if wish.mode == "vanilla" else "proba_de"
        assert np.isnan(found[name][3])
        np.testing.assert_allclose(found[name][1], whole[name][1], atol=0.04)
        np.testing.assert_allclose(np.delete(found[name], [1, 3]), np.delete(whole[name], [1, 3]), atol=0.04)


def test_weighed_draws_are_of_the_true_posterior() -> None:
    """A variational posterior that is too wide and beside the true one, which is normal as prior and likelihood are."""

    class Wide(Known):
        def variational(self, mb: Minibatch) -> Latent:
            return Latent(Normal(torch.full((len(mb), 1), 0.5), 1.5), None)

        def importance_draws(self, mb: Minibatch, q: Latent, n: int, generator: torch.Generator | None = None) -> Any:
            drawn = super().importance_draws(mb, q, n, generator)
            z = drawn.z[..., 0]
            true = Normal(mb.x[:, 0], 0.5).log_prob(z) - q.z.log_prob(drawn.z).sum(-1)
            return drawn._replace(log_weights=true)

    draws = Draws(np.repeat([0, 3, 5], 400))
    found = decoded(Wide(), read, draws, scale, np.random.default_rng(0), n_weighed=300)
    z = np.log(found[:, 2].astype(float)) + OTHERS  # the third gene's slope is 1
    np.testing.assert_allclose(z.reshape(3, 400).mean(axis=1), [0, 1, 3], atol=0.12)
    np.testing.assert_allclose(z.reshape(3, 400).std(axis=1), 0.5, atol=0.1)
    plain = decoded(Wide(), read, draws, scale, np.random.default_rng(0))
    assert np.log(plain[:, 2].astype(float)).std() > 1.3
