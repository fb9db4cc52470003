"""What moves in a page, drawn by bokeh: a map of the cells, and tables that sort and filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scvi.plots import UNLABELLED, _colours

MOST_GROUPS = 48  # of a column to colour by; the rarest are one group
_INTERVALS = 6  # of a column of numbers
_ROOM = 180_000  # bytes: two places of two bytes, and one byte for each column
_GRID = 4096  # places of cells are whole numbers below it, a quarter of the size of others
_OTHERS, _MISSING = "others", "no value"


@dataclass(frozen=True)
class Groups:
    """A column of obs as the map colours it: (n,) codes, and of each group the name and the colour."""

    codes: np.ndarray
    names: list[str]
    colours: list[str]


def grouped(values: pd.Series) -> Groups:
    """Groups of a column: its categories, or intervals of its numbers with as many cells each."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 12:
        return _of_numbers(values.to_numpy(dtype=np.float64, na_value=np.nan))
    known = values.astype(object).where(values.notna(), None)
    counts = known.map(lambda value: None if value is None else str(value)).value_counts()
    kept = sorted(counts.index[:MOST_GROUPS]) if len(counts) > MOST_GROUPS else sorted(counts.index)
    names, colours = [*kept], _colours(len(kept))
    codes = pd.Index(kept).get_indexer([None if value is None else str(value) for value in known])
    missing = known.isna().to_numpy()
    for name, where, colour in ((_OTHERS, (codes < 0) & ~missing, "#777777"), (_MISSING, missing, UNLABELLED)):
        if where.any():
            codes[where] = len(names)
            names, colours = [*names, name], [*colours, colour]
    return Groups(codes.astype(np.uint8), names, colours)


