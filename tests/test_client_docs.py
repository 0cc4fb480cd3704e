# SPDX-License-Identifier: AGPL-3.0-only
"""docs/client.md does what it says, and the example beside it is a hub that Synapse can resolve."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plexus_registry.client
from plexus_registry.client import Client, announce
from support.conversation import Conversation, conversation
from support.daemon import environment
from support.serving import Served
from support.timing import TIMEOUT_S, wait_until

ROOT = Path(__file__).parents[1]
HUB = ROOT / "docs/examples/hub.py"
TEXT = (ROOT / "docs/client.md").read_text(encoding="utf-8")
ANNOUNCING, ASKING = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FRAMES = (ROOT / "tests/conformance/data/client-frames.jsonl").read_text().splitlines()
# The first frame of each case.
RECORDED = {line["case"]: line["frame"] for line in map(json.loads, reversed(FRAMES))}


def test_two_lines_announce_a_hub(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block runs while the hub is registered."""
    monkeypatch.setenv("PLEXUS_REGISTRY_URL", served.url)
    defined: dict[str, Any] = {}
    exec(ANNOUNCING, defined)

    async def run() -> None:
        async with Client() as registry:
            while await registry.get("greeter") is None:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(defined["serve_hub"](run), TIMEOUT_S))
    entry = served.in_loop(lambda: served.service.registry.catalog.get("greeter"))
    assert entry is not None
    assert (entry.port, entry.description, entry.is_active) == (4455, "Greets", False)


def test_program_that_asks_runs_as_it_stands(served: Served, tmp_path: Path) -> None:
    """And prints what is there, and what is not."""
    printed = subprocess.run(
        [sys.executable, "-c", ASKING],
        env=environment(tmp_path, PLEXUS_REGISTRY_URL=served.url),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout
    assert printed == "dev ws://127.0.0.1:4444 manual\nBackend not found: prod\n"


def test_every_method_and_argument_is_mentioned() -> None:
    """The tables are complete, and name nothing that is not there."""
    methods = {
        name
        for name, _ in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and name != "dial"
    }
    assert set(re.findall(r"^\| `(\w+)\(", TEXT, re.MULTILINE)) == methods
    for name in inspect.signature(announce).parameters:
        assert re.search(rf"\b{name}\b", TEXT), name
    errors = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert errors < set(plexus_registry.client.__all__)


@pytest.fixture
def hub(served: Served, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The example, announced."""
    with subprocess.Popen(
        [sys.executable, str(HUB)], env=environment(tmp_path, PLEXUS_REGISTRY_URL=served.url)
    ) as process:
        try:
            wait_until(
                lambda: is_active(served) or process.poll() is not None, "a hub that is announced"
            )
            yield process
        finally:
            process.kill()


def is_active(served: Served) -> bool:
    """Tell whether the example is listed."""
    entry = served.in_loop(lambda: served.service.registry.catalog.get("greeter"))
    return entry is not None and entry.is_active


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_smallest_hub_has_20_lines_and_is_found(
    served: Served, tmp_path: Path, number: signal.Signals
) -> None:
    """Synapse asks the registry where it is, and then itself who it is; it knows nothing else.

    However it is ended, it is not listed any more, and does not complain.
    """
    text = (ROOT / "docs/examples/smallest_hub.py").read_text(encoding="utf-8")
    # As one counts who reads it; each docstring is one line.
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    assert len([line for line in lines if not line.startswith(("#", '"""'))]) == 20
    assert max(map(len, text.splitlines())) <= 100
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "smallest_hub.py"
    file.write_text(text.replace("4455", str(port)), encoding="utf-8")
    environ = environment(tmp_path, PLEXUS_REGISTRY_URL=served.url)
    with (
        conversation(served.url) as registry,
        subprocess.Popen(
            [sys.executable, str(file)], env=environ, stderr=subprocess.PIPE
        ) as process,
    ):
        try:
            named = {"echo_hub": "smallest"}
            case = "resolve.via-registry.root"
            wait_until(lambda: replay(registry, case, **named)["backend"], "the entry")
            found = replay(registry, case, **named)["backend"]
            with conversation(f"ws://{found['host']}:{found['port']}") as hub:
                assert replay(hub, "start.bare") == {"backend": "smallest"}
                called = {"method": "registry.delete", "params": {"name": "prod"}}
                assert "not found" in hub.request("smallest.call", called).error["message"]
            process.send_signal(number)
            assert process.communicate(timeout=TIMEOUT_S)[1] == b""
            assert process.returncode == 0
            assert not replay(registry, case, **named)["backend"]["is_active"]
        finally:
            process.kill()


def replay(client: Conversation, case: str, **changes: str) -> Any:
    """Send what Synapse was recorded sending, with other names in it; return the content."""
    text = json.dumps(RECORDED[case])
    for old, new in changes.items():
        text = text.replace(old.replace("_", "-"), new)
    client.send(text)
    return client.answer().content


def test_synapse_resolves_the_example(served: Served, hub: subprocess.Popen[bytes]) -> None:
    """Who are you, where is it, is it you; then its schema, and its method: Synapse's way."""
    with conversation(served.url) as registry:
        assert replay(registry, "start.bare")["backend"] == "registry-hub"
        found = replay(registry, "resolve.via-registry.root", echo_hub="greeter")["backend"]
    assert found["is_active"]
    with conversation(f"ws://{found['host']}:{found['port']}") as greeter:
        assert replay(greeter, "start.bare") == {"backend": "greeter"}
        schema = replay(greeter, "start.bare-json", registry_hub="greeter")
        assert {"namespace", "version", "description", "hash", "methods"} <= schema.keys()
        (method,) = schema["methods"]
        assert {"name", "description", "hash"} <= method.keys()
        called = {"method": f"greeter.{method['name']}", "params": {}}
        answer = greeter.request("greeter.call", called)
        assert answer.content["text"] == "Hello, world"
        for item in answer.items:  # what Synapse hangs without
            assert item["metadata"]["provenance"]
            assert re.fullmatch(r"[0-9a-f]{16}", item["metadata"]["plexus_hash"])
            assert type(item["metadata"]["timestamp"]) is int
        nothing = greeter.request("greeter.call", {"method": "greeter.nothing"})
        assert "greeter.nothing" in nothing.error["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_example_says_goodbye(
    served: Served, hub: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    """However it is ended, by systemd or by hand."""
    hub.send_signal(number)
    assert hub.wait(TIMEOUT_S) == 0
    assert not is_active(served)
