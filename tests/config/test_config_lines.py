# SPDX-License-Identifier: AGPL-3.0-only
"""The line scanner, against texts whose lines are known by construction."""

from __future__ import annotations

import tomllib
from typing import NamedTuple

import tomli_w
from hypothesis import assume, given
from hypothesis import strategies as st

from plexus_registry.config.lines import scan

TRAP = """\
# [[backend]]
title = '''
[[backend]]
name = "not a table"'''
note = \"\"\"
[[backend]] \\\"\"\"
quotes at the end: \"\"\"\"\"

[[ backend ]] # [[backend]]
"name" = "a" # port = 1
'host' = '#'
port   =   1
[[backend]]
text = \"\"\"
name = "b"
\"\"\"
nam\u0065.more = [ # ]
  "]", '}', { a = "}" }, [[]],
]
description = 1979-05-27 07:32:00
[backend.sub]
name = 1
[[other.backend]]
name = 2
"""


def test_text_in_strings_and_comments_is_no_table() -> None:
    """What looks like a header or key inside strings, comments and values is passed over."""
    assert tomllib.loads(TRAP)["backend"][1]["sub"] == {"name": 1}

    layout = scan(TRAP, "backend")

    assert layout.keys == {"title": 2, "note": 5, "backend": 9, "other": 23}
    assert [table.line for table in layout.tables] == [9, 13]
    assert layout.tables[0].keys == {"name": 10, "host": 11, "port": 12}
    assert layout.tables[1].keys == {"text": 14, "name": 17, "description": 20, "sub": 21}


def test_inline_tables_have_their_own_lines() -> None:
    """In ``backend = [{...}, {...}]`` each table stands where its brace opens."""
    text = (
        'a = 1\nbackend = [ # {\n  { name = "}", b.c = 1 }, {},\n  # {\n  { "na\\u006de" = 1 },\n]'
    )
    assert len(tomllib.loads(text)["backend"]) == 3

    layout = scan(text, "backend")

    assert layout.keys == {"a": 1, "backend": 2}
    assert [table.line for table in layout.tables] == [3, 3, 5]
    assert layout.tables[0].keys == {"name": 3, "b": 3}
    assert layout.tables[2].keys == {"name": 5}


def test_elements_that_are_no_tables_are_counted() -> None:
    """The number of a table is its number among all elements."""
    layout = scan("backend = [\n1,\n[{ a = 1 }],\n'{',\n{ a = 1 }]", "backend")

    assert [table.line for table in layout.tables] == [2, 3, 4, 5]
    assert layout.tables[3].keys == {"a": 5}


def test_unknown_table_and_key_have_the_line_next_to_them() -> None:
    """A key that is missing is reported on its table, a table that is missing on line 0."""
    layout = scan("\n[[backend]]\nname = 1\n", "backend")

    assert layout.table(0).line_of("host") == 2
    assert layout.table(1).line_of("host") == 0
    assert layout.line_of("nothing") == 0


def test_long_string_is_scanned_without_recursion() -> None:
    """A string of megabytes with many escapes needs one pass."""
    text = 'a = "' + "\\\\" * 1_000_000 + '"\nb = """' + "x" * 1_000_000 + '\n"""\nc = 1\n'

    assert scan(text).keys == {"a": 1, "b": 2, "c": 4}


class Part(NamedTuple):
    """A piece of a document, and on which of its lines, from 0, its keys are."""

    text: str
    keys: dict[str, int]


BARE_KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
LINES = ANY_TEXT | st.sampled_from(["\n[[backend]]\n", 'a\n"""\nb = 1', "\n'''\n", '\n""'])
BLANKS = st.text(" \t", max_size=3)
NOISE = st.lists(
    st.sampled_from(["", "  ", "# [[backend]]", "\t# name = 1", '# """', "# '''", "# {"]),
    max_size=3,
).map(lambda lines: "".join(f"{line}\n" for line in lines))

VALUES = st.one_of(
    st.sampled_from(
        [
            "1",
            "-1.5e3",
            "true",
            "1979-05-27T07:32:00Z",
            "1979-05-27 07:32:00",
            '"""\n[[backend]]\nname = 1\n"""',
            "'''\n[[backend]]\nname = 1\n'''''",
            '"""a\\"""b""c"""""',
            "''''it''s'''",
            "[\n  # ]\n  '[[backend]]',\n]",
            '[[1, 2], [{ name = "]" }]]',
            "{ name = '}', x.y = [1,\n2] }",
            '"\\"#"',
            "'\\'",
            "[]",
            "{}",
        ]
    ),
    st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3)
    .map(
        lambda table: (
            tomli_w.dumps({"k": [table]}).removeprefix("k = ").rstrip("\n") if table else "{}"
        )
    )
    .filter(lambda text: not text.startswith("[[k]]")),
    ANY_TEXT.map(lambda text: tomli_w.dumps({"k": text}).removeprefix("k = ").rstrip("\n")),
)


