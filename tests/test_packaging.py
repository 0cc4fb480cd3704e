# SPDX-License-Identifier: AGPL-3.0-only
"""What is shipped beside the code agrees with the code: units, catalog, manual, packages."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import contents
from plexus_registry import messages
from plexus_registry.backend import DECLARED_FIELDS
from plexus_registry.cli import control, daemon
from plexus_registry.cli.exits import MEANINGS, Exit
from plexus_registry.client import address
from plexus_registry.config import settings_toml
from plexus_registry.config.settings import FILE_VARIABLE, SETTINGS, Settings, static_default

ROOT = Path(__file__).parents[1]
MAN = ROOT / "docs/man"
DEBIAN = ROOT / "debian"
PACKAGING = ROOT / "packaging"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

UNITS = sorted(path for kind in ("system", "user") for path in (ROOT / "systemd" / kind).iterdir())
AIDS = sorted(path for path in (PACKAGING / "test-aids").iterdir() if path.is_file())
SCRIPTS = (
    "packaging/sysv/plexus-registry",
    "packaging/openrc/plexus-registry",
    "debian/postrm",
    "debian/tests/booted",
    "debian/tests/cli",
    "debian/tests/suite",
    "packaging/suite",
    "packaging/test-aids/python",
)

# What a service that talks to anybody should not go without (systemd.exec(5)); what its unit
# relaxes is a comment there.
HARDENING = {
    "CapabilityBoundingSet": "",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "PrivateUsers": "yes",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}

Unit = dict[str, dict[str, list[str]]]


def unit(path: str) -> Unit:
    """Parse a unit of the folder systemd/: section, key, values in their order."""
    sections: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in (ROOT / "systemd" / path).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, separator, value = line.partition("=")
        assert separator, line
        assert section, line
        sections[section][key].append(value)
    return sections


def page(name: str) -> str:
    """Return the source of a manual page."""
    return (MAN / f"{name}.scd").read_text(encoding="utf-8")


def entries(name: str) -> str:
    """Return the lines of a manual page that name something which is explained below them."""
    lines = page(name).splitlines()
    return "\n".join(
        line
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if below.startswith("\t") and not line.startswith("\t")
    )


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["system", "user"])
def test_units_run_programs_that_are_installed(kind: str) -> None:
    """The unit starts and reloads with the programs of the package, where packages put them."""
    service = unit(f"{kind}/plexus-registry.service")["Service"]
    for command in (*service["ExecStart"], *service["ExecReload"]):
        folder, program = os.path.split(command.split()[0])
        assert folder == "/usr/bin"
        assert program in PYPROJECT["project"]["scripts"]


@pytest.mark.parametrize("kind", ["system", "user"])
def test_reload_goes_through_the_socket_of_the_unit(kind: str) -> None:
    """`systemctl reload` asks the daemon through the Unix socket that the socket unit makes."""
    (reload_command,) = unit(f"{kind}/plexus-registry.service")["Service"]["ExecReload"]
    _, *arguments = reload_command.split()
    context = control.command.make_context("plexus-registryctl", arguments)
    url = context.params["url"]
    assert url.startswith(address.UNIX_PREFIX)
    listens = unit(f"{kind}/plexus-registry.socket")["Socket"]["ListenStream"]
    assert url.removeprefix(address.UNIX_PREFIX) in listens
    (unix_socket,) = [stream for stream in listens if "/" in stream]
    assert Path(unix_socket.replace("%t", "/run")) == address._SYSTEM_SOCKET


@pytest.mark.parametrize("path", ["system", "user", "examples"])
def test_sockets_listen_on_the_default_port(path: str) -> None:
    """Socket units and the example for a LAN listen on the port that clients expect."""
    name = "lan.conf" if path == "examples" else "plexus-registry.socket"
    streams = unit(f"{path}/{name}")["Socket"]["ListenStream"]
    ports = {stream.rpartition(":")[2] for stream in streams if stream and "/" not in stream}
    assert ports == {str(Settings.__dataclass_fields__["port"].default)}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_documentation_of_units_exists(path: Path) -> None:
    """Each page that a unit names is in the manual."""
    (documentation,) = unit(f"{path.parent.name}/{path.name}")["Unit"]["Documentation"]
    for name, section in re.findall(r"man:([\w.-]+)\((\d)\)", documentation):
        assert (MAN / f"{name}.{section}.scd").is_file()


def test_service_is_confined() -> None:
    """The hardening of the system's service has not been loosened by accident."""
    service = unit("system/plexus-registry.service")["Service"]
    assert {key: " ".join(service[key]) for key in HARDENING if key in service} == HARDENING
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    (configuration,) = service["ConfigurationDirectory"]
    assert f"/etc/{configuration}" in service["ReadOnlyPaths"][0].split()


