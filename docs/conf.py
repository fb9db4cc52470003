"""The documentation site: `make docs` builds it, and every warning is an error."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads crawl on a busy machine
sys.path.insert(0, str(Path(__file__).parent))  # pages

import scvi

project = "scvi"
author = scvi.__author__
copyright = f"2026, {author}"
version = release = scvi.__version__

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"),
    *("pages", "sphinx_gallery.gen_gallery"),
]
exclude_patterns = ["_build", "tutorials*"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "scvi"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "object,Module"}
napoleon_google_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "tutorials_2020"],
    "gallery_dirs": ["gallery", "gallery_2020"],
    "filename_pattern": "",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("pages.scrape_figures",),
    "download_all_examples": False,
    "show_signature": False,
}
