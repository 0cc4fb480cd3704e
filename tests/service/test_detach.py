# SPDX-License-Identifier: AGPL-3.0-only
"""A daemon of the old style: what is told before it detaches, what it is then, its PID file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plexus_registry.errors import AlreadyRunning
from plexus_registry.service.detach import PidFile
from support.conversation import conversation
from support.daemon import daemon, environment
from support.timing import TIMEOUT_S, wait_until

_PROGRAM = """
import sys
from plexus_registry.service import log
log.configure_syslog.__defaults__ = (sys.argv.pop(1),)
from plexus_registry.cli.daemon import main
sys.exit(main())
"""


class Host:
    """A host with a syslog, where daemons are started as an init script does it.

    Attributes:
        home: Where they are started, and $HOME.
        pid_file: In that folder.
    """

    def __init__(self, home: Path, syslog: socket.socket) -> None:
        self.home = home
        self.pid_file = home / "pid"
        self.syslog_address = str(syslog.getsockname())
        self._syslog = syslog

    def start(
        self,
        *arguments: str,
        environ: dict[str, str] | None = None,
        closed: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the starting process to its end; *closed* are descriptors it does not get."""
        self.forget_log()
        closing = " ".join(f"{number}>&-" for number in closed)
        return subprocess.run(
            [
                *("sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", _PROGRAM),
                *(self.syslog_address, "--daemonize", *arguments),
            ],
            env=environ or environment(self.home),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def forget_log(self) -> None:
        """Drop what syslog got so far."""
        self._syslog.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self._syslog.recv(65536):
                pass

    def logged(self, text: str) -> str:
        """Return the next line of syslog that holds *text*."""
        self._syslog.settimeout(TIMEOUT_S)
        while True:
            line = self._syslog.recv(65536).rstrip(b"\0").decode()
            if text in line:
                return line

    def kill_all(self) -> set[int]:
        """End by force what was started here and still runs."""
        left = processes_with(f"HOME={self.home}")
        for pid in left:
            kill(pid)
        return left

    @property
    def pid(self) -> int:
        """What the PID file says."""
        return int(self.pid_file.read_text())

    @contextlib.contextmanager
    def running(self, *arguments: str, closed: Sequence[int] = ()) -> Iterator[str]:
        """Start a daemon with the PID file on a free port; give its URL; end it afterwards."""
        ended = self.start("--pid-file", "pid", "--port", "0", *arguments, closed=closed)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        pid = self.pid
        try:
            listening = re.search(r"address=(\S+)", self.logged(" listening address="))
            assert listening is not None
            yield f"ws://{listening[1]}"
        finally:
            kill(pid)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and only waited for by init does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    """End a process by force, if it still runs, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), f"the end of {pid}")


def stop(pid: int) -> None:
    """End a process as an init script does and wait for its end."""
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), f"the end of {pid}")


def processes_with(variable: str) -> set[int]:
    """Return the processes that have this in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with a syslog."""
    with (
        tempfile.TemporaryDirectory(prefix="plexus-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
    ):
        syslog.bind(f"{folder}/log")
        host = Host(tmp_path, syslog)
        yield host
        left = host.kill_all()
        assert not left, f"processes left behind: {left}"


# --- what the daemon is ---------------------------------------------------------------------------


def test_starting_process_returns_when_the_daemon_serves(host: Host) -> None:
    """At once after status 0 a client is answered."""
    with host.running() as url, conversation(url) as client:
        client.expect_silence()


def test_daemon_is_detached_from_everything(host: Host) -> None:
    """Own session, no terminal, cwd /, umask 027, standard streams to /dev/null, one process."""
    with host.running():
        pid = host.pid
        proc = Path(f"/proc/{pid}")
        session = os.getsid(pid)
        tty = proc.joinpath("stat").read_text().rpartition(")")[2].split()[4]
        status = proc.joinpath("status").read_text()
        streams = [os.readlink(proc / "fd" / str(number)) for number in range(3)]
        places = [os.readlink(one) for one in (proc / "fd").iterdir()]

        assert session not in (pid, os.getsid(0))  # not its leader: can get no terminal
        assert tty == "0"
        assert os.readlink(proc / "cwd") == "/"
        assert "\nUmask:\t0027\n" in status
        assert streams == ["/dev/null"] * 3
        assert not [place for place in places if place.startswith("pipe:")]
        assert processes_with(f"HOME={host.home}") == {pid}
        assert host.pid_file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_closed_standard_streams_do_no_harm(host: Host, closed: tuple[int, ...]) -> None:
    """Whoever starts it may have closed them: they do not get mixed up with its files."""
    with host.running(closed=closed) as url, conversation(url) as client:
        client.expect_silence()
        proc = Path(f"/proc/{host.pid}/fd")
        assert [os.readlink(proc / str(number)) for number in range(3)] == ["/dev/null"] * 3
        assert host.start("--pid-file", "pid", "--port", "0").returncode == 75


def test_log_goes_to_syslog(host: Host) -> None:
    """With the daemon's own process ID."""
    with host.running():
        stop(host.pid)
        assert re.fullmatch(r"<30>plexus-registry\[\d+\]: stopped", host.logged("stopped"))


def test_relative_paths_start_where_it_was_started(host: Host) -> None:
    """Not in the root folder, into which the daemon moves."""
    environ = environment(host.home, REGISTRY_CONFIG="declared.toml")
    (host.home / "declared.toml").write_text('[[backend]]\nname = "a"\nhost = "h"\nport = 1\n')
    ended = host.start(*("--pid-file", "pid", "--port", "0", "--db-path", "x.db"), environ=environ)
    try:
        assert (ended.returncode, ended.stderr) == (0, "")
        line = host.logged(" listening ")
        assert line.endswith(f"entries=2 database={host.home / 'x.db'}")
        assert (host.home / "x.db").exists()
    finally:
        host.kill_all()


def test_host_without_syslog_is_a_warning(host: Host, tmp_path: Path) -> None:
    """The daemon starts; the terminal says that there will be no log."""
    host.syslog_address = str(tmp_path / "nobody")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended = host.start("--pid-file", "pid", "--port", str(port))
    try:
        assert (ended.returncode, ended.stderr) == (
            0,
            "plexus-registry: there is no log, for syslog does not answer at"
            f" {host.syslog_address}\n",
        )
        with conversation(f"ws://127.0.0.1:{port}") as client:
            client.expect_silence()
    finally:
        host.kill_all()


# --- signals --------------------------------------------------------------------------------------


def test_sighup_reloads(host: Host) -> None:
    """As an init script's `reload` does it."""
    with host.running():
        os.kill(host.pid, signal.SIGHUP)
        assert "peer=SIGHUP" in host.logged("declared backends applied")


def test_sigterm_stops_and_removes_the_pid_file(host: Host) -> None:
    """Nothing is left that says it runs, and the next one starts."""
    for _ in range(2):
        with host.running():
            stop(host.pid)
            assert not host.pid_file.exists()


def test_stale_pid_file_is_no_obstacle(host: Host) -> None:
    """SIGKILL leaves the file; whose lock is gone counts for nothing."""
    with host.running():
        killed = host.pid
        kill(killed)
        assert host.pid == killed
    with host.running() as url, conversation(url) as client:
        assert host.pid != killed
        client.expect_silence()


# --- refusals -------------------------------------------------------------------------------------


def refusal(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the only line of a refusal, without the program's name."""
    assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("plexus-registry: ")
    return line.removeprefix("plexus-registry: ")


def test_bad_setting_is_told_on_the_terminal(host: Host) -> None:
    """Before anything is detached."""
    line = refusal(host.start("--pid-file", "pid", "--port", "x"), 64)
    assert line.startswith('--port: port: "x" is not accepted')
    assert not host.pid_file.exists()


def test_every_fault_of_a_file_is_told_on_the_terminal(host: Host) -> None:
    """What only the daemon finds out comes back to who started it; the PID file goes."""
    config = host.home / "declared.toml"
    config.write_text('[[backend]]\nname = "a"\nhost = "h"\nport = 0\n[[backend]]\nname = "b"\n')
    ended = host.start("--pid-file", "pid", "--port", "0", "--config", str(config))

    assert (ended.returncode, ended.stdout) == (78, "")
    lines = ended.stderr.splitlines()
    assert len(lines) > 1
    assert all(line.startswith(f"plexus-registry: {config}:") for line in lines)
    wait_until(lambda: not host.pid_file.exists(), "the PID file to go")


def test_taken_port_is_told_on_the_terminal(host: Host) -> None:
    """With status 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(host.start("--pid-file", "pid", "--port", str(port)), 69)
    assert line.startswith(f"cannot listen on 127.0.0.1:{port}: the port is taken")
    wait_until(lambda: not host.pid_file.exists(), "the PID file to go")


def test_database_in_use_is_told_on_the_terminal(host: Host) -> None:
    """With status 75 and the process that has it."""
    database = host.home / "x.db"
    with daemon(host.home, ["--db-path", str(database)]) as running:
        assert running.url
        line = refusal(host.start("--port", "0", "--db-path", str(database)), 75)
        assert line.startswith(f"database {database} is in use by process {running.process.pid}:")


def test_second_start_is_refused_with_the_first_ones_process(host: Host) -> None:
    """With status 75; the first is not disturbed, nor is its PID file."""
    with host.running() as url:
        pid = host.pid
        line = refusal(host.start("--pid-file", "pid", "--port", "0", "--db-path", "o.db"), 75)
        assert line == f"{host.pid_file}: the daemon runs already as process {pid}"
        assert host.pid == pid
        with conversation(url) as client:
            client.expect_silence()


def test_pid_file_that_cannot_be_written_is_told(host: Host) -> None:
    """A folder that is not there, and a symbolic link that somebody laid out."""
    line = refusal(host.start("--pid-file", "no/pid", "--port", "0"), 78)
    assert line == f"{host.home / 'no/pid'}: cannot be written: No such file or directory"

    host.pid_file.symlink_to(host.home / "elsewhere")
    line = refusal(host.start("--pid-file", "pid", "--port", "0"), 78)
    assert line.startswith(f"{host.pid_file}: cannot be written: ")
    assert not (host.home / "elsewhere").exists()


def test_systemd_is_refused(host: Host) -> None:
    """Its daemons stay in the foreground; nothing is started."""
    environ = environment(host.home, NOTIFY_SOCKET="/run/systemd/notify")
    line = refusal(host.start("--pid-file", "pid", "--port", "0", environ=environ), 64)
    assert line == "--daemonize is not for systemd, which wants its daemons in the foreground"
    assert not host.pid_file.exists()


# --- the PID file ---------------------------------------------------------------------------------


def test_pid_file_has_one_holder_who_is_found_under_its_name(tmp_path: Path) -> None:
    """Also when the last holder removes it just as others come."""
    path = tmp_path / "pid"
    holding = threading.Lock()
    held: list[bool] = []

    def come_and_go() -> None:
        for _ in range(300):
            try:
                pid_file = PidFile(path)
            except AlreadyRunning:
                continue
            is_alone = holding.acquire(blocking=False)
            pid_file.write()
            is_found = path.read_text() == f"{os.getpid()}\n" and os.path.samestat(
                path.stat(), os.fstat(pid_file.descriptor)
            )
            held.append(is_alone and is_found)
            if is_alone:
                holding.release()
            pid_file.remove()
            os.close(pid_file.descriptor)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert held
    assert all(held)
    assert not path.exists()
