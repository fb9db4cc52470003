"""What README and the pages name is there. (`make docs` runs their code.)"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

import scvi

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", *(page for page in PAGES if not page.startswith("docs/_build"))]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.py"))


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / example], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())
    assert len(text(example).splitlines()) < (120 if "every name" in text(example).lower() else 80)


def test_readme_begins_with_the_commands_that_set_everything_up():
    commands = re.findall(r"```(?:sh|python)\n(.*?)```", text("README.md"), re.DOTALL)
    assert [line.split("#")[0].strip() for line in commands[0].splitlines()] == ["make demo", "make test"]
    assert "import anndata, scvi" in commands[1]
    assert len(commands[1].replace("\n\n", "\n").splitlines()) == 6
    assert text("README.md").index("Python 3.11") < text("README.md").index("import anndata")


def test_bench_gives_each_script_options_that_it_has():
    recipe = text("Makefile").split("\nbench:")[1].split("\n\n")[0]
    for line in recipe.splitlines()[1:]:
        script, *options = line.split("python ")[1].split()
        assert not [option for option in options if option.startswith("$") and option != "$(DATA)"]
        assert all(f'"{option}"' in text(script) for option in options if option.startswith("--"))


def test_every_page_is_in_the_contents_of_the_site():
    index = text("docs/index.md")
    listed = set(re.findall(r"^[\w/-]+$", "".join(re.findall(r"```{toctree}(.*?)```", index, re.DOTALL)), re.MULTILINE))
    pages = {page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.startswith("docs/")}
    assert pages - listed - {"index", "api/of-2020"} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", text(page))
    missing = [
        target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert not missing


def resolved(name):
    """Whether a dotted name leads somewhere, through modules that nobody has imported as well."""
    found, parts = scvi, name.split(".")[1:]
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(["scvi", *parts[: i + 1]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_names_with_dots_are_there(page):
    names = set(re.findall(r"(?<![\w/.-])scvi(?:\.[A-Za-z_]\w*)+(?!\w)", text(page)))
    names = {name for name in names if not name.endswith((".md", ".git"))}
    assert not sorted(name for name in names if not resolved(name))


def test_a_name_that_is_not_there():
    assert resolved("scvi.data.published.FILES")
    assert not resolved("scvi.data.published.NIX")
    assert not resolved("scvi.nix.FILES")


@pytest.mark.parametrize("page", PAGES)
def test_imports_are_there(page):
    """Also of blocks that no test runs, because they read files of somebody."""
    blocks = re.findall(r"```(?:python|py)\n(.*?)```", text(page), re.DOTALL)
    imports = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names if "scvi" in node.module]
    assert not [name for name in names if not resolved(name)]


def public_names():
    """Names of the modules of the package, of what is in them, and of what is in their classes."""
    names = set()
    for info in pkgutil.walk_packages(scvi.__path__, "scvi."):
        module = importlib.import_module(info.name)
        names |= {info.name.rpartition(".")[2], *vars(module)}
        for found in vars(module).values():
            names |= set(dir(found)) if inspect.isclass(found) else set()
    return names


FOREIGN = {"File", "fillna", "load_state_dict", "range"}
"""Names in the pages that are those of h5py, pandas, torch and Python."""


def test_what_is_called_or_is_a_class_of_2020_is_there():
    known = public_names() | FOREIGN
    unknown = set()
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)):
            called = re.findall(r"(?<![\w/\"'-])([A-Za-z_]\w*)\(", span)
            classes = re.findall(r"(?<![\w/\"'-])([A-Z][A-Za-z0-9]*(?:Dataset|Trainer|Posterior|VAE|VI))\b", span)
            unknown |= {(page, name) for name in (*called, *classes) if name not in known}
    assert not unknown


def test_the_figure_is_a_picture():
    height, width, _ = matplotlib.image.imread(ROOT / "docs" / "demo.png").shape
    assert width > 800
    assert height > 600
