# SPDX-License-Identifier: AGPL-3.0-only
"""What each operation means, row by row, and the whole of it against a simple model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plexus_registry.backend import Backend, Declaration, Put, Remove, Source
from plexus_registry.catalog import Catalog
from plexus_registry.errors import quote
from plexus_registry.rules import (
    AutoRegister,
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Decision,
    Declare,
    Delete,
    Deregister,
    Event,
    Failed,
    Ping,
    Pinged,
    Register,
    Reloaded,
    Request,
    Terms,
    Update,
    decide,
)
from support.memory import entry
from support.model import DECLARES, NAMES, PORTS, REGISTERS, UPDATES, Entry, Model, ids

NOW = 500
"""When requests are made; `entry` makes entries of second 100."""


def decided(*held: Backend, request: Request) -> Decision:
    """Decide *request* on the entries *held*, which must not change by it."""
    catalog = Catalog(held)
    decision = decide(catalog, request, Terms(NOW, lambda: "new id"))
    assert list(catalog) == list(held)
    return decision


def stored(*held: Backend, request: Request) -> Backend:
    """Return the entry that *request* writes, which must be the one that the answer shows."""
    decision = decided(*held, request=request)
    assert isinstance(decision.event, BackendRegistered | BackendUpdated)
    assert decision.changes == (Put(decision.event.backend),)
    return decision.event.backend


def refused(*held: Backend, request: Request) -> str:
    """Return the message with which *request* is refused, which must change nothing."""
    decision = decided(*held, request=request)
    assert isinstance(decision.event, Failed)
    assert decision.changes == ()
    return decision.event.message


def register(name: str = "dev", *, port: int = 4444, **fields: Any) -> Register:
    """Return the registration of what `entry` makes."""
    return Register(name=name, host="127.0.0.1", port=port, **fields)


def declaration(name: str, *, port: int = 4444, **fields: Any) -> Declaration:
    """Return the declaration of what `entry` makes."""
    return Declaration(name=name, host="127.0.0.1", port=port, **fields)


def declare(
    *, env: tuple[Declaration, ...] = (), file: tuple[Declaration, ...] | None = ()
) -> Declare:
    """Return the request that follows these declarations."""
    return Declare(
        env={one.name: one for one in env},
        file=None if file is None else {one.name: one for one in file},
    )


# --- register -----------------------------------------------------------------------------------


def test_register_of_a_free_name_makes_a_manual_entry() -> None:
    """It has an id of its own, three equal times, and has not been seen yet."""
    made = stored(entry("other"), request=register())
    assert made == entry(
        "dev", id="new id", registered_at=NOW, created_at=NOW, updated_at=NOW, last_seen=None
    )


def test_register_stores_all_that_is_given() -> None:
    """Texts as they are, metadata as JSON text, an IPv6 address without brackets."""
    request = Register(
        name="dev",
        host="[::1]",
        port=443,
        protocol="wss",
        description="Development",
        namespace="substrate",
        version="1.2",
        metadata={"pid": 7},
    )
    made = stored(request=request)
    assert made.url == "wss://[::1]:443"
    assert (made.description, made.namespace, made.version, made.metadata) == (
        *("Development", "substrate", "1.2"),
        '{"pid":7}',
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, 'name: "a b" is not accepted'),
        ({"host": ""}, 'host: "" is not accepted'),
        ({"port": 0}, "port: 0 is not accepted"),
        ({"protocol": ""}, 'protocol: "" is not accepted'),
        ({"protocol": "http"}, 'protocol: "http" is not accepted'),
        ({"description": "\x00"}, 'description: "\\u0000" is not accepted'),
        ({"namespace": "x" * 257}, 'namespace: "xxx'),
    ],
)
@pytest.mark.parametrize("source", [Source.MANUAL, Source.AUTO])
def test_register_refuses_a_field_that_is_not_accepted(
    fields: dict[str, Any], message: str, source: Source
) -> None:
    """The error event says which; an entry of the name stays as it is."""
    given: dict[str, Any] = {"name": "dev", "host": "a", "port": 1, "source": source} | fields
    assert refused(entry("dev"), request=Register(**given)).startswith(
        f"Failed to register backend: {message}"
    )


@pytest.mark.parametrize(
    "extra",
    [{"version": "x" * 129}, {"version": "\x00"}, {"metadata": {"text": "x" * 16384}}],
    ids=["long version", "odd version", "long metadata"],
)
@pytest.mark.parametrize("source", [Source.MANUAL, Source.AUTO])
def test_register_leaves_out_extras_that_cannot_be_stored(
    extra: dict[str, Any], source: Source
) -> None:
    """What hubs send besides never fails their registration; the answer shows what was taken."""
    made = stored(request=register(source=source, **extra))
    assert (made.version, made.metadata) == (None, None)
    held = entry("dev", source=source, version="1", metadata="old")
    again = stored(held, request=register(source=source, **extra))
    assert (again.version, again.metadata) == ("1", "old")


FULL: dict[str, Any] = {
    "description": "old text",
    "namespace": "old space",
    "version": "old version",
    "metadata": "old metadata",
}


@pytest.mark.parametrize("held", Source)
def test_register_at_the_same_address_refreshes_the_entry_as_manual(held: Source) -> None:
    """Whoever held it: same id and birth, seen now, active, and what is absent is kept."""
    before = entry("dev", source=held, is_active=False, last_seen=200, **FULL)
    assert stored(before, request=register()) == entry(
        "dev", source=Source.MANUAL, is_active=True, last_seen=NOW, updated_at=NOW, **FULL
    )


@pytest.mark.parametrize("field", FULL)
def test_register_again_takes_a_field_that_is_given(field: str) -> None:
    """One field changes, the others stay."""
    after = stored(entry("dev", **FULL), request=register(**dict[str, Any]({field: "new"})))
    assert {key: getattr(after, key) for key in FULL} == FULL | {field: "new"}


@pytest.mark.parametrize("field", FULL)
def test_register_again_with_an_empty_text_keeps_the_field(field: str) -> None:
    """Clearing is what update is for; a hub that knows no text says nothing by it."""
    after = stored(entry("dev", **FULL), request=register(**dict[str, Any]({field: ""})))
    assert {key: getattr(after, key) for key in FULL} == FULL


@pytest.mark.parametrize(
    "changed", [{"host": "::1"}, {"port": 4500}, {"protocol": "wss"}], ids=["host", "port", "tls"]
)
@pytest.mark.parametrize("is_active", [True, False], ids=["active", "inactive"])
def test_register_of_a_manual_name_at_another_address_is_refused(
    changed: dict[str, Any], is_active: bool
) -> None:
    """The message names the address that stands, and the way to change it."""
    held = entry("dev", is_active=is_active, **changed)
    assert refused(held, request=register(description="new")) == (
        f"Failed to register backend: dev is already registered at {held.url};"
        " use update to change its address"
    )


def test_the_address_that_stands_is_quoted_if_it_is_no_plain_word() -> None:
    """The Rust program never validated: its database may hold hosts with anything in them."""
    held = entry("dev", host="x" * 1000 + "\n")
    assert f"registered at {quote(held.url)}; use" in refused(held, request=register())


@pytest.mark.parametrize("held", [Source.AUTO, Source.FILE, Source.ENV])
def test_register_takes_a_name_over_from_a_lower_source(held: Source) -> None:
    """The address is the new one, the id and the birth stay, the source becomes manual."""
    before = entry("dev", source=held, description="declared")
    assert stored(before, request=register(port=4500, protocol="wss")) == entry(
        "dev",
        port=4500,
        protocol="wss",
        description="declared",
        last_seen=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize(
    ("held", "request_", "is_refresh"),
    [
        ([], register(), False),
        ([entry("dev")], register(), True),
        ([entry("dev", last_seen=200)], register(), True),
        ([entry("dev", **FULL)], register(**FULL), True),
        ([entry("dev")], register(description="new"), False),
        ([entry("dev")], register(version="new"), False),
        ([entry("dev")], register(version="x" * 129), True),
        ([entry("dev", is_active=False)], register(), False),
        ([entry("dev", source=Source.FILE)], register(), False),
        ([entry("dev")], register(port=1, source=Source.AUTO), True),
        ([entry("dev", is_active=False)], register(source=Source.AUTO), False),
        ([entry("dev", source=Source.AUTO)], register(source=Source.AUTO), True),
        ([entry("dev", source=Source.AUTO)], register(port=1, source=Source.AUTO), False),
        ([entry("dev")], Update(name="dev"), True),
        ([entry("dev")], Update(name="dev", port=4444, description=""), True),
        ([entry("dev")], Update(name="dev", port=1), False),
        ([entry("dev", source=Source.AUTO)], Update(name="dev"), False),
        ([entry("dev")], Delete("dev"), False),
        ([entry("dev")], Deregister("dev"), False),
    ],
)
def test_what_says_the_same_again_is_a_refresh(
    held: list[Backend], request_: Request, is_refresh: bool
) -> None:
    """The times are written all the same; whatever else differs makes it a change."""
    decision = decided(*held, request=request_)
    assert decision.changes
    assert decision.is_refresh is is_refresh


# --- register with source "auto" ----------------------------------------------------------------


def test_an_announcement_of_a_free_name_makes_an_auto_entry() -> None:
    """It is registered like any other, from a source that every other one may take over."""
    made = stored(request=register(source=Source.AUTO, version="1"))
    assert made == entry(
        "dev",
        id="new id",
        source=Source.AUTO,
        version="1",
        registered_at=NOW,
        created_at=NOW,
        updated_at=NOW,
    )


def test_an_announcement_of_an_auto_name_follows_the_hub() -> None:
    """A hub that comes back elsewhere is not punished for it; what it leaves out is kept."""
    before = entry("dev", source=Source.AUTO, is_active=False, version="1", description="old")
    after = stored(before, request=register(port=4500, source=Source.AUTO, version="2"))
    assert after == entry(
        "dev",
        port=4500,
        source=Source.AUTO,
        version="2",
        description="old",
        last_seen=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize("held", [Source.FILE, Source.ENV, Source.MANUAL])
@pytest.mark.parametrize("port", [4444, 4500], ids=["same address", "other address"])
def test_an_announcement_of_a_name_set_on_purpose_is_a_sign_of_life(
    held: Source, port: int
) -> None:
    """The entry stands and is the answer; only last_seen changes, and it is active again."""
    before = entry("dev", source=held, is_active=False, description="set")
    after = stored(before, request=register(port=port, source=Source.AUTO, description="hub"))
    assert after == msgspec.structs.replace(before, is_active=True, last_seen=NOW)


# --- update -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("host", "[::1]", "::1"),
        ("port", 4500, 4500),
        ("protocol", "wss", "wss"),
        ("description", "new", "new"),
        ("namespace", "new", "new"),
        ("version", "new", "new"),
        ("metadata", "new", "new"),
        ("metadata", {"pid": 7}, '{"pid":7}'),
        ("description", "", None),
        ("namespace", "", None),
        ("version", "", None),
        ("metadata", "", None),
    ],
)
def test_update_changes_what_is_given_and_the_time_of_change(
    field: str, given: Any, kept: Any
) -> None:
    """An empty text clears; all else, last_seen and is_active too, stays as it was."""
    before = entry("dev", is_active=False, last_seen=200, **FULL)
    after = stored(before, request=Update(name="dev", **{field: given}))
    assert after == msgspec.structs.replace(before, **{field: kept}, updated_at=NOW)


@pytest.mark.parametrize("held", Source)
def test_update_makes_any_entry_manual(held: Source) -> None:
    """Who changes an entry by hand wants it to stay: no file takes it back."""
    after = stored(entry("dev", source=held), request=Update(name="dev"))
    assert after == entry("dev", source=Source.MANUAL, updated_at=NOW)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": ""}, 'host: ""'),
        ({"port": 0}, "port: 0"),
        ({"protocol": ""}, 'protocol: ""'),
        ({"description": "\x00"}, 'description: "\\u0000"'),
        ({"namespace": "x" * 257}, 'namespace: "xxx'),
        ({"version": "x" * 129}, 'version: "xxx'),
        ({"metadata": "x" * 16385}, 'metadata: "xxx'),
    ],
)
def test_update_refuses_a_field_that_is_not_accepted(fields: dict[str, Any], message: str) -> None:
    """One field that is wrong stops the others too."""
    request = Update(name="dev", **({"description": "new"} | fields))
    assert refused(entry("dev"), request=request).startswith(f"Failed to update backend: {message}")


# --- delete, ping, deregister ---------------------------------------------------------------------


@pytest.mark.parametrize("held", Source)
def test_delete_removes_the_entry(held: Source) -> None:
    """Whatever its source, and whether active or not."""
    decision = decided(entry("dev", source=held, is_active=False), request=Delete("dev"))
    assert decision == Decision(BackendDeleted("dev"), (Remove("dev"),))


@pytest.mark.parametrize("is_active", [True, False], ids=["active", "inactive"])
def test_ping_records_a_sign_of_life(is_active: bool) -> None:
    """last_seen is now, updated_at is not touched, an inactive entry is active again."""
    before = entry("dev", is_active=is_active, source=Source.FILE, **FULL)
    assert decided(before, request=Ping("dev")) == Decision(
        Pinged("dev", True, "Backend health check updated"),
        (Put(msgspec.structs.replace(before, is_active=True, last_seen=NOW)),),
        is_refresh=is_active,
    )


def test_ping_of_an_unknown_name_does_not_succeed() -> None:
    """It is an answer of its own kind, no error."""
    assert decided(request=Ping("nobody")) == Decision(
        Pinged("nobody", False, "Backend not found: nobody")
    )


@pytest.mark.parametrize("held", Source)
def test_deregister_keeps_the_entry_inactive(held: Source) -> None:
    """A hub says good-bye: what is known of it stays, for its return."""
    before = entry("dev", source=held, last_seen=200, **FULL)
    assert decided(before, request=Deregister("dev")) == Decision(
        BackendDeregistered("dev"),
        (Put(msgspec.structs.replace(before, is_active=False, updated_at=NOW)),),
    )


def test_deregister_twice_is_confirmed_twice() -> None:
    """There is nothing to write the second time."""
    assert decided(entry("dev", is_active=False), request=Deregister("dev")) == Decision(
        BackendDeregistered("dev")
    )


@pytest.mark.parametrize("request_of", [Delete, Deregister, lambda name: Update(name=name)])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nobody", "nobody"),
        ("größe", "größe"),
        ("", '""'),
        ("two\nlines", '"two\\nlines"'),
        ("x" * 1_000_000, f'"{"x" * 80}"… (1000000 characters)'),
    ],
    ids=["plain", "beyond ASCII", "empty", "lines", "long"],
)
def test_an_unknown_name_is_an_error_that_shows_it(
    request_of: Callable[[str], Request], name: str, shown: str
) -> None:
    """Bounded and on one line, whatever was asked for."""
    assert refused(entry("dev"), request=request_of(name)) == f"Backend not found: {shown}"


# --- declarations -------------------------------------------------------------------------------


def test_declarations_are_added_changed_and_removed() -> None:
    """All at once, and the answer counts each kind; what is undeclared goes."""
    held = (
        entry("same", source=Source.FILE),
        entry("moved", source=Source.FILE, is_active=False, last_seen=200),
        entry("gone", source=Source.FILE),
    )
    request = declare(
        file=(declaration("same"), declaration("moved", port=4500), declaration("new"))
    )
    assert decided(*held, request=request) == Decision(
        Reloaded(count=1, updated=1, removed=1, unchanged=1),
        (
            Put(msgspec.structs.replace(held[1], port=4500, is_active=True, updated_at=NOW)),
            Put(
                entry(
                    "new",
                    id="new id",
                    source=Source.FILE,
                    registered_at=NOW,
                    created_at=NOW,
                    updated_at=NOW,
                )
            ),
            Remove("gone"),
        ),
        added=frozenset({"new"}),
    )


def test_declared_texts_are_followed_too() -> None:
    """A text that is no longer declared is no longer there."""
    held = entry("dev", source=Source.FILE, **FULL)
    new: dict[str, Any] = {"description": "new", "version": "2"}
    (change,) = decided(held, request=declare(file=(declaration("dev", **new),))).changes
    assert change == Put(entry("dev", source=Source.FILE, **new, updated_at=NOW))


def test_declarations_that_are_followed_already_change_nothing() -> None:
    """A second reload adds, changes and removes nothing; an inactive entry stays inactive."""
    held = (
        entry("a", source=Source.FILE, is_active=False),
        entry("b", source=Source.ENV),
        entry("c", source=Source.MANUAL, port=4500),
    )
    request = declare(env=(declaration("b"),), file=(declaration("a"), declaration("c")))
    assert decided(*held, request=request) == Decision(
        Reloaded(count=0, updated=0, removed=0, unchanged=3)
    )


@pytest.mark.parametrize("port", [4444, 4500], ids=["same address", "other address"])
@pytest.mark.parametrize("source", [Source.FILE, Source.ENV])
def test_a_declaration_takes_an_auto_name_over(source: Source, port: int) -> None:
    """What somebody declares stands above what a hub announced; the id stays."""
    declared = (declaration("dev", port=port),)
    request = declare(env=declared) if source is Source.ENV else declare(file=declared)
    decision = decided(entry("dev", source=Source.AUTO), request=request)
    assert decision == Decision(
        Reloaded(count=0, updated=1, removed=0, unchanged=0),
        (Put(entry("dev", port=port, source=source, updated_at=NOW)),),
    )


@pytest.mark.parametrize("held", [None, Source.FILE, Source.ENV])
def test_the_environment_stands_above_the_file(held: Source | None) -> None:
    """A name that both declare is the environment's, whoever held it."""
    before = () if held is None else (entry("dev", source=held),)
    request = declare(env=(declaration("dev", port=1),), file=(declaration("dev", port=2),))
    (change,) = decided(*before, request=request).changes
    assert isinstance(change, Put)
    assert (change.backend.port, change.backend.source) == (1, Source.ENV)


