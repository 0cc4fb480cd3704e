# SPDX-License-Identifier: AGPL-3.0-only
"""A running registry follows what its files declare: real files, real inotify, one connection.

Every test talks over one connection from its beginning to its end, so none of the reloads can have
dropped it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.backend import Declaration
from plexus_registry.config.settings import Settings
from plexus_registry.config.watch import DEBOUNCE_S
from plexus_registry.rules import Failed
from plexus_registry.store.sqlite import SqliteStore
from support.conversation import Conversation, conversation
from support.daemon import BOUND_BY_MODES, daemon, environment
from support.serving import Served, serving
from support.timing import wait_until

KEPT = "config reload failed, keeping previous"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plexus_registry")


@pytest.fixture
def config(settings: Settings) -> Path:
    """Where the main file is or will be."""
    return settings.config


def table(name: str, port: int = 1) -> str:
    """Return the table that declares a backend."""
    return f'[[backend]]\nname = "{name}"\nhost = "h"\nport = {port}\n'


def declare(path: Path, *names: str, port: int = 1) -> None:
    """Write a file in place that declares the names."""
    path.write_text("\n".join(table(name, port) for name in names))


def replace(path: Path, *names: str, port: int = 1) -> None:
    """Write a file beside *path* and rename it over *path*, as careful programs do."""
    beside = path.with_name(f".{path.name}.new")
    declare(beside, *names, port=port)
    beside.rename(path)


def link(path: Path, target: str | Path) -> None:
    """Make *path* a symbolic link to *target*, in one step even if it is one already."""
    beside = path.with_name(f"{path.name}_tmp")
    beside.symlink_to(target)
    beside.rename(path)


def entries(client: Conversation) -> dict[str, Any]:
    """Return all entries by name."""
    listed = client.call("registry.list", {"active_only": False}).content["backends"]
    return {entry["name"]: entry for entry in listed}


def wait_for(client: Conversation, *names: str, port: int = 1) -> None:
    """Wait until just these names are there, at this port."""
    wanted = dict.fromkeys(names, port)

    def holds() -> bool:
        return {name: entry["port"] for name, entry in entries(client).items()} == wanted

    wait_until(holds, f"entries {wanted}")


def register(client: Conversation, name: str) -> Any:
    """Register a backend and return its entry."""
    answer = client.call("registry.register", {"name": name, "host": "m", "port": 7})
    return answer.content["backend"]


def reload(client: Conversation) -> Any:
    """Reload by the RPC and return the event."""
    return client.call("registry.reload").content


def reloaded(**counts: int) -> dict[str, object]:
    """Return the event of a successful reload; what is not named is 0."""
    zeros = dict.fromkeys(("count", "updated", "removed", "unchanged"), 0)
    return {"type": "reloaded", **zeros, **counts}


def kept_warning(path: Path, count: int) -> str:
    """Return what is logged about entries whose file is missing."""
    return (
        f"declared backends kept, their file is missing path={path} entries={count},"
        " reload explicitly to forget them"
    )


@contextlib.contextmanager
def read_only(served: Served) -> Iterator[None]:
    """Let every commit fail while the block runs."""
    store = served.service.registry._store
    assert isinstance(store, SqliteStore)
    store._open_connection().execute("PRAGMA query_only = ON")
    yield
    store._open_connection().execute("PRAGMA query_only = OFF")


def faults_in(log: Iterable[str]) -> list[str]:
    """Return the faults that reloads have logged."""
    return [line.partition(f"{KEPT}: ")[2] for line in log if KEPT in line]


# --- ways in which a file changes -----------------------------------------------------------------


def test_in_place_write_takes_effect(client: Conversation, config: Path) -> None:
    """A file that appears and one that is written where it lies are followed."""
    declare(config, "a")
    wait_for(client, "a")

    with config.open("r+") as file:
        file.write(table("a", port=2))

    wait_for(client, "a", port=2)


def test_append_by_a_writer_that_keeps_the_file_open_takes_effect(
    client: Conversation, config: Path
) -> None:
    """What is written counts even if the file is not closed."""
    declare(config, "a")
    wait_for(client, "a")

    with config.open("a") as file:
        file.write(table("b"))
        file.flush()
        wait_for(client, "a", "b")


def test_write_and_rename_takes_effect(client: Conversation, config: Path) -> None:
    """An editor's replacement of the file is followed, again and again."""
    for port in (1, 2, 3):
        replace(config, "a", port=port)
        wait_for(client, "a", port=port)


