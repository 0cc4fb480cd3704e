# SPDX-License-Identifier: AGPL-3.0-only
"""The command ``plexus-registry``: every option, every refusal, every exit status."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from plexus_registry import __version__
from plexus_registry.cli.exits import MEANINGS
from plexus_registry.config.settings import FILE_OPTION, FILE_VARIABLE, SETTINGS
from support.conversation import conversation
from support.daemon import BOUND_BY_MODES, PROGRAM, command, daemon, environment, run
from support.notifications import notifications
from support.timing import TIMEOUT_S

INSTALLED = shutil.which("plexus-registry", path=str(Path(sys.executable).parent))
SCRIPT = (
    (INSTALLED,)
    if INSTALLED
    else (
        sys.executable,
        "-c",
        "import sys; from plexus_registry.cli.daemon import main; sys.exit(main())",
    )
)
"""What is installed as ``plexus-registry``; where nothing is, what would be in it."""

ENTRY_POINTS = pytest.mark.parametrize("program", [PROGRAM, SCRIPT], ids=["module", "script"])

Ended = subprocess.CompletedProcess[str]


def refused(ended: Ended, status: int) -> list[str]:
    """Return the lines of a refusal, without the program's name and the log before them."""
    assert "Traceback" not in ended.stderr
    assert ended.returncode == status, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert all(line.startswith("plexus-registry: ") for line in lines), lines
    return [line.removeprefix("plexus-registry: ") for line in lines]


def answered(ended: Ended) -> str:
    """Return what was printed by a run that went well, and said nothing else."""
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def folder(home: Path) -> Path:
    """Return the folder of configuration files, which is there."""
    found = home / ".config" / "plexus"
    found.mkdir(parents=True, exist_ok=True)
    return found


# --- questions ------------------------------------------------------------------------------------


@ENTRY_POINTS
def test_version_is_told(tmp_path: Path, program: tuple[str, ...]) -> None:
    """--version names program and version."""
    printed = answered(run(tmp_path, "--version", program=program))
    assert printed == f"plexus-registry {__version__}\n"


