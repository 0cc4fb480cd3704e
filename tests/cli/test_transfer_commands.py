# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl export`` and ``import`` against a registry that runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.config import declared
from plexus_registry.config.settings import Settings
from support.control import MAIN, MAIN_BOUND_BY_MODES, Ended, ctl, environment_of, failed
from support.conversation import conversation
from support.daemon import run
from support.puppet import Peer, in_loop, puppet
from support.rust import make_rust_database
from support.serving import Served, serving

TWO = """
[[backend]]
name = "a"
host = "h"
port = 1
description = "quoted \\"text\\" \\\\ größe"

[[backend]]
name = "b"
host = "::1"
port = 2
protocol = "wss"
namespace = "n"
version = "1.2-β"
metadata = '''
{"labels": ["a", "b"]}'''
"""


FULL = {
    "name": "full",
    "host": "h",
    "port": 3,
    "description": "D",
    "namespace": "n",
    "version": "0.4.2",
    "metadata": {"pid": 7, "text": 'quoted "text"\n\\ größe'},
}
"""What a hub may register."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that declares two backends."""
    path = tmp_path / "two.toml"
    path.write_text(TWO, encoding="utf-8")
    return path


def control(served: Served, home: Path, *arguments: object) -> Ended:
    """Run the command against the running registry."""
    return ctl(home, "--url", served.url, *map(str, arguments))


def test_exported_entries_load_back_as_they_were(
    served: Served, tmp_path: Path, file: Path
) -> None:
    """What `export` writes declares what was imported, and can be declared by the registry."""
    assert control(served, tmp_path, "import", file).returncode == 0
    out = tmp_path / "out.toml"
    assert control(served, tmp_path, "export", out).stdout == f"{out}: 2 backends\n"
    assert declared.read_one(out) == declared.read_one(file)
    printed = control(served, tmp_path, "export").stdout
    assert printed == out.read_text(encoding="utf-8")


def test_all_that_an_entry_says_of_itself_comes_along(settings: Settings, tmp_path: Path) -> None:
    """Version and metadata too: into another registry by `import`, and into one by its file."""
    file, log = tmp_path / "out.toml", {"id", "source", "registered_at", "created_at", "updated_at"}

    def entries_of(served: Served) -> list[dict[str, Any]]:
        with conversation(served.url) as client:
            found = client.call("registry.list").content["backends"]
        return [{key: one[key] for key in one.keys() - log} for one in found]

    with serving(settings) as served, conversation(served.url) as client:
        client.call("registry.register", FULL)
        assert control(served, tmp_path, "export", file).returncode == 0
        expected = entries_of(served)
    assert expected[0].keys() >= FULL.keys()
    imported = replace(settings, database=settings.database.with_name("imported.db"))
    with serving(imported) as served:
        assert control(served, tmp_path, "import", file).returncode == 0
        assert entries_of(served) == expected
        assert "1 unchanged" in control(served, tmp_path, "import", file).stdout
    followed = settings.database.with_name("followed.db")
    with serving(replace(settings, database=followed, config=file)) as served:
        assert entries_of(served) == expected


def test_import_changes_and_clears_version_and_metadata(served: Served, tmp_path: Path) -> None:
    """As it does with the other texts."""
    file = tmp_path / "changed.toml"
    file.write_text('[[backend]]\nname = "full"\nhost = "h"\nport = 3\nversion = "2"\n')
    with conversation(served.url) as client:
        client.call("registry.register", FULL)
        shown = control(served, tmp_path, "import", file).stdout
        found = client.call("registry.get", "full").content["backend"]
    assert 'version: "0.4.2" -> "2"' in shown
    assert re.search(r"metadata: .* -> none", shown)
    assert found["version"] == "2"
    assert "metadata" not in found