def test_the_file_gets_a_name_that_the_environment_lets_go() -> None:
    """The entry stays, with its id, as the file declares it."""
    decision = decided(
        entry("dev", source=Source.ENV, port=1), request=declare(file=(declaration("dev", port=2),))
    )
    assert decision == Decision(
        Reloaded(count=0, updated=1, removed=0, unchanged=0),
        (Put(entry("dev", source=Source.FILE, port=2, updated_at=NOW)),),
    )


def test_without_a_file_its_entries_stay() -> None:
    """A file that vanished removes nothing; the environment is followed all the same."""
    held = (
        entry("f", source=Source.FILE),
        entry("e", source=Source.ENV),
        entry("both", source=Source.FILE),
    )
    request = declare(env=(declaration("both"),), file=None)
    assert decided(*held, request=request) == Decision(
        Reloaded(count=0, updated=1, removed=1, unchanged=0),
        (Put(entry("both", source=Source.ENV, updated_at=NOW)), Remove("e")),
    )


def test_an_empty_declaration_removes_what_was_declared_and_nothing_else() -> None:
    """Manual and auto entries are nobody's declarations."""
    held = [entry(source.value, source=source) for source in Source]
    decision = decided(*held, request=declare())
    assert decision.event == Reloaded(count=0, updated=0, removed=2, unchanged=0)
    assert sorted(change.name for change in decision.changes) == ["env", "file"]


