# SPDX-License-Identifier: AGPL-3.0-only
"""A headless Chromium that is driven as a person would: clicks, keys, what is to be seen."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from browser.host import CHROMEDRIVER, CHROMIUM
from support.timing import wait_until

SWITCHES = (
    "--headless",
    "--no-sandbox",  # root cannot have one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--lang=en-GB",
    # Names of a registry that no name server knows, and certificates of no known authority.
    "--host-resolver-rules=MAP reg.example 127.0.0.1",
    "--ignore-certificate-errors",
)
Size = tuple[int, int]
DESKTOP: Size = (1280, 800)
PHONE: Size = (390, 844)


class Page:
    """The status page in a browser.

    Attributes:
        driver: Drives the browser.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open the page and wait until it has what the registry says."""
        self.driver.get(url)
        self.wait_for_state("Live")

    def look_like(self, size: Size, *, scheme: str = "light") -> None:
        """Give the window a size, as of a phone if it is small, and prefer light or dark."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.cdp("Emulation.setEmulatedMedia", features=features)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Run a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, outside of its policy, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str) -> WebElement:
        """Return the first element of a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return what an element says."""
        found: str = self.run(
            "return document.querySelector(arguments[0]).innerText.trim()", selector
        )
        return found

    def is_shown(self, selector: str) -> bool:
        """Tell whether an element is to be seen."""
        return self.one(selector).is_displayed()

    def column(self, selector: str) -> list[str]:
        """Return what the rows say in one place, from top to bottom."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('#rows ' + arguments[0])]"
            ".map((node) => node.innerText.trim())",
            selector,
        )
        return found

    @property
    def names(self) -> list[str]:
        """The names that are shown, from top to bottom."""
        return self.column("bdi")

    def wait_for_names(self, *names: str) -> None:
        """Wait until just these are shown, in this order."""
        wait_until(lambda: self.names == list(names), f"names {names}")

    def wait_for_state(self, text: str) -> None:
        """Wait until the page says so of its connection."""
        wait_until(lambda: self.text("#pill").startswith(text), f"state {text}")

    def wait_for_text(self, selector: str, part: str) -> None:
        """Wait until an element says so among other things."""
        wait_until(lambda: part in self.text(selector), f"{part} in {selector}")

    def console(self) -> list[str]:
        """Return what the browser had to say since this was asked before."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self.driver.get_screenshot_as_base64()))


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run a browser while the block runs; *profile* is a folder that is not there yet."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=CHROMEDRIVER))
    try:
        yield Page(driver)
    finally:
        driver.quit()