def test_export_replaces_no_file_unless_forced(served: Served, tmp_path: Path, file: Path) -> None:
    """The message says how, and the file stays."""
    message = failed(control(served, tmp_path, "export", file), 73)
    assert message == f"{file} exists and is left as it is; --force replaces"
    assert file.read_text(encoding="utf-8") == TWO
    assert control(served, tmp_path, "export", "--force", file).returncode == 0
    assert declared.read_one(file) == {}


def test_export_leaves_out_what_no_file_can_declare(settings: Settings, tmp_path: Path) -> None:
    """Entries that the Rust program took and this one would not are told, and the rest loads."""
    make_rust_database(settings.database)
    with serving(settings) as served:
        ended = control(served, tmp_path, "export", "--all")
    assert ended.returncode == 0
    out = tmp_path / "out.toml"
    out.write_text(ended.stdout, encoding="utf-8")
    assert {"zeta", "alpha"} <= set(declared.read_one(out))
    assert 'left out, for no file can declare it: "port 0 / odd"' in ended.stderr


def test_import_adds_changes_and_leaves_alone(served: Served, tmp_path: Path, file: Path) -> None:
    """The difference is shown field by field; a dry run shows the same and does nothing."""
    with conversation(served.url) as client:
        old = {"name": "a", "host": "h", "port": 7, "namespace": "gone"}
        client.call("registry.register", old)
        client.call("registry.register", {"name": "other", "host": "h", "port": 9})
        dry = control(served, tmp_path, "import", "--dry-run", file)
        assert client.call("registry.get", "a").content["backend"]["port"] == 7
        done = control(served, tmp_path, "import", file)
        a = client.call("registry.get", "a").content["backend"]
        assert client.call("registry.get", "other").content["backend"]["port"] == 9
    assert dry.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert "port: 7 -> 1" in done.stdout
    assert 'namespace: "gone" -> none' in done.stdout
    assert dry.stdout.splitlines()[-1] == "would be: 1 added, 1 changed, 0 unchanged"
    assert done.stdout.splitlines()[-1] == "done: 1 added, 1 changed, 0 unchanged"
    assert a["port"] == 1
    assert "namespace" not in a
    again = json.loads(control(served, tmp_path, "import", "--json", file).stdout)
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, 2)


def test_import_brings_an_inactive_entry_back(served: Served, tmp_path: Path, file: Path) -> None:
    """What a file declares is active afterwards."""
    control(served, tmp_path, "import", file)
    control(served, tmp_path, "deregister", "a")
    assert 'state: "inactive" -> "active"' in control(served, tmp_path, "import", file).stdout
    assert control(served, tmp_path, "list").stdout.startswith("a\t")


def test_import_of_a_faulty_file_does_nothing(served: Served, tmp_path: Path) -> None:
    """The fault is told with its line; a file that is not there as such."""
    bad = tmp_path / "bad.toml"
    bad.write_text(f'{TWO}\n[[backend]]\nname = "c"\nhost = "h"\nport = 0\n', encoding="utf-8")
    assert f"{bad}:21: port: 0 is not accepted" in failed(
        control(served, tmp_path, "import", bad), 78
    )
    assert control(served, tmp_path, "list").stdout == ""
    missing = failed(control(served, tmp_path, "import", tmp_path / "none.toml"), 78)
    assert missing.endswith("there is no such file")


def test_export_of_one_source(settings: Settings, tmp_path: Path) -> None:
    """What was registered by hand can be kept apart from what files declare already."""
    settings.config.write_text(TWO, encoding="utf-8")
    with serving(settings) as served:
        control(served, tmp_path, "register", "by-hand", "ws://h:3")
        for source, names in {"manual": {"by-hand"}, "file": {"a", "b"}, "env": set()}.items():
            out = tmp_path / f"{source}.toml"
            ended = control(served, tmp_path, "export", "--source", source, out)
            assert ended.stdout == f"{out}: {len(names)} backends\n"
            assert set(declared.read_one(out)) == names


