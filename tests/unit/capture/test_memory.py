"""What is news about a task, and what is only one more poll."""

from __future__ import annotations

import datetime as dt
import threading

import pytest

from klingai_audit.capture import memory
from klingai_audit.capture.facts import Sight
from klingai_audit.capture.memory import Memory
from klingai_audit.event.context import Actor

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def see(held: Memory, state: str | None, *, minute: int = 0, all_reads: bool = False, **more):
    """Observe task `t` in `state`; returns the news."""
    sight = Sight(thing="t", correlation_id=more.pop("correlation", "c"), state=state, **more)
    return held.observe(sight, more.get("token"), NOON + dt.timedelta(minutes=minute), poll=True, all_reads=all_reads)


def test_equal_states_are_counted_and_told_with_the_next_change():
    """Unchanged polls make no entry; the next entry carries their number, first and last time."""
    held = Memory("o")
    fresh = [see(held, "processing", minute=minute).fresh for minute in range(4)]
    news = see(held, "succeeded", minute=9, final=True)
    assert fresh == [True, False, False, False]
    assert news.polls == {
        "polls": 3,
        "first_poll": "2026-11-21T12:01:00.000000Z",
        "last_poll": "2026-11-21T12:03:00.000000Z",
    }
    assert see(held, "succeeded", minute=10, final=True).fresh is False


@pytest.mark.parametrize(
    "before,after,final,expected",
    [
        ("submitted", "processing", False, True),
        ("processing", "submitted", False, True),
        ("succeeded", "processing", False, False),
        ("succeeded", "failed", True, True),
        ("failed", "failed", True, False),
    ],
)
def test_what_has_ended_stays_ended(before, after, final, expected):
    """A lagging list cannot take an end back, but a second, different end is news."""
    held = Memory("o")
    see(held, before, final=before in ("succeeded", "failed"))
    assert see(held, after, final=final).fresh is expected


def test_equal_problems_in_a_row_are_one():
    """A query that fails in the same way again is a poll; another failure, or the first after a success, is news."""
    held = Memory("o")
    sights = [("5000", None), ("5000", None), ("1302", None), (None, "processing"), ("1302", None)]
    fresh = [see(held, state, problem=problem).fresh for problem, state in sights]
    assert fresh == [True, False, True, True, True]


def test_the_creates_own_reply_is_always_told_and_takes_the_story_over():
    """A callback or poll before the create's reply must not swallow the start, nor keep its own correlation."""
    held = Memory("o")
    see(held, "processing", correlation="guessed")
    alice = Actor("alice")
    opened = Sight(thing="t", correlation_id="intent", state="submitted", opens=True)
    news = held.observe(opened, alice, NOON, poll=False, all_reads=False)
    assert (news.fresh, news.correlation_id, news.token) == (True, "intent", alice)
    assert held.known("t").state == "processing"
    assert see(held, "processing").fresh is False


def test_all_reads_makes_every_sight_news():
    """With record_reads = "all" no poll is counted away."""
    held = Memory("o")
    assert [see(held, "processing", all_reads=True).fresh for _ in range(3)] == [True, True, True]


def test_links_lead_back_to_their_task_without_being_kept():
    """A result's URL is recognised, its text is not held."""
    held = Memory("o")
    url = "https://cdn.example/a.mp4?token=hush"
    see(held, "succeeded", final=True, links=[(url, "v1")])
    assert held.linked(url + "#t=1") == ("t", "v1")
    assert held.linked("https://cdn.example/a.mp4?token=other") is None
    assert "hush" not in str(vars(held))


def test_an_unresolved_act_is_resolved_by_a_sight():
    """What an ambiguous create left open is closed when its task is seen, not when a query fails."""
    held = Memory("o")
    held.leave_unresolved("c", {"product": "video"})
    see(held, None, problem="5000")
    assert held.unresolved("c") == {"product": "video"}
    see(held, "submitted")
    assert held.unresolved("c") is None


def test_memory_is_bounded(monkeypatch):
    """The things seen longest ago are forgotten first."""
    monkeypatch.setattr(memory, "MAX_THINGS", 3)
    held = Memory("o")
    for name in "abcad":
        held.observe(Sight(thing=name, correlation_id=name, state="s"), None, NOON, poll=True, all_reads=False)
    assert [held.known(name) is not None for name in "abcd"] == [True, False, True, True]


def test_one_of_many_threads_has_the_news():
    """Of equal sights at the same time exactly one is written."""
    held = Memory("o")
    gate = threading.Barrier(8)
    fresh = []

    def look():
        gate.wait()
        fresh.append(see(held, "succeeded", final=True).fresh)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == [False] * 7 + [True]
