"""House rules that a reader of one file cannot see: who imports whom, what is public, what library code never does.

Each test lists all offenders, as ``path:line what``.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import scvi

ROOT = Path(scvi.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}

CORE = {"kernels", "minibatch", "cells", "models", "queries", "fit", "estimators", "data"}
DOOR_OF_2020 = {"dataset", "inference"}
AROUND = {"__init__", "cli", "demo", "external", "model", "plots", "report", "tune"}
# Layer -> the layers it may import. Whatever is not in a folder of its own is a layer of its own.
ARROWS: dict[str, set[str]] = {
    "kernels": set(),
    "minibatch": {"kernels"},
    "cells": {"kernels", "minibatch"},
    "models": {"kernels", "minibatch"},
    "queries": {"models", "minibatch", "kernels"},
    "fit": {"queries", "models", "cells", "minibatch", "kernels"},
    "estimators": {"fit", "queries", "models", "cells", "minibatch", "kernels"},
    "data": {"cells", "kernels"},
    "dataset": {"data", "cells", "minibatch", "kernels"},
    "inference": {"dataset", "fit", "queries", "models", "cells", "minibatch", "kernels", "plots", "tune"},
    "plots": CORE,
    "report": CORE | {"plots"},
    "tune": CORE | {"plots"},
    "__main__": {"cli"},
    "demo": CORE | {"plots", "report"},
    "cli": CORE | {"plots", "report", "demo", "tune"},
    "external": {"estimators"},
    "model": {"estimators"},
    "__init__": CORE | DOOR_OF_2020 | AROUND,
}
# What a layer may import of a room whose arrow is narrower than the room.
ONLY = {("data", "cells"): {"storage", "checks", "count_checks"}}
# The one arrow that points down: `model.report(...)` is where users look for it, and what it writes is put together of
# answers of estimators. It is imported when it is called, so that no module of estimators needs the room to be there.
WHEN_CALLED = {("estimators/reporting.py", "scvi.report.write_report")}
# Third-party packages that a layer may import at all.
PACKAGES = {"kernels": {"torch", "numpy", "numba", "scipy"}, "minibatch": {"torch"}}
# Imported where they are used, never when a module is imported.
SLOW = {"pooch", "requests", "openpyxl", "sklearn", "matplotlib", "scanpy", "umap", "skmisc", "numba"}
SLOW |= {"optuna", "sqlalchemy", "psycopg", "bokeh", "jinja2"}
PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
GLOBAL_STATE = re.compile(
    r"torch\.set_num_threads|torch\.set_default_\w+"
    r"|torch\.(random\.|cuda\.|mps\.)?(manual_seed|seed|fork_rng|set_rng_state)(_all)?"
    r"|(np\.|numpy\.)?random\.(?!default_rng|RandomState|Generator|SeedSequence)\w+"
)
# Operations of torch that draw from its global generator unless they are given another.
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "native_dropout"}
DRAWS |= {
    "uniform_",
    "normal_",
    "bernoulli_",
    "exponential_",
    "random_",
    "rand_like",
    "randn_like",
    "rsample",
    "sample",
}


def none(offenders: Iterable[str]) -> None:
    found = list(offenders)
    assert not found, "\n" + "\n".join(found)


def place(path: Path, node: ast.AST | None = None) -> str:
    return path.relative_to(ROOT).as_posix() + (f":{node.lineno}" if node is not None else "")  # type: ignore[attr-defined]


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in TREES}


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Full names of what an import statement reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ("scvi", *path.relative_to(ROOT).parts)[: -node.level]
            base = ".".join([*package, *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def all_imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Import statements of a file, wherever they are, and the full names that they read."""
    for node in ast.walk(TREES[path]):
        yield from ((node, name) for name in imported(node, path))


def imports_at_once(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """What importing the module imports: not the bodies of functions, not `if TYPE_CHECKING`."""
    pending: list[ast.AST] = [TREES[path]]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        yield from ((node, name) for name in imported(node, path))
        pending.extend(ast.iter_child_nodes(node))


def nodes(*kinds: type[ast.AST], but: Iterable[str] = ()) -> Iterator[tuple[Path, ast.AST]]:
    """Nodes of these kinds in all files but those of some layers."""
    for path, tree in TREES.items():
        if layer(path) not in but:
            yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kinds))


