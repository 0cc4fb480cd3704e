# SPDX-License-Identifier: AGPL-3.0-only
"""The watch on declared files, with real inotify."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plexus_registry.config.chain import is_settled, signature
from plexus_registry.config.watch import INOTIFY, MAX_DEBOUNCES, POLL, Watch
from support.clocks import by_hand
from support.timing import TIMEOUT_S

DEBOUNCE_S = 0.06


class Changes:
    """Counts the calls of on_change and waits for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self.causes: set[str] = set()
        self._has_changed = asyncio.Event()

    def note(self, cause: str) -> None:
        """Be the on_change."""
        self.count += 1
        self.causes.add(cause)
        self._has_changed.set()

    async def next(self) -> None:
        """Wait for a change since the last call of this."""
        await asyncio.wait_for(self._has_changed.wait(), TIMEOUT_S)
        self._has_changed.clear()


@asynccontextmanager
async def watching(
    path: Path, *, debounce_s: float = DEBOUNCE_S, poll_interval_s: float = 600
) -> AsyncIterator[Changes]:
    """Watch *path*; in the end nothing is left open."""
    changes = Changes()
    loop = asyncio.get_running_loop()
    before = open_descriptors()
    watch = Watch(
        path, changes.note, loop=loop, debounce_s=debounce_s, poll_interval_s=poll_interval_s
    )
    watch.start()
    assert not watch.is_polling
    try:
        yield changes
    finally:
        watch.stop()
        watch.stop()
    assert open_descriptors() == before


def open_descriptors() -> set[str]:
    """Return this process's descriptors and what they are."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
        except FileNotFoundError:  # the one that listdir() used
            continue
    return {text for text in found if "/proc/" not in text}


def replace(path: Path, text: str) -> None:
    """Write a new file and rename it over *path*, as editors and dpkg do."""
    new = path.with_name(f"{path.name}.dpkg-new")
    new.write_text(text)
    new.rename(path)


async def standing_still(path: Path) -> None:
    """Wait until *path* was written so long ago that no write can hide behind that one."""
    while not is_settled(signature(path), now_ns=time.time_ns()):
        await asyncio.sleep(0.01)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run *scenario* in a loop of its own."""
    asyncio.run(scenario())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a main file with something in it."""
    file = tmp_path / "etc" / "backends.toml"
    file.parent.mkdir()
    file.write_text("0")
    return file


def test_write_in_place_is_noticed_each_time(path: Path) -> None:
    """Opening, writing and closing the file counts, also for the second time."""

    async def scenario() -> None:
        async with watching(path) as changes:
            for number in range(3):
                path.write_text(str(number))
                await changes.next()

    run(scenario)


def test_write_of_equal_size_right_after_the_start_is_noticed(path: Path) -> None:
    """The time stamp may be the same as before the start."""

    async def scenario() -> None:
        path.write_text("1")
        async with watching(path) as changes:
            path.write_text("2")
            await changes.next()

    run(scenario)


def test_event_beside_a_file_just_written_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two writes may bear the same time stamp, nothing tells that there was no second."""
    written_at_ns = path.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: written_at_ns + 1)

    async def scenario() -> None:
        async with watching(path) as changes:
            (path.parent / "neighbour").touch()
            await changes.next()

    run(scenario)


def test_write_by_a_process_that_keeps_the_file_open_is_noticed(path: Path) -> None:
    """Nothing is closed, so the write itself has to count."""

    async def scenario() -> None:
        async with watching(path) as changes:
            with open(path, "w", buffering=1) as file:
                await changes.next()
                for number in range(2):
                    file.write(f"{number}\n")
                    await changes.next()

    run(scenario)


def test_replacement_by_rename_is_noticed_each_time(path: Path) -> None:
    """A watch on the file itself would be blind after the first one."""

    async def scenario() -> None:
        async with watching(path) as changes:
            for number in range(3):
                replace(path, str(number))
                await changes.next()
            path.write_text("in place")
            await changes.next()

    run(scenario)


def test_removal_and_return_are_noticed(path: Path) -> None:
    """A file that vanishes is a change, and so is its return."""

    async def scenario() -> None:
        async with watching(path) as changes:
            path.unlink()
            await changes.next()
            path.write_text("back")
            await changes.next()
            path.write_text("and again")
            await changes.next()

    run(scenario)


def test_change_of_mode_is_noticed(path: Path) -> None:
    """A file that becomes readable is worth another try."""

    async def scenario() -> None:
        async with watching(path) as changes:
            path.chmod(0o600)
            await changes.next()

    run(scenario)


