"""Several models at once: each thread's numbers are those of its seeds, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from asking import ESTIMATORS, ask, equal, make, questions, weights
from scvi.estimators.base import Estimator
from small_cells import QUICK

MAPPED = [cls for cls in ESTIMATORS if hasattr(cls, "load_query_data")]
Numbers = list[np.ndarray]


@pytest.fixture(autouse=True)
def two_kernel_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made_and_asked(cls: type[Estimator]) -> Numbers:
    """All numbers of a model that is made, fitted and asked: weights, history and answers."""
    model = make(cls)
    model.train(**QUICK)
    answers = [part for question in questions(cls) for part in ask(model, question)]
    return [*map(np.asarray, [*weights(model).values(), *model.history.values()]), *answers]


def mapped(cls: type[Estimator]) -> Numbers:
    """The same of a model of new cells."""
    reference = make(cls, encode_covariates=True)
    reference.train(**QUICK)
    cells = reference.adata.copy()
    cells.obs["batch"] = "new"
    model = cls.load_query_data(cells, reference)
    model.train(**QUICK)
    return [*map(np.asarray, weights(model).values()), *ask(model, "get_elbo")]


alone = cache(made_and_asked)


def together(work: Callable[[Any], Numbers], jobs: Sequence[Any]) -> list[Numbers]:
    """What the jobs give in threads that begin at once, while this one draws from the global generators."""
    start = Barrier(len(jobs))

    def begin(job: Any) -> Numbers:
        start.wait(30)
        return work(job)

    numbers = torch.Generator(), np.random.RandomState()
    numbers[0].set_state(torch.get_rng_state())
    numbers[1].set_state(np.random.get_state())
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = [pool.submit(begin, job) for job in jobs]
        while not all(map(Future.done, results)):
            assert float(torch.rand(())) == float(torch.rand((), generator=numbers[0]))
            assert np.random.random() == numbers[1].random_sample()
    return [result.result() for result in results]


@pytest.mark.usefixtures("global_numbers")
@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_two_fits_of_one_seed_are_the_fit_alone(cls: type[Estimator]) -> None:
    assert all(equal(numbers, alone(cls)) for numbers in together(made_and_asked, [cls, cls]))


@pytest.mark.usefixtures("global_numbers")
def test_different_models_at_once() -> None:
    for jobs in (ESTIMATORS[:4], ESTIMATORS[3:]):
        for cls, numbers in zip(jobs, together(made_and_asked, jobs), strict=True):
            assert equal(numbers, alone(cls)), cls.__name__


@pytest.mark.usefixtures("global_numbers")
@pytest.mark.parametrize("cls", MAPPED, ids=lambda cls: cls.__name__)
def test_queries_are_mapped_at_once(cls: type[Estimator]) -> None:
    expected = mapped(cls)
    assert all(equal(numbers, expected) for numbers in together(mapped, [cls, cls]))
