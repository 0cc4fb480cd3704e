# SPDX-License-Identifier: AGPL-3.0-only
"""The groups of rows, in the order of the table. Each takes a plan and yields its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench.results import Plan, Row
from bench.rows.commits import measure_commits
from bench.rows.fairness import measure_fairness
from bench.rows.growth import measure_growth
from bench.rows.idle import measure_idle
from bench.rows.reload import measure_reload
from bench.rows.start import measure_start
from bench.rows.throughput import measure_get, measure_list, measure_register
from bench.rows.writes import measure_writes

GROUPS: Mapping[str, Callable[[Plan], Iterator[Row]]] = {
    "get": measure_get,
    "list": measure_list,
    "register": measure_register,
    "writes": measure_writes,
    "commits": measure_commits,
    "growth": measure_growth,
    "idle": measure_idle,
    "reload": measure_reload,
    "start": measure_start,
    "fairness": measure_fairness,
}
