"""A board: numbers by their declared names, and what is not ready."""

from __future__ import annotations

import pytest

from klingai_audit.errors import LogNotFound
from klingai_audit.operation import Board
from klingai_audit.operation.names import METRICS


def test_numbers_are_kept_by_their_labels() -> None:
    """Counters add up, gauges are what they were put to, whole gauges forget what is gone."""
    board = Board()
    board.count("alerts", "new")
    board.count("alerts", "new", by=2)
    board.put("check_duration_seconds", "quick", value=1.5)
    board.put_all("findings", {("verify", "broken"): 2, ("detect", "finding"): 1})
    board.put_all("findings", {("verify", "broken"): 1})
    board.time("http_request_seconds", "/tile", seconds=0.3)
    numbers = board.numbers()
    assert {("new",): 3.0} == numbers["alerts"]
    assert {("quick",): 1.5} == numbers["check_duration_seconds"]
    assert {("verify", "broken"): 1} == numbers["findings"]
    assert [("http_request_seconds", ("/tile",), 0.3)] == [(name, key, one.sum) for name, key, one in board.times()]


def test_what_is_not_declared_is_refused() -> None:
    """A wrong name, kind or number of labels is a fault of ours, found at once."""
    board = Board()
    with pytest.raises(KeyError):
        board.count("unheard_of")
    with pytest.raises(ValueError, match="gauge"):
        board.count("findings", "verify", "broken")
    with pytest.raises(ValueError, match="labels"):
        board.count("alerts")


def test_what_cannot_be_looked_up_is_left_out() -> None:
    """One number that cannot be had does not cost the others."""
    board = Board()

    def lost() -> dict[tuple[str, ...], float]:
        raise LogNotFound("There is no log.")

    board.look("export_lag_entries", lost)
    board.look("undelivered_messages", lambda: {("syslog",): 4.0})
    numbers = board.numbers()
    assert "export_lag_entries" not in numbers
    assert {("syslog",): 4.0} == numbers["undelivered_messages"]


def test_what_is_not_ready_is_told_without_content() -> None:
    """Our errors speak, the system's give their reason, all others only their class."""
    board = Board()

    def raising(error: Exception) -> None:
        raise error

    board.check("good", lambda: None)
    board.check("bad", lambda: "too slow")
    board.check("ours", lambda: raising(LogNotFound("There is no log.")))
    board.check("system", lambda: raising(OSError(28, "No space left on device")))
    board.check("secret", lambda: raising(ValueError("user@example.com")))
    assert {
        "good": None, "bad": "too slow", "ours": "There is no log.", "system": "No space left on device",
        "secret": "cannot be told: ValueError",
    } == board.troubles()  # fmt: skip
    assert {0.0, 1.0} == set(board.numbers()["ready"].values())


def test_each_number_is_described() -> None:
    """Names that Prometheus takes, one sentence each, labels without what could name people."""
    for name, metric in METRICS.items():
        assert name.replace("_", "").isalnum(), name
        assert name.islower(), name
        assert metric.help[0].isupper(), name
        assert not metric.help.endswith("."), name
        assert not name.endswith("_total"), name
        assert {"log", "stage", "kind", "mode", "source", "level", "change", "check", "receiver", "route", "status",
                "version", "python"} >= set(metric.labels)  # fmt: skip