def test_import_reads_what_export_writes_through_a_pipe(
    settings: Settings, tmp_path: Path, file: Path
) -> None:
    """A dash is standard input, and standard output; faults are told with their lines."""
    other = replace(settings, database=settings.database.with_name("other.db"))
    with serving(settings) as one, serving(other) as two:
        control(one, tmp_path, "import", file)
        exported = control(one, tmp_path, "export", "-").stdout
        ended = ctl(tmp_path, "--url", two.url, "import", "-", text=exported)
        assert ended.stdout.splitlines() == ["+ a", "+ b", "done: 2 added, 0 changed, 0 unchanged"]
        assert control(two, tmp_path, "export").stdout == exported
        faulty = ctl(tmp_path, "--url", two.url, "import", "-", text=exported + "x = \n")
        line = exported.count("\n") + 1
        assert failed(faulty, 78).startswith(f"standard input:{line}: ")


def test_file_that_is_called_a_dash_has_a_path(served: Served, tmp_path: Path) -> None:
    """As for every program that takes a dash for a stream."""
    assert control(served, tmp_path, "export", "./-").stdout == "-: 0 backends\n"
    assert declared.read_one(tmp_path / "-") == {}
    (tmp_path / "-").write_text(TWO, encoding="utf-8")
    assert "2 added" in control(served, tmp_path, "import", "./-").stdout