@pytest.mark.parametrize("kind", ["system", "user"])
def test_restarts_are_prevented_where_they_cannot_help(kind: str) -> None:
    """The statuses after which systemd does not try again are ours, a bad configuration first."""
    service = unit(f"{kind}/plexus-registry.service")["Service"]
    prevented = {Exit(int(status)) for status in service["RestartPreventExitStatus"][0].split()}
    assert prevented == {Exit.USAGE, Exit.DATA, Exit.CONFIG}


def test_service_may_open_a_descriptor_for_each_client() -> None:
    """The limit of open files has room for all the connections that are allowed by default."""
    (limit,) = unit("system/plexus-registry.service")["Service"]["LimitNOFILE"]
    (setting,) = [setting for setting in SETTINGS if setting.name == "max_connections"]
    assert int(limit) > int(static_default(setting)) + 1000


def test_account_is_that_of_the_service() -> None:
    """The sysusers file makes the user that the service runs as, at home in the service's state."""
    service = unit("system/plexus-registry.service")["Service"]
    text = (ROOT / "systemd/sysusers/plexus-registry.conf").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if not line.startswith("#")]
    kind, name, _, home = re.sub(r'"[^"]*"', "", line).split()
    assert kind == "u"  # older versions of systemd refuse "u!"
    assert [name] == service["User"]
    assert [home.removeprefix("/var/lib/")] == service["StateDirectory"]


# --- the manual -----------------------------------------------------------------------------------


def test_message_id_in_the_manual_is_that_of_failed_reloads() -> None:
    """The manual's example for `journalctl MESSAGE_ID=` finds what it says."""
    assert f"MESSAGE_ID={messages.RELOAD_FAILED} " in page("plexus-registry.8")


def test_every_option_of_the_daemon_is_in_its_page() -> None:
    """Each option of plexus-registry has an entry in plexus-registry(8)."""
    options = {option for action in daemon.parser()._actions for option in action.option_strings}
    assert {option for option in options if f"*{option}*" not in entries("plexus-registry.8")} == (
        set()
    )