def test_save_by_an_editor_that_keeps_a_backup_is_one_change(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Renaming the file away and writing a new one changes entries, and removes none of them."""
    declare(config, "a")
    wait_for(client, "a")
    before = entries(client)["a"]

    config.rename(config.with_name("backends.toml~"))
    declare(config, "a", port=2)

    wait_for(client, "a", port=2)
    assert entries(client)["a"]["id"] == before["id"]


def test_swap_of_a_symbolic_link_takes_effect(
    client: Conversation, config: Path, tmp_path: Path
) -> None:
    """A link that comes to lead to another file is followed, and writes to that file as well."""
    first, second = tmp_path / "one" / "x.toml", tmp_path / "two" / "y.toml"
    for path, name in ((first, "first"), (second, "second")):
        path.parent.mkdir()
        declare(path, name)
    link(config, first)
    wait_for(client, "first")

    link(config, second)
    wait_for(client, "second")
    replace(second, "third")
    wait_for(client, "third")


def test_swap_of_the_data_directory_as_in_kubernetes_takes_effect(
    client: Conversation, config: Path, tmp_path: Path
) -> None:
    """The file is a link through ``..data``, which is swapped and its old target removed."""

    def publish(version: str, *names: str) -> None:
        (tmp_path / version).mkdir()
        declare(tmp_path / version / "backends.toml", *names)
        link(tmp_path / "..data", version)

    publish("..1", "a")
    config.symlink_to("..data/backends.toml")
    wait_for(client, "a")

    publish("..2", "a", "b")
    (tmp_path / "..1" / "backends.toml").unlink()
    (tmp_path / "..1").rmdir()
    wait_for(client, "a", "b")
    publish("..3", "c")
    wait_for(client, "c")


def test_directory_that_appears_later_takes_effect(settings: Settings, tmp_path: Path) -> None:
    """None of the directories on the path has to be there at the start."""
    config = tmp_path / "deep" / "down" / "backends.toml"
    elsewhere = dataclasses.replace(settings, config=config)
    with serving(elsewhere) as served, conversation(served.url) as client:
        assert entries(client) == {}
        config.parent.mkdir(parents=True)
        declare(config, "a")
        wait_for(client, "a")


def test_drop_ins_come_and_go(client: Conversation, config: Path) -> None:
    """Files in ``backends.d`` are followed, and the directory may appear later."""
    drop_ins = config.with_name("backends.d")
    declare(config, "main")
    wait_for(client, "main")

    drop_ins.mkdir()
    declare(drop_ins / "10-a.toml", "a")
    wait_for(client, "main", "a")
    replace(drop_ins / "20-b.toml", "b")
    wait_for(client, "main", "a", "b")
    (drop_ins / "10-a.toml").unlink()
    wait_for(client, "main", "b")


def test_drop_in_that_goes_right_after_a_reload_is_followed(
    client: Conversation, config: Path
) -> None:
    """The files look as they did before, but what was read meanwhile is not what is there."""
    declare(config, "main")
    wait_for(client, "main")
    drop_in = config.parent / "backends.d" / "extra.toml"
    drop_in.parent.mkdir()
    time.sleep(2 * DEBOUNCE_S)  # the directory's burst is over, a new one begins with the file
    declare(drop_in, "extra")
    assert reload(client) == reloaded(count=1, unchanged=1)
    drop_in.unlink()
    wait_for(client, "main")


def test_fault_that_is_mended_right_after_a_failed_reload_is_forgotten(
    client: Conversation, config: Path, served: Served
) -> None:
    """So that a status line does not tell of a fault that is no more."""
    declare(config, "main")
    wait_for(client, "main")
    drop_in = config.parent / "backends.d" / "extra.toml"
    drop_in.parent.mkdir()
    time.sleep(2 * DEBOUNCE_S)
    drop_in.write_text("[[backend]\n")
    assert reload(client)["type"] == "error"
    drop_in.unlink()

    def is_sound() -> bool:
        report = served.service.registry.last_reload
        return report is not None and not isinstance(report.event, Failed)

    wait_until(is_sound, "a reload without a fault")


def test_files_of_others_change_nothing(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files beside the declared ones are no reason to reload."""
    declare(config, "a")
    wait_for(client, "a")
    caplog.clear()

    declare(config.with_name("other.toml"), "b")
    declare(config.with_name("backends.toml~"), "c")
    config.with_name("backends.d").mkdir()
    declare(config.with_name("backends.d") / "d.toml.dpkg-new", "d")
    config.touch()  # seen, but its content is the same
    declare(config, "a", "z")  # everything before is seen by the time that this is
    wait_for(client, "a", "z")

    (applied,) = [line for line in caplog.messages if line.startswith("declared backends")]
    assert applied.startswith("declared backends applied added=1 updated=0 removed=0 unchanged=1")


def test_change_while_the_registry_starts_is_not_missed(settings: Settings) -> None:
    """A drop-in that appears just after the directory was listed is found nevertheless."""
    declare(settings.config, "early")
    main = str(settings.config)
    late = settings.config.with_name("backends.d") / "late.toml"

    def appear(event: str, arguments: tuple[Any, ...]) -> None:
        # The main file is opened when the drop-ins are listed already.
        if event == "open" and str(arguments[0]) == main and not late.parent.exists():
            late.parent.mkdir()
            declare(late, "late")

    sys.addaudithook(appear)
    with serving(settings) as served, conversation(served.url) as client:
        wait_for(client, "early", "late")


# --- what a change means --------------------------------------------------------------------------


def test_changed_and_removed_declarations_are_followed(client: Conversation, config: Path) -> None:
    """A changed entry keeps its id and times, a removed one is gone, the others are left alone."""
    config.write_text(table("changed") + table("removed") + table("same"))
    wait_for(client, "changed", "removed", "same")
    before = entries(client)

    config.write_text(
        '[[backend]]\nname = "changed"\nhost = "h"\nport = 1\nprotocol = "wss"\n'
        'description = "new"\nnamespace = "space"\n' + table("same")
    )
    wait_for(client, "changed", "same")

    after = entries(client)
    assert after["same"] == before["same"]
    assert after["changed"] == before["changed"] | {
        "protocol": "wss",
        "description": "new",
        "namespace": "space",
        "updated_at": after["changed"]["updated_at"],
    }


def test_one_reload_tells_what_it_did(client: Conversation, config: Path) -> None:
    """The RPC's event counts what was added, changed, removed and left alone."""
    config.write_text(table("changed") + table("removed") + table("same"))
    event = reload(client)
    assert event == reloaded(count=3)

    config.write_text(table("changed", port=2) + table("same") + table("new"))
    event = reload(client)
    assert event == reloaded(count=1, updated=1, removed=1, unchanged=1)
    assert reload(client) == reloaded(unchanged=3)


def test_runtime_registrations_survive_reloads(client: Conversation, config: Path) -> None:
    """What clients registered is not the file's to change or remove, even under the same name."""
    mine = register(client, "mine")
    taken = register(client, "taken")
    declare(config, "taken", "declared")
    wait_until(lambda: "declared" in entries(client), "the declared entry")

    assert entries(client)["taken"] == taken
    config.write_text("")
    wait_until(lambda: "declared" not in entries(client), "the end of the declared entry")

    assert entries(client) == {"mine": mine, "taken": taken}


def test_declaration_that_was_taken_over_stays_taken(client: Conversation, config: Path) -> None:
    """A registration of a declared name holds it; the next change of the file leaves it."""
    declare(config, "a", "b")
    wait_for(client, "a", "b")
    declared = entries(client)["a"]
    taken = register(client, "a")

    declare(config, "a", "b", "c", port=2)
    wait_until(lambda: "c" in entries(client), "the new entry")

    assert (taken["id"], taken["source"], taken["port"]) == (declared["id"], "manual", 7)
    assert entries(client)["a"] == taken


def test_environment_stands_above_the_file(settings: Settings) -> None:
    """A name that both declare is the environment's, whatever the file says later."""
    of_env = Declaration(name="both", host="env", port=9)
    declare(settings.config, "both", "file")
    above = dataclasses.replace(settings, backends=(of_env,))
    with serving(above) as served, conversation(served.url) as client:
        assert {name: entry["source"] for name, entry in entries(client).items()} == {
            "both": "env",
            "file": "file",
        }
        declare(settings.config, "both", "file", "more", port=2)
        wait_until(lambda: "more" in entries(client), "the new entry")

        both = entries(client)["both"]
        assert (both["host"], both["port"], both["source"]) == ("env", 9, "env")


def test_declared_backend_that_was_deleted_comes_back_at_the_next_reload(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deleting does not undeclare, and the log says so."""
    declare(config, "a")
    wait_for(client, "a")
    register(client, "b")

    client.call("registry.delete", {"name": "a"})
    client.call("registry.delete", {"name": "b"})
    assert entries(client) == {}
    reload(client)

    wait_for(client, "a")
    back = "(still declared: it comes back at the next reload)"
    deletions = {
        line.split(" peer=")[0]: line.endswith(back)
        for line in caplog.messages
        if line.startswith("backend deleted")
    }
    assert deletions == {"backend deleted name=a": True, "backend deleted name=b": False}


# --- faults ---------------------------------------------------------------------------------------


def test_broken_toml_keeps_what_was_declared(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that does not parse changes nothing; log and RPC name its path and line."""
    declare(config, "a")
    wait_for(client, "a")
    before = entries(client)

    config.write_text(table("b") + "this is no TOML\n")
    wait_until(lambda: faults_in(caplog.messages), "a logged fault")
    event = reload(client)

    assert event["type"] == "error"
    assert event["message"].startswith(f"Failed to parse TOML config: {config}:5: not TOML: ")
    assert faults_in(caplog.messages)[0].startswith(f"{config}:5: not TOML: ")
    assert entries(client) == before

    declare(config, "b")
    wait_for(client, "b")


def test_every_fault_of_every_file_is_logged_and_nothing_is_applied(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad declaration among good ones holds back all; the log has one line for each fault."""
    drop_ins = config.with_name("backends.d")
    drop_ins.mkdir()
    declare(config, "a")
    wait_for(client, "a")

    config.write_text(table("good") + table("bad", port=0))
    (drop_ins / "1.toml").write_text(table("no/slash") + "unknown = 1\n")
    (drop_ins / "2.toml").write_text("=\n")
    wait_until(lambda: len(faults_in(caplog.messages)) >= 4, "four logged faults")

    assert [fault.partition(": ")[0] for fault in faults_in(caplog.messages)[-4:]] == [
        f"{config}:8",
        f"{drop_ins}/1.toml:2",
        f"{drop_ins}/1.toml:5",
        f"{drop_ins}/2.toml:1",
    ]
    message = reload(client)["message"]
    assert message.startswith(f"Failed to parse TOML config: {config}:8: port: 0 is not accepted")
    assert message.endswith("(and 3 more)")
    wait_for(client, "a")


def test_name_in_two_files_is_refused_with_both_places(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A drop-in cannot declare a name of the main file."""
    drop_in = config.with_name("backends.d") / "a.toml"
    declare(config, "other", "twice")
    wait_for(client, "other", "twice")

    drop_in.parent.mkdir()
    declare(drop_in, "new", "twice")
    wait_until(lambda: faults_in(caplog.messages), "a logged fault")

    fault = f'{drop_in}:7: name: "twice" is declared twice, first at {config}:7'
    assert faults_in(caplog.messages)[-1] == fault
    assert reload(client)["message"] == f"Failed to parse TOML config: {fault}"
    wait_for(client, "other", "twice")


def test_directory_in_place_of_the_file_keeps_what_was_declared(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read is a fault like any other, and over when the file is back."""
    declare(config, "a")
    wait_for(client, "a")

    config.unlink()
    config.mkdir()
    wait_until(lambda: faults_in(caplog.messages), "a logged fault")

    fault = f"{config}: is a directory, expected a file"
    assert faults_in(caplog.messages)[-1] == fault
    assert reload(client)["message"] == f"Failed to parse TOML config: {fault}"
    wait_for(client, "a")
    config.rmdir()
    declare(config, "b")
    wait_for(client, "b")


def test_file_without_read_permission_keeps_what_was_declared(tmp_path: Path) -> None:
    """Taking the permission away changes nothing but the log; giving it back applies the file."""
    config = tmp_path / ".config" / "plexus" / "backends.toml"
    config.parent.mkdir(parents=True)
    declare(config, "a")
    arguments = ("--auto-register", "none")
    with (
        daemon(tmp_path, arguments, program=BOUND_BY_MODES) as running,
        conversation(running.url) as client,
    ):
        wait_for(client, "a")
        config.chmod(0)
        running.wait_for_log(f"{KEPT}: {config}: cannot be read: Permission denied")
        assert reload(client)["message"] == (
            f"Failed to parse TOML config: {config}: cannot be read: Permission denied"
        )
        wait_for(client, "a")

        declare_as = config.with_name("new")
        declare(declare_as, "a", "b")
        declare_as.rename(config)
        wait_for(client, "a", "b")


# --- files that vanish ----------------------------------------------------------------------------


def test_file_that_vanishes_keeps_what_it_declared_until_it_is_back(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Losing the file by accident is a warning; what comes back is applied."""
    declare(config, "a", "b")
    wait_for(client, "a", "b")
    before = entries(client)

    config.unlink()
    wait_until(
        lambda: any("declared backends kept" in line for line in caplog.messages), "a warning"
    )

    assert entries(client) == before
    declare(config, "b", "c")
    wait_for(client, "b", "c")
    assert entries(client)["b"] == before["b"]


def test_link_that_comes_to_dangle_keeps_what_was_declared(
    client: Conversation, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A link without a target is a fault, until the target is there again."""
    target = tmp_path / "elsewhere" / "x.toml"
    target.parent.mkdir()
    declare(target, "a")
    link(config, target)
    wait_for(client, "a")

    target.rename(tmp_path / "away.toml")
    fault = f"{config}: is a symbolic link to {target}, where the daemon sees no file"
    wait_until(lambda: fault in faults_in(caplog.messages), "a fault")
    wait_for(client, "a")
    (tmp_path / "away.toml").rename(target)
    declare(target, "a", "b")
    wait_for(client, "a", "b")


def test_explicit_reload_of_a_file_that_vanished_empties(
    client: Conversation, config: Path
) -> None:
    """An operator who asks for it means it; what clients registered stays."""
    declare(config, "a", "b")
    wait_for(client, "a", "b")
    register(client, "mine")
    config.unlink()

    event = reload(client)

    assert (event["type"], event["removed"]) == ("reloaded", 2)
    assert set(entries(client)) == {"mine"}


def test_main_file_that_vanishes_beside_drop_ins_keeps_what_it_declared(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Drop-ins are followed as before; a name that moves into one of them is taken from there."""
    drop_ins = config.with_name("backends.d")
    drop_ins.mkdir()
    declare(config, "main", "moves")
    declare(drop_ins / "1.toml", "drop-in")
    wait_for(client, "main", "moves", "drop-in")
    before = entries(client)

    config.unlink()
    declare(drop_ins / "2.toml", "more")
    wait_for(client, "main", "moves", "drop-in", "more")
    assert entries(client)["main"] == before["main"]
    assert kept_warning(config, 2) in caplog.messages

    (drop_ins / "1.toml").write_text(table("moves", port=5))
    wait_until(lambda: "drop-in" not in entries(client), "the change of a drop-in")
    assert entries(client)["moves"]["port"] == 5
    reload(client)
    assert set(entries(client)) == {"moves", "more"}


def test_restart_without_the_file_keeps_what_it_declared(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry that starts while its file is missing serves what the file declared last."""
    declare(settings.config, "a", "b")
    with serving(settings) as served, conversation(served.url) as client:
        before = entries(client)
    settings.config.unlink()
    caplog.clear()

    with serving(settings) as served, conversation(served.url) as client:
        assert entries(client) == before
    assert [line.partition(" peer=")[0] for line in caplog.messages if "declared" in line] == [
        "declared backends applied added=0 updated=0 removed=0 unchanged=2",
        kept_warning(settings.config, 2),
    ]


def test_restart_without_the_main_file_beside_drop_ins_keeps_what_it_declared(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Drop-ins that are there do not make the missing file a declaration of nothing."""
    drop_in = settings.config.with_name("backends.d") / "1.toml"
    drop_in.parent.mkdir()
    declare(settings.config, "main")
    declare(drop_in, "drop-in")
    with serving(settings) as served, conversation(served.url) as client:
        before = entries(client)
    settings.config.unlink()

    with serving(settings) as served, conversation(served.url) as client:
        assert entries(client) == before
        assert kept_warning(settings.config, 1) in caplog.messages
        declare(drop_in, "other")
        wait_for(client, "main", "other")
        drop_in.unlink()
        wait_for(client, "main")

        assert reload(client) == reloaded(removed=1)
        assert entries(client) == {}


def test_drop_in_that_is_removed_takes_its_backends_along(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the last one, and without a main file there is nothing to warn of."""
    drop_ins = config.with_name("backends.d")
    drop_ins.mkdir()
    declare(drop_ins / "1.toml", "a")
    declare(drop_ins / "2.toml", "b")
    wait_for(client, "a", "b")

    (drop_ins / "1.toml").unlink()
    wait_for(client, "b")
    (drop_ins / "2.toml").unlink()
    wait_for(client)

    assert not any("declared backends kept" in line for line in caplog.messages)


def test_main_file_that_was_forgotten_explicitly_is_not_missed(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes and goes in drop-ins after that is followed, until the file is back and gone."""
    drop_in = config.with_name("backends.d") / "1.toml"
    drop_in.parent.mkdir()
    declare(config, "main")
    wait_for(client, "main")
    config.unlink()
    reload(client)
    caplog.clear()

    declare(drop_in, "a")
    wait_for(client, "a")
    assert not any("declared backends kept" in line for line in caplog.messages)

    declare(config, "main")
    wait_for(client, "a", "main")
    config.unlink()
    wait_until(lambda: kept_warning(config, 1) in caplog.messages, "a warning")
    wait_for(client, "a", "main")


def test_name_that_moves_from_a_drop_in_to_the_main_file_is_kept_with_it(
    client: Conversation, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the file that declared it last that counts."""
    drop_in = config.with_name("backends.d") / "1.toml"
    drop_in.parent.mkdir()
    declare(drop_in, "moves")
    wait_for(client, "moves")

    drop_in.unlink()
    declare(config, "moves", port=2)
    wait_for(client, "moves", port=2)
    config.unlink()

    wait_until(lambda: kept_warning(config, 1) in caplog.messages, "a warning")
    wait_for(client, "moves", port=2)


def test_start_without_any_file_says_so(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """One line tells where the file would be; with a file, even an empty one, there is none."""
    line = f"no backends declared in files, there is no file path={settings.config}"
    with serving(settings):
        assert caplog.messages.count(line) == 1
    settings.config.touch()
    with serving(settings):
        assert caplog.messages.count(line) == 1


# --- rows that cannot be read ---------------------------------------------------------------------


def test_declarations_leave_unreadable_rows_alone(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither file, environment nor auto-registration replaces what only cannot be read."""
    of = {name: Declaration(name=name, host="h", port=1) for name in ("env", "auto")}
    settings = dataclasses.replace(settings, backends=(of["env"],), auto_register=of["auto"])
    declare(settings.config, "file", "free")
    with serving(settings):
        pass
    with contextlib.closing(sqlite3.connect(settings.database)) as other, other:
        other.execute("UPDATE backends SET source = 'discovered' WHERE name != 'free'")
        rows = other.execute("SELECT * FROM backends").fetchall()
    caplog.clear()

    with serving(settings) as served, conversation(served.url) as client:
        assert set(entries(client)) == {"free"}
        assert reload(client) == reloaded(unchanged=1)
        skipped = "declarations skipped, unreadable rows of the database hold their names"
        assert [line for line in caplog.messages if "hold" in line] == [
            f"{skipped} entries=1 names=env",
            f"{skipped} entries=1 names=file",
            "backend not registered, an unreadable row of the database holds its name name=auto",
            f"{skipped} entries=1 names=env",
            f"{skipped} entries=1 names=file",
        ]
        with contextlib.closing(sqlite3.connect(settings.database)) as other:
            assert other.execute("SELECT * FROM backends").fetchall() == rows

        register(client, "file")
        assert set(entries(client)) == {"free", "file"}
        assert reload(client) == reloaded(unchanged=2)


# --- four ways in, and how long they take ---------------------------------------------------------


def test_declarations_that_could_not_be_written_are_tried_again(settings: Settings) -> None:
    """A change of the file that the store refused takes effect by itself when the store can."""
    with serving(settings, retry_s=0.1) as served, conversation(served.url) as client:
        with contextlib.closing(sqlite3.connect(settings.database)) as other:
            other.execute("BEGIN IMMEDIATE")
            declare(settings.config, "prod")
            wait_until(lambda: isinstance(_last_reload(served), Failed), "a reload that fails")
            assert entries(client) == {}
            other.rollback()

        wait_for(client, "prod")


def test_reloads_that_fail_share_one_retry(settings: Settings) -> None:
    """However many could not be written, one timer waits to try again."""
    declare(settings.config, "a")
    with serving(settings, retry_s=1e6) as served, conversation(served.url) as client:
        far = served.loop.time() + 1e5

        def timers() -> int:
            scheduled: list[asyncio.TimerHandle] = vars(served.loop)["_scheduled"]
            return sum(one.when() > far and not one.cancelled() for one in scheduled)

        with read_only(served):
            declare(settings.config, "b")
            for _ in range(3):
                assert reload(client)["type"] == "error"
            assert served.in_loop(timers) == 1


def test_explicit_reload_that_could_not_be_written_is_tried_again_as_such(
    settings: Settings,
) -> None:
    """It was to forget the file that vanished, and so does the one that comes by itself."""
    declare(settings.config, "a")
    with serving(settings, retry_s=0.1) as served, conversation(served.url) as client:
        with read_only(served):
            settings.config.unlink()
            assert reload(client)["type"] == "error"
            wait_for(client, "a")
        wait_for(client)


def _last_reload(served: Served) -> object:
    report = served.service.registry.last_reload
    return report and report.event


def test_signal_inotify_and_rpc_are_one_reload(tmp_path: Path) -> None:
    """Each way in ends in the same log line, and the same connection sees its effect."""
    config = tmp_path / ".config" / "plexus" / "backends.toml"
    config.parent.mkdir(parents=True)
    environ = environment(tmp_path, REGISTRY_AUTO_REGISTER="none", REGISTRY_BACKENDS="e=ws://h:1")
    line = "declared backends applied added=%d updated=0 removed=0 unchanged=%d peer=%s"
    with daemon(tmp_path, environ=environ) as running, conversation(running.url) as client:
        running.wait_for_log(line % (1, 0, "start"))
        declare(config, "a")
        running.wait_for_log(line % (1, 1, "inotify"))
        running.send(signal.SIGHUP)
        running.wait_for_log(line % (0, 2, "SIGHUP"))
        assert reload(client) == reloaded(unchanged=2)
        running.wait_for_log(line % (0, 2, "127.0.0.1:"))
        wait_for(client, "a", "e")

        client.call("registry.delete", {"name": "a"})
        running.send(signal.SIGHUP)
        wait_for(client, "a", "e")


def test_signal_forgets_a_file_that_vanished(tmp_path: Path) -> None:
    """SIGHUP is an explicit reload."""
    config = tmp_path / ".config" / "plexus" / "backends.toml"
    config.parent.mkdir(parents=True)
    declare(config, "a")
    arguments = ("--auto-register", "none")
    with daemon(tmp_path, arguments) as running, conversation(running.url) as client:
        wait_for(client, "a")
        config.unlink()
        running.wait_for_log("declared backends kept")
        running.send(signal.SIGHUP)
        wait_for(client)


def test_time_from_change_to_effect(client: Conversation, config: Path) -> None:
    """A change is seen in a time that is printed (pytest -rP), and below 1 s on an idle machine."""
    took = []
    for port in range(1, 5):
        began = time.monotonic()
        replace(config, "a", port=port)
        wait_for(client, "a", port=port)
        took.append(time.monotonic() - began)

    print(f"from change to effect: {min(took):.3f} to {max(took):.3f} s")


def test_ten_thousand_declarations_are_followed(client: Conversation, config: Path) -> None:
    """A large file is applied whole, and so is a small change of it; the times are printed."""

    def write(special_port: int) -> dict[str, int]:
        ports = {
            f"backend-{number:05}": special_port if number % 1000 == 7 else 1 + number
            for number in range(10_000)
        }
        replace_text = "".join(table(name, port) for name, port in ports.items())
        beside = config.with_name("new")
        beside.write_text(replace_text)
        beside.rename(config)
        return ports

    def followed(name: str, port: int) -> float:
        began = time.monotonic()

        def holds() -> bool:
            backend = client.call("registry.get", {"name": name}).content.get("backend")
            return backend is not None and backend["port"] == port

        wait_until(holds, f"{name} at port {port}")
        return time.monotonic() - began

    wanted = write(special_port=1)
    added_s = followed("backend-09999", 10_000)
    first = entries(client)
    assert {name: entry["port"] for name, entry in first.items()} == wanted

    wanted = write(special_port=2)
    changed_s = followed("backend-09007", 2)
    second = entries(client)
    assert {name: entry["port"] for name, entry in second.items()} == wanted
    assert sum(second[name] != first[name] for name in wanted) == 10
    assert [second[name]["id"] for name in wanted] == [first[name]["id"] for name in wanted]

    began = time.monotonic()
    assert reload(client)["unchanged"] == 10_000
    print(
        f"10000 declarations: added after {added_s:.2f} s, 10 changed after {changed_s:.2f} s,"
        f" nothing to do after {time.monotonic() - began:.2f} s"
    )
