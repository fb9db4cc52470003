"""House rules that a reader of one file cannot see: who imports whom, what is public, what library code never does."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scvi

ROOT = Path(scvi.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Layer -> the layers it may import. Whatever is not in a folder of its own is a layer of its own.
ARROWS = {
    "kernels": set(),
    "minibatch": {"kernels"},
    "_settings": set(),
    "cells": {"kernels", "minibatch"},
    "models": {"kernels", "minibatch"},
    "queries": {"models", "minibatch"},
    "fit": {"queries", "models", "cells", "minibatch", "kernels"},
    "estimators": {"fit", "queries", "models", "cells", "minibatch", "kernels"},
    "data": {"cells", "kernels"},
    "dataset": {"data", "cells", "minibatch", "kernels"},
    "inference": {"dataset", "fit", "queries", "models", "cells", "minibatch", "kernels"},
}
USES_ESTIMATORS = {"__init__", "cli", "demo", "estimators"}
# Third-party packages that a layer may import at all.
PACKAGES = {"kernels": {"torch", "numpy", "numba", "scipy"}, "minibatch": {"torch"}}
# Imported where they are used, never when a module is imported.
SLOW = {"pooch", "requests", "openpyxl", "sklearn", "matplotlib", "scanpy", "umap", "skmisc", "numba"}


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Full names of the modules that an import statement reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ("scvi", *path.relative_to(ROOT).parts)[: -node.level]
            base = ".".join([*package, *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def all_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        yield from imported(node, path)


def imports_at_once(path: Path) -> Iterator[str]:
    """What importing the module imports: not the bodies of functions, not `if TYPE_CHECKING`."""
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        yield from imported(node, path)
        pending.extend(ast.iter_child_nodes(node))


def own_layers(names: Iterator[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("scvi.")}


def each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=lambda p: p.relative_to(ROOT).as_posix())


def public_names(path: Path) -> list[str] | None:
    listed = [n for n in tree(path).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    return ast.literal_eval(listed[0].value) if listed and isinstance(listed[0].value, (ast.List, ast.Tuple)) else None


ALL = each(FILES)


@ALL
def test_import_arrows(path: Path) -> None:
    mine = layer(path)
    theirs = own_layers(all_imports(path)) - {mine}
    if mine in ARROWS:
        folders = set(ARROWS) - {"_settings"}
        assert theirs & folders <= ARROWS[mine]
    if mine not in USES_ESTIMATORS | {"external", "model"}:
        assert "estimators" not in theirs


@each([path for path in FILES if layer(path) in PACKAGES])
def test_third_party_imports_of_the_lowest_layers(path: Path) -> None:
    allowed = PACKAGES[layer(path)]

    packages = {name.split(".")[0] for name in all_imports(path)} - {"scvi"} - set(sys.stdlib_module_names)
    assert packages <= allowed


@ALL
def test_slow_packages_are_imported_where_they_are_used(path: Path) -> None:
    slow = {name.split(".")[0] for name in imports_at_once(path)} & SLOW
    if layer(path) == "kernels":
        slow -= {"numba"}  # of these modules, the ones with numba are themselves imported on first call
    assert not slow


@each([path for path in FILES if path.name != "unpickling.py"])  # which can build data only, see its tests
def test_no_pickle(path: Path) -> None:
    assert not {name.split(".")[0] for name in all_imports(path)} & {
        "pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "shelve",
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "np.load", "numpy.load"}:
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if ast.unparse(node.func) == "torch.load":
                assert options.get("weights_only") == "True", f"line {node.lineno}"
            else:
                assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.save":
            pytest.fail(f"line {node.lineno}: torch.save writes a pickle")


@ALL
def test_input_is_never_checked_with_assert(path: Path) -> None:
    # The only assertions allowed tell the type checker what a check above has already made sure of.
    found = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Assert) and not _narrows_a_type(n.test)]
    assert not found, f"assert in lines {found}"


def _narrows_a_type(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp):
        return all(map(_narrows_a_type, test.values))
    text = ast.unparse(test)
    return text.startswith("isinstance(") or text.endswith(" is not None")


@each([path for path in FILES if layer(path) not in {"cli", "demo"}])  # these speak to the user of a shell
def test_library_code_does_not_print(path: Path) -> None:
    calls = (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call))
    found = [n.lineno for n in calls if ast.unparse(n.func) in {"print", "sys.stdout.write", "logging.basicConfig"}]
    assert not found, f"print in lines {found}"


GLOBAL_STATE = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed", "torch.set_num_threads"}


def outside_forks(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `with torch.random.fork_rng(...)`, which puts the generators back."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.With) and "fork_rng" in ast.unparse(child.items[0])):
            yield from outside_forks(child)


@each([path for path in FILES if layer(path) != "_settings"])  # there the user asks for it
def test_global_state_is_left_alone(path: Path) -> None:
    for node in outside_forks(tree(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in GLOBAL_STATE, f"line {node.lineno}"
        if isinstance(node, ast.Assign):
            targets = [ast.unparse(t) for t in node.targets]
            assert not any(t.startswith("torch.backends") for t in targets), f"line {node.lineno}"


@ALL
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@each([path for path in FILES if public_names(path) is not None])
def test_all_names_what_exists(path: Path) -> None:
    names = public_names(path)
    assert len(set(names)) == len(names)
    dotted = path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    loaded = importlib.import_module(dotted)
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_public_names() -> None:
    estimators = {"AUTOZI", "GIMVI", "SCANVI", "SCVI", "CondSCVI", "LinearSCVI", "TOTALVI"}
    modules = {"data", "dataset", "external", "inference", "model", "models"}
    session = {"set_seed", "set_verbosity", "settings", "__version__"}
    assert set(scvi.__all__) == estimators | modules | session
    assert len(scvi.__all__) == len(set(scvi.__all__))
    assert set(scvi.__all__) <= set(dir(scvi))
    for name in scvi.__all__:
        assert getattr(scvi, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SCVII"):
        scvi.SCVII  # noqa: B018