def verbs(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each verb of a command with the words that lead to it, those below verbs too."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, *path, name)
        else:
            yield (*path, name), command


def spellings(command: click.Command) -> set[str]:
    """Return how the options of a command may be written, but for those that all have."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    return {word for one in options for word in (*one.opts, *one.secondary_opts)} - {"--version"}


VERBS = dict(verbs(control.command))


def test_every_option_of_the_control_command_is_in_its_page() -> None:
    """Those that stand before a verb have an entry in plexus-registryctl(1), and no others do."""
    explained = entries("plexus-registryctl.1").partition("*list*")[0]
    told = set(re.findall(r"\*(--[\w-]+)\*", explained)) - {"--help", "--version"}
    assert told == spellings(control.command)
    assert f"*{address.URL_VARIABLE}*" in entries("plexus-registryctl.1")


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_of_the_control_command_is_in_its_page(words: tuple[str, ...]) -> None:
    """Its synopsis in plexus-registryctl(1) has each of its options, each argument, no other."""
    command = VERBS[words]
    beginning = " ".join(f"*{word}*" for word in words)
    (synopsis,) = [
        line.removeprefix(beginning)
        for line in entries("plexus-registryctl.1").splitlines()
        if re.match(rf"{re.escape(beginning)}(?! \*\w)", line)
    ]
    assert set(re.findall(r"\*(--[\w-]+)\*", synopsis)) == spellings(command)
    outside = re.sub(r"\[\*--[^]]*\]", "", synopsis)
    shown = re.findall(r"_(\w+)_", outside)
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    names = [re.sub(r"\W", "", one.human_readable_name) for one in arguments]
    assert shown == names


def test_no_verb_is_in_the_page_that_is_none() -> None:
    """Each synopsis under VERBS is one of a verb that there is."""
    _, _, section = page("plexus-registryctl.1").partition("\n# VERBS\n")
    section, _, _ = section.partition("\n# ")
    found = re.findall(r"^((?:\*\w+\* ?)+)", section, re.MULTILINE)
    assert {tuple(re.findall(r"\w+", one)) for one in found} == VERBS.keys()


def test_every_exit_status_is_in_the_manual() -> None:
    """plexus-registry(8) lists each exit status with its meaning."""
    text = page("plexus-registry.8").partition("# EXIT STATUS")[2]
    explained = re.findall(r"^\*(\d+)\*\n\t([^.]*)\.", text, re.MULTILINE)
    assert {int(status): meaning.replace("\n\t", " ").lower() for status, meaning in explained} == {
        status.value: meaning.lower() for status, meaning in MEANINGS.items()
    }


def test_every_setting_is_in_the_manual() -> None:
    """Each setting has an entry with its default and all its spellings."""
    text, of_daemon = page("plexus-registry.toml.5"), page("plexus-registry.8")
    for setting in SETTINGS:
        (default,) = re.findall(
            rf"^#(?: for example: )?{setting.name} = (.*)$", settings_toml.example(), re.MULTILINE
        )
        _, heading, entry = text.partition(f"\n*{setting.name}* = {default}\n")
        assert heading, f"*{setting.name}* = {default}"
        entry = entry.partition("\n\n")[0]
        for spelling in (*setting.options, setting.variable):
            assert f"*{spelling}*" in entry
            assert f"*{spelling}*" in of_daemon
    assert f"*{FILE_VARIABLE}*" in text


def test_no_key_is_in_the_manual_that_is_no_setting() -> None:
    """plexus-registry.toml(5) has no entry for a setting that is gone."""
    keys = re.findall(r"^\*(\w+)\* = ", page("plexus-registry.toml.5"), re.MULTILINE)
    assert keys == [setting.name for setting in SETTINGS]


def test_every_key_of_declared_backends_is_in_the_manual() -> None:
    """backends.toml(5) has an entry for each key of a table, in their order, and no other."""
    keys = re.findall(r"^\*(\w+)\*$", entries("backends.toml.5"), re.MULTILINE)
    assert keys == list(DECLARED_FIELDS)


def test_pages_refer_to_pages_that_exist() -> None:
    """A page of ours that is referred to is there, under its name and section."""
    ours = {path.name.removesuffix(".scd") for path in MAN.iterdir()}
    for path in MAN.iterdir():
        text = path.read_text(encoding="utf-8")
        name, section = path.name.removesuffix(".scd").rsplit(".", 1)
        assert text.startswith(f"{name}({section})\n")
        for other, number in re.findall(r"\*((?:plexus|backends)[\w.-]*)\*\((\d)\)", text):
            assert f"{other}.{number}" in ours


# --- packages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", contents.formats())
def test_every_format_installs_what_there_is(format: str) -> None:
    """Units, sysusers file, catalog, manual, completions and examples are all in the list."""
    listed = {file.source for file in contents.of_format(format).files}
    shipped = ["systemd", "docs/man", "docs/examples"]
    shipped += [f"packaging/{name}" for name in ("completions", "openrc", "sysv")]
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in shipped
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    there |= {"README.md"} if format == "deb" else {"README.md", "CHANGELOG.md"}
    assert there - listed == set()
    assert {source for source in listed if source and not (ROOT / source).is_file()} == set()


def test_init_scripts_can_be_run_where_they_are_installed() -> None:
    """As they can where they come from."""
    for file in contents.of_format("deb").files:
        assert file.mode == (0o755 if "/openrc/" in file.to or "/sysv/" in file.to else 0o644)


@pytest.mark.parametrize("part", ["post", "preun", "postun"])
def test_rpm_tells_systemd_of_both_units(part: str) -> None:
    """Each scriptlet knows service and socket, the system's and a user's; the service restarts."""
    text = (PACKAGING / "rpm/plexus-registry.spec").read_text(encoding="utf-8")
    scriptlet = text.partition(f"\n%{part}\n")[2].partition("\n\n")[0]
    units = "plexus-registry.socket plexus-registry.service"
    if part == "postun":
        assert scriptlet.splitlines() == [
            "%systemd_postun plexus-registry.socket",
            "%systemd_postun_with_restart plexus-registry.service",
            "%systemd_user_postun_with_restart plexus-registry.service",
        ]
    else:
        assert scriptlet.splitlines() == [
            f"%systemd_{part} {units}",
            f"%systemd_user_{part} {units}",
        ]


@pytest.mark.parametrize("format", contents.formats())
def test_units_are_installed_under_their_names(format: str) -> None:
    """Each kind of unit is where systemd looks for it."""
    places = {file.source: file.to for file in contents.of_format(format).files}
    for path in UNITS:
        kind = path.parent.name
        assert places[f"systemd/{kind}/{path.name}"] == f"/usr/lib/systemd/{kind}/{path.name}"


def test_configuration_is_what_the_program_writes(tmp_path: Path) -> None:
    """The files of the list that come from nowhere are those of --write-default-config, all."""
    for format in contents.formats():
        destination = tmp_path / format
        contents._write_configuration(destination)
        written = {path.name for path in destination.iterdir()}
        files = contents.of_format(format).files
        assert written == {Path(file.to).name for file in files if file.source is None}


def test_arch_names_every_dependency_and_every_file_to_keep() -> None:
    """depends= has what the program needs, backup= what /etc holds."""
    text = (PACKAGING / "arch/PKGBUILD").read_text(encoding="utf-8")
    arrays = dict(re.findall(r"^(\w+)=\(([^)]*)\)$", text, re.MULTILINE))
    needed = {
        f"python-{re.split(r'[^a-z-]', requirement)[0].removeprefix('python-')}"
        for requirement in PYPROJECT["project"]["dependencies"]
    }
    assert {name.replace("_", "-") for name in arrays["depends"].split()} == {"python", *needed}
    kept = {file.to for file in contents.of_format("arch").files if file.source is None}
    assert {f"/{path}" for path in arrays["backup"].split()} == kept


@pytest.mark.parametrize("path", AIDS, ids=lambda path: path.name)
def test_test_aids_say_so(path: Path) -> None:
    """Nobody takes them for a part of a package."""
    assert "test aid" in "".join(path.read_text(encoding="utf-8").splitlines()[:6]).lower()


def test_debian_builds_with_every_dependency() -> None:
    """What the program needs is there when its tests run at build."""
    build_depends = (DEBIAN / "control").read_text(encoding="utf-8").partition("\n\n")[0]
    for requirement in PYPROJECT["project"]["dependencies"]:
        name = re.split(r"[^\w-]", requirement)[0]
        package = f"python3-{name.removeprefix('python-')}"
        # Debian's pyinotify depends on what Python itself no longer has.
        assert package in build_depends or package == "python3-pyasyncore"


def test_debian_copyright_holds_the_whole_licence() -> None:
    """Debian has no AGPL of its own to point to: debian/copyright has every line of it."""
    text = (DEBIAN / "copyright").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8").rstrip("\n").splitlines()
    lines = [f" {line.rstrip()}" if line.strip() else " ." for line in licence]
    assert "\n".join(lines) in text


@pytest.mark.parametrize("path", SCRIPTS)
def test_scripts_parse_and_can_be_run(path: str) -> None:
    """The shell accepts each script."""
    subprocess.run(["sh", "-n", str(ROOT / path)], check=True)
    assert path == "debian/postrm" or os.access(ROOT / path, os.X_OK)


@pytest.mark.parametrize("path", SCRIPTS[:2])
def test_init_scripts_use_the_paths_of_the_units(path: str) -> None:
    """Without systemd everything is where it is with it."""
    service = unit("system/plexus-registry.service")["Service"]
    text = (ROOT / path).read_text(encoding="utf-8")
    text = text.replace("$NAME", "plexus-registry").replace(
        "$RUN_DIRECTORY", "/run/plexus-registry"
    )
    assert f"/var/lib/{service['StateDirectory'][0]}" in text
    assert f"/etc/{service['ConfigurationDirectory'][0]}" in text
    assert "/run/plexus-registry/plexus-registry.pid" in text
    assert service["ExecStart"][0] in text
    options = {option for action in daemon.parser()._actions for option in action.option_strings}
    assert set(re.findall(r"--daemonize|--pid-file|--check-config", text)) <= options
