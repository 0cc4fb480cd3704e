# SPDX-License-Identifier: AGPL-3.0-only
"""The file of access tokens: what is accepted in it, and how it is changed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plexus_registry.access import digest_of
from plexus_registry.config import tokens
from plexus_registry.errors import ConfigError, InvalidValue, NotWritten

HASH = digest_of("a").hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens are to be."""
    return tmp_path / "tokens"


def write(path: Path, text: str, mode: int = 0o640) -> Path:
    """Write the file as an operator does."""
    path.write_text(text)
    path.chmod(mode)
    return path


def faults_of(path: Path) -> list[str]:
    """Return what is wrong with the file."""
    with pytest.raises(ConfigError) as caught:
        tokens.read(path)
    return [str(fault) for fault in caught.value.faults]


# --- reading --------------------------------------------------------------------------------------


def test_no_file_is_no_tokens(path: Path) -> None:
    """Nobody needs to have one."""
    assert tokens.read(path) == {}


def test_link_to_nothing_is_a_fault(path: Path) -> None:
    """Who made it meant a file: without one every token would be taken back in silence."""
    path.symlink_to("gone")
    assert faults_of(path) == [f"{path}: is a symbolic link to gone, where the daemon sees no file"]


def test_lines_are_names_and_hashes(path: Path) -> None:
    """Comments, blank lines and space around do not matter; hexadecimal in any case."""
    write(path, f"# mine\n\n  ci:{HASH}  \n # more\r\nWeb-1.x:{HASH.upper()}")
    assert tokens.read(path) == {"ci": digest_of("a"), "Web-1.x": digest_of("a")}


@pytest.mark.parametrize(
    "line",
    [
        "secret-token-itself",
        f":{HASH}",
        f"ci {HASH}",
        f"ci: {HASH}",
        f"ci:{HASH[:-1]}",
        f"ci:{HASH}0",
        f"ci:{HASH[:-1]}g",
        f"a b:{HASH}",
        f"-x:{HASH}",
        f"{'x' * 65}:{HASH}",
        f"é:{HASH}",
    ],
)
def test_other_lines_are_faults_that_do_not_show_them(path: Path, line: str) -> None:
    """File and line are told; what stands there may be a secret."""
    write(path, f"# x\nok:{HASH}\n{line}\n")
    [fault] = faults_of(path)
    assert fault.startswith(f"{path}:3: this is no token, expected NAME:SHA256")
    assert line not in fault


def test_every_fault_is_told(path: Path) -> None:
    """A name can be there once; all faults come together."""
    write(path, f"ci:{HASH}\nnonsense\nci:{HASH}\n")
    first, second = faults_of(path)
    assert f"{path}:2: " in first
    assert second == f"{path}:3: ci is here twice, expected other names"


def test_number_of_tokens_is_bounded(path: Path) -> None:
    """Each is compared with what a client sends."""
    write(path, "".join(f"t{number}:{HASH}\n" for number in range(tokens.TOKENS_MAX + 1)))
    assert faults_of(path) == [f"{path}: has 1025 tokens, expected 1024 at the most"]


@pytest.mark.parametrize(
    ("mode", "open_to", "right"),
    [
        (0o644, "every user can read", 0o640),
        (0o660, "its group can write", 0o640),
        (0o664, "its group can write", 0o640),
        (0o602, "every user can write", 0o600),
        (0o641, "every user can run", 0o640),
        (0o777, "every user can write", 0o750),
    ],
)
def test_file_that_is_open_to_others_is_refused(
    path: Path, mode: int, open_to: str, right: int
) -> None:
    """Whoever could write it could let himself in; the fault says what to type."""
    write(path, f"ci:{HASH}\n", mode)
    assert faults_of(path) == [
        f"{path}: has the mode {mode:04o}, so {open_to} it, expected {right:04o}:"
        f" chmod {right:04o} {path}"
    ]


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_file_of_owner_and_group_is_read(path: Path, mode: int) -> None:
    """The modes of a credential, and of a file in /etc."""
    assert tokens.read(write(path, f"ci:{HASH}\n", mode)) == {"ci": digest_of("a")}


# --- changing -------------------------------------------------------------------------------------


def test_new_token_is_known_by_its_hash_only(path: Path) -> None:
    """256 random bits, fit for a header and a cookie; others cannot read the file."""
    name, token = tokens.add(path, "ci")
    assert name == "ci"
    assert tokens.read(path) == {"ci": digest_of(token)}
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    random = token.removeprefix("plexus_")
    assert len(random) == 43
    assert random.replace("-", "").replace("_", "").isalnum()
    assert tokens.add(path, "other")[1] != token


