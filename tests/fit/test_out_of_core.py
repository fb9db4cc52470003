"""Fitting from a file: as good as in memory, repeatable, resumable, and without a trace when it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

import scvi
from scvi.cells import epoch_order, storage
from scvi.cells.on_disk import OnDisk, SparseOnDisk
from scvi.fit.fit import Fit
from small_cells import QUICK, TINY, make_adata
from stores import STORES, stored

EARLIER: set[threading.Thread] = set()  # of fits in other tests, whose errors are held yet


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several buffers an epoch, of several blocks each; no thread outlives a test."""
    monkeypatch.setattr(storage, "BUFFER_CELLS", 48)
    monkeypatch.setattr(epoch_order, "BLOCKS_IN_BUFFER", 8)
    EARLIER.clear()
    EARLIER.update(threads())
    yield
    assert threads() == []


def threads() -> list[threading.Thread]:
    found = [thread for thread in threading.enumerate() if thread.name.startswith("scvi-reading")]
    return [thread for thread in found if thread not in EARLIER]


@pytest.fixture
def backed(tmp_path: Path) -> Iterator[AnnData]:
    with stored(make_adata(), "h5ad", tmp_path) as adata:
        yield adata


def new(adata: AnnData, **options: Any) -> scvi.SCVI:
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    return scvi.SCVI(adata, **{**TINY, **options})


def fit(adata: AnnData, **arguments: Any) -> scvi.SCVI:
    model = new(adata)
    model.train(**{**QUICK, "batch_size": 16, **arguments})
    return model


def same(first: scvi.SCVI, second: scvi.SCVI) -> bool:
    a, b = first.module.state_dict(), second.module.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a) and all(
        first.history[name].equals(second.history[name]) for name in first.history
    )


@pytest.fixture(scope="module")
def from_h5ad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[scvi.SCVI]:
    with pytest.MonkeyPatch.context() as patch, stored(make_adata(), "h5ad", tmp_path_factory.mktemp("x")) as adata:
        patch.setattr(storage, "BUFFER_CELLS", 48)
        patch.setattr(epoch_order, "BLOCKS_IN_BUFFER", 8)
        yield fit(adata)


@pytest.mark.parametrize("store", STORES)
def test_the_same_seed_gives_the_same_model_whatever_the_store(
    store: str, from_h5ad: scvi.SCVI, tmp_path: Path
) -> None:
    with stored(make_adata(), store, tmp_path) as adata:
        model = fit(adata)
        assert isinstance(model._cells.data.counts, OnDisk)
        assert same(model, from_h5ad)
        assert not same(fit(adata, seed=1), from_h5ad)


@pytest.mark.parametrize("store", STORES)
def test_questions_are_answered_as_in_memory(store: str, from_h5ad: scvi.SCVI, tmp_path: Path) -> None:
    order = np.random.default_rng(0).integers(0, 150, 70)
    with stored(make_adata(), store, tmp_path) as adata:
        for cells in ({}, {"indices": order}, {"batch_size": 7}):
            for ask in (
                from_h5ad.get_latent_representation,
                lambda **of: from_h5ad.get_normalized_expression(return_numpy=True, seed=0, **of),
                lambda **of: from_h5ad.get_elbo(return_mean=False, seed=0, **of),
                lambda **of: from_h5ad.get_marginal_ll(n_mc_samples=3, return_mean=False, seed=0, **of),
            ):
                np.testing.assert_array_equal(ask(adata=adata, **cells), ask(adata=make_adata(), **cells))


def test_a_model_of_a_file_is_saved_and_loaded(backed: AnnData, tmp_path: Path) -> None:
    with stored(make_adata(), "zarr", tmp_path) as adata:
        model = fit(adata)
        model.save(tmp_path / "model", save_anndata=True)
        loaded = scvi.SCVI.load(tmp_path / "model")
        again = scvi.SCVI.load(tmp_path / "model", adata=backed)
        expected = model.get_latent_representation()
    for other in (loaded, again):
        np.testing.assert_array_equal(other.get_latent_representation(), expected)


class PowerCut(Exception):
    pass


