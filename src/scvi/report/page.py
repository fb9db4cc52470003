"""From sections to one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scvi.report.blocks import Section, Widget
from scvi.report.interactive import library, script_and_places

_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Page:
    """All that the template shows.

    Attributes
    ----------
    left_out
        What is not in the report, with the reason.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    left_out: Mapping[str, str]
    written: str


def html(page: Page) -> str:
    """The page as text, with all that it needs inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    widgets = {block.name: block.model for part in page.sections for block in part.blocks if isinstance(block, Widget)}
    script, places = script_and_places(widgets) if widgets else ("", {})
    scripts, licence = library() if widgets else ([], "")
    environment = Environment(
        loader=PackageLoader("scvi.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # scripts and places come from bokeh, which escapes what it is given; all else is escaped here
    return environment.get_template(_TEMPLATE).render(
        page=page, script=script, places=places, library=scripts, licence=licence
    )