# ---- who imports whom ------------------------------------------------------------------------------------------------


def test_every_room_is_on_the_map_and_has_no_rooms_of_its_own() -> None:
    helpers = {layer(path) for path in TREES if path.parent == ROOT and path.name.startswith("_")}
    none(place(path) for path in TREES if layer(path) not in {*ARROWS, *helpers})
    none(place(path) for path in TREES if len(path.relative_to(ROOT).parts) > 2)


def test_import_arrows() -> None:
    none(
        f"{place(path, node)} imports {name}"
        for path in TREES
        for node, name in all_imports(path)
        if not _is_allowed(layer(path), name) and (place(path), name) not in WHEN_CALLED
    )


def test_what_is_imported_when_it_is_called_is_not_imported_before() -> None:
    none(
        f"{place(path, node)} imports {name}"
        for path in TREES
        for node, name in imports_at_once(path)
        if (place(path), name) in WHEN_CALLED
    )


def _is_allowed(mine: str, name: str) -> bool:
    package, theirs, inner = [*name.split("."), "", ""][:3]
    if package != "scvi" or theirs == mine or theirs not in ARROWS:
        return True
    return theirs in ARROWS.get(mine, ()) and inner in ONLY.get((mine, theirs), {inner})


def test_no_circle() -> None:
    """No module needs itself to be imported, not by way of others either."""
    needs = {name_of(path): set(_modules_at_once(path)) for path in TREES}
    circular = [name for name in needs if name in _reachable(needs, name)]
    none(f"{name} -> {', '.join(sorted(needs[name] & set(circular)))}" for name in circular)


def _modules_at_once(path: Path) -> Iterator[str]:
    for _, name in imports_at_once(path):
        parts = (name if name in MODULES else name.rpartition(".")[0]).split(".")
        for package in (".".join(parts[:i]) for i in range(1, len(parts) + 1)):
            # a package that this module is in has begun to be imported before
            if package in MODULES and not f"{name_of(path)}.".startswith(f"{package}."):
                yield package
        if ".".join(parts) in MODULES and name_of(path) != ".".join(parts):
            yield ".".join(parts)


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    pending = set(edges[start])
    while pending:
        found |= pending
        pending = set().union(*(edges[name] for name in pending)) - found
    return found


def test_third_party_imports_of_the_lowest_layers() -> None:
    none(
        f"{place(path, node)} imports {name}"
        for path in TREES
        for node, name in all_imports(path)
        if name.split(".")[0]
        not in {"scvi", *sys.stdlib_module_names, *PACKAGES.get(layer(path), [name.split(".")[0]])}
    )


def test_slow_packages_are_imported_where_they_are_used() -> None:
    none(
        f"{place(path, node)} imports {name}"
        for path in TREES
        for node, name in imports_at_once(path)
        if name.split(".")[0] in SLOW
        # of the kernels, the modules with numba are themselves imported on first call
        and not (layer(path) == "kernels" and name.split(".")[0] == "numba")
    )


# ---- what library code never does ------------------------------------------------------------------------------------


def test_no_pickle() -> None:
    none(
        f"{place(path, node)} imports {name}"
        for path in TREES
        if path.name != "_unpickling.py"  # which can build data only, see its tests
        for node, name in all_imports(path)
        if name.split(".")[0] in PICKLING
    )
    none(
        f"{place(path, call)} {ast.unparse(call)}"
        for path, call in nodes(ast.Call)
        if path.name != "_unpickling.py" and _pickles(call)
    )


def _pickles(call: ast.Call) -> bool:
    options = {k.arg: ast.unparse(k.value) for k in call.keywords}
    match ast.unparse(call.func):
        case "torch.load":
            return options.get("weights_only") != "True"
        case "np.load" | "numpy.load":
            return options.get("allow_pickle", "False") != "False"
        case function:
            return function == "torch.save"


def test_input_is_never_checked_with_assert() -> None:
    # The only assertions allowed tell the type checker what a check above has already made sure of.
    none(place(path, node) for path, node in nodes(ast.Assert) if not _narrows_a_type(node.test))


def _narrows_a_type(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp):
        return all(map(_narrows_a_type, test.values))
    text = ast.unparse(test)
    return text.startswith("isinstance(") or text.endswith(" is not None")


