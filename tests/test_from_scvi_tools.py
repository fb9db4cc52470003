"""The page on scvi-tools, name by name: each is there with the arguments that it says, and a call of it works."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import formats
import scvi
from asking import SETUP, cells_of, make, names_of_cells
from name_tables import NEEDED, ROOT, arguments, by_position, listed, parameters, places, spans, tables
from small_cells import QUICK, TINY, G, make_adata

PAGE = "docs/from-scvi-tools.md"
CLASSES = ("SCVI", "LinearSCVI", "SCANVI", "TOTALVI", "AUTOZI", "CondSCVI", "GIMVI")
DATA, SETTINGS = "scvi.data", "scvi.settings"
Name = tuple[str, str]
"""A class, or a module, and what is in it; a constructor is ``__init__``."""


# ---- what there is in that package -----------------------------------------------------------------------------------


class There(NamedTuple):
    """The arguments of a name with their defaults, and those that need no name."""

    arguments: dict[str, Any]
    by_position: list[str]


def names_there() -> dict[Name, There | None]:
    """What is called, and attributes (None)."""
    found: dict[Name, There | None] = {}
    for line in (ROOT / "tests" / "of_scvi_tools.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            owners, _, what = line.partition(": ")
            name, bracket, rest = what.partition("(")
            there = There(arguments(bracket + rest), by_position(bracket + rest)) if bracket else None
            found |= {(owner, name): there for owner in (CLASSES if owners == "all" else owners.split(" "))}
    return found


THERE = names_there()


def defaults(owner: str, name: str = "__init__") -> dict[str, Any]:
    """Arguments with their defaults."""
    there = THERE[owner, name]
    return {} if there is None else there.arguments


# ---- what the page says of it ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """How the page says that a name is called: by position only, either way, by name only; and what differs."""

    in_front: list[str]
    either: list[str]
    by_name: list[str]
    note: str

    @property
    def all(self) -> list[str]:
        return [*self.in_front, *self.either, *self.by_name]


def row(cell: str, note: str) -> Row:
    taken = listed(cell)
    slash = taken.index("/") if "/" in taken else 0
    rest = taken[slash + 1 if slash else 0 :]
    star = rest.index("*") if "*" in rest else len(rest)
    return Row(taken[:slash], rest[:star], rest[star + 1 :], note)


def with_header(*header: str) -> Iterator[tuple[str, list[str]]]:
    """Rows of the tables with these headings, and what they stand under."""
    for table in tables(PAGE):
        if tuple(table.header) == header:
            yield from ((table.heading, cells) for cells in table.rows)


def meant(span: str, owner: str = "") -> list[Name]:
    """What ``SCVI.train``, ``SCVI`` or ``train`` is the name of; the last in all classes."""
    if owner:
        return [(owner, span)]
    if span in CLASSES:
        return [(span, "__init__")]
    owner, _, name = span.rpartition(".")
    return [there for there in THERE if there[1] == name and (there[0] == owner if owner else there[0] in CLASSES)]


def spread(found: dict[str, tuple[str, Any]], besides: dict[Name, Any] | None = None) -> dict[Name, Any]:
    """By name what stands in lines of the page; one that names a class goes before one that is for all.

    Parameters
    ----------
    found
        By what stands in backticks the module it is in, or "", and what is said of it.
    besides
        Names that are spoken of elsewhere.
    """
    of_one = {
        key: value for span, (owner, value) in found.items() if owner or is_of_one(span) for key in meant(span, owner)
    }
    of_all = {
        key: value for span, (owner, value) in found.items() if not (owner or is_of_one(span)) for key in meant(span)
    }
    return {**{key: value for key, value in of_all.items() if key not in (besides or {})}, **of_one}


def is_of_one(span: str) -> bool:
    return "." in span or span in CLASSES


def absent() -> dict[Name, str]:
    found: dict[str, tuple[str, str]] = {}
    for _, (cell, why) in with_header("name", "why, and what to do"):
        first, *rest = spans(cell)
        owner = first if first in (DATA, SETTINGS) else ""
        found |= dict.fromkeys(rest if owner else [first, *rest], (owner, why))
    return spread(found)


def refused() -> list[tuple[Name, str]]:
    """Names and arguments that they do not take."""
    found = []
    for _, (cell, _) in with_header("argument", "why, and what to do"):
        for span in spans(cell):
            of, bracket, argument = span.rpartition("(")
            of, argument = (of, argument[:-1]) if bracket else ("", span)
            names = [*meant(of), *meant(of, DATA)] if of else list(THERE)
            found += [(name, argument) for name in names if argument in getattr(THERE.get(name), "arguments", ())]
    return found


ABSENT, REFUSED = absent(), refused()
ROWS: dict[Name, Row] = spread(
    {
        span: (DATA if heading == "Data" else "", row(taken, note))
        for heading, (names, taken, note) in with_header("name", "arguments", "what differs")
        for span in spans(names)
    },
    ABSENT,
)
CALLED = {name: there for name, there in THERE.items() if name in ROWS and there is not None}
"""What the page says that is called."""


def settings() -> list[str]:
    return [name for _, (names, _) in with_header("name of `scvi.settings`", "what differs") for name in spans(names)]


def function(name: Name) -> Callable[..., Any]:
    owner, method = name
    if owner == DATA:
        return getattr(scvi.data, method)
    cls = getattr(scvi, owner)
    return cls if method == "__init__" else getattr(cls, method)


# ---- the page is whole, and true -------------------------------------------------------------------------------------


def test_each_name_of_that_package_is_in_the_page() -> None:
    own = {name for name in THERE if name[0] in (*CLASSES, DATA)}
    assert own - set(ROWS) - set(ABSENT) == set()
    assert set(ROWS) <= own
    assert {name for owner, name in set(THERE) - set(ABSENT) if owner == SETTINGS} == set(settings())
    assert not set(ROWS) & set(ABSENT)


def test_each_argument_is_in_the_page() -> None:
    for name, there in CALLED.items():
        taken = [argument for argument in there.arguments if (name, argument) not in REFUSED]
        assert ROWS[name].all == taken, name


def test_arguments_stand_where_the_page_says() -> None:
    for name, there in CALLED.items():
        said, here = ROWS[name], places(function(name))
        for argument in said.in_front:
            assert there.by_position.index(argument) < len(here), name
        for argument in said.either:
            assert here[there.by_position.index(argument)] == argument, name
        first = said.by_name[0] if said.by_name else None
        if first in there.by_position:  # the star is not further in front than it must be
            place = there.by_position.index(first)
            assert here[place : place + 1] != [first], name


def test_defaults_are_those_of_that_package_or_in_the_note() -> None:
    for name, there in CALLED.items():
        known = parameters(function(name))
        for argument in set(ROWS[name].all) & set(known) - {"batch_size"}:
            wanted, found = there.arguments[argument], known[argument].default
            if wanted is not ... and wanted is not NEEDED and (wanted != found or (wanted is None) != (found is None)):
                assert f"`{argument}" in ROWS[name].note, (name, argument, found)


def test_what_is_absent_is_absent() -> None:
    for owner, name in ABSENT:
        if (owner, name) == ("GIMVI", "adata"):
            with pytest.raises(AttributeError, match="adata_seq"):
                _ = fitted("GIMVI").adata
        else:
            assert not hasattr(scvi.data if owner == DATA else getattr(scvi, owner.removeprefix("scvi.")), name), name


def test_attributes_are_there() -> None:
    for owner, name in ROWS:
        if THERE[owner, name] is None:
            assert not callable(getattr(fitted(owner), name))


# ---- a call of it works ----------------------------------------------------------------------------------------------


@cache
def fitted(owner: str) -> Any:
    """A fitted model that no test changes."""
    return fresh(owner)


def fresh(owner: str) -> Any:
    model = make(getattr(scvi, owner))
    model.train(**QUICK)
    return model


@pytest.fixture(autouse=True, scope="module")
def as_mudata_will_be() -> Iterator[None]:
    with mudata.set_options(pull_on_update=False):
        yield


def as_mudata() -> mudata.MuData:
    adata = make_adata()
    table = adata.obsm.pop("proteins")
    names = {"obs": pd.DataFrame(index=table.index), "var": pd.DataFrame(index=table.columns)}
    return mudata.MuData({"rna": adata, "protein": AnnData(table.to_numpy(np.float32), **names)})


def of_mudata() -> Any:
    cells = as_mudata()
    scvi.TOTALVI.setup_mudata(cells)
    model = scvi.TOTALVI(cells, **TINY)
    model.train(**QUICK)
    return model


def query() -> AnnData:
    adata = make_adata(60, G, seed=3)
    adata.obs["batch"] = "b9"
    return adata


def cells(owner: str) -> dict[str, AnnData]:
    """Cells that are set up, by what the constructor calls them."""
    return dict(zip(names_of_cells(getattr(scvi, owner)), cells_of(fitted(owner)), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a saved model of each class."""
    folder = tmp_path_factory.mktemp("saved")
    for owner in CLASSES:
        fitted(owner).save(folder / owner, save_anndata=True)
    return folder