def test_swapped_symbolic_link_is_noticed(path: Path, tmp_path: Path) -> None:
    """The link is replaced by another, and the new target is watched from then on."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b").write_text(name)

    async def scenario() -> None:
        path.unlink()
        path.symlink_to("../one/b")
        async with watching(path) as changes:
            (tmp_path / "one" / "b").write_text("changed")
            await changes.next()
            new = path.with_name("new")
            new.symlink_to("../two/b")
            new.rename(path)
            await changes.next()
            (tmp_path / "two" / "b").write_text("changed")
            await changes.next()

    run(scenario)


def test_kubernetes_configmap_swap_is_noticed_each_time(path: Path) -> None:
    """The link ..data is swapped to a new directory, and the old directory is removed."""
    directory = path.parent

    def publish(number: int) -> None:
        version = directory / f"..{number}"
        version.mkdir()
        (version / "backends.toml").write_text(str(number))
        (directory / "..data_tmp").symlink_to(version.name)
        (directory / "..data_tmp").rename(directory / "..data")
        former = directory / f"..{number - 1}"
        if former.exists():
            (former / "backends.toml").unlink()
            former.rmdir()

    async def scenario() -> None:
        path.unlink()
        publish(0)
        path.symlink_to("..data/backends.toml")
        async with watching(path) as changes:
            for number in range(1, 4):
                publish(number)
                await changes.next()
            (directory / "..data" / "backends.toml").write_text("in place")
            await changes.next()

    run(scenario)


def test_directories_created_later_are_noticed(tmp_path: Path) -> None:
    """One after the other, and all at once."""
    step = tmp_path / "a" / "b" / "c" / "backends.toml"
    whole = tmp_path / "x" / "y" / "z" / "backends.toml"

    async def scenario() -> None:
        async with watching(step) as one, watching(whole) as two:
            for directory in reversed(step.parents[:3]):
                directory.mkdir()
                await asyncio.sleep(DEBOUNCE_S * 2)
            step.write_text("1")
            await one.next()
            whole.parent.mkdir(parents=True)
            whole.write_text("1")
            await two.next()
            step.write_text("2")
            await one.next()
            whole.write_text("2")
            await two.next()

    run(scenario)


def test_directories_that_appear_while_watches_are_set_are_noticed(tmp_path: Path) -> None:
    """Another thread makes them: a directory may be there before the watch on the one above."""

    def make(file: Path) -> None:
        file.parent.mkdir(parents=True)
        file.write_text("1")

    async def scenario() -> None:
        for number in range(10):
            file = tmp_path / str(number) / "a" / "b" / "c" / "d" / "backends.toml"
            async with watching(file, debounce_s=0.01) as changes:
                await asyncio.to_thread(make, file)
                await changes.next()
                file.write_text("2")
                await changes.next()
        await asyncio.get_running_loop().shutdown_default_executor()

    run(scenario)


def test_drop_ins_are_noticed(path: Path) -> None:
    """Their directory is created later; they come, change and go; one is a link."""
    drop_ins = path.parent / "backends.d"

    async def scenario() -> None:
        async with watching(path) as changes:
            drop_ins.mkdir()
            (drop_ins / "a.toml").write_text("1")
            await changes.next()
            (drop_ins / "a.toml").write_text("2")
            await changes.next()
            (path.parent.parent / "real").write_text("1")
            (drop_ins / "b.toml").symlink_to("../../real")
            await changes.next()
            (path.parent.parent / "real").write_text("2")
            await changes.next()
            (drop_ins / "a.toml").unlink()
            await changes.next()
            (drop_ins / "b.toml").unlink()
            drop_ins.rmdir()
            await changes.next()

    run(scenario)


def test_directory_moved_away_and_back_is_noticed(path: Path) -> None:
    """The path leads nowhere, then to the same directory; it is watched again."""
    directory = path.parent

    async def scenario() -> None:
        async with watching(path) as changes:
            moved = directory.rename(directory.with_name("moved"))
            await changes.next()
            (moved / "backends.toml").write_text("not on the path now")
            moved.rename(directory)
            await changes.next()
            path.write_text("in place")
            await changes.next()

    run(scenario)


def test_directory_far_above_that_is_moved_is_noticed(tmp_path: Path) -> None:
    """Nothing happens in the file's own directory then."""
    path = tmp_path / "a" / "b" / "c" / "backends.toml"
    path.parent.mkdir(parents=True)
    path.write_text("1")

    async def scenario() -> None:
        async with watching(path) as changes:
            (tmp_path / "a").rename(tmp_path / "z")
            await changes.next()
            path.parent.mkdir(parents=True)
            path.write_text("another")
            await changes.next()

    run(scenario)


def test_directory_removed_and_made_anew_is_noticed(path: Path) -> None:
    """The watch is set on the new directory."""

    async def scenario() -> None:
        async with watching(path) as changes:
            path.unlink()
            path.parent.rmdir()
            await changes.next()
            path.parent.mkdir()
            path.write_text("1")
            await changes.next()
            path.write_text("2")
            await changes.next()

    run(scenario)


