"""The site that `make docs` has just built, in a real browser."""

from pathlib import Path

import pytest

import browser

SITE = Path(__file__).parent / "_build" / "html"
MADE_BY_SPHINX = {"search.html", "genindex.html", "py-modindex.html", "sg_execution_times.html"}
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
PAGES = [page for page in PAGES if page.rpartition("/")[2] not in MADE_BY_SPHINX]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as running:
        yield running


def test_the_site_is_whole():
    assert {"index.html", "quickstart.html", "models/scvi.html", "gallery/integration.html"} <= set(PAGES)
    assert {"gallery_2020/basic.html", "api/generated/scvi.SCVI.html", "from-2020.html"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page(page, opened):
    """Nothing is asked of the network, nothing fails, every picture is there, and a telephone shows the whole width."""
    browser.resize(opened, 360)
    opened.get((SITE / page).as_uri())
    assert browser.requests_that_left(opened) == []
    assert browser.console_errors(opened) == []
    assert browser.width_of_page(opened) <= 360
    pictures = "return [...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).map(i => i.src)"
    assert opened.execute_script(pictures) == []


def test_what_a_block_printed_and_drew_is_below_it():
    page = (SITE / "integrate.html").read_text(encoding="utf-8")
    assert "accuracy of neighbours: " in page.split("Did it work")[0]
    assert "integrate-0-0.png" in page
    tutorial = (SITE / "gallery" / "integration.html").read_text(encoding="utf-8")
    assert "sphx_glr_integration_001.png" in tutorial
    assert "entropy" in tutorial.split('class="sphx-glr-script-out')[1]
