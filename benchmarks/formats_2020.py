"""Every file that the package of 2020 tested its readers with, read by its class and compared with what is in it.

    python benchmarks/formats_2020.py --data FOLDER

What is in a file is found here without the readers: with csv, h5py, zipfile, tarfile, openpyxl and, for the three
pickles, pandas, which runs what a pickle says: the folder is one that you trust. Every count is compared, and names,
labels in words, batches, proteins and places where a file has them. The folder is copied first, because classes
unpack archives beside them; the workbook needs openpyxl (the extra `xlsx`). The exit code is 1 if a comparison fails,
a file is refused, or a file of the folder belongs to no class.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from common import machine, table
from formats_2020_cases import CASES, Case

DEFAULT_FOLDER = Path(__file__).parents[2] / "shared" / "formats_2020"


def compared(case: Case, folder: Path) -> tuple[str, str, str]:
    """The size of the data set, how many comparisons hold, and what is wrong."""
    try:
        dataset, checks = case.compare(folder)
    except Exception as error:  # a file that is refused is what this is to find out
        return "", "", f"REFUSED {type(error).__name__}: {error}"
    wrong = [check for check, holds in checks.items() if not holds]
    size, hold = f"{dataset.nb_cells} x {dataset.nb_genes}", f"{len(checks) - len(wrong)} of {len(checks)}"
    return size, hold, f"FAIL {', '.join(wrong)}" if wrong else "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the files")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} does not exist: say where the files are with --data FOLDER")
    logging.getLogger("scvi").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "formats"
        shutil.copytree(arguments.data, folder, copy_function=shutil.copyfile)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        left = {path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"}
        print(machine(), f"\n{len(left)} files of {arguments.data}\n")
        files = [sorted({path for pattern in case.files for path in folder.glob(pattern)} & left) for case in CASES]
        for case, mine in zip(CASES, files, strict=True):
            found = compared(case, folder) if mine else ("", "", f"FAIL there is no {case.files[0]}")
            names = [str(path.relative_to(folder)) for path in mine] or [""]
            rows += [[names[0], case.reader, *found], *([name, "", "", "", ""] for name in names[1:])]
        for path in sorted(left.difference(*files)):
            rows.append([str(path.relative_to(folder)), "none", "", "", "FAIL no class reads it"])
    print(table(["file", "class", "cells x genes", "checks", ""], rows))
    sys.exit(int(any(row[-1] not in ("ok", "") for row in rows)))


if __name__ == "__main__":
    main()
