"""Published files on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from urllib.request import urlopen

__all__ = ["download_file"]

logger = logging.getLogger(__name__)


def download_file(url: str, filename: str, save_path: str | os.PathLike[str]) -> Path:
    """The path of a file, which is downloaded unless it is there; it is there whole or not at all."""
    path = Path(save_path) / filename
    if path.exists():
        logger.info("File %s already downloaded", path)
        return path
    logger.info("Downloading file at %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with urlopen(url, timeout=30) as response, part.open("wb") as file:
        shutil.copyfileobj(response, file)
    part.replace(path)
    return path
