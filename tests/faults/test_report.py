# SPDX-License-Identifier: AGPL-3.0-only
"""How figures come into the document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faults import report

ATTACK = {"kind": "attack", "name": "flood", "attacker": "cut off", "alone_p99_ms": 1, "p99_ms": 2}


def fault(name: str, rounds: int) -> report.Figures:
    """Return the figures of a fault that took no time."""
    return {"kind": "fault", "name": name, "rounds": rounds, "lost": 0, "note": "a | b"}


def rewrite(document: Path, *found: report.Figures, options: tuple[str, ...] = ()) -> str:
    """Have figures put into the document; return it."""
    folder = document.with_name("figures")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, figures in enumerate(found):
        (folder / f"{number}.json").write_text(json.dumps(figures))
    report.main([*options, str(folder), str(document)])
    return document.read_text()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Return a document without figures."""
    marks = (
        f"<!-- {kind}s: made by make fault-test -->\n\n<!-- end of {kind}s -->\n"
        for kind in report.TABLES
    )
    path = tmp_path / "document.md"
    path.write_text("above\n" + "between\n".join(marks) + "below\n")
    return path


def test_tables_are_made_anew_and_the_text_stays(document: Path) -> None:
    """A whole run replaces both tables; absent figures are dashes, bars cannot end a cell."""
    rewrite(document, fault("old", 1))
    text = rewrite(document, fault("kill", 2000), ATTACK)
    assert "| kill | 2,000 | – | 0 | – | a / b |\n" in text
    assert "| flood | cut off | 1.0 ms | 2.0 ms |\n" in text
    assert "old" not in text
    assert text.startswith("above\n<!-- faults")
    assert text.endswith("<!-- end of attacks -->\nbelow\n")
    assert "<!-- end of faults -->\nbetween\n<!-- attacks" in text


def test_run_of_a_part_keeps_the_other_rows(document: Path) -> None:
    """With --keep a row of the same name is replaced, others stay as they are, once."""
    rewrite(document, fault("kill", 1), fault("cut", 1), ATTACK)
    text = rewrite(document, fault("cut", 2), fault("full", 3), options=("--keep",))
    rows = [line for line in text.splitlines() if line.startswith(("| kill", "| cut", "| full"))]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| kill", "1"],
        ["| cut", "2"],
        ["| full", "3"],
    ]
    assert text.count("| flood |") == 1
    assert text.count("| fault | rounds |") == 1


def test_document_without_marks_is_refused(document: Path) -> None:
    """Figures do not get lost silently."""
    document.write_text("no tables\n")
    with pytest.raises(SystemExit, match="no <!-- end of faults -->"):
        rewrite(document, fault("kill", 1))
    assert document.read_text() == "no tables\n"
