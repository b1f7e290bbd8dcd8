"""The task table: from entries to what another process needs to know, and nothing that recording depends on."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3

import pytest

from klingai_audit import AuditLog, EventType, acting
from klingai_audit.event.record import Draft, end_event_id, new_event_id
from klingai_audit.kling.shelf import TaskTable
from klingai_audit.testing import HandClock

TASK = "831045678901234567"
NOW = dt.datetime.now(dt.UTC)
NOON = NOW.replace(microsecond=0) - dt.timedelta(hours=1)


@pytest.fixture
def audit(tmp_path):
    """Open a log."""
    with AuditLog.open(tmp_path / "audit") as opened:
        yield opened


def table(audit) -> TaskTable:
    """Open the table as another process does."""
    audit.flush("published")
    return TaskTable(audit.places.state / "tasks.sqlite", audit.reader, audit.subjects.reveal)


def order(audit, *, actor="alice@example.com", deadline=300, when=None) -> str:
    """Write an intent; returns its id."""
    event_id = new_event_id()
    with acting(actor, team="studio-a"):
        audit.record(
            Draft(
                event_type=EventType.PROMPT_SUBMITTED,
                event_id=event_id,
                correlation_id=event_id,
                resource_type="video",
                action="text_to_video",
                timestamp=when,
                metadata={"phase": "intent", "deadline_s": deadline, "generation": "new", "model": "kling-3.0"},
            )
        ).wait()
    return event_id


def tell(audit, event_type, correlation, *, task=TASK, actor="alice@example.com", end=None, when=None, **more):
    """Write another entry of the story."""
    outcome = more.pop("outcome", "success")
    with acting(actor):
        audit.record(
            Draft(
                event_type=event_type,
                event_id=None if end is None else end_event_id(audit.origin, task, end),
                correlation_id=correlation,
                resource_type="video",
                resource_id=task,
                action="query_tasks",
                outcome=outcome,
                timestamp=when,
                metadata=more,
            ),
            once=end is not None,
        ).wait()


def start(audit, correlation, **more):
    """Write the outcome of a create."""
    more.setdefault("status", "submitted")
    tell(audit, "video_generation_started", correlation, intent=correlation, **more)


def test_what_the_table_knows_of_a_task(audit):
    """Correlation, who ordered, state, product, model: from the log alone."""
    correlation = order(audit)
    start(audit, correlation)
    found = table(audit).find(TASK)
    assert (found.correlation_id, found.state, found.final) == (correlation, "submitted", False)
    assert found.note == {"product": "video", "generation": "new", "model": "kling-3.0", "action": "text_to_video"}
    assert (found.token.actor_id, found.token.team) == ("alice@example.com", "studio-a")
    tell(audit, "task_status_changed", correlation, status="processing", actor="bob")
    tell(audit, "video_generation_completed", correlation, end="succeeded", status="succeeded", actor="bob")
    found = table(audit).find(TASK)
    assert (found.state, found.final, found.token.actor_id) == ("succeeded", True, "alice@example.com")
    assert table(audit).find("unknown") is None


def test_it_follows_what_is_committed_here(audit):
    """The log's own process knows what it has written at once."""
    held = audit.recorder.memory._shelf
    correlation = order(audit)
    start(audit, correlation)
    assert held.find(TASK).correlation_id == correlation
    assert audit.recorder.memory.known(TASK).correlation_id == correlation


def test_the_log_is_looked_at_before_something_is_unknown(audit):
    """What another process wrote is found, though it has not told the table of it."""
    shelf = table(audit)
    correlation = order(audit)
    assert shelf.order(correlation).token.actor_id == "alice@example.com"
    start(audit, correlation)
    assert shelf.find(TASK).correlation_id == correlation
    assert shelf.find("other") is None


def test_the_first_look_sees_what_is_not_signed_yet(audit):
    """A table that is opened in the moment between an entry and its signature."""
    correlation = order(audit)
    shelf = TaskTable(audit.places.state / "tasks.sqlite", audit.reader, audit.subjects.reveal)
    assert shelf.order(correlation) is not None


