# SPDX-License-Identifier: AGPL-3.0-only
"""The settings written as a settings file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.config import settings_toml
from plexus_registry.config.settings import SETTINGS
from plexus_registry.config.sources import resolve

HOME = Path("/home/me")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
# A path that is accepted ends in a file name.
FILE = TEXT.map(lambda text: f"{text}/x")
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["::1", "localhost"]),
        "port": st.integers(0, 65535).map(str),
        "database": st.one_of(FILE, TEXT.map(lambda text: f"/x{text}x")),
        "config": st.one_of(FILE, TEXT.map(lambda text: f"{text}x")),
        "log_level": st.sampled_from(["warn", "debug"]),
        "backends": st.lists(st.sampled_from(["é=ws://h:1", '"=wss://[::1]:2'])),
        "auto_register": st.sampled_from(["none", 'a"=ws://h:1']),
        "write_access": st.sampled_from(["local", "Token", "open"]),
        "token_file": st.sampled_from(["/t", "t/tokens"]),
        "allowed_hosts": st.sampled_from(["", "A.example", "a.example,b"]),
        "allowed_origins": st.sampled_from(["", "https://x", "https://x,http://[::1]:1"]),
    },
)


@given(ARGUMENTS)
def test_rendered_settings_load_back(arguments: dict[str, object]) -> None:
    """Saved as a settings file, the text gives the same settings, whatever the names of files."""
    resolved = resolve(arguments, {}, HOME)
    tables = tomllib.loads(settings_toml.render(resolved))
    lists = {key: ",".join(tables.pop(key)) for key in ["allowed_hosts", "allowed_origins"]}

    again = resolve(tables | lists, {}, HOME)

    assert again.settings == resolved.settings


def test_rendered_settings_saved_to_a_file_load_back(tmp_path: Path) -> None:
    """The same through a real file."""
    resolved = resolve({"backends": ["a=ws://h:1", "b=ws://h:2"], "port": "0"}, {}, tmp_path)
    saved = tmp_path / "saved.toml"
    saved.write_text(settings_toml.render(resolved))

    again = resolve({"settings": str(saved)}, {}, Path("/elsewhere"))

    assert again.settings == resolved.settings
    assert set(again.origins.values()) == {
        f"{saved}:{line}" for line in range(2, 2 + len(SETTINGS))
    }


def test_origins_are_aligned_comments(tmp_path: Path) -> None:
    """Each line says where its value comes from, all in one column."""
    (tmp_path / "r.toml").write_text("\nlog_level = 'warn'")
    settings = str(tmp_path / "r.toml")
    resolved = resolve({"port": "1", "settings": settings}, {"REGISTRY_HOST": "h"}, HOME)

    head, *lines = settings_toml.render(resolved).splitlines()

    assert head == f"# settings file: {settings}"
    assert len(lines) == len(SETTINGS)
    assert len({line.rindex("  # ") for line in lines}) == 1
    assert re.fullmatch(r'host = "h" +# \$REGISTRY_HOST', lines[0])
    assert re.fullmatch(r"port = 1 +# --port", lines[1])
    assert re.fullmatch(rf'log_level = "warning" +# {re.escape(settings)}:2', lines[4])


def test_missing_settings_file_is_shown_as_missing() -> None:
    """The head says where a settings file would be read."""
    text = settings_toml.render(resolve({}, {}, HOME))

    assert text.startswith("# settings file: /home/me/.config/plexus/registry.toml (there is none)")


def test_example_sets_nothing_until_it_is_uncommented(tmp_path: Path) -> None:
    """The start file is sound as written, and holds the defaults."""
    text = settings_toml.example()
    uncommented = tmp_path / "r.toml"
    uncommented.write_text(re.sub(r"^#(?! |$)", "", text, flags=re.MULTILINE))

    found = resolve({"settings": str(uncommented)}, {}, HOME)
    default = resolve({}, {}, HOME)

    assert tomllib.loads(text) == {}
    not_set = {name for name, origin in found.origins.items() if origin == "default"}
    assert not_set == {"database", "config", "token_file"}  # these depend on who runs the registry
    for name in not_set:
        assert f"\n# for example: {name} = " in text
    assert found.settings == default.settings
