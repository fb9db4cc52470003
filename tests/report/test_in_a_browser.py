"""The report in a real browser: nothing fails, nothing leaves the page, and what moves does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scvi
from asking import make
from browser import console_errors, requests_that_left, resize, width_of_page
from report_cells import IMAGE, SCRIPT, TAG, hostile
from scvi import plots
from small_cells import QUICK

_FOUND = """
const [css, root, get] = arguments
const found = []
const look = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.matches(css) && element.getClientRects().length) found.push(element)
    if (element.shadowRoot) look(element.shadowRoot)
  }
}
look(root ?? document)
if (get === null) return found
found.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
return found.map(new Function("element", "return " + get))
"""


def seen(browser: Any, css: str, inside: Any = None, get: str | None = None) -> list[Any]:
    """Elements that have a place, also those that a widget keeps to itself; or what is got of each, top to bottom."""
    return browser.execute_script(_FOUND, css, inside, get)


def texts(browser: Any, css: str, inside: Any = None) -> list[str]:
    """Those of the elements, from top to bottom."""
    return seen(browser, css, inside, "element.innerText.trim()")


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a condition gives as soon as it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail("it did not happen")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on cells whose columns, batches, types and genes have names that are code."""
    adata = hostile()
    model = make(scvi.SCANVI, adata, setup={"batch_key": TAG})
    model.train(**QUICK)
    patch = pytest.MonkeyPatch()
    patch.setattr(plots, "umap", lambda latent, seed=0: np.asarray(latent)[:, :2])
    try:
        return model.report(tmp_path_factory.mktemp("report") / "report.html", columns=["donor", "age"], seed=0)
    finally:
        patch.undo()


@pytest.fixture
def page(browser: Any, file: Path) -> Any:
    """The report, drawn to the end; after the test nothing has failed, and nothing was asked of a network."""
    resize(browser, 1200)
    browser.get(file.as_uri())
    until(lambda: len(seen(browser, ".slick-row")) > 3)
    yield browser
    assert console_errors(browser) == []
    assert requests_that_left(browser) == []


def group(page: Any, label: str) -> Any:
    """The part of the page with what moves."""
    (found,) = seen(page, f"[role=group][aria-label*='{label}']")
    page.execute_script("arguments[0].scrollIntoView()", found)
    return found


_INK = """
(() => {
  const counts = {}
  const copy = new OffscreenCanvas(element.width, element.height).getContext("2d", {willReadFrequently: true})
  copy.drawImage(element, 0, 0)
  const {data} = copy.getImageData(0, 0, element.width, element.height)
  for (let i = 0; i < data.length; i += 4) {
    const colour = `${data[i]} ${data[i + 1]} ${data[i + 2]}`
    if (data[i + 3] > 200) counts[colour] = (counts[colour] ?? 0) + 1
  }
  return counts
})()
"""


def drawn(page: Any, inside: Any) -> dict[str, int]:
    """How many pixels of each colour the map shows, once it is drawn."""

    def now() -> dict[str, int]:
        counts = seen(page, "canvas.bk-layer", inside, _INK.strip())[0]
        return {colour: n for colour, n in counts.items() if n > 400}

    return until(lambda: (first := now()) == (time.sleep(0.3) or now()) and first)


def test_it_opens_without_a_complaint(page: Any) -> None:
    assert page.title == "A fit of SCANVI"
    assert page.execute_script("return Bokeh.documents.length") == 1


def test_a_request_that_leaves_would_be_seen_and_is_forbidden(browser: Any, file: Path) -> None:
    browser.get(file.as_uri())
    address = "http://localhost:9/a.png"
    browser.execute_script("new Image().src = arguments[0]", address)
    until(lambda: any("Content Security Policy" in message for message in console_errors(browser)))
    assert requests_that_left(browser) == [address]  # it was asked for, and refused


def test_names_that_are_code_are_text(page: Any) -> None:
    """Also where they are pointed at, listed and sorted."""
    first = group(page, "Map of")
    (choice,) = seen(page, "select", first)
    assert TAG in [option.text for option in choice.find_elements("tag name", "option")]
    assert texts(page, "label:has(input)", first) == [SCRIPT + IMAGE, TAG]
    type_into(page, group(page, "All genes"), "onerror")
    assert until(lambda: [row for row in rows(page, group(page, "All genes")) if row[0] == IMAGE])
    assert page.execute_script("return window.wrong") is None
    assert not seen(page, "img[onerror]")


def test_pointing_at_a_cell_tells_what_is_known_of_it(page: Any) -> None:
    from selenium.webdriver import ActionChains

    inside = group(page, "Map of")
    x, y = page.execute_script(
        """
        const plot = Bokeh.documents[0].get_model_by_name("map")
        const view = Bokeh.index.find_one_by_id(plot.id)
        const {x, y} = plot.renderers[0].data_source.data
        const box = view.canvas_view.el.getBoundingClientRect()
        return [box.left + view.frame.x_scale.compute(x[0]), box.top + view.frame.y_scale.compute(y[0])]
        """
    )
    actions = ActionChains(page)
    actions.w3c_actions.pointer_action.move_to_location(round(x) - 30, round(y))
    actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()
    text = until(lambda: " ".join(texts(page, ".bk-Tooltip, .bk-tooltip-content")))
    assert TAG in text
    assert "donor" in text
    assert inside.is_displayed()
    assert page.execute_script("return window.wrong") is None


