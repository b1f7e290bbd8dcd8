"""Two processes' memories over one shelf: what one wrote is no news to the other, and polls are one count."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.capture.facts import Filed, Sight
from klingai_audit.capture.memory import Memory
from klingai_audit.event.context import Actor

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
ALICE, BOB = Actor("alice"), Actor("bob")


class Shelf:
    """A shelf in memory; `works` False: nothing can be looked up or counted."""

    def __init__(self, works: bool = True) -> None:
        self.works = works
        self.tasks: dict[str, Filed] = {}
        self.orders: dict[str, Filed] = {}
        self.names: dict[str, str] = {}
        self.polls: dict[str, list[dt.datetime]] = {}
        self.deliveries: set[str] = set()
        self.expecting = False
        self.closed = self.forked = False

    def find(self, thing):
        return self.tasks.get(thing) if self.works else None

    def order(self, correlation_id):
        return self.orders.get(correlation_id) if self.works else None

    def ordered_as(self, external_id):
        return self.names.get(external_id) if self.works else None

    def add_poll(self, thing, when):
        self.polls.setdefault(thing, []).append(when)
        return self.works

    def expects(self):
        return self.works and self.expecting

    def take_polls(self, thing, *, ends=False):
        times = self.polls.pop(thing, []) if self.works else []
        return (len(times), min(times), max(times)) if times else None

    def delivered(self, delivery):
        return self.works and delivery in self.deliveries

    def keep_delivery(self, delivery, when):
        self.deliveries.add(delivery)

    def close(self):
        self.closed = True

    def after_fork(self):
        self.forked = True


def see(memory, state, *, minute=0, token=BOB, shared=True, **more):
    """Observe task `t`."""
    sight = Sight(thing="t", correlation_id=more.pop("correlation", "c"), state=state, shared=shared, **more)
    return memory.observe(sight, token, NOON + dt.timedelta(minutes=minute), poll=True, all_reads=False)


def filed(state, *, final=False, **more) -> Filed:
    """What the log tells of task `t`, ordered by alice."""
    return Filed(correlation_id="ordered", token=ALICE, state=state, final=final, note={"product": "image"}, **more)


def test_a_task_of_another_process_is_known():
    """Correlation, who ordered, product and state; its end, when it is in the log already, is no news."""
    shelf = Shelf()
    shelf.tasks["t"] = filed("processing")
    memory = Memory("o", shelf)
    known = memory.known("t")
    assert (known.correlation_id, known.state, known.note) == ("ordered", "processing", {"product": "image"})
    news = see(memory, "succeeded", final=True)
    assert (news.fresh, news.correlation_id, news.token) == (True, "ordered", ALICE)
    other = Memory("o", shelf)
    shelf.tasks["t"] = filed("succeeded", final=True)
    assert other.known("t").final
    assert see(other, "succeeded", final=True).fresh is False
    assert see(other, "failed", final=True).fresh is True


def test_a_change_that_another_process_wrote_is_a_poll():
    """Looked up before it is written again; an end is left to the log, which keeps one."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    assert see(memory, "submitted").fresh
    shelf.tasks["t"] = filed("processing")
    assert not see(memory, "processing").fresh
    assert len(shelf.polls["t"]) == 1
    shelf.tasks["t"] = filed("succeeded", final=True)
    assert see(memory, "succeeded", final=True).fresh
    assert see(Memory("o", shelf), "odd").fresh


def test_polls_of_both_are_told_once():
    """The one that has the news tells of all polls."""
    shelf = Shelf()
    first, second = Memory("o", shelf), Memory("o", shelf)
    see(first, "processing")
    shelf.tasks["t"] = filed("processing")
    assert second.known("t")
    assert [see(first, "processing", minute=1).fresh, see(second, "processing", minute=2).fresh] == [False, False]
    news = see(second, "succeeded", minute=3, final=True)
    assert news.polls == {
        "polls": 2,
        "first_poll": "2026-11-21T12:01:00.000000Z",
        "last_poll": "2026-11-21T12:02:00.000000Z",
    }
    assert first.take_polls("t") == {}


def test_without_a_working_shelf_polls_are_counted_here():
    """A shelf that fails costs nothing but what other processes know."""
    memory = Memory("o", Shelf(works=False))
    see(memory, "processing")
    see(memory, "processing", minute=1)
    assert see(memory, "succeeded", minute=2, final=True).polls["polls"] == 1


