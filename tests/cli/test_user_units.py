# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registry --install-user-units``: what a user's systemd is given to run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from plexus_registry.cli import units
from support.daemon import BOUND_BY_MODES, environment, run
from support.timing import TIMEOUT_S

NAMES = ("plexus-registry.service", "plexus-registry.socket")
SCRIPT = "import sys\nfrom plexus_registry.cli.{} import main\nsys.exit(main())\n"

Ended = subprocess.CompletedProcess[str]


def programs(folder: Path) -> Path:
    """Make programs as pip makes them; return the daemon's."""
    folder.mkdir(parents=True)
    for name, module in (("plexus-registry", "daemon"), ("plexus-registryctl", "control")):
        (folder / name).write_text(f"#!{sys.executable}\n{SCRIPT.format(module)}")
        (folder / name).chmod(0o755)
    return folder / "plexus-registry"


def install(home: Path, program: Path | str, *arguments: str, **variables: str) -> Ended:
    """Run a program as the kernel would, by its path, whatever is in that."""
    return run(
        home,
        "--install-user-units",
        *arguments,
        environ=environment(home, **variables),
        program=(sys.executable, str(program)),
    )


def refused(ended: Ended, status: int = 73) -> list[str]:
    """Return the lines of a refusal, which is all that was printed."""
    assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
    lines = ended.stderr.splitlines()
    assert all(line.startswith("plexus-registry: ") for line in lines), lines
    return [line.removeprefix("plexus-registry: ") for line in lines]


def said(directory: Path, *outcomes: str) -> str:
    """Return what is printed when all is well."""
    lines = [f"{directory / name}: {what}" for name, what in zip(NAMES, outcomes, strict=True)]
    return "\n".join([*lines, "next:", *(f"    {command}" for command in units.NEXT), ""])


def commands(directory: Path) -> dict[str, str]:
    """Return what the service starts and reloads by."""
    text = (directory / "plexus-registry.service").read_text()
    return dict(re.findall(r"^(Exec\w+)=(.*)$", text, re.MULTILINE))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The daemon's program of an installation."""
    return programs(tmp_path / "venv" / "bin")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the units of the user belong; nothing is there."""
    return tmp_path / ".config" / "systemd" / "user"


# --- what is written ------------------------------------------------------------------------------


def test_units_are_written_once(tmp_path: Path, program: Path, directory: Path) -> None:
    """Both are new files that all can read; a second time they are what they should be."""
    ended = install(tmp_path, program)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == said(directory, "written", "written")

    assert sorted(path.name for path in directory.iterdir()) == sorted(NAMES)
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        first, licence = path.read_text().splitlines()[:2]
        assert first.startswith("# Written by plexus-registry --install-user-units")
        assert licence.startswith("# SPDX-License-Identifier: ")
        assert "/usr/bin" not in path.read_text()
    before = [path.stat().st_mtime_ns for path in directory.iterdir()]

    assert install(tmp_path, program).stdout == said(directory, "unchanged", "unchanged")
    assert [path.stat().st_mtime_ns for path in directory.iterdir()] == before


def test_units_start_and_reload_by_the_programs_installed(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """Both programs are those beside the one that ran, with the arguments of the project's unit."""
    install(tmp_path, program)
    found = commands(directory)
    assert set(found) == {"ExecStart", "ExecReload"}
    assert found["ExecStart"] == str(program)
    assert found["ExecReload"].startswith(f"{program}ctl --timeout ")
    assert found["ExecReload"].endswith(" --url unix:%t/plexus-registry/registry.sock reload")


def test_units_are_where_systemd_looks(tmp_path: Path, program: Path, directory: Path) -> None:
    """$XDG_CONFIG_HOME counts; one that is relative does not, as for systemd."""
    elsewhere = tmp_path / "elsewhere"
    ended = install(tmp_path, program, XDG_CONFIG_HOME=str(elsewhere))
    assert ended.stdout == said(elsewhere / "systemd" / "user", "written", "written")
    assert not directory.exists()

    ended = install(tmp_path, program, XDG_CONFIG_HOME="relative")
    assert ended.stdout == said(directory, "written", "written")


