"""Writes the pins anew, on purpose, from the package that Python finds.

    PYTHONPATH=/path/to/other/version/src python tests/pins/write.py numbers | signatures | networks

Several words write several files. New fits, networks and estimators get their line by this, too. A new public name of a
module other than `scvi` is added to signatures.json by hand first: a function as ``null``, a class as
``{"method": null}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fits
import networks
from digests import digest
from surface import describe

import scvi

HERE = Path(__file__).parent


def numbers() -> Any:
    return {name: digest(fits.run(name)) for name in fits.FITS}


def signatures() -> Any:
    known = json.loads((HERE / "signatures.json").read_text())
    known["scvi"] = dict.fromkeys(scvi.model.__all__) | known["scvi"]
    return describe(known)


def names_of_weights() -> Any:
    return {name: networks.weights(name) for name in networks.NETWORKS}


def main() -> None:
    wanted = {"numbers": numbers, "signatures": signatures, "networks": names_of_weights}
    if not set(sys.argv[1:]) <= set(wanted) or not sys.argv[1:]:
        raise SystemExit(f"usage: {sys.argv[0]} {' | '.join(wanted)} ...")
    for name in sys.argv[1:]:
        path = HERE / f"{name}.json"
        path.write_text(_text(wanted[name]()))
        sys.stderr.write(f"wrote {path} from {Path(scvi.__file__).parent}\n")


def _text(value: Any) -> str:
    """JSON with a line for each fit's entry, signature or weight."""
    lines = ["{"]
    for i, (name, part) in enumerate(value.items()):
        entries = part.items() if isinstance(part, dict) else [(None, line) for line in part]
        inner = [(f"{json.dumps(key)}: " if key is not None else "") + json.dumps(entry) for key, entry in entries]
        left, right = "{}" if isinstance(part, dict) else "[]"
        lines += [
            f" {json.dumps(name)}: {left}",
            *(f"  {line}," for line in inner[:-1]),
            *(f"  {line}" for line in inner[-1:]),
        ]
        lines.append(f" {right}" + ("," if i < len(value) - 1 else ""))
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    main()
