"""Tables of names in the pages, and lists of names with their arguments in the files beside the tests."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
NEEDED = inspect.Parameter.empty
"""The default of an argument that has none."""


class Table(NamedTuple):
    """A table of a page, under which heading it stands, and its cells without the line of headings."""

    heading: str
    header: list[str]
    rows: list[list[str]]


def tables(page: str) -> Iterator[Table]:
    """The tables of a page in its order."""
    heading, table = "", None
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if not cells:
            if table is not None:
                yield table
            table = None
        elif table is None:
            table = Table(heading, cells, [])
        elif set(line) - set("|- "):
            table.rows.append([*cells, *[""] * (len(table.header) - len(cells))])
    if table is not None:
        yield table


def spans(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def listed(cell: str) -> list[str]:
    """Names that stand in backticks, several in one."""
    return [name for span in spans(cell) for name in span.split(", ")]


def arguments(signature: str) -> dict[str, Any]:
    """Arguments of ``(a, b=1, *, c=None)`` with their defaults; of ``...`` the default is not known."""
    found = _parsed(signature)
    by_position: list[Any] = [NEEDED] * (len(found.args) - len(found.defaults))
    defaults = [*by_position, *map(_value, [*found.defaults, *found.kw_defaults])]
    return {argument.arg: default for argument, default in zip([*found.args, *found.kwonlyargs], defaults, strict=True)}


def by_position(signature: str) -> list[str]:
    """Those of its arguments that can be passed without their name."""
    return [argument.arg for argument in _parsed(signature).args]


def _parsed(signature: str) -> ast.arguments:
    (definition,) = ast.parse(f"def f{signature}: pass").body
    assert isinstance(definition, ast.FunctionDef)
    return definition.args


def _value(default: ast.expr | None) -> Any:
    return NEEDED if default is None else ast.literal_eval(default)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those of a function or method, without the object."""
    known = inspect.signature(function).parameters
    return {name: parameter for name, parameter in known.items() if name not in ("self", "cls")}


def places(function: Callable[..., Any]) -> list[str]:
    """Arguments that can be passed without their name, in their order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, parameter in parameters(function).items() if parameter.kind in kinds]