@st.composite
def assignments(draw: st.DrawFn, *, separator: str = "\n") -> Part:
    """Keys in any spelling with values in any form."""
    text, keys = "", {}
    for key in draw(st.lists(BARE_KEYS | ANY_TEXT, unique=True, max_size=4)):
        text += draw(NOISE) if separator == "\n" else ""
        text += draw(BLANKS)
        keys[key] = text.count("\n")
        bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        spelled = key if bare and draw(st.booleans()) else tomli_w.dumps({key: 1})[:-5]
        tail = "." + draw(BARE_KEYS) if draw(st.booleans()) else ""
        value = draw(VALUES)
        text += f"{spelled}{draw(BLANKS)}{tail}{draw(BLANKS)}={draw(BLANKS)}{value}{draw(BLANKS)}"
        text += separator
    return Part(text, keys)


@given(st.data())
def test_headers_and_keys_are_found_in_any_layout(data: st.DataObject) -> None:
    """Tables and keys are on the lines where the generator put them."""
    root = data.draw(assignments())
    assume("backend" not in root.keys)
    text = root.text
    expected_keys = {key: line + 1 for key, line in root.keys.items()}
    expected = []
    for _ in range(data.draw(st.integers(0, 4))):
        text += data.draw(NOISE)
        name = data.draw(st.sampled_from(["backend", '"backend"', "'backend'", '"back\\u0065nd"']))
        line = text.count("\n") + 1
        expected_keys.setdefault("backend", line)
        blank = data.draw(BLANKS)
        text += f"{data.draw(BLANKS)}[[{blank}{name}{data.draw(BLANKS)}]]{blank}"
        text += data.draw(st.sampled_from(["\n", "# [[backend]]\n"]))
        body = data.draw(assignments())
        first = text.count("\n") + 1
        expected.append((line, {key: first + at for key, at in body.keys.items()}))
        text += body.text
    if data.draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    tomllib.loads(text)

    layout = scan(text, "backend")

    assert [(table.line, table.keys) for table in layout.tables] == expected
    assert layout.keys == expected_keys


@given(st.data())
def test_inline_tables_are_found_in_any_layout(data: st.DataObject) -> None:
    """Inline tables and their keys are on the lines where the generator put them."""
    text = data.draw(NOISE) + "backend = ["
    expected = []
    for _ in range(data.draw(st.integers(0, 4))):
        text += data.draw(st.just("") | NOISE.map(lambda noise: "\n" + noise))
        line = text.count("\n") + 1
        body = data.draw(assignments(separator=","))
        inside = body.text.removesuffix(",")
        keys = {key: line + at for key, at in body.keys.items()}
        text += f"{{{inside}}}{data.draw(BLANKS)},"
        expected.append((line, keys))
    text += "]\n"
    tomllib.loads(text)

    layout = scan(text, "backend")

    assert [(table.line, table.keys) for table in layout.tables] == expected


@given(
    st.lists(
        st.dictionaries(ANY_TEXT, LINES | st.integers(0, 9) | st.lists(LINES, max_size=3)),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_each_table_written_by_tomli_w_is_cut_out_by_its_lines(
    tables: list[dict[str, object]], multiline: bool
) -> None:
    """The lines from one table to the next are, parsed alone, that table."""
    text = "".join(
        f"[[backend]]\n{tomli_w.dumps(table, multiline_strings=multiline)}" for table in tables
    )
    lines = [line + "\n" for line in text.split("\n")]
    starts = [table.line for table in scan(text, "backend").tables]
    ends = [*starts[1:], len(lines) + 1]

    cut = ["".join(lines[start - 1 : end - 1]) for start, end in zip(starts, ends, strict=True)]

    assert [tomllib.loads(part)["backend"] for part in cut] == [[table] for table in tables]


@given(st.text() | st.text("[]{}\"'#=.,\\\n ab"))
def test_any_text_is_scanned_to_an_end(text: str) -> None:
    """Text that is no TOML gives some layout, and no exception."""
    scan(text, "a")
