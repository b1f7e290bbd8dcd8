"""Asks the provider: lists, ledgers, packs page by page, then single tasks by id. Every answer goes to the journal.

All requests are reads of the audited client, so they are recorded as the log's policy says. Source: fact sheet
sections 2.2, 2.6, 3.2.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from klingai_audit.kling import flows
from klingai_audit.kling.account import read_deductions
from klingai_audit.kling.client import KlingAI
from klingai_audit.kling.endpoints import BALANCE_LEDGER, LEGACY_LISTS, PACKAGE_LEDGER, TASKS_BY_ID, legacy_create
from klingai_audit.kling.errors import KlingRequestError
from klingai_audit.kling.reply import TaskRecord, read_tasks
from klingai_audit.kling.rows import Row
from klingai_audit.reconcile.journal import Journal, Page, Terms
from klingai_audit.reconcile.records import LedgerLine, Pack, ProviderRecords, ProviderTask
from klingai_audit.views.orders import LoggedTask, Order

__all__ = ["LAG", "MARGIN", "RETENTION", "Gathering", "Progress", "route_of"]

RETENTION: Final = dt.timedelta(days=30)
"""How long the provider keeps tasks after their end (sheet 6)."""

LAG: Final = dt.timedelta(hours=12)
"""How far the provider's books may lag behind (sheet 2.6)."""

MARGIN: Final = dt.timedelta(minutes=10)
"""How far the two clocks may be apart."""

_SPAN: Final = dt.timedelta(days=32)
_LEDGER_LEAD: Final = dt.timedelta(days=1)
_AT_ONCE: Final = 20
_NO_LIST: Final = (1202, 1203)
"""What some older paths answer that have no list (sheet 2.3)."""

