"""The process in which SQL from outside runs: limited in memory, time and files, and thrown away afterwards.

Runs as a script and imports nothing of this package. Reads one request (msgpack) from stdin, writes one answer to
stdout. A scalar function can take gigabytes without asking the engine and cannot be interrupted, so the engine's
own limits are not enough; those of the operating system are. Allowed caller: `sandbox`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import json
import re
import resource
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import duckdb
import msgspec

__all__ = ["answer", "main", "refusal_of"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_MIB = 1 << 20
_ROOM = 1536 * _MIB  # address space that interpreter, engine and threads take before the first row
_MAX_ANSWER = 256 * _MIB
_PLAIN = (str, int, float, bool, bytes, type(None))
_BIG = 2**63


class _Refused(Exception):
    """The SQL is not one that may run; the text says why."""


def refusal_of(tree: Any, allowed: dict[str, list[str]]) -> str | None:
    """Return why a parsed statement may not run, or None.

    `tree` is the engine's own parse tree; `allowed` lists `functions`, `tables` (the views to read), `table_functions`
    and `catalog` (names that a WITH may not take).
    """
    names = {table.lower() for table in allowed["tables"]}
    functions, table_functions = set(allowed["functions"]), set(allowed["table_functions"])
    taken = {name.lower() for name in allowed["catalog"]} | names
    nodes = list(_walk(tree))
    for node in nodes:
        for entry in (node.get("cte_map") or {}).get("map") or ():
            name = str(entry["key"]).lower()
            if name in taken or not _NAME.fullmatch(name):
                return f"WITH cannot name something {entry['key']}"
            names.add(name)
    for node in nodes:
        kind = node.get("type")
        match kind:
            case "BASE_TABLE":
                if node.get("schema_name") or node.get("catalog_name") or str(node["table_name"]).lower() not in names:
                    return f"there is nothing to read called {node['table_name']}; the one view is events"
            case "TABLE_FUNCTION":
                name = str((node.get("function") or {}).get("function_name", "")).lower()
                if name not in table_functions:
                    return f"the table function {name or '?'} is not allowed"
            case "SHOW_REF":
                return "DESCRIBE, SHOW and SUMMARIZE are not allowed; docs/sql.md lists the columns"
            case "VALUE_PARAMETER":
                return "it has a parameter without a value"
            case str() if kind.endswith("_QUERY_NODE"):
                return "only SELECT is allowed"
        if node.get("class") in ("FUNCTION", "WINDOW") and "function_name" in node:
            name = str(node["function_name"]).lower()
            elsewhere = node.get("schema") not in (None, "", "main") or node.get("catalog")
            if elsewhere or (name not in functions and name not in table_functions):
                return f"the function {name} is not allowed"
    return None


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request; returns columns, types, rows and whether there were more, or an error with its kind."""
    try:
        with contextlib.closing(duckdb.connect(":memory:")) as engine:
            _prepare(engine, request)
            return _run(engine, request)
    except _Refused as exc:
        return {"error": "refused", "message": str(exc)}
    except duckdb.InterruptException:
        return {"error": "time", "message": ""}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {"error": "memory", "message": ""}
    except RecursionError:
        return {"error": "refused", "message": "it is nested too deeply"}
    except duckdb.IOException:
        return {"error": "gone", "message": ""}
    except duckdb.Error as exc:
        return {"error": type(exc).__name__, "message": str(exc)}


def _prepare(engine: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> None:
    paths = ", ".join(_quote(path) for path in request["paths"])
    for setting in (
        f"allowed_paths = [{paths}]",
        "enable_progress_bar = false",
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "temp_directory = ''",
        f"threads = {int(request['threads'])}",
        f"memory_limit = '{int(request['memory']) // _MIB} MiB'",
    ):
        engine.execute(f"SET {setting}")
    engine.execute(f"CREATE VIEW events AS {request['view']}")
    for setting in ("enable_external_access = false", "lock_configuration = true"):
        engine.execute(f"SET {setting}")


def _catalog(engine: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names that stand for views of the engine's own."""
    rows = engine.execute("SELECT view_name FROM duckdb_views() WHERE schema_name IN ('main', 'pg_catalog')").fetchall()
    return [row[0] for row in rows]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _run(engine: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> dict[str, Any]:
    text = request["sql"]
    statements = engine.extract_statements(text)
    if len(statements) != 1:
        raise _Refused(f"it holds {len(statements)} statements")
    row = engine.execute(f"SELECT json_serialize_sql({_quote(text)})").fetchone()
    tree: dict[str, Any] = json.loads(row[0]) if row else {"error": True}
    if tree.get("error") or len(tree["statements"]) != 1:
        raise _Refused(
            "only SELECT is allowed" if statements[0].type != duckdb.StatementType.SELECT else "it is no SELECT"
        )
    refusal = refusal_of(tree["statements"], {**request["allowed"], "catalog": _catalog(engine)})
    if refusal is not None:
        raise _Refused(refusal)
    timer = threading.Timer(request["seconds"], engine.interrupt)
    timer.daemon = True
    timer.start()
    try:
        return _fetch(engine.execute(text), request["limit"])
    finally:
        timer.cancel()


def _fetch(result: duckdb.DuckDBPyConnection, limit: int) -> dict[str, Any]:
    described = result.description or []
    rows: list[list[Any]] = []
    size = 0
    while len(rows) <= limit and (batch := result.fetchmany(min(1024, limit + 1 - len(rows)))):
        texts: list[str] = [value for row in batch for value in row if isinstance(value, str)]
        size += sum(map(len, texts))
        if size > _MAX_ANSWER:
            raise MemoryError
        rows += [[_portable(value) for value in row] for row in batch]
    return {
        "columns": [column[0] for column in described],
        "types": [str(column[1]) for column in described],
        "rows": rows[:limit],
        "more": len(rows) > limit,
    }


def _portable(value: Any) -> Any:
    """Return a value that msgpack carries; others become a pair of the type's letter and text, in an extension."""
    if isinstance(value, _PLAIN) and not (type(value) is int and not -_BIG <= value < _BIG):
        return value
    match value:
        case int():
            return _tagged("i", str(value))
        case decimal.Decimal():
            return _tagged("d", format(value, "f"))
        case dt.datetime():
            return _tagged("t", (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat())
        case dt.date():
            return _tagged("a", value.isoformat())
        case dt.timedelta():
            return _tagged("s", str(value // dt.timedelta(microseconds=1)))
        case uuid.UUID() | dt.time():
            return str(value)
        case dict():
            return {str(key): _portable(item) for key, item in value.items()}
        case list() | tuple():
            return [_portable(item) for item in value]
        case _:
            return str(value)


def _tagged(letter: str, text: str) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(ord(letter), text.encode())


def main() -> None:
    """Answer the one request on stdin, within the limits that it states."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read())
    seconds = int(request["seconds"]) + 1
    for what, limit in (
        (resource.RLIMIT_AS, int(request["memory"]) + _ROOM),
        (resource.RLIMIT_CPU, seconds * int(request["threads"]) + 2),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already, or the system has none such
            resource.setrlimit(what, (limit, limit))
    try:
        data = msgspec.msgpack.encode(answer(request))
    except MemoryError:
        data = msgspec.msgpack.encode({"error": "memory", "message": ""})
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
