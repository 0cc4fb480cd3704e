# SPDX-License-Identifier: AGPL-3.0-only
"""A certificate that expires while the registry runs: told in time, and nothing else suffers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from plexus_registry.service.expiry import DAY_S, LOOK_INTERVAL_S, Expiry
from support.certificates import Authority
from support.conversation import conversation
from support.serving import serving
from support.timing import wait_until

START = 1_800_000_000.0


class Days:
    """A clock and a timer for the same time, which passes when told to."""

    def __init__(self) -> None:
        self.now = START
        self.waits: list[float] = []
        self.due: tuple[float, Callable[[], None]] | None = None

    def later(self, after_s: float, call: Callable[[], None]) -> Days:
        """Set the one timer."""
        assert self.due is None, "one timer at a time"
        assert after_s > 0
        self.waits.append(after_s)
        self.due = (self.now + after_s, call)
        return self

    def cancel(self) -> None:
        """Call the timer off."""
        self.due = None

    def pass_until(self, day: float) -> None:
        """Let time pass."""
        until = START + day * DAY_S
        while self.due is not None and self.due[0] <= until:
            at, call = self.due
            self.now = max(self.now, at)
            self.due = None
            call()
        self.now = until


@pytest.fixture
def days() -> Days:
    """The time."""
    return Days()


@pytest.fixture
def expiry(days: Days) -> Expiry:
    """What is tested, of a certificate that expires after 30 days."""
    expiry = Expiry(Path("/tls.crt"), later=days.later, clock=lambda: days.now)
    expiry.follow(START + 30 * DAY_S)
    return expiry


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return level and first words of what was logged since the last time."""
    found = [f"{it.levelname} {it.getMessage().partition(' path=')[0]}" for it in caplog.records]
    caplog.clear()
    return found


SOON = "WARNING TLS certificate expires soon"
OVER = "ERROR TLS certificate has expired and is served on"


@pytest.mark.usefixtures("expiry")
def test_end_is_told_fourteen_three_and_one_day_ahead_and_when_it_comes(
    days: Days, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, with what to do; after that the log is silent."""
    for day, expected in [
        (15.9, []),
        (16, [SOON]),
        (26.9, []),
        (27, [SOON]),
        (28.9, []),
        (29, [SOON]),
        (29.99, []),
        (30, [OVER]),
        (300, []),
    ]:
        days.pass_until(day)
        assert told(caplog) == expected, day
    assert max(days.waits) == LOOK_INTERVAL_S


@pytest.mark.usefixtures("expiry")
def test_lines_say_which_file_and_what_to_do(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    """An operator need not look anything up."""
    days.pass_until(16)
    days.pass_until(30)
    assert caplog.messages[0] == (
        "TLS certificate expires soon path=/tls.crt expires=2027-02-14T08:00:00Z, put a renewed"
        " one in its place: clients will refuse this one"
    )
    assert caplog.messages[-1] == (
        "TLS certificate has expired and is served on path=/tls.crt expired=2027-02-14T08:00:00Z,"
        " put a renewed one in its place: clients refuse this one"
    )


def test_one_line_tells_what_is_due_at_once(
    days: Days, expiry: Expiry, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a certificate that is loaded with two days left, or a machine that slept."""
    expiry.follow(START + 2 * DAY_S)
    assert told(caplog) == [SOON]
    days.now += 40 * DAY_S
    days.pass_until(41)
    assert told(caplog) == [OVER]


def test_renewed_certificate_takes_the_place_of_the_old_one(
    days: Days, expiry: Expiry, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one's end is of no interest, and the new one's is told."""
    days.pass_until(20)
    told(caplog)
    expiry.follow(START + 110 * DAY_S)
    days.pass_until(95)
    assert told(caplog) == []
    days.pass_until(96)
    assert told(caplog) == [SOON]


def test_whoever_reloads_is_reminded_of_a_certificate_that_has_expired(
    days: Days, expiry: Expiry, caplog: pytest.LogCaptureFixture
) -> None:
    """Not more than once a minute, and not while it is valid."""
    expiry.remind()
    days.pass_until(29.5)
    told(caplog)
    expiry.remind()
    assert told(caplog) == []
    days.now += DAY_S
    expiry.remind()
    expiry.remind()
    assert told(caplog) == [OVER]


def test_nothing_is_told_after_the_end(
    days: Days, expiry: Expiry, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry that stops leaves no timer behind."""
    expiry.stop()
    expiry.remind()
    days.pass_until(40)
    assert days.due is None
    assert told(caplog) == []


# --- in a registry --------------------------------------------------------------------------------


def test_expired_certificate_keeps_no_declarations_from_being_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither on reload nor when a file is saved: the log says so, and it is served on."""
    authority = Authority(tmp_path)
    issued = authority.issue(days=30)
    config = tmp_path / "backends.toml"
    settings = issued.secure(
        dataclasses.replace(
            Settings(database=tmp_path / "registry.db", config=config), port=0, auto_register=None
        )
    )
    after_days = 0.0
    with (
        serving(settings, clock=lambda: time.time() + after_days * DAY_S) as served,
        conversation(served.url.replace("ws", "wss", 1), ssl=authority.client()) as client,
    ):
        after_days = 31
        config.write_text("[[backend]]\nname = 'asked'\nhost = 'h'\nport = 1\n")
        assert client.call("registry.reload").content["type"] == "reloaded"
        assert client.call("registry.get", {"name": "asked"}).content["backend"]["port"] == 1
        (line,) = [it for it in caplog.records if "certificate has expired" in it.getMessage()]
        assert line.levelname == "ERROR"
        assert f"path={issued.certificate} " in line.getMessage()

        config.write_text("[[backend]]\nname = 'saved'\nhost = 'h'\nport = 2\n")
        wait_until(
            lambda: client.call("registry.get", {"name": "saved"}).content["backend"] is not None,
            "what was saved",
        )
        with conversation(served.url.replace("ws", "wss", 1), ssl=authority.client()) as another:
            another.expect_silence()


def test_new_certificate_that_has_expired_already_is_refused(tmp_path: Path) -> None:
    """Nothing is applied with it; the former put back is sound again without being tried."""
    authority = Authority(tmp_path)
    issued = authority.issue()
    former = (issued.certificate.read_bytes(), issued.key.read_bytes())
    settings = issued.secure(
        dataclasses.replace(
            Settings(database=tmp_path / "registry.db", config=tmp_path / "backends.toml"), port=0
        )
    )
    with (
        serving(settings) as served,
        conversation(served.url.replace("ws", "wss", 1), ssl=authority.client()) as client,
    ):
        authority.issue(days=-0.01)
        for _ in range(2):
            event = client.call("registry.reload").content
            assert event["type"] == "error"
            assert "the certificate has expired, expected one that is valid" in event["message"]
        issued.certificate.write_bytes(former[0])
        issued.key.write_bytes(former[1])
        assert client.call("registry.reload").content["type"] == "reloaded"
