# SPDX-License-Identifier: AGPL-3.0-only
"""What each kind of setting accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexus_registry.backend import Declaration
from plexus_registry.config import values
from plexus_registry.errors import InvalidValue

TEXT = values.Context(Path("/home/me"), Path(), is_text=True)
TOML = values.Context(Path("/home/me"), Path("/etc/plexus"), is_text=False)


@pytest.mark.parametrize("given", ["0", " 65535 ", "+5", "007"])
def test_integer_is_read_from_text(given: str) -> None:
    """Decimal digits in ASCII are a number."""
    assert values.integer(0, 65535)("port", given, TEXT) == int(given)


@pytest.mark.parametrize("given", ["", "x", "1_000", "٣", "65536", "-1", "9" * 5000, "1.0"])
def test_text_that_is_no_such_integer_is_refused(given: str) -> None:
    """Signs, digits and range are what the message says."""
    with pytest.raises(InvalidValue, match="expected an integer from 0 to 65535"):
        values.integer(0, 65535)("port", given, TEXT)


@pytest.mark.parametrize("given", ["1", True, 1.0, [1], None])
def test_toml_value_that_is_no_integer_is_refused(given: object) -> None:
    """In a file a number is written as a number."""
    with pytest.raises(InvalidValue):
        values.integer(0, 65535)("port", given, TOML)


@pytest.mark.parametrize(
    ("given", "context", "path"),
    [
        ("~/r.db", TOML, "/home/me/r.db"),
        ("~", TEXT, "/home/me"),
        ("r.db", TOML, "/etc/plexus/r.db"),
        ("/r.db", TOML, "/r.db"),
        ("~you/r.db", TOML, "/etc/plexus/~you/r.db"),
        ("../r.db", TEXT, str(Path.cwd() / "../r.db")),
    ],
)
def test_path_is_made_absolute(given: str, context: values.Context, path: str) -> None:
    """The tilde is the home, and relative is relative to where the value comes from."""
    assert values.path("database", given, context) == Path(path)


@pytest.mark.parametrize("given", ["", "a\0b", 1, ["/x"]])
def test_value_that_is_no_path_is_refused(given: object) -> None:
    """Neither emptiness nor a NUL character can name a file."""
    with pytest.raises(InvalidValue, match="expected the path of a file"):
        values.path("database", given, TOML)


@pytest.mark.parametrize("given", ["/", "//", "/."])
def test_path_without_a_file_name_is_refused(given: str) -> None:
    """The root is no file and has none beside it."""
    with pytest.raises(InvalidValue, match="which ends in a file name"):
        values.path("database", given, TOML)


def test_relative_path_in_a_directory_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing that it could be relative to; an absolute one is as good as ever."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidValue, match="absolute path, for the working directory is gone"):
        values.path("database", "r.db", TEXT)
    assert values.path("database", "/r.db", TEXT) == Path("/r.db")


@pytest.mark.parametrize(
    ("given", "level"), [("INFO", "info"), ("warn", "warning"), ("Trace", "debug")]
)
def test_log_level_has_any_case_and_aliases(given: str, level: str) -> None:
    """The names that Rust programs use are understood."""
    assert values.log_level("log_level", given, TEXT) == level


@pytest.mark.parametrize(
    ("filters", "level"),
    [
        ("", None),
        ("debug", "debug"),
        ("info,plexus=debug", "info"),
        ("plexus_registry=trace", None),
        ("plexus=debug, WARN", "warn"),
        ("off", None),
        ("error,debug", "debug"),
        ("info/text", "info"),
        ("=,,=/", None),
    ],
)
def test_plain_level_is_taken_out_of_rust_log(filters: str, level: str | None) -> None:
    """Filters for modules and unknown words are nothing to complain about."""
    assert values.plain_level(filters) == level


@pytest.mark.parametrize("given", ["r", "registry-hub", "Registry", "a_" * 32])
def test_hub_namespace_is_accepted(given: str) -> None:
    """Letters, digits, underscore and hyphen, the first one a letter."""
    assert values.hub_namespace("hub_namespace", given, TEXT) == given


@pytest.mark.parametrize("given", ["", "1a", "-a", "a.b", "a" * 65, "é", "a\n", 1])
def test_other_hub_namespaces_are_refused(given: object) -> None:
    """The message says which characters may be used."""
    with pytest.raises(InvalidValue, match="1 to 64 of the characters"):
        values.hub_namespace("hub_namespace", given, TOML)


def test_hub_namespace_that_hides_the_activation_is_refused_with_the_reason() -> None:
    """``registry`` is taken inside the hub."""
    with pytest.raises(InvalidValue, match="'registry' is the activation inside the hub"):
        values.hub_namespace("hub_namespace", "registry", TEXT)


def test_backend_is_a_name_and_a_url() -> None:
    """An IPv6 address loses its brackets."""
    assert values.backend("backends", "a=wss://[::1]:80", TEXT) == Declaration(
        name="a", host="::1", port=80, protocol="wss"
    )


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ("foo", "NAME=ws://HOST:PORT or NAME=wss://HOST:PORT"),
        ("a=h:1", "NAME=ws://HOST:PORT or NAME=wss://HOST:PORT"),
        ("a=http://h:1", 'NAME=ws://HOST:PORT with "ws" or "wss" as its protocol'),
        ("a=ws://h:0", "NAME=ws://HOST:PORT with an integer from 1 to 65535 as its port"),
    ],
)
def test_refused_backend_is_told_in_one_phrase(given: str, accepted: str) -> None:
    """The whole form if the form is wrong, else the part of it that is."""
    with pytest.raises(InvalidValue) as caught:
        values.backend("backends", given, TEXT)
    assert str(caught.value) == f'backends: "{given}" is not accepted, expected {accepted}'


@pytest.mark.parametrize("given", ["a", "=ws://h:1", "a=http://h:1", "a=ws://h:0", "a=ws://h", 1])
def test_other_backends_are_refused_with_the_form(given: object) -> None:
    """The message names the setting, what was given, and the form."""
    with pytest.raises(InvalidValue, match=r"^backends: .* expected NAME=ws://HOST:PORT"):
        values.backend("backends", given, TOML)


@pytest.mark.parametrize("given", ["none", "None", "", " "])
def test_backend_can_be_turned_off(given: str) -> None:
    """The word none, or nothing."""
    assert values.backend_or_off("auto_register", given, TEXT) is None


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG:443", "https://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_origin_is_as_browsers_send_it(given: str, origin: str) -> None:
    """Lower case, and without the port that the scheme implies."""
    assert values.origin("allowed_origins", given, TEXT) == origin


@pytest.mark.parametrize(
    "given", ["*", "null", "example.org", "http://", "http://a/", "http://a:0", "http://a b", 1]
)
def test_other_origins_are_refused(given: object) -> None:
    """A path, a wildcard or a lacking scheme would never match."""
    with pytest.raises(InvalidValue, match="expected scheme://host or scheme://host:port"):
        values.origin("allowed_origins", given, TOML)
