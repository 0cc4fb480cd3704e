# SPDX-License-Identifier: AGPL-3.0-only
"""Where each setting's value comes from, and what is reported when it is not accepted."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from plexus_registry.access import Policy
from plexus_registry.backend import TEXT_MAX_CHARACTERS, Declaration
from plexus_registry.config.settings import (
    DEFAULT_AUTO_REGISTER,
    SETTINGS,
    Settings,
    add_options,
)
from plexus_registry.config.sources import Resolved, config_path, resolve
from plexus_registry.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home directory that has a settings directory."""
    (tmp_path / ".config" / "plexus").mkdir(parents=True)
    return tmp_path


def settings_file(home: Path, text: str) -> Path:
    """Write the default settings file."""
    path = home / ".config" / "plexus" / "registry.toml"
    path.write_text(text)
    return path


def from_line(home: Path, *line: str, environ: Mapping[str, str] | None = None) -> Resolved:
    """Resolve a command line."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return resolve(vars(parser.parse_args(line)), environ or {}, home)


def faults_of(
    home: Path, arguments: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return all faults as text, with the home shown as ~."""
    with pytest.raises(ConfigError) as error:
        resolve(arguments, environ or {}, home)
    return [str(fault).replace(str(home), "~") for fault in error.value.faults]


def test_table_has_a_line_for_each_field() -> None:
    """No setting lacks its spellings, and each spelling is there once."""
    spellings = [
        spelling for setting in SETTINGS for spelling in (*setting.options, setting.variable)
    ]

    assert [setting.name for setting in SETTINGS] == [
        field.name for field in dataclasses.fields(Settings)
    ]
    assert len(spellings) == len(set(spellings))


def test_defaults_without_any_source(home: Path) -> None:
    """Nothing given: the documented defaults, marked as such."""
    found = resolve({}, {}, home)

    assert found.settings == Settings(
        host="127.0.0.1",
        port=4445,
        database=home / ".local/state/plexus-registry/registry.db",
        config=home / ".config/plexus/backends.toml",
        log_level="info",
        hub_namespace="registry-hub",
        backends=(),
        auto_register=DEFAULT_AUTO_REGISTER,
        write_access=Policy.LOCAL,
        token_file=home / ".config/plexus/tokens",
        allowed_hosts=(),
        allowed_origins=(),
        tls_certificate=None,
        tls_key=None,
        max_connections=10_000,
        max_connections_per_address=1024,
        max_message_size=1_048_576,
        max_buffered_input=67_108_864,
        max_buffered_output=268_435_456,
        max_entries=100_000,
    )
    assert set(found.origins.values()) == {"default"}
    assert (found.file, found.file_exists) == (home / ".config/plexus/registry.toml", False)


def test_command_line_stands_above_environment_above_file_above_default(home: Path) -> None:
    """Each source wins over the ones below it, setting by setting."""
    path = settings_file(home, "# mine\nport = 3\nmax_connections = 3\n\nhost = 'three'\n")

    found = from_line(home, "-p", "1", environ={"REGISTRY_PORT": "2", "REGISTRY_HOST": "two"})

    assert (found.settings.port, found.origins["port"]) == (1, "--port")
    assert (found.settings.host, found.origins["host"]) == ("two", "$REGISTRY_HOST")
    assert (found.settings.max_connections, found.origins["max_connections"]) == (3, f"{path}:3")
    assert (found.settings.log_level, found.origins["log_level"]) == ("info", "default")
    assert found.file_exists


