# SPDX-License-Identifier: AGPL-3.0-only
"""Who may write to the installed registry: tokens as the operator handles them, users, reloads."""

from __future__ import annotations

from system.registry import CONFIGURATION, IPV4, SERVICE, UNIX, Registry

TOKENS = f"{CONFIGURATION}/tokens"


def may_reload(registry: Registry, url: str, *, user: str = "root", token: str = "") -> bool:
    """Tell whether a user of the machine may write."""
    done = registry.machine.run(
        *("runuser", "-u", user, "--", "env", f"PLEXUS_REGISTRY_TOKEN={token}"),
        *("plexus-registryctl", "--url", url, "reload"),
    )
    # Refused in the registry's own words, or in ours: nothing else must be the matter.
    assert done.status == 0 or "token" in done.stderr, done
    return done.status == 0


def test_policy_token_leaves_writing_to_tokens_and_to_systemctl(registry: Registry) -> None:
    """The kernel tells root and the service's user, in its sandbox too; others need a token.

    The daemon reads the file that root makes, and follows it.
    """
    registry.drop_in("[Service]\nEnvironment=REGISTRY_WRITE_ACCESS=token\n")
    registry.systemctl("restart", SERVICE).check()

    registry.systemctl("reload", SERVICE).check()
    assert may_reload(registry, UNIX)
    assert not may_reload(registry, UNIX, user="nobody")
    assert not may_reload(registry, IPV4)
    assert registry.ask("list")["type"] == "backends"

    made = registry.machine.run("plexus-registryctl", "token", "new", "ci").check()
    token = made.stdout.strip()
    mode = registry.machine.run("stat", "--format=%a %U %G", TOKENS).check().stdout.strip()
    assert mode == "640 root plexus-registry"
    registry.wait(lambda: may_reload(registry, IPV4, token=token), "the token to be accepted")
    assert may_reload(registry, UNIX, user="nobody", token=token)
    registry.machine.run("plexus-registryctl", "token", "revoke", "ci").check()
    registry.wait(lambda: not may_reload(registry, IPV4, token=token), "the token to be refused")
    assert any("write refused" in text for text in registry.messages("--priority=warning"))
    assert not any(token in text for text in registry.messages())


def test_tokens_can_be_a_credential_of_systemd(registry: Registry) -> None:
    """As in the example: a file that the service's user cannot read itself."""
    file = "/etc/credstore/plexus-registry.tokens"
    made = registry.machine.run("plexus-registryctl", "token", "new", "--tokens", file).check()
    registry.drop_in(
        f"[Service]\nEnvironment=REGISTRY_WRITE_ACCESS=token\nLoadCredential=tokens:{file}\n"
    )
    registry.systemctl("restart", SERVICE).check()
    assert may_reload(registry, IPV4, token=made.stdout.strip())
    assert not may_reload(registry, IPV4, token="wrong")
    assert not any("cannot watch" in text for text in registry.messages())
