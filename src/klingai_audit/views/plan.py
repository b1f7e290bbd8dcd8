"""A filter made ready for a scan: byte tests that a matching line must pass, then exact tests on the entry.

The byte tests lean on two facts of docs/format.md: event members stand at fixed places up to the event type, and
values are encoded in one way. They may let a line through that does not match, never the other way round.
Allowed caller: `views.query`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.event.record import OUTCOMES
from klingai_audit.event.types import CATEGORIES, EVENT_TYPES, canonical_type, category_of
from klingai_audit.privacy.subjects import RESERVED, is_pseudonym
from klingai_audit.views.charge import CostTest
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.haystack import holds_text, text_needle
from klingai_audit.views.times import format_instant, parse_instant

__all__ = ["CUSTOM_CATEGORY", "KEY_MEMBERS", "TASK_MEMBERS", "Filter", "Plan", "names_key", "names_task", "stored_ids"]

CUSTOM_CATEGORY: Final = "custom"
"""Category of a user's own `x_…` event types."""

TASK_MEMBERS: Final = ("task_id", "external_task_id")
"""Metadata members that name a provider task, beside `resource_id`."""

KEY_MEMBERS: Final = ("key_fingerprint", "new", "old", "api_key_name", "name")
"""Metadata members that name a credential: by its fingerprint, or by the name it was declared under."""

_HEADER: Final = b'","event_type":"'
_HEADER_AT: Final = slice(102, 118)
_TIMESTAMP: Final = slice(75, 102)
_TYPE_AT: Final = 118

_Test = Callable[[EntryView], bool]

