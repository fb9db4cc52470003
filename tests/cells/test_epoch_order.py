"""The order of an epoch from a file, and reading ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from grids import each_of
from scvi.cells import epoch_order, storage
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.epoch_order import ahead, count_minibatches, draw_buffers, draw_minibatches
from scvi.cells.setup import declare
from scvi.cells.storage import buffer_cells
from small_cells import KEYS, make_adata
from stores import STORES, stored


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("scvi-reading")]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """48 cells in 8 blocks of 6; no thread outlives a test."""
    monkeypatch.setattr(storage, "BUFFER_CELLS", 48)
    monkeypatch.setattr(epoch_order, "BLOCKS_IN_BUFFER", 8)
    yield
    assert threads() == []


@pytest.fixture(params=STORES)
def on_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CellData]:
    with stored(make_adata(), request.param, tmp_path) as adata:
        yield encode(adata, declare(adata, **KEYS)[0])


@pytest.fixture
def in_memory() -> CellData:
    adata = make_adata()
    return encode(adata, declare(adata, **KEYS)[0])


# ---- order -----------------------------------------------------------------------------------------------------------


def epoch(n: int = 1000, size: int = 16, buffer: int = 128, seed: int = 0) -> list[list[np.ndarray]]:
    ends = np.cumsum([len(part) for part in draw_minibatches(np.arange(n), size, np.random.default_rng(0))])
    return list(draw_buffers(np.arange(n)[::-1], ends, buffer, np.random.default_rng(seed)))


@each_of(n=[2, 15, 16, 17, 100, 128, 129, 1000, 1009], size=[2, 16, 128, 300], buffer=[1, 7, 64, 128, 5000])
def test_minibatches_are_those_of_memory_in_another_order(n: int, size: int, buffer: int) -> None:
    buffers = epoch(n, size, buffer)
    parts = [part for parts in buffers for part in parts]
    expected = draw_minibatches(np.arange(n), size, np.random.default_rng(0))
    assert len(parts) == len(expected) == count_minibatches(n, size)
    assert [len(part) for part in parts] == [len(part) for part in expected]
    assert sorted(np.concatenate(parts)) == list(range(n))
    cells = [sum(map(len, parts)) for parts in buffers]
    assert max(cells) <= max(buffer + 1.5 * size, 1.5 * size + 1)


def test_no_cells() -> None:
    assert list(draw_buffers(np.arange(0), np.arange(0), 8, np.random.default_rng(0))) == []


def test_orders_differ_between_seeds_and_are_the_same_for_one() -> None:
    first, again, other = (np.concatenate([*map(np.concatenate, epoch(seed=seed))]) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).mean() > 0.9


def test_distant_cells_meet_and_neighbours_part() -> None:
    parts = [part for parts in epoch(n=100_000, size=128, buffer=2048) for part in parts]
    distance = np.mean([np.abs(np.subtract.outer(part, part)).mean() for part in parts]) / 100_000
    assert distance > 0.95 * (1 / 3) * (7 / 8)  # a third were they independent; one cell in eight is of the same block
    in_blocks = [len(np.unique(part // (2048 // 8))) for part in parts]
    assert np.mean(in_blocks) > 7  # of eight blocks of a buffer


def test_a_buffer_is_made_of_blocks() -> None:
    for parts in epoch(n=1000, buffer=128):
        steps = np.diff(np.sort(np.concatenate(parts)))
        assert (steps != 1).sum() < 12  # eight blocks, and two that are cut


def test_the_size_of_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUFFER_BYTES", 2400)
    assert [buffer_cells(size) for size in (0, 10, 50, 100, 1e9)] == [48, 48, 48, 24, 1]


@each_of(n=[0, 1, 2, 3, 5, 127, 128, 129, 191, 192, 193, 257, 300], size=[1, 2, 3, 128])
def test_an_epoch(n: int, size: int) -> None:
    indices = 1000 + np.arange(n)
    parts = draw_minibatches(indices, size, np.random.default_rng(0))
    assert sorted(np.concatenate([*parts, []]).astype(int)) == list(indices)
    size = max(size, 2)
    if n > 1:
        assert min(len(part) for part in parts) >= 2
    for part in parts[:-1]:
        assert len(part) == size
    if parts:
        assert len(parts[-1]) < max(1.5 * size, size + 2)
    if len(parts) > 1:
        assert 2 * len(parts[-1]) >= size


def test_an_epoch_is_shuffled_by_the_generator_that_is_given() -> None:
    first, again, other = (
        np.concatenate(draw_minibatches(np.arange(50), 8, np.random.default_rng(seed))) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first != np.arange(50)).any()


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_an_epoch_visits_each_cell_once(on_disk: CellData, in_memory: CellData) -> None:
    cells = np.setdiff1d(np.arange(150), [3, 4, 77])
    minibatches = list(on_disk.epoch(cells, 16, np.random.default_rng(0)))
    assert len(minibatches) == count_minibatches(len(cells), 16)
    assert sorted(torch.cat([mb.indices for mb in minibatches]).tolist()) == cells.tolist()
    for mb in minibatches:
        check_same(mb, in_memory.minibatch(mb.indices.numpy()))


def check_same(mb: object, expected: object) -> None:
    for name in ("x", "batch", "labels", "l_mean", "l_var", "log_size", "continuous", "categorical", "indices"):
        assert torch.equal(getattr(mb, name), getattr(expected, name))


def test_minibatches_come_in_the_order_of_the_indices(on_disk: CellData, in_memory: CellData) -> None:
    order = np.random.default_rng(0).integers(0, 150, 200)
    for indices, size in product((order, None, [], np.arange(150) > 70), (1, 7, 48, 100, 150, 1000)):
        parts, expected = (list(cells.minibatches(indices, size)) for cells in (on_disk, in_memory))
        assert len(parts) == len(expected)
        for mb, other in zip(parts, expected, strict=True):
            check_same(mb, other)


def test_in_memory_the_order_is_any(in_memory: CellData) -> None:
    parts = [mb.indices.numpy() for mb in in_memory.epoch(np.arange(150), 16, np.random.default_rng(5))]
    expected = draw_minibatches(np.arange(150), 16, np.random.default_rng(5))
    assert [part.tolist() for part in parts] == [part.tolist() for part in expected]


def test_moments_are_those_of_memory(on_disk: CellData, in_memory: CellData) -> None:
    for indices in (None, np.arange(0, 150, 3), np.array([7, 2, 2])):
        for got, expected in zip(on_disk.moments(indices), in_memory.moments(indices), strict=True):
            np.testing.assert_array_equal(got, expected)


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def test_results_come_in_order() -> None:
    for n in (0, 1, 2, 9):
        assert list(ahead(lambda item: item**2, range(n))) == [i**2 for i in range(n)]


def test_the_next_result_is_made_meanwhile() -> None:
    began: dict[int, threading.Event] = {item: threading.Event() for item in range(3)}

    def note(item: int) -> str:
        began[item].set()
        return threading.current_thread().name

    results = ahead(note, range(3))
    assert next(results).startswith("scvi-reading")
    assert began[1].wait(5)
    time.sleep(0.01)
    assert not began[2].is_set()  # one ahead, no more: two buffers are in memory
    assert len(threads()) == 1
    results.close()


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    def third_fails(item: int) -> int:
        if item == 2:
            raise OSError("disk gone")
        return item

    results = ahead(third_fails, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(results)
    assert threads() == []


@pytest.mark.parametrize("how", ["close", "drop", "error of the reader"])
def test_the_thread_ends_with_the_iterator(how: str) -> None:
    def use() -> None:
        results = ahead(lambda item: item, range(9))
        next(results)
        if how == "close":
            results.close()
        elif how == "error of the reader":
            for _ in results:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        use()
    assert threads() == []