def test_counts_here_and_there_are_joined():
    """Polls that could not be shared and polls that could are one count."""
    shelf = Shelf(works=False)
    memory = Memory("o", shelf)
    see(memory, "processing")
    see(memory, "processing", minute=5)
    shelf.polls.clear()
    shelf.works = True
    see(memory, "processing", minute=1)
    assert memory.take_polls("t") == {
        "polls": 2,
        "first_poll": "2026-11-21T12:01:00.000000Z",
        "last_poll": "2026-11-21T12:05:00.000000Z",
    }


@pytest.mark.parametrize(
    "kind,expected", [({}, ALICE), ({"opens": True, "found": True}, ALICE), ({"opens": True}, BOB)]
)
def test_who_ordered(kind, expected):
    """A task that is seen first is of who ordered it; a create's own reply is of who made the call."""
    shelf = Shelf()
    shelf.orders["c"] = filed(None)
    assert see(Memory("o", shelf), "submitted", **kind).token == expected


def test_a_guess_lasts_until_the_order_is_known():
    """Who sees a task before anybody knows who ordered it tells of it in the own name, and then no more."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    assert see(memory, "submitted").token == BOB
    shelf.tasks["t"] = filed("submitted")
    news = see(memory, "processing")
    assert (news.fresh, news.correlation_id, news.token) == (True, "ordered", ALICE)
    other = Memory("o", Shelf())
    assert see(other, "processing").token == BOB
    other._shelf.tasks["t"] = filed("processing")
    assert see(other, "succeeded", final=True).token == ALICE


def test_what_may_be_told_at_any_moment():
    """A thing that nobody knows, while an order waits for a reply that alone can tell its thing."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    assert not memory.awaits("t")
    shelf.expecting = True
    assert memory.awaits("t")
    shelf.orders["intent"], shelf.names["film-1"] = filed(None), "intent"
    assert not memory.awaits("intent")
    assert not memory.awaits("film-1")
    shelf.tasks["t"] = filed("submitted")
    assert not memory.awaits("t")
    assert not Memory("o").awaits("t")


def test_lost_orders_of_other_processes():
    """What nobody answered there is unresolved here; what was announced is known in any case."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    shelf.orders |= {"lost": filed(None, lost=True), "open": filed(None)}
    assert memory.unresolved("lost") == {"product": "image"}
    assert memory.unresolved("open") is memory.unresolved("none") is None
    assert memory.ordered("open") == {"product": "image"}
    assert memory.ordered("none") is Memory("o").ordered("open") is None


def test_lost_orders_by_their_callers_ids():
    """Here or elsewhere, as long as nobody knows what became of them, or their reply is still to come."""
    shelf = Shelf()
    memory, alone = Memory("o", shelf), Memory("o")
    shelf.orders |= {"lost": filed(None, lost=True), "closed": filed(None), "open": filed(None, open=True)}
    shelf.names |= {"film-1": "lost", "film-2": "closed", "film-5": "open"}
    memory.leave_unresolved("here", {"external_id": "film-3"})
    alone.leave_unresolved("here", {"product": "video"})
    names = ("film-1", "film-2", "film-3", "film-4", "film-5")
    assert ["lost", None, "here", None, "open"] == [memory.lost_order(name) for name in names]
    assert [None] * 5 == [alone.lost_order(name) for name in names]


def test_what_is_no_task_stays_here():
    """Queries and claims are this process's own."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    for _ in range(3):
        see(memory, "digest", shared=False)
    assert shelf.polls == {}
    assert see(memory, "other", shared=False).polls["polls"] == 2


def test_the_shelf_is_closed_and_forked_with_the_memory():
    """It belongs to it."""
    shelf = Shelf()
    memory = Memory("o", shelf)
    memory.after_fork()
    memory.close()
    assert (shelf.closed, shelf.forked) == (True, True)


def test_deliveries_are_known_to_all_processes():
    """What one handled the other has seen; without a shelf, or with one that does not work, nobody knows."""
    shelf = Shelf()
    first, second = Memory("o", shelf), Memory("o", shelf)
    first.keep_delivery("d", NOON)
    assert (second.delivered("d"), second.delivered("e")) == (True, False)
    lonely = Memory("o")
    lonely.keep_delivery("d", NOON)
    assert not lonely.delivered("d")
