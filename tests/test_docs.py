# SPDX-License-Identifier: AGPL-3.0-only
"""What docs/ says is so: its exchanges are had, its tables are complete.

The operator's guide is typed in a booted machine, in tests/system.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from plexus_registry.protocol import schema
from support.conversation import Conversation, conversation, shape
from support.serving import Served

ROOT = Path(__file__).parents[1]
METRICS = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
METHODS = PROTOCOL.partition("\n## Methods\n")[2].partition("\n## ")[0]
ROWS = [line for line in METHODS.splitlines() if line.startswith("|")]
EXCHANGES = [
    block.splitlines() for block in re.findall(r"^```\n(> .*?)^```$", PROTOCOL, re.M | re.DOTALL)
]


def test_every_exchange_is_had_as_shown(client: Conversation) -> None:
    """Each frame of the reference is sent in order, and answered as it stands there."""
    for sent, *received in EXCHANGES:
        client.send(sent.removeprefix("> "))
        for expected in received:
            assert shape(client.receive()) == shape(json.loads(expected.removeprefix("< "))), sent
    client.expect_silence()
    assert len(EXCHANGES) == PROTOCOL.count("\n> ")


def test_every_method_is_in_the_table_with_its_parameters() -> None:
    """The table has each published method, its parameters, and which are required."""
    documents = schema.describe("registry-hub")
    for plugin in (documents.registry, documents.hub):
        for method in plugin["methods"]:
            name = f"`{plugin['namespace']}.{method['name']}`"
            (row,) = [line for line in ROWS if name in line.split("|")[1]]
            params = method.get("params", {})
            for parameter in params.get("properties", {}):
                spelled = (
                    f"**`{parameter}`**"
                    if parameter in params.get("required", ())
                    else (f"`{parameter}`")
                )
                assert spelled in row


def test_every_series_is_in_the_table_and_no_other(served: Served) -> None:
    """The list of metrics is what a scrape gives: names, types and labels."""
    with conversation(served.url) as client:
        client.call("registry.reload")
    with urlopen(served.url.replace("ws://", "http://") + "/metrics") as response:
        text = response.read().decode()
    scraped = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        scraped[name] = (family.type, labels)
    table = METRICS.partition("| series |")[2]
    told = {}
    for row in re.findall(r"^\| `.*", table, re.MULTILINE):
        _, name, kind, names, *_ = re.split(r"\s*\|\s*", row)
        told[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", names)))
    assert told == scraped


def test_every_link_leads_somewhere() -> None:
    """What a document links to in this repository is there, and so is the heading."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("packaging/*/*.md")]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", text):
            name, _, heading = target.partition("#")
            path = document.parent / name if name else document
            assert path.exists(), f"{document.name}: {target}"
            if heading:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
                assert heading in slugs, f"{document.name}: {target}"


def test_guide_names_no_series_that_does_not_exist() -> None:
    """What alerts and advice are about is in the list of metrics."""
    guide = (ROOT / "docs/operators-guide.md").read_text(encoding="utf-8")
    metrics = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bplexus_registry_\w+", guide))
    assert named
    assert named <= set(re.findall(r"`(plexus_registry_\w+)`", metrics))