def test_a_locked_table_is_asked_again(audit):
    """What was read of the log and could not be written is written when somebody asks again."""
    shelf = table(audit)
    other = sqlite3.connect(audit.places.state / "tasks.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    correlation = order(audit)
    assert shelf.order(correlation) is None
    other.execute("ROLLBACK")
    other.close()
    assert shelf.order(correlation) is not None


def test_an_order_under_way(audit):
    """It is expected while only its reply can tell its task: not if it has an id of its caller's, nor when it ends."""
    shelf = table(audit)
    assert not shelf.expects()
    own = named(audit, new_event_id())
    assert shelf.order(own).open
    assert not shelf.expects()
    correlation = order(audit)
    assert shelf.order(correlation).open
    assert shelf.expects()
    start(audit, correlation)
    assert shelf.find(TASK)
    assert not shelf.order(correlation).open
    assert not shelf.expects()
    late = order(audit, deadline=1, when=NOW - dt.timedelta(days=2))
    assert not shelf.order(late).open
    assert not shelf.expects()


def test_entries_may_come_twice_and_out_of_order(audit):
    """An end stays an end, what is newer stays, and a second look at the log changes nothing."""
    correlation = order(audit)
    start(audit, correlation, when=NOON)
    tell(audit, "task_status_changed", correlation, status="processing", when=NOON + dt.timedelta(seconds=9))
    tell(audit, "task_status_changed", correlation, status="submitted", when=NOON + dt.timedelta(seconds=1))
    shelf = table(audit)
    assert shelf.find(TASK).state == "processing"
    tell(audit, "video_generation_failed", correlation, end="failed", outcome="failure", status="failed")
    tell(audit, "task_status_changed", correlation, status="processing")
    shelf.observe(audit.entries())
    shelf.observe(audit.entries())
    found = shelf.find(TASK)
    assert (found.state, found.final) == ("failed", True)


def test_orders_that_nobody_answered(audit):
    """Lost after an unknown outcome, or after the deadline; not while the reply may come, not after a refusal."""
    lost, late, fresh, refused, told = (order(audit) for _ in range(5))
    overdue = order(audit, deadline=1, when=NOW - dt.timedelta(days=2))
    tell(audit, "video_generation_started", lost, task=None, outcome="unknown", intent=lost)
    tell(audit, "policy_violation", refused, task=None, outcome="blocked", intent=refused)
    start(audit, told)
    tell(audit, "video_generation_started", late, task=None, outcome="unknown", intent=late)
    tell(audit, "rate_limit_exceeded", late, task=None, outcome="blocked", intent="second sending")
    shelf = table(audit)
    found = {name: shelf.order(name).lost for name in (lost, late, fresh, refused, told, overdue)}
    assert list(found.values()) == [True, True, False, False, False, True]
    assert shelf.order(lost).note["model"] == "kling-3.0"
    assert shelf.order(lost).token.actor_id == "alice@example.com"
    assert shelf.order("nothing") is None
    tell(audit, "video_generation_started", lost, status="submitted", found_by="query_tasks", actor="bob")
    found = table(audit)
    assert (found.order(lost).lost, found.find(TASK).token.actor_id) == (False, "alice@example.com")


def named(audit, external, **more) -> str:
    """Write an intent with an id of the caller's; returns its correlation."""
    event_id = new_event_id()
    metadata = {"phase": "intent", "deadline_s": 300, "external_task_id": external, **more}
    with acting("alice@example.com"):
        draft = Draft(event_type=EventType.PROMPT_SUBMITTED, event_id=event_id, resource_type="video")
        audit.record(draft.replace(correlation_id=event_id, metadata=metadata)).wait()
    return event_id


def test_orders_are_found_by_their_callers_ids(audit):
    """The first of an id, until one is lost; ids that are intents' own need no such name."""
    first, second = named(audit, "film-7"), named(audit, "film-7")
    lost, later = named(audit, "film-8"), named(audit, "film-8")
    own = new_event_id()
    named(audit, own)
    assert [first, lost, None, None] == [table(audit).ordered_as(name) for name in ("film-7", "film-8", own, "film-9")]
    for correlation, name in ((second, "film-7"), (lost, "film-8")):
        unknown = {"task": None, "outcome": "unknown", "intent": correlation, "external_task_id": name}
        tell(audit, "video_generation_started", correlation, **unknown)
    tell(audit, "access_denied", later, task=None, outcome="blocked", intent=later, external_task_id="film-8")
    assert [second, lost] == [table(audit).ordered_as(name) for name in ("film-7", "film-8")]


def test_what_is_old_is_forgotten(audit):
    """Kling has cleared it long since."""
    correlation = order(audit, when=NOW - dt.timedelta(days=90))
    start(audit, correlation, when=NOW - dt.timedelta(days=90))
    shelf = table(audit)
    assert (shelf.find(TASK), shelf.order(correlation)) == (None, None)


def test_claims_are_not_believed(audit):
    """What somebody claims of a task is no state of it."""
    correlation = order(audit)
    start(audit, correlation)
    tell(audit, "task_status_changed", correlation, status="succeeded", claim=True, outcome="unknown")
    assert table(audit).find(TASK).state == "submitted"


def test_a_reply_after_a_poll_takes_the_story_over(audit):
    """A poll that came before the create's reply does not keep correlation and actor."""
    tell(audit, "task_status_changed", "guessed", status="processing", actor="bob")
    assert table(audit).find(TASK).correlation_id == "guessed"
    correlation = order(audit)
    start(audit, correlation)
    found = table(audit).find(TASK)
    assert (found.correlation_id, found.token.actor_id) == (correlation, "alice@example.com")


def test_a_voice_is_its_task(audit):
    """The end of a voice names the voice; the table knows its task."""
    with acting("alice@example.com"):
        audit.record(
            Draft(
                event_type="resource_created",
                event_id=end_event_id(audit.origin, TASK, "succeeded"),
                resource_type="voice",
                resource_id="v-1",
                metadata={"task_id": TASK, "status": "succeeded"},
            )
        ).wait()
    found = table(audit).find(TASK)
    assert (found.state, found.final, found.note) == ("succeeded", True, {"product": "voice"})


def test_polls_of_all_processes_are_one_count(audit):
    """Counted in the table, handed over once."""
    first, second = table(audit), table(audit)
    for minute in (3, 1, 2):
        assert (first if minute % 2 else second).add_poll(TASK, NOON + dt.timedelta(minutes=minute))
    assert second.take_polls(TASK) == (3, NOON + dt.timedelta(minutes=1), NOON + dt.timedelta(minutes=3))
    assert first.take_polls(TASK) is None


def test_all_ends_tell_of_all_polls_until_one_is_kept(audit):
    """Several processes see the end, and the log keeps one: none of them takes the polls away from it."""
    first, second = table(audit), table(audit)
    for minute in (1, 2, 3):
        assert first.add_poll(TASK, NOON + dt.timedelta(minutes=minute))
    assert first.take_polls(TASK, ends=True)[0] == 3
    assert second.add_poll(TASK, NOON)
    assert second.take_polls(TASK, ends=True) == (4, NOON, NOON + dt.timedelta(minutes=3))
    assert second.take_polls(TASK) is None
    assert first.take_polls(TASK, ends=True)[0] == 4
    tell(audit, "video_generation_completed", "c", end="succeeded", status="succeeded")
    first.observe(audit.entries())
    assert second.take_polls(TASK, ends=True) is None


def test_it_may_be_deleted(audit):
    """Made anew from the log."""
    correlation = order(audit)
    start(audit, correlation)
    table(audit).close()
    (audit.places.state / "tasks.sqlite").unlink()
    assert table(audit).find(TASK).correlation_id == correlation


def test_deliveries_of_all_processes(audit):
    """A callback that one process handled is known to the others, at once and after a restart."""
    first, second = table(audit), table(audit)
    first.keep_delivery("d-1", NOON)
    first.keep_delivery("d-1", NOW)
    assert (second.delivered("d-1"), second.delivered("d-2")) == (True, False)
    first.close()
    second.close()
    assert table(audit).delivered("d-1")


def test_deliveries_are_made_anew_from_the_log(audit):
    """Entries of signed callbacks name their delivery; a claim's delivery is anyone's and blocks nothing."""
    signed = {"status": "processing", "via": "callback", "signature": "verified", "delivery": "a" * 32}
    tell(audit, EventType.TASK_STATUS_CHANGED, "c", **signed)
    tell(audit, EventType.TASK_STATUS_CHANGED, "c", **{**signed, "claim": True, "delivery": "b" * 32})
    tell(audit, EventType.TASK_STATUS_CHANGED, "c", **{**signed, "signature": "invalid", "delivery": "c" * 32})
    shelf = table(audit)
    assert [shelf.delivered(letter * 32) for letter in "abc"] == [True, False, False]


def test_old_deliveries_are_forgotten(audit):
    """After as long as tasks are, long after their signatures are too old to be believed again."""
    shelf = table(audit)
    shelf.keep_delivery("old", NOW - dt.timedelta(days=61))
    shelf.keep_delivery("new", NOW)
    shelf.close()
    order(audit)
    shelf = table(audit)
    assert (shelf.delivered("old"), shelf.delivered("new")) == (False, True)


@pytest.mark.parametrize("days,expected", [(0, 0), (59, 0), (62, 1)])
def test_only_recent_days_are_read_again(tmp_path, days, expected):
    """A deleted table is made from the day files of the last 60 days; those before are not opened."""
    clock = HandClock(NOON - dt.timedelta(days=days))
    with AuditLog.open(tmp_path / "audit", clock=clock, accept_clock=True) as early:
        start(early, order(early))
        early.flush("published")
    clock = HandClock(NOON)
    with AuditLog.open(tmp_path / "audit", clock=clock, accept_clock=True) as audit:
        audit.flush("published")
        first = audit.reader.first_since((NOW - dt.timedelta(days=60)).date())
        assert (first > 0) is bool(expected)
        assert (table(audit).find(TASK) is None) is bool(expected)
        assert audit.reader.first_since(NOW.date() + dt.timedelta(days=2)) == audit.reader.size


def test_no_old_journal_is_believed(audit):
    """A broken table takes what SQLite left beside it with it."""
    start(audit, order(audit))
    table(audit).close()
    path = audit.places.state / "tasks.sqlite"
    path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    for end in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + end).write_bytes(b"old")
    shelf = table(audit)
    assert shelf.find(TASK) is not None
    shelf.close()
    assert [end for end in ("-wal", "-shm", "-journal") if path.with_name(path.name + end).exists()] == []