def test_what_the_operator_wrote_stays(path: Path) -> None:
    """Comments and lines are kept, also without a line feed at the end; so is the mode."""
    write(path, f"# mine\nci:{HASH}", 0o600)
    tokens.add(path, "web")
    head, web = path.read_text().split("web:")
    assert head == f"# mine\nci:{HASH}\n"
    tokens.revoke(path, "ci")
    assert path.read_text() == f"# mine\nweb:{web}"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["tokens"]


def test_name_is_one_that_is_free_if_none_is_given(path: Path) -> None:
    """The first of t1, t2 and so on."""
    assert [tokens.add(path)[0] for _ in range(2)] == ["t1", "t2"]
    tokens.revoke(path, "t1")
    assert tokens.add(path)[0] == "t1"


@pytest.mark.parametrize("name", ["a b", "a:b", "#a", "é", "x" * 65, "a\nb"])
def test_names_that_the_file_cannot_hold_are_refused(path: Path, name: str) -> None:
    """Nothing is written then."""
    with pytest.raises(InvalidValue, match="expected 1 to 64 of the characters"):
        tokens.add(path, name)
    assert not path.exists()


def test_name_that_is_taken_is_refused(path: Path) -> None:
    """A token is never replaced unnoticed."""
    tokens.add(path, "ci")
    before = path.read_text()
    with pytest.raises(InvalidValue, match=r"expected a name that is not in .* yet"):
        tokens.add(path, "ci")
    assert path.read_text() == before


def test_unknown_name_cannot_be_taken_back(path: Path) -> None:
    """The names that there are, are told."""
    for held in ("there is none", "ci"):
        with pytest.raises(InvalidValue, match=f"expected the name of a token in .*: {held}"):
            tokens.revoke(path, "c")
        tokens.add(path, "ci" if held != "ci" else "x")


def test_file_with_faults_is_not_changed(path: Path) -> None:
    """A new token would not count; it is to be mended first."""
    write(path, "nonsense\n")
    with pytest.raises(ConfigError):
        tokens.add(path, "ci")
    assert path.read_text() == "nonsense\n"


def test_token_is_taken_back_whatever_else_is_wrong(path: Path) -> None:
    """Only its lines go, however often and how it is there; what is left wrong is returned."""
    rest = b"# caf\xe9\nplexus_the-token-itself\n\xff:1\nother:%b\n" % HASH.encode()
    path.write_bytes(b"ci:%b\n" % HASH.encode() + rest + b"ci:short\nci:%b" % HASH.encode())
    path.chmod(0o600)
    assert [fault.line for fault in tokens.revoke(path, "ci")] == [2, 3]
    assert path.read_bytes() == rest
    for missing in ("ci", "", "plexus_the-token-itself"):
        with pytest.raises(InvalidValue) as refused:
            tokens.revoke(path, missing)
        assert refused.value.accepted == f"the name of a token in {path}: other"


def test_token_is_taken_back_from_a_file_that_is_open_to_others(path: Path) -> None:
    """Its mode stays, and is told."""
    write(path, f"ci:{HASH}\nother:{HASH}\n", 0o644)
    (fault,) = tokens.revoke(path, "ci")
    assert "has the mode 0644, so every user can read it, expected 0640" in fault.message
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text() == f"other:{HASH}\n"


def test_comment_that_is_no_utf8_stays(path: Path) -> None:
    """Whatever the operator's editor wrote."""
    path.write_bytes(b"# caf\xe9\n")
    path.chmod(0o600)
    tokens.add(path, "ci")
    assert path.read_bytes().startswith(b"# caf\xe9\nci:")


def test_folder_is_made_and_one_that_cannot_be_is_told(path: Path) -> None:
    """In one line, not as a fault of the program."""
    tokens.add(path / "made" / "tokens", "ci")
    below = path / "made" / "tokens" / "x"
    with pytest.raises(NotWritten) as caught:
        tokens.add(below, "ci")
    assert str(caught.value).startswith(f"{below}: cannot be written: ")


def test_changes_at_the_same_time_do_not_lose_one_another(path: Path) -> None:
    """Each reads what the one before has written."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: tokens.add(path), range(24)))
    assert tokens.read(path) == {name: digest_of(token) for name, token in made}
    assert len(dict(made)) == 24


def test_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    """What it leads to is replaced."""
    target = tmp_path / "elsewhere" / "tokens"
    target.parent.mkdir()
    path.symlink_to(target)
    tokens.add(path, "ci")
    assert path.is_symlink()
    assert list(tokens.read(target)) == ["ci"]


def test_revoking_makes_no_folders(tmp_path: Path) -> None:
    """A path that is mistyped leaves nothing behind."""
    with pytest.raises(InvalidValue, match="there is none"):
        tokens.revoke(tmp_path / "no" / "such" / "tokens", "laptop")
    assert list(tmp_path.iterdir()) == []
