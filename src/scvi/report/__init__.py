"""One HTML page on a fitted model. It needs the extra `[report]`."""

from scvi.report.write import available, write_report

__all__ = ["available", "write_report"]