@pytest.mark.parametrize("damage", ["garbage", "another log", "beyond the log", "other entries", "empty"])
def test_a_file_that_does_not_fit_is_made_anew(audit, damage):
    """Broken, of another log, or of a log that was longer: discarded, never believed."""
    correlation = order(audit)
    start(audit, correlation)
    shelf = table(audit)
    shelf.close()
    path = audit.places.state / "tasks.sqlite"
    if damage == "garbage":
        path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        change = {
            "another log": "UPDATE through SET origin = 'other'",
            "beyond the log": "UPDATE through SET size = 999",
            "other entries": "UPDATE through SET last = x'00'",
        }[damage]
        with sqlite3.connect(path) as database:
            database.execute("UPDATE tasks SET correlation = 'forged'")
            database.execute(change)
        database.close()
    assert table(audit).find(TASK).correlation_id == correlation


def test_without_a_table_recording_goes_on(audit, tmp_path):
    """A folder that is not there, or cannot be written: every question has the answer None."""
    shelf = TaskTable(tmp_path / "no" / "tasks.sqlite", audit.reader, audit.subjects.reveal)
    shelf.observe([b"x", *audit.entries()])
    assert (shelf.find(TASK), shelf.order("c"), shelf.take_polls(TASK), shelf.add_poll(TASK, NOON)) == (
        None, None, None, False
    )  # fmt: skip
    shelf.after_fork()
    shelf.close()


def test_a_locked_table_is_told_later(audit):
    """What cannot be written now is kept and written with the next entries."""
    shelf = table(audit)
    correlation = order(audit)
    other = sqlite3.connect(audit.places.state / "tasks.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    shelf.observe(audit.entries())
    other.execute("ROLLBACK")
    other.close()
    start(audit, correlation)
    shelf.observe(list(audit.entries())[-1:])
    with sqlite3.connect(audit.places.state / "tasks.sqlite") as database:
        assert [(correlation,)] == database.execute("SELECT correlation FROM orders").fetchall()
    database.close()


def test_erased_people_are_nobody(audit):
    """Who was erased is not named by another process either."""
    correlation = order(audit)
    start(audit, correlation)
    audit.flush("published")
    shelf = TaskTable(audit.places.state / "tasks.sqlite", audit.reader, lambda pseudonym: None)
    assert shelf.find(TASK).token is None


def test_nothing_private_is_in_it(audit):
    """Pseudonyms, not people."""
    correlation = order(audit)
    start(audit, correlation)
    table(audit).close()
    assert b"alice" not in (audit.places.state / "tasks.sqlite").read_bytes()
    assert json.loads(next(line for line in audit.entries() if b"prompt_submitted" in line))["actor_id"]
