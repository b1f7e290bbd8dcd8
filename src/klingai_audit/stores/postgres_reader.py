"""The reading half of the PostgreSQL store: ranges, a chunk at a time; and the log as the files a folder would hold.

Entries never change but for a purge, so a range needs no snapshot: every chunk is a statement of its own, and a reader
that takes hours keeps no old row versions alive.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import psycopg

from klingai_audit.ledger.store import FileKind, LogFile, StoredDay
from klingai_audit.stores.postgres_link import Connection, Link

__all__ = ["PostgresReader"]

_PATIENCE_S: Final = 20.0
_HASH: Final = 32
_FIRST_STEP: Final = 256
_MAX_STEP: Final = 16_384
_WANTED: Final = 2 << 20
_HASHES: Final = 65_536
_IN_MEMORY: Final = 8 << 20
_STAMP: Final = ".tsr"
_KNOWN: Final = frozenset(
    {
        *("head", "entries", "hashes", "days", "kept", "tokens", "ends", "purging", "versions"),
        *("subjects", "erased", "erasures"),
    }
)
_MISSING: Final = frozenset({"42P01", "3F000"})


class PostgresReader:
    """What the store reads, over `link`. Every method may be called from any thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._s = f'"{link.schema}"'

    def one(self, query: str, values: Iterable[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row; None if there is none, or no log. Raises: AuditUnavailable."""
        rows = self.all(query, values)
        return rows[0] if rows else None

    def all(self, query: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows; none if there is no log. Raises: AuditUnavailable."""
        text = query.replace("@", self._s).encode()
        given = tuple(values)

        def ask(connection: Connection) -> list[tuple[Any, ...]]:
            try:
                return connection.execute(text, given, binary=True).fetchall()
            except psycopg.Error as error:
                if error.sqlstate in _MISSING:
                    return []
                raise

        return self._link.again("read", ask, patience=_PATIENCE_S)

    # --- entries and hashes -----------------------------------------------------------------------

    def entries(self, begin: int, end: int | None) -> Iterator[bytes]:
        """Yield lines `[begin, end)` up to the head, or to the first that is missing."""
        step = _FIRST_STEP
        begin = max(begin, 0)
        while end is None or begin < end:
            upper = begin + step if end is None else min(begin + step, end)
            rows = self.all(
                "SELECT seq, line FROM @.entries"
                " WHERE seq >= %b::int8 AND seq < %b::int8 AND seq < (SELECT size FROM @.head) ORDER BY seq",
                (begin, upper),
            )
            held = 0
            for seq, line in rows:
                if seq != begin:
                    return
                yield line
                begin += 1
                held += len(line)
            if begin < upper:
                return
            step = _next_step(step, held)

    def hashes(self, level: int, begin: int, end: int) -> bytes:
        """Return hashes `[begin, end)` of a tile level, up to the first that is missing."""
        found: list[bytes] = []
        begin = max(begin, 0)
        while begin < end:
            upper = min(begin + _HASHES, end)
            part = self._some_hashes(level, begin, upper)
            found.append(part)
            if len(part) < (upper - begin) * _HASH:
                break
            begin = upper
        return b"".join(found)

    def _some_hashes(self, level: int, begin: int, end: int) -> bytes:
        if level == 0:
            place, source = "seq", "(SELECT seq, leaf AS hash FROM @.entries WHERE seq < (SELECT size FROM @.head)) t"
            values: tuple[int, ...] = (begin, end)
        else:
            place, source = "place", "(SELECT place, hash FROM @.hashes WHERE level = %b::int2) t"
            values = (level, begin, end)
        where = f"{source} WHERE {place} >= %b::int8 AND {place} < %b::int8"
        row = self.one(
            f"SELECT min({place}), max({place}), count(*), string_agg(hash, ''::bytea ORDER BY {place}) FROM {where}",
            values,
        )
        if row is None or not row[2] or row[0] != begin:
            return b""
        if row[1] - row[0] + 1 == row[2]:
            return bytes(row[3])
        hashes = dict(self.all(f"SELECT {place}, hash FROM {where}", values))
        return b"".join(iter(lambda: hashes.pop(begin + row[2] - len(hashes), b""), b""))

    # --- small things -----------------------------------------------------------------------------

    def note(self, query: str, values: Iterable[Any] = ()) -> bytes | None:
        """Return the one value of a query if it is there."""
        row = self.one(query, values)
        return None if row is None else row[0]

    def days(self) -> list[StoredDay]:
        """Return all days, the newest last."""
        rows = self.all("SELECT d.day, d.begin_seq, h.size FROM @.days d, @.head h ORDER BY d.begin_seq")
        ends = [*(row[1] for row in rows[1:]), *(row[2] for row in rows[-1:])]
        return [
            StoredDay(day, begin, end, _day_name(day), sealed=True)
            for (day, begin, _size), end in zip(rows, ends, strict=True)
        ]

    def locate(self, seq: int) -> tuple[str, int] | None:
        """Return the name of the day's file, and the 1-based line there."""
        row = self.one(
            "SELECT d.day, d.begin_seq FROM @.days d, @.entries e WHERE e.seq = %b::int8 AND d.begin_seq <= e.seq"
            " AND e.seq < (SELECT size FROM @.head) ORDER BY d.begin_seq DESC LIMIT 1",
            (seq,),
        )
        return None if row is None else (_day_name(row[0]), seq - row[1] + 1)

    # --- as files ---------------------------------------------------------------------------------

    def inspect(self) -> tuple[LogFile, ...]:
        """List what a folder with the same content would hold, and what belongs to no log."""
        found = self._link.again("read", self._inspect, patience=_PATIENCE_S)
        return tuple(sorted(found, key=lambda file: (file.kind != "entries", file.name)))

    def _inspect(self, connection: Connection) -> list[LogFile]:
        """Look at everything in one snapshot, or a commit meanwhile would look like rows beyond the head."""

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query.replace("@", self._s).encode(), binary=True).fetchall()

        connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            try:
                heads = ask("SELECT size, bytes, published FROM @.head")
            except psycopg.Error as error:
                if error.sqlstate in _MISSING:
                    return []
                raise
            size, total, published = heads[0] if heads else (0, 0, None)
            found = [*_day_files(ask("SELECT day, begin_seq, before, grown FROM @.days ORDER BY begin_seq"), total)]
            if published is not None:
                found.append(_file("checkpoint", "checkpoint", len(published)))
            for count, length in ask("SELECT size, octet_length(note) FROM @.kept"):
                found.append(_file(_kept_name(count), "kept", length))
            for count, length in ask("SELECT size, octet_length(token) FROM @.tokens"):
                found.append(_file(_kept_name(count) + _STAMP, "token", length))
            tops = ask(
                "SELECT 0, max(seq) FROM @.entries WHERE seq < (SELECT size FROM @.head) UNION ALL"
                " SELECT level, (SELECT max(place) FROM @.hashes t WHERE t.level = l.level)"
                " FROM generate_series(1, 7) l (level)"
            )
            found += [_file(f"tree/{level}", "tree", _HASH * (top + 1)) for level, top in tops if top is not None]
            return found + self._strays(ask, size)
        finally:
            connection.execute(b"ROLLBACK")

    def _strays(self, ask: Callable[[str], list[tuple[Any, ...]]], size: int) -> list[LogFile]:
        """What belongs to no log: rows beyond the head, tables that are not ours."""
        rows = ask(
            "SELECT 'entries', count(*), coalesce(sum(octet_length(line) + 1), 0)::int8"
            f" FROM @.entries WHERE seq >= {size}"
            f" UNION ALL SELECT 'days', count(*), count(*) FROM @.days WHERE begin_seq >= {size}"
            f" UNION ALL SELECT 'ends', count(*), count(*) FROM @.ends WHERE seq >= {size} OR seq < 0"
        )
        found = [_file(f"{table}.beyond", "stray", length, (count,)) for table, count, length in rows if count]
        relations = ask(
            "SELECT c.relname::text, c.oid::int8, EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid"
            f" AND i.inhparent = '{self._s}.entries'::regclass)"
            f" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '{self._link.schema}'"
            " AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
        )
        for name, oid, part in relations:
            if name not in _KNOWN and not (part and name.startswith("entries_")):
                shown = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name)
                found.append(_file(f"table.{shown}", "stray", 0, (oid,)))
        return found

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        """Give the bytes of a file of `inspect`; large ones are put into an unnamed temporary file and mapped."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            for piece in self._pieces(name):
                spool.write(piece)
            length = spool.tell()
            spool.seek(0)
            if length <= _IN_MEMORY:
                yield memoryview(spool.read())
                return
            with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
                yield whole

    def _pieces(self, name: str) -> Iterator[bytes]:
        folder, _, base = name.rpartition("/")
        if folder == "tree":
            yield from self._level(int(base))
        elif folder == "checkpoints":
            table, column = ("tokens", "token") if base.endswith(_STAMP) else ("kept", "note")
            size = int(base.removesuffix(_STAMP))
            yield self._found(name, self.note(f"SELECT {column} FROM @.{table} WHERE size = %b::int8", (size,)))
        elif name == "checkpoint":
            yield self._found(name, self.note("SELECT published FROM @.head"))
        elif name.endswith(".beyond") or name.startswith("table."):
            for row in self.all(
                "SELECT line FROM @.entries WHERE seq >= (SELECT size FROM @.head) ORDER BY seq LIMIT 999"
            ):
                yield row[0] + b"\n" if name.startswith("entries") else b""
        else:
            day = next((day for day in self.days() if day.name == name), None)
            if day is None:
                raise FileNotFoundError(2, "no such file in the log", name)
            for line in self.entries(day.begin, day.end):
                yield line + b"\n"

    def _level(self, level: int) -> Iterator[bytes]:
        begin = 0
        while part := self.hashes(level, begin, begin + _HASHES):
            yield part
            begin += len(part) // _HASH

    @staticmethod
    def _found(name: str, data: bytes | None) -> bytes:
        if data is None:
            raise FileNotFoundError(2, "no such file in the log", name)
        return data


def _next_step(step: int, held: int) -> int:
    """Return how many entries to read next, so that a chunk has about 2 MiB."""
    wanted = step * _WANTED // max(held, 1)
    return max(16, min(wanted, 4 * step, _MAX_STEP))


def _day_name(day: dt.date) -> str:
    return f"audit-{day.isoformat()}.jsonl"


def _kept_name(size: int) -> str:
    return f"checkpoints/{size:020}"


def _file(name: str, kind: FileKind, size: int, identity: tuple[int, ...] = (0,)) -> LogFile:
    return LogFile(name, kind, size, None, identity)


def _day_files(rows: list[tuple[Any, ...]], total: int) -> Iterator[LogFile]:
    ends = [*(row[2] for row in rows[1:]), total]
    for (day, begin, before, grown), end in zip(rows, ends, strict=False):
        yield _file(_day_name(day), "entries", end - before + grown, (begin, grown))
