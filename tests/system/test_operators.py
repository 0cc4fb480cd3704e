# SPDX-License-Identifier: AGPL-3.0-only
"""README's part for operators, typed into a machine line by line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from system.machine import Boot
from system.packages import ROOT, Packages
from system.registry import SOCKET, STATE, UNIX, Figure, Registry

HEADING = "## As a system service"


def commands() -> list[str]:
    """Return every command of the part, in order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [re.sub(r" {2,}", " ", line) for line in joined.splitlines() if line.strip()]


def test_readme_for_operators_works_as_typed(
    base: Path, boot: Boot, packages: Packages, figure: Figure
) -> None:
    """Install, declare, reload, read logs, open, back up, restore, upgrade, remove, purge."""
    with boot(base) as machine:
        registry = Registry(machine)
        machine.sh(f"mkdir /srv/newer && mv /srv/{packages.new.name} /srv/newer").check()

        def is_declared() -> None:
            assert registry.port_of("prod") == 4444

        def is_open() -> None:
            listening = machine.run("cat", "/proc/net/tcp6").stdout
            anywhere = f"{'0' * 32}:{4445:04X}"
            assert anywhere in listening
            assert registry.is_active(SOCKET)
            registry.ask("list", url=UNIX)
            registry.register("before-backup")

        def is_backed_up() -> None:
            registry.register("after-backup")

        def is_restored() -> None:
            assert registry.port_of("before-backup") == 4444
            assert registry.port_of("after-backup") is None
            machine.sh("rm /srv/*.deb && mv /srv/newer/*.deb /srv").check()
            checks["apt install"] = is_upgraded

        def is_upgraded() -> None:
            version = machine.run("dpkg-query", "-Wf${Version}", "plexus-registry").check().stdout
            assert f"_{version}_" in packages.new.name
            assert registry.port_of("before-backup") == 4444

        def is_kept() -> None:
            assert (machine.root / STATE.lstrip("/") / "registry.db").exists()

        def is_purged() -> None:
            assert not (machine.root / STATE.lstrip("/")).exists()
            # What the operator put there stays, as dpkg has it.
            left = sorted(path.name for path in (machine.root / "etc/plexus").rglob("*"))
            assert left == ["backends.d", "prod.toml", "tokens"]

        def is_at_hand() -> None:
            # The README names it in a sentence.
            client = "python3 -m websockets ws://127.0.0.1:4445"
            assert f"`{client}`" in (ROOT / "README.md").read_text(encoding="utf-8")
            asked = '{"jsonrpc":"2.0","id":1,"method":"_info"}\n'
            talk = machine.run("sh", "-c", f"(cat; sleep 1) | {client}", stdin=asked).check()
            assert '"backend":"registry-hub"' in talk.stdout, talk

        checks: dict[str, Callable[[], None]] = {
            "systemctl status plexus-registry": is_at_hand,
            "systemctl reload plexus-registry": is_declared,
            "systemctl restart plexus-registry.socket": is_open,
            "plexus-registryctl backup": is_backed_up,
            "systemctl start plexus-registry.socket plexus-registry.service": is_restored,
            "apt remove": is_kept,
            "apt purge": is_purged,
        }
        typed = commands()
        for command in typed:
            # The operator agrees to what apt proposes.
            done = machine.run("sh", "-c", f"cd /srv && {command}", stdin="y\n", timeout_s=120)
            assert done.status == 0, done
            for beginning in [key for key in checks if command.startswith(key)]:
                checks.pop(beginning)()
        assert checks == {}
        figure("commands typed", len(typed))