def _of_numbers(values: np.ndarray) -> Groups:
    """Intervals from quantile to quantile, dark to light."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    finite = np.isfinite(values)
    edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, _INTERVALS + 1)))
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    names = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    colours = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.95, len(names)))]
    if not finite.all():
        codes[~finite] = len(names)
        names, colours = [*names, _MISSING], [*colours, UNLABELLED]
    return Groups(codes.astype(np.uint8), names, colours)


# Chooses the column that colours the cells, and the groups of it that are seen.
_RECOLOUR = """
const at = columns.indexOf(choice.value)
legends.forEach((legend, i) => { legend.visible = i === at })
const seen = new Set(legends[at].active)
points.glyph.fill_color = {field: "c" + at, transform: mappers[at]}
filter.booleans = Array.from(source.data["c" + at], (code) => seen.has(code))
"""


def n_drawn(n: int, n_columns: int) -> int:
    """How many of n cells the map has: as many as leave the page small, with what is known of each."""
    return min(n, _ROOM // (4 + n_columns))


def cell_map(places: np.ndarray, columns: Mapping[str, pd.Series]) -> Any:
    """A map of the cells (n, 2), coloured by one of the columns at a time, whose groups can be hidden.

    The column is chosen in a list, groups are hidden by boxes to tick: both are parts of a form, which a keyboard
    reaches and a screen reader reads.
    """
    from bokeh.layouts import column as stacked
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, CustomJS, LinearColorMapper, Select

    groups = {name: grouped(values) for name, values in columns.items()}
    order = np.random.default_rng(0).permutation(len(places))[: n_drawn(len(places), len(groups))]  # none hides another
    low, high = places.min(0), places.max(0)
    x, y = np.round((places[order] - low) / np.maximum(high - low, 1e-9) * _GRID).astype(np.int16).T
    codes = {f"c{i}": found.codes[order] for i, found in enumerate(groups.values())}
    source, shown = ColumnDataSource({"x": x, "y": y, **codes}), BooleanFilter()
    mappers = [
        LinearColorMapper(palette=found.colours, low=-0.5, high=len(found.colours) - 0.5) for found in groups.values()
    ]
    figure, points = _figure(source, CDSView(filter=shown), groups, {"field": "c0", "transform": mappers[0]})
    choice = Select(title="Colour by", value=next(iter(groups)), options=list(groups), max_width=320)
    legends = [_legend(name, found, is_seen=i == 0) for i, (name, found) in enumerate(groups.items())]
    recolour = CustomJS(
        args={
            "source": source,
            "filter": shown,
            "choice": choice,
            "legends": legends,
            "columns": list(groups),
            "mappers": mappers,
            "points": points,
        },
        code=_RECOLOUR,
    )
    choice.js_on_change("value", recolour)
    for legend in legends:
        legend.js_on_change("active", recolour)
    return stacked(choice, figure, *legends, sizing_mode="stretch_width")


def _figure(source: Any, view: Any, groups: Mapping[str, Groups], colour: Mapping[str, Any]) -> tuple[Any, Any]:
    """The plane with its points, which tell what is known of them."""
    from bokeh.models import CustomJSHover, HoverTool
    from bokeh.plotting import figure

    plot = figure(
        name="map",
        aspect_ratio=1.25,
        sizing_mode="stretch_width",
        max_width=760,
        tools="pan,wheel_zoom,box_zoom,reset",
        active_drag=None,  # a finger scrolls the page
        output_backend="canvas",
    )
    plot.axis.visible = plot.grid.visible = False
    plot.toolbar.logo = None
    size = float(np.clip(170 / np.sqrt(len(source.data["x"])), 2.5, 9.0))
    points = plot.scatter(
        "x", "y", source=source, view=view, size=size, fill_color=colour, fill_alpha=0.85, line_color=None
    )
    named = {
        f"@c{i}": CustomJSHover(args={"names": found.names}, code="return names[value]")
        for i, found in enumerate(groups.values())
    }
    tooltips = [(name, f"@c{i}{{custom}}") for i, name in enumerate(groups)]
    plot.add_tools(HoverTool(renderers=[points], tooltips=tooltips, formatters=named))
    return plot, points


def _legend(name: str, groups: Groups, is_seen: bool) -> Any:
    """Boxes to tick with the colours of the groups beside them."""
    from bokeh.models import CheckboxGroup, InlineStyleSheet

    chips = [
        f"label:nth-of-type({i + 1}) span {{ border-left: 14px solid {colour}; padding-left: 6px }}"
        for i, colour in enumerate(groups.colours)
    ]
    style = ":host { columns: 9rem; font-size: 14px; overflow-wrap: anywhere } "
    style += "label { break-inside: avoid; min-height: 24px }"
    return CheckboxGroup(
        labels=groups.names,
        active=list(range(len(groups.names))),
        visible=is_seen,
        stylesheets=[InlineStyleSheet(css="\n".join([style, *chips]))],
        name=f"groups of {name}",
    )


# Keeps the rows whose name has what is typed, and of one choice alone if one is made.
_FILTER = """
const wanted = typed.value_input.trim().toLowerCase()
const names = source.data[name]
const kinds = choice === null ? null : source.data[by]
const any = choice === null || choice.value === every
filter.booleans = names.map((name, i) => (any || kinds[i] === choice.value) && name.toLowerCase().includes(wanted))
"""
_EVERY = "all"


def sortable(table: pd.DataFrame, what: str, by: str | None = None) -> Any:
    """A table that a click on a head sorts, and that a field above it filters by the names of its rows.

    Parameters
    ----------
    table
        Its index has the names.
    what
        What a row is, such as 'gene'.
    by
        Column of which one value can be chosen.
    """
    from bokeh.layouts import column as stacked
    from bokeh.layouts import row as beside
    from bokeh.models import (
        BooleanFilter,
        CDSView,
        ColumnDataSource,
        CustomJS,
        DataTable,
        Select,
        TextInput,
    )

    # names of columns are those of an obs, or of genes: they are shown as titles, and never used as keys
    data: dict[str, Any] = {"name": [str(name) for name in table.index]}
    for i, name in enumerate(table):
        values = table[name]
        is_number = pd.api.types.is_float_dtype(values)
        data[f"v{i}"] = _small(values.to_numpy(np.float64)) if is_number else [str(value) for value in values]
    source, rows = ColumnDataSource(data), BooleanFilter()
    typed = TextInput(title=f"Only {what}s whose name has", max_width=240)
    place = None if by is None else f"v{list(table).index(by)}"
    choice = None
    if by is not None:
        choice = Select(title=by, value=_EVERY, options=[_EVERY, *dict.fromkeys(data[str(place)])], max_width=240)
    shown = DataTable(
        source=source,
        view=CDSView(filter=rows),
        columns=_heads(table, what),
        sizing_mode="stretch_width",
        height=min(420, 40 + 26 * len(table)),
        index_position=None,
        autosize_mode="none",  # the others squeeze columns on a phone, or fail
        reorderable=False,
    )
    arguments = {"source": source, "filter": rows, "typed": typed, "choice": choice, "name": "name", "by": place}
    keep = CustomJS(args={**arguments, "every": _EVERY}, code=_FILTER)
    typed.js_on_change("value_input", keep)
    if choice is not None:
        choice.js_on_change("value", keep)
    fields = [typed] if choice is None else [choice, typed]
    return stacked(beside(*fields, sizing_mode="stretch_width"), shown, sizing_mode="stretch_width")


def _heads(table: pd.DataFrame, what: str) -> Sequence[Any]:
    from bokeh.models import ScientificFormatter, StringFormatter, TableColumn

    heads = [TableColumn(field="name", title=what, width=150)]
    for i, name in enumerate(table):
        is_number = pd.api.types.is_float_dtype(table[name])
        formatter = (
            ScientificFormatter(precision=3, power_limit_high=5, power_limit_low=-3, text_align="right")
            if is_number
            else StringFormatter()
        )
        heads.append(TableColumn(field=f"v{i}", title=str(name), formatter=formatter, width=110 if is_number else 180))
    return heads


def _small(values: np.ndarray) -> np.ndarray:
    """Numbers in half of the room, but for those that would become 0."""
    halved = values.astype(np.float32)
    return values if ((halved == 0) & (values != 0)).any() else halved


def script_and_places(widgets: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """A script that draws them, and by name the HTML of the place where each goes."""
    from bokeh.embed import components

    script, places = components(dict(widgets), wrap_script=False)
    return script, places


def library() -> tuple[list[str], str]:
    """The scripts of the installed bokeh, as they are, each for an element of its own, and its licence."""
    from importlib.resources import files

    from bokeh.resources import Resources

    resources = Resources(mode="inline", components=["bokeh", "bokeh-widgets", "bokeh-tables"], log_level="error")
    licence = files("bokeh").joinpath("LICENSE.txt").read_text(encoding="utf-8")
    return resources.js_raw, licence
