"""SQL from outside: one SELECT over `events`, run in a process of its own that cannot reach anything else."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from klingai_audit.errors import KlingAuditError, StorageError, UsageError
from klingai_audit.index.rules import FUNCTIONS, TABLE_FUNCTIONS

__all__ = ["MEMORY", "ROW_LIMIT", "SECONDS", "Gone", "Table", "run_sql"]

ROW_LIMIT: Final = 10_000
"""Rows that a query returns unless asked for more or fewer."""

SECONDS: Final = 30.0
"""How long a query may run, in seconds, unless told otherwise."""

MEMORY: Final = 1 << 30
"""Memory that a query may take, in bytes, unless told otherwise."""

_MAX_SQL: Final = 100_000
_MIN_MEMORY: Final = 64 << 20
_START_S: Final = 20.0
_CHILD: Final = Path(__file__).with_name("child.py")
_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_HELP: Final = "docs/sql.md lists the columns and what is allowed."
_ERROR_NAME: Final = re.compile(r"^[A-Z][A-Za-z ]{2,30} Error: ")


class Gone(Exception):
    """A segment was merged away by another process while it was to be read."""


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to an SQL query: column names, their DuckDB types, and rows of Python values.

    Times are aware, in UTC; decimals are `Decimal`. `more` tells that there were more rows than the limit.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool = False


def run_sql(
    text: str,
    view: str,
    paths: Sequence[str],
    *,
    limit: int = ROW_LIMIT,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Table:
    """Run one SELECT; `view` is the SQL of `events`, `paths` the files that it reads.

    Raises: UsageError: not one SELECT, not understood, not allowed, or over a limit. Gone. StorageError.
    """
    if limit < 1 or seconds <= 0 or memory < _MIN_MEMORY:
        raise UsageError(f"A limit is too small: {limit} rows, {seconds} s, {memory} bytes.", do="Give larger ones.")
    if len(text) > _MAX_SQL:
        raise UsageError(f"The SQL has {len(text):,} characters, at most {_MAX_SQL:,} are read.")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError("The SQL holds characters that are no Unicode text.") from exc
    request = {
        "sql": text,
        "view": view,
        "paths": list(paths),
        "limit": limit,
        "seconds": seconds,
        "memory": memory,
        "threads": max(1, min(4, os.cpu_count() or 1)),
        "allowed": {
            "functions": FUNCTIONS,
            "table_functions": TABLE_FUNCTIONS,
            "tables": ("events",),
        },
    }
    answer = _ask_child(request, seconds + _START_S)
    if "error" in answer:
        raise _error_of(answer["error"], answer.get("message", ""), seconds, memory)
    rows = [tuple(row) for row in answer["rows"]]
    return Table(tuple(answer["columns"]), tuple(answer["types"]), rows, answer["more"])


def _ask_child(request: dict[str, Any], patience: float) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(  # noqa: S603  (this interpreter and a script of ours)
            [sys.executable, "-P", str(_CHILD)],
            input=msgspec.msgpack.encode(request),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": "time"}
    except OSError as exc:
        raise StorageError(f"No process can be started to run SQL in: {exc.strerror}.") from exc
    if not done.stdout:
        if done.returncode >= 0:
            return {"error": "lost"}
        return {"error": "time" if done.returncode == -signal.SIGXCPU else "memory"}  # the system's limits ended it
    answer: dict[str, Any] = msgspec.msgpack.Decoder(ext_hook=_untag).decode(done.stdout)
    return answer


def _untag(code: int, data: memoryview) -> Any:
    text = bytes(data).decode()
    read: dict[str, Callable[[str], Any]] = {
        "i": int,
        "d": Decimal,
        "t": dt.datetime.fromisoformat,
        "a": dt.date.fromisoformat,
        "s": lambda micros: dt.timedelta(microseconds=int(micros)),
    }
    return read[chr(code)](text)


def _error_of(kind: str, message: str, seconds: float, memory: int) -> KlingAuditError | Gone:
    match kind:
        case "gone":
            return Gone()
        case "time":
            return UsageError(
                f"The query took longer than {seconds:g} s and was ended.", do="Narrow it, by time for example."
            )
        case "memory":
            return UsageError(
                f"The query took more than {memory >> 20} MiB of memory and was ended.",
                do="Narrow it, or let it return less.",
            )
        case "refused":
            return UsageError(f"This SQL cannot be run: {message}.", do=f"Write one SELECT on events; {_HELP}")
        case "ConversionException" | "OutOfRangeException":
            return UsageError(
                "A value, in the SQL or in the log, is not of the type that the SQL takes it for.",
                do="Check dates and casts; TRY_CAST passes over what does not fit.",
            )
        case "lost":
            return StorageError("The process in which SQL runs ended without an answer.", do="Run it again.")
        case _:
            return UsageError(f"The SQL is not understood: {_first_sentence(message)}.", do=_HELP)


def _first_sentence(message: str) -> str:
    head = message.partition("\n\n")[0].partition("\nLINE ")[0]
    return _ERROR_NAME.sub("", " ".join(head.split())).rstrip(".! ")