def test_links_to_the_programs_are_kept(tmp_path: Path, program: Path, directory: Path) -> None:
    """Links as pipx makes them survive what they lead to, and a relative path is made whole."""
    links = tmp_path / ".local" / "bin"
    links.mkdir(parents=True)
    for name in ("plexus-registry", "plexus-registryctl"):
        (links / name).symlink_to(program.parent / name)

    install(tmp_path, ".local/bin/plexus-registry")

    assert commands(directory)["ExecStart"] == f"{links}/plexus-registry"


def test_programs_of_a_module_are_those_beside_python(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """`python -m plexus_registry` means the programs of that Python's environment."""
    python = program.parent / "python"
    python.symlink_to(sys.executable)
    environ = environment(tmp_path, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    run(
        tmp_path,
        "--install-user-units",
        environ=environ,
        program=(str(python), "-m", "plexus_registry"),
    )
    assert commands(directory)["ExecStart"] == str(program)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "{}/plain/bin/plexus-registry"),
        ("with space", '"{}/with space/bin/plexus-registry"'),
        ("100%h", "{}/100%%h/bin/plexus-registry"),
        ("$HOME ${HOME} $$", '"{}/$HOME ${{HOME}} $$/bin/plexus-registry"'),
        ("größer;#", "{}/größer;#/bin/plexus-registry"),
    ],
)
def test_any_path_is_spelled_for_systemd(
    tmp_path: Path, directory: Path, name: str, shown: str
) -> None:
    """White space is quoted and % doubled; $ means nothing in a program's path, and stays."""
    program = programs(tmp_path / name / "bin")
    ended = install(tmp_path, program)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert commands(directory)["ExecStart"] == shown.format(tmp_path)

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    verified = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", *map(str, directory.iterdir())],
        env=environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    about_ours = [
        line
        for line in (verified.stdout + verified.stderr).splitlines()
        # Known to systemd 254 and later.
        if "plexus-registry" in line and not re.search("RestartSteps|RestartMaxDelaySec", line)
    ]
    assert (verified.returncode, about_ours) == (0, [])


# --- what is not written --------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [NAMES[:1], NAMES[1:], NAMES])
def test_other_content_is_replaced_by_force_only(
    tmp_path: Path, program: Path, directory: Path, changed: tuple[str, ...]
) -> None:
    """Each file in the way is told, and none is written, until somebody insists."""
    directory.mkdir(parents=True)
    for name in changed:
        (directory / name).write_text("[Unit]\n")

    assert refused(install(tmp_path, program)) == [
        f"{directory / name}: has another content and is left as it is, --force replaces it"
        for name in changed
    ]
    assert sorted(path.name for path in directory.iterdir()) == sorted(changed)
    assert {path.read_text() for path in directory.iterdir()} == {"[Unit]\n"}

    ended = install(tmp_path, program, "--force")
    assert ended.stdout == said(directory, "written", "written")
    assert install(tmp_path, program).stdout == said(directory, "unchanged", "unchanged")
    assert sorted(path.name for path in directory.iterdir()) == sorted(NAMES)


