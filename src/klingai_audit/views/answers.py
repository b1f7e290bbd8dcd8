"""What `AuditLog` answers from what is stored: entries, queries, summaries, SQL. Mixed into it; reads only."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klingai_audit.index import Index, Table
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.privacy.subjects import SubjectTable
    from klingai_audit.views.activity import Activity
    from klingai_audit.views.costs import Costs
    from klingai_audit.views.entry import EntryView
    from klingai_audit.views.groups import Grouped
    from klingai_audit.views.indexed import Indexed

__all__ = ["Answers"]


class Answers:
    """The answering half of `AuditLog`, which brings `reader`, `subjects`, `places` and `flush`."""

    reader: LogReader
    subjects: SubjectTable
    places: Any
    flush: Callable[..., None]
    _index: Index | None = None
    _index_lock = threading.Lock()

    @property
    def index(self) -> Index:
        """The index of this log, opened on first use and brought up to date at each.

        Raises: Malformed for a log that holds a line that is no entry, StorageError.
        """
        self.flush()
        with self._index_lock:
            if self._index is None:
                from klingai_audit.index import Index

                self._index = Index.open(self.reader, Path(self.places.state) / "index")
            else:
                self._index.refresh()
            return self._index

    def _source(self) -> Indexed:
        """Return everything logged so far, as a scan or by the index."""
        from klingai_audit.views.indexed import Indexed

        self.flush()
        return Indexed(self.reader, lambda: self.index)

    def entries(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the stored bytes of entries `[begin, end)` in order, without LF."""
        return self.reader.entries(begin, end)

    def query(self, **filters: Any) -> Iterator[EntryView]:
        """Yield entries that match; filters as in `klingai_audit.views.query.Filter`. Raises: UsageError."""
        from klingai_audit.views.query import Filter, query

        return query(self._source(), Filter(**filters), self.subjects)

    def activity(self, actor: str, days: int = 30) -> Activity:
        """Summarise what one person did in the last `days` days. Raises: UsageError."""
        from klingai_audit.views.activity import activity

        return activity(self._source(), actor, days=days, subjects=self.subjects)

    def activity_by(self, by: str = "actor", days: int = 30) -> Grouped:
        """Summarise what everybody did in the last `days` days, by actor, team, project, key, model or day.

        Raises: UsageError, Malformed, StorageError.
        """
        from klingai_audit.views.groups import activity_by

        return activity_by(self.index.rows, by, days=days, subjects=self.subjects)

    def costs(
        self,
        by: str | Sequence[str] = "team",
        *,
        month: str | None = None,
        since: str | dt.datetime | dt.date | None = None,
        until: str | dt.datetime | dt.date | None = None,
        prices: str | os.PathLike[str] | None = None,
    ) -> Costs:
        """Add up what was spent by team, project, key, model, actor or day, one name or several.

        `month` is one such as `2026-10`; else [since, until), by default this month up to now. `prices` names a list of
        prices, by default that of this version. Raises: UsageError, Malformed, StorageError.
        """
        from klingai_audit.views.costs import costs_by_index, period_of
        from klingai_audit.views.prices import PriceList

        period = period_of(month, since, until, dt.datetime.now(dt.UTC))
        names = [by] if isinstance(by, str) else list(by)
        price_list = PriceList.load(None if prices is None else Path(prices))
        return costs_by_index(self.index, self.reader.entry, names, period, prices=price_list, subjects=self.subjects)

    def sql(self, text: str, **limits: Any) -> Table:
        """Answer one SELECT over the view `events` (docs/sql.md); `limits` as in `klingai_audit.index.Index.sql`.

        Raises: UsageError: not one SELECT, not understood, not allowed, or over a limit.
        """
        return self.index.sql(text, **limits)

    def close_index(self) -> None:
        """Release the index, if one was opened; it is opened again when it is asked for."""
        with self._index_lock:
            if self._index is not None:
                self._index.close()
            self._index = None