def test_every_setting_can_be_given_in_all_three_spellings(home: Path) -> None:
    """Command line, environment and file come to the same settings."""
    given = {
        "host": "::1",
        "port": "1",
        "database": "/d",
        "config": "/c",
        "log_level": "error",
        "hub_namespace": "h",
        "backends": "a=ws://h:1",
        "auto_register": "none",
        "write_access": "token",
        "token_file": "/t",
        "allowed_hosts": "x.example",
        "allowed_origins": "https://x",
        "tls_certificate": "/t.crt",
        "tls_key": "/t.key",
        "max_connections": "7",
        "max_connections_per_address": "5",
        "max_message_size": "2048",
        "max_buffered_input": "1048578",
        "max_buffered_output": "1048577",
        "max_answer_size": "65537",
        "max_entries": "9",
        "max_description_size": "10",
        "max_metadata_size": "11",
        "max_pending_calls": "12",
        "max_batch": "13",
        "max_nested_calls": "14",
        "max_nesting": "20",
        "max_small_frames": "16",
        "handshake_timeout": "17",
        "slow_reader_timeout": "18",
        "slow_sender_timeout": "19",
    }
    line = [part for item in SETTINGS for part in (item.options[0], given[item.name])]
    environ = {item.variable: given[item.name] for item in SETTINGS}
    lists = {item.name for item in SETTINGS if item.is_list}
    in_toml = {key: [value] if key in lists else value for key, value in given.items()}
    text = "".join(
        f"{key} = {value if str(value).isdigit() else repr(value)}\n"
        for key, value in in_toml.items()
    )

    by_line = from_line(home, *line)
    by_environment = resolve({}, environ, home)
    settings_file(home, text)
    by_file = resolve({}, {}, home)

    assert by_line.settings == by_environment.settings == by_file.settings
    assert by_line.settings.backends == (Declaration(name="a", host="h", port=1),)
    assert by_line.settings.auto_register is None


def test_answers_must_have_room_for_the_largest_backend(home: Path) -> None:
    """Wherever the settings come from; the fault names all of them, and where the first is from."""
    expected = (
        "max_answer_size: 65536 is not accepted with max_description_size 10 and"
        " max_metadata_size 200000, expected an integer from 804136, for so large one backend can"
        " be, or lower limits on its texts"
    )
    path = settings_file(home, "max_answer_size = 65536\nmax_description_size = 10\n")
    metadata = {"REGISTRY_MAX_METADATA_SIZE": "200000"}
    with pytest.raises(ConfigError) as caught:
        resolve({}, metadata, home)
    assert list(map(str, caught.value.faults)) == [f"{path}:1: {expected}"]
    with pytest.raises(ConfigError) as caught:
        from_line(home, "--max-answer-size", "65536", environ=metadata)
    assert list(map(str, caught.value.faults)) == [f"--max-answer-size: {expected}"]
    from_line(home, "--max-answer-size", "804136", environ=metadata)
    from_line(home, "--max-metadata-size", "11")
    settings_file(home, "")
    greatest = str(TEXT_MAX_CHARACTERS)
    from_line(home, "--max-description-size", greatest, "--max-metadata-size", greatest)


def test_empty_variable_counts_as_unset(home: Path) -> None:
    """``REGISTRY_PORT=`` in a unit's environment file sets nothing."""
    environ = {setting.variable: "" for setting in SETTINGS}

    assert set(resolve({}, environ, home).origins.values()) == {"default"}


def test_empty_option_is_a_value(home: Path) -> None:
    """On the command line emptiness was written on purpose."""
    found = from_line(
        home, "--auto-register=", "--allowed-origins=", environ={"REGISTRY_ALLOWED_ORIGINS": "x"}
    )

    assert found.settings.auto_register is None
    assert found.settings.allowed_origins == ()


def test_lists_are_separated_by_commas_or_repeated(home: Path) -> None:
    """In the environment commas, with blanks; on the command line the backend's option again."""
    environ = {
        "REGISTRY_BACKENDS": "a=ws://h:1 , b=ws://h:2,",
        "REGISTRY_ALLOWED_ORIGINS": "https://x,https://y, https://x:443",
    }

    by_environment = resolve({}, environ, home).settings
    by_line = from_line(home, "--backend=c,d=ws://h:3", "--backend=e=ws://h:4", environ=environ)

    assert [backend.name for backend in by_environment.backends] == ["a", "b"]
    assert by_environment.allowed_origins == ("https://x", "https://y")
    assert [backend.name for backend in by_line.settings.backends] == ["c,d", "e"]


