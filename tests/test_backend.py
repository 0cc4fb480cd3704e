# SPDX-License-Identifier: AGPL-3.0-only
"""What is accepted as a field of a backend, what is refused, and how the refusal reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plexus_registry import backend as fields
from plexus_registry.backend import Address, Declaration, Put, Remove, Source
from plexus_registry.errors import InvalidValue
from support.memory import entry

MEBIBYTE = 1 << 20
MESSAGE_MAX = 500
NO_STRINGS: list[Any] = [1, True, 1.5, b"dev", ["dev"], {"dev": 1}]


def shown(value: object) -> str:
    """Name a case of a table."""
    return ascii(value)[:40]


def refusal(check: Callable[[Any], object], value: object) -> InvalidValue:
    """Return the error with which *check* refuses *value*."""
    with pytest.raises(InvalidValue) as caught:
        check(value)
    return caught.value


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "x" * 128, "registry-hub", "a.b", "..", "a=b", "a:b", '"', "größe", "名前", "😀"],
    ids=shown,
)
def test_a_printable_word_is_a_name(name: str) -> None:
    """1 to 128 printable characters without white space and '/' are kept as they are."""
    assert fields.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 129, "a/b", "/", "\x00", "a\x1b", "a\x7f", "a\x85", "a\u200bb", "a\u202eb", "\ud800"]
    + [f"a{space}b" for space in " \t\n\r\v\f\x1c\xa0\u1680\u2003\u2028\u2029\u202f\u3000"]
    + [" a", "a ", "a\n", None, *NO_STRINGS],
    ids=shown,
)
def test_anything_else_is_no_name(name: object) -> None:
    """Empty, long, unprintable, with white space of any kind or '/', or no string: refused."""
    fault = refusal(fields.check_name, name)
    assert fault.field == "name"
    assert str(fault).endswith("expected 1 to 128 printable characters without white space and '/'")


# --- hosts --------------------------------------------------------------------------------------

LONGEST_DNS_NAME = ".".join(["x" * 63] * 3 + ["x" * 61])

DNS_NAMES = [
    "localhost",
    "LocalHost",
    "plexus.example.com",
    "example.com.",
    "my_service",
    "_ws._tcp.example",
    "a",
    "3com.example",
    "1.2.3.4.example",
    "xn--bcher-kva.example",
    "x" * 63,
    LONGEST_DNS_NAME,
    f"{LONGEST_DNS_NAME}.",
]
IP_ADDRESSES = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "2001:db8::8:800:200c:417a",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "fe80::1%br-0.100_x~",
    f"fe80::1%{'z' * 64}",
]
NO_DNS_NAMES = [
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a..",
    "-a",
    "a-",
    "a-.example",
    "x" * 64,
    f"{LONGEST_DNS_NAME}x",
    "a b",
    " a",
    "a\n",
    "a\x00",
    "a/b",
    "user@host",
    "a%b",
    "*",
    "localhost:80",
    "ws://localhost",
    "bücher.example",
    "\uff11\uff12\uff17.0.0.1",
    "\ud800",
]
NO_IP_ADDRESSES = [
    "256.1.1.1",
    "1.2.3",
    "1.2.3.4.5",
    "01.2.3.4",
    "127.0.0.1.",
    "1",
    "example.1",
    "[",
    "[]",
    "[::1",
    "::1]",
    "x::1]",
    "[[::1]]",
    "[127.0.0.1]",
    "[localhost]",
    ":",
    ":::",
    "1::2::3",
    "12345::",
    "::ffff:1.2.3.256",
    "::1/128",
    "::1\n",
    "fe80::1%",
    "fe80::1%a%b",
    "fe80::1%a b",
    "fe80::1%a]b",
    "fe80::1%a/b",
    "fe80::1%é",
    f"fe80::1%{'z' * 65}",
]


@pytest.mark.parametrize("host", DNS_NAMES + IP_ADDRESSES, ids=shown)
def test_dns_names_and_ip_addresses_are_hosts(host: str) -> None:
    """They are stored as they were given."""
    assert fields.check_host(host) == host


@pytest.mark.parametrize("host", ["[::1]", "[::ffff:1.2.3.4]", "[fe80::1%eth0]"])
def test_an_ipv6_address_is_stored_without_its_brackets(host: str) -> None:
    """Both forms of an IPv6 address are accepted and mean the same."""
    assert fields.check_host(host) == host[1:-1] == fields.check_host(host[1:-1])


@pytest.mark.parametrize("host", [*NO_DNS_NAMES, *NO_IP_ADDRESSES, None, *NO_STRINGS], ids=shown)
def test_anything_else_is_no_host(host: object) -> None:
    """What neither DNS nor IP could resolve is refused with what would be accepted."""
    fault = refusal(fields.check_host, host)
    assert fault.field == "host"
    assert "expected a DNS name, an IPv4 address or an IPv6 address" in str(fault)


def test_an_international_name_is_pointed_to_its_ascii_form() -> None:
    """Who gives letters beyond ASCII is told about xn--; who gives control characters is not."""
    assert "in its ASCII form, xn--…" in str(refusal(fields.check_host, "bücher.example"))
    assert "xn--" not in str(refusal(fields.check_host, "bü\x00cher"))
    assert "xn--" not in str(refusal(fields.check_host, "a b"))


# --- ports and protocols ------------------------------------------------------------------------


@pytest.mark.parametrize("port", [1, 80, 4444, 65535])
def test_tcp_ports_are_accepted(port: int) -> None:
    """An integer from 1 to 65535 is a port."""
    assert fields.check_port(port) == port


@pytest.mark.parametrize(
    "port",
    [0, -1, 65536, 70000, 10**5000, True, False, 80.0, float("nan"), "80", b"80", None, [80], {}],
    ids=type,
)
def test_anything_else_is_no_port(port: object) -> None:
    """Neither booleans nor floats nor texts are ports, and 0 is none to connect to."""
    fault = refusal(fields.check_port, port)
    assert fault.field == "port"
    assert str(fault).endswith("expected an integer from 1 to 65535")


@pytest.mark.parametrize("protocol", ["ws", "wss"])
def test_websocket_schemes_are_protocols(protocol: str) -> None:
    """A backend speaks WebSocket, with TLS or without."""
    assert fields.check_protocol(protocol) == protocol


@pytest.mark.parametrize(
    "protocol", ["", "WS", "ws ", "http", "https", "ws://", None, *NO_STRINGS], ids=shown
)
def test_anything_else_is_no_protocol(protocol: object) -> None:
    """Another scheme, another case or no string is refused."""
    fault = refusal(fields.check_protocol, protocol)
    assert fault.field == "protocol"
    assert str(fault).endswith('expected "ws" or "wss"')


# --- texts --------------------------------------------------------------------------------------

TEXTS: dict[str, tuple[Callable[[object], str | None], int]] = {
    "description": (fields.check_description, 1024),
    "namespace": (fields.check_namespace, 256),
    "version": (fields.check_version, 128),
    "metadata": (fields.check_metadata, 16384),
}


@pytest.mark.parametrize("field", TEXTS)
def test_text_is_kept_and_no_text_is_none(field: str) -> None:
    """Text up to the limit stays, line feeds and tabs too; the empty text is no text."""
    check, limit = TEXTS[field]
    for text in ("a", " ", "größe 😀", "two\nlines\tand a tab", "x" * limit):
        assert check(text) == text
    assert check("") is None
    assert check(None) is None


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("flaw", ["\x00", "\r", "\x1b", "\x7f", "\x85", "\ud800"], ids=shown)
def test_text_with_a_control_character_is_refused(field: str, flaw: str) -> None:
    """What could steer a terminal, or cannot be encoded, is no text."""
    check, limit = TEXTS[field]
    fault = refusal(check, f"text{flaw}")
    assert fault.field == field
    said = f"expected text of at most {limit} characters without control characters"
    setting = {name: f" (setting max_{name}_size)" for name in ("description", "metadata")}
    assert str(fault).endswith(said + setting.get(field, ""))


@pytest.mark.parametrize("field", TEXTS)
def test_text_beyond_its_limit_is_refused(field: str) -> None:
    """One character too many is refused, and the message tells the limit."""
    check, limit = TEXTS[field]
    fault = refusal(check, "x" * (limit + 1))
    assert f"({limit + 1} characters) is not accepted" in str(fault)
    assert f"at most {limit} characters" in str(fault)


@pytest.mark.parametrize("field", ["description", "namespace", "version"])
@pytest.mark.parametrize("value", [0, False, 1.5, b"", [], {}], ids=shown)
def test_a_text_field_takes_strings_only(field: str, value: object) -> None:
    """Nothing is turned into text, not even what is false."""
    assert refusal(TEXTS[field][0], value).field == field


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"pid": 1, "schema_hash": "ab"}, '{"pid":1,"schema_hash":"ab"}'),
        ({}, "{}"),
        ([], "[]"),
        (0, "0"),
        (False, "false"),
        ({"control": "\x00"}, '{"control":"\\u0000"}'),
    ],
    ids=shown,
)
def test_metadata_that_is_no_text_is_stored_as_its_json(value: object, stored: str) -> None:
    """Hubs send an object; the registry keeps the JSON text of it."""
    assert fields.check_metadata(value) == stored


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [["x" * 16384], {"text": "\ud800"}, nested(100_000), {"number": 10**5000}, object()],
    ids=["long", "surrogate", "deep", "huge integer", "no JSON"],
)
def test_metadata_without_a_fitting_json_text_is_refused(value: object) -> None:
    """Too long, too deep or not encodable: a refusal of the field, not a failure of the program."""
    assert refusal(fields.check_metadata, value).field == "metadata"


# --- messages -----------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Any], object]] = {
    **fields.DECLARED_FIELDS,
    "url": fields.parse_url,
    "backend": fields.parse_declaration,
}


@pytest.mark.parametrize("field", CHECKS)
@pytest.mark.parametrize(
    "value", ["x" * MEBIBYTE, "\n" * MEBIBYTE, "é" * MEBIBYTE, "😀" * MEBIBYTE], ids=shown
)
def test_a_message_is_short_whatever_was_given(field: str, value: str) -> None:
    """A megabyte of anything gives one line that names field, size and what is accepted."""
    message = str(refusal(CHECKS[field], value))
    assert message.startswith(f"{field}: ")
    assert "(1048576 characters) is not accepted, expected " in message
    assert len(message) <= MESSAGE_MAX
    assert message.isprintable()


@pytest.mark.parametrize("check", [fields.check_host, fields.parse_url, fields.parse_declaration])
def test_a_huge_address_is_refused_at_once(check: Callable[[str], object]) -> None:
    """No length of a zone, of brackets or of labels gets through or takes long."""
    for text in (
        "fe80::1%" + "z" * MEBIBYTE,
        "[" * MEBIBYTE + "]",
        ":" * MEBIBYTE,
        "a." * MEBIBYTE,
    ):
        assert len(str(refusal(check, text))) <= MESSAGE_MAX


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://127.0.0.1:4444", ("127.0.0.1", 4444, "ws")),
        ("wss://plexus.example.com:443/", ("plexus.example.com", 443, "wss")),
        ("ws://[::1]:4444", ("::1", 4444, "ws")),
        ("ws://[fe80::1%eth0]:1", ("fe80::1%eth0", 1, "ws")),
        ("ws://a:00080", ("a", 80, "ws")),
    ],
)
def test_a_websocket_url_is_an_address(url: str, address: tuple[str, int, str]) -> None:
    """Scheme, host and port are taken apart; a lone '/' behind them is no path."""
    assert fields.parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("", "url"),
        ("127.0.0.1:4444", "url"),
        ("ws://127.0.0.1", "url"),
        ("ws://127.0.0.1:", "url"),
        ("ws://127.0.0.1:4444/path", "url"),
        ("ws://127.0.0.1:4444?query", "url"),
        ("ws://127.0.0.1:4444\n", "url"),
        ("ws://127.0.0.1:+80", "url"),
        ("ws://127.0.0.1:123456", "url"),
        ("ws://a:\u0661", "url"),
        ("ws://::1:4444", "url"),
        ("WS://a:1", "url"),
        ("http://a:1", "protocol"),
        ("ws://:4444", "host"),
        ("ws://user@a:1", "host"),
        ("ws://[]:1", "host"),
        ("ws://[a]:1", "host"),
        ("ws://a:0", "port"),
        ("ws://a:99999", "port"),
    ],
    ids=shown,
)
def test_a_fault_in_a_url_is_named_by_its_part(url: str, field: str) -> None:
    """What has the form of a URL is refused by the part that is wrong, the rest as a whole."""
    assert refusal(fields.parse_url, url).field == field


HOSTS = st.one_of(
    st.sampled_from(DNS_NAMES + IP_ADDRESSES),
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z0-9_]{1,20}(\.[a-z][a-z0-9-]{0,20}[a-z0-9]){1,3}\.?", fullmatch=True),
)
ADDRESSES = st.builds(
    Address, HOSTS.map(fields.check_host), st.integers(1, 65535), st.sampled_from(["ws", "wss"])
)


@settings(deadline=None)
@given(ADDRESSES)
def test_the_url_of_an_address_parses_back(address: Address) -> None:
    """What the registry shows as a URL can be given to it again, and means the same."""
    assert fields.parse_url(address.url) == address
    assert fields.parse_declaration(f"dev={address.url}").address == address


@settings(deadline=None)
@given(st.text(alphabet="a1:.[]%-/ _\n", max_size=24))
@example("fe80::1%a]b")
def test_every_accepted_host_makes_a_url_that_parses_back(text: str) -> None:
    """No host gets in whose URL would be read differently."""
    try:
        host = fields.check_host(text)
    except InvalidValue:
        return
    assert fields.check_host(host) == host
    assert fields.parse_url(Address(host, 1, "ws").url).host == host


def test_the_url_of_an_entry_has_brackets_around_an_ipv6_address_only() -> None:
    """A colon of the address is not mistaken for the one before the port."""
    assert entry("dev", host="::1").url == "ws://[::1]:4444"
    assert entry("dev", host="a.example", protocol="wss").url == "wss://a.example:4444"


# --- declarations -------------------------------------------------------------------------------


def test_a_declaration_is_a_name_and_a_url() -> None:
    """The form of the environment gives name and address, and nothing else."""
    declaration = fields.parse_declaration("dev=wss://[::1]:4444")
    assert declaration == Declaration(name="dev", host="::1", port=4444, protocol="wss")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "backend"),
        ("dev", "backend"),
        ("ws://a:1", "backend"),
        ("dev=", "url"),
        ("dev=a:1", "url"),
        ("a=b=ws://a:1", "url"),
        ("dev= ws://a:1", "url"),
        ("dev=ws://a:0", "port"),
        ("=ws://a:1", "name"),
        (" dev=ws://a:1", "name"),
        ("a/b=ws://a:1", "name"),
    ],
)
def test_a_fault_in_a_declaration_is_named_by_its_part(text: str, field: str) -> None:
    """Without '=' the whole is wrong, otherwise the name or a part of the URL."""
    assert refusal(fields.parse_declaration, text).field == field


def test_a_table_with_all_keys_is_a_declaration() -> None:
    """Every key of the file format is taken; host and texts in the form that is stored."""
    table = {
        "name": "prod",
        "host": "[::1]",
        "port": 443,
        "protocol": "wss",
        "description": "Production",
        "namespace": "",
        "version": "1.2",
        "metadata": '{"pid":7}',
    }
    declaration = Declaration(
        name="prod",
        host="::1",
        port=443,
        protocol="wss",
        description="Production",
        version="1.2",
        metadata='{"pid":7}',
    )
    assert fields.check_declaration(table) == (declaration, [])


@pytest.mark.parametrize("value", [{"pid": 7}, 1.2, ["x"]])
@pytest.mark.parametrize("field", ["version", "metadata"])
def test_version_and_metadata_are_declared_as_texts(field: str, value: object) -> None:
    """A table or a number is a fault: what a file says is what the entry has."""
    table = {"name": "dev", "host": "a", "port": 1, field: value}
    declaration, (fault,) = fields.check_declaration(table)
    assert declaration is None
    assert fault.message.startswith(f"{field}: ")
    assert "is not accepted, expected text of at most " in fault.message


def test_declared_metadata_may_be_as_long_as_the_limits_say() -> None:
    """As that of registrations, though there it is left out and here it is a fault."""
    table = {"name": "dev", "host": "a", "port": 1, "metadata": "x" * 9}
    assert fields.check_declaration(table, fields.TextLimits(metadata=9))[1] == []
    _, (fault,) = fields.check_declaration(table, fields.TextLimits(metadata=8))
    assert fault.message.endswith("(setting max_metadata_size)")


def test_protocol_and_texts_need_not_be_declared() -> None:
    """Name, host and port are enough; the protocol is ws then."""
    declaration, faults = fields.check_declaration({"name": "dev", "host": "a", "port": 1})
    assert faults == []
    assert declaration == Declaration(name="dev", host="a", port=1, protocol="ws")


def test_every_fault_of_a_table_is_reported() -> None:
    """Unknown keys first, then every field in the order of the format, none hidden by another."""
    table = {"port": 0, "nmae": "dev", "host": "", "protocol": None, "description": 1, "2": 3}
    declaration, faults = fields.check_declaration(table)
    assert declaration is None
    assert [fault.field for fault in faults] == [
        *("nmae", "2"),
        *("name", "host", "port", "protocol", "description"),
    ]
    messages = [fault.message for fault in faults]
    accepted = "name, host, port, protocol, description, namespace, version, metadata"
    assert messages[0] == f'unknown key "nmae", expected one of {accepted}'
    assert messages[2] == "name: the key is missing"
    assert messages[4] == "port: 0 is not accepted, expected an integer from 1 to 65535"


@pytest.mark.parametrize("missing", fields.REQUIRED_FIELDS)
def test_a_table_without_a_required_key_is_refused(missing: str) -> None:
    """Name, host and port have to be there."""
    table: dict[str, object] = {"name": "dev", "host": "a", "port": 1}
    del table[missing]
    assert fields.check_declaration(table) == (
        None,
        [fields.FieldFault(missing, f"{missing}: the key is missing")],
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "b"),
        ("port", 2),
        ("protocol", "wss"),
        ("description", None),
        ("namespace", "hub"),
        ("version", "2"),
        ("metadata", "m"),
    ],
)
def test_a_declaration_describes_an_entry_that_has_all_its_fields(
    field: str, value: object
) -> None:
    """Each declared field counts, and none that a declaration cannot hold."""
    declaration = Declaration(name="dev", host="a", port=1, description="d")
    held = entry("dev", host="a", port=1, description="d", is_active=False)
    assert declaration.describes(held)
    assert not declaration.describes(msgspec.structs.replace(held, **{field: value}))


# --- entries ------------------------------------------------------------------------------------


def test_sources_rank_manual_env_file_auto() -> None:
    """The source that stands higher holds the name."""
    ranked = sorted(Source, key=lambda source: source.rank, reverse=True)
    assert ranked == [Source.MANUAL, Source.ENV, Source.FILE, Source.AUTO]
    assert all(a.rank != b.rank for a, b in itertools.combinations(Source, 2))


def test_the_json_of_an_entry_leaves_out_what_is_not_known() -> None:
    """Absent texts and an absent last_seen have no key, as the wire protocol asks (5.1)."""
    assert json.loads(msgspec.json.encode(entry("dev"))) == {
        "id": "id of dev",
        "name": "dev",
        "host": "127.0.0.1",
        "port": 4444,
        "protocol": "ws",
        "source": "manual",
        "is_active": True,
        "registered_at": 100,
        "created_at": 100,
        "updated_at": 100,
    }


def test_the_json_of_an_entry_shows_all_that_is_known() -> None:
    """Every field is a key of the same name."""
    known: dict[str, Any] = {
        "description": "d",
        "namespace": "n",
        "version": "1",
        "metadata": '{"pid":1}',
        "source": "auto",
        "is_active": False,
        "last_seen": 200,
    }
    shown_fields = json.loads(msgspec.json.encode(entry("dev", **known)))
    assert shown_fields.keys() == set(fields.Backend.__struct_fields__)
    assert shown_fields | known == shown_fields


def test_both_kinds_of_change_know_their_name() -> None:
    """A change can be sorted by the name that it concerns."""
    assert Put(entry("dev")).name == Remove("dev").name == "dev"
