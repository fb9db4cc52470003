"""A real browser, for pages that are to work in one: Chromium without a window, by selenium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
INSIDE = ("file:", "data:", "blob:", "about:", "chrome:", "chrome-untrusted:")  # addresses that ask no network


def found(names: tuple[str, ...]) -> str | None:
    """The first of some programs that is installed."""
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def opened(profile: Path, width: int = 1200, height: int = 1000) -> Iterator[Any]:
    """A browser with an empty profile in a new folder; the test is skipped where none is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: it is in the extra [test]")
    browser, driver = found(BROWSERS), found(DRIVERS)
    if browser is None or driver is None:
        missing = "Chromium" if browser is None else "chromedriver"
        pytest.skip(f"{missing} is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        running.set_script_timeout(60)
        running.set_page_load_timeout(120)
        running.get("about:blank")  # in place of the browser's own first page
        running.get_log("performance")
        yield running
    finally:
        running.quit()


def console_errors(browser: Any) -> list[str]:
    """What the pages since the last call complained of."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests_that_left(browser: Any) -> list[str]:
    """Addresses that were asked for since the last call, but for those of files and of the page itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(INSIDE)]


def resize(browser: Any, width: int, height: int = 800) -> None:
    """Gives the page so many pixels, as few as a phone has, which no window is."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    )


def width_of_page(browser: Any) -> int:
    """Pixels that the page takes, beyond the window where it has to be moved to be read."""
    return int(browser.execute_script("return document.documentElement.scrollWidth"))
