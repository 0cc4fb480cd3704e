# SPDX-License-Identifier: AGPL-3.0-only
"""Who may write: trust, policy and tokens, without sockets or files."""

from __future__ import annotations

import hashlib

import pytest

from plexus_registry.access import Access, Client, Policy, Trust, digest_of

TOKENS = {"ci": digest_of("right"), "other": digest_of("another")}
REMOTE = Client("192.0.2.7:40000")
LOCAL = Client("127.0.0.1:40000", Trust.LOCAL)
OWNER = Client("unix:pid=1,uid=0", Trust.OWNER)


@pytest.mark.parametrize(
    ("policy", "may_write"),
    [
        (Policy.LOCAL, {LOCAL, OWNER}),
        (Policy.TOKEN, {OWNER}),
        (Policy.OPEN, {REMOTE, LOCAL, OWNER}),
    ],
)
def test_policy_says_who_needs_no_token(policy: Policy, may_write: set[Client]) -> None:
    """Everybody else needs one, and is told so."""
    access = Access(policy, tokens=TOKENS)
    for client in (REMOTE, LOCAL, OWNER):
        assert (access.refusal(client) is None) is (client in may_write)


def test_writing_is_for_this_machine_unless_said_otherwise() -> None:
    """The default is the policy local, with no tokens."""
    access = Access()
    assert access.policy is Policy.LOCAL
    assert access.refusal(LOCAL) is None
    assert access.refusal(REMOTE) == (
        "writing needs a token from 192.0.2.7:40000 (policy local: only loopback and Unix sockets"
        " do without); send Authorization: Bearer TOKEN, made by plexus-registryctl token new"
    )


@pytest.mark.parametrize("given", [{"bearer": "right"}, {"cookie": "right"}])
def test_right_token_lets_anybody_write_and_is_named_in_the_log(given: dict[str, str]) -> None:
    """As a header or as a cookie; the token itself is not kept."""
    access = Access(tokens=TOKENS)
    client = access.identify(REMOTE, **given)
    assert client is not None
    assert access.refusal(client) is None
    assert client.label == "192.0.2.7:40000,token=ci"
    assert "right" not in repr(client)


def test_right_token_counts_beside_a_wrong_one() -> None:
    """Synapse may send a header and a cookie."""
    access = Access(tokens=TOKENS)
    for given in ({"bearer": "wrong", "cookie": "right"}, {"bearer": "right", "cookie": "wrong"}):
        client = access.identify(REMOTE, **given)
        assert client is not None
        assert access.refusal(client) is None


def test_wrong_header_is_told_at_once_and_a_wrong_cookie_when_it_matters() -> None:
    """A cookie may be meant for another program on the same host: reading goes on."""
    access = Access(tokens=TOKENS)
    assert access.identify(REMOTE, bearer="wrong") is None
    assert access.identify(REMOTE, bearer="wrong", cookie="wrong") is None
    client = access.identify(REMOTE, cookie="wrong")
    assert client is not None
    refusal = access.refusal(client)
    assert refusal is not None
    assert refusal.startswith("the token that came with this connection is not known here; send")


@pytest.mark.parametrize(
    ("policy", "client"),
    [(Policy.OPEN, REMOTE), (Policy.LOCAL, LOCAL), (Policy.LOCAL, OWNER), (Policy.TOKEN, OWNER)],
)
def test_who_needs_no_token_is_not_asked_about_it(policy: Policy, client: Client) -> None:
    """Whatever it sends is ignored, as the Rust program does."""
    assert Access(policy, tokens=TOKENS).identify(client, bearer="wrong", cookie="x") is client


def test_token_counts_as_long_as_it_is_in_the_list() -> None:
    """One that is taken back, or whose name gets another, counts no more on open connections."""
    access = Access(tokens=TOKENS)
    client = access.identify(REMOTE, bearer="right")
    assert client is not None
    access.tokens = {"ci": digest_of("new"), "other": TOKENS["other"]}
    assert access.refusal(client) is not None
    access.tokens = {"renamed": digest_of("right")}
    assert access.refusal(client) is None
    access.tokens = {}
    assert access.refusal(client) is not None


def test_empty_digest_is_no_token() -> None:
    """A client without a token does not pass by a list that holds the hash of nothing."""
    access = Access(tokens={"empty": digest_of(""), "blank": b""})
    assert access.refusal(REMOTE) is not None


def test_digest_is_sha256() -> None:
    """So that any tool can make a line of the file."""
    assert digest_of("a").hex() == hashlib.sha256(b"a").hexdigest()
