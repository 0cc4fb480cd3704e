# SPDX-License-Identifier: AGPL-3.0-only
"""The verb ``plexus-registryctl token``, and what the other verbs do with a token."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plexus_registry.access import digest_of
from plexus_registry.config import tokens
from support.daemon import daemon, environment, run

_IN_HERE = (
    "import sys\n"
    "from plexus_registry.cli import control\n"
    "from plexus_registry.config import places\n"
    "places.SYSTEM['CONFIGURATION_DIRECTORY'] = sys.argv.pop(1)\n"
    "sys.exit(control.main())\n"
)

_WITHOUT_SPACE = (
    "import resource, signal\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
)
"""A limit on the size of files (setrlimit(2)) fails writes as a full disk does, without root."""

Ended = subprocess.CompletedProcess[str]


def ctl(home: Path, *arguments: str, system: str = "/nonexistent", **variables: str) -> Ended:
    """Run the command as on a machine whose system registry is configured in *system*."""
    program = (sys.executable, "-c", _IN_HERE, system)
    return run(home, *arguments, program=program, environ=environment(home, **variables))


def done(ended: Ended) -> str:
    """Return the output of a command that went well, without the line feed."""
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.removesuffix("\n")


def failed(ended: Ended, status: int) -> str:
    """Return the only line of a command that failed, without the program's name."""
    assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("plexus-registryctl: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of tokens of a user, whose folder is there."""
    found = tmp_path / ".config" / "plexus" / "tokens"
    found.parent.mkdir(parents=True)
    return found


def test_new_prints_the_token_alone_and_what_to_do_beside(tmp_path: Path, path: Path) -> None:
    """Standard output can go into a file or a variable; the file has the hash."""
    ended = ctl(tmp_path, "token", "new", "ci")
    token = done(ended)
    assert tokens.read(path) == {"ci": digest_of(token)}
    assert ended.stderr.startswith(f"ci: added to {path}. Keep the token")
    assert "Authorization: Bearer TOKEN" in ended.stderr
    assert token not in ended.stderr
    assert "t1: added" in ctl(tmp_path, "token", "new").stderr
    assert done(ctl(tmp_path, "token", "list")) == "ci\nt1"
    assert done(ctl(tmp_path, "token", "revoke", "ci")) == f"ci: removed from {path}"
    assert list(tokens.read(path)) == ["t1"]


def test_file_is_the_systems_where_it_can_be_written(tmp_path: Path, path: Path) -> None:
    """Unless the settings name one; --tokens stands above both."""
    system = tmp_path / "etc"
    system.mkdir()
    done(ctl(tmp_path, "token", "new", "a", system=str(system)))
    assert list(tokens.read(system / "tokens")) == ["a"]
    named = tmp_path / "named"
    (system / "registry.toml").write_text(f'token_file = "{named}"\n')
    done(ctl(tmp_path, "token", "new", "b", system=str(system)))
    assert list(tokens.read(named)) == ["b"]
    other = tmp_path / "other"
    done(ctl(tmp_path, "token", "new", "c", "--tokens", str(other), system=str(system)))
    assert list(tokens.read(other)) == ["c"]
    assert not path.exists()


def test_faults_are_told_in_one_line(tmp_path: Path, path: Path) -> None:
    """A name that is taken or unknown is a wrong command line; a bad file is told with its line."""
    done(ctl(tmp_path, "token", "new", "ci"))
    line = failed(ctl(tmp_path, "token", "new", "ci"), 64)
    assert line == f'name: "ci" is not accepted, expected a name that is not in {path} yet'
    line = failed(ctl(tmp_path, "token", "revoke", "x"), 64)
    assert line == f'name: "x" is not accepted, expected the name of a token in {path}: ci'
    path.write_text("nonsense\n")
    assert failed(ctl(tmp_path, "token", "list"), 78).startswith(f"{path}:1: this is no token")

    path.write_text("nonsense\nci:x\n")
    ended = ctl(tmp_path, "token", "revoke", "ci")
    assert done(ended) == f"ci: removed from {path}"
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"warning: {path}:1: this is no token")
    assert second.startswith("warning: a registry that runs keeps the former tokens")
    assert path.read_text() == "nonsense\n"


def test_token_is_kept_only_if_it_was_told(tmp_path: Path, path: Path) -> None:
    """One that could not be printed nobody has; what cannot be said beside it is no fault."""

    def made(name: str, stream: str) -> tuple[int, bytes | None]:
        program = [sys.executable, "-c", _IN_HERE, "/nonexistent", "token", "new", name]
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                program,
                env=environment(tmp_path, PYTHONUNBUFFERED=""),
                stdout=full if stream == "stdout" else subprocess.PIPE,
                stderr=full if stream == "stderr" else subprocess.PIPE,
                check=False,
            )
        return ended.returncode, ended.stdout

    status, told = made("a", "stderr")
    assert status == 0
    assert told is not None
    assert tokens.read(path) == {"a": digest_of(told.decode().strip())}
    assert made("b", "stdout") == (74, None)
    assert list(tokens.read(path)) == ["a"]

    path.write_text("nonsense\nci:x\n")
    with open("/dev/full", "w") as full:
        program = [sys.executable, "-c", _IN_HERE, "/nonexistent", "token", "revoke", "ci"]
        environ = environment(tmp_path, PYTHONUNBUFFERED="")
        assert subprocess.run(program, env=environ, stderr=full, check=False).returncode == 0


def test_full_disk_is_told_and_changes_nothing(tmp_path: Path, path: Path) -> None:
    """Status 74, as for every file that cannot be written: the settings are not to blame."""
    done(ctl(tmp_path, "token", "new", "ci"))
    before = path.read_bytes()
    program = (sys.executable, "-c", _WITHOUT_SPACE + _IN_HERE, "/nonexistent")
    for verb in (("new", "other"), ("revoke", "ci")):
        ended = run(tmp_path, "token", *verb, program=program, environ=environment(tmp_path))
        assert failed(ended, 74) == f"{path}: cannot be written: File too large"
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def test_token_is_sent_where_one_is_asked_for(tmp_path: Path, path: Path) -> None:
    """From a file or from the environment; without one the registry's own words are told."""
    token = done(ctl(tmp_path, "token", "new", "ci"))
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    with daemon(tmp_path, ["--write-access", "token"]) as running:
        reload = ("--url", running.url, "reload")
        line = failed(ctl(tmp_path, *reload), 1)
        assert line.startswith("Failed to reload: writing needs a token from 127.0.0.1:")
        line = failed(ctl(tmp_path, *reload, PLEXUS_REGISTRY_TOKEN="wrong"), 1)
        assert line.startswith("This token is not known here; ")
        assert done(ctl(tmp_path, *reload, PLEXUS_REGISTRY_TOKEN=token)).startswith("reloaded: ")
        ended = ctl(tmp_path, "--token-file", str(file), *reload, PLEXUS_REGISTRY_TOKEN="wrong")
        assert done(ended).startswith("reloaded: ")


def test_file_without_a_token_is_told(tmp_path: Path) -> None:
    """Nothing of it is sent or shown."""
    file = tmp_path / "token"
    assert failed(ctl(tmp_path, "--token-file", str(file), "reload"), 78) == (
        f"{file}: there is no such file"
    )
    file.write_text("two words\n")
    assert failed(ctl(tmp_path, "--token-file", str(file), "reload"), 78) == (
        f"{file}: holds no token, expected the one line that `token new` printed"
    )