OF_A_QUERY = ("load_query_data", "prepare_query_anndata", "prepare_query_mudata")
OF_A_CLASS = ("setup_anndata", "setup_mudata", "from_scvi_model", "load", "view_setup_args", *OF_A_QUERY)


def called(owner: str, method: str) -> Callable[..., Any]:
    if method == "__init__":
        return getattr(scvi, owner)
    if method in OF_A_CLASS:
        return getattr(getattr(scvi, owner), method)
    if method == "minify_mudata":
        return of_mudata().minify_mudata
    model = make(getattr(scvi, owner)) if method == "train" else (fresh if method == "minify_adata" else fitted)(owner)
    return getattr(model, method)


def needed(owner: str, method: str, folder: Path) -> dict[str, Any]:
    """Arguments that have no default there, or one that takes long or cannot be for these cells."""
    if method == "prepare_query_mudata":
        return {"mdata": as_mudata(), "reference_model": of_mudata()}
    if method in OF_A_QUERY:
        return {"adata": query(), "reference_model": fitted(owner)}
    values: dict[str, Callable[[], dict[str, Any]]] = {
        "__init__": lambda: cells(owner),
        "setup_anndata": lambda: {"adata": make_adata(), **SETUP.get(getattr(scvi, owner), {})},
        "setup_mudata": lambda: {"mdata": as_mudata()},
        "from_scvi_model": lambda: {
            "scvi_model": fitted("SCVI"), "unlabeled_category": "t2", "labels_key": "cell_type",
        },
        "train": lambda: {"max_epochs": 1, "enable_progress_bar": False},
        "save": lambda: {"dir_path": folder / owner, "overwrite": True, "save_anndata": True},
        "load": lambda: {"dir_path": folder / owner},
        "view_setup_args": lambda: {"dir_path": folder / owner},
        "to_device": lambda: {"device": "cpu"},
        "differential_expression": lambda: {"groupby": "cell_type", "n_samples": 20},
        "differential_abundance": lambda: {"sample_key": "batch"},
        "get_marginal_ll": lambda: {"n_mc_samples": 20},
        "get_protein_background_mean": lambda: {"adata": None, "indices": [0, 1], "batch_size": None},
    }  # fmt: skip
    return values.get(method, dict)()


