"""The names of release 0.6.3, one by one: in the page, at their import path, with their arguments, and called once."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from name_tables import NEEDED, ROOT, arguments, by_position, listed, parameters, places, spans, tables
from objects_2020 import MADE, given, made, trained

PAGE = "docs/from-2020.md"


def lines() -> list[tuple[str, str]]:
    """Modules and what is in them: ``name``, ``name(arguments)`` or ``name = module of its home``."""
    text = (ROOT / "tests" / "of_2020.txt").read_text(encoding="utf-8")
    found = (line.partition(": ") for line in text.splitlines() if line and not line.startswith("#"))
    return [(module, what) for module, _, what in found]


def with_header(*header: str) -> list[list[str]]:
    return [cells for table in tables(PAGE) if tuple(table.header) == header for cells in table.rows]


def in_rows(rows: list[list[str]]) -> set[str]:
    """Names of functions and classes in the first cells of rows, and of what these have in the second."""
    found = set()
    for names, members in rows:
        found |= {*spans(names), *(f"{name}.{member}" for name in spans(names) for member in listed(members))}
    return found


EXPORTS = [(module, *what.split(" = ")) for module, what in lines() if " = " in what]
THERE = {
    (module, what.partition("(")[0]): "".join(what.partition("(")[1:]) for module, what in lines() if " = " not in what
}
"""Arguments of what is called, nothing of what is a value."""
PRESENT = in_rows(with_header("name", "its methods and attributes"))
ABSENT = {name for cells in with_header("name", "why, and what to do") for name in spans(cells[0])}
CALLED = [key for key, rest in THERE.items() if rest and key[1] in PRESENT]
ATTRIBUTES = [key for key, rest in THERE.items() if not rest and key[1] in PRESENT]


def function(module: str, name: str) -> Callable[..., Any]:
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[return-value]


def test_each_name_is_in_the_page() -> None:
    names = {name for _, name in THERE}
    assert names - PRESENT - ABSENT == set()
    assert names >= PRESENT | ABSENT
    assert not ABSENT & PRESENT


def test_import_paths() -> None:
    for module, names, home in EXPORTS:
        for name in names.split(", "):
            assert getattr(import_module(module), name) is getattr(import_module(home), name), name


def test_what_is_not_there() -> None:
    for _, name in [(module, name) for module, name in THERE if name in ABSENT]:
        owner, _, method = name.partition(".")
        with pytest.raises(NotImplementedError, match=method):
            getattr(made(owner), method)()


def test_arguments_are_those_of_then() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for module, name in CALLED:
        rest = THERE[module, name]
        known, here = parameters(function(module, name)), places(function(module, name))
        keywords = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        for place, argument in enumerate(by_position(rest)):
            assert argument not in known or here[place] == argument, (name, argument)
        for argument, default in arguments(rest).items():
            assert argument in known or keywords, (name, argument)
            if argument in known and default not in (..., NEEDED) and f"`{name}({argument})`" not in text:
                found = known[argument].default
                assert (type(found), found) == (type(default), default), (name, argument)


@pytest.mark.parametrize(("module", "name"), ATTRIBUTES)
def test_values(module: str, name: str) -> None:
    owner, _, attribute = name.partition(".")
    assert getattr(made(owner) if attribute else import_module(module), attribute or name) is not None


def is_of_the_web(name: str) -> bool:
    """Data sets in files, and those that are drawn whole: tests/dataset calls them, with files in place of the web."""
    owner = name.partition(".")[0]
    return owner not in MADE and (owner.endswith("Dataset") or owner.startswith(("Dataset", "AnnDataset")))


@pytest.mark.parametrize(("module", "name"), [key for key in CALLED if not is_of_the_web(key[1])])
@pytest.mark.filterwarnings("ignore:differential_expression_stats is deprecated")
def test_a_call_works(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    owner, _, method = name.partition(".")
    if not method and owner in MADE:
        assert isinstance(made(owner), function(module, name))
        return
    if name == "AutoZIVAE.cuda" and not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
            made(owner).cuda()
        return
    values = given(name, arguments(THERE[module, name]), tmp_path)
    called = asked(module, owner, method)
    stars = [parameter.name for parameter in parameters(called).values() if parameter.kind is parameter.VAR_POSITIONAL]
    rest = [entry for star in stars for entry in values.pop(star, ())]
    in_front = [values.pop(argument) for argument in places(called) if argument in values] if rest else []
    called(*in_front, *rest, **values)


def asked(module: str, owner: str, method: str) -> Callable[..., Any]:
    """A function, or a method of an object; hooks and losses are those of a trainer that has trained."""
    if not method:
        return function(module, owner)
    is_of_a_fit = owner.endswith("Trainer") and method != "train"
    return getattr(trained(owner) if is_of_a_fit else made(owner), method)


def test_data_sets_of_the_web_are_called_elsewhere() -> None:
    folders = (ROOT / "tests" / "dataset", ROOT / "tests" / "test_2020")
    text = "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    names = {name for _, name in CALLED if is_of_the_web(name)}
    assert [name for name in sorted(names) if not re.search(rf"\b{name.partition('.')[0]}\b", text)] == []
