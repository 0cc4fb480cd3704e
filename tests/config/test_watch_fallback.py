# SPDX-License-Identifier: AGPL-3.0-only
"""The watch where inotify cannot be had: in child processes whose limits are really reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.timing import TIMEOUT_S

CHILD = """
import asyncio, logging, os, resource, sys
from pathlib import Path
from plexus_registry.config.watch import Watch

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
PATH = Path(sys.argv[1])

class Limit:
    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open("/", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, self.before[1]))
    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)

async def main():
    changed = asyncio.Event()
    watch = Watch(PATH, lambda cause: changed.set(), loop=asyncio.get_running_loop(),
                  debounce_s=0.05, poll_interval_s=0.1)
    before = open_files()
    await scenario(watch, changed)
    watch.stop()
    assert not watch.is_polling
    assert open_files() == before

def open_files():
    links = (Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    found = [os.readlink(link) for link in links if link.is_symlink()]
    # ctypes, which pyinotify imports, may keep its library open.
    return sorted(path for path in found if "/libffi." not in path and not path.endswith("/fd"))

async def wait(changed):
    await asyncio.wait_for(changed.wait(), {timeout})
    changed.clear()
""".replace("{timeout}", str(TIMEOUT_S))

NO_DESCRIPTOR = """
async def scenario(watch, changed):
    with Limit():
        watch.start()
        assert watch.is_polling
        await wait(changed)
        await wait(changed)
        assert watch.is_polling
    while watch.is_polling:
        await wait(changed)
    PATH.write_text("1")
    await wait(changed)

asyncio.run(main())
"""

NO_PYINOTIFY = """
async def scenario(watch, changed):
    sys.modules["pyinotify"] = None
    watch.start()
    assert watch.is_polling
    await wait(changed)
    del sys.modules["pyinotify"]
    while watch.is_polling:
        await wait(changed)

asyncio.run(main())
"""

NO_WATCHES = """
async def scenario(watch, changed):
    limit = Path("/proc/sys/user/max_inotify_watches")
    allowed = limit.read_text()
    limit.write_text("0")
    watch.start()
    assert watch.is_polling
    await wait(changed)
    limit.write_text(allowed)
    while watch.is_polling:
        await wait(changed)

asyncio.run(main())
"""

TOO_LATE = """
async def scenario(watch, changed):
    watch.start()
    assert not watch.is_polling
    Path("/proc/sys/user/max_inotify_watches").write_text("1")
    (PATH.parent / "backends.d").mkdir()
    PATH.write_text("1")
    await wait(changed)
    assert watch.is_polling
    await wait(changed)

asyncio.run(main())
"""

UNSHARE = ["unshare", "--user", "--map-root-user"]


def has_user_namespaces() -> bool:
    """Tell whether limits of a user namespace can be set here."""
    probe = "echo 1000 > /proc/sys/user/max_inotify_watches"
    try:
        child = subprocess.run([*UNSHARE, "sh", "-c", probe], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return child.returncode == 0


needs_user_namespaces = pytest.mark.skipif(
    not has_user_namespaces(), reason="there are no user namespaces here"
)


def output_of(path: Path, scenario: str, *prefix: str) -> list[str]:
    """Run *scenario* in a child process and return what it logged."""
    path.touch()
    child = subprocess.run(
        [*prefix, sys.executable, "-c", CHILD + scenario, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S * 2,
    )
    assert child.returncode == 0, child.stdout
    return child.stdout.splitlines()


def test_no_descriptor_left_falls_back_to_polling(tmp_path: Path) -> None:
    """It is said once, polled, and said again when inotify is back."""
    path = tmp_path / "backends.toml"

    warning, back = output_of(path, NO_DESCRIPTOR)

    assert warning.startswith(
        f"WARNING cannot watch declared backends, reading them every 0.1 s path={path} reason="
    )
    assert back == f"INFO watching declared backends with inotify again path={path}"


def test_no_pyinotify_falls_back_to_polling(tmp_path: Path) -> None:
    """A system without the library is served by the poll."""
    path = tmp_path / "backends.toml"

    warning, back = output_of(path, NO_PYINOTIFY)

    assert "pyinotify" in warning
    assert back.startswith("INFO watching declared backends with inotify again")


@needs_user_namespaces
def test_no_watches_left_falls_back_to_polling(tmp_path: Path) -> None:
    """The warning names the kernel's limit that has to be raised."""
    path = tmp_path / "backends.toml"

    warning, back = output_of(path, NO_WATCHES, *UNSHARE)

    assert "(ENOSPC): raise fs.inotify.max_user_watches" in warning
    assert back.startswith("INFO watching declared backends with inotify again")


@needs_user_namespaces
def test_limit_reached_while_watching_falls_back_to_polling(tmp_path: Path) -> None:
    """A watch that cannot be added later ends inotify, and no change is lost."""
    (warning,) = output_of(tmp_path / "backends.toml", TOO_LATE, *UNSHARE)

    assert warning.startswith("WARNING cannot watch declared backends")