OF_CLASSES = pytest.mark.parametrize("name", [name for name in CALLED if name[0] in CLASSES], ids=".".join)


@OF_CLASSES
def test_a_call_with_each_argument_works(name: Name, folder: Path) -> None:
    values = needed(*name, folder)
    there = {argument: CALLED[name].arguments[argument] for argument in ROWS[name].all}
    there = {argument: default for argument, default in there.items() if default is not NEEDED}
    with warnings.catch_warnings():
        if name[1] == "load_query_data":
            warnings.simplefilter("ignore")  # the encoder of the reference sees no batch
        called(*name)(**{**there, **values})


@OF_CLASSES
def test_refused_arguments_are_named(name: Name, folder: Path) -> None:
    arguments = [argument for of, argument in REFUSED if of == name]
    if arguments:
        values, asked = needed(*name, folder), called(*name)
        for argument in arguments:
            with pytest.raises((TypeError, ValueError), match=argument):
                asked(**values, **{argument: object()})


def listed_by(column: int, *header: str) -> dict[str, list[str]]:
    """Names in a column by the first name of the row."""
    return {spans(cells[0])[0]: listed(cells[column]) for _, cells in with_header(*header)}


OF_MODULES = ("module there", "taken by name", "refused")
OF_TRAINER = ("there", "used", "named in the log at level INFO, not used", "refused")


