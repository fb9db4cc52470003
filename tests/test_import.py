"""`import scvi` is silent and light: each check runs in a fresh interpreter."""

import subprocess
import sys

import pytest

import scvi

HEAVY = [
    "torch",
    "pooch",
    "requests",
    "openpyxl",
    "anndata",
    "matplotlib",
    "sklearn",
    "scanpy",
    "numba",
    "umap",
    "skmisc",
    "pandas",
    "optuna",
    "sqlalchemy",
]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_import_is_silent_and_loads_nothing_heavy():
    assert run(f"import sys, scvi; print([m for m in {HEAVY} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("name", ["SCVI", "data", "dataset"])
def test_the_estimators_and_the_readers_load_no_optional_or_slow_package(name):
    lazy = ["pooch", "requests", "openpyxl", "matplotlib", "scanpy", "umap", "sklearn", "numba"]
    code = f"import anndata, sys, scvi; before = set(sys.modules); scvi.{name}; new = set(sys.modules) - before\n"
    assert run(code + f"print([m for m in {lazy} if m in new])") == "[]\n"


def test_import_leaves_logging_and_random_numbers_alone():
    code = """
import logging, numpy as np, torch
root, level = logging.getLogger().handlers[:], logging.getLogger().level
torch.manual_seed(1); np.random.seed(1)
states = torch.get_rng_state(), np.random.get_state()[1].copy()
cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
import scvi
scvi.SCVI, scvi.models, scvi.inference, scvi.data, scvi.dataset, scvi.queries
assert logging.getLogger().handlers == root and logging.getLogger().level == level
logger = logging.getLogger("scvi")
assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
assert logger.level == logging.NOTSET and logger.propagate
assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == cudnn
logger.warning("nobody asked to see this")
"""
    assert run(code) == ""


@pytest.mark.parametrize("name", scvi.__all__)
def test_every_exported_name_exists(name):
    assert getattr(scvi, name) is not None
    assert name in dir(scvi)


def test_model_is_an_alias_of_the_estimators():
    from scvi.model import SCVI

    assert SCVI is scvi.SCVI is scvi.model.SCVI is scvi.estimators.SCVI


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'scvi' has no attribute 'SCVY'"):
        scvi.SCVY  # noqa: B018
