"""Notes on a whole log: they never make the exit code 4."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith

HOUR = dt.timedelta(hours=1)


def notes(smith: Smith, folder, later: dt.timedelta = dt.timedelta(), **options: object) -> list[tuple[str, int, int]]:
    """Kinds and places of the notes, which must be all there is."""
    store = DirectoryStore(smith.write(folder / "audit"), folder / "mark")
    now = smith.now + later
    verdict = verify(store, key=smith.log_key.vkey, now=now, patience=0, **options)  # type: ignore[arg-type]
    assert verdict.exit_code == 0
    assert {finding.severity for finding in verdict.findings} <= {"note"}
    return [(finding.kind, finding.seq, finding.line) for finding in verdict.findings]


def quiet(smith: Smith, hours: float) -> Smith:
    smith.now += hours * HOUR
    return smith


def test_busy_and_closed_log_has_no_notes(tmp_path):
    """Nothing to remark, however much later it is read."""
    assert notes(Smith().create().work(40).closed(), tmp_path, 100 * HOUR) == []


def test_silence_of_an_open_writer_is_a_note(tmp_path):
    """Over an hour between two entries while a writer was open."""
    smith = quiet(Smith().create().work(8), 3).work(4)
    assert notes(smith, tmp_path) == [("heartbeat_gap", 9, 10)]


def test_heartbeats_and_closed_writers_are_silence_explained(tmp_path):
    """An hourly heartbeat, or nobody there, is no note."""
    smith = Smith().create().work(4)
    for _ in range(5):
        quiet(smith, 1).batch(smith.event("log_heartbeat", {}))
    quiet(smith.closed(), 30).opened("w2").closed("w2")
    assert notes(smith, tmp_path) == []


def test_other_writers_keep_the_log_open(tmp_path):
    """One of two closes; the other is still due to write."""
    smith = quiet(Smith().create("w1").opened("w2").closed("w1"), 5).closed("w2")
    assert notes(smith, tmp_path) == [("heartbeat_gap", 3, 4)]


def test_writer_that_vanished_is_noted_once(tmp_path):
    """Killed without closing: the first silence is noted, later ones are nobody's."""
    smith = quiet(Smith().create("killed").work(4), 5).opened("w2").closed("w2")
    smith = quiet(smith, 50).opened("w3").closed("w3")
    assert notes(smith, tmp_path, 100 * HOUR) == [("heartbeat_gap", 5, 6)]


def test_recovery_ends_the_writers_before_it(tmp_path):
    """After `log_recovered` only those who opened since are expected to write."""
    smith = Smith().create("killed")
    smith.batch(smith.event("log_recovered", {"entries": 0}))
    assert notes(smith, tmp_path, 9 * HOUR) == []


def test_silence_up_to_now_counts(tmp_path):
    """An open log whose last entry is hours old when it is read."""
    assert notes(Smith().create().work(4), tmp_path, 2 * HOUR) == [("heartbeat_gap", 5, 6)]


def test_intent_without_outcome_is_overdue_after_its_deadline(tmp_path):
    """600 seconds are allowed; then it is a note at the intent."""
    smith = Smith().create()
    smith.batch(smith.generation(0)[0])
    smith.closed()
    assert notes(smith, tmp_path, dt.timedelta(seconds=500)) == []
    assert notes(smith, tmp_path, dt.timedelta(seconds=700)) == [("intent_overdue", 2, 3)]


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_outcomes_are_joined_across_ranges(tmp_path, monkeypatch, chunk):
    """By the intent that they name, else by correlation; the use of a key answers nothing."""
    monkeypatch.setattr("klingai_audit.trust.reading.CHUNK_BYTES", chunk)
    smith = Smith().create()
    by_cause, by_name, never = (smith.generation(n)[0] for n in range(3))
    retry = smith.event(
        "prompt_submitted", {"phase": "intent", "deadline_s": 5}, correlation_id=by_name[24:60].decode()
    )
    smith.batch(by_cause, by_name, never, retry)
    smith.work(40)
    cause = {"correlation_id": by_cause[24:60].decode()}
    name = by_name[24:60].decode()
    smith.batch(
        smith.event("video_generation_started", **cause),
        smith.event("video_generation_started", {"intent": name}, correlation_id=name),
        smith.event("api_key_used", correlation_id=never[24:60].decode()),
    )
    smith.closed()
    assert notes(smith, tmp_path, HOUR) == [("intent_overdue", 4, 5), ("intent_overdue", 5, 6)]


def test_clock_step_and_open_gap_are_notes(tmp_path):
    """Each step; each gap that nobody closed."""
    smith = Smith().create()
    smith.batch(smith.event("clock_stepped", {}))
    smith.batch(smith.event("gap_opened", {}))
    smith.batch(smith.event("gap_closed", {}))
    smith.batch(smith.event("gap_opened", {}))
    assert notes(smith.closed(), tmp_path) == [("clock_step", 2, 3), ("open_gap", 5, 6)]


def migration(smith: Smith, phase: str) -> Smith:
    smith.batch(smith.event("log_migrated", {"phase": phase}))
    return smith


