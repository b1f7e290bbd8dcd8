"""The watch of one log, in this process: real logs and verifications, a clock to set, a receiver that may refuse."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.cli.session import Session
from klingai_audit.cli.trusting import check_log
from klingai_audit.config import open_reader
from klingai_audit.detect.rules import load_rules
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.event.record import decode_event
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.trust.verdict import Verdict
from klingai_audit.watch.channels import Context
from klingai_audit.watch.memory import Message, load_memory, only_watch
from klingai_audit.watch.rounds import Round, Settings
from klingai_audit.watch.run import Watch

ONLY_VERIFY = Settings(detect=None)


class Book:
    """A channel that keeps what it takes, and refuses as long as `down`."""

    name = "book"

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.contexts: list[Context] = []
        self.down = False

    def send(self, message: Message, context: Context) -> None:
        if self.down:
            raise StorageError("The book is shut.")
        self.messages.append(message)
        self.contexts.append(context)

    @property
    def alerts(self) -> list[tuple[str, str]]:
        return [(alert.change, alert.problem.kind) for message in self.messages for alert in message.alerts]


class Place:
    """A log with a few entries, and watches of it that each begin from what the one before remembered."""

    def __init__(self, folder: Path) -> None:
        self.session = Session(log=str(folder / "audit"))
        self.folder = folder
        self.now = dt.datetime.now(dt.UTC).timestamp()
        self.book = Book()
        self.verified: list[bool] = []
        with AuditLog.open(folder / "audit") as audit:
            for number in range(5):
                audit.log("x_note", "user@example.com", metadata={"number": number})

    def verify(self, quick: bool, progress: Callable[[int, int], None]) -> Verdict:
        self.verified.append(quick)
        return check_log(self.session, quick=quick, progress=progress)

    def watch(self, settings: Settings = ONLY_VERIFY, **more: Any) -> Watch:
        options: dict[str, Any] = {"folder": self.folder / "audit.state", "actor": "watcher", "environment": {}, **more}
        return Watch(
            self.session.places, Policy.load(self.session.places.keys / "policy.toml"), settings, self.verify,
            channels=[self.book], clock=lambda: self.now, **options,
        )  # fmt: skip

    def round(self, settings: Settings = ONLY_VERIFY, *, later: float = 0, **more: Any) -> Round | None:
        """One round as `--once` makes it, `later` seconds after the one before."""
        self.now += later
        rounds: list[Round] = []
        self.code = self.watch(settings, **more).run(rounds.append, once=True)
        return rounds[0] if rounds else None

    @property
    def day(self) -> Path:
        return min((self.folder / "audit").glob("audit-*.jsonl"))

    def change(self, old: bytes, new: bytes) -> None:
        data = self.day.read_bytes()
        assert data.count(old) >= 1
        self.day.write_bytes(data.replace(old, new))

    @property
    def types(self) -> list[str]:
        return [decode_event(line).event_type for line in open_reader(self.session.places).entries()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(made: Round | None) -> list[str]:
    return [] if made is None else [job.name for job in made.jobs]


def test_checks_are_made_when_they_are_due(place: Place) -> None:
    """Whole at first, quickly after 5 minutes, nothing in between or again after a restart, whole after a day."""
    assert ["full"] == names(place.round())
    assert [] == names(place.round(later=200))
    assert ["quick"] == names(place.round(later=101))
    assert ["full"] == names(place.round(later=86_400))
    assert [False, True, False] == place.verified
    assert [] == place.book.messages
    assert 0 == place.code


def test_a_clock_that_was_set_back_makes_checks_due(place: Place) -> None:
    """A time of the future in the memory stops nothing."""
    place.round()
    assert ["full"] == names(place.round(later=-4 * 86_400))


def test_a_finding_is_told_once_and_again_when_it_is_gone_and_back(place: Place) -> None:
    """A quick look that finds something makes the whole verification at once; equal findings are told once."""
    place.round()
    before = place.day.read_bytes()
    place.change(b'"number":3', b'"number":7')
    # the damage lies before what was verified: only the whole verification reads it
    assert ["full"] == names(place.round(later=86_401))
    assert [("new", "entry_changed")] == place.book.alerts
    assert 4 == place.code
    assert [(4, ["quick"]), (4, ["full"])] == [
        (place.code, names(place.round(later=seconds))) for seconds in (301, 86_401)
    ]
    assert 1 == len(place.book.messages)
    place.day.write_bytes(before)
    place.round(later=86_401)
    assert ("gone", "entry_changed") == place.book.alerts[-1]
    assert 0 == place.code
    place.change(b'"number":3', b'"number":7')
    place.round(later=86_401)
    assert ["new", "gone", "again"] == [change for change, _ in place.book.alerts]
    problem = place.book.messages[0].alerts[0].problem
    assert ("verify", "broken", 5, 6) == (problem.source, problem.level, problem.seq, problem.seq_end)
    assert "detected" == place.book.contexts[0].threats["edit"]


def test_a_quick_look_that_finds_something_has_all_verified(place: Place) -> None:
    """New damage is found by the quick look, named by the whole one, and settled by the whole one in the same way."""
    place.round()
    with AuditLog.open(place.folder / "audit") as audit:
        audit.log("x_note", "user@example.com", metadata={"number": 77})
    before = place.day.read_bytes()
    place.change(b'"number":77', b'"number":78')
    place.round(later=301)
    assert [False, True, False] == place.verified
    assert [("new", "entry_changed")] == place.book.alerts
    place.round(later=301)
    assert [False, True, False, True] == place.verified
    place.day.write_bytes(before)
    place.round(later=301)
    assert [False, True, False, True, True, False] == place.verified
    assert ("gone", "entry_changed") == place.book.alerts[-1]


@pytest.mark.slow
def test_an_idle_log_does_not_grow_by_being_looked_at(place: Place) -> None:
    """With a writer one entry tells of each whole verification; quick ones and equal findings write nothing."""
    recording = Settings(record=True)
    rules = load_rules([], ["refusal-burst"])
    place.round(recording, rules=rules)
    types = place.types
    assert 1 == types.count("log_verified")
    for _ in range(5):
        place.round(recording, later=901, rules=rules)
    assert types == place.types
    place.round(recording, later=86_401, rules=rules)
    assert 2 == place.types.count("log_verified")


def test_damage_is_recorded_once_where_the_log_can_be_written(place: Place) -> None:
    """`verification_failed` stands in the log once for each state of damage; other checks are left out meanwhile."""
    recording = Settings(record=True, detect=None)
    place.round(recording)
    place.change(b'"number":3', b'"number":7')
    place.round(recording, later=86_401)
    made = place.round(recording, later=86_401)
    assert made is not None
    assert ["witness"] == [job.name for job in made.jobs if "left out" in job.words]
    assert [("new", "entry_changed")] == place.book.alerts
    assert 1 == place.types.count("verification_failed")


def test_what_cannot_be_delivered_waits_and_is_told(place: Place) -> None:
    """It is kept over restarts, sent again under the same id, and a run that could tell nobody exits with 3 or 4."""
    place.round()
    place.book.down = True
    place.change(b'"number":3', b'"number":7')
    made = place.round(later=86_401)
    assert made is not None
    assert ({"book": 1}, True, 4) == (made.undelivered, "The book is shut" in made.trouble[0], place.code)
    kept = json.loads((place.folder / "audit.state" / "watch.json").read_bytes())["waiting"]["book"][0]["id"]
    place.book.down = False
    assert [] == place.book.messages
    made = place.round(later=31)
    assert made is not None
    assert ([kept], {}) == ([message.id for message in place.book.messages], made.undelivered)


def test_a_receiver_that_is_away_for_long_loses_the_oldest(place: Place) -> None:
    """A hundred messages wait, no more; when it is back it gets them, and what was dropped is told."""
    place.round()
    place.book.down = True
    before = place.day.read_bytes()
    place.change(b'"number":3', b'"number":7')
    place.round(later=86_401)
    path = place.folder / "audit.state" / "watch.json"
    memory = json.loads(path.read_bytes())
    memory["waiting"]["book"] *= 100
    path.write_bytes(json.dumps(memory).encode())
    place.day.write_bytes(before)
    place.round(later=86_401)
    place.book.down = False
    made = place.round(later=601)
    assert made is not None
    assert (100, ["1 older messages for book were dropped: it was away for too long."]) == (
        len(place.book.messages), made.trouble,
    )  # fmt: skip
    assert ("gone", "entry_changed") == place.book.alerts[-1]


def test_a_log_that_is_gone_is_a_finding(place: Place) -> None:
    """The remembered head tells that there was one; the memory of the watch is of the same log."""
    place.round()
    (place.folder / "audit").rename(place.folder / "elsewhere")
    place.round(later=301)
    assert ("new", "log_missing") in place.book.alerts
    (place.folder / "elsewhere").rename(place.folder / "audit")
    place.round(later=301)
    assert ("gone", "log_missing") == place.book.alerts[-1]


def test_a_service_that_falls_silent_is_told(place: Place) -> None:
    """Entries of checks are no sign of life, entries of a service are."""
    waiting = Settings(record=True, detect=None, heartbeat=dt.timedelta(hours=3))
    place.round(waiting)
    assert [] == place.book.alerts
    place.round(waiting, later=4 * 3600)
    assert ([("new", "stale_head")], 1) == (place.book.alerts, place.code)
    place.round(waiting, later=3600)
    assert 1 == len(place.book.alerts)
    place.now = dt.datetime.now(dt.UTC).timestamp()
    place.round(waiting, later=60)
    assert ([("new", "stale_head"), ("gone", "stale_head")], 0) == (place.book.alerts, place.code)


@pytest.mark.slow
def test_a_check_that_fails_is_a_problem_until_it_works(place: Place) -> None:
    """A rule whose SQL gives too little is no reason to stop; the check is tried again, and its success told."""
    (good,) = load_rules([], ["refusal-burst"])
    bad = replace(good, sql="SELECT 1 AS one")
    made = place.round(Settings(), rules=[bad])
    assert made is not None
    assert [False, True] == [job.failed for job in made.jobs]
    assert ([("new", "UsageError")], 3) == (place.book.alerts, place.code)
    assert [] == names(place.round(Settings(quick=None), later=10, rules=[good]))
    place.round(Settings(), later=3600, rules=[good])
    assert ([("new", "UsageError"), ("gone", "UsageError")], 0) == (place.book.alerts, place.code)


def test_one_watch_at_a_time(place: Place) -> None:
    """A second one is refused while the first is at work, and forgets nothing."""
    folder = place.folder / "audit.state"
    with only_watch(folder), pytest.raises(UsageError, match="watched already"):
        place.round()
    place.round()
    assert load_memory(folder, "another.example").done == {}


def test_a_memory_that_is_none_is_begun_anew(place: Place) -> None:
    """Garbage in watch.json makes everything due, and nothing fails."""
    place.round()
    (place.folder / "audit.state" / "watch.json").write_bytes(b"{")
    assert ["full"] == names(place.round(later=1))


def test_a_memory_that_cannot_be_written_stops_no_alert(place: Place) -> None:
    """On a full disk people are told all the same; that nothing is remembered is told, too."""
    place.round()
    place.change(b'"number":3', b'"number":7')
    (place.folder / "audit.state" / "watch.json.tmp").mkdir()
    made = place.round(later=86_401)
    assert made is not None
    assert ([("new", "entry_changed")], 4) == (place.book.alerts, place.code)
    assert ["watch.json cannot be written" in words for words in made.trouble] == [True]
    (place.folder / "audit.state" / "watch.json.tmp").rmdir()
    place.round(later=1)
    assert [("new", "entry_changed")] * 2 == place.book.alerts


def test_a_stop_leaves_a_check_under_way(place: Place) -> None:
    """The verification is left by its next word of progress, and counts as not made."""
    stopped: list[int] = []

    def verify(quick: bool, progress: Callable[[int, int], None]) -> Verdict:
        stopped.append(1)
        progress(0, 1)
        raise AssertionError("the check went on")

    place.verify = verify  # type: ignore[method-assign]
    assert 0 == place.watch(stop=lambda: bool(stopped)).run(lambda _made: None)
    assert {} == load_memory(place.folder / "audit.state", "").done
