# SPDX-License-Identifier: AGPL-3.0-only
"""Verbs of ``plexus-registryctl`` that read and change entries, against a registry that runs."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from support.control import MAIN, MAIN_BOUND_BY_MODES, Ended, ctl, done, environment_of, failed
from support.conversation import conversation
from support.hubs import answering_info_only
from support.puppet import Peer, in_loop, puppet
from support.serving import Served, serving
from support.timing import TIMEOUT_S

Ctl = Callable[..., Ended]
HOSTILE = "[red]x[/red] \N{RIGHT-TO-LEFT OVERRIDE}txt"


@pytest.fixture
def control(served: Served, tmp_path: Path) -> Ctl:
    """Run the command against the running registry."""

    def run(*arguments: str) -> Ended:
        return ctl(tmp_path, *arguments, PLEXUS_REGISTRY_URL=served.url)

    return run


def on_terminal(home: Path, url: str, *arguments: str) -> str:
    """Return what the command shows on a terminal."""
    ours, theirs = pty.openpty()
    environ = environment_of(home, PLEXUS_REGISTRY_URL=url, COLUMNS="200", TERM="xterm")
    with subprocess.Popen(
        [*MAIN, *arguments], env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # its end, on Linux
                break
            shown += read
        process.wait(TIMEOUT_S)
    os.close(ours)
    return shown.decode()


def test_registered_backend_is_listed_shown_and_printed(control: Ctl) -> None:
    """What `register` enters, `list`, `get` and `url` find, one line a backend."""
    said = done(control("register", "prod", "wss://h.example:4444", "--description", "P"))
    assert said == "registered: prod at wss://h.example:4444"
    assert done(control("list")).split("\t") == [
        *("prod", "wss://h.example:4444", "manual", "active", "-", "P")
    ]
    assert done(control("url", "prod")) == "wss://h.example:4444"
    shown = dict(line.split(":", 1) for line in control("get", "prod").stdout.splitlines())
    assert shown["source"].strip() == "manual"
    assert shown["description"].strip() == "P"


def test_url_of_what_is_not_active_is_told_as_such(control: Ctl) -> None:
    """Scripts get it all the same, and whoever reads their log learns why nobody answers there."""
    control("register", "prod", "wss://h.example:4444")
    control("deregister", "prod")
    ended = control("url", "prod")
    assert (ended.returncode, ended.stdout) == (0, "wss://h.example:4444\n")
    assert ended.stderr == "plexus-registryctl: prod is not active: it was deregistered\n"


def test_json_has_every_field_of_an_entry(control: Ctl) -> None:
    """`--json` of `register`, `get`, `list` and `update` is the entry as on the wire."""
    registered = json.loads(control("register", "a", "ws://h:1", "--json").stdout)
    assert json.loads(control("get", "a", "--json").stdout) == registered
    assert json.loads(control("list", "--json").stdout) == [registered]
    updated = json.loads(control("update", "a", "ws://h:2", "--json").stdout)
    assert {key for key in updated if updated[key] != registered.get(key)} <= {"port", "updated_at"}
    assert updated["port"] == 2


def test_update_changes_what_is_given_and_clears_by_an_empty_text(control: Ctl) -> None:
    """What is not given stays."""
    control("register", "a", "ws://h:1", "--description", "D", "--namespace", "N")
    control("update", "a", "--description", "")
    found = json.loads(control("get", "a", "--json").stdout)
    assert "description" not in found
    assert (found["namespace"], found["port"]) == ("N", 1)
    assert "nothing to change" in failed(control("update", "a"), 64)


def test_several_names_are_done_one_after_another_in_spite_of_failures(control: Ctl) -> None:
    """`ping`, `deregister` and `delete` take many names; the one that is unknown is told."""
    for name in ("a", "b"):
        control("register", name, "ws://h:1")
    ended = control("ping", "a", "nobody", "b")
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == ["seen now: a", "seen now: b"]
    assert ended.stderr.splitlines() == [
        "plexus-registryctl: Backend not found: nobody (1 of 3 failed); `list --all` shows all"
        " that are"
    ]
    assert control("deregister", "a", "b").stdout.splitlines() == ["not active: a", "not active: b"]
    assert control("list").stdout == ""
    assert len(control("list", "--all").stdout.splitlines()) == 2
    events = json.loads(control("delete", "a", "nobody", "--json").stdout)
    assert [(event["name"], event["ok"]) for event in events] == [("a", True), ("nobody", False)]
    assert control("list", "--all").stdout.split("\t")[0] == "b"


def test_list_can_be_narrowed_to_a_source(control: Ctl, served: Served) -> None:
    """`--source` leaves the others out."""
    control("register", "by-hand", "ws://h:1")
    with conversation(served.url) as client:
        client.call(
            "registry.register", {"name": "by-hub", "host": "h", "port": 1, "source": "auto"}
        )
    assert control("list", "--source", "auto").stdout.split("\t")[0] == "by-hub"


def test_more_backends_than_a_page_are_all_listed(control: Ctl, served: Served) -> None:
    """Paging neither loses nor repeats one."""
    with conversation(served.url) as client:
        for number in range(2001):
            client.send(
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "registry.register",
                    "params": {"name": f"b{number:04}", "host": "h", "port": 1},
                }
            )
            client.answer()
    names = [line.split("\t")[0] for line in control("list").stdout.splitlines()]
    assert names == [f"b{number:04}" for number in range(2001)]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["get", "nobody"], 1, "there is no backend called nobody; `list --all` shows all"),
        (["url", "nobody"], 1, "there is no backend called nobody"),
        (["check", "nobody"], 1, "there is no backend called nobody"),
        (["register", "a", "h:1"], 64, "expected ws://HOST:PORT or wss://HOST:PORT"),
        (["register", "a b", "ws://h:1"], 1, "1 to 128 printable characters"),
        *(
            (
                [verb, "nobody", *more],
                1,
                "Backend not found: nobody; `list --all` shows all that are",
            )
            for verb, *more in (["update", "ws://h:1"], ["delete"], ["ping"], ["deregister"])
        ),
        (["list", "--source", "heaven"], 64, "--source"),
        (["delete"], 64, "NAME"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_what_would_be_right(
    control: Ctl, arguments: list[str], status: int, words: str
) -> None:
    """Standard output stays empty, and the exit status is the documented one."""
    assert words in failed(control(*arguments), status)


NOT_UTF8 = os.fsdecode(b"bad\xff")


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", NOT_UTF8],
        ["url", NOT_UTF8],
        ["check", "a", NOT_UTF8],
        ["update", NOT_UTF8, "ws://h:2"],
        ["update", "a", "--namespace", NOT_UTF8],
        ["register", "b", f"ws://{NOT_UTF8}:1"],
        ["register", "b", "ws://h:1", "--description", NOT_UTF8],
        ["delete", "a", NOT_UTF8, "b"],
        ["ping", NOT_UTF8],
        ["deregister", "a", NOT_UTF8],
        ["token", "new", NOT_UTF8],
    ],
)
def test_text_that_is_not_utf8_is_refused_before_anything_is_asked(
    control: Ctl, served: Served, arguments: list[str]
) -> None:
    """As a wrong command line: what stands before it is not done."""
    with conversation(served.url) as client:
        client.call("registry.register", {"name": "a", "host": "h", "port": 1})
        before = client.call("registry.list").content["backends"]
        line = failed(control(*arguments), 64)
        assert client.call("registry.list").content["backends"] == before
    assert "\\udcff" in line
    assert " is not UTF-8; see plexus-registryctl " in line


def test_names_with_a_dash_in_front_are_given_after_two(control: Ctl) -> None:
    """`--` ends the options, as everywhere."""
    control("register", "--", "-x", "ws://h:1")
    assert done(control("url", "--", "-x")) == "ws://h:1"


def test_terminal_gets_a_table_that_texts_cannot_break(served: Served, tmp_path: Path) -> None:
    """Marks that reorder text are shown as escapes, markup as it is."""
    url = served.url
    ctl(tmp_path, "--url", url, "register", "evil", "ws://h:1", "--description", HOSTILE)
    shown = on_terminal(tmp_path, url, "list")
    assert "DESCRIPTION" in shown
    assert "[red]x[/red] \\u202etxt" in shown
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in shown
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in ctl(tmp_path, "--url", url, "list").stdout
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in ctl(tmp_path, "--url", url, "get", "evil").stdout


def test_colour_is_left_out_where_it_is_not_wanted(served: Served, tmp_path: Path) -> None:
    """$NO_COLOR is obeyed, on a terminal too (no-color.org)."""
    ctl(tmp_path, "--url", served.url, "register", "a", "ws://h:1")
    os.environ["NO_COLOR"] = "1"
    try:
        shown = on_terminal(tmp_path, served.url, "list")
    finally:
        del os.environ["NO_COLOR"]
    assert "ws://h:1" in shown
    assert "\x1b[3" not in shown


def test_finding_a_url_loads_neither_tables_nor_sqlite(served: Served, tmp_path: Path) -> None:
    """Scripts that ask for a URL do not wait for what only people and backups need."""
    ctl(tmp_path, "--url", served.url, "register", "a", "ws://h:1")
    code = (
        "import sys; from plexus_registry.cli.control import main; status = main();"
        "print([one for one in ('rich', 'sqlite3') if one in sys.modules]);"
        "sys.exit(status)"
    )
    program = (*MAIN[:2], code)
    ended = ctl(tmp_path, "--url", served.url, "url", "a", program=program)
    assert ended.stdout.splitlines() == ["ws://h:1", "[]"]


def test_waiting_lasts_until_the_registry_answers(tmp_path: Path) -> None:
    """With `--wait` a command that comes too early succeeds; without, it says who to ask."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    assert " doctor looks for the cause" in failed(ctl(tmp_path, "--url", url, "list"), 69)
    with subprocess.Popen(
        [*MAIN, "--url", url, "--wait", str(TIMEOUT_S), "list"],
        env=environment_of(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as waiting:
        settings = Settings(
            port=port,
            database=tmp_path / "registry.db",
            config=tmp_path / "backends.toml",
            auto_register=None,
        )
        with serving(settings):
            assert waiting.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("option", ["--timeout", "--wait"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_times_have_to_come_to_an_end(control: Ctl, option: str, value: str) -> None:
    """What is no number of seconds would never be over."""
    assert option in failed(control(f"{option}={value}", "list"), 64)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["token"], "Missing command; see plexus-registryctl token --help"),
        (["get"], "Missing argument 'NAME'; see plexus-registryctl get --help"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_right_help(
    control: Ctl, arguments: list[str], line: str
) -> None:
    """That of the verb, which has its options."""
    assert failed(control(*arguments), 64) == line


@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.parametrize(
    "verb",
    [
        "list",
        "get a",
        "url a",
        "check",
        "register a ws://h:1",
        "update a ws://h:1",
        "delete a",
        "ping a",
        "deregister a b --json",
        "export",
        "import backends.toml",
        "status --json",
        "reload",
    ],
)
def test_hub_that_is_no_registry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, to_all: bool
) -> None:
    """Nothing was refused or done: the wrong one was asked, even if it answers whatever comes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backends.toml").write_text('[[backend]]\nname = "a"\nhost = "h"\nport = 1\n')
    with answering_info_only("greeter", to_all=to_all) as url:
        line = failed(ctl(tmp_path, "--url", url, *verb.split()), 69)
    assert line == (f"greeter at {url} is a Plexus hub, but no registry; name another by --url")


@in_loop
async def test_time_beyond_all_calendars_is_shown_as_a_number(tmp_path: Path) -> None:
    """A registry of another make may hold any; no failure, and no traceback."""
    times = {"registered_at": 253_402_300_800, "updated_at": 10**18, "last_seen": -(10**18)}
    entry = {"name": "a", "host": "h", "port": 1, **times}

    async def behave(peer: Peer) -> None:
        request, _ = await peer.receive_call()
        await peer.answer(request, {"type": "backend", "backend": entry})
        await peer.idle()

    async with puppet(behave) as url:
        ended = await asyncio.to_thread(ctl, tmp_path, "--url", url, "get", "a", TZ="UTC")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "registered:  253402300800\n" in ended.stdout
    assert "updated:     1000000000000000000\n" in ended.stdout


def test_json_and_export_escape_what_would_mislead(served: Served, tmp_path: Path) -> None:
    """And read back as what was registered."""
    text = "a\u202eb\u2028c\U000e0041d"
    with conversation(served.url) as client:
        fields = {"name": "evil", "host": "h", "port": 1, "description": text}
        client.call("registry.register", fields)
    shown = ctl(tmp_path, "--url", served.url, "get", "evil", "--json").stdout
    exported = ctl(tmp_path, "--url", served.url, "export").stdout
    for printed in (shown, exported):
        assert printed.replace("\n", "").isprintable()
    assert json.loads(shown)["description"] == text
    assert tomllib.loads(exported)["backend"][0]["description"] == text


def test_folder_of_somebody_elses_session_is_passed_over(served: Served, tmp_path: Path) -> None:
    """$XDG_RUNTIME_DIR may be left of another user, as by su: there is nothing to find then."""
    theirs = tmp_path / "runtime"
    theirs.mkdir(mode=0)
    ended = ctl(
        tmp_path,
        "--wait=0",
        "list",
        program=MAIN_BOUND_BY_MODES,
        XDG_RUNTIME_DIR=str(theirs),
    )
    assert "Permission denied" not in ended.stderr


GOOD = {"name": "good", "host": "h", "port": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", "remote"), ("is_active", 0), ("updated_at", 1.5), ("metadata", {"a": 1})],
)
@in_loop
async def test_entry_that_is_not_understood_is_named_with_the_reason(
    tmp_path: Path, field: str, value: object
) -> None:
    """As of a later version: it is a registry all the same, and others of its answers are read."""

    async def behave(peer: Peer) -> None:
        while True:
            request, method = await peer.receive_call()
            entries = [GOOD, GOOD | {"name": "odd", field: value}]
            event = {
                "registry.list": {"type": "backends", "backends": entries},
                "registry.get": {"type": "backend", "backend": GOOD},
            }[method]
            await peer.answer(request, event)

    async with puppet(behave) as url:
        listed = await asyncio.to_thread(ctl, tmp_path, "--url", url, "list")
        got = await asyncio.to_thread(ctl, tmp_path, "--url", url, "url", "good")
    line = failed(listed, 69)
    assert line.startswith(f"{url} answers, but its answer to registry.list is not understood: ")
    assert line.endswith(f' - at `$.{field}` of the entry "odd"')
    assert done(got) == "ws://h:1"


@pytest.mark.parametrize(
    ("verb", "kind", "word"),
    [
        ("delete", "backend_deleted", "deleted"),
        ("ping", "ping", "seen now"),
        ("deregister", "backend_deregistered", "not active"),
    ],
)
@in_loop
async def test_what_is_cut_tells_what_it_did(
    tmp_path: Path, verb: str, kind: str, word: str
) -> None:
    """In words and in JSON, when the registry goes away after the second of four."""

    async def behave(peer: Peer) -> None:
        request, _ = await peer.receive_call()
        await peer.answer(request, {"type": kind, "success": True})
        request, _ = await peer.receive_call()
        await peer.answer(request, {"type": "error", "message": "Backend not found: b"})
        await peer.receive_call()

    async with puppet(behave) as url:
        command = ("--url", url, verb, "a", "b", "c", "d")
        shown = await asyncio.to_thread(ctl, tmp_path, *command)
        found = await asyncio.to_thread(ctl, tmp_path, *command, "--json")
    assert shown.stdout.splitlines() == [f"{word}: a", "2 left, the first of them perhaps done"]
    refused, cut = shown.stderr.splitlines()
    assert refused == "plexus-registryctl: Backend not found: b"
    assert cut.startswith(f"plexus-registryctl: no registry answers at {url}: ")
    assert (shown.returncode, found.returncode) == (69, 69)
    told = [(one["name"], one["ok"], one["message"]) for one in json.loads(found.stdout)]
    assert told == [
        ("a", True, None),
        ("b", False, "Backend not found: b"),
        ("c", None, "perhaps done"),
        ("d", None, "not done"),
    ]


@in_loop
async def test_each_name_is_told_when_it_is_done(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C while it waits for the second knows what became of the first."""
    interrupt = asyncio.Event()

    async def behave(peer: Peer) -> None:
        request, _ = await peer.receive_call()
        await peer.answer(request, {"type": "backend_deleted"})
        await peer.receive_call()
        interrupt.set()
        await peer.idle()

    minding = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)", MAIN[-1])
    async with puppet(behave) as url:
        process = subprocess.Popen(
            [*MAIN[:-1], "; ".join(minding), "--url", url, "delete", "a", "b", "c"],
            env=environment_of(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        await interrupt.wait()
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "deleted: a\n"
        process.send_signal(signal.SIGINT)
        shown, complaint = await asyncio.to_thread(process.communicate)
    assert shown == "2 left, the first of them perhaps done\n"
    assert (process.returncode, complaint.strip()) == (-signal.SIGINT, "")