def test_a_log_that_went_on_elsewhere_says_so(tmp_path):
    """Its last entry is the migration; where the log went on there is nothing to remark."""
    smith = migration(Smith().create().closed(), "out")
    assert notes(smith, tmp_path) == [("migrated", 3, 4)]
    assert notes(migration(smith, "in").opened("w2").work(4).closed("w2"), tmp_path / "there") == []


@pytest.mark.parametrize("between", [0, 3])
def test_entries_after_a_migration_are_noted(tmp_path, between):
    """Whoever wrote on in the old place did what no writer does."""
    smith = migration(Smith().create().closed(), "out").work(1 + between)
    assert notes(smith.opened("w2").closed("w2"), tmp_path) == [("migration_ignored", 3, 4)]
    again = migration(migration(smith, "in"), "out")
    assert notes(again, tmp_path / "again") == [
        ("migration_ignored", 3, 4),
        ("migrated", len(again.entries) - 1, len(again.entries)),
    ]


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_equal_ids_and_two_ends_are_notes(tmp_path, monkeypatch, chunk):
    """The same event twice is one for the views; a task that both succeeded and failed is not."""
    monkeypatch.setattr("klingai_audit.trust.reading.CHUNK_BYTES", chunk)
    smith = Smith().create()
    task = {"resource_id": "task-1", "correlation_id": "c"}
    ends = [smith.end_id("task-1", state) for state in ("succeeded", "failed")]
    smith.batch(smith.event("video_generation_completed", event_id=ends[0], **task))
    smith.work(40)
    smith.batch(smith.event("video_generation_completed", event_id=ends[0], **task))
    smith.batch(smith.event("video_generation_failed", event_id=ends[1], **task))
    smith.closed()
    assert notes(smith, tmp_path) == [("equal_event_id", 43, 44), ("two_ends", 44, 45)]


def test_notes_that_compare_entries_can_be_left_out(tmp_path):
    """`compare=False` keeps notes on silence, and leaves out those on acts and ids, which the index answers faster."""
    smith = Smith().create()
    end = smith.event("video_generation_completed", event_id=smith.end_id("t", "succeeded"), resource_id="t")
    smith.batch(end)
    quiet(smith, 3).batch(end)
    smith.closed()
    assert notes(smith, tmp_path, compare=False) == [("heartbeat_gap", 2, 3)]


def test_equal_ends_of_an_id_are_not_two_ends(tmp_path):
    """Four pollers may see one end; only different ends differ."""
    smith = Smith().create()
    end = smith.end_id("task-1", "failed")
    for _ in range(3):
        smith.batch(smith.event("video_generation_failed", event_id=end, resource_id="task-1", correlation_id="c"))
    assert notes(smith.closed(), tmp_path) == [("equal_event_id", 3, 4), ("equal_event_id", 4, 5)]


def test_proofs_only_leaves_out_what_needs_decoding(tmp_path):
    """Silence and clock steps are read by position; acts and ids are not looked at."""
    smith = Smith().create()
    smith.batch(smith.generation(0)[0])
    smith.batch(smith.event("clock_stepped", {}))
    assert notes(smith, tmp_path, 3 * HOUR, proofs_only=True) == [("clock_step", 3, 4), ("heartbeat_gap", 3, 4)]


def test_broken_log_has_no_notes(tmp_path):
    """Where entries are missing, their absence must not read as somebody's silence."""
    smith = quiet(Smith().create().work(8), 3).work(4)
    files = smith.files()
    files["audit-2026-11-20.jsonl"] = files["audit-2026-11-20.jsonl"][:-1]
    folder = smith.write(tmp_path / "audit")
    (folder / "audit-2026-11-20.jsonl").write_bytes(files["audit-2026-11-20.jsonl"])
    verdict = verify(DirectoryStore(folder, tmp_path / "m"), key=smith.log_key.vkey, now=smith.now, patience=0)
    assert [finding.kind for finding in verdict.findings] == ["torn_tail"]


@pytest.mark.parametrize(
    ("deadline", "timestamp", "found"),
    [
        ("1e300", None, []),
        ("-1e300", None, [("intent_overdue", 2, 3)]),
        ("9007199254740991", None, []),
        ("-9007199254740991", None, [("intent_overdue", 2, 3)]),
        ("600", "9999-12-31T23:59:59.999999Z", []),
        ("600", "0001-01-01T00:00:00.000000Z", [("intent_overdue", 2, 3)]),
    ],
)
def test_no_deadline_is_beyond_verification(tmp_path, deadline, timestamp, found):
    """Deadlines and times at the ends of time are noted or never due, and never an error."""
    smith = Smith().create()
    body = smith.event("prompt_submitted", {"phase": "intent", "deadline_s": 600}, timestamp=timestamp)
    smith.batch(body.replace(b":600}", f":{deadline}}}".encode()))
    smith.closed()
    assert notes(smith, tmp_path) == found


def test_lines_that_were_put_aside_are_a_note(tmp_path):
    """What recovery keeps outside the log is mentioned at the entry that names it; other recoveries are not."""
    smith = Smith().create()
    smith.batch(smith.event("log_recovered", {"entries": 2, "set_aside": {"sha256": "0" * 64, "bytes": 17}}))
    smith.batch(smith.event("log_recovered", {"entries": 3, "state_missing": True}))
    assert notes(smith.closed(), tmp_path) == [("lines_set_aside", 2, 3)]
