# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of the tests in a browser.

Nothing is skipped: a host without a browser is a failure that says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import host
from browser.browser import DESKTOP, Page, chromium
from browser.host import HostProblem
from browser.scene import REGISTERED, scene
from support.conversation import Conversation, conversation
from support.serving import Served

HERE = Path(__file__).parent
TIMEOUT_S = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make screenshots` have the pictures of docs/ taken anew."""
    parser.addoption("--screenshots", metavar="FOLDER", help="write the screenshots there")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test here the time that a browser may take on a slow machine."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Run one browser for all tests."""
    try:
        host.require()
    except HostProblem as problem:
        pytest.exit(f"this host cannot run the browser tests: {problem}", returncode=1)
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """Return a browser with an empty window, and check that its console stays empty.

    But for registries that have ended: a page that is open then tries to connect.
    """
    browser.driver.get("about:blank")
    browser.look_like(DESKTOP)
    browser.console()
    yield browser
    unexpected = [line for line in browser.console() if "ERR_CONNECTION_REFUSED" not in line]
    browser.driver.get("about:blank")
    assert unexpected == []


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    """Return a registry with some backends."""
    with scene(tmp_path) as served:
        yield served


@pytest.fixture
def hub(registry: Served) -> Iterator[Conversation]:
    """Return another client of that registry."""
    with conversation(registry.url) as client:
        yield client


@pytest.fixture
def opened(page: Page, registry: Served) -> Iterator[Page]:
    """Return the page of that registry, as a person finds it; its console stays empty."""
    page.open(page_of(registry))
    page.wait_for_names(*ALL)
    yield page
    unexpected = page.console()
    page.driver.get("about:blank")
    assert unexpected == []


ALL = sorted([*(str(backend["name"]) for backend in REGISTERED), "prod", "staging"])
"""The names of the scene's backends, in the order in which the page shows them at first."""


def page_of(served: Served) -> str:
    """Return the address of the page."""
    return f"{served.url.replace('ws://', 'http://')}/"