def test_unit_of_another_version_is_replaced_unless_somebody_changed_it(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """An upgrade needs no --force; a line that was added to what was written does."""
    assert install(tmp_path, program).returncode == 0
    service = directory / NAMES[0]
    former = service.read_text()
    mark, _, body = former.partition("\n")
    older = body.replace("WatchdogSec=30", "WatchdogSec=20")
    digest = hashlib.sha256(older.encode()).hexdigest()[:16]
    service.write_text(re.sub(r"\(\w+\)", f"({digest})", mark) + f"\n{older}")
    assert install(tmp_path, program).stdout == said(directory, "written", "unchanged")
    assert service.read_text() == former

    service.write_text(f"{former}# mine\n")
    assert refused(install(tmp_path, program)) == [
        f"{service}: has another content and is left as it is, --force replaces it"
    ]
    assert service.read_text() == f"{former}# mine\n"


def test_masked_unit_is_not_replaced(tmp_path: Path, program: Path, directory: Path) -> None:
    """What is no file stays, by force too: /dev/null as a mask, a link to nothing, a folder."""
    directory.mkdir(parents=True)
    service, socket = (directory / name for name in NAMES)
    service.symlink_to("/dev/null")
    for target in ("/dev/null", "nowhere"):
        socket.symlink_to(target)
        assert refused(install(tmp_path, program, "--force")) == [
            f"{path}: is no file; if it is masked: systemctl --user unmask {path.name}"
            for path in (service, socket)
        ]
        socket.unlink()
    service.unlink()
    socket.mkdir()
    (line,) = refused(install(tmp_path, program, "--force"))
    assert line == f"{socket}: is a directory, expected a file"
    assert list(directory.iterdir()) == [socket]


def test_unit_behind_a_link_is_replaced_where_it_is(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """A unit that is kept among somebody's own files stays a link to there."""
    directory.mkdir(parents=True)
    kept = tmp_path / "kept.service"
    kept.write_text("[Unit]\n")
    (directory / NAMES[0]).symlink_to(kept)
    assert install(tmp_path, program, "--force").returncode == 0
    assert (directory / NAMES[0]).readlink() == kept
    assert f"ExecStart={program}\n" in kept.read_text()


def test_package_that_has_the_units_is_told(tmp_path: Path, directory: Path) -> None:
    """Where a package put units beside its programs, there is nothing to write but to enable."""
    program = programs(tmp_path / "usr" / "bin")
    packaged = tmp_path / "usr/lib/systemd/user/plexus-registry.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("")
    for arguments in ([], ["--force"]):
        assert refused(install(tmp_path, program, *arguments)) == [
            f"{packaged}: was installed with the package: systemctl --user enable --now"
            " plexus-registry.socket plexus-registry.service"
        ]
    assert not directory.exists()


def test_programs_that_are_not_there_are_told(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """Without the program of `systemctl reload` there is no sound unit."""
    control = program.with_name("plexus-registryctl")
    expected = f"{control}: is no program: run the plexus-registry that pipx or pip installed"
    control.chmod(0o644)
    assert refused(install(tmp_path, program)) == [expected]
    control.unlink()
    assert refused(install(tmp_path, program)) == [expected]
    assert not directory.exists()


@pytest.mark.parametrize("name", ["it's", '"quoted"', "back\\slash", "new\nline", "\udcff"])
def test_path_that_systemd_cannot_start_is_told(tmp_path: Path, directory: Path, name: str) -> None:
    """However it is spelled, systemd refuses such a program, so the unit is not written."""
    program = programs(tmp_path / name / "bin")
    (line,) = refused(install(tmp_path, program))
    assert line.startswith(f"{str(program)!r}: systemd starts no program with a quote, a backslash")
    assert not directory.exists()


def test_directory_that_cannot_be_written_is_told(
    tmp_path: Path, program: Path, directory: Path
) -> None:
    """Neither a folder without permission nor a file in its place is a reason for a traceback."""
    bound = (*BOUND_BY_MODES[:3], sys.executable, str(program))
    directory.mkdir(parents=True)
    directory.chmod(0o555)
    ended = run(tmp_path, "--install-user-units", program=bound)
    assert refused(ended) == [f"{directory / NAMES[0]}: cannot be written: Permission denied"]

    directory.chmod(0o755)
    for name in NAMES:
        (directory / name).write_text("[Unit]\n")
    directory.chmod(0o555)
    ended = run(tmp_path, "--install-user-units", "--force", program=bound)
    assert refused(ended) == [f"{directory / NAMES[0]}: cannot be written: Permission denied"]
    assert {path.read_text() for path in directory.iterdir()} == {"[Unit]\n"}

    elsewhere = tmp_path / "file"
    elsewhere.write_text("")
    lines = refused(install(tmp_path, program, XDG_CONFIG_HOME=str(elsewhere)))
    assert lines == [
        f"{elsewhere}/systemd/user/{name}: cannot be read: Not a directory" for name in NAMES
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--force"], "--force goes with --install-user-units"),
        (
            ["--install-user-units", "--port", "4444"],
            "--install-user-units takes no settings: registry.toml is the place for them",
        ),
        (
            ["--install-user-units", "--settings", "x.toml"],
            "--install-user-units takes no settings: registry.toml is the place for them",
        ),
        (
            ["--install-user-units", "--check-config"],
            "argument --check-config: not allowed with argument --install-user-units",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_go_together_are_told(
    tmp_path: Path, directory: Path, arguments: list[str], message: str
) -> None:
    """What would have no effect is refused, with status 64."""
    assert refused(run(tmp_path, *arguments), 64) == [f"{message}; see plexus-registry --help"]
    assert not directory.exists()