def test_rust_log_counts_below_our_own_variable(home: Path) -> None:
    """Its plain level counts if there is one, and it is never a fault."""
    ours = resolve({}, {"REGISTRY_LOG": "error", "RUST_LOG": "debug"}, home)
    theirs = resolve({}, {"RUST_LOG": "plexus=debug,warn"}, home)
    neither = resolve({}, {"RUST_LOG": "plexus=debug,???"}, home)

    assert (ours.settings.log_level, ours.origins["log_level"]) == ("error", "$REGISTRY_LOG")
    assert (theirs.settings.log_level, theirs.origins["log_level"]) == ("warning", "$RUST_LOG")
    assert (neither.settings.log_level, neither.origins["log_level"]) == ("info", "default")


def test_all_faults_of_all_places_are_reported(home: Path) -> None:
    """One start is enough to find everything that has to be mended."""
    settings_file(home, "port = 1\nmax_conections = 5\n\nlog_level = 'loud'\nbackends = ['a', 3]\n")

    faults = faults_of(
        home,
        {"host": "a b", "config": ""},
        {"REGISTRY_PORT": "x", "REGISTRY_ALLOWED_ORIGINS": "*,https://x,null"},
    )

    assert [fault.split(": ")[0] for fault in faults] == [
        "~/.config/plexus/registry.toml:2",
        "~/.config/plexus/registry.toml:4",
        "~/.config/plexus/registry.toml:5",
        "~/.config/plexus/registry.toml:5",
        "--host",
        "$REGISTRY_PORT",
        "--config",
        "$REGISTRY_ALLOWED_ORIGINS",
        "$REGISTRY_ALLOWED_ORIGINS",
    ]
    assert 'unknown key "max_conections", did you mean max_connections?' in faults[0]


def test_faults_of_a_file_are_in_the_order_of_its_lines(home: Path) -> None:
    """By number, whatever found them: line 10 comes after line 9."""
    settings_file(home, "odd = 1\n" + "#\n" * 7 + "port = 'x'\nodd2 = 1\nhost = 'a b'\n")

    faults = faults_of(home, {})

    assert [fault.split(": ")[0] for fault in faults] == [
        f"~/.config/plexus/registry.toml:{line}" for line in (1, 9, 10, 11)
    ]


def test_backend_that_is_declared_twice_is_a_fault(home: Path) -> None:
    """Which of the two was meant cannot be known."""
    faults = faults_of(home, {}, {"REGISTRY_BACKENDS": "a=ws://h:1,a=ws://h:2"})

    assert faults == ['$REGISTRY_BACKENDS: backends: "a" is declared twice']


def test_text_instead_of_a_list_in_the_file_is_a_fault(home: Path) -> None:
    """Commas separate in the environment only."""
    settings_file(home, "backends = 'a=ws://h:1'")

    assert faults_of(home, {}) == [
        '~/.config/plexus/registry.toml:1: backends: "a=ws://h:1" is not accepted,'
        " expected a list of strings"
    ]


def test_missing_settings_file_is_a_fault_only_if_it_was_named(home: Path) -> None:
    """The default file need not be there; a file that somebody names must."""
    assert not resolve({}, {}, home).file_exists
    assert faults_of(home, {"settings": "/nowhere/r.toml"}) == [
        "--settings: there is no settings file /nowhere/r.toml"
    ]
    assert faults_of(home, {}, {"REGISTRY_SETTINGS": "~/r.toml"}) == [
        "$REGISTRY_SETTINGS: there is no settings file ~/r.toml"
    ]


def test_broken_settings_file_does_not_hide_other_faults(home: Path) -> None:
    """The rest is checked as if the file were not there."""
    settings_file(home, "port = \n")

    faults = faults_of(home, {"port": "x"})

    assert [fault.split(": ")[0] for fault in faults] == [
        "~/.config/plexus/registry.toml:1",
        "--port",
    ]


def test_config_path_is_found_beside_faults_of_other_settings(home: Path) -> None:
    """A faulty port is no reason not to check the declared backends; a faulty path is."""
    settings_file(home, "port = 'x'\nconfig = 'b.toml'\n")

    assert config_path({"host": "a b"}, {}, home) == home / ".config/plexus/b.toml"
    assert config_path({"config": ""}, {}, home) is None


