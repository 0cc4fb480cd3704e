# SPDX-License-Identifier: AGPL-3.0-only
"""The certificate of a running daemon: refused at start, renewed without dropping anybody."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority, Issued, serial_of
from support.conversation import conversation
from support.daemon import BOUND_BY_MODES, Daemon, daemon, environment, run
from support.rawsocket import raw_socket
from support.timing import wait_until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that issues into the folder of the test."""
    return Authority(tmp_path)


@pytest.fixture
def issued(authority: Authority) -> Issued:
    """What the daemon starts with."""
    return authority.issue()


@pytest.fixture
def running(tmp_path: Path, issued: Issued) -> Iterator[Daemon]:
    """A daemon that speaks TLS."""
    with daemon(tmp_path, issued.options) as running:
        yield running


def url_of(running: Daemon) -> str:
    """Return its URL with the scheme of TLS."""
    return running.url.replace("ws://", "wss://")


def served_serial(running: Daemon, authority: Authority) -> int:
    """Connect and return the serial number of the certificate that is shown."""
    with raw_socket(int(running.url.rpartition(":")[2]), tls=authority.client()) as raw:
        assert isinstance(raw.socket, ssl.SSLSocket)
        der = raw.socket.getpeercert(binary_form=True)
    assert der is not None
    return serial_of(der)


# --- start ----------------------------------------------------------------------------------------


def test_start_with_an_expired_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    """Status 78, with the file and the reason; --check-config says the same."""
    issued = authority.issue(days=-0.01)
    for action in ([], ["--check-config"]):
        ended = run(tmp_path, *issued.options, *action)
        assert ended.returncode == 78
        assert ended.stderr.splitlines()[-1].endswith(
            f"{issued.certificate}: the certificate has expired, expected one that is valid today"
        )


def test_start_with_a_key_that_it_may_not_read_is_refused(tmp_path: Path, issued: Issued) -> None:
    """Status 78, with the file and what the system says."""
    issued.key.chmod(0)
    ended = run(tmp_path, *issued.options, program=BOUND_BY_MODES)
    assert ended.returncode == 78
    assert f"{issued.key}: cannot be read: Permission denied" in ended.stderr


def test_start_with_a_key_alone_is_refused(tmp_path: Path, issued: Issued) -> None:
    """Whoever names a key wants TLS: it must not be left out in silence."""
    ended = run(tmp_path, *issued.options[2:])
    assert ended.returncode == 78
    assert "set tls_certificate" in ended.stderr


def test_sound_certificate_is_told_by_the_check(tmp_path: Path, issued: Issued) -> None:
    """--check-config tries certificate and key without serving."""
    ended = run(tmp_path, *issued.options, "--check-config")
    assert ended.returncode == 0
    assert f"certificate and key are sound: {issued.certificate}" in ended.stdout
    assert "every user" not in ended.stdout
    issued.key.chmod(0o644)
    ended = run(tmp_path, *issued.options, "--check-config")
    assert ended.returncode == 0
    told = f"but every user of this machine can read the key: {issued.key} (mode 0644)\n"
    assert told in ended.stdout