def test_library_code_does_not_print() -> None:
    speaking = {"print", "sys.stdout.write", "logging.basicConfig"}
    calls = nodes(ast.Call, but={"cli", "demo"})  # these speak to the user of a shell
    none(place(path, call) for path, call in calls if ast.unparse(call.func) in speaking)


def test_global_state_is_left_alone() -> None:
    none(
        f"{place(path, node)} {ast.unparse(node)}"
        for path, node in nodes(ast.Call, ast.Assign, but={"_settings"})  # there the user asks for it
        if place(path) != "kernels/forks.py"  # of a child that has just begun
        and (
            (isinstance(node, ast.Call) and GLOBAL_STATE.fullmatch(ast.unparse(node.func)))
            or (isinstance(node, ast.Assign) and any(ast.unparse(t).startswith("torch.backends") for t in node.targets))
        )
        and not (layer(path) == "dataset" and "np.random.randint" in ast.unparse(node))  # as in 2020
    )


def test_filters_of_warnings_which_all_threads_share_are_left_alone() -> None:
    none(
        f"{place(path, call)} {ast.unparse(call)}"
        for path, call in nodes(ast.Call, but={"cli", "plots"})
        if ast.unparse(call.func).removeprefix("warnings.") in {"catch_warnings", "simplefilter", "filterwarnings"}
        and path.name != "store.py"  # anndata speaks of each .zarr that it writes
    )


def test_the_core_is_given_its_random_numbers() -> None:
    none(
        f"{place(path, call)} {ast.unparse(call)}"
        # constructors of networks draw within `seeded`, methods of 2020 from the global generators
        for path, call in nodes(ast.Call, but={"models", *DOOR_OF_2020})
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in DRAWS
        and not ast.unparse(call.func).startswith("rng.")
        and "generator" not in {k.arg for k in call.keywords}
    )


def test_nothing_of_the_core_overrides_a_method_to_do_nothing() -> None:
    none(f"{place(path, method)} {name}" for path, name, method in _methods() if _does_nothing(method))


def _methods() -> Iterator[tuple[Path, str, ast.FunctionDef]]:
    """Methods of the core's classes that a class above has too."""
    for path, node in nodes(ast.ClassDef, but=DOOR_OF_2020):
        cls = getattr(importlib.import_module(name_of(path)), node.name, None)
        if not isinstance(cls, type):
            continue  # a class of a function's own
        for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
            if any(method.name in vars(parent) for parent in cls.__mro__[1:-1]):
                yield path, f"{node.name}.{method.name}", method


def _does_nothing(method: ast.FunctionDef) -> bool:
    """Whether a body has no more than a docstring and `pass`, `...` or `return`; `return None` is an answer."""
    return all(
        isinstance(n, ast.Pass)
        or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
        or (isinstance(n, ast.Return) and n.value is None)
        for n in method.body
    )


# ---- what is public --------------------------------------------------------------------------------------------------


def test_every_module_says_what_it_is_for() -> None:
    none(place(path) for path, tree in TREES.items() if not ast.get_docstring(tree))


def test_all_names_what_exists() -> None:
    none(
        f"{place(path)} {name}"
        for path in TREES
        for names in [public_names(path)]
        for name in names
        if not hasattr(importlib.import_module(name_of(path)), name) or names.count(name) > 1
    )


def public_names(path: Path) -> list[str]:
    listed = [n for n in TREES[path].body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    return (
        list(ast.literal_eval(listed[0].value)) if listed and isinstance(listed[0].value, ast.List | ast.Tuple) else []
    )


def test_public_names() -> None:
    estimators = {"AUTOZI", "GIMVI", "SCANVI", "SCVI", "CondSCVI", "LinearSCVI", "TOTALVI"}
    modules = {"data", "dataset", "external", "inference", "model", "models", "tune"}
    session = {"convert", "rank_genes_groups", "set_seed", "set_verbosity", "settings", "__version__"}
    assert set(scvi.__all__) == estimators | modules | session
    assert len(scvi.__all__) == len(set(scvi.__all__))
    assert set(scvi.__all__) <= set(dir(scvi))
    for name in scvi.__all__:
        assert getattr(scvi, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SCVII"):
        scvi.SCVII  # noqa: B018
