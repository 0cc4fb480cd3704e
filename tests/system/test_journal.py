# SPDX-License-Identifier: AGPL-3.0-only
"""What the journal has: priorities, fields, explanations; with and without python3-systemd."""

from __future__ import annotations

from system.registry import BACKENDS, SERVICE, Registry

RELOAD_FAILED = "acdf32541380420ca022816a27bfd54c"
NATIVE = "python3-systemd"


def test_priorities_select_what_matters(registry: Registry) -> None:
    """`journalctl -p warning` has failures and what was ignored, and no everyday news."""
    _fail_a_reload(registry)
    registry.machine.run("rm", BACKENDS).check()
    kept = "declared backends kept, their file is missing"
    registry.wait(lambda: any(kept in text for text in registry.messages()), kept)
    shown = [entry for entry in registry.journal("--priority=warning") if entry["_PID"] != "1"]
    for entry in shown:
        told = ("config reload failed", "plexus-registryctl: ")
        assert entry["PRIORITY"] == ("3" if entry["MESSAGE"].startswith(told) else "4")
    assert any(kept in entry["MESSAGE"] for entry in shown)
    everything = registry.journal()
    assert any("backend registered" in entry["MESSAGE"] for entry in everything)
    assert len(shown) < len(everything)


def test_one_backends_life_is_a_query(registry: Registry) -> None:
    """`PLEXUS_BACKEND=name` selects what happened to one backend, and nothing else."""
    for name in ("seen", "other"):
        registry.register(name)
        registry.ask("update", name=name, port=4555)
        registry.ask("deregister", name=name)
        registry.ask("delete", name=name)
    life = registry.messages("PLEXUS_BACKEND=seen")
    assert [text.split(" name=")[0] for text in life] == [
        "backend registered",
        "backend updated",
        "backend deregistered",
        "backend deleted",
    ]
    assert all("name=seen " in text for text in life)
    assert {
        entry["PLEXUS_PEER"].split(":")[0] for entry in registry.journal("PLEXUS_BACKEND=seen")
    } == {"127.0.0.1"}


def test_failed_reloads_are_a_query_with_an_explanation(registry: Registry) -> None:
    """`MESSAGE_ID=` selects failed reloads; `--catalog` says what to do, and who asked."""
    _fail_a_reload(registry)
    query = f"MESSAGE_ID={RELOAD_FAILED}"
    failures = registry.messages(query)
    assert failures
    assert all("config reload failed, keeping previous" in text for text in failures)
    explained = registry.machine.run("journalctl", "--catalog", f"--unit={SERVICE}", query).stdout
    assert "Subject: Reload of the declared backends failed" in explained
    assert "plexus-registry --system --check-config" in explained
    assert "@PLEXUS_PEER@" not in explained


def test_without_the_journals_library_every_line_keeps_its_priority(registry: Registry) -> None:
    """Without python3-systemd each line has its priority, those of a traceback included."""
    run = registry.machine.run
    run("apt-get", "remove", "--yes", NATIVE).check()
    registry.systemctl("restart", SERVICE).check()
    _fail_a_reload(registry)
    (failure, *_) = (entry for entry in registry.journal() if "reload failed" in entry["MESSAGE"])
    assert failure["PRIORITY"] == "3"
    assert "PLEXUS_PEER" not in failure
    assert not failure["MESSAGE"].startswith("<")

    # A damaged installation: a library is missing.
    library = "/usr/lib/python3/dist-packages/sdnotify"
    run("mv", library, f"{library}.gone").check()
    assert registry.systemctl("restart", SERVICE).status != 0
    assert registry.show("ExecMainStatus") == "70"
    entries = [entry for entry in registry.journal() if entry["_PID"] != "1"]
    texts = [entry["MESSAGE"] for entry in entries]
    first = texts.index("internal error")
    last = next(n for n, text in enumerate(texts) if text.startswith("ModuleNotFoundError"))
    assert texts[first + 1] == "Traceback (most recent call last):"
    assert last > first + 3
    assert {entry["PRIORITY"] for entry in entries[first : last + 1]} == {"2"}

    # One that is needed so early that nothing could say what became of the log.
    run("mv", f"{library}.gone", library).check()
    since = entries[-1]["__REALTIME_TIMESTAMP"]
    run("sh", "-c", "mv /usr/lib/python3/dist-packages/msgspec /root").check()
    assert registry.systemctl("restart", SERVICE).status != 0
    entries = [entry for entry in registry.journal() if entry["_PID"] != "1"]
    words = [entry for entry in entries if entry["__REALTIME_TIMESTAMP"] > since]
    assert any("No module named 'msgspec'" in entry["MESSAGE"] for entry in words)
    assert {entry["PRIORITY"] for entry in words} == {"3"}


def test_outcome_of_a_reload_has_the_priority_that_it_deserves(registry: Registry) -> None:
    """What `systemctl reload` ran says in the journal what came of it, as news or as an error."""
    _fail_a_reload(registry)
    told = [
        (entry["PRIORITY"], entry["MESSAGE"])
        for entry in registry.journal()
        if entry["SYSLOG_IDENTIFIER"] == "plexus-registryctl"
    ]
    assert [priority for priority, _ in told] == ["6", "3"]
    assert told[0][1].startswith("reloaded: ")
    assert told[1][1].startswith("plexus-registryctl: ")


def _fail_a_reload(registry: Registry) -> None:
    registry.declare(kept=4001)
    registry.systemctl("reload", SERVICE).check()
    registry.declare(kept=0)
    assert registry.systemctl("reload", SERVICE).status != 0
