"""What one process remembers of the things (tasks) whose stories it writes: correlation, last state, unread polls.

Bounded: the things seen longest ago are forgotten first; a forgotten thing is one that this process does
not know, which costs an extra status entry and never an end. What other processes know stands on the shelf, if
there is one. Thread-safe.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from klingai_audit.capture.facts import Filed, Known, Shelf, Sight
from klingai_audit.event.context import Actor
from klingai_audit.event.record import format_time

__all__ = ["MAX_LINKS", "MAX_THINGS", "MAX_UNRESOLVED", "Memory", "News"]

MAX_THINGS: Final = 100_000
MAX_LINKS: Final = 100_000
MAX_UNRESOLVED: Final = 10_000


@dataclass(slots=True)
class _Thing:
    correlation_id: str
    token: Actor | None
    state: str | None = None
    final: bool = False
    problem: str | None = None
    guessed: bool = False
    note: dict[str, str] = field(default_factory=dict)
    polls: int = 0
    first_poll: dt.datetime | None = None
    last_poll: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What a sight is worth: `fresh` if it is to be written, with the polls since the last entry of the thing."""

    fresh: bool
    correlation_id: str
    token: Actor | None
    polls: Mapping[str, Any]


class Memory:
    """The background that a provider may ask, and the judge of what is news."""

    def __init__(self, origin: str, shelf: Shelf | None = None) -> None:
        self.origin = origin
        self._shelf = shelf
        self._things: OrderedDict[str, _Thing] = OrderedDict()
        self._links: OrderedDict[bytes, tuple[str, str]] = OrderedDict()
        self._unresolved: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._external: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, thing: str) -> Known | None:
        """What is remembered of a thing, here or on the shelf."""
        with self._lock:
            found = self._things.get(thing)
        if found is None and self._shelf is not None:
            filed = self._shelf.find(thing)
            found = None if filed is None else self._adopt(thing, filed)
        if found is None:
            return None
        with self._lock:
            return Known(
                correlation_id=found.correlation_id,
                state=found.state,
                final=found.final,
                problem=found.problem,
                note=dict(found.note),
            )

    def linked(self, url: str) -> tuple[str, str] | None:
        """The thing and the result id that a URL was seen to deliver."""
        with self._lock:
            return self._links.get(_link_key(url))

    def unresolved(self, correlation_id: str) -> Mapping[str, str] | None:
        """The note of an act that ended without anyone knowing if it took effect; None if there is none."""
        with self._lock:
            found = self._unresolved.get(correlation_id)
        if found is None and self._shelf is not None:
            order = self._shelf.order(correlation_id)
            found = dict(order.note) if order is not None and order.lost else None
        return found

    def ordered(self, correlation_id: str) -> Mapping[str, str] | None:
        """The note of an act that was announced, whatever became of it; None if nobody knows of one."""
        order = None if self._shelf is None else self._shelf.order(correlation_id)
        return None if order is None else order.note

    def lost_order(self, external_id: str) -> str | None:
        """The correlation of an act without a known end that a caller gave this id of its own, or None."""
        with self._lock:
            found = self._external.get(external_id)
        if found is None and self._shelf is not None:
            found = self._shelf.ordered_as(external_id)
        if found is None or self.unresolved(found) is not None:
            return found
        order = None if self._shelf is None else self._shelf.order(found)
        return found if order is not None and order.open else None

    def awaits(self, thing: str) -> bool:
        """Whether nobody knows of a thing yet, and the reply to an order may tell of it at any moment."""
        shelf = self._shelf
        if shelf is None or self.known(thing) is not None or not shelf.expects():
            return False
        return shelf.order(thing) is None and shelf.ordered_as(thing) is None

    def leave_unresolved(self, correlation_id: str, note: Mapping[str, str]) -> None:
        """Remember that the act of this correlation may have taken effect; `note` may name an `external_id`."""
        with self._lock:
            self._unresolved[correlation_id] = note
            _limit(self._unresolved, MAX_UNRESOLVED)
            if "external_id" in note:
                self._external[note["external_id"]] = correlation_id
                _limit(self._external, MAX_UNRESOLVED)

    def observe(self, sight: Sight, token: Actor | None, when: dt.datetime, *, poll: bool, all_reads: bool) -> News:
        """Take in a sight and say whether it is news; of equal sights in several threads, one is.

        `token` is who acts; a thing keeps the token of its first sight. `poll` counts the sight as an
        unread poll if it is no news; `all_reads` makes every sight news.
        """
        # The act's own reply is of who made the call, and comes too early for others to know of it.
        shelf = self._shelf if sight.shared and (sight.found or not sight.opens) else None
        order = None if shelf is None else self._order_of(shelf, sight)
        guessed = shelf is not None and order is None
        token = token if order is None else order.token
        news = self._observe(sight, token, when, poll=poll and shelf is None, all_reads=all_reads, guessed=guessed)
        if shelf is None:
            return news
        if not news.fresh:
            if poll and not shelf.add_poll(sight.thing, when):
                self._count(sight.thing, when)
            return news
        return replace(news, polls=_joined(shelf.take_polls(sight.thing, ends=sight.final), news.polls))

    def _observe(
        self, sight: Sight, token: Actor | None, when: dt.datetime, *, poll: bool, all_reads: bool, guessed: bool
    ) -> News:
        with self._lock:
            thing = self._things.get(sight.thing)
            new = thing is None
            if thing is None:
                thing = self._things[sight.thing] = _Thing(sight.correlation_id, token, guessed=guessed)
                _limit(self._things, MAX_THINGS)
            if sight.opens:
                thing.correlation_id, thing.token, thing.guessed = sight.correlation_id, token, False
            self._things.move_to_end(sight.thing)
            fresh = all_reads or new or sight.opens or self._changed(thing, sight)
            self._take(thing, sight)
            if sight.state is not None:
                self._unresolved.pop(thing.correlation_id, None)
            polls: dict[str, Any] = {}
            if fresh:
                polls = _polls_of(thing)
            elif poll:
                _count_poll(thing, when)
            return News(fresh, thing.correlation_id, thing.token, polls)

    def take_polls(self, thing: str) -> Mapping[str, Any]:
        """Hand over, once, the polls of a thing that no entry has told of yet."""
        with self._lock:
            found = self._things.get(thing)
            own = {} if found is None else _polls_of(found)
        return own if self._shelf is None else _joined(self._shelf.take_polls(thing), own)

    def delivered(self, delivery: str) -> bool:
        """Whether some process of this log has handled a delivery."""
        return self._shelf is not None and self._shelf.delivered(delivery)

    def keep_delivery(self, delivery: str, when: dt.datetime) -> None:
        """Tell the other processes of this log that a delivery was handled."""
        if self._shelf is not None:
            self._shelf.keep_delivery(delivery, when)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        if self._shelf is not None:
            self._shelf.after_fork()

    def close(self) -> None:
        """Release the shelf."""
        if self._shelf is not None:
            self._shelf.close()

    def _adopt(self, thing: str, filed: Filed) -> _Thing:
        """Remember what the shelf knows of a thing, unless it became known here meanwhile."""
        with self._lock:
            found = self._things.get(thing)
            if found is None:
                found = _Thing(filed.correlation_id, filed.token, filed.state, filed.final, note=dict(filed.note))
                self._things[thing] = found
                _limit(self._things, MAX_THINGS)
            return found

    def _order_of(self, shelf: Shelf, sight: Sight) -> Filed | None:
        """Who ordered a thing that is not known here."""
        if not sight.opens:
            self._consult(shelf, sight)
        with self._lock:
            known = sight.thing in self._things
        return None if known else shelf.order(sight.correlation_id)

    def _consult(self, shelf: Shelf, sight: Sight) -> None:
        """Before a status is news: another process may have written it, or who ordered. The log keeps one end."""
        with self._lock:
            thing = self._things.get(sight.thing)
            if thing is None or sight.state is None or not self._changed(thing, sight):
                return
            if sight.final and not thing.guessed:
                return
        filed = shelf.find(sight.thing)
        if filed is None:
            return
        with self._lock:
            if thing.guessed and filed.correlation_id != thing.correlation_id:
                thing.correlation_id, thing.token, thing.guessed = filed.correlation_id, filed.token, False
            if not sight.final and (filed.final or filed.state == sight.state):
                thing.state, thing.final = filed.state, filed.final

    def _count(self, name: str, when: dt.datetime) -> None:
        with self._lock:
            thing = self._things.get(name)
            if thing is not None:
                _count_poll(thing, when)

    def _changed(self, thing: _Thing, sight: Sight) -> bool:
        if sight.state is None:
            return sight.problem != thing.problem
        if thing.final:  # a list may lag behind: what has ended stays ended, but two different ends are news
            return sight.final and sight.state != thing.state
        return sight.state != thing.state

    def _take(self, thing: _Thing, sight: Sight) -> None:
        thing.problem = sight.problem
        if sight.opens and thing.state is not None:  # a poll or a callback came before the create's own reply
            pass
        elif sight.state is not None and not (thing.final and not sight.final):
            thing.state, thing.final = sight.state, sight.final
        thing.note.update(sight.note)
        for url, result_id in sight.links:
            self._links[_link_key(url)] = (sight.thing, result_id)
        _limit(self._links, MAX_LINKS)


