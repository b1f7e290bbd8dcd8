"""Where reading commands get entries from: the index for large logs, the log itself for the rest."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session

if TYPE_CHECKING:
    from klingai_audit.index import Index
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.views.indexed import Indexed


def open_index(session: Session, reader: LogReader, *, temporary: bool = True) -> Index:
    """Open the index of the session's log and bring it up to date; who looks on sees how far it is.

    One that cannot be kept is a temporary one, or refused unless `temporary`. Raises: as `Index.open`.
    """
    from klingai_audit.index import Index

    with progress_bar(session, "indexing", "entries") as told:
        return Index.open(
            reader,
            session.places.state / "index",
            progress=None if told is None else lambda done: told(done, max(done, reader.size)),
            temporary=temporary,
        )


@contextlib.contextmanager
def indexed(session: Session, reader: LogReader) -> Iterator[Callable[[int], Indexed]]:
    """Give a function that gives the first entries of the log, found by the index where that is quicker.

    What it gives is good within the block. No index is made where it could not be kept.
    """
    from klingai_audit.views.indexed import Indexed

    with contextlib.ExitStack() as stack:

        @functools.cache
        def opened() -> Index:
            return stack.enter_context(open_index(session, reader, temporary=False))

        yield lambda size: Indexed(reader, opened, size)


def has_index(session: Session) -> bool:
    """Tell whether an index of this user's was made before, which is quicker brought up to date than made."""
    try:
        return any((session.places.state / "index").iterdir())
    except OSError:
        return False
