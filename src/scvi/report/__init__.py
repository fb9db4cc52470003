"""One HTML page on a fitted model. It needs the extra `[report]`."""

from scvi.report.write import write_report

__all__ = ["write_report"]