def test_import_without_standard_input_is_told(served: Served, tmp_path: Path) -> None:
    """Somebody closed it."""
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *MAIN, "--url", served.url, "import", "-"],
        env=environment_of(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed(ended, 78) == "standard input: cannot be read: Bad file descriptor"


def test_import_of_a_file_with_many_faults_says_how_to_see_them(
    served: Served, tmp_path: Path
) -> None:
    """What the line names lists each."""
    bad = tmp_path / "my bad.toml"
    bad.write_text(TWO.replace("port", "prot"), encoding="utf-8")
    message = failed(control(served, tmp_path, "import", bad), 78)
    words = r"\(and (\d+) more\); plexus-registry (--check-config --config .+) lists all"
    told = re.search(words, message)
    assert told is not None, message
    listed = run(tmp_path, *shlex.split(told[2]))
    assert listed.stderr.count(f"{bad}:") == 1 + int(told[1])


def test_import_tells_what_the_registry_refuses(
    settings: Settings, tmp_path: Path, file: Path
) -> None:
    """One refusal does not keep the others from it; the exit status says that there was one."""
    with serving(replace(settings, max_entries=1)) as served:
        ended = control(served, tmp_path, "import", file)
    assert ended.returncode == 1
    assert "1 of 2 were not imported" in ended.stderr
    assert ended.stdout.splitlines()[0] == "+ a"


def test_import_tells_what_the_registry_leaves_out(
    settings: Settings, tmp_path: Path, file: Path
) -> None:
    """A registration whose metadata are too long is done without them; a change is refused."""
    with serving(replace(settings, max_metadata_size=3)) as served:
        added = control(served, tmp_path, "import", file)
        changed = control(served, tmp_path, "import", file)
    assert (added.returncode, changed.returncode) == (1, 1)
    told = "b: done but for metadata, which the registry does not take"
    assert added.stderr.splitlines()[0] == f"plexus-registryctl: {told}"
    assert "b: Failed to update backend: metadata: " in changed.stderr


def test_what_was_refused_is_not_counted_as_done(
    settings: Settings, tmp_path: Path, file: Path
) -> None:
    """Neither in words nor in JSON."""
    with serving(replace(settings, max_description_size=3)) as served:
        shown = control(served, tmp_path, "import", file)
        answer = json.loads(control(served, tmp_path, "import", "--json", file).stdout)
    assert shown.stdout.splitlines()[-1] == "done: 1 added, 0 changed, 0 unchanged"
    assert (answer["added"], answer["unchanged"], answer["failed"]) == (0, 1, 1)


def test_export_makes_no_folders(served: Served, tmp_path: Path) -> None:
    """A path that is mistyped is told."""
    place = tmp_path / "nope" / "x.toml"
    message = failed(control(served, tmp_path, "export", place), 74)
    assert message == f"{place} cannot be written: there is no folder {place.parent}"
    assert not place.parent.exists()


def test_export_without_permission_is_told(served: Served, tmp_path: Path) -> None:
    """With the status of output that cannot be written."""
    folder = tmp_path / "bound"
    folder.mkdir(mode=0o555)
    ended = ctl(
        tmp_path, "--url", served.url, "export", str(folder / "x"), program=MAIN_BOUND_BY_MODES
    )
    assert failed(ended, 74) == f"{folder}/x: cannot be written: Permission denied"


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_forced_export_replaces_no_device(served: Served, tmp_path: Path, kind: str) -> None:
    """Nor a pipe: as root, /dev/null would be a file from then on."""
    place = tmp_path / "place"
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/null")
    before = place.stat()
    message = failed(control(served, tmp_path, "export", "--force", place), 74)
    assert message == f"{place.resolve()}: is no regular file and is left as it is"
    assert place.stat().st_mode == before.st_mode


# --- registries that a test leads -----------------------------------------------------------------


def leading(*answers: object) -> Callable[[Peer], Awaitable[None]]:
    """Answer calls one after another, then hang up; an answer may be something to do instead."""

    async def behave(peer: Peer) -> None:
        for answer in answers:
            request, _ = await peer.receive_call()
            if callable(answer):
                answer()
                await peer.idle()
            await peer.answer(request, answer)
        await peer.receive_call()

    return behave


EMPTY = {"type": "backends", "backends": []}
ADDED = {"type": "backend_registered", "backend": {"name": "a", "host": "h", "port": 1}}


@in_loop
async def test_refusals_cannot_steer_a_terminal(tmp_path: Path, file: Path) -> None:
    """A registry may say anything."""
    refusal = {"type": "error", "message": "\x1b[2Jno"}
    async with puppet(leading(EMPTY, ADDED, refusal)) as url:
        ended = await asyncio.to_thread(ctl, tmp_path, "--url", url, "import", str(file))
    assert ended.stderr.splitlines()[0] == "plexus-registryctl: b: \\x1b[2Jno"
    assert ended.returncode == 1


@in_loop
async def test_import_that_is_cut_tells_what_it_did(tmp_path: Path, file: Path) -> None:
    """In words and in JSON, when the registry goes away."""
    async with puppet(leading(EMPTY, ADDED)) as url:
        command = ("--url", url, "import", str(file))
        shown = await asyncio.to_thread(ctl, tmp_path, *command)
        found = await asyncio.to_thread(ctl, tmp_path, *command, "--json")
    assert shown.stdout.splitlines() == [
        "+ a",
        "done: 1 added, 0 changed, 0 unchanged, 1 left, the first of them perhaps done",
    ]
    assert (shown.returncode, found.returncode) == (69, 69)
    assert shown.stderr.startswith(f"plexus-registryctl: no registry answers at {url}: ")
    told = json.loads(found.stdout)
    assert [step["name"] for step in told["steps"]] == ["a"]
    assert (told["added"], told["failed"], told["left"]) == (1, 0, 1)


@in_loop
async def test_import_that_is_interrupted_tells_what_it_did(tmp_path: Path, file: Path) -> None:
    """Somebody pressed Ctrl-C while it waited for the second."""
    interrupt = asyncio.Event()
    async with puppet(leading(EMPTY, ADDED, interrupt.set)) as url:
        process = subprocess.Popen(
            [*MAIN, "--url", url, "import", str(file)],
            env=environment_of(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        await interrupt.wait()
        process.send_signal(signal.SIGINT)
        shown, complaint = await asyncio.to_thread(process.communicate)
    assert shown.splitlines()[-1].startswith("done: 1 added, 0 changed, 0 unchanged, 1 left")
    assert (process.returncode, complaint.strip()) == (-signal.SIGINT, "")