def test_a_declaration_leaves_a_manual_entry_alone() -> None:
    """A runtime registration stands above both file and environment."""
    declared = (declaration("dev", port=4500),)
    request = declare(env=declared, file=declared)
    assert decided(entry("dev"), request=request) == Decision(
        Reloaded(count=0, updated=0, removed=0, unchanged=1)
    )


# --- the local hub ------------------------------------------------------------------------------


def test_the_local_hub_gets_a_free_name() -> None:
    """As an auto entry, which everything else may take over."""
    made = stored(request=AutoRegister(declaration("plexus")))
    assert made == entry(
        "plexus",
        id="new id",
        source=Source.AUTO,
        registered_at=NOW,
        created_at=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize("held", Source)
def test_the_local_hub_leaves_a_name_that_is_held(held: Source) -> None:
    """Even to an entry of its own kind, active or not."""
    before = entry("plexus", source=held, port=4500, is_active=False)
    assert decided(before, request=AutoRegister(declaration("plexus"))) == Decision(
        BackendRegistered(before)
    )


# --- precedence ---------------------------------------------------------------------------------


def asking(source: Source, held: Source, wanted: Declaration) -> Request:
    """Return how *source* asks for a name, while who declared the held entry still does."""
    if source is Source.AUTO or source is Source.MANUAL:
        return register(wanted.name, port=wanted.port, source=source)
    declared = {held: (declaration(wanted.name),), source: (wanted,)}
    return declare(env=declared.get(Source.ENV, ()), file=declared.get(Source.FILE, ()))


@pytest.mark.parametrize("held", Source)
@pytest.mark.parametrize("asked", Source)
def test_the_higher_source_wins_the_name(held: Source, asked: Source) -> None:
    """Manual > env > file > auto; among equals the later, save that manual has to use update."""
    before = entry("dev", source=held)
    request = asking(asked, held, declaration("dev", port=4500))
    catalog = Catalog([before])
    catalog.apply(decided(before, request=request).changes)
    after = catalog.get("dev")
    assert after
    wins = asked.rank >= held.rank and not asked is held is Source.MANUAL
    assert (after.port, after.source) == ((4500, asked) if wins else (4444, held))
    assert after.id == before.id


# --- events -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (BackendDeleted("a"), {"type": "backend_deleted", "name": "a"}),
        (BackendDeregistered("a"), {"type": "backend_deregistered", "name": "a"}),
        (Failed("no"), {"type": "error", "message": "no"}),
        (
            Pinged("a", True, "yes"),
            {"type": "ping", "name": "a", "success": True, "message": "yes"},
        ),
        (
            Reloaded(count=1, updated=2, removed=3, unchanged=4),
            {"type": "reloaded", "count": 1, "updated": 2, "removed": 3, "unchanged": 4},
        ),
        (
            BackendRegistered(entry("a")),
            {"type": "backend_registered", "backend": msgspec.to_builtins(entry("a"))},
        ),
        (
            BackendUpdated(entry("a")),
            {"type": "backend_updated", "backend": msgspec.to_builtins(entry("a"))},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_encodes_to_the_content_of_the_answer(
    event: Event, content: dict[str, Any]
) -> None:
    """The JSON is that of the wire protocol (5.2), the type first."""
    encoded = msgspec.json.encode(event)
    assert json.loads(encoded) == content
    assert encoded.startswith(b'{"type":"')


# --- all of it against a model --------------------------------------------------------------------


class Rules(RuleBasedStateMachine):
    """Whatever is asked in whatever order, rules and model agree on answers and entries."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog()
        self.model = Model()
        self.now = 100
        self.new_id = ids()

    def ask(self, request: Request, expected: Entry) -> None:
        """Decide a request, compare the answer, and apply the changes."""
        before = list(self.catalog)
        decision = decide(self.catalog, request, Terms(self.now, self.new_id))
        assert list(self.catalog) == before
        event = msgspec.to_builtins(decision.event)
        event.pop("message", None)
        assert event == expected
        self.catalog.apply(decision.changes)

    @invariant()
    def entries_agree(self) -> None:
        """Nothing but what the answers tell has changed, nor has the order."""
        assert [msgspec.to_builtins(held) for held in self.catalog] == list(
            self.model.entries.values()
        )
        self.now += 1

    @rule(request=REGISTERS)
    def register(self, request: Register) -> None:
        """Register by hand or by announcement."""
        self.ask(request, self.model.register(request, self.now))

    @rule(request=UPDATES)
    def update(self, request: Update) -> None:
        """Update any of the fields."""
        self.ask(request, self.model.update(request, self.now))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Delete a name, known or not."""
        self.ask(Delete(name), self.model.delete(name))

    @rule(name=NAMES)
    def ping(self, name: str) -> None:
        """Ping a name, known or not."""
        self.ask(Ping(name), self.model.ping(name, self.now))

    @rule(name=NAMES)
    def deregister(self, name: str) -> None:
        """Deregister a name, known or not."""
        self.ask(Deregister(name), self.model.deregister(name, self.now))

    @rule(request=DECLARES)
    def declare(self, request: Declare) -> None:
        """Reload with other declarations, or with a file that vanished."""
        self.ask(request, self.model.declare(request, self.now))

    @rule(name=NAMES, port=PORTS)
    def auto_register(self, name: str, port: int) -> None:
        """Start again, with a local hub."""
        hub = declaration(name, port=port)
        self.ask(AutoRegister(hub), self.model.auto_register(hub, self.now))


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
