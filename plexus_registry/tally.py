# SPDX-License-Identifier: AGPL-3.0-only
"""What the registry did since it started, in plain numbers: status and metrics are made of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Commits and reloads, counted.

    Attributes:
        commits: Groups of requests that are on disk.
        committed_requests: How many requests those carried.
        failed_commits: Groups that could not be written.
        reloads: Of declared backends; one that found no change in the files is none.
        failed_reloads: Those of them that failed.
        is_store_ok: Whether the last commit was written, or nothing but a value kept it from that.
        last_failure: Why a commit failed last, for those who may know paths; None for never.
        last_failure_at: When that was, in Unix seconds.
    """

    commits: int = 0
    committed_requests: int = 0
    failed_commits: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    is_store_ok: bool = True
    last_failure: str | None = None
    last_failure_at: int | None = None

    def count_commit(self, requests: int) -> None:
        """Count a group that is on disk."""
        self.commits += 1
        self.committed_requests += requests
        self.is_store_ok = True

    def count_failure(self, reason: str, *, at: int, is_stores: bool) -> None:
        """Count a group that could not be written.

        Args:
            reason: Why.
            at: Unix seconds.
            is_stores: The fault is the store's, and not one of what was to be written.
        """
        self.failed_commits += 1
        self.last_failure, self.last_failure_at = reason, at
        if is_stores:
            self.is_store_ok = False

    def count_reload(self, *, has_failed: bool) -> None:
        """Count a reload."""
        self.reloads += 1
        self.failed_reloads += has_failed
