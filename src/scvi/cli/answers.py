"""What a command answers: lines for people, or one JSON object for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What is printed on standard output.

    Attributes
    ----------
    text
        For people.
    data
        The same for machines, with ``--json``.
    code
        The exit code of the command.
    """

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0

    def printed(self, as_json: bool) -> str:
        """The one or the other."""
        return json.dumps(_plain(self.data)) if as_json else self.text


def plan(reads: Sequence[Mapping[str, Any]], does: Sequence[str], writes: Sequence[Path | str]) -> Answer:
    """What ``--dry-run`` answers.

    Parameters
    ----------
    reads
        A file each, as :func:`scvi.cli.glances.described` has it.
    does
        A sentence each.
    writes
        Files and folders.
    """
    lines = [f"would read   {file['says']}" for file in reads]
    lines += [f"would do     {sentence}" for sentence in does] + [f"would write  {path}" for path in writes]
    return Answer("\n".join(lines), {"dry_run": True, "reads": reads, "does": does, "writes": writes})


def _plain(value: Any) -> Any:
    """As JSON knows it; numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