@ENTRY_POINTS
def test_help_lists_options_variables_and_exit_statuses(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    """--help has every option, every environment variable, and what each exit status means."""
    printed = answered(run(tmp_path, "--help", program=program))

    words = set(re.split(r"[\s,\[\]|]+", printed))
    actions = ("-h", "--help", "--version", "--print-config", "--check-config")
    for option in (*actions, "--write-default-config", FILE_OPTION):
        assert option in words
    for setting in SETTINGS:
        assert {*setting.options, f"${setting.variable}"} <= words
    assert f"${FILE_VARIABLE}" in words
    for status, meaning in MEANINGS.items():
        assert f"{status.value:4}  {meaning}\n" in printed
    assert printed.startswith("usage: plexus-registry ")
    assert all(len(line) <= 100 for line in printed.splitlines())


@pytest.mark.parametrize("option", ["--help", "--version", "--print-config", "--check-config"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_leaves_is_no_reason_for_a_traceback(
    tmp_path: Path, option: str, unbuffered: str
) -> None:
    """Output to a pipe that nobody reads ends quietly."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ended = subprocess.run(
            command(option),
            env=environment(tmp_path, PYTHONUNBUFFERED=unbuffered),
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(write_end)
    assert ended.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_told(tmp_path: Path, unbuffered: str) -> None:
    """A full disk under standard output is one line and status 74."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command("--print-config"),
            env=environment(tmp_path, PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert refused(ended, 74) == ["standard output: No space left on device"]


def test_full_standard_error_does_not_change_the_status(tmp_path: Path) -> None:
    """Nor does a closed one. Python's own status, 120, says nothing."""
    (folder(tmp_path) / "registry.toml").write_text("prot = 1\n")
    # What cannot be written stays in a buffer, to be written when the program ends.
    environ = environment(tmp_path, PYTHONUNBUFFERED="")
    for redirected in ("2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        shell = ("sh", "-c", f'exec "$@" {redirected}', "sh")
        for action in ("--check-config", "--daemonize"):
            faulty = run(tmp_path, *command(action), program=shell, environ=environ)
            assert (faulty.returncode, faulty.stderr) == (78, ""), (redirected, action)
            assert "prot" not in faulty.stdout
        wrong = run(tmp_path, *command("--nonsense"), program=shell, environ=environ)
        assert wrong.returncode == 64


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_daemon_without_standard_error_serves_and_stops(tmp_path: Path, redirected: str) -> None:
    """No socket or file of its own takes the place of the stream."""
    with (
        notifications(tmp_path) as notified,
        subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirected}', "sh", *command("--port", "0")],
            env=environment(tmp_path, NOTIFY_SOCKET=notified.address, PYTHONUNBUFFERED=""),
        ) as process,
    ):
        notified.receive_until(lambda message: "READY=1" in message)
        place = os.readlink(f"/proc/{process.pid}/fd/2")
        assert place == ("/dev/full" if "full" in redirected else "/dev/null")
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0


def test_help_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """It is longer than the buffer."""
    shell = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
    ended = run(tmp_path, *command("--help"), program=shell)
    assert refused(ended, 74) == ["standard output: No space left on device"]


# --- the command line -----------------------------------------------------------------------------


@ENTRY_POINTS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["extra"], "unrecognized arguments: extra"),
        (["--por", "1"], "unrecognized arguments: --por 1"),
        (["--check"], "unrecognized arguments: --check"),
        (["--port"], "argument --port/-p: expected one argument"),
        (
            ["--print-config", "--check-config"],
            "argument --check-config: not allowed with argument --print-config",
        ),
        (
            ["--check-config", "--write-default-config"],
            "argument --write-default-config: not allowed with argument --check-config",
        ),
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_one_line(
    tmp_path: Path, program: tuple[str, ...], arguments: list[str], message: str
) -> None:
    """Unknown, abbreviated and contradictory options are refused with status 64."""
    ended = run(tmp_path, *arguments, program=program)

    assert refused(ended, 64) == [f"{message}; see plexus-registry --help"]
    assert ended.stdout == ""


BAD_VALUES = {
    "host": ("a b", "a DNS name, an IPv4 address or an IPv6 address"),
    "port": ("65536", "an integer from 0 to 65535"),
    "log_level": ("loud", "one of debug, info, warning, error, critical"),
    "hub_namespace": ("a.b", "1 to 64 of the characters"),
    "backends": ("a=http://h:1", "NAME=ws://HOST:PORT"),
    "auto_register": ("a=ws://h", "NAME=ws://HOST:PORT"),
    "write_access": ("closed", "one of local, token, open"),
    "allowed_hosts": ("a.example:4445", "a DNS name, an IPv4 address or an IPv6 address"),
    "allowed_origins": ("example.org", "scheme://host"),
    "max_connections": ("0", "an integer from 1 to 1000000"),
    "max_connections_per_address": ("x", "an integer from 1 to 1000000"),
    "max_message_size": ("1K", "an integer from 1024 to 10485760"),
    "max_buffered_input": ("64M", "an integer from 1048576 to"),
    "max_buffered_output": ("1M", "an integer from 1048576 to"),
    "max_entries": ("0", "an integer from 1 to 10000000"),
}
"""For each setting that does not take any path: a bad value, and how the accepted ones begin."""


def test_system_means_the_files_of_the_service(tmp_path: Path) -> None:
    """Whoever asks, root included, whose own files and variables are others."""
    environ = environment(tmp_path, REGISTRY_DB_PATH="/elsewhere.db", XDG_CONFIG_HOME="/own")
    printed = answered(run(tmp_path, "--system", "--print-config", environ=environ))
    assert 'config = "/etc/plexus/backends.toml"' in printed
    assert 'database = "/var/lib/plexus-registry/registry.db"' in printed
    assert "/etc/plexus/backends.toml" not in answered(run(tmp_path, "--print-config"))


def test_system_is_for_looking_only(tmp_path: Path) -> None:
    """Root must not serve as the service: the service could not open root's files afterwards."""
    (line,) = refused(run(tmp_path, "--system"), 64)
    assert line.startswith("--system goes with --check-config, --print-config or")


@pytest.mark.parametrize("place", ["command line", "environment", "file"])
def test_bad_values_are_told_with_their_place(tmp_path: Path, place: str) -> None:
    """Each setting's fault names where it was given, what was given, and what is accepted."""
    settings = {one.name: one for one in SETTINGS if one.name in BAD_VALUES}
    arguments: list[str] = []
    variables: dict[str, str] = {}
    places: dict[str, str] = {}
    file = folder(tmp_path) / "registry.toml"
    lines: list[str] = []
    for name, (value, _) in BAD_VALUES.items():
        setting = settings[name]
        if place == "command line":
            places[name] = setting.options[0]
            arguments += [setting.options[0], value]
        elif place == "environment":
            places[name] = f"${setting.variable}"
            variables[setting.variable] = value
        else:
            lines.append(f'{name} = ["{value}"]' if setting.is_list else f'{name} = "{value}"')
            places[name] = f"{file}:{len(lines)}"
    file.write_text("\n".join(lines))

    for action in ([], ["--check-config"]):
        ended = run(tmp_path, *arguments, *action, environ=environment(tmp_path, **variables))

        found = refused(ended, 64 if place == "command line" else 78)
        assert len(found) == len(BAD_VALUES)
        for line, (name, (value, accepted)) in zip(found, BAD_VALUES.items(), strict=True):
            expected = f'{places[name]}: {name}: "{value}" is not accepted, expected {accepted}'
            assert line.startswith(expected)


def test_paths_that_cannot_be_are_told_with_their_place(tmp_path: Path) -> None:
    """An empty path on the command line or in the file is refused like any other value."""
    file = folder(tmp_path) / "registry.toml"
    file.write_text('\n\ndatabase = ""\n')
    expected = '"" is not accepted, expected the path of a file'

    assert refused(run(tmp_path, "--config", "", "--port", "0"), 78) == [
        f"{file}:3: database: {expected}",
        f"--config: config: {expected}",
    ]
    (line,) = refused(run(tmp_path, "--settings", "nowhere.toml"), 64)
    assert line == f"--settings: there is no settings file {tmp_path}/nowhere.toml"


def test_unknown_key_in_the_settings_file_is_told(tmp_path: Path) -> None:
    """A misspelt key names its line and the key that may be meant."""
    file = folder(tmp_path) / "registry.toml"
    file.write_text('host = "::1"\nprot = 1\n')

    (line,) = refused(run(tmp_path, "--port", "0"), 78)
    assert line.startswith(f'{file}:2: unknown key "prot", did you mean port?')


def test_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    """Relative paths cannot be followed from there; nothing else needs it."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    environ = environment(
        tmp_path, PYTHONPATH=os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
    )
    shell = ("sh", "-c", script, "sh", *PROGRAM)

    ended = run(tmp_path, "--check-config", "--config", "b.toml", environ=environ, program=shell)
    assert refused(ended, 64) == [
        '--config: config: "b.toml" is not accepted, expected an absolute path, for the working'
        " directory is gone"
    ]
    answered(run(tmp_path, "--check-config", environ=environ, program=shell))


# --- --print-config -------------------------------------------------------------------------------


def test_print_config_shows_values_and_origins_by_precedence(tmp_path: Path) -> None:
    """Command line stands above environment, that above the file, that above the default."""
    file = folder(tmp_path) / "registry.toml"
    file.write_text('port = 1\nhost = "file"\nlog_level = "error"\nbackends = ["f=ws://h:1"]\n')
    environ = environment(
        tmp_path, REGISTRY_PORT="2", REGISTRY_HOST="environment", RUST_LOG="trace,hyper=info"
    )
    printed = answered(run(tmp_path, "--print-config", "-p", "3", environ=environ))

    found = dict(re.findall(r"^(\w+ = .*?) +# (.*)$", printed, re.MULTILINE))
    assert f"# settings file: {file}\n" in printed
    assert found["port = 3"] == "--port"
    assert found['host = "environment"'] == "$REGISTRY_HOST"
    assert found['log_level = "debug"'] == "$RUST_LOG"
    assert found['backends = ["f=ws://h:1"]'] == f"{file}:4"
    assert found['hub_namespace = "registry-hub"'] == "default"
    assert len(found) == len(SETTINGS)


@ENTRY_POINTS
def test_print_config_is_a_settings_file(tmp_path: Path, program: tuple[str, ...]) -> None:
    """What it prints is TOML that gives the same settings when it is read."""
    arguments = ["-p", "3", "--backend", "a=wss://[::1]:2", "--backend", "b=ws://h:1"]
    first = answered(run(tmp_path, "--print-config", *arguments, program=program))
    saved = tmp_path / "saved.toml"
    saved.write_text(first)

    second = answered(run(tmp_path, "--print-config", "--settings", str(saved), program=program))

    assert tomllib.loads(second) == tomllib.loads(first)
    assert tomllib.loads(first)["backends"] == ["a=wss://[::1]:2", "b=ws://h:1"]
    origins = re.findall(r"# (.*)$", second, re.MULTILINE)[1:]
    assert all(origin.startswith(f"{saved}:") for origin in origins)


def test_print_config_shows_any_path(tmp_path: Path) -> None:
    """A path that is not UTF-8 is shown, escaped."""
    arguments = command("--print-config", "--config", os.fsdecode(b"/x\xff"))
    environ = environment(tmp_path, PYTHONIOENCODING="utf-8:strict")
    ended = subprocess.run(
        arguments, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert 'config = "/x\\udcff"' in answered(ended)


def test_user_without_a_home_needs_none(tmp_path: Path) -> None:
    """Where neither $HOME nor passwd(5) has a home directory, it is the root directory."""
    program = (
        sys.executable,
        "-c",
        "import contextlib, locale, os, shutil, sys\n"
        "from plexus_registry.cli.daemon import main\n"
        "os.environ.pop('HOME')\n"
        "with contextlib.suppress(PermissionError):\n"
        "    os.setuid(2**31 - 7)\n"  # nobody has this one
        "sys.exit(main())\n",
    )
    printed = answered(run(tmp_path, "--print-config", program=program))
    assert "/.config/plexus/backends.toml" in tomllib.loads(printed)["config"]


# --- --check-config -------------------------------------------------------------------------------


@ENTRY_POINTS
def test_check_config_tells_what_is_sound(tmp_path: Path, program: tuple[str, ...]) -> None:
    """With sound files the status is 0, and what was checked is named."""
    files = folder(tmp_path)
    assert answered(run(tmp_path, "--check-config", program=program)).splitlines() == [
        "settings are sound: no settings file",
        f"declared backends are sound: none, {files}/backends.toml does not exist",
    ]

    (files / "registry.toml").write_text("port = 1\n")
    (files / "backends.toml").write_text('[[backend]]\nname = "a"\nhost = "h"\nport = 1\n')
    (files / "backends.d").mkdir()
    (files / "backends.d" / "b.toml").write_text('[[backend]]\nname = "b"\nhost = "h"\nport = 1\n')
    (files / "tokens").write_text(f"ci:{'0' * 64}\n")
    (files / "tokens").chmod(0o600)
    assert answered(run(tmp_path, "--check-config", program=program)).splitlines() == [
        f"settings are sound: {files}/registry.toml",
        f"declared backends are sound: 2 in {files}/backends.toml, {files}/backends.d/b.toml",
        f"access tokens are sound: 1 in {files}/tokens",
    ]


def test_fault_of_the_tokens_is_told_and_refuses_the_start(tmp_path: Path) -> None:
    """By --check-config and by the start, with file and line and status 78."""
    file = folder(tmp_path) / "tokens"
    file.write_text("# mine\nnonsense\n")
    file.chmod(0o600)
    for arguments in (["--check-config"], ["--port", "0"]):
        ended = run(tmp_path, *arguments)
        assert ended.returncode == 78
        assert f"{file}:2: this is no token, expected NAME:SHA256" in ended.stderr


def faulty(home: Path) -> list[str]:
    """Write declared backends with a fault in each of three files, and return the faults."""
    files = folder(home)
    (files / "backends.d").mkdir()
    (files / "backends.toml").write_text('[[backend]]\nname = "a"\nhost = "h"\nport = 0\n')
    (files / "backends.d" / "1.toml").write_text('[[backend]]\nhost = "h"\nport = 1\n')
    (files / "backends.d" / "2.toml").write_text("[[backend]\n")
    return [
        f"{files}/backends.toml:4: port: 0 is not accepted, expected an integer from 1 to 65535",
        f"{files}/backends.d/1.toml:1: name: the key is missing",
        f"{files}/backends.d/2.toml:1: not TOML: ",
    ]


@ENTRY_POINTS
def test_check_config_tells_every_fault_of_every_file(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    """Settings and declared backends are both checked, each fault is one line, the status is 78."""
    expected = faulty(tmp_path)
    file = folder(tmp_path) / "registry.toml"
    file.write_text("\nport = true\n")
    environ = environment(tmp_path, REGISTRY_HOST="a b")

    ended = run(tmp_path, "--check-config", environ=environ, program=program)

    found = refused(ended, 78)
    assert [line.partition(" is not")[0] for line in found[:2]] == [
        '$REGISTRY_HOST: host: "a b"',
        f"{file}:2: port: true",
    ]
    assert len(found) == 2 + len(expected)
    for line, start in zip(found[2:], expected, strict=True):
        assert line.startswith(start)
    assert ended.stdout == ""


def test_check_config_goes_on_after_a_broken_settings_file(tmp_path: Path) -> None:
    """One half that cannot be read does not hide what is to be said about the other."""
    files = folder(tmp_path)
    (files / "registry.toml").write_text("port = \n")
    (files / "backends.toml").write_text("")

    ended = run(tmp_path, "--check-config")

    (line,) = refused(ended, 78)
    assert line.startswith(f"{files}/registry.toml:1: not TOML: ")
    assert ended.stdout == f"declared backends are sound: 0 in {files}/backends.toml\n"


def test_check_config_tells_files_without_read_permission(tmp_path: Path) -> None:
    """What the user may not read is named, each file in one line."""
    files = folder(tmp_path)
    for name in ("registry.toml", "backends.toml"):
        (files / name).write_text("")
        (files / name).chmod(0)

    ended = run(tmp_path, "--check-config", program=BOUND_BY_MODES)

    assert refused(ended, 78) == [
        f"{files}/registry.toml: cannot be read: Permission denied",
        f"{files}/backends.toml: cannot be read: Permission denied",
    ]


# --- --write-default-config -----------------------------------------------------------------------


@ENTRY_POINTS
def test_write_default_config_gives_sound_files_once(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    """Both files are written and load as they are; a second time both are left alone, status 73."""
    paths = [tmp_path / ".config" / "plexus" / name for name in ("backends.toml", "registry.toml")]
    assert answered(run(tmp_path, "--write-default-config", program=program)).splitlines() == [
        f"{path}: written" for path in paths
    ]
    written = [path.read_text() for path in paths]
    assert answered(run(tmp_path, "--check-config", program=program)).splitlines() == [
        f"settings are sound: {paths[1]}",
        f"declared backends are sound: 0 in {paths[0]}",
    ]

    ended = run(tmp_path, "--write-default-config", program=program)
    assert refused(ended, 73) == [f"{path}: already exists and is left as it is" for path in paths]
    assert [path.read_text() for path in paths] == written


def test_write_default_config_leaves_one_that_is_there(tmp_path: Path) -> None:
    """The other is written, and the status says that not all was."""
    files = folder(tmp_path)
    (files / "registry.toml").write_text("port = 1\n")

    ended = run(tmp_path, "--write-default-config")

    (line,) = refused(ended, 73)
    assert line == f"{files}/registry.toml: already exists and is left as it is"
    assert ended.stdout == f"{files}/backends.toml: written\n"
    assert (files / "registry.toml").read_text() == "port = 1\n"


def test_write_default_config_writes_where_it_is_told(tmp_path: Path) -> None:
    """--settings and --config say where, and neither file has to be there before."""
    paths = [str(tmp_path / "new" / name) for name in ("mine.toml", "settings.toml")]
    places = ["--config", paths[0], "--settings", paths[1]]

    printed = answered(run(tmp_path, "--write-default-config", *places))
    assert printed.splitlines() == [f"{path}: written" for path in paths]
    answered(run(tmp_path, "--check-config", *places))
    assert not (tmp_path / ".config").exists()


def test_uncommented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Taking the '#' off every setting changes no value."""
    before = tomllib.loads(answered(run(tmp_path, "--print-config")))
    answered(run(tmp_path, "--write-default-config"))
    file = folder(tmp_path) / "registry.toml"
    file.write_text(re.sub(r"^#(?=\w)", "", file.read_text(), flags=re.MULTILINE))

    after = tomllib.loads(answered(run(tmp_path, "--print-config")))

    assert after == before


def test_pid_file_is_for_a_detached_daemon_only(tmp_path: Path) -> None:
    """In the foreground nobody needs it, so it must be a mistake."""
    for action in ([], ["--check-config"]):
        (line,) = refused(run(tmp_path, "--pid-file", "pid", "--port", "0", *action), 64)
        assert line == "--pid-file goes with --daemonize; see plexus-registry --help"


def test_write_default_config_without_permission_is_told(tmp_path: Path) -> None:
    """A directory that cannot be written is named, and nothing is left in it."""
    files = folder(tmp_path)
    files.chmod(0o555)
    ended = run(tmp_path, "--write-default-config", program=BOUND_BY_MODES)

    assert refused(ended, 73) == [
        f"{files}/{name}: cannot be written: Permission denied"
        for name in ("backends.toml", "registry.toml")
    ]
    assert list(files.iterdir()) == []


# --- starts that fail -----------------------------------------------------------------------------


def serve(home: Path, database: Path | str, program: tuple[str, ...] = PROGRAM) -> Ended:
    """Try to serve from a database that cannot be had."""
    return run(home, "--port", "0", "--db-path", str(database), program=program)


@ENTRY_POINTS
def test_database_below_a_file_is_told(tmp_path: Path, program: tuple[str, ...]) -> None:
    """A path that leads through a file is one line and status 74."""
    (line,) = refused(serve(tmp_path, "/dev/null/registry.db", program), 74)
    assert line.startswith("/dev/null/registry.db cannot be used: Not a directory")
    (tmp_path / "file").touch()
    (line,) = refused(serve(tmp_path, tmp_path / "file" / "x" / "registry.db", program), 74)
    assert line.startswith(f"{tmp_path}/file/x/registry.db cannot be used: Not a directory")
    (line,) = refused(serve(tmp_path, tmp_path, program), 74)
    assert line == f"{tmp_path} is a directory, expected a database"


def test_database_without_write_permission_is_told(tmp_path: Path) -> None:
    """A directory or a database that may not be written is one line and status 74."""
    closed = tmp_path / "closed"
    closed.mkdir()
    with contextlib.closing(sqlite3.connect(closed / "there.db")) as connection:
        connection.execute("PRAGMA user_version = 0")
    closed.chmod(0o555)

    for database in (closed / "new.db", closed / "deeper" / "new.db", closed / "there.db"):
        (line,) = refused(serve(tmp_path, database, BOUND_BY_MODES), 74)
        assert line.startswith(f"{database} cannot be used: Permission denied (")


@pytest.mark.parametrize("content", [b"this is no database, and longer than a header " * 200, b"x"])
def test_damaged_database_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    """What is no SQLite file is status 65, with a way out, and stays as it is."""
    database = tmp_path / "registry.db"
    database.write_bytes(content)

    (line,) = refused(serve(tmp_path, database), 65)

    assert line.startswith(f"database {database} is not sound (")
    assert "restore a backup" in line
    assert database.read_bytes() == content


def test_database_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    """A version that this program does not know is status 65."""
    database = tmp_path / "registry.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE backends (id TEXT)")
        connection.execute("PRAGMA user_version = 4711")
    content = database.read_bytes()

    (line,) = refused(serve(tmp_path, database), 65)

    assert line.startswith(f"database {database} has version 4711, this program knows up to ")
    assert database.read_bytes() == content


@ENTRY_POINTS
def test_database_in_use_is_told_with_the_process(tmp_path: Path, program: tuple[str, ...]) -> None:
    """The second daemon names the first one's process, status 75, and the first goes on."""
    database = tmp_path / "registry.db"
    with (
        daemon(tmp_path, ["--db-path", str(database)]) as running,
        conversation(running.url) as client,
    ):
        (line,) = refused(serve(tmp_path, database, program), 75)
        assert line.startswith(
            f"database {database} is in use by process {running.process.pid}: stop that one first"
        )
        assert client.call("registry.list").content["type"] == "backends"


@ENTRY_POINTS
def test_taken_port_is_told(tmp_path: Path, program: tuple[str, ...]) -> None:
    """A port that somebody listens on already is one line and status 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = refused(run(tmp_path, "-p", str(port), program=program), 69)
    assert line.startswith(f"cannot listen on 127.0.0.1:{port}: the port is taken")


def test_address_that_is_not_ours_is_told(tmp_path: Path) -> None:
    """An address of another machine is one line and status 69."""
    (line,) = refused(run(tmp_path, "-p", "0", "--host", "192.0.2.1"), 69)
    assert line.startswith("cannot listen on 192.0.2.1:0: ")


@ENTRY_POINTS
def test_broken_declarations_stop_the_start(tmp_path: Path, program: tuple[str, ...]) -> None:
    """At the start there is nothing to keep, so every fault is told and the status is 78."""
    expected = faulty(tmp_path)

    found = refused(run(tmp_path, "--port", "0", program=program), 78)

    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@ENTRY_POINTS
def test_served_settings_come_from_all_places(tmp_path: Path, program: tuple[str, ...]) -> None:
    """What option, environment and file set is what the daemon does."""
    (folder(tmp_path) / "registry.toml").write_text('auto_register = "local=ws://h:1"\n')
    (tmp_path / "b.toml").write_text('[[backend]]\nname = "file"\nhost = "h"\nport = 1\n')
    environ = environment(
        tmp_path, REGISTRY_BACKENDS="e1=ws://h:1,e2=wss://h:2", REGISTRY_HUB_NAMESPACE="hub"
    )
    arguments = [
        "-c",
        str(tmp_path / "b.toml"),
        "--host",
        "::1",
        "--db-path",
        str(tmp_path / "r.db"),
    ]
    with (
        daemon(tmp_path, arguments, environ, program=program) as running,
        conversation(running.url) as client,
    ):
        answer = client.request("hub.call", {"method": "registry.list"})
        found: list[dict[str, Any]] = answer.content["backends"]

    assert {entry["name"]: entry["source"] for entry in found} == {
        "local": "auto",
        "file": "file",
        "e1": "env",
        "e2": "env",
    }
    assert running.url.startswith("ws://[::1]:")
    assert (tmp_path / "r.db").exists()


def test_check_counts_what_is_declared(tmp_path: Path) -> None:
    """The start would be refused: the check says so, and does not blame the file."""
    config = tmp_path / ".config/plexus/backends.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "".join(f'[[backend]]\nname = "{name}"\nhost = "h"\nport = 1\n' for name in "ab")
    )
    arguments = ("--backend", "c=ws://h:1", "--auto-register", "none", "--max-entries")
    ended = run(tmp_path, *arguments, "2", "--check-config")
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [
        "plexus-registry: max_entries: 3 backends are declared, and it allows 2: raise it"
    ]
    assert run(tmp_path, *arguments, "3", "--check-config").returncode == 0
    started = run(tmp_path, *arguments, "2", "--port", "0")
    assert started.returncode == 78
    assert "keeping previous" not in started.stderr