def test_busy_database_beside_the_file_is_not_a_change(path: Path) -> None:
    """Steady commits report nothing, and do not hold up the report of a real change."""
    database = sqlite3.connect(path.parent / "registry.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("CREATE TABLE t (x)")

    async def commit_for(duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        while loop.time() < end:
            database.execute("INSERT INTO t VALUES (zeroblob(5000))")
            await asyncio.sleep(0.002)

    async def scenario() -> None:
        await standing_still(path)
        async with watching(path) as changes:
            await commit_for(DEBOUNCE_S * 10)
            assert changes.count == 0
            writer = asyncio.create_task(commit_for(TIMEOUT_S))
            path.write_text("1")
            await changes.next()
            writer.cancel()
            assert changes.count == 1

    run(scenario)
    database.close()


def test_file_that_changes_all_the_time_is_reported_in_bounded_time(path: Path) -> None:
    """It never stands still, so it is reported as it is after a few debounces."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with watching(path) as changes:
            with by_hand(loop) as move:
                steps = 0
                while not changes.count:
                    steps += 1
                    path.write_text("x" * steps)
                    await move(DEBOUNCE_S / 10)
            assert MAX_DEBOUNCES - 1 <= steps / 10 <= MAX_DEBOUNCES + 2

    run(scenario)


def test_write_in_steps_is_reported_once(path: Path) -> None:
    """What takes shorter than the debounce between its steps is one change."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with watching(path, debounce_s=0.3) as changes:
            with by_hand(loop) as move, open(path, "w", buffering=1) as file:
                for number in range(4):
                    file.write(f"{number}\n")
                    await move(0)
                    await move(0.25)
                assert changes.count == 0
            await changes.next()
            replace(path, "last")
            await changes.next()
            assert changes.count == 2

    run(scenario)


def test_overflow_of_the_queue_counts_as_a_change(path: Path) -> None:
    """Events were lost, and nobody can say which."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to be filled in short time")

    async def scenario() -> None:
        await standing_still(path)
        async with watching(path) as changes:
            for _ in range(limit // 2 + 2):
                os.close(os.open(path.parent / "a", os.O_CREAT | os.O_WRONLY))
                os.unlink(path.parent / "a")
            await changes.next()
            path.write_text("1")
            await changes.next()

    run(scenario)


def test_neighbour_with_a_name_that_is_not_utf8_does_no_harm(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a name cannot be decoded by pyinotify, and what comes behind it must still count."""

    async def scenario() -> None:
        async with watching(path) as changes:
            for number in range(3):
                with open(os.fsencode(path.parent) + b"/caf\xe9", "w"):
                    pass
                path.write_text(str(number))
                await changes.next()

    run(scenario)

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_poll_notices_what_inotify_does_not_tell(path: Path) -> None:
    """Beside inotify the files are looked at now and then: here, a file behind a hard link.

    A write through another name of the file happens in another directory.
    """
    other = path.parent.parent / "other"
    other.hardlink_to(path)

    async def scenario() -> None:
        async with watching(path, poll_interval_s=0.1) as changes:
            other.write_text("1")
            await changes.next()
        assert changes.causes == {POLL}

    run(scenario)


def test_a_saved_file_is_told_by_inotify(path: Path) -> None:
    """Whoever reads the log sees what works."""

    async def scenario() -> None:
        async with watching(path) as changes:
            path.write_text("1")
            await changes.next()
        assert changes.causes == {INOTIFY}

    run(scenario)


def test_pyinotify_prints_and_logs_nothing(
    path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Moved directories and vanished watches are no news for the operator."""
    directory = path.parent

    async def scenario() -> None:
        async with watching(path) as changes:
            directory.rename(directory.with_name("moved"))
            await changes.next()
            directory.mkdir()
            replace(path, "1")
            await changes.next()

    run(scenario)

    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


def test_stop_in_on_change_ends_the_watch(path: Path) -> None:
    """Whoever is called may stop the watch, and start it again later."""

    async def scenario() -> None:
        before = open_descriptors()
        changes = Changes()

        def stop(cause: str) -> None:
            changes.note(cause)
            watch.stop()

        loop = asyncio.get_running_loop()
        watch = Watch(path, stop, loop=loop, debounce_s=DEBOUNCE_S)
        for number in range(2):
            watch.start()
            watch.start()
            path.write_text(str(number))
            await changes.next()
            assert open_descriptors() == before

    run(scenario)


def test_stop_during_a_burst_reports_nothing_more(path: Path) -> None:
    """The timer of the burst ends with the watch."""

    async def scenario() -> None:
        with by_hand(asyncio.get_running_loop()) as move:
            async with watching(path) as changes:
                path.write_text("1")
                await move(DEBOUNCE_S / 4)
            await move(DEBOUNCE_S * 2)
        assert changes.count == 0

    run(scenario)
