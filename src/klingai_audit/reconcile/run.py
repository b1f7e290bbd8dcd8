"""One reconciliation from beginning to end: read the log, ask the provider, read the log again, compare, record."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.event.types import EventType
from klingai_audit.kling.client import KlingAI
from klingai_audit.kling.errors import KlingError
from klingai_audit.kling.reply import clean_id
from klingai_audit.log import AuditLog
from klingai_audit.reconcile.compare import Comparison, Earlier, is_listed
from klingai_audit.reconcile.gather import MARGIN, RETENTION, Gathering, Progress
from klingai_audit.reconcile.journal import Journal, Terms
from klingai_audit.reconcile.records import ProviderRecords
from klingai_audit.reconcile.result import Result
from klingai_audit.views.orders import LoggedTask, Order, Orders
from klingai_audit.views.times import parse_instant

__all__ = ["DEFAULT_DAYS", "reconcile"]

DEFAULT_DAYS: Final = 30
"""How many days back a run compares if nothing else is asked for."""

_Time = str | dt.datetime | dt.date


def reconcile(
    audit: AuditLog,
    client: KlingAI,
    begin: _Time | None = None,
    end: _Time | None = None,
    *,
    resume: bool = False,
    legacy_lists: bool | None = None,
    progress: Progress | None = None,
    now: dt.datetime | None = None,
) -> Result:
    """Compare the log with the provider's records of tasks ordered in [begin, end), and record the result.

    Args: times in the forms of `klingai_audit.views.times`, by default the last 30 days up to now. `client` is audited
    by the same log: what it reads is recorded as every read is. `resume` goes on with a run that stopped less than 24
    hours ago, if there is one. `legacy_lists` also reads the lists of the older generation (default: only with an
    AccessKey, which can read no others). `progress` is told what is being read and how many records there are.
    `now` is for tests.
    Raises: UsageError: a period that is none, or that is not the stopped run's; KlingError: the provider does not
    answer, what was read is kept for `resume`; StorageError, AuditUnavailable.
    """
    moment = now or dt.datetime.now(dt.UTC)
    since = None if begin is None else parse_instant(begin, edge="since", now=moment)
    until = None if end is None else min(moment, parse_instant(end, edge="until", now=moment))
    with Journal(audit.places.state) as journal:
        terms = _terms(audit, client, since, until, legacy_lists, moment)
        terms = msgspec.structs.replace(terms, asked=(_words(begin), _words(end)))
        kept = journal.terms
        if resume and kept is not None and journal.resumable(moment):
            _check_same(kept, terms)
            terms = kept
        else:
            journal.begin(terms)
        audit.flush("published")
        orders = Orders()
        orders.add_lines(audit.reader.lines(0, audit.reader.size))
        earlier = Earlier.of(orders)
        with _kept_for_later(journal):
            gathering = Gathering(client, journal, terms, progress or _silent)
            gathering.read_lists()
            gathering.look_up(_questioned(orders, gathering.records, terms), _open_orders(orders, terms))
        audit.flush("published")
        orders.add_lines(audit.reader.lines(orders.size, audit.reader.size))
        result = _compare(terms, earlier, orders, gathering.records)
        receipt = audit.log(
            EventType.RECONCILED,
            resource_type="log",
            resource_id=audit.origin,
            action="reconcile",
            outcome="failure" if result.unexplained else "success",
            metadata=result.entry(),
        ).wait("published")
        journal.finish()
    return replace(result, seq=receipt.seq)


def _terms(
    audit: AuditLog,
    client: KlingAI,
    begin: dt.datetime | None,
    end: dt.datetime | None,
    legacy_lists: bool | None,  # noqa: FBT001  passed on as it came
    now: dt.datetime,
) -> Terms:
    first, last = begin or now - dt.timedelta(days=DEFAULT_DAYS), end or now
    if first >= last:
        raise UsageError("The period is empty.", do="Give a --from that lies before --to and before now.")
    return Terms(
        origin=audit.origin,
        begin=first,
        end=last,
        as_of=now,
        base_url=client.base_url,
        new_design=client.new_design,
        legacy_lists=not client.new_design if legacy_lists is None else legacy_lists,
    )


def _check_same(kept: Terms, asked: Terms) -> None:
    """Refuse to go on with a run of another question. Raises: UsageError."""
    same = (kept.origin, kept.base_url, kept.new_design) == (asked.origin, asked.base_url, asked.new_design)
    times = zip(asked.asked, kept.asked, (asked.begin, asked.end), (kept.begin, kept.end), strict=True)
    if not same or not all(words in (None, said) or time == before for words, said, time, before in times):
        raise UsageError(
            f"The run that stopped was for {kept.begin.isoformat()} to {kept.end.isoformat()}, "
            f"or for another account or log.",
            do="Leave --from and --to out to go on with it, or leave --resume out to start anew.",
        )


def _words(time: _Time | None) -> str | None:
    return None if time is None else str(time)


def _questioned(orders: Orders, records: ProviderRecords, terms: Terms) -> Iterator[LoggedTask]:
    """Tasks of the log that the lists do not hold, or show as running though they ended."""
    oldest = terms.as_of - RETENTION
    for task in orders.tasks.values():
        inside = _near(task.at, terms) if task.created is None else terms.begin <= task.created < terms.end
        if not task.ordered or not is_listed(task) or not inside or task.at < oldest:
            continue
        told = records.tasks.get(task.task_id)
        if (told is None or (task.ended is not None and not told.final)) and clean_id(task.task_id) is not None:
            yield task


def _open_orders(orders: Orders, terms: Terms) -> Iterator[Order]:
    for order in orders.orders.values():
        if order.dangling and _near(order.at, terms) and clean_id(order.external_id) is not None:
            yield order


def _near(moment: dt.datetime, terms: Terms) -> bool:
    return terms.begin - MARGIN <= moment < terms.end + MARGIN


def _compare(terms: Terms, earlier: Earlier, orders: Orders, records: ProviderRecords) -> Result:
    found = Comparison(
        earlier,
        orders,
        records,
        begin=terms.begin,
        end=terms.end,
        as_of=terms.as_of,
        complete=frozenset({"new", "legacy", None} if terms.new_design else {"legacy"} if terms.legacy_lists else ()),
    ).run()
    lists = {"tasks": terms.new_design, "legacy_lists": terms.legacy_lists}
    return Result(
        begin=terms.begin,
        end=terms.end,
        as_of=terms.as_of,
        origin=terms.origin,
        size=orders.size,
        provider=urlsplit(terms.base_url).hostname or "",
        lists=(*(name for name, read in lists.items() if read), "package_ledger", "balance_ledger", "packs"),
        matched=found.matched,
        findings=tuple(found.findings),
        log_sums=found.log_sums,
        ledger_sums=found.ledger_sums,
        ledger_days=dict(sorted(found.ledger_days.items())),
        keys={key: tuple(sorted(names)) for key, names in sorted(found.keys.items())},
        packs=tuple(records.packs),
    )


@contextlib.contextmanager
def _kept_for_later(journal: Journal) -> Iterator[None]:
    """Say how to go on when the provider does not answer."""
    try:
        yield
    except KlingError as exc:
        if journal.pages:
            exc.do = f"{exc.do} What was read so far is kept: run it again with --resume.".strip()
        raise


def _silent(what: str, count: int) -> None:
    """Nobody watches."""
