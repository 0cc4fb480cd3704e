# SPDX-License-Identifier: AGPL-3.0-only
"""A fault that made a reload fail is told until a saved file mends it, and no longer."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority, Issued
from support.conversation import conversation
from support.daemon import Daemon, daemon, environment
from support.notifications import Notifications, notifications
from support.timing import wait_until

HASH = "0" * 64
SOUND = "[[backend]]\nname = 'dev'\nhost = 'h'\nport = 1\n"
OTHER_KEY = "is not the key of the certificate in"


class Told:
    """A daemon that speaks TLS and has tokens, and all places where it tells of its last reload."""

    def __init__(self, folder: Path, manager: Notifications) -> None:
        self.authority = Authority(folder)
        self.issued = self.authority.issue()
        self.renewed = self.authority.issue("renewed")
        self.config = folder / ".config/plexus/backends.toml"
        self.tokens = folder / "tokens"
        self.config.parent.mkdir(parents=True)
        self.config.write_text(SOUND)
        self.set_tokens(f"ci:{HASH}\n")
        self.options = (*self.issued.options, "--token-file", str(self.tokens))
        self.running: Daemon | None = None
        self._manager = manager

    def set_tokens(self, text: str) -> None:
        """Write the file of tokens."""
        self.tokens.write_text(text)
        self.tokens.chmod(0o640)

    def expect(self, reason: str = "", *, unlike: str = "never") -> None:
        """Wait until every place tells that the last reload failed so, or that it was done."""
        assert self.running is not None
        url = self.running.url.replace("ws://", "wss://")

        def is_told(status: str) -> bool:
            is_failed = " FAILED: " in status
            return is_failed == bool(reason) and reason in status and unlike not in status

        self._manager.receive_until(
            lambda message: message.startswith("STATUS=serving") and is_told(message)
        )
        with conversation(url, ssl=self.authority.client()) as client:
            reload = client.call("registry.status").content["reload"]
        assert reload["ok"] is not bool(reason)
        assert reason in (reload["message"] or "")
        page = url.replace("wss://", "https://") + "/metrics"
        with urllib.request.urlopen(page, context=self.authority.client()) as answer:
            metrics = answer.read().decode()
        assert f"\nplexus_registry_last_reload_ok {float(not reason)}\n" in metrics


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    """A daemon whose last reload was done."""
    with notifications(tmp_path) as manager:
        told = Told(tmp_path, manager)
        environ = environment(tmp_path, NOTIFY_SOCKET=manager.address)
        with daemon(tmp_path, told.options, environ) as running:
            manager.receive_until(lambda message: message == "READY=1")
            told.running = running
            yield told


def copy(made: Issued, to: Issued, *, with_key: bool = True) -> None:
    """Copy a certificate over another, as a renewal does."""
    shutil.copy(made.certificate, to.certificate)
    if with_key:
        shutil.copy(made.key, to.key)


def test_key_that_follows_its_certificate_mends_the_reload(told: Told) -> None:
    """The ordinary renewal: in between, they do not belong together."""
    copy(told.renewed, told.issued, with_key=False)
    told.expect(OTHER_KEY)
    shutil.copy(told.renewed.key, told.issued.key)
    told.expect()
    assert told.running is not None
    told.running.wait_for_log("configuration is sound again, declared backends are as before")


def test_former_certificate_that_is_put_back_mends_the_reload(told: Told) -> None:
    """Though there is nothing to load."""
    former = told.issued.certificate.read_bytes()
    copy(told.renewed, told.issued, with_key=False)
    told.expect(OTHER_KEY)
    told.issued.certificate.write_bytes(former)
    told.expect()


def test_mode_of_the_key_that_is_mended_mends_the_reload(told: Told) -> None:
    """And what is wrong meanwhile is told as it is now."""
    told.issued.key.chmod(0o666)
    told.expect("has the mode 0666")
    told.issued.key.chmod(0o660)
    told.expect("has the mode 0660")
    told.issued.key.chmod(0o600)
    told.expect()


def test_tokens_that_are_mended_mend_the_reload(told: Told) -> None:
    """Whether it was their text or their mode."""
    told.set_tokens("rubbish\n")
    told.expect("this is no token")
    told.set_tokens(f"web:{HASH}\n")
    told.expect()
    told.tokens.chmod(0o666)
    told.expect("has the mode 0666")
    told.tokens.chmod(0o640)
    told.expect()


def test_fault_of_what_is_declared_stays_told_when_the_certificate_is_mended(told: Told) -> None:
    """The renewed certificate is used all the same."""
    told.config.write_text("[[backend]]\n")
    told.expect("backends.toml:1: ")
    copy(told.renewed, told.issued, with_key=False)
    told.expect(OTHER_KEY)
    shutil.copy(told.renewed.key, told.issued.key)
    told.expect("Failed to parse TOML config: ", unlike=OTHER_KEY)
    told.config.write_text(SOUND)
    told.expect()
    assert told.running is not None
    assert sum("TLS certificate loaded" in line for line in told.running.log) == 2


def test_fault_of_the_certificate_stays_told_when_what_is_declared_is_mended(told: Told) -> None:
    """Neither a sound file of backends nor one of tokens mends it."""
    copy(told.renewed, told.issued, with_key=False)
    told.expect(OTHER_KEY)
    told.config.write_text("[[backend]]\n")
    told.set_tokens("rubbish\n")
    told.expect("this is no token")
    told.config.write_text(SOUND)
    told.set_tokens(f"ci:{HASH}\n")
    told.expect(OTHER_KEY, unlike="this is no token")
    shutil.copy(told.renewed.key, told.issued.key)
    told.expect()


def test_reload_that_somebody_asks_for_tells_every_time(told: Told) -> None:
    """It reads all anew: what is wrong is answered, what is mended is done."""
    assert told.running is not None
    url = told.running.url.replace("ws://", "wss://")
    with conversation(url, ssl=told.authority.client()) as client:
        copy(told.renewed, told.issued, with_key=False)
        for _ in range(2):
            assert OTHER_KEY in client.call("registry.reload").content["message"]
        shutil.copy(told.renewed.key, told.issued.key)
        assert client.call("registry.reload").content["unchanged"] == 1

        def is_ok() -> bool:
            return bool(client.call("registry.status").content["reload"]["ok"])

        wait_until(is_ok, "a reload that was done")
