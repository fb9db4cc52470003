"""Row blocks on torch's threads, and on a pool where there is no GNU OpenMP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from scvi.kernels import parallel


@pytest.fixture(params=["torch's threads", "pool"])
def run_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    if request.param == "pool":
        monkeypatch.setattr(parallel, "_openmp_team", lambda: None)
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
