"""Tests of counting how generations ended."""

from __future__ import annotations

from klingai_audit.views.generations import count_generations
from tests.unit.views.lines import event_id, line

INTENT = {"metadata": {"phase": "intent"}}


def log(*steps):
    return [line(seq, correlation_id=key, **members) for seq, (key, members) in enumerate(steps)]


def end(number, event_type="video_generation_completed", outcome="success"):
    return {"event_id": event_id(number, version=8), "event_type": event_type, "outcome": outcome}


def test_the_end_decides_then_the_last_refusal_else_unknown():
    """Success and failure by the task's end, blocked by a refusal, unknown while there is neither."""
    lines = log(
        ("a", INTENT),
        ("b", INTENT),
        ("c", INTENT),
        ("d", INTENT),
        ("e", {**INTENT, "event_type": "task_submitted"}),
        ("a", end(90)),
        ("b", end(91, "video_generation_failed", "failure")),
        ("c", {"event_type": "policy_violation", "outcome": "blocked"}),
        ("e", {"event_type": "video_generation_failed", "outcome": "failure"}),
    )
    assert {"success": 1, "failure": 2, "blocked": 1, "unknown": 1} == count_generations(lines)


def test_tries_of_one_order_are_one_generation():
    """A try that was slowed down and one that went through are one success, and its end stays the end."""
    lines = log(
        ("a", INTENT),
        ("a", {"event_type": "rate_limit_exceeded", "outcome": "blocked"}),
        ("a", INTENT),
        ("a", end(90)),
        ("a", {"event_type": "access_denied", "outcome": "blocked"}),
    )
    assert {"success": 1, "failure": 0, "blocked": 0, "unknown": 0} == count_generations(lines)


def test_what_is_no_generation_counts_nothing():
    """Intents of downloads, refusals of reads and a prompt without intent are no generations."""
    lines = log(
        ("a", {**INTENT, "event_type": "video_downloaded"}),
        ("b", {"event_type": "access_denied", "outcome": "blocked"}),
        ("c", {}),
        ("c", end(90)),
    )
    assert {"success": 0, "failure": 0, "blocked": 0, "unknown": 0} == count_generations(lines)
