"""What tests of several folders share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from importlib.resources import as_file, files
from typing import Any

import anndata
import pytest
from anndata import AnnData

import compiled_kernels
import scvi
from browser import opened
from small_cells import make_adata

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads crawl on a busy machine


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        compiled_kernels.remove_stale()
        if session.config.getoption("numprocesses", None):  # workers start after this, in this environment
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            compiled_kernels.compile_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # begin with what takes long, so that no worker ends with it alone
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """Gives back the logger of the package, whichever a test makes of it."""
    logger = logging.getLogger("scvi")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def cells() -> AnnData:
    """Synthetic counts, see `small_cells.make_adata`."""
    return make_adata()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C works as in a terminal, also where the shell that started the tests ignores it (``nohup make test &``)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def session_seed():
    """Function that sets `scvi.settings.seed` for the length of a test."""
    yield lambda seed: setattr(scvi.settings, "seed", seed)
    scvi.settings.seed = None


@pytest.fixture(scope="session")
def mixology() -> AnnData:
    """The shipped cells: 1021 of five cell lines in five batches, 2000 genes."""
    with as_file(files("scvi").joinpath("demo_data", "sc_mixology_demo.h5ad")) as file:
        return anndata.read_h5ad(file)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser, see `browser.py`; tests that use it are skipped where there is none."""
    with opened(tmp_path_factory.mktemp("profile")) as running:
        yield running
