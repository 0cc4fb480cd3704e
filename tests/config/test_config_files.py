# SPDX-License-Identifier: AGPL-3.0-only
"""Reading one TOML file, and writing one that must not exist."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault


def fault_of(error: pytest.ExceptionInfo[ConfigError]) -> Fault:
    """Return the only fault."""
    (fault,) = error.value.faults
    return fault


def test_missing_file_and_dangling_link_are_none(tmp_path: Path) -> None:
    """A link to nowhere is as good as no file."""
    (tmp_path / "link").symlink_to("nowhere")

    assert files.read(tmp_path / "missing") is None
    assert files.read(tmp_path / "link") is None


def test_null_device_is_an_empty_file(tmp_path: Path) -> None:
    """A link to /dev/null masks a file."""
    (tmp_path / "masked").symlink_to("/dev/null")

    assert files.read(tmp_path / "masked") == b""


def test_directory_is_a_fault(tmp_path: Path) -> None:
    """A directory where a file is expected is named as such."""
    with pytest.raises(ConfigError) as error:
        files.read(tmp_path)

    assert fault_of(error) == Fault(str(tmp_path), 0, "is a directory, expected a file")


def test_pipe_without_writer_is_a_fault_and_does_not_block(tmp_path: Path) -> None:
    """Opening a FIFO must not wait for somebody to write to it."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="is a device, pipe or socket, expected a file"):
        files.read(tmp_path / "pipe")


def test_socket_is_a_fault(tmp_path: Path) -> None:
    """A socket cannot be opened, and the fault says so."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))

        with pytest.raises(ConfigError, match="cannot be read: No such device or address"):
            files.read(tmp_path / "s")


def test_link_loop_is_a_fault(tmp_path: Path) -> None:
    """A symbolic link to itself is told from a missing file."""
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        files.read(tmp_path / "loop")


@contextlib.contextmanager
def _permissions_count() -> Iterator[None]:
    """Run the block as somebody for whom permissions count, which they do not for root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """A file without permission is a fault, not a missing file."""
    file = tmp_path / "secret"
    file.touch(mode=0)

    with (
        _permissions_count(),
        pytest.raises(ConfigError, match="cannot be read: Permission denied"),
    ):
        files.read(file)


def test_too_large_file_is_a_fault(tmp_path: Path) -> None:
    """Nothing larger than the limit is parsed."""
    file = tmp_path / "large"
    with open(file, "wb") as sparse:
        sparse.truncate(files.MAX_SIZE_BYTES + 1)

    with pytest.raises(ConfigError, match="is larger than 16 MiB"):
        files.read(file)


def test_bytes_that_are_not_utf8_are_a_fault_with_line() -> None:
    """The line of the first such byte is named, also after a byte order mark."""
    with pytest.raises(ConfigError) as error:
        files.parse(Path("f"), b'\xef\xbb\xbfa = 1\nb = "caf\xe9"\n')

    assert fault_of(error) == Fault("f", 2, "byte 0xe9 is not UTF-8, expected TOML in UTF-8")


def test_byte_order_mark_is_passed_over() -> None:
    """Editors on Windows put one there."""
    assert files.parse(Path("f"), b"\xef\xbb\xbfa = 1").tables == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", 2),
        ("a = 1\nb = [1,\n", 3),
        ("a = 1\na = 2\n", 2),
        ("a = " + "9" * 5000, 0),
        ("a = " + "[" * 100_000, 0),
    ],
)
def test_text_that_is_not_toml_is_a_fault_with_line(text: str, line: int) -> None:
    """Whatever the parser raises becomes one fault."""
    with pytest.raises(ConfigError, match="not TOML: ") as error:
        files.parse(Path("f"), text.encode())

    assert fault_of(error).line == line
    assert "(at" not in fault_of(error).message


def test_new_file_is_written_with_parents(tmp_path: Path) -> None:
    """Directories are created, the mode is for everybody to read, nothing is left beside it."""
    file = tmp_path / "a" / "b" / "c.toml"
    before = os.umask(0o077)
    try:
        files.write_new(file, "é = 1\n")
    finally:
        os.umask(before)

    assert file.read_bytes() == "é = 1\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(file.parent) == ["c.toml"]


@pytest.mark.parametrize("is_link", [False, True])
def test_existing_file_is_left_alone(tmp_path: Path, *, is_link: bool) -> None:
    """Neither a file nor a dangling link is replaced or followed."""
    file = tmp_path / "c.toml"
    if is_link:
        file.symlink_to("nowhere")
    else:
        file.write_text("mine")

    with pytest.raises(ConfigError, match="already exists and is left as it is"):
        files.write_new(file, "new")

    assert os.listdir(tmp_path) == ["c.toml"]
    assert is_link or file.read_text() == "mine"


def test_place_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    """A parent that is a file is reported in one sentence."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"cannot be written|already exists"):
        files.write_new(tmp_path / "file" / "c.toml", "")
