"""The wheel works where the source tree is not."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_data_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(archive.read(name) for name in names if name.endswith("entry_points.txt"))
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources <= names
    assert {"scvi/py.typed", "scvi/demo_data/sc_mixology_demo.h5ad", "scvi/demo_data/README.md"} <= names
    assert "scvi/report/page.html.jinja" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("tests" in name or "benchmarks" in name for name in names)
    assert b"scvi = scvi.cli:main" in entry_points
    assert wheel.stat().st_size < 3_000_000


def test_the_wheel_works_without_the_source_tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import scvi, scvi.demo; print(scvi.__file__); print(scvi.__version__, scvi.demo.load().shape)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    file, rest = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/scvi/__init__.py").read_text())[1]
    assert rest == f"{version} (1021, 2000)"
    assert f"-{version}-" in wheel.name


def test_demo_data_is_small_and_honest():
    import numpy as np

    import scvi

    file = ROOT / "src/scvi/demo_data/sc_mixology_demo.h5ad"
    assert file.stat().st_size < 1_500_000
    adata = scvi.demo.load()
    assert adata.shape == (1021, 2000)
    assert np.issubdtype(adata.X.dtype, np.integer)
    assert adata.X.min() == 0
    assert {name: adata.obs[name].nunique() for name in adata.obs} == {"cell_type": 5, "batch": 5, "protocol": 2}
    assert adata.var_names.is_unique
    assert "MIT" in adata.uns["license"]
    assert "GSE118767" in adata.uns["source"]