@pytest.mark.parametrize(("module", "owners"), [("VAE", ("SCVI", "SCANVI", "CondSCVI")), ("TOTALVAE", ("TOTALVI",))])
def test_options_of_networks(module: str, owners: tuple[str, ...]) -> None:
    taken, refused = (listed_by(column, *OF_MODULES)[module] for column in (1, 2))
    there = defaults(module)
    assert sorted({*taken, *refused}) == sorted(there)
    (note,) = [cells[1].partition("(")[2] for _, cells in with_header(*OF_MODULES) if spans(cells[0])[0] == module]
    for owner in owners:
        network, known = getattr(scvi, owner), parameters(getattr(scvi, owner))
        network(**cells(owner), **{name: there[name] for name in taken})
        assert [name for name in taken if known[name].default != there[name] and f"`{name}`" not in note] == []
        for name in refused:
            with pytest.raises(TypeError, match=name):
                network(**cells(owner), **{name: None})


@pytest.mark.parametrize(
    ("plan", "owner"),
    [
        *(("TrainingPlan", owner) for owner in CLASSES),
        ("SemiSupervisedTrainingPlan", "SCANVI"),
        ("AdversarialTrainingPlan", "TOTALVI"),
    ],
)
def test_arguments_of_trainers_and_plans(plan: str, owner: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="scvi")
    used, unused, refused = (listed_by(column, *OF_TRAINER) for column in (1, 2, 3))
    for name in ("Trainer", plan):
        assert sorted([*used[name], *unused[name], *refused[name]]) == sorted(defaults(name))
    elsewhere = ("accelerator", "devices")  # None here, where an argument of `train` there says 'auto'
    trainer = {name: value for name, value in defaults("Trainer").items() if name not in elsewhere}
    options = {name: defaults(plan)[name] for name in [*used[plan], *unused[plan]]}
    model = make(getattr(scvi, owner))
    model.train(**{**trainer, **QUICK}, plan_kwargs=options)
    assert model.is_trained
    assert model.history["lr"]["lr"].max() <= 1e-3
    logged = " ".join(message for message in caplog.messages if "without a meaning" in message)
    given = {**trainer, **options}
    assert {name for name in given if re.search(rf"\b{name}\b", logged)} == {
        name for name in (*unused["Trainer"], *unused[plan]) if given[name] is not None
    }
    for name in refused[plan]:
        with pytest.raises(ValueError, match=name):
            model.train(plan_kwargs={name: object()})


def test_settings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="scvi")
    fresh = type(scvi.settings)()
    (unused,) = [
        spans(names)
        for _, (names, note) in with_header("name of `scvi.settings`", "what differs")
        if "not used" in note
    ]
    for name in settings():
        value = 1 if name in unused else getattr(fresh, name)
        if name != "verbosity":  # would show messages from now on
            setattr(fresh, name, value)
        assert getattr(fresh, name) == value
        assert any(f"settings.{name}" in line for line in caplog.messages) == (name in unused)


# ---- data ------------------------------------------------------------------------------------------------------------


def written(name: str, folder: Path) -> Path:
    """A small file for a reader."""
    adata, path = make_adata(), folder / "cells"
    if name == "read_loom":
        formats.write_loom(path, adata.X, {"CellID": adata.obs_names.to_numpy()}, {"Gene": adata.var_names.to_numpy()})
    elif name == "read_h5ad":
        adata.write_h5ad(path)
    else:
        adata.to_df().to_csv(path)
    return path


OF_DATA = [name for name in CALLED if name[0] == DATA and "save_path" not in ROWS[name].all]


@pytest.mark.parametrize("name", OF_DATA, ids=".".join)
def test_a_call_for_data_with_each_argument_works(name: Name, tmp_path: Path) -> None:
    """Those that download are called in tests/data/test_data_sets.py, with files in the place of the web."""
    values = {**CALLED[name].arguments, "n_top_genes": 10, "adata": make_adata()}
    values["adata"].var["feature_types"] = ["Antibody Capture", *["Gene Expression"] * (G - 1)]
    first = [written(name[1], tmp_path)] if ROWS[name].in_front else []
    rest = {argument: values[argument] for argument in [*ROWS[name].either, *ROWS[name].by_name]}
    function(name)(*first, **rest)
    for argument in [argument for of, argument in REFUSED if of == name]:
        if argument in ROWS[name].in_front:
            continue
        with pytest.raises(TypeError, match=argument):
            function(name)(*first, **rest, **{argument: None})


# ---- the example -----------------------------------------------------------------------------------------------------


def test_the_example_uses_each_name() -> None:
    tree = ast.parse((ROOT / "examples" / "from_scvi_tools.py").read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {owner if name == "__init__" else name for owner, name in ROWS} | set(settings())
    assert sorted(names - used) == []
