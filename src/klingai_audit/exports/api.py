"""The one way in: what is asked for is checked, then a job runs. Everything that thinks lives beside it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import UsageError
from klingai_audit.exports.connection import RESEND_SECONDS
from klingai_audit.exports.formats import Destination, Format, find_format, parse_destination
from klingai_audit.exports.record import Source
from klingai_audit.exports.run import Course, ExportResult, Job
from klingai_audit.views.times import parse_instant

if TYPE_CHECKING:
    from klingai_audit.exports.cursor import CursorFile
    from klingai_audit.exports.sink import Sink
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.log import AuditLog

__all__ = ["export"]


def export(
    log: AuditLog | LogReader,
    format: str,
    *,
    file: str | os.PathLike[str] | BinaryIO | None = None,
    to: str | None = None,
    since: str | dt.datetime | None = None,
    until: str | dt.datetime | None = None,
    from_seq: int | None = None,
    cursor: CursorFile | None = None,
    course: Course | None = None,
    record: Callable[[Mapping[str, Any]], bool] | None = None,
    plain: bool = False,
    ca: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    resend: float = RESEND_SECONDS,
    ops: FileOps = OPS,
) -> ExportResult:
    """Export entries under the published checkpoint, in log order; returns what was done.

    An open `AuditLog` records the export as `log_exported` before anything leaves (who exports comes from
    `acting(…)`); with a `LogReader` nothing is
    recorded, unless `record` does it (it gets the entry's metadata and tells whether it did).

    Args: `format` is a name of `FORMATS`. Either `file`, a path (a new file takes the name when it is complete; with a
    cursor or following, entries are appended) or an open binary stream, or `to`, a URL: `tls://host:6514`,
    `tcp://host:601`, `https://host/v1/logs`. `since`, `until` bound the entries' time, half-open. `from_seq` is the
    first entry; with a cursor, only for one that is new. `cursor` is where to go on, and is moved as the destination
    takes entries. `course` says whether to follow. `plain` allows another machine without encryption; `ca`,
    `certificate`, `key` are PEM files; `resend` is what syslog sends again after a break, in seconds.
    Raises: UsageError, MissingExtra, StorageError (the destination, the cursor, the log), LogDamaged.
    """
    from klingai_audit.log import AuditLog

    chosen, course = find_format(format), course or Course()
    destination = _check_asked(chosen, file, to, plain=plain)
    now = dt.datetime.now(dt.UTC)
    if isinstance(log, AuditLog):
        log.flush("published")
        reader, record = log.reader, record or _recorder(log)
    else:
        reader = log
    source = Source(
        reader,
        since=None if since is None else parse_instant(since, edge="since", now=now),
        until=None if until is None else parse_instant(until, edge="until", now=now),
    )
    head = source.head()
    place = destination.url if destination else _place(file)
    known = None if cursor is None else cursor.load(source, head, format, place)
    if known is not None and from_seq is not None:
        raise UsageError(
            f"The cursor stands at entry {known.seq} already.", do="Leave --from-seq out, or choose another --cursor."
        )
    begin = known or source.position(_first(from_seq, head.size))
    sink: Sink
    if destination is not None:
        sink = _receiver(chosen, destination, ca, certificate, key, resend)
    else:
        sink = _writer(chosen, file, append=course.follow or cursor is not None, ops=ops)
    result = ExportResult(format, place, begin.seq, begin.seq, tree_size=head.size)
    if record is not None:
        told = {
            "format": format,
            "to": destination.url if destination else "file",
            "begin": begin.seq,
            "tree_size": head.size,
            "follow": course.follow,
            "since": None if since is None else str(since),
            "until": None if until is None else str(until),
        }
        result.recorded = record({name: value for name, value in told.items() if value is not None})
    return Job(source, sink, course, result, begin, cursor).run(head)


def _check_asked(format: Format, file: object, to: str | None, *, plain: bool) -> Destination | None:
    """Check that what was asked for can be done, and return the receiver if there is one. Raises: UsageError."""
    if file is not None and to is not None:
        raise UsageError("An export goes to a file or to a receiver, not to both.", do="Give -o or --to.")
    if to is not None:
        return parse_destination(format, to, plain=plain)
    if not format.to_file:
        raise UsageError(f"The format {format.name} goes to a receiver.", do=f"Like --to {format.schemes[0]}://host")
    return None


def _place(file: object) -> str:
    """Name a file or stream as a cursor remembers it."""
    if not isinstance(file, str | os.PathLike):
        return "a stream"
    return os.path.abspath(os.fspath(file)).encode("utf-8", "backslashreplace").decode()  # noqa: PTH100


def _first(from_seq: int | None, size: int) -> int:
    if from_seq is not None and not 0 <= from_seq <= size:
        raise UsageError(f"The log has no entry {from_seq}.", do=f"Its published size is {size}.")
    return from_seq or 0


def _receiver(
    format: Format, to: Destination, ca: str | None, certificate: str | None, key: str | None, resend: float
) -> Sink:
    if format.message is None:
        from klingai_audit.exports.otlp import OtlpSink

        return OtlpSink(to.url, ca=ca, certificate=certificate, key=key)
    from klingai_audit.exports.connection import Peer, SyslogSink

    peer = Peer(to.host, to.port, tls=to.encrypted, ca=ca, certificate=certificate, key=key)
    return SyslogSink(peer, format.message, resend=resend)


def _writer(format: Format, file: str | os.PathLike[str] | BinaryIO | None, *, append: bool, ops: FileOps) -> Sink:
    from klingai_audit.exports.sink import AppendSink, FileSink, StreamSink

    if file is None:
        raise UsageError("Nowhere to export to.", do="Give -o FILE or --to URL.")
    if not isinstance(file, str | os.PathLike):
        if format.encode is None:
            raise UsageError(f"The format {format.name} is a file of its own.", do="Use -o FILE.")
        return StreamSink(file, format.encode, head=format.head(), end=format.end)
    path = Path(file)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file.", do="Leave -o out to write to standard output.")
    if format.encode is None:
        from klingai_audit.exports.parquet import ParquetSink

        if append:
            raise UsageError("A Parquet file cannot be added to.", do="Leave --follow and --cursor out.")
        return ParquetSink(path, ops=ops)
    kind = AppendSink if append else FileSink
    return kind(path, format.encode, head=format.head(), end=format.end, ops=ops)


def _recorder(audit: AuditLog) -> Callable[[Mapping[str, Any]], bool]:
    def record(metadata: Mapping[str, Any]) -> bool:
        audit.log(
            "log_exported", resource_type="log", resource_id=audit.origin, action="export", metadata=dict(metadata)
        ).wait("published")
        return True

    return record
