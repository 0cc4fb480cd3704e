# SPDX-License-Identifier: AGPL-3.0-only
"""The operator's guide, typed into a machine line by line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from support.certificates import Authority
from support.rust import make_rust_database
from system.command import Result
from system.machine import Boot, Machine
from system.packages import ROOT, Packages
from system.registry import UNIX, Figure, Registry

NAME = "registry.example.com"
LIVE = f"etc/letsencrypt/live/{NAME}"
OLD = "srv/old"


def blocks() -> list[str]:
    """Return the blocks of commands of the guide, in order."""
    guide = (ROOT / "docs/operators-guide.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)


def put_certificate(machine: Machine, folder: Path) -> None:
    """Put what certbot would have got where it would, and let the machine know name and issuer."""
    authority = Authority(folder)
    issued = authority.issue(hosts=[NAME])
    live = machine.root / LIVE
    live.mkdir(parents=True)
    (live / "fullchain.pem").write_bytes(issued.certificate.read_bytes())
    (live / "privkey.pem").write_bytes(issued.key.read_bytes())
    (live / "privkey.pem").chmod(0o600)
    (machine.root / "srv/ca.pem").write_bytes(authority.file.read_bytes())
    with (machine.root / "etc/hosts").open("a", encoding="ascii") as hosts:
        hosts.write(f"127.0.0.1 {NAME}\n")


def put_rust_files(machine: Machine) -> None:
    """Put what the Rust program of the same name leaves where the guide has its copy."""
    old = machine.root / OLD
    old.mkdir()
    make_rust_database(old / "registry.db")
    (old / "backends.toml").write_text(
        '[[backend]]\nname = "declared-there"\nhost = "127.0.0.1"\nport = 4447\n', encoding="utf-8"
    )


def test_operators_guide_works_as_typed(
    base: Path, boot: Boot, packages: Packages, figure: Figure, tmp_path: Path
) -> None:
    """Each block of the guide ends with 0 and leaves the machine as the text says."""
    with boot(base) as machine:
        registry = Registry(machine)
        machine.sh(f"mkdir /srv/newer && mv /srv/{packages.new.name} /srv/newer").check()
        put_certificate(machine, tmp_path)
        put_rust_files(machine)

        def shows(*texts: str) -> Callable[[Result], None]:
            def check(done: Result) -> None:
                for text in texts:
                    assert text in done.stdout, done

            return check

        def is_declared(done: Result) -> None:
            assert done.stdout.endswith("wss://plexus.example.com:4444\n"), done

        def is_gone_again(done: Result) -> None:
            assert registry.port_of("dev") is None

        def is_configured(done: Result) -> None:
            assert registry.show("ActiveState") == "active"
            assert "debug" in machine.sh("plexus-registry --system --print-config").stdout

        def is_open(done: Result) -> None:
            listening = machine.run("cat", "/proc/net/tcp6").stdout
            assert f"{'0' * 32}:{4445:04X}" in listening
            registry.ask("list", url=UNIX)

        def is_backed_up(done: Result) -> None:
            registry.ask("register", url=UNIX, name="after-backup", host="127.0.0.1", port=1)

        def is_restored(done: Result) -> None:
            assert registry.ask("get", url=UNIX, name="after-backup")["backend"] is None
            machine.sh("rm /srv/*.deb && mv /srv/newer/*.deb /srv").check()
            checks["apt install"] = is_upgraded

        def is_upgraded(done: Result) -> None:
            version = machine.run("dpkg-query", "-Wf${Version}", "plexus-registry").check().stdout
            assert f"_{version}_" in packages.new.name
            registry.ask("list", url=UNIX)

        checks: dict[str, Callable[[Result], None]] = {
            "plexus-registryctl status": shows("127.0.0.1"),
            "cat >/etc/plexus/backends.d/prod.toml": is_declared,
            "plexus-registryctl register dev": is_gone_again,
            "plexus-registryctl export": shows("unchanged"),
            "plexus-registry --system --print-config": shows("database = "),
            "cat >/etc/plexus/registry.toml": is_configured,
            "journalctl": shows("prod"),
            "curl": shows("# TYPE plexus_registry_"),
            "mkdir -p /etc/systemd/system/plexus-registry.socket.d": is_open,
            "plexus-registryctl token new laptop": shows("plexus_", "removed"),
            "plexus-registryctl --url wss://": shows("wss://"),
            "plexus-registryctl backup": is_backed_up,
            "systemctl stop plexus-registry.socket plexus-registry.service\nrm": is_restored,
        }
        typed = blocks()
        for block in typed:
            if OLD in block:
                checks[block] = shows("zeta", "declared-there")
            # The operator agrees to what apt proposes.
            done = machine.run(
                *("bash", "-ec", f"cd /srv\n{block}"),
                stdin="y\n",
                timeout_s=120,
                environ={"SSL_CERT_FILE": "/srv/ca.pem"},
            )
            assert done.status == 0, done
            for beginning in [key for key in checks if block.startswith(key)]:
                checks.pop(beginning)(done)
        assert checks == {}
        figure("blocks of the guide typed", len(typed))


def test_shells_complete_verbs_options_and_names_of_backends(
    installed: list[Path], boot: Boot
) -> None:
    """In bash, fish and zsh of the machine, Tab knows the verbs and, live, the backends."""
    with boot(*installed) as machine:
        registry = Registry(machine)
        for name in ("prod-east", "prod-west", "stage"):
            registry.register(name)
        assert in_bash(machine, "plexus-registryctl dereg") == ["deregister"]
        assert in_bash(machine, "plexus-registryctl get prod-") == ["prod-east", "prod-west"]
        assert "--timeout" in in_bash(machine, "plexus-registryctl --ti")
        offered = machine.run("fish", "-c", "complete -C 'plexus-registryctl get prod-'").check()
        assert [line.split()[0] for line in offered.stdout.splitlines()] == [
            *("prod-east", "prod-west")
        ]
        zsh = machine.run("zsh", "-f", "-c", ZSH, "plexus-registryctl url sta", timeout_s=60)
        assert "ws://127.0.0.1:4444" in zsh.stdout, zsh
        registry.systemctl("stop", "plexus-registry.socket", "plexus-registry.service").check()
        assert in_bash(machine, "plexus-registryctl get prod-") == []


def test_doctor_finds_what_the_service_may_not_read(installed: list[Path], boot: Boot) -> None:
    """A file that root alone may read is told, and the remedy mends it."""
    with boot(*installed) as machine:
        assert machine.run("plexus-registryctl", "doctor").status == 0
        machine.sh("umask 077; printf '# none\\n' >/etc/plexus/backends.d/mine.toml").check()
        found = machine.run("plexus-registryctl", "doctor")
        assert found.status == 1
        (line,) = [line for line in found.stdout.splitlines() if "cannot read" in line]
        assert "/etc/plexus/backends.d/mine.toml" in line
        machine.sh(line.rpartition("; ")[2]).check()
        machine.run("plexus-registryctl", "reload").check()
        assert machine.run("plexus-registryctl", "doctor").status == 0


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; autoload -U compinit; compinit -u -D; echo be""gun'
until [[ $seen == *begun* ]]; do zpty -r shell line && seen+=$line; done
zpty -w shell "$0"$'\t'
until [[ $seen == *ws://* ]]; do zpty -r shell line && seen+=$line; done
print -r -- "$seen"
"""
"""Types $0 and Tab and Enter into an interactive zsh, and waits for what the command prints."""


def in_bash(machine: Machine, line: str) -> list[str]:
    """Return what bash offers where the line ends, as its Tab key would."""
    words = line.split(" ")
    script = f"""
        . /usr/share/bash-completion/bash_completion
        _comp_load plexus-registryctl
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9 COMP_KEY=9
        _plexus_registryctl plexus-registryctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = machine.run("bash", "-c", script).check()
    assert not done.stderr, done
    return sorted(done.stdout.split())
