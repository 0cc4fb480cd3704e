# SPDX-License-Identifier: AGPL-3.0-only
"""Who may call what, walked over real sockets: each method, from each side, under each policy."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect, unix_connect

from plexus_registry.access import Access, Policy
from plexus_registry.config import tokens
from plexus_registry.config.settings import Settings
from plexus_registry.errors import ConfigError
from plexus_registry.protocol.methods import HUB_METHODS, REGISTRY_METHODS, SCHEMA_METHOD, Right
from plexus_registry.service.certificates import CertificateReader
from plexus_registry.service.declarations import DeclarationReader
from plexus_registry.service.reading import Reading
from support.conversation import HUB, Answer, Conversation
from support.loglines import first_lines
from support.networks import THERE, connected_from, second_host, why_no_second_host
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until

PARAMS: dict[str, dict[str, Any]] = {
    "register": {"name": "new", "host": "h", "port": 1},
    "update": {"name": "kept", "host": "h2"},
    "call": {"method": "registry.list"},
    **{name: {"name": "kept"} for name in ("get", "delete", "ping", "deregister")},
}

Call = Callable[[Conversation, str, dict[str, Any]], Answer]


def _nested(client: Conversation, method: str, params: dict[str, Any]) -> Answer:
    return client.call(f"{HUB}.call", {"method": f"registry.{method}", "params": params})


SPELLINGS: dict[str, Call] = {
    "routed": lambda client, method, params: client.call(f"registry.{method}", params),
    "through-hub": lambda client, method, params: client.call(f"{HUB}.registry.{method}", params),
    "nested": _nested,
    "dotted": lambda client, method, params: client.request(f"registry.{method}", params),
    "underscore": lambda client, method, params: client.request(f"registry_{method}", params),
}
"""The ways to call a method of the registry."""


@dataclasses.dataclass
class Sides:
    """A registry and how to connect to it.

    Attributes:
        served: The registry.
        connect: Connects, by the name of the side.
    """

    served: Served
    connect: dict[str, Callable[[], socket.socket]]

    @contextlib.contextmanager
    def client(self, side: str, **headers: str) -> Iterator[Conversation]:
        """Talk to the registry from a side."""
        sock = self.connect[side]()
        # Version 15 of the library takes any socket of `connect` for one of TCP.
        start = unix_connect if sock.family == socket.AF_UNIX else connect
        options: dict[str, Any] = {"sock": sock, "uri": "ws://localhost/", "proxy": None}
        with start(additional_headers=headers, compression=None, **options) as websocket:
            yield Conversation(websocket)


@contextlib.contextmanager
def sides(settings: Settings, policy: Policy, folder: Path, host: str = "") -> Iterator[Sides]:
    """Serve on every address and on a Unix socket, and know the ways there."""
    path = str(folder / "r.sock")
    changed = dataclasses.replace(settings, write_access=policy, token_file=folder / "tokens")
    with contextlib.ExitStack() as stack:
        wide = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        port = wide.getsockname()[1]
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        served = stack.enter_context(serving(changed, sockets=[wide, unix]))
        yield Sides(
            served,
            {
                "loopback": lambda: socket.create_connection(("127.0.0.1", port), TIMEOUT_S),
                "owner": lambda: _unix_connection(path),
                "other-user": lambda: _connection_of_another_user(path),
                "remote": lambda: connected_from(host, port),
            },
        )


def _unix_connection(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(path)
    return sock


_CONNECTS_FOR_OTHERS = """
import os, socket, sys
os.chmod(sys.argv[1], 0o666)
os.setresgid(4711, 4711, 4711)
os.setresuid(4711, 4711, 4711)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
with socket.socket(fileno=int(sys.argv[2])) as channel:
    socket.send_fds(channel, [b"x"], [sock.fileno()])