def test_the_column_that_colours_is_chosen_and_groups_are_hidden_with_the_keyboard(page: Any) -> None:
    from selenium.webdriver import Keys

    inside = group(page, "Map of")
    (choice,) = seen(page, "select", inside)
    before = until(lambda: drawn(page, inside))
    labels = texts(page, "label:has(input)", inside)
    choice.send_keys("donor")
    until(lambda: texts(page, "label:has(input)", inside) == ["0", "1", "2", "3"])
    assert len(labels) == 2
    coloured = until(lambda: len(now := drawn(page, inside)) == len(before) + 2 and now)
    first, *_ = seen(page, "input[type=checkbox]", inside)
    first.send_keys(Keys.SPACE)
    assert not first.is_selected()
    hidden = until(lambda: len(now := drawn(page, inside)) == len(coloured) - 1 and now)
    assert set(hidden) < set(coloured)
    first.send_keys(Keys.SPACE)
    until(lambda: set(drawn(page, inside)) == set(coloured))


def rows(page: Any, inside: Any) -> list[list[str]]:
    """Cells of the rows that are seen, from top to bottom."""
    get = '[...element.querySelectorAll(".slick-cell")].map((cell) => cell.innerText.trim())'
    return seen(page, ".slick-row", inside, get)


def type_into(page: Any, inside: Any, text: str) -> None:
    (field,) = seen(page, "input[type=text], input:not([type])", inside)
    field.clear()
    field.send_keys(text)


@pytest.mark.parametrize("label", ["All genes", "Genes that differ"])
def test_a_table_sorts_and_filters(page: Any, label: str) -> None:
    inside = group(page, label)
    until(lambda: rows(page, inside))
    heads = seen(page, ".slick-header-column", inside, "element.innerText.trim()")
    place = heads.index("mean" if label == "All genes" else "mean count")
    for ascending in (True, False):
        seen(page, ".slick-header-column", inside)[place].click()
        until(lambda ascending=ascending: is_sorted([row[place] for row in rows(page, inside)], ascending))
    type_into(page, inside, "GENE3")
    until(lambda: rows(page, inside) and all("gene3" in row[0] for row in rows(page, inside)))
    type_into(page, inside, "no such gene")
    until(lambda: rows(page, inside) == [])
    type_into(page, inside, "gene3")
    until(lambda: rows(page, inside))
    if label == "Genes that differ":
        (choice,) = seen(page, "select", inside)
        choice.send_keys("t0 vs Rest")
        until(lambda: {row[heads.index("comparison")] for row in rows(page, inside)} == {"t0 vs Rest"})


def is_sorted(texts: list[str], ascending: bool) -> bool:
    values = [float(text) for text in texts if text not in ("", "NaN")]
    return len(values) > 2 and values == sorted(values, reverse=not ascending)


_TOO_WIDE = """
[...document.querySelectorAll(".scroll, pre")].filter((element) => element.scrollWidth > element.clientWidth)
  .map((element) => `${element.ariaLabel}: ${element.scrollWidth} > ${element.clientWidth}`)
"""


@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_a_phone_and_a_small_window(page: Any, width: int) -> None:
    """Nor is a table or code wider than its place."""
    resize(page, width)
    page.refresh()
    until(lambda: len(seen(page, ".slick-row")) > 3)
    until(lambda: width_of_page(page) == width)
    assert page.execute_script(f"return {_TOO_WIDE.strip()}") == []
    trust = page.find_element("css selector", "[aria-label='Trust by label']")
    assert trust.find_element("css selector", "caption").size["height"] < 60
    named = (
        "getComputedStyle(arguments[0].querySelector('td'), '::before').content"
        if width < 600
        else "arguments[0].innerText"
    )
    assert "to be trusted?" in page.execute_script(f"return {named}", trust)
    assert all(element.is_displayed() for element in trust.find_elements("css selector", "tbody td"))
    for inside in (group(page, "Map of"), group(page, "All genes")):
        assert 250 < inside.size["width"] <= width
    small = [link for link in page.find_elements("css selector", "nav a") if link.size["height"] < 24]
    assert not small


def test_every_part_is_reached_with_the_keyboard_and_has_a_name(page: Any) -> None:
    regions = page.find_elements("css selector", "[tabindex='0'], [role=region], [role=group]")
    assert len(regions) > 5
    assert all(region.get_attribute("aria-label") for region in regions)
    assert all(image.get_attribute("alt") for image in page.find_elements("css selector", "img"))
    levels = [int(head.tag_name[1]) for head in page.find_elements("css selector", "h1, h2, h3")]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for field in seen(page, "select, input"):
        assert page.execute_script("return arguments[0].labels.length || arguments[0].ariaLabel", field)


def test_text_has_contrast(page: Any) -> None:
    """4.5 to 1 at least, as WCAG 2 asks, of the texts of the page."""
    pairs = page.execute_script(
        """
        const behind = (element) => {
          for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor
            if (!colour.startsWith("rgba(") || !colour.endsWith(" 0)")) return colour
          }
          return "rgb(255, 255, 255)"
        }
        return [...document.querySelectorAll("p, a, li, dt, dd, th, td, caption, h1, h2, h3, .tag, figcaption, code")]
          .map((element) => [getComputedStyle(element).color, behind(element)])
        """
    )
    assert len(pairs) > 100
    worst = min(contrast(*map(luminance, pair)) for pair in {tuple(pair) for pair in pairs})
    assert worst >= 4.5


def luminance(colour: str) -> float:
    channels = np.array([float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: float, second: float) -> float:
    high, low = max(first, second), min(first, second)
    return (high + 0.05) / (low + 0.05)


def test_it_prints(page: Any) -> None:
    """The map as still pictures, and no field to type into."""
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        stills = page.find_elements("css selector", "figure.only-print")
        assert len(stills) == 2
        assert all(still.is_displayed() for still in stills)
        assert not seen(page, "select, input, nav a")
        assert len(page.find_elements("css selector", "section")) > 8
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
