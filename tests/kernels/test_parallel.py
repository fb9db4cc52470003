"""Row blocks on torch's threads, and on a pool where there is no GNU OpenMP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scvi.kernels import parallel


@pytest.fixture(params=["torch's threads", "pool"])
def run_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    if request.param == "pool":
        monkeypatch.setattr(parallel, "_openmp", lambda: None)
    return parallel.run_blocks


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(
    ("n_rows", "min_rows", "lengths"), [(10, 1, [2, 3, 2, 3]), (3, 1, [1, 1, 1]), (10, 4, [5, 5]), (0, 1, [0])]
)
def test_blocks_cover_the_rows(n_rows: int, min_rows: int, lengths: list[int]) -> None:
    blocks = parallel.row_blocks(n_rows, min_rows)
    assert [stop - start for start, stop in blocks] == lengths
    assert [row for start, stop in blocks for row in range(start, stop)] == list(range(n_rows))


@pytest.mark.usefixtures("four_threads")
def test_a_thread_that_reads_ahead_works_alone() -> None:
    with ThreadPoolExecutor(1, initializer=parallel.work_alone) as thread:
        assert thread.submit(parallel.row_blocks, 10).result() == [(0, 10)]
    assert len(parallel.row_blocks(10)) == 4


def test_every_block_runs_once(run_blocks: Callable[..., None]) -> None:
    blocks = [(i, i + 1) for i in range(50)]
    seen = []
    run_blocks(lambda block, start, stop: seen.append((block, start, stop)), blocks)
    assert sorted(seen) == [(i, i, i + 1) for i in range(50)]


def test_two_blocks_run_at_the_same_time(run_blocks: Callable[..., None]) -> None:
    meet = threading.Barrier(2, timeout=30)
    run_blocks(lambda *_: meet.wait(), [(0, 1), (1, 2)])


def test_what_a_block_raises_is_raised(run_blocks: Callable[..., None]) -> None:
    def work(block: int, start: int, stop: int) -> None:
        if block == 1:
            raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        run_blocks(work, [(0, 1), (1, 2), (2, 3)])


@pytest.fixture(params=["torch's threads", "pool"])
def run_in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    if request.param == "pool":
        monkeypatch.setattr(parallel, "_openmp", lambda: None)
    return parallel.run_in_turn


@pytest.mark.parametrize("n_shares", [1, 2, 5])
def test_a_work_begins_when_the_one_before_is_done(run_in_turn: Callable[..., None], n_shares: int) -> None:
    seen: list[tuple[str, int]] = []

    def slow(share: int) -> None:
        time.sleep(0.01 * share)
        seen.append(("first", share))

    run_in_turn((slow, lambda share: seen.append(("second", share))), n_shares)
    assert sorted(seen[:n_shares]) == [("first", i) for i in range(n_shares)]
    assert sorted(seen[n_shares:]) == [("second", i) for i in range(n_shares)]


def test_no_work_follows_one_that_raised(run_in_turn: Callable[..., None]) -> None:
    seen: list[int] = []

    def work(share: int) -> None:
        if share == 1:
            raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        run_in_turn((work, seen.append), 3)
    assert not seen
