"""Where reading commands get entries from: the index for large logs, the log itself for the rest."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from klingai_audit.cli.session import Session

if TYPE_CHECKING:
    from klingai_audit.index import Index
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.views.indexed import Indexed


@contextlib.contextmanager
def indexed(session: Session, reader: LogReader) -> Iterator[Callable[[int], Indexed]]:
    """Give a function that gives the first entries of the log, found by the index where that is quicker.

    What it gives is good within the block. No index is made where it could not be kept.
    """
    from klingai_audit.index import Index
    from klingai_audit.views.indexed import Indexed

    with contextlib.ExitStack() as stack:

        @functools.cache
        def opened() -> Index:
            return stack.enter_context(Index.open(reader, session.places.state / "index", temporary=False))

        yield lambda size: Indexed(reader, opened, size)
