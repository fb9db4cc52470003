"""``python -m scvi`` is the command `scvi`, and so is what torchrun starts with ``-m scvi``."""

from __future__ import annotations

import sys

from scvi.cli import main

if __name__ == "__main__":
    sys.exit(main())