_MS: Final = dt.timedelta(milliseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Progress = Callable[[str, int], None]
"""Told what is being read, and how many records there are by now."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A listing: its first page, and how its items go into a `Page` of the journal."""

    name: str
    first: flows.Page
    product: str | None = None
    since: int | None = None


class Gathering:
    """Reads what `terms` ask for, beginning with what the journal has already."""

    def __init__(self, client: KlingAI, journal: Journal, terms: Terms, progress: Progress) -> None:
        self.records = ProviderRecords()
        self._client = client
        self._journal = journal
        self._terms = terms
        self._progress = progress

    def read_lists(self) -> None:
        """Read the packs, the lists of tasks and the ledgers, in this order. Raises: KlingError, StorageError.

        What is charged meanwhile is then in the ledgers rather than missing from them.
        """
        if not self._pages("packs"):
            self._progress("packs", 0)
            found = self._client.account.costs(since=_millis(self._terms.begin), until=_millis(self._terms.as_of))
            self._journal.add(Page(source="packs", packs=[Pack.of(pack) for pack in found]))
        for page in self._pages("packs"):
            self.records.packs = page.packs
        for source in self._sources():
            self._read(source)

    def look_up(self, tasks: Iterable[LoggedTask], orders: Iterable[Order]) -> None:
        """Ask for single tasks that no list held, and for tasks of orders of which nobody knows what became."""
        for page in (*self._pages("ids"), *self._pages("external"), *self._pages("routes")):
            self.records.add_tasks(page.tasks)
            self.records.asked.update(page.asked)
        by_external = self.records.by_external()
        wanted = {task.task_id: route_of(task.who.action, task.who.generation) for task in tasks}
        named = {
            order.external_id: route_of(order.who.action, order.who.generation)
            for order in orders
            if order.external_id is not None and order.external_id not in by_external
        }
        for source, routes in (("ids", wanted), ("external", named)):
            if self._client.new_design:
                asked = {name for page in self._pages(source) for name in page.asked}
                self._ask_together(source, [name for name in routes if name not in asked])
            asked = {name for page in self._pages("routes") for name in page.asked}
            known = self.records.tasks.keys() | self.records.by_external().keys()
            self._ask_singly({name: route for name, route in routes.items() if name not in asked | known})

    def _sources(self) -> Iterator[_Source]:
        terms = self._terms
        if terms.new_design:
            oldest = max(terms.begin - MARGIN, terms.as_of - RETENTION)
            begin, end = _millis(oldest), _millis(terms.end + MARGIN)
            if begin < end:
                search = {"start_time": begin, "end_time": end}
                yield _Source("tasks", flows.task_page(None, size=flows.MAX_PAGE, search=search))
        if terms.legacy_lists:
            for path, row in LEGACY_LISTS.items():
                first = flows.task_page(path, size=flows.MAX_PAGE)
                yield _Source(f"list:{path}", first, row.product, _millis(terms.begin - MARGIN))
        for name, row in (("package", PACKAGE_LEDGER), ("balance", BALANCE_LEDGER)):
            for begin, end in _spans(_millis(terms.begin - _LEDGER_LEAD), _millis(terms.as_of + MARGIN)):
                yield _Source(f"{name}:{begin}", _ledger_page(row, begin, end))

    def _read(self, source: _Source) -> None:
        """Read one listing to its end, from where the journal has it."""
        pages = self._pages(source.name)
        try:
            self._go_on(source, pages)
        except KlingRequestError:
            if not pages:
                raise
            self._journal.pages = [page for page in self._journal.pages if page.source != source.name]
            self._go_on(source, [])  # a cursor of an earlier run may have expired

    def _go_on(self, source: _Source, pages: list[Page]) -> None:
        for page in pages:
            self._take(page)
        place: str | int | None = pages[-1].next if pages else ""
        while place is not None:
            page = self._fetch(source, place)
            self._journal.add(page)
            self._take(page)
            place = page.next

    def _fetch(self, source: _Source, place: str | int) -> Page:
        first = source.first
        if isinstance(place, int):
            first = replace(first, number=place)
        elif place:
            first = replace(first, cursor=place)
        try:
            items, after = self._client.run(flows.list_page(first, self._client.retries))
        except KlingRequestError as exc:
            if first.row.method != "GET" or exc.code not in _NO_LIST:
                raise
            return Page(source=source.name)
        following: str | int | None = None
        if after is not None:
            following = after.number if first.row.method == "GET" else after.cursor
        kind = source.name.partition(":")[0]
        if kind in ("package", "balance"):
            return Page(source=source.name, lines=[LedgerLine.of(line, kind) for line in items], next=following)
        if source.since is not None and _all_older(items, source.since):
            following = None
        return Page(source=source.name, tasks=[ProviderTask.of(task, source.product) for task in items], next=following)

    def _take(self, page: Page) -> None:
        self.records.add_tasks(page.tasks)
        self.records.lines += page.lines
        kind = page.source.partition(":")[0]
        count = len(self.records.lines) if kind in ("package", "balance") else len(self.records.tasks)
        self._progress(_WORDS.get(kind, kind), count)

    def _pages(self, source: str) -> list[Page]:
        return [page for page in self._journal.pages if page.source == source]

    def _ask_together(self, source: str, names: list[str]) -> None:
        """Ask for up to 20 ids at a time."""
        parameter = "task_ids" if source == "ids" else "external_task_ids"
        for begin in range(0, len(names), _AT_ONCE):
            asked = names[begin : begin + _AT_ONCE]
            reply = self._client.run(
                flows.ask(
                    TASKS_BY_ID.method, TASKS_BY_ID.path, None, {parameter: ",".join(asked)}, self._client.retries
                )
            )
            self._found(source, asked, read_tasks(reply.data), None)

    def _ask_singly(self, routes: Mapping[str, str | None]) -> None:
        """Ask for one id at a time, on the path on which it was ordered."""
        for name, route in routes.items():
            if route is None:
                continue
            found: list[TaskRecord] = []
            try:
                found = [self._client.run(flows.fetch_task(name, route=route, retries=self._client.retries))]
            except KlingRequestError as exc:
                if exc.code != 1201:
                    raise
            self._found("routes", [name], found, LEGACY_LISTS[route].product)

    def _found(self, source: str, asked: list[str], tasks: list[TaskRecord], product: str | None) -> None:
        page = Page(source=source, asked=asked, tasks=[ProviderTask.of(task, product) for task in tasks])
        self._journal.add(page)
        self.records.add_tasks(page.tasks)
        self.records.asked.update(asked)
        self._progress(_WORDS["ids"], len(self.records.tasks))


_WORDS: Final = {
    "tasks": "tasks", "list": "tasks of the older lists", "package": "deductions from packs",
    "balance": "deductions from the balance", "ids": "single tasks", "packs": "packs",
}  # fmt: skip


def route_of(action: str | None, generation: str | None) -> str | None:
    """Return the path on which a task of the older generation is asked for by id; None if there is none."""
    if action is None or generation == "new":
        return None
    try:
        path = legacy_create(action).path
    except KeyError:
        return None
    return path if path in LEGACY_LISTS else None


def _ledger_page(row: Row, begin: int, end: int) -> flows.Page:
    def read(data: Any) -> tuple[list[Any], str | None]:
        return read_deductions(data)

    return flows.Page(row, row.path, read, flows.MAX_PAGE, search={"start_time": begin, "end_time": end})


def _spans(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a period into spans of 32 days, both ends included."""
    step = _SPAN // _MS
    while begin < end:
        yield begin, min(end, begin + step - 1)
        begin += step


def _all_older(tasks: list[TaskRecord], since: int) -> bool:
    """Whether a page of a list that shows the newest first holds only tasks from before the period."""
    times = [task.created_ms for task in tasks]
    known = [time for time in times if time is not None]
    falling = all(a >= b for a, b in itertools.pairwise(known))
    return bool(times) and len(known) == len(times) and falling and max(known) < since


def _millis(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MS