def test_resume_is_exact(backed: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"max_epochs": 10, "check_val_every_n_epoch": 2}
    whole = fit(backed, **arguments)
    end_of_epoch = Fit.on_epoch_end

    def cut(self: Fit) -> bool:
        go_on = end_of_epoch(self)
        if self.loop.epoch == 6:
            raise PowerCut
        return go_on

    monkeypatch.setattr(Fit, "on_epoch_end", cut)
    with pytest.raises(PowerCut):
        fit(backed, checkpoint_dir=tmp_path / "checkpoint", **arguments)
    monkeypatch.setattr(Fit, "on_epoch_end", end_of_epoch)
    assert (tmp_path / "checkpoint").is_dir()
    resumed = fit(backed, checkpoint_dir=tmp_path / "checkpoint", resume=True, **arguments)
    assert same(whole, resumed)


def test_reading_goes_on_while_a_step_is_taken(backed: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    end_of_step = Fit.on_iteration_end

    def look(self: Fit) -> None:
        seen.append(len(threads()))
        end_of_step(self)

    monkeypatch.setattr(Fit, "on_iteration_end", look)
    fit(backed)
    assert set(seen) == {1}


@pytest.mark.parametrize("read", [0, 4, 9])
def test_an_error_of_the_file_is_raised(backed: AnnData, read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new(backed)
    whole, reads = SparseOnDisk.read, iter(range(1000))

    def fails(self: SparseOnDisk, rows: np.ndarray) -> Any:
        if next(reads) == read:
            raise OSError("the disk is gone")
        return whole(self, rows)

    monkeypatch.setattr(SparseOnDisk, "read", fails)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        model.train(**{**QUICK, "batch_size": 16})
    assert threads() == []  # though the traceback is held
    assert caught.tb is not None
    assert model.is_trained == (read > 0)
    monkeypatch.setattr(SparseOnDisk, "read", whole)
    model.train(**QUICK)
    assert model.is_trained


def test_an_interruption_leaves_a_model_and_no_thread(backed: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Fit) -> None:
        self.loop.n_iter += 1
        self.loop.interrupted = self.loop.n_iter == 3
        assert len(threads()) == 1

    monkeypatch.setattr(Fit, "on_iteration_end", stop)
    with pytest.warns(UserWarning, match="KL weight"):
        model = fit(backed)
    assert threads() == []
    assert model.was_interrupted
    assert model.is_trained


def test_a_second_interruption_leaves_no_thread(backed: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Fit) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "on_iteration_end", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(backed)
    assert threads() == []


def test_starting_values_take_one_pass(backed: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new(backed)
    whole, cells = SparseOnDisk.read, []
    monkeypatch.setattr(SparseOnDisk, "read", lambda self, rows: cells.append(len(rows)) or whole(self, rows))
    model.train(**{**QUICK, "max_epochs": 2})
    assert sum(cells) == 135 + 2 * 150  # the training cells once more than the two epochs with their validation


def test_nothing_is_read_again_to_see_whether_a_file_has_changed(
    backed: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stored(make_adata(), "zarr", tmp_path) as adata:
        models = [fit(adata), fit(backed)]
        whole, cells = SparseOnDisk.read, []
        monkeypatch.setattr(SparseOnDisk, "read", lambda self, rows: cells.append(len(rows)) or whole(self, rows))
        for model in models:
            model.get_latent_representation(indices=[3, 5])
        assert cells == [2, 2]


@pytest.mark.slow
def test_real_cells_are_fitted_as_well_as_in_memory(mixology: AnnData, tmp_path: Path) -> None:
    in_order = mixology[np.argsort(mixology.obs["cell_type"].to_numpy(), kind="stable")].copy()  # neighbours are alike
    held_out = np.arange(in_order.n_obs) % 5 == 0
    train, test = in_order[~held_out].copy(), in_order[held_out].copy()

    def elbo(adata: AnnData) -> float:
        scores = []
        for seed in range(2):
            scvi.SCVI.setup_anndata(adata, batch_key="batch")
            model = scvi.SCVI(adata, seed=seed)
            model.train(20, batch_size=32, train_size=1.0, seed=seed, enable_progress_bar=False)
            scores.append(model.get_elbo(test, seed=0))
        return float(np.mean(scores))

    storage.BUFFER_CELLS, epoch_order.BLOCKS_IN_BUFFER = 256, 64  # put back by the fixture
    with stored(train, "h5ad", tmp_path) as backed:
        from_file = elbo(backed)
    assert from_file == pytest.approx(elbo(train), rel=2e-3)
