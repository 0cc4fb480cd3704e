# SPDX-License-Identifier: AGPL-3.0-only
"""The view that answers reads: its order, its pages, and how uncommitted changes look on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexus_registry.backend import Change, Put, Remove, Source
from plexus_registry.catalog import Catalog, Overlay
from plexus_registry.errors import AnswerTooLarge, InvalidValue
from support.memory import MemoryStore, entry


def names(listing: bytes) -> list[str]:
    """Return the names of a JSON listing, in its order."""
    return [backend["name"] for backend in json.loads(listing)]


def catalog_of(*listed: str, inactive: Iterable[str] = ()) -> Catalog:
    """Return a catalog with entries of these names, the oldest first."""
    return Catalog(entry(name, is_active=name not in inactive) for name in listed)


NAMES = "abcdef"
CHANGES = st.lists(
    st.one_of(
        st.builds(
            lambda name, port, is_active, source: Put(
                entry(name, port=port, is_active=is_active, source=source)
            ),
            st.sampled_from(NAMES),
            st.integers(1, 65535),
            st.booleans(),
            st.sampled_from(Source),
        ),
        st.builds(Remove, st.sampled_from(NAMES)),
    ),
    max_size=16,
)


# --- entries ------------------------------------------------------------------------------------


def test_an_empty_catalog_lists_nothing() -> None:
    """Without entries a listing is an empty array, and no name is known."""
    catalog = Catalog()
    assert catalog.list_json() == b"[]"
    assert catalog.get("dev") is None
    assert catalog.get_json("dev") is None
    assert len(catalog) == 0


def test_an_entry_is_found_by_its_name() -> None:
    """Both as a backend and as the JSON that goes into an answer."""
    catalog = catalog_of("dev", "prod")
    assert catalog.get("dev") == entry("dev")
    assert json.loads(catalog.get_json("dev") or b"")["name"] == "dev"
    assert catalog.get("DEV") is None
    assert len(catalog) == 2


def test_the_json_of_an_entry_follows_its_changes() -> None:
    """The encoded form is kept, but never longer than what it shows."""
    catalog = catalog_of("dev")
    before = catalog.get_json("dev")
    assert catalog.get_json("dev") is before
    catalog.apply([Put(entry("dev", port=4500))])
    assert json.loads(catalog.get_json("dev") or b"")["port"] == 4500
    catalog.apply([Remove("dev")])
    assert catalog.get_json("dev") is None


def test_removing_an_unknown_name_changes_nothing() -> None:
    """The change is allowed and means nothing."""
    catalog = catalog_of("dev")
    catalog.apply([Remove("nobody")])
    assert list(catalog) == [entry("dev")]


def test_entries_are_counted_by_source() -> None:
    """Sources without entries have no count."""
    catalog = Catalog([entry("a"), entry("b", source=Source.FILE), entry("c", source=Source.FILE)])
    assert catalog.count_by_source() == {Source.MANUAL: 1, Source.FILE: 2}


@given(CHANGES)
def test_counts_are_those_of_the_entries(changes: list[Change]) -> None:
    """Whatever happened to entries, counts and revision follow."""
    catalog = Catalog()
    for change in changes:
        revision = catalog.revision
        catalog.apply([change])
        assert catalog.revision != revision
        for active in (True, False):
            expected = Counter(it.source for it in catalog if it.is_active is active)
            assert catalog.count_by_source(active=active) == expected
        assert catalog.count_by_source() == Counter(it.source for it in catalog)
        assert catalog.count_active() == sum(it.is_active for it in catalog)


# --- order --------------------------------------------------------------------------------------


def test_a_listing_has_the_newest_insertion_first() -> None:
    """What came last stands first, also among entries of one second."""
    assert names(catalog_of("a", "b", "c").list_json()) == ["c", "b", "a"]


def test_a_clock_that_steps_back_does_not_change_the_order() -> None:
    """The place decides, not the time that the entry shows."""
    catalog = Catalog([entry("early", created_at=200), entry("late", created_at=100)])
    assert names(catalog.list_json()) == ["late", "early"]


def test_a_replaced_entry_keeps_its_place() -> None:
    """A ping or an update does not move an entry."""
    catalog = catalog_of("a", "b", "c")
    catalog.apply([Put(entry("a", last_seen=200))])
    assert names(catalog.list_json()) == ["c", "b", "a"]
    assert names(catalog.list_json(after="b")) == ["a"]
    assert [backend.name for backend in catalog] == ["a", "b", "c"]


def test_an_entry_that_left_and_came_back_is_the_newest() -> None:
    """Even if it does both in one step."""
    catalog = catalog_of("a", "b", "c")
    catalog.apply([Remove("a"), Put(entry("a"))])
    assert names(catalog.list_json()) == ["a", "c", "b"]
    assert names(catalog.list_json(after="a", limit=1)) == ["c"]


def test_inactive_entries_are_listed_only_if_asked_for() -> None:
    """By default a listing shows who can be reached."""
    catalog = catalog_of("a", "b", "c", inactive={"b"})
    assert names(catalog.list_json()) == ["c", "a"]
    assert names(catalog.list_json(active_only=False)) == ["c", "b", "a"]


def test_a_whole_listing_is_encoded_once() -> None:
    """Asked again without a change in between, the same bytes are returned."""
    catalog = catalog_of("a", "b", inactive={"b"})
    active, all_of_them = catalog.list_json(), catalog.list_json(active_only=False)
    assert active != all_of_them
    assert catalog.list_json() is active
    assert catalog.list_json(active_only=False) is all_of_them


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        (Put(entry("c")), ["c", "b", "a"]),
        (Put(entry("a", is_active=False)), ["b"]),
        (Remove("b"), ["a"]),
    ],
    ids=["added", "replaced", "removed"],
)
def test_a_listing_is_encoded_anew_after_a_change(change: Change, listed: list[str]) -> None:
    """No kind of change is hidden by what was encoded before."""
    catalog = catalog_of("a", "b")
    catalog.list_json()
    catalog.list_json(active_only=False, limit=1)
    catalog.apply([change])
    assert names(catalog.list_json()) == listed


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "after", "listed"),
    [
        (None, None, ["e", "c", "a"]),
        (0, None, []),
        (2, None, ["e", "c"]),
        (99, None, ["e", "c", "a"]),
        (None, "e", ["c", "a"]),
        (1, "e", ["c"]),
        (1, "d", ["c"]),
        (None, "c", ["a"]),
        (None, "a", []),
        (0, "e", []),
    ],
)
def test_limit_and_after_cut_a_listing(
    limit: int | None, after: str | None, listed: list[str]
) -> None:
    """`after` may be inactive; entries that are left out do not count towards the limit."""
    catalog = catalog_of("a", "b", "c", "d", "e", inactive={"b", "d"})
    assert names(catalog.list_json(limit=limit, after=after)) == listed


def test_after_an_unknown_name_there_is_no_page() -> None:
    """An empty page would look like the end, so it is refused."""
    with pytest.raises(InvalidValue) as caught:
        catalog_of("a").list_json(after="nobody")
    assert str(caught.value) == (
        'after: "nobody" is not accepted, expected the name of a backend in the registry'
    )


@settings(deadline=None)
@given(CHANGES, st.integers(1, 5), st.booleans())
def test_pages_cover_everything_exactly_once(
    changes: list[Change], limit: int, active_only: bool
) -> None:
    """Who asks for the page after the last name that was listed sees the whole listing."""
    catalog = Catalog()
    catalog.apply(changes)
    seen: list[str] = []
    after = None
    while page := names(catalog.list_json(active_only=active_only, limit=limit, after=after)):
        assert len(page) <= limit
        seen += page
        after = page[-1]
    assert seen == names(catalog.list_json(active_only=active_only))


def test_a_change_between_pages_neither_repeats_nor_hides_another_entry() -> None:
    """Pages hang on a name, not on a number: what is added or removed meanwhile moves nothing."""
    catalog = catalog_of("a", "b", "c", "d")
    first = names(catalog.list_json(limit=2))
    catalog.apply([Put(entry("e")), Remove("d"), Put(entry("c", is_active=False))])
    assert first + names(catalog.list_json(after=first[-1])) == ["d", "c", "b", "a"]


def test_a_single_entry_is_listed_whatever_its_size() -> None:
    """Nobody could get past it otherwise; two of them are too much."""
    catalog = catalog_of("a", "b", "c")
    for after, listed in ((None, ["c"]), ("c", ["b"]), ("b", ["a"])):
        assert names(catalog.list_json(limit=1, after=after, max_bytes=100)) == listed
    assert names(catalog.list_json(after="b", max_bytes=100)) == ["a"]
    with pytest.raises(AnswerTooLarge):
        catalog.list_json(limit=2, max_bytes=100)


# --- changes that are not committed -------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(CHANGES, CHANGES)
def test_an_overlay_shows_what_the_catalog_would_show(
    committed: list[Change], pending: list[Change]
) -> None:
    """Every entry and their order are as if the changes were made already, but they are not."""
    expected, catalog = Catalog(), Catalog()
    expected.apply([*committed, *pending])
    catalog.apply(committed)
    before = list(catalog)
    overlay = Overlay(catalog)
    for change in pending:
        overlay.apply([change])
    assert list(overlay) == list(expected)
    assert list(map(overlay.get, NAMES)) == list(map(expected.get, NAMES))
    assert list(catalog) == before


@settings(deadline=None, max_examples=300)
@given(CHANGES, CHANGES)
def test_the_changes_of_an_overlay_lead_to_what_it_shows(
    committed: list[Change], pending: list[Change]
) -> None:
    """Catalog and store come to the same entries in the same order, with few changes."""
    expected, catalog = Catalog(), Catalog()
    expected.apply([*committed, *pending])
    catalog.apply(committed)
    store = MemoryStore(catalog)
    overlay = Overlay(catalog)
    overlay.apply(pending)
    changes = overlay.changes()
    catalog.apply(changes)
    store.commit(changes)
    assert list(catalog) == list(expected) == store.load()
    assert len(changes) <= 2 * len({change.name for change in pending})
    assert catalog.list_json(active_only=False) == expected.list_json(active_only=False)


def test_an_overlay_without_changes_is_the_catalog() -> None:
    """It shows the same and there is nothing to write."""
    catalog = catalog_of("a", "b")
    overlay = Overlay(catalog)
    assert list(overlay) == list(catalog)
    assert overlay.changes() == []
