"""Compares the small fits of `fits.py` in another version of the package and in this one, bit for bit.

    python tests/pins/compare.py --base 643cf3b [--only PATTERN] [--threads N]

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FITS = HERE / "fits.py"
Answers = Mapping[str, np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares small fits of two versions of the package, bit for bit.")
    parser.add_argument("--base", required=True, help="a git revision, or a folder that holds the package `scvi`")
    parser.add_argument("--tree", default=str(ROOT), help="the other one (default: this working tree)")
    parser.add_argument(
        "--only", default=["*"], nargs="+", help="patterns of names of fits, such as 'scanvi*' '*_vaec'"
    )
    parser.add_argument("--threads", default=1, type=int, help="threads of both (default 1)")
    parser.add_argument("--fresh", action="store_true", help="fit the base again, also where its numbers are known")
    parser.add_argument("--details", action="store_true", help="name every entry that differs")
    arguments = parser.parse_args()
    names = [name for name in fit_names() if any(fnmatch(name, pattern) for pattern in arguments.only)]
    if not names:
        parser.error(f"no fit is called {' or '.join(arguments.only)}; there are {', '.join(fit_names())}")
    source, tree = source_of(arguments.base), source_of(arguments.tree)
    known = cache() / fingerprint(source, arguments.threads)
    known.mkdir(exist_ok=True)
    unknown = [name for name in names if arguments.fresh or not (known / f"{name}.npz").exists()]
    say(f"base {source} ({len(unknown)} of {len(names)} fits to do), tree {tree}")
    if unknown:
        fit(source, unknown, known, arguments.threads)
    with tempfile.TemporaryDirectory(prefix="scvi_pins_tree_") as folder:
        fit(tree, names, Path(folder), arguments.threads)
        differ = [name for name in names if not report(name, known, Path(folder), arguments.details)]
    say(f"{len(names) - len(differ)} of {len(names)} fits are the same, bit for bit")
    return bool(differ)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def fit_names() -> list[str]:
    """Names of the fits, read without importing the package."""
    functions = [node for node in ast.parse(FITS.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if any(isinstance(d, ast.Name) and d.id == "fit" for d in f.decorator_list)]


def cache() -> Path:
    """Where the numbers of bases are kept between calls."""
    owner = os.getuid() if hasattr(os, "getuid") else "all"
    folder = Path(tempfile.gettempdir()) / f"scvi_pins_{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def source_of(base: str) -> Path:
    """The folder that holds the package, checked out once where `base` is a revision."""
    if (Path(base) / "scvi" / "__init__.py").is_file():
        return Path(base).resolve()
    if (Path(base) / "src" / "scvi" / "__init__.py").is_file():
        return (Path(base) / "src").resolve()
    said = subprocess.run(["git", "rev-parse", f"{base}^{{commit}}"], cwd=ROOT, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(
            f"--base {base} is neither a folder with the package nor a git revision: {said.stderr.strip()}"
        )
    target = cache() / f"revision_{said.stdout.strip()}"
    if not target.exists():
        packed = subprocess.run(
            ["git", "archive", said.stdout.strip(), "src"], cwd=ROOT, capture_output=True, check=True
        )
        with (
            tempfile.TemporaryDirectory(dir=cache()) as folder,
            tarfile.open(fileobj=BytesIO(packed.stdout)) as archive,
        ):
            archive.extractall(Path(folder) / "revision", filter="data")
            (Path(folder) / "revision").rename(target)
    return target / "src"


def fingerprint(source: Path, threads: int) -> str:
    """What the numbers of a base depend on: its code, the fits, libraries, machine and threads."""
    digest = hashlib.sha256()
    for path in [*sorted(source.rglob("*.py")), FITS]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    question = "import torch, numpy, numba, scipy; print(torch.__version__, numpy.__version__, numba.__version__)"
    versions = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True).stdout
    digest.update(f"{versions} {platform.node()} {platform.machine()} {sys.version} {threads}".encode())
    return digest.hexdigest()[:20]


def fit(source: Path, names: Sequence[str], folder: Path, threads: int) -> None:
    """Fits in a process of its own, which sees the package in `source` alone."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    command = [sys.executable, str(FITS), str(folder), str(source), *names]
    subprocess.run(command, env=environment, check=True, cwd=folder)


def report(name: str, known: Path, found: Path, details: bool) -> bool:
    """Prints one line of the table, and says whether the fit is the same."""
    sides = [folder / f"{name}.npz" for folder in (known, found)]
    missing = [side.parent for side in sides if not side.exists()]
    if missing:
        say(f"{name:36s} {'':>11s} {'':>20s} FAILED in the {'base' if known in missing else 'tree'}")
        return False
    with np.load(sides[0]) as base, np.load(sides[1]) as tree:
        differences = compared(base, tree)
        n_entries = len(base.files)
    largest = max((size for size in differences.values() if size is not None), default=0.0)
    shown = list(differences) if details else list(differences)[:3]
    verdict = f"DIFFERS in {len(differences)}: {', '.join(shown)}" if differences else "ok"
    say(f"{name:36s} {n_entries:3d} entries {largest:12.3g} {verdict}")
    return not differences


def compared(base: Answers, tree: Answers) -> dict[str, float | None]:
    """Entries that differ and by how much at most; None where they differ in kind."""
    differences: dict[str, float | None] = dict.fromkeys(base.keys() ^ tree.keys())
    for name in base.keys() & tree.keys():
        a, b = base[name], tree[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            differences[name] = None
        elif a.tobytes() != b.tobytes():
            numbers = a.dtype.kind in "fiu"
            differences[name] = float(np.nanmax(np.abs(a.astype(float) - b.astype(float)))) if numbers else None
    return differences


if __name__ == "__main__":
    sys.exit(main())
