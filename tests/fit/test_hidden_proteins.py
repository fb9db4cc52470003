"""What the encoder of totalVI is shown in a fit where a batch lacks proteins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scvi
from scvi.fit.fit import Fit
from scvi.fit.objectives import HidingProteins
from scvi.fit.plan import Plan, ProteinPlan
from scvi.minibatch import Minibatch
from scvi.models.decoded import ProteinCounts, ProteinValue
from small_cells import QUICK, TINY, N, make_adata


def panels(*lacking: list[str]) -> scvi.TOTALVI:
    """Three batches, each without some of the five proteins."""
    adata = make_adata()
    for code, names in enumerate(lacking):
        adata.obsm["proteins"].loc[(adata.obs["batch"] == f"b{code}").to_numpy(), names] = 0
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    return scvi.TOTALVI(adata, **TINY)


def objective(model: scvi.TOTALVI, share: float) -> HidingProteins:
    data, cells = model._cells.own("be fitted"), np.arange(N)
    plan = ProteinPlan(1, hide_proteins=share)
    found = Fit(model.module, data, cells[:-20], cells[-20:], plan, seed=3, show_progbar=False).objective
    assert isinstance(found, HidingProteins)
    return found


def all_cells(model: scvi.TOTALVI) -> Minibatch:
    return model._cells.own("be fitted").minibatch(np.arange(N))


NAMES = [f"protein{j}" for j in range(5)]


@pytest.fixture(scope="module")
def hiding() -> HidingProteins:
    return objective(panels([], NAMES), 1.0)


@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=3, max_size=3), st.sampled_from([0.0, 0.3, 1.0])
)
def test_a_cell_is_shown_as_one_of_a_batch_that_lacks_some_of_its_proteins(
    hiding: HidingProteins, masks: list[list[bool]], share: float
) -> None:
    measured, mb = np.array(masks), hiding.split.data.minibatch(np.arange(N))
    mb = replace(mb, proteins=1.0 + torch.from_numpy(measured)[mb.batch[:, 0]])
    hiding.model.protein_batch_mask = torch.from_numpy(measured)
    plan = replace(hiding.plan, hide_proteins=share)
    seen = HidingProteins(hiding.model, hiding.split, plan, hiding.seed).shown(mb)
    own, shown = mb.batch[:, 0].numpy(), seen.batch[:, 0].numpy()
    assert seen.counts is mb.counts
    if share:
        np.testing.assert_array_equal(seen.proteins, np.asarray(mb.proteins) * measured[shown])
    np.testing.assert_array_equal(shown != own, (measured[own] & ~measured[shown]).any(1))
    could = (measured[own][:, None] & ~measured).any((1, 2))
    assert abs((shown != own).sum() - share * could.sum()) <= 5 * np.sqrt(could.sum() * share * (1 - share))


def test_all_that_was_measured_stays_in_the_likelihood() -> None:
    model = panels([], NAMES)
    hiding, mb = objective(model, 1.0), all_cells(model)
    assert model.module.protein_batch_mask is not None
    model.module.eval()
    terms = [
        model.module.loss(mb, torch.Generator().manual_seed(0), seen).reconstruction["proteins"]
        for seen in (mb, hiding.shown(mb))
    ]
    changed = (terms[0] != terms[1]).numpy()
    np.testing.assert_array_equal(changed, mb.batch[:, 0].numpy() != 1)
    assert (terms[1] > 0)[changed].all()


def test_where_every_batch_measured_everything_nothing_is_hidden_or_drawn() -> None:
    def history(plan: dict[str, Any]) -> pd.DataFrame:
        model = panels()
        model.train(**QUICK, **plan)
        return model.history["elbo_train"]

    pd.testing.assert_frame_equal(history({"hide_proteins": 0.9}), history({"hide_proteins": 0.0}))


@pytest.mark.parametrize("share", [-0.1, 1.1, "all", None])
def test_no_share(share: Any) -> None:
    with pytest.raises(ValueError, match=r"hide_proteins=.* is not a share, a number from 0 to 1"):
        ProteinPlan(1, hide_proteins=share)
    assert ProteinPlan(1).to_json() == {**Plan(1).to_json(), "hide_proteins": 0.8}


def test_a_mapped_model_hides_nothing() -> None:
    reference = panels([], NAMES)
    reference.train(**QUICK)
    query = make_adata()
    query.obs["batch"] = "new"
    found = []
    for share in (0.0, 0.9):
        mapped = scvi.TOTALVI.load_query_data(query.copy(), reference)
        mapped.train(**QUICK, hide_proteins=share)
        found.append(mapped.history["elbo_train"])
    pd.testing.assert_frame_equal(*found)


def test_the_mean_of_the_background_is_what_its_draws_come_to() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    posterior = torch.distributions.Normal(noise(4, 3), 0.3 * noise(4, 3).exp())
    proteins = ProteinCounts(posterior, noise(4, 3).abs(), noise(4, 3), noise(3))
    for with_background in (False, True):
        value = ProteinValue(include_background=with_background)
        drawn = torch.stack([proteins.expected(value, generator) for _ in range(20_000)])
        exact = proteins.expected(ProteinValue(include_background=with_background, mean_background=True))
        far = (drawn.mean(0) - exact).abs() / (drawn.std(0) / len(drawn) ** 0.5)
        assert far.max() < 4.5


def test_averages_do_not_depend_on_draws_of_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.queries.expression.draw", lambda q, s, generator: q.loc.expand(s, *q.loc.shape))
    model = panels()
    model.train(**QUICK)
    means = [model.get_normalized_expression(seed=seed)[1] for seed in (0, 1)]
    pd.testing.assert_frame_equal(*means)
    kept = [model.get_normalized_expression(seed=seed, n_samples=2, return_mean=False)[1] for seed in (0, 1)]
    assert not np.allclose(*kept)