def _count_poll(thing: _Thing, when: dt.datetime) -> None:
    thing.polls += 1
    thing.first_poll = thing.first_poll or when
    thing.last_poll = when


def _joined(others: tuple[int, dt.datetime, dt.datetime] | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The polls of all processes as one count."""
    if others is None:
        return own
    count, first, last = others[0], format_time(others[1]), format_time(others[2])
    if not own:
        return {"polls": count, "first_poll": first, "last_poll": last}
    return {
        "polls": count + own["polls"],
        "first_poll": min(first, own["first_poll"]),
        "last_poll": max(last, own["last_poll"]),
    }


def _polls_of(thing: _Thing) -> dict[str, Any]:
    if not thing.polls or thing.first_poll is None or thing.last_poll is None:
        return {}
    told = {
        "polls": thing.polls,
        "first_poll": format_time(thing.first_poll),
        "last_poll": format_time(thing.last_poll),
    }
    thing.polls, thing.first_poll, thing.last_poll = 0, None, None
    return told


def _link_key(url: str) -> bytes:
    """Links are compared without fragment; only a digest is kept, since they open the result for anyone."""
    return hashlib.sha256(url.partition("#")[0].encode("utf-8", "surrogatepass")).digest()[:16]


def _limit(table: OrderedDict[Any, Any], limit: int) -> None:
    while len(table) > limit:
        table.popitem(last=False)