"""


def _connection_of_another_user(path: str) -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", _CONNECTS_FOR_OTHERS, path, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=TIMEOUT_S,
        )
        _, [descriptor], _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=descriptor)


def content_of(answer: Answer) -> Any:
    """Return what a method said; a nested call wraps each item once more."""
    item = answer.items[0]
    assert item["type"] == "data", item
    inner = item["content"]
    return inner["content"] if inner.get("type") == "data" else inner


def message_if_refused(answer: Answer) -> str:
    """Return the words of a refusal, which must be an event and then the end; else nothing."""
    content = content_of(answer)
    assert answer.items[-1]["type"] == "done"
    refused = content.get("type") == "error"
    return str(content["message"]) if refused else ""


def walk(sides: Sides, side: str, *, may_write: bool, **headers: str) -> None:
    """Call each method of the tables in each spelling; what may not be called changes nothing."""
    entries = sides.served.service.registry.catalog
    with sides.client("owner") as owner, sides.client(side, **headers) as client:

        def put_back() -> None:
            assert owner.call("registry.register", PARAMS["register"] | {"name": "kept"}).content

        put_back()
        for method in (*REGISTRY_METHODS, SCHEMA_METHOD):
            for spelling, call in SPELLINGS.items():
                before = sides.served.in_loop(lambda: {one.name: one for one in entries})
                answer = call(client, method.name, PARAMS.get(method.name, {}))
                message = message_if_refused(answer)
                allowed = may_write or method.right is Right.READ
                assert (message == "") is allowed, (side, method.name, spelling, message)
                after = sides.served.in_loop(lambda: {one.name: one for one in entries})
                if not allowed:
                    assert after == before
                    assert "Authorization: Bearer TOKEN" in message
                elif method.name == "delete":
                    assert "kept" not in after
                    put_back()
        for method in (*HUB_METHODS, SCHEMA_METHOD):
            params = PARAMS.get(method.name, {})
            assert not message_if_refused(client.request(f"{HUB}.{method.name}", params))
        assert client.request("_info").content["auth_capabilities"] == {
            "mechanisms": [{"kind": "anonymous"}]
        }


WHY_NOT = why_no_second_host()
needs_second_host = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

MAY_WRITE = {
    Policy.LOCAL: {"loopback", "owner", "other-user"},
    Policy.TOKEN: {"owner"},
    Policy.OPEN: {"loopback", "owner", "other-user", "remote"},
}


def test_table_says_who_may_call_each_method() -> None:
    """What changes the registry is known, and the hub itself changes nothing."""
    writing = {method.name for method in REGISTRY_METHODS if method.right is Right.WRITE}
    assert writing == {"register", "update", "delete", "ping", "deregister", "reload"}
    for method in (*REGISTRY_METHODS, *HUB_METHODS, SCHEMA_METHOD):
        assert method.right is Right.WRITE or not method.is_write
    assert {method.right for method in (*HUB_METHODS, SCHEMA_METHOD)} == {Right.READ}


@pytest.mark.parametrize("policy", Policy)
def test_every_method_from_loopback_and_the_unix_socket(
    settings: Settings, tmp_path: Path, policy: Policy
) -> None:
    """Each side may write or not, as the policy says; everybody may read."""
    with sides(settings, policy, tmp_path) as found:
        for side in ("loopback", "owner"):
            walk(found, side, may_write=side in MAY_WRITE[policy])


@needs_second_host
@pytest.mark.parametrize("policy", Policy)
def test_every_method_from_a_second_host_and_another_user(
    settings: Settings, tmp_path: Path, policy: Policy
) -> None:
    """The same from an address that is not ours, and as another user of this machine.

    A token, as a header or as a cookie, makes up for it.
    """
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    _, token = tokens.add(tmp_path / "tokens", "ci")
    with second_host() as host, sides(settings, policy, tmp_path, host) as found:
        for side in ("remote", "other-user"):
            walk(found, side, may_write=side in MAY_WRITE[policy])
        walk(found, "remote", may_write=True, Authorization=f"Bearer {token}")
        walk(found, "remote", may_write=True, Cookie=f"a=b; access_token={token}; c=d")


@needs_second_host
def test_refused_write_is_told_and_logged_with_its_peer(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns what it needs; the log, who it was, once a minute at the most."""
    with (
        second_host() as host,
        sides(settings, Policy.LOCAL, tmp_path, host) as found,
        found.client("remote") as client,
    ):
        message = ""
        for _ in range(3):
            message = client.call("registry.register", PARAMS["register"]).content["message"]
        assert client.call("registry.reload").content["message"].startswith("Failed to reload: ")
    port = message.partition(f"{THERE}:")[2].partition(" ")[0]
    assert message == (
        f"Failed to register backend: writing needs a token from {THERE}:{port} (policy local:"
        " only loopback and Unix sockets do without); send Authorization: Bearer TOKEN, made by"
        " plexus-registryctl token new"
    )
    [record, left_out] = [it for it in caplog.records if "write refused" in it.message]
    assert f"write refused method=register peer={THERE}:{port} reason=writing " in record.message
    assert left_out.message.startswith("as before, and not logged each time: write refused times=3")