def test_credentials_of_systemd_are_taken(tmp_path: Path, authority: Authority) -> None:
    """tls.crt and tls.key of $CREDENTIALS_DIRECTORY are the defaults; none turns TLS off."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    issued = authority.issue()
    for path in (issued.certificate, issued.key):
        shutil.move(path, folder / path.name)
    environ = environment(tmp_path, CREDENTIALS_DIRECTORY=str(folder))
    with (
        daemon(tmp_path, environ=environ) as running,
        conversation(url_of(running), ssl=authority.client()) as client,
    ):
        client.expect_silence()
    off = ("--tls-certificate", "none", "--tls-key", "none")
    with daemon(tmp_path, off, environ) as running, conversation(running.url) as client:
        client.expect_silence()


def test_certificate_that_expires_soon_is_a_warning(tmp_path: Path, authority: Authority) -> None:
    """While there is time to do something about it."""
    with daemon(tmp_path, authority.issue(days=3).options) as running:
        running.wait_for_log("listening")
    (line,) = [line for line in running.log if "TLS certificate expires soon" in line]
    assert "WARNING" in line


def test_key_that_everybody_can_read_is_a_warning(tmp_path: Path, issued: Issued) -> None:
    """It is served all the same."""
    issued.key.chmod(0o644)
    with daemon(tmp_path, issued.options) as running:
        running.wait_for_log("listening")
    (line,) = [line for line in running.log if "TLS private key" in line]
    assert "WARNING" in line
    assert line.endswith(f"path={issued.key} mode=0644, chmod 0640 {issued.key}")


# --- reloads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SIGHUP", "method", "file"])
def test_renewed_certificate_is_used_from_the_next_connection_on(
    running: Daemon, authority: Authority, issued: Issued, way: str
) -> None:
    """Connections that are open go on, whatever the reload was asked by."""
    with conversation(url_of(running), ssl=authority.client()) as old:
        before = served_serial(running, authority)
        assert before == issued.serial()
        renewed = authority.issue("renewed")
        os.replace(renewed.key, issued.key)
        os.replace(renewed.certificate, issued.certificate)
        if way == "SIGHUP":
            running.send(signal.SIGHUP)
        elif way == "method":
            assert old.call("registry.reload").content["type"] == "reloaded"
        wait_until(lambda: served_serial(running, authority) != before, "the new certificate")
        assert served_serial(running, authority) == issued.serial()
        old.expect_silence()
    # Once for the start and once for the renewal, however many reloads.
    assert sum("TLS certificate loaded" in line for line in running.log) == 2


def test_reload_with_a_certificate_of_no_use_changes_nothing(
    tmp_path: Path, running: Daemon, authority: Authority, issued: Issued
) -> None:
    """The reload fails with the reason, also for what is declared; the former is served on."""
    before = served_serial(running, authority)
    config = tmp_path / ".config/plexus/backends.toml"
    config.parent.mkdir(parents=True)
    with conversation(url_of(running), ssl=authority.client()) as client:
        shutil.copy(authority.issue("other").key, issued.key)
        config.write_text("[[backend]]\nname = 'dev'\nhost = 'h'\nport = 1\n")
        event = client.call("registry.reload").content
        assert event["type"] == "error"
        assert f"{issued.key}: is not the key of the certificate in" in event["message"]
        running.wait_for_log(
            f"config reload failed, keeping previous: {issued.key}: is not the key"
        )
        assert served_serial(running, authority) == before
        assert client.call("registry.get", {"name": "dev"}).content["backend"] is None

        authority.issue()
        assert client.call("registry.reload").content["type"] == "reloaded"
        assert served_serial(running, authority) == issued.serial() != before
        assert client.call("registry.get", {"name": "dev"}).content["backend"]["port"] == 1


def test_saved_file_does_not_hide_a_certificate_of_no_use(
    tmp_path: Path, running: Daemon, authority: Authority, issued: Issued
) -> None:
    """Whatever is saved next meets the fault again, and is applied once it is mended."""
    config = tmp_path / ".config/plexus/backends.toml"
    config.parent.mkdir(parents=True)
    config.write_text("")
    fault = f"config reload failed, keeping previous: {issued.certificate}: holds no certificate"

    def count() -> int:
        return sum(fault in line for line in list(running.log))

    with conversation(url_of(running), ssl=authority.client()) as client:
        sound = issued.certificate.read_bytes()
        issued.certificate.write_bytes(b"rubbish")
        wait_until(lambda: count() == 1, "the fault")
        config.write_text("[[backend]]\nname = 'dev'\nhost = 'h'\nport = 1\n")
        wait_until(lambda: count() == 2, "the fault again")
        status = client.call("registry.status").content
        assert status["reload"]["ok"] is False
        assert client.call("registry.get", {"name": "dev"}).content["backend"] is None
        issued.certificate.write_bytes(sound)

        def port() -> object:
            backend = client.call("registry.get", {"name": "dev"}).content["backend"]
            return backend and backend["port"]

        wait_until(lambda: port() == 1, "what was declared meanwhile")


def test_key_that_is_opened_to_everybody_later_is_a_warning(
    running: Daemon, authority: Authority, issued: Issued
) -> None:
    """Its content is as before; it is told once for each time that it happens."""

    def warnings() -> int:
        return sum("TLS private key can be read by every user" in line for line in running.log)

    with conversation(url_of(running), ssl=authority.client()) as client:
        for mode, told in ((0o600, 0), (0o644, 1), (0o644, 1), (0o600, 1), (0o644, 2)):
            issued.key.chmod(mode)
            assert client.call("registry.reload").content["type"] == "reloaded"
            wait_until(lambda told=told: warnings() == told, "the warning")  # type: ignore[misc]


def test_key_that_others_can_write_fails_the_reload(
    running: Daemon, authority: Authority, issued: Issued
) -> None:
    """Though its content is as before; what is wrong is told, and not as a fault of TOML."""
    with conversation(url_of(running), ssl=authority.client()) as client:
        issued.key.chmod(0o666)
        event = client.call("registry.reload").content
        assert event == {
            "type": "error",
            "message": f"Failed to reload: {issued.key}: has the mode 0666, so every user can write"
            f" it, expected 0640: chmod 0640 {issued.key}",
        }
        issued.key.chmod(0o640)
        assert client.call("registry.reload").content["type"] == "reloaded"


def test_key_that_more_and_more_can_write_is_told_each_time(
    running: Daemon, issued: Issued
) -> None:
    """By the saved mode alone, and not only that every user can read it."""
    running.wait_for_log("listening")
    for mode, writer in ((0o664, "its group"), (0o666, "every user")):
        issued.key.chmod(mode)
        running.wait_for_log(f"{issued.key}: has the mode {mode:04o}, so {writer} can write it")
    assert not any("chmod 0644" in line for line in running.log)


def test_fault_of_a_declared_file_keeps_the_former_certificate(
    tmp_path: Path, running: Daemon, authority: Authority, issued: Issued
) -> None:
    """All or nothing: the new certificate waits until the whole reload is sound."""
    before = served_serial(running, authority)
    config = tmp_path / ".config/plexus/backends.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[[backend]]\n")
    authority.issue()
    with conversation(url_of(running), ssl=authority.client()) as client:
        assert client.call("registry.reload").content["type"] == "error"
        assert served_serial(running, authority) == before
        config.write_text("")
        wait_until(lambda: served_serial(running, authority) == issued.serial(), "the new one")
        client.expect_silence()
