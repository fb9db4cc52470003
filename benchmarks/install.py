"""Builds wheel and source distribution, installs the wheel into a fresh environment, and says what it takes.

    python benchmarks/install.py

The wheel that is built from the source distribution has to be the wheel; the command has to work from a folder without
the source, as `pipx run` would start it: by its path, in an environment that nobody activated. Fails where one of these
does. With `--others` the interpreters that are named (`python3.12`, a path) install the wheel and numpy, compile every
file and import the package: all that can be shown of them where there is no torch for them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common import load_average, machine, median, table

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "torch and anndata": "import torch, anndata",
    "scvi beside them": "import torch, anndata; t = now(); import scvi, scvi.demo; scvi.SCVI",
    "scvi alone": "import scvi",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="interpreters whose median is the time of an import")
    parser.add_argument("--others", nargs="*", default=[], help="other interpreters")
    arguments = parser.parse_args()

    print(machine())
    print(f"load average {load_average()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, source = built(folder)
        python = environment(folder / "environment", wheel)
        print(table(["file", "kB"], [[file.name, f"{file.stat().st_size / 1e3:.0f}"] for file in (wheel, source)]))
        print(table(["installed", "MB"], sizes(python)))
        print(table(["import", f"seconds, median of {arguments.runs}"], times(python, arguments.runs, folder)))
        run_command(python.with_name("scvi"), folder)
        for other in arguments.others:
            without_dependencies(other, wheel, folder)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; its output, and the end of the program, where it fails."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def built(folder: Path) -> tuple[Path, Path]:
    """Wheel and source distribution; what is built from the second has the files of the first."""
    wheels = [folder / "wheel", folder / "from_source"]
    make_wheel = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    run(*make_wheel, wheels[0], ROOT)
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    run(*make_wheel, wheels[1], source)
    (wheel,), (again,) = (found.glob("*.whl") for found in wheels)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        differ = set(one.namelist()) ^ set(other.namelist())
    if differ:
        raise SystemExit(f"the wheel of the source distribution differs in {sorted(differ)}")
    return wheel, source


def environment(folder: Path, wheel: Path) -> Path:
    """The interpreter of a fresh environment with the wheel and what it requires."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    return python


def sizes(python: Path) -> list[list[str]]:
    """The largest packages of an environment, and all."""
    (packages,) = python.parents[1].glob("lib/*/site-packages")
    found = {entry.name: size_of(entry) for entry in packages.iterdir()}
    largest = sorted(found, key=lambda name: -found[name])[:6]
    chosen = {name: found[name] for name in ("scvi", *(name for name in largest if name != "scvi"))}
    return [[name, f"{size / 1e6:.1f}"] for name, size in {**chosen, "all": sum(found.values())}.items()]


def size_of(entry: Path) -> int:
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def times(python: Path, n: int, folder: Path) -> list[list[str]]:
    """Seconds of imports, each in interpreters of its own."""
    rows = []
    for name, code in IMPORTS.items():
        script = f"from time import perf_counter as now; t = now(); {code}; print(now() - t)"
        seconds = [float(run(python, "-c", script, cwd=folder)) for _ in range(n + 1)][1:]  # the first fills the cache
        rows.append([name, f"{median(seconds):.2f}"])
    return rows


def run_command(command: Path, folder: Path) -> None:
    """The command by its path, from another folder: it says its version, and fits the demonstration."""
    print(f"\n$ scvi --version\n{run(command, '--version', cwd=folder).strip()}")
    print(f"\n$ scvi demo\n{run(command, 'demo', cwd=folder).strip()}")


def without_dependencies(interpreter: str, wheel: Path, folder: Path) -> None:
    """Another interpreter takes the wheel, compiles all of it, and imports the package, which needs numpy for that."""
    place = folder / interpreter.replace("/", "_")
    run(interpreter, "-m", "venv", place)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "numpy", wheel)
    (package,) = place.glob("lib/*/site-packages/scvi")
    run(python, "-W", "error", "-m", "compileall", "-q", "-f", package)
    said = run(python, "-c", "import sys, scvi; print(sys.version.split()[0], scvi.__version__)", cwd=folder)
    print(f"\nPython {said.strip()}: installed with numpy alone, compiled, imported")


if __name__ == "__main__":
    main()
