# SPDX-License-Identifier: AGPL-3.0-only
"""Completion of ``plexus-registryctl`` in a real bash; zsh and fish are tried in tests/system."""

from __future__ import annotations

import asyncio
import itertools
import os
import pty
import select
import shlex
import subprocess
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from support.certificates import Authority
from support.control import MAIN, ctl, done, environment_of
from support.conversation import conversation
from support.puppet import Peer, in_loop, puppet
from support.serving import Served, serving
from support.timing import TIMEOUT_S

SCRIPT = Path(__file__).parents[2] / "packaging/completions/bash/plexus-registryctl"


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    """A folder with the command in it, as an installation has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "plexus-registryctl"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(MAIN)} "$@"\n')
    command.chmod(0o755)
    return folder


def offered(home: Path, bin: Path, line: str, url: str) -> list[str]:
    """Return what bash would offer where the line ends."""
    script = f"""
        . {shlex.quote(str(SCRIPT))}
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}}
        _plexus_registryctl plexus-registryctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environ = environment_of(home, PLEXUS_REGISTRY_URL=url)
    environ["PATH"] = f"{bin}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_and_options_are_offered(served: Served, tmp_path: Path, bin: Path) -> None:
    """By their beginning, and those of the verb after the verb."""
    assert offered(tmp_path, bin, "plexus-registryctl dereg", served.url) == ["deregister"]
    assert offered(tmp_path, bin, "plexus-registryctl --ti", served.url) == ["--timeout"]
    assert "--source" in offered(tmp_path, bin, "plexus-registryctl list --", served.url)


def test_names_of_backends_are_offered_as_they_are_now(
    served: Served, tmp_path: Path, bin: Path
) -> None:
    """Also after --url, with colons in them, and without those that are on the line already."""
    for name in ("prod", "prod:2", "stage"):
        ctl(tmp_path, "--url", served.url, "register", name, "ws://h:1")
    line = "plexus-registryctl get "
    assert offered(tmp_path, bin, line, served.url) == ["prod", "prod:2", "stage"]
    assert offered(tmp_path, bin, f"{line}st", served.url) == ["stage"]
    # To bash the part up to the colon is another word.
    assert offered(tmp_path, bin, f"{line}prod:", served.url) == ["2"]
    several = "plexus-registryctl delete prod stage "
    assert offered(tmp_path, bin, several, served.url) == ["prod:2"]
    elsewhere = f"plexus-registryctl --url {served.url} url st"
    assert offered(tmp_path, bin, elsewhere, "ws://127.0.0.1:1") == ["stage"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('update --description "My own" v', ["vault"]),
        ("update --description 'My own' v", ["vault"]),
        (r"update --description My\ own v", ["vault"]),
        ('update --description "My own" --na', ["--namespace"]),
        ('update --description "" v', ["vault"]),
        ('get "v', ["vault"]),
        ("get 'v", ["vault"]),
        ('update --description "My v', []),
        ('delete "vault" ', ["other"]),
    ],
)
def test_words_in_quotes_are_one_word(
    served: Served, tmp_path: Path, bin: Path, words: str, expected: list[str]
) -> None:
    """What follows them is completed, and so is one whose quote is still open."""
    for name in ("vault", "other"):
        ctl(tmp_path, "--url", served.url, "register", name, "ws://h:1")
    assert offered(tmp_path, bin, f"plexus-registryctl {words}", served.url) == expected


PATHS = ['"my file"', "'my file'", r"my\ file", "~/file", "$HOME/file", '"${HOME}/file"']


@pytest.mark.parametrize("path", PATHS)
def test_files_on_the_line_are_found_as_the_shell_would(
    served: Served, tmp_path: Path, bin: Path, path: str
) -> None:
    """With quotes, a tilde and variables: names are asked for with the token of that file."""
    ctl(tmp_path, "--url", served.url, "register", "vault", "ws://h:1")
    for name in ("my file", "file"):
        (tmp_path / name).write_text("plexus_token\n")
    line = f"plexus-registryctl --token-file {path} get v"
    assert offered(tmp_path, bin, line, served.url) == ["vault"]


