# SPDX-License-Identifier: AGPL-3.0-only
"""Declared backends: the main file, its drop-ins, their faults, and writing them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.backend import Backend, Declaration, Source
from plexus_registry.config import declared
from plexus_registry.errors import ConfigError


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """Where the main file is or will be; the directory of drop-ins is there."""
    (tmp_path / "backends.d").mkdir()
    return tmp_path / "backends.toml"


def table(name: str, port: int = 1, **more: object) -> str:
    """Return a sound table."""
    lines = [f"{key} = {value!r}" for key, value in more.items()]
    return "\n".join(
        ["[[backend]]", f"name = '{name}'", "host = 'h'", f"port = {port}", *lines, ""]
    )


def faults_of(path: Path) -> list[str]:
    """Return the faults, shown without the directory."""
    with pytest.raises(ConfigError) as error:
        declared.read_declared(path)
    return [str(fault).replace(f"{path.parent}/", "") for fault in error.value.faults]


def test_nothing_at_all_is_told_from_an_empty_file(main: Path) -> None:
    """Only where there is neither main file nor drop-in is the declaration absent."""
    absent = declared.read_declared(main)
    main.touch()
    empty = declared.read_declared(main)

    assert (absent.is_absent, absent.files, absent.backends) == (True, (), {})
    assert (empty.is_absent, empty.files, empty.backends) == (False, (main,), {})
    assert absent.digest != empty.digest


def test_dangling_link_is_a_fault(main: Path) -> None:
    """A link whose target is gone, or hidden from the daemon, is not taken for no file."""
    drop_in = main.parent / "backends.d" / "a.toml"
    for link in (main, drop_in):
        link.symlink_to("nowhere")

    with pytest.raises(ConfigError) as caught:
        declared.read_declared(main)
    assert [str(fault) for fault in caught.value.faults] == [
        f"{link}: is a symbolic link to nowhere, where the daemon sees no file"
        for link in (main, drop_in)
    ]


def test_drop_ins_follow_the_main_file_in_name_order(main: Path) -> None:
    """Backends come in the order of the files; other files are passed over."""
    main.write_text(table("main"))
    drop_ins = main.parent / "backends.d"
    for name in ("20-b.toml", "10-a.toml", "9-c.toml"):
        (drop_ins / name).write_text(table(name.removesuffix(".toml")))
    for name in (".hidden.toml", "x.toml.dpkg-old", "x.toml~", "README"):
        (drop_ins / name).write_text("not TOML")

    found = declared.read_declared(main)

    assert list(found.backends) == ["main", "10-a", "20-b", "9-c"]
    assert [file.name for file in found.files] == [
        "backends.toml",
        "10-a.toml",
        "20-b.toml",
        "9-c.toml",
    ]


def test_drop_ins_alone_are_a_declaration(main: Path) -> None:
    """The main file is not needed."""
    (main.parent / "backends.d" / "a.toml").write_text(table("a"))

    found = declared.read_declared(main)

    assert list(found.backends) == ["a"]
    assert not found.is_absent


def test_all_fields_are_read(main: Path) -> None:
    """Each key of a table reaches the declaration."""
    main.write_text(table("a", protocol="wss", description="d", namespace="n"))

    assert declared.read_declared(main).backends["a"] == Declaration(
        name="a", host="h", port=1, protocol="wss", description="d", namespace="n"
    )


def test_every_fault_of_every_file_is_reported_with_its_line(main: Path) -> None:
    """One reading is enough to find all that has to be mended."""
    main.write_text("[[backend]]\nname = 'a b'\nport = 0\ncolour = 1\n\n" + table("ok"))
    drop_ins = main.parent / "backends.d"
    (drop_ins / "1.toml").write_text("a = \n")
    (drop_ins / "2.toml").write_bytes(b"\xff")
    (drop_ins / "3.toml").mkdir()
    (drop_ins / "4.toml").write_text(table("ok") + table("fine"))

    faults = faults_of(main)

    assert [fault.split(" ")[0] for fault in faults] == [
        "backends.toml:1:",
        "backends.toml:2:",
        "backends.toml:3:",
        "backends.toml:4:",
        "backends.d/1.toml:1:",
        "backends.d/2.toml:1:",
        "backends.d/3.toml:",
        "backends.d/4.toml:2:",
    ]
    assert faults[0].endswith("host: the key is missing")
    assert faults[-1].endswith('name: "ok" is declared twice, first at backends.toml:7')


def test_duplicate_in_one_file_names_both_lines(main: Path) -> None:
    """The later one is the fault and names the first."""
    main.write_text(table("a") + table("b") + table("a"))

    assert faults_of(main) == [
        'backends.toml:10: name: "a" is declared twice, first at backends.toml:2'
    ]


def test_inline_tables_have_faults_with_lines(main: Path) -> None:
    """The form ``backend = [{...}]`` is read like any other."""
    main.write_text("backend = [\n  { name = 'a', host = 'h', port = 1 },\n  { name = 'b' }, 3]")

    assert faults_of(main) == [
        "backends.toml:3: backend: 3 is not accepted, expected a table",
        "backends.toml:3: host: the key is missing",
        "backends.toml:3: port: the key is missing",
    ]


def test_unknown_top_level_key_is_a_fault_with_a_hint(main: Path) -> None:
    """A misspelt name of the table would otherwise declare nothing, silently."""
    main.write_text("\n[[backends]]\nname = 'a'\n")

    assert faults_of(main) == [
        'backends.toml:2: unknown key "backends", did you mean backend? expected one of: backend'
    ]


@pytest.mark.parametrize("text", ["backend = 'a'", "[backend]\nname = 'a'"])
def test_backend_that_is_no_array_of_tables_is_a_fault(main: Path, text: str) -> None:
    """A table in single brackets is a common slip."""
    main.write_text(f"# one\n{text}\n")

    (fault,) = faults_of(main)

    assert fault.startswith("backends.toml:2: backend: ")
    assert fault.endswith("expected [[backend]] tables")


def test_drop_in_directory_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    """It may be meant as a drop-in, so it is not passed over."""
    (tmp_path / "backends.d").touch()

    assert faults_of(tmp_path / "backends.toml") == [
        "backends.d: cannot be listed: Not a directory"
    ]


def test_digest_changes_with_names_and_contents_only(main: Path) -> None:
    """Touching a file or swapping it for an equal one changes nothing."""
    main.write_text(table("a"))
    first = declared.take(main).digest

    os.utime(main, (1, 1))
    replaced = main.with_suffix(".new")
    replaced.write_text(table("a"))
    replaced.rename(main)
    same = declared.take(main).digest
    (main.parent / "backends.d" / "a.toml").write_text("")
    with_drop_in = declared.take(main).digest
    (main.parent / "backends.d" / "a.toml").rename(main.parent / "backends.d" / "b.toml")
    renamed = declared.take(main).digest

    assert same == first
    assert len({first, with_drop_in, renamed}) == 3


def test_digest_tells_a_fault_from_a_file(main: Path) -> None:
    """A file that cannot be read any more is a change, but the same change every time."""
    main.touch()
    empty = declared.take(main).digest
    main.unlink()
    main.mkdir()

    assert declared.take(main).digest == declared.take(main).digest != empty
    assert not declared.take(main).is_absent


def test_many_duplicates_are_reported_in_reasonable_time(main: Path) -> None:
    """A file that is copied whole as a drop-in is scanned once and not once per name."""
    main.write_text("".join(table(f"b{number}") for number in range(2000)))
    (main.parent / "backends.d" / "copy.toml").write_bytes(main.read_bytes())

    faults = faults_of(main)

    assert len(faults) == 2000
    assert faults[-1].endswith("first at backends.toml:7998")


def test_example_declares_nothing_until_it_is_uncommented(main: Path) -> None:
    """The start file is sound as written and sound with its example."""
    text = declared.example()
    main.write_text(text)
    as_written = declared.read_declared(main)
    main.write_text(re.sub(r"^#(?! |$)", "", text, flags=re.MULTILINE))
    uncommented = declared.read_declared(main)

    assert as_written.backends == {}
    assert uncommented.backends["example"] == Declaration(
        name="example",
        host="127.0.0.1",
        port=4446,
        description="An example backend",
        namespace="example",
    )


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n"),
    min_size=1,
    max_size=40,
)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and "/" not in name and not re.search(r"\s", name)
)
BACKENDS = st.builds(
    Backend,
    id=st.uuids().map(str),
    name=NAMES,
    host=st.sampled_from(["localhost", "10.0.0.1", "::1"]),
    port=st.integers(1, 65535),
    protocol=st.sampled_from(["ws", "wss"]),
    description=st.none() | TEXT,
    namespace=st.none() | TEXT,
    version=st.none() | TEXT,
    metadata=st.none() | TEXT,
    source=st.sampled_from(Source),
    is_active=st.booleans(),
    registered_at=st.just(0),
    created_at=st.just(0),
    updated_at=st.just(0),
)


@given(st.lists(BACKENDS, unique_by=lambda backend: backend.name, max_size=5))
def test_written_backends_load_back(backends: list[Backend]) -> None:
    """Any text with line feeds, quotes and letters of any script survives writing and reading."""
    content = declared.dumps(backends).encode()
    snapshot = declared.Snapshot(((Path("f"), content),), "")

    found = declared.parse(snapshot).backends

    assert list(found) == [backend.name for backend in backends]
    assert all(found[backend.name].describes(backend) for backend in backends)


def test_written_backends_are_tables_and_not_inline() -> None:
    """An operator goes on editing the file, so each backend is a [[backend]] table."""
    declaration = Declaration(name="a", host="h", port=1)

    text = declared.dumps([declaration, declaration])

    assert text.count("[[backend]]\n") == 2
    assert "description" not in text
