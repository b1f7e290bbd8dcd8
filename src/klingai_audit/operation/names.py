"""Every number that a running process tells: its name, kind, labels and meaning. The docs are made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["METRICS", "PREFIX", "Metric"]

PREFIX: Final = "klingai_audit_"
"""What every name begins with."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, or one for each value of its labels. `help` is one sentence without a full stop."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_LOG: Final = ("log",)

METRICS: Final = {
    "build_info": Metric("gauge", "Always 1: which version runs, under which Python", ("version", "python")),
    "entries_appended": Metric("counter", "Entries that this process made durable", _LOG),
    "queue_entries": Metric("gauge", "Events that wait for the writer thread", _LOG),
    "queue_limit_entries": Metric("gauge", "Events that may wait; who adds one more has to wait"),
    "batch_entries": Metric("histogram", "Entries committed at once", _LOG),
    "commit_seconds": Metric("histogram", "How long the commit of a batch took", _LOG),
    "publication_seconds": Metric(
        "histogram", "How long a durable batch waited for a signed checkpoint that covers it", _LOG
    ),
    "unpublished_seconds": Metric(
        "gauge", "How long the oldest durable entry of this process has been waiting for a checkpoint", _LOG
    ),
    "durable_size_entries": Metric("gauge", "Entries of the log when this process last appended", _LOG),
    "published_size_entries": Metric("gauge", "Entries that the last checkpoint of this process covers", _LOG),
    "spool_entries": Metric("gauge", "Entries of this process that wait in the local spool", _LOG),
    "spool_bytes": Metric("gauge", "Bytes of the local spool, of all processes", _LOG),
    "errors": Metric(
        "counter", "What failed: stage commit, publish, check, deliver, export or serve; class of error",
        ("stage", "kind"),
    ),
    "unrecorded_acts": Metric("counter", "Acts that happened and could not be recorded at once", ("kind",)),
    "verification_time_seconds": Metric(
        "gauge", "When the log was last verified (seconds since 1970), quickly or wholly", ("mode",)
    ),
    "verification_result": Metric("gauge", "Exit code of the last verification: 0 nothing found, 4 broken", ("mode",)),
    "findings": Metric("gauge", "What is open, by the check that found it and by its weight", ("source", "level")),
    "alerts": Metric("counter", "What was told: new, back or gone", ("change",)),
    "check_time_seconds": Metric("gauge", "When a check of the watch was last made (seconds since 1970)", ("check",)),
    "check_duration_seconds": Metric("gauge", "How long that check took", ("check",)),
    "undelivered_messages": Metric("gauge", "Alerts that wait for a receiver", ("receiver",)),
    "exported_entries": Metric("counter", "Entries handed over to a receiver, those sent again after a break included"),
    "export_lag_entries": Metric("gauge", "Published entries that the receiver does not have yet"),
    "http_requests": Metric("counter", "Requests answered, by what was asked for and HTTP status", ("route", "status")),
    "http_request_seconds": Metric("histogram", "How long an answer took", ("route",)),
    "ready": Metric("gauge", "Whether a check of /readyz holds: 1 or 0", ("check",)),
}  # fmt: skip
"""Name without prefix -> what it is. Prometheus appends `_total` to counters."""