_quote = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What to look for; every member that is given must hold, None asks nothing.

    `actor` is a raw id, a mask or a pseudonym. `event_type`, `category` and `outcome` take one name or several (any of
    them). `resource` is a resource id, a resource type, or `type/id`; a user may be named as an actor is. `task` is a
    provider task id or the intent's event id. `model` is a model's name. `key` is a credential's fingerprint (16 hex
    digits) or the name it was declared under, one or several. `cost` is a condition such as `>=5 video units`
    (`views.charge.CostTest`); an entry that states no charge never fulfils it. `text` is looked for in all values but
    the ledger's members, ignoring case. The time range is half-open over `timestamp`, [since, until), in the forms of
    `views.times`.
    `limit` counts entries after folding; `reverse` gives the newest first. `duplicates` turns folding off.
    """

    actor: str | None = None
    team: str | None = None
    project: str | None = None
    event_type: str | Iterable[str] | None = None
    category: str | Iterable[str] | None = None
    outcome: str | Iterable[str] | None = None
    resource: str | None = None
    correlation: str | None = None
    task: str | None = None
    model: str | None = None
    key: str | Iterable[str] | None = None
    cost: str | None = None
    text: str | None = None
    since: str | dt.datetime | dt.date | None = None
    until: str | dt.datetime | dt.date | None = None
    limit: int | None = None
    reverse: bool = False
    duplicates: bool = False


def names_task(entry: EntryView, task: str) -> bool:
    """Tell whether an entry itself names the provider task `task` (or is the intent with that event id)."""
    if task in (entry.resource_id, entry.event_id):
        return True
    return any(entry.metadata.get(member) == task for member in TASK_MEMBERS)


def names_key(entry: EntryView, keys: frozenset[str]) -> bool:
    """Tell whether an entry itself names one of these credentials."""
    if entry.resource_type == "api_key":
        return entry.resource_id in keys or any(entry.metadata.get(member) in keys for member in KEY_MEMBERS)
    return entry.metadata.get("key_fingerprint") in keys or entry.metadata.get("api_key_name") in keys


class Plan:
    """One filter, checked and compiled.

    Raises: UsageError for an unknown type, category, outcome, time or limit, and for a person who cannot be looked up
    because there is no subject table.
    """

    def __init__(self, wanted: Filter, people: People, now: dt.datetime) -> None:
        self.people = people
        self.limit = wanted.limit
        self._needles: list[bytes] = []
        self._tests: list[_Test] = []
        self._lowered: bytes | None = None
        self._types: frozenset[bytes] | None = None
        self._since = self._until = b""
        if wanted.limit is not None and wanted.limit < 1:
            raise UsageError(f"limit is {wanted.limit}.", do="Use a number of 1 or more.")
        self._plan_members(wanted)
        self._plan_people(wanted)
        self._plan_kinds(wanted)
        self._plan_times(wanted, now)

    def may_match(self, line: bytes) -> bool:
        """Rule a line out by its bytes alone; True means: decode it and ask `matches`."""
        if line[_HEADER_AT] == _HEADER:
            if self._since and line[_TIMESTAMP] < self._since:
                return False
            if self._until and line[_TIMESTAMP] >= self._until:
                return False
            if self._types is not None and line[_TYPE_AT : line.find(b'"', _TYPE_AT)] not in self._types:
                return False
        for needle in self._needles:
            if needle not in line:
                return False
        return self._lowered is None or not line.isascii() or self._lowered in line.lower()

    def matches(self, entry: EntryView) -> bool:
        """Tell whether the decoded entry is what was asked for."""
        return all(test(entry) for test in self._tests)

    def _plan_members(self, wanted: Filter) -> None:
        for name, value in (("team", wanted.team), ("project", wanted.project), ("correlation_id", wanted.correlation)):
            if value is not None:
                self._needles.append(b'"%b":%b' % (name.encode(), _quote(value)))
                self._tests.append(_equals(name, value))
        if wanted.task is not None:
            task = wanted.task
            self._needles.append(_quote(task))
            self._tests.append(lambda entry: names_task(entry, task))
        if wanted.model is not None:
            model = wanted.model
            self._needles.append(b'"model":%b' % _quote(model))
            self._tests.append(lambda entry: entry.metadata.get("model") == model)
        if wanted.key is not None:
            keys = frozenset(_several(wanted.key))
            self._tests.append(lambda entry: names_key(entry, keys))
            if len(keys) == 1:
                self._needles.append(_quote(*keys))
        if wanted.cost is not None:
            self._needles.append(b'"charge":[')
            self._tests.append(CostTest.parse(wanted.cost).holds)
        if wanted.text:
            text = wanted.text.lower()
            self._lowered = text_needle(text)
            self._tests.append(lambda entry: holds_text(entry, text))

    def _plan_people(self, wanted: Filter) -> None:
        if wanted.actor is not None:
            ids = stored_ids(wanted.actor, self.people)
            if ids is None:
                self._tests.append(_mask_test(wanted.actor, self.people))
            else:
                self._tests.append(lambda entry: entry.actor_id in ids)
                self._need("actor_id", ids)
        if wanted.resource is not None:
            test, needle = _resource_test(wanted.resource, self.people)
            self._tests.append(test)
            if needle:
                self._needles.append(needle)

    def _plan_kinds(self, wanted: Filter) -> None:
        types: frozenset[str] | None = None
        if wanted.category is not None:
            categories = _known(wanted.category, "category", (*CATEGORIES, CUSTOM_CATEGORY))
            self._tests.append(lambda entry: category_of(entry.event_type) in categories)
            if CUSTOM_CATEGORY not in categories:
                types = frozenset(name for name, info in EVENT_TYPES.items() if info.category in categories)
        if wanted.event_type is not None:
            types = frozenset(canonical_type(name) for name in _several(wanted.event_type))
            self._tests.append(lambda entry: entry.event_type in types)
        if types is not None:
            self._types = frozenset(name.encode() for name in types)
        if wanted.outcome is not None:
            outcomes = _known(wanted.outcome, "outcome", OUTCOMES)
            self._tests.append(lambda entry: entry.outcome in outcomes)
            self._need("outcome", outcomes)

    def _plan_times(self, wanted: Filter, now: dt.datetime) -> None:
        since = None if wanted.since is None else parse_instant(wanted.since, edge="since", now=now)
        until = None if wanted.until is None else parse_instant(wanted.until, edge="until", now=now)
        if since is not None and until is not None and since > until:
            raise UsageError("since lies after until.", do="Swap them.")
        if since is not None:
            self._since = format_instant(since)
            self._tests.append(lambda entry: entry.timestamp >= since)
        if until is not None:
            self._until = format_instant(until)
            self._tests.append(lambda entry: entry.timestamp < until)

    def _need(self, member: str, values: frozenset[str]) -> None:
        """Demand the bytes of `member` where only one value can match."""
        if len(values) == 1:
            self._needles.append(b'"%b":%b' % (member.encode(), _quote(next(iter(values)))))


def _equals(member: str, value: str) -> _Test:
    return lambda entry: getattr(entry, member) == value


def stored_ids(actor: str, people: People) -> frozenset[str] | None:
    """Return the stored ids that `actor` stands for, or None if it is a mask that must be compared one by one."""
    if is_pseudonym(actor) or actor in RESERVED:
        return frozenset({actor})
    if not people.readable:
        raise UsageError(
            "A person can be looked up only with the subject table, which cannot be read here.",
            do="Give the pseudonym (p_…) instead, or name the table with --subjects.",
        )
    if "***" in actor:
        return None
    pseudonym = people.pseudonym(actor)
    # Where policy declares ids opaque, the id itself is stored.
    return frozenset({actor} if pseudonym is None else {actor, pseudonym})


def _mask_test(mask: str, people: People) -> _Test:
    wanted = mask.strip().casefold()
    return lambda entry: entry.actor_id is not None and people.mask(entry.actor_id).casefold() == wanted


def _resource_test(resource: str, people: People) -> tuple[_Test, bytes]:
    kind, slash, name = resource.partition("/")
    person = people.pseudonym(name if slash and kind == "user" else resource) if people.readable else None

    def test(entry: EntryView) -> bool:
        if resource in (entry.resource_id, entry.resource_type):
            return True
        if slash and (entry.resource_type, entry.resource_id) == (kind, name):
            return True
        return person is not None and entry.resource_type == "user" and entry.resource_id == person

    if person is not None:
        return test, b""
    # `type/id` may also be one id that holds a slash, so only its end is demanded.
    return test, _quote(name)[1:] if slash else _quote(resource)


def _several(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _known(value: str | Iterable[str], what: str, allowed: Iterable[str]) -> frozenset[str]:
    known = frozenset(allowed)
    names = _several(value)
    for name in names:
        if name not in known:
            raise UsageError(f"{what} {name!r} is unknown.", do=f"Use one of: {', '.join(sorted(known))}.")
    return frozenset(names)
