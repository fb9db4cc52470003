"""What must not change by accident: numbers of fits, public names and their arguments, names of weights. See README.md.

The same numbers bit for bit, on one machine, are compared by `compare.py`.
"""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pins import fits, networks
from pins.digests import digest, distance, tolerance
from pins.surface import changes, describe

HERE = Path(__file__).parent
HINT = "if this is meant, write the pins anew: python tests/pins/write.py"


def pinned(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text())


NUMBERS, SIGNATURES, NETWORKS, IMPORTS = map(pinned, ("numbers", "signatures", "networks", "imports"))


def test_every_fit_and_every_network_is_pinned() -> None:
    assert list(NUMBERS) == list(fits.FITS)
    assert list(NETWORKS) == list(networks.NETWORKS)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    found, known = digest(fits.run(name)), NUMBERS[name]
    assert found.keys() == known.keys()
    apart = {entry: distance(found[entry], known[entry]) for entry in known}
    far = {entry: (found[entry], known[entry]) for entry in known if apart[entry] > tolerance(name, entry)}
    assert not far, HINT


@pytest.mark.parametrize("module", SIGNATURES)
def test_signatures(module: str) -> None:
    known = {module: SIGNATURES[module]}
    assert not changes(describe(known), known), HINT


def test_every_estimator_is_pinned_with_its_methods() -> None:
    import scvi

    exported = {
        name for name in scvi.__all__ if inspect.isclass(getattr(scvi, name)) or inspect.isfunction(getattr(scvi, name))
    }
    assert set(SIGNATURES["scvi"]) == exported


@pytest.mark.parametrize("module", IMPORTS)
def test_import_paths_of_2020(module: str) -> None:
    """``from module import name``, where a name may be a module."""
    found = import_module(module)
    assert [name for name in IMPORTS[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_names_of_weights(name: str) -> None:
    assert networks.weights(name) == NETWORKS[name], HINT