@needs_second_host
def test_noisy_client_does_not_hide_the_refusals_of_others(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each place has its own line a minute: another host, this one, a user of a Unix socket."""
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    with second_host() as host, sides(settings, Policy.TOKEN, tmp_path, host) as found:
        for side in ("remote", "loopback", "other-user", "remote", "loopback", "other-user"):
            with found.client(side) as client:
                for _ in range(10):
                    assert client.call("registry.ping", {"name": "x"}).content["type"] == "error"
    refused = [it.message for it in first_lines(caplog) if "write refused" in it.message]
    peers = [line.partition(" peer=")[2].partition(" ")[0] for line in refused]
    assert [peer.partition(":")[0] for peer in peers] == [THERE, "127.0.0.1", "unix"]


# --- tokens while it runs -------------------------------------------------------------------------


@pytest.fixture
def strict(settings: Settings, tmp_path: Path) -> Iterator[Sides]:
    """A registry whose loopback clients need a token."""
    with sides(settings, Policy.TOKEN, tmp_path) as found:
        yield found


def register(client: Conversation, name: str = "new") -> str:
    """Register, and return the words of a refusal if it is one."""
    return message_if_refused(client.call("registry.register", PARAMS["register"] | {"name": name}))


def reload(sides: Sides) -> Any:
    """Reload as somebody who may."""
    with sides.client("owner") as owner:
        return owner.call("registry.reload").content


def test_tokens_are_followed_on_open_connections(strict: Sides, tmp_path: Path) -> None:
    """A new one counts as soon as the file is saved; so does its end."""
    path = tmp_path / "tokens"
    _, token = tokens.add(path, "ci")
    access = strict.served.server.hub.access
    wait_until(lambda: "ci" in access.tokens, "the token to be read")
    with strict.client("loopback", Authorization=f"Bearer {token}") as client:
        assert register(client) == ""
        tokens.revoke(path, "ci")
        wait_until(lambda: not access.tokens, "the token to be forgotten")
        assert "is not known here" in register(client, "late")
    with (
        pytest.raises(InvalidStatus) as refused,
        strict.client("loopback", Authorization=f"Bearer {token}"),
    ):
        pass
    assert refused.value.response.status_code == 401


def test_revoked_token_outlives_no_reading_that_takes_long(strict: Sides, tmp_path: Path) -> None:
    """Tokens are read by themselves: nobody can keep one alive by reloads of many declarations."""
    path, service, is_over = tmp_path / "tokens", strict.served.service, threading.Event()
    _, token = tokens.add(path, "ci")
    access = strict.served.server.hub.access
    wait_until(lambda: "ci" in access.tokens, "the token to be read")
    with strict.client("loopback", Authorization=f"Bearer {token}") as client:
        assert register(client) == ""
        busy = service.registry._offload_read  # of the thread that reads declarations
        strict.served.in_loop(lambda: busy(is_over.wait, lambda outcome: None))
        try:
            tokens.revoke(path, "ci")
            wait_until(lambda: not access.tokens, "the token to be forgotten")
            assert "is not known here" in register(client, "late")
        finally:
            is_over.set()


def test_fault_in_tokens_keeps_what_was(strict: Sides, tmp_path: Path) -> None:
    """A fault there holds declarations up too; when it is mended both apply."""
    path, config = tmp_path / "tokens", strict.served.service.settings.config
    _, token = tokens.add(path, "ci")
    assert reload(strict)["type"] == "reloaded"
    with strict.client("loopback", Authorization=f"Bearer {token}") as client:
        sound = path.read_text()
        path.write_text("nonsense\n")
        config.write_text('[[backend]]\nname = "declared"\nhost = "h"\nport = 1\n')
        assert f"{path}:1: this is no token" in reload(strict)["message"]
        # Nothing but the file is wrong: to try again and again would only fill the log.
        assert strict.served.in_loop(lambda: strict.served.service._retry) is None
        assert client.call("registry.get", "declared").content["backend"] is None
        assert register(client) == ""

        path.write_text(sound.replace("ci:", "renamed:"))
        # Nobody asks: the files are followed.
        wait_until(
            lambda: client.call("registry.get", "declared").content["backend"], "the declaration"
        )
        assert list(strict.served.server.hub.access.tokens) == ["renamed"]
        assert register(client) == ""


def test_tokens_apply_whatever_is_wrong_elsewhere(strict: Sides, tmp_path: Path) -> None:
    """One that is taken back counts no more, and a new one does, beside a fault in another file."""
    path, config = tmp_path / "tokens", strict.served.service.settings.config
    _, token = tokens.add(path, "ci")
    assert reload(strict)["type"] == "reloaded"
    with strict.client("loopback", Authorization=f"Bearer {token}") as client:
        assert register(client) == ""
        config.write_text("[[backend]\n")
        tokens.revoke(path, "ci")
        _, newer = tokens.add(path, "newer")
        assert f"{config}:1: not TOML" in reload(strict)["message"]
        assert "is not known here" in register(client)
    with strict.client("loopback", Authorization=f"Bearer {newer}") as client:
        assert register(client) == ""


def test_tokens_apply_beside_a_faulty_certificate(tmp_path: Path) -> None:
    """They are read before it."""
    path, access = tmp_path / "tokens", Access(tokens={"revoked": b"digest"})
    tokens.add(path, "newer")
    declarations = DeclarationReader(tmp_path / "backends.toml", ())
    read = Reading(declarations, path, access, CertificateReader(None, tmp_path / "tls.key"))
    with pytest.raises(ConfigError, match="there is no certificate for the key"):
        read(explicit=False)
    assert list(access.tokens) == ["newer"]


def test_policy_open_reads_no_tokens(settings: Settings, tmp_path: Path) -> None:
    """Credentials are ignored, and so is what stands in the file."""
    (tmp_path / "tokens").write_text("nonsense\n")
    with (
        sides(settings, Policy.OPEN, tmp_path) as found,
        found.client("loopback", Authorization="Bearer wrong") as client,
    ):
        assert register(client) == ""


def test_client_behind_a_proxy_is_not_local(settings: Settings, tmp_path: Path) -> None:
    """A proxy on this machine speaks for whoever came to it, and says so in its headers."""
    with sides(settings, Policy.LOCAL, tmp_path) as found:
        said = ("For", "Host", "Proto", "Port", "Server")
        headers = [f"X-Forwarded-{what}" for what in said]
        for header in (*headers, "x-forwarded-host", "Forwarded", "X-Real-IP", "Via"):
            for side in ("loopback", "owner"):
                with found.client(side, **{header: "127.0.0.1"}) as client:
                    assert "writing needs a token" in register(client)
                    assert client.call("registry.list").content["type"] == "backends"