def test_relative_paths_in_the_file_are_relative_to_it(home: Path, tmp_path: Path) -> None:
    """Wherever the program is started, the file means the same; a tilde is the home."""
    path = tmp_path / "elsewhere" / "r.toml"
    path.parent.mkdir()
    path.write_text("database = 'r.db'\nconfig = '~/b.toml'\n")

    found = resolve({"settings": str(path)}, {}, home).settings

    assert found.database == path.parent / "r.db"
    assert found.config == home / "b.toml"


def test_relative_paths_elsewhere_are_relative_to_the_working_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made absolute, so that a later change of directory changes nothing."""
    monkeypatch.chdir(home)

    found = resolve({"database": "r.db"}, {"REGISTRY_CONFIG": "b.toml"}, Path("/elsewhere"))

    assert found.settings.database == home / "r.db"
    assert found.settings.config == home / "b.toml"


def test_systemd_directories_are_the_defaults(home: Path) -> None:
    """The first of several is taken, whatever the home has."""
    (home / ".config" / "plexus" / "registry.db").touch()
    environ = {
        "CONFIGURATION_DIRECTORY": "/etc/plexus:/etc/other",
        "STATE_DIRECTORY": "/var/lib/plexus-registry:/var/lib/other",
    }

    found = resolve({}, environ, home)

    assert found.file == Path("/etc/plexus/registry.toml")
    assert found.settings.config == Path("/etc/plexus/backends.toml")
    assert found.settings.database == Path("/var/lib/plexus-registry/registry.db")


def test_systemd_directories_count_if_absolute(home: Path) -> None:
    """With a relative one the place of the database would depend on the daemon's folder."""
    relative = {"CONFIGURATION_DIRECTORY": "c:/etc/plexus", "STATE_DIRECTORY": "./s"}

    assert resolve({}, relative, home).settings == resolve({}, {}, home).settings


def test_xdg_directories_count_if_absolute(home: Path) -> None:
    """The specification has relative ones ignored."""
    absolute = {"XDG_CONFIG_HOME": "/xc", "XDG_STATE_HOME": "/xs"}
    relative = {"XDG_CONFIG_HOME": "xc", "XDG_STATE_HOME": "./xs"}

    found = resolve({}, absolute, home)

    assert found.file == Path("/xc/plexus/registry.toml")
    assert found.settings.config == Path("/xc/plexus/backends.toml")
    assert found.settings.database == Path("/xs/plexus-registry/registry.db")
    assert resolve({}, relative, home).settings == resolve({}, {}, home).settings


def test_tokens_are_a_credential_if_systemd_passes_one(home: Path) -> None:
    """Else they are beside the other files; other credentials do not matter."""
    environ = {"CREDENTIALS_DIRECTORY": str(home), "CONFIGURATION_DIRECTORY": "/etc/plexus"}
    assert resolve({}, environ, home).settings.token_file == Path("/etc/plexus/tokens")
    (home / "tokens").touch()
    assert resolve({}, environ, home).settings.token_file == home / "tokens"


@pytest.mark.parametrize("directory", [".config", "xdg"])
def test_database_of_the_rust_program_is_kept(home: Path, directory: str) -> None:
    """Where its file is, the database stays, also under $XDG_CONFIG_HOME."""
    database = home / directory / "plexus" / "registry.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    database.touch()
    environ = {} if directory == ".config" else {"XDG_CONFIG_HOME": str(home / directory)}

    assert resolve({}, environ, home).settings.database == database


def test_help_names_every_option_variable_and_default(home: Path) -> None:
    """The help text comes from the table."""
    parser = argparse.ArgumentParser(prog="p")
    add_options(parser)

    text = " ".join(parser.format_help().split())

    for setting in SETTINGS:
        assert setting.help in text
        assert all(option in text for option in setting.options)
        assert f"[${setting.variable}]" in text
    assert "(default: plexus=ws://127.0.0.1:4444)" in text