def test_authorities_on_the_line_are_found_as_the_shell_would(
    settings: Settings, tmp_path: Path, bin: Path
) -> None:
    """Names are asked for over TLS, too."""
    authority = Authority(tmp_path)
    with serving(authority.issue().secure(settings)) as served:
        url = f"wss://127.0.0.1:{served.port}"
        options = ("--ca-file", str(authority.file), "--url", url)
        done(ctl(tmp_path, *options, "register", "vault", "ws://h:1"))
        line = f"plexus-registryctl --ca-file ~/{authority.file.name} get v"
        assert offered(tmp_path, bin, line, url) == ["vault"]


def test_nothing_is_offered_and_nothing_said_where_nobody_answers(
    tmp_path: Path, bin: Path
) -> None:
    """A message would end up in what the person types."""
    assert offered(tmp_path, bin, "plexus-registryctl get ", "ws://127.0.0.1:1") == []
    assert offered(tmp_path, bin, "plexus-registryctl get ", "nonsense") == []


@in_loop
async def test_registry_without_an_end_does_not_make_a_person_wait(
    tmp_path: Path, bin: Path
) -> None:
    """One that always has another full page of names, each of them in time."""
    numbers = itertools.count()

    async def behave(peer: Peer) -> None:
        while True:
            request, _ = await peer.receive_call()
            entries = [{"name": f"b{next(numbers)}", "host": "h", "port": 1} for _ in range(1000)]
            await peer.answer(request, {"type": "backends", "backends": entries})

    async with puppet(behave) as url:
        line = "plexus-registryctl get "
        assert await asyncio.to_thread(offered, tmp_path, bin, line, url) == []


def typed(home: Path, bin: Path, keys: str, url: str) -> str:
    """Type *keys* into an interactive bash in *home*, and return what its terminal shows."""
    environ = environment_of(home, PLEXUS_REGISTRY_URL=url, TERM="dumb", PS1="$ ")
    environ["PATH"] = f"{bin}:{os.environ['PATH']}"
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home,
        env=environ,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        os.write(ours, f". {shlex.quote(str(SCRIPT))}\n{keys}\nexit\n".encode())
        try:
            while select.select([ours], [], [], TIMEOUT_S)[0]:
                shown += os.read(ours, 65536)
            shell.kill()
        except OSError:  # Linux's word for the end of a terminal
            pass
        finally:
            os.close(ours)
    return shown.decode()


HOSTILE = [
    "ev;touch${IFS}PWNED;",
    "ev$(touch${IFS}PWNED)",
    "ev`touch${IFS}PWNED`",
    "ev|touch${IFS}PWNED",
    "ev&touch${IFS}PWNED",
    "ev>PWNED",
    "ev{a,b}",
    "ev'",
    'ev"',
    "ev\\",
    "ev*",
    "ev=x",
    "ev@x",
    "ev#",
    "ev!!",
    "ev~",
    "ev\u202ex",
]


@pytest.mark.parametrize("name", [one for one in HOSTILE if "PWNED" in one])
def test_name_of_a_backend_is_never_run(
    served: Served, tmp_path: Path, bin: Path, name: str
) -> None:
    """Whoever may register must not get a command into the shell of whoever presses Tab."""
    with conversation(served.url) as client:
        client.call("registry.register", {"name": name, "host": "h", "port": 1})
        client.call("registry.register", {"name": "plain", "host": "h", "port": 1})
    keys = "plexus-registryctl url ev\t\nplexus-registryctl url pl\t\n"
    shown = typed(tmp_path, bin, keys, served.url)
    assert "there is no backend called ev;" in shown
    assert "plexus-registryctl url plain" in shown
    assert not (tmp_path / "PWNED").exists()


def test_names_that_are_more_than_a_word_are_not_offered(
    served: Served, tmp_path: Path, bin: Path
) -> None:
    """To no shell: what has a meaning of its own on a command line, an option too, is left out."""
    plain = ["ev", "ev-1", "ev.example:4444+b_c", "ev-größe"]
    with conversation(served.url) as client:
        for name in (*plain, *HOSTILE, "-ev", "--help"):
            client.call("registry.register", {"name": name, "host": "h", "port": 1})
    everything = offered(tmp_path, bin, "plexus-registryctl get ", served.url)
    assert [one for one in everything if one not in plain] == []
    assert sorted(everything) == sorted(plain)
    assert "-ev" not in offered(tmp_path, bin, "plexus-registryctl get -- -", served.url)
