# SPDX-License-Identifier: AGPL-3.0-only
"""Which directories are watched for a path, and how files look from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plexus_registry.config.chain import Interest, directories, is_settled, signature


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory whose path has no symbolic link."""
    return tmp_path.resolve()


def below(root: Path, path: Path) -> dict[str, Interest]:
    """Return what is watched below *root*, by relative path."""
    return {
        str(Path(directory).relative_to(root)): interest
        for directory, interest in directories(path).items()
        if Path(directory).is_relative_to(root)
    }


def test_plain_file_needs_its_directory_and_the_ones_above(root: Path) -> None:
    """Files in its directory count; of the directories above only their own move or end."""
    (root / "a").mkdir()
    (root / "a" / "backends.toml").touch()

    found = directories(root / "a" / "backends.toml")

    assert found[str(root / "a")] is Interest.CONTENTS
    assert found[str(root)] is Interest.ITSELF
    assert found["/"] is Interest.ITSELF


def test_missing_file_needs_the_same(root: Path) -> None:
    """Where the file will be, it will be noticed."""
    assert below(root, root / "backends.toml") == {".": Interest.CONTENTS}


def test_missing_directories_need_the_nearest_that_is_there(root: Path) -> None:
    """The first missing directory will appear there."""
    assert below(root, root / "a" / "b" / "backends.toml") == {".": Interest.NAMES}


def test_every_link_of_a_configmap_needs_its_directory(root: Path) -> None:
    """In backends.toml -> ..data/backends.toml, ..data -> ..2024: both links and the end."""
    (root / "etc" / "..2024").mkdir(parents=True)
    (root / "etc" / "..2024" / "backends.toml").touch()
    (root / "etc" / "..data").symlink_to("..2024")
    (root / "etc" / "backends.toml").symlink_to("..data/backends.toml")

    assert below(root, root / "etc" / "backends.toml") == {
        ".": Interest.ITSELF,
        "etc": Interest.CONTENTS,
        "etc/..2024": Interest.CONTENTS,
    }


def test_links_out_of_the_directory_are_followed(root: Path) -> None:
    """Absolute links, relative ones with .., and links to directories on the way."""
    (root / "real" / "deep").mkdir(parents=True)
    (root / "real" / "deep" / "f").touch()
    (root / "etc").mkdir()
    (root / "way").symlink_to(root / "real")
    (root / "etc" / "backends.toml").symlink_to("../way/deep/f")

    found = below(root, root / "etc" / "backends.toml")

    assert found == {
        ".": Interest.NAMES,
        "etc": Interest.CONTENTS,
        "real": Interest.ITSELF,
        "real/deep": Interest.CONTENTS,
    }


def test_drop_ins_and_their_links_are_followed(root: Path) -> None:
    """The directory of drop-ins, and where a linked drop-in really is."""
    (root / "backends.d").mkdir()
    (root / "real").mkdir()
    (root / "real" / "a").touch()
    (root / "backends.d" / "a.toml").symlink_to("../real/a")

    assert below(root, root / "backends.toml") == {
        ".": Interest.CONTENTS,
        "backends.d": Interest.CONTENTS,
        "real": Interest.CONTENTS,
    }


def test_masked_drop_in_does_not_have_device_writes_watched(root: Path) -> None:
    """Everybody writes to /dev/null all the time."""
    (root / "backends.d").mkdir()
    (root / "backends.d" / "a.toml").symlink_to("/dev/null")

    assert directories(root / "backends.toml")["/dev"] is Interest.NAMES


def test_link_loop_ends(root: Path) -> None:
    """Links that lead in a circle are given up as the kernel does."""
    (root / "backends.toml").symlink_to("other")
    (root / "other").symlink_to("backends.toml")

    assert below(root, root / "backends.toml") == {".": Interest.CONTENTS}


def test_signature_changes_with_each_kind_of_change(root: Path) -> None:
    """Write, replacement by a file of the same size and time, drop-in, removal."""
    main = root / "backends.toml"
    signatures = [signature(main)]
    main.write_text("1")
    signatures.append(signature(main))
    os.utime(main, ns=(0, 0))
    signatures.append(signature(main))
    (root / "new").write_text("2")
    os.utime(root / "new", ns=(0, 0))
    (root / "new").rename(main)
    signatures.append(signature(main))
    (root / "backends.d").mkdir()
    (root / "backends.d" / "a.toml").touch()
    signatures.append(signature(main))
    main.unlink()
    signatures.append(signature(main))

    assert len(set(signatures)) == len(signatures)


def test_signature_does_not_change_with_neighbours(root: Path) -> None:
    """What is written beside the declared files is nothing to read them for."""
    main = root / "backends.toml"
    main.touch()
    before = signature(main)
    (root / "registry.db-wal").write_text("x")
    (root / "backends.d").mkdir()
    (root / "backends.d" / "README").touch()

    assert signature(main) == before


def test_signature_of_a_file_just_written_is_not_settled(root: Path) -> None:
    """A second write within the same tick of the clock could look the same."""
    main = root / "backends.toml"
    main.touch()
    now_ns = main.stat().st_ctime_ns

    assert not is_settled(signature(main), now_ns=now_ns + 1_000_000)
    assert is_settled(signature(main), now_ns=now_ns + 2_500_000_000)
    assert is_settled(signature(root / "missing"), now_ns=now_ns)
