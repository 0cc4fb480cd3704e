# SPDX-License-Identifier: AGPL-3.0-only
"""The registry against other servers: get, list and register."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import servers, wire
from bench.results import Plan, Row, compare, median, rate, spread
from bench.rows.contender import (
    CONNECTIONS,
    Contender,
    enter,
    register_all,
    register_frame,
    take_turn,
)
from bench.rows.latency import Paced
from bench.wire import Each, Same

OURS, BARE, PLAIN, RUST, RUST_WAL = "ours", "bare", "plain", "Rust", "Rust with a WAL"

_names = (f"n{number:07d}" for number in itertools.count())


def _rust_rows(
    plan: Plan,
    contenders: dict[str, Contender],
    loads: Sequence[tuple[int, int]],
    method: str,
    note: str = "",
) -> Iterator[Row]:
    group, _, _ = method.replace(",", " ").partition(" ")
    for load in loads:
        key, what = f"{group}.rust.{load[0]}x{load[1]}", f"{method}, {load[0]} × {load[1]}"
        if RUST not in contenders:
            yield Row(key=key, what=what, figure=plan.rust_missing, bar="ahead of Rust")
            continue
        ours, theirs = contenders[OURS], contenders[RUST]
        yield compare(
            key,
            what,
            ours.rates(load),
            theirs.rates(load),
            at_least=1,
            bar=f"ahead of Rust{note}",
            reference=RUST,
            answers=ours.answers(load) + theirs.answers(load),
            refused=ours.failed(load) + theirs.failed(load),
        )


def _processor_row(
    contenders: dict[str, Contender], loads: Sequence[tuple[int, int]], group: str
) -> Row:
    """Show what an answer costs: a figure that other programs on the machine disturb little."""
    used = {
        f"{name} {load[0]} × {load[1]}": contender.costs_us(load)
        for load in loads
        for name, contender in contenders.items()
    }
    return Row(
        key=f"{group}.processor",
        what=f"{group}, processor time of an answer",
        figure=", ".join(
            f"{name}: {median(costs):.1f} µs {spread(costs)}" for name, costs in used.items()
        ),
        answers=sum(one.answers(load) for one in contenders.values() for load in loads),
        refused=sum(one.failed(load) for one in contenders.values() for load in loads),
        samples=used,
    )


# --- get ----------------------------------------------------------------------------------------


def measure_get(plan: Plan) -> Iterator[Row]:
    """Measure get, the read that everything else in Plexus starts with."""
    full, waiting, alone = (CONNECTIONS, 32), (CONNECTIONS, 1), (1, 1)
    frame = wire.call("get", name="dev")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(servers.registry(plan.folder / "get-ours", *plan.options))
        register_all(ours, ["dev"])
        with contextlib.closing(wire.connect(ours.port)) as sock:
            answer = wire.payloads(wire.ask(sock, frame))
        bare = stack.enter_context(servers.bare(plan.folder / "get-bare", answer))
        plain = stack.enter_context(servers.plain(plan.folder / "get-plain", answer))
        children = {OURS: ours, BARE: bare, PLAIN: plain}
        if plan.rust:
            rust = stack.enter_context(servers.rust(plan.folder / "get-rust", plan.rust))
            register_all(rust, ["dev"])
            children[RUST] = rust
        contenders = {
            name: enter(stack, child, is_checked=True) for name, child in children.items()
        }
        requests = Same(frame)
        paced = Paced(contenders, (full, waiting))
        for _ in range(plan.rounds):
            take_turn(plan, contenders, (full, waiting, alone), lambda load: requests)
            paced.take_turn(requests, plan)
    yield from _get_rows(contenders, full)
    yield from _rust_rows(plan, contenders, (alone, waiting, full), "get")
    yield _processor_row(contenders, (full, waiting, alone), "get")
    yield from paced.rows("get")
    yield _generator_row(contenders[BARE], full)


def _get_rows(contenders: dict[str, Contender], load: tuple[int, int]) -> Iterator[Row]:
    ours = contenders[OURS]
    for name, at_least, bar in ((BARE, 0.6, "≥ 60 % of bare"), (PLAIN, 3.0, "≥ 3 × plain")):
        other = contenders[name]
        yield compare(
            f"get.{name}",
            f"get, {load[0]} × {load[1]}",
            ours.rates(load),
            other.rates(load),
            at_least=at_least,
            bar=bar,
            reference=name,
            answers=ours.answers(load) + other.answers(load),
            refused=ours.failed(load) + other.failed(load),
        )


def _generator_row(bare: Contender, load: tuple[int, int]) -> Row:
    shares = [tally.generator_share for tally in bare.tallies[load]]
    limits = [tally.per_s / tally.generator_share for tally in bare.tallies[load]]
    return Row(
        key="get.generator",
        what="the generator itself",
        figure=f"busy {median(shares):.0%} of the time with bare; could do about {rate(limits)}",
        answers=bare.answers(load),
        samples={"share": shares, "limit": limits},
    )


# --- list and register --------------------------------------------------------------------------


def measure_list(plan: Plan) -> Iterator[Row]:
    """Measure the listing of 100 entries."""
    loads = ((1, 1), (CONNECTIONS, 8))
    names = [f"backend-{number:03d}" for number in range(100)]
    requests = Same(wire.call("list"))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(servers.registry(plan.folder / "list-ours", *plan.options))
        children = {OURS: ours}
        if plan.rust:
            rust = servers.rust(plan.folder / "list-rust", plan.rust)
            children[RUST] = stack.enter_context(rust)
        for child in children.values():
            register_all(child, names)
        contenders = {name: enter(stack, child) for name, child in children.items()}
        for _ in range(plan.rounds):
            take_turn(plan, contenders, loads, lambda load: requests)
    if RUST not in contenders:
        for load in loads:
            yield Row(
                key=f"list.ours.{load[0]}x{load[1]}",
                what=f"list of 100 entries, {load[0]} × {load[1]}",
                figure=rate(contenders[OURS].rates(load)),
                answers=contenders[OURS].answers(load),
                samples={OURS: contenders[OURS].rates(load)},
            )
    yield from _rust_rows(plan, contenders, loads, "list of 100 entries")
    yield _processor_row(contenders, loads, "list")


def measure_register(plan: Plan) -> Iterator[Row]:
    """Measure durable registrations of new names."""
    loads = ((1, 1), (CONNECTIONS, 4))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(servers.registry(plan.folder / "register-ours", *plan.options))
        children = {OURS: ours}
        if plan.rust:
            rust = servers.rust(plan.folder / "register-rust", plan.rust)
            children[RUST] = stack.enter_context(rust)
            folder = plan.folder / "register-rust-wal"
            _make_wal(folder, plan.rust)
            children[RUST_WAL] = stack.enter_context(servers.rust(folder, plan.rust))
        contenders = {
            name: enter(stack, child, is_checked=True) for name, child in children.items()
        }
        for _ in range(plan.rounds):
            take_turn(plan, contenders, loads, partial(new_names, plan), warm_up_s=0)
    yield from _rust_rows(plan, contenders, loads, "register, durable", ", each as it comes")
    yield _processor_row(contenders, loads, "register")
    for name, contender in contenders.items():
        for load in loads:
            yield Row(
                key=f"register.{name.replace(' ', '-')}.{load[0]}x{load[1]}",
                what=f"register, {load[0]} × {load[1]}, {name}",
                figure=f"{rate(contender.rates(load))}; {_DURABILITY[name]}",
                answers=contender.answers(load),
                refused=contender.failed(load),
                samples={name: contender.rates(load)},
            )


def new_names(plan: Plan, load: tuple[int, int]) -> Each:
    """Return registrations of names that were never used, more than a round can take."""
    per_s = 10_000 if load == (1, 1) else 30_000
    names = itertools.islice(_names, 1000 + int(plan.seconds * per_s))
    return Each(register_frame(name) for name in names)


_DURABILITY = {
    OURS: "WAL, synchronous=FULL, group commit",
    RUST: "rollback journal, synchronous=FULL, a transaction for each",
    RUST_WAL: "WAL set from outside, synchronous=FULL, a transaction for each",
}


def _make_wal(folder: Path, program: Path) -> None:
    """Have the Rust program make its database, and switch that to a write-ahead log."""
    with servers.rust(folder, program):
        pass
    with contextlib.closing(sqlite3.connect(folder / "registry.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
