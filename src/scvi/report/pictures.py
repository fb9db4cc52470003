"""Pictures of :mod:`scvi.plots` as part of a page: small files in its text."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scvi.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 115  # of the file: more than a page shows, so that paper and fine screens show it sharp
_SHOWN = 72  # of the page


def picture(
    draw: Callable[[Axes], Any],
    alt: str,
    caption: str = "",
    *,
    size: tuple[float, float] = (5.6, 4.0),
    only: str = "",
) -> Picture:
    """What a function draws on an axis.

    Parameters
    ----------
    alt
        What is seen, for who does not see it.
    size
        Width and height in inches.
    only
        'print': for paper alone.
    """
    from scvi import plots

    figure, grid = plots._panels(1, 1, width=size[0], height=size[1])
    draw(grid[0, 0])
    content = io.BytesIO()
    figure.savefig(content, format="webp", dpi=_DPI, pil_kwargs={"quality": 80, "method": 6})
    source = "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")
    width, height = (round(side * _SHOWN) for side in figure.get_size_inches())
    return Picture(source, alt, caption, width, height, only)
