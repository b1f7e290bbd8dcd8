"""What the view `events` holds, column by column: the one definition of the index's schema.

A column is a member of the entry as it is stored, or an SQL expression over those members; docs/sql.md is generated
from here. Allowed callers: this room, views, tools.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from klingai_audit.event.types import END_TYPES, EVENT_TYPES, TASK_TYPES
from klingai_audit.kling.endpoints import ROWS
from klingai_audit.kling.rows import UNKNOWN_PACK

__all__ = ["COLUMNS", "SCHEMA", "Column", "empty_sql", "events_sql", "read_sql"]

_FILE_TYPES: Final = frozenset(f"{medium}_{act}" for medium in ("video", "image", "audio") for act in
                               ("downloaded", "deleted"))  # fmt: skip
_MONEY: Final = "DECIMAL(38,9)"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `events`: its DuckDB type, what it means (unit included), and how it comes from an entry.

    `sql` is an expression over the entry's members, over `items` (its charges as read) and over `stated` (members of
    its metadata); None for a member as it is. One that is not `stored` is computed from stored ones when asked for.
    """

    name: str
    type: str
    meaning: str
    sql: str | None = None
    stored: bool = True


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


_STATED: Final = (
    "task_id",
    "external_task_id",
    "model",
    "key_fingerprint",
    "api_key_name",
    "name",
    "phase",
    "code",
    "sha256",
    "bytes",
    "elapsed_ms",
)


def _stated(name: str) -> str:
    return f"stated[{_STATED.index(name) + 1}]"


def _category() -> str:
    cases: dict[str, list[str]] = {}
    for name, info in EVENT_TYPES.items():
        cases.setdefault(info.category, []).append(name)
    whens = " ".join(f"WHEN event_type IN ({_quoted(names)}) THEN '{name}'" for name, names in cases.items())
    return f"CASE {whens} ELSE 'custom' END"


def _only(kind: str, value: str) -> str:
    """The one `value` among the charges of a kind; `several` if they differ."""
    values = f"list_distinct(list_transform(list_filter(items, lambda x: {kind}), lambda x: {value}))"
    return f"CASE len({values}) WHEN 1 THEN ({values})[1] WHEN 0 THEN NULL ELSE 'several' END"


def _sum(kind: str, value: str) -> str:
    """The sum of the charges of a kind, if all have the same `value`."""
    chosen = f"list_filter(items, lambda x: {kind})"
    values = f"list_distinct(list_transform({chosen}, lambda x: {value}))"
    return (
        f"CASE WHEN len({values}) = 1 THEN CAST(list_sum(list_transform({chosen}, lambda x: x.amount)) AS {_MONEY}) END"
    )


_PACK: Final = ("x.pack IS NOT NULL", "x.pack")
_CASH: Final = ("x.currency IS NOT NULL", "x.currency")

COLUMNS: Final = (
    Column("seq", "UBIGINT", "Index of the entry in the log, from 0."),
    Column("event_id", "VARCHAR", "UUID of the event, 36 characters; entries with equal ids tell of one event."),
    Column("timestamp", "TIMESTAMP", "When it happened, by the source's clock: UTC, microseconds."),
    Column("logged_at", "TIMESTAMP", "When the log sequenced it, by the log's clock: UTC, microseconds."),
    Column("event_type", "VARCHAR", "A name of docs/events.md, or `x_…`."),
    Column("category", "VARCHAR", "The event type's category; `custom` for `x_…`.", _category(), stored=False),
    Column("actor_id", "VARCHAR", "Who acted: a pseudonym (`p_…`), or a literal for what is no person."),
    Column("actor_type", "VARCHAR", "`user`, `admin`, `service` or `system`, or what the caller said."),
    Column("on_behalf_of", "VARCHAR", "Pseudonym of the person for whom the actor acted."),
    Column("team", "VARCHAR", "Team of the actor at that time."),
    Column("project", "VARCHAR", "Project of the act."),
    Column("resource_type", "VARCHAR", "What kind of thing was acted on."),
    Column("resource_id", "VARCHAR", "Which one; a pseudonym where `resource_type` is `user`."),
    Column("action", "VARCHAR", "What was done, in the caller's words."),
    Column("outcome", "VARCHAR", "`success`, `failure`, `blocked` or `unknown`."),
    Column("ip_address", "VARCHAR", "Coarse mask of the address, such as `192.168.xxx.xxx`."),
    Column("ip_ref", "VARCHAR", "Keyed reference: equal for equal addresses of one person."),
    Column("user_agent", "VARCHAR", "Product and major version."),
    Column("correlation_id", "VARCHAR", "Joins the steps of one act."),
    Column("request_id", "VARCHAR", "The provider's id of the exchange."),
    Column("metadata", "JSON", "The entry's metadata, unchanged. `metadata->>'$.name'` reads a member as text."),
    Column(
        "task_id",
        "VARCHAR",
        "The provider's task id: what `metadata.task_id` states, else `resource_id` where the event is of a task, of a"
        " generation or of a delivered file.",
        f"coalesce({_stated('task_id')}, CASE WHEN event_type IN ({_quoted(TASK_TYPES | _FILE_TYPES)})"
        " THEN resource_id END)",
    ),
    Column("external_task_id", "VARCHAR", "The caller's own id of the task.", _stated("external_task_id")),
    Column("model", "VARCHAR", "Kling's name of the model.", _stated("model")),
    Column(
        "operation",
        "VARCHAR",
        "`action` where it is an operation of Kling's API, else NULL. On the end of a task it is the call that saw the"
        " end, not the one that ordered the task; `correlation_id` joins the two.",
        f"CASE WHEN action IN ({_quoted({row.action for row in ROWS})}) THEN action END",
        stored=False,
    ),
    Column(
        "api_key",
        "VARCHAR",
        "Fingerprint of the credential, 16 hex digits.",
        f"coalesce({_stated('key_fingerprint')}, CASE WHEN resource_type = 'api_key' THEN resource_id END)",
    ),
    Column(
        "api_key_name",
        "VARCHAR",
        "The credential's name where the entry states it: on `api_key_rotated`, which declares it.",
        f"coalesce({_stated('api_key_name')}, CASE WHEN event_type = 'api_key_rotated' THEN {_stated('name')} END)",
    ),
    Column("phase", "VARCHAR", "`intent` on the entry written before an act, else NULL.", _stated("phase")),
    Column("code", "VARCHAR", "Kling's error code.", _stated("code")),
    Column("sha256", "VARCHAR", "SHA-256 of a delivered file, 64 hex digits.", _stated("sha256")),
    Column("bytes", "UBIGINT", "Length of a delivered file, in bytes.", f"TRY_CAST({_stated('bytes')} AS UBIGINT)"),
    Column(
        "elapsed_s",
        "DOUBLE",
        "How long the exchange with Kling took, in seconds.",
        f"TRY_CAST({_stated('elapsed_ms')} AS DOUBLE) / 1000",
    ),
    Column(
        "duration_s",
        "DOUBLE",
        "Seconds of media that a task made, all its results together; on ends of tasks.",
        f"CASE WHEN event_type IN ({_quoted(END_TYPES)}) THEN list_sum(list_transform(CAST(json_extract_string("
        "metadata, '$.results[*].duration') AS VARCHAR[]), lambda x: TRY_CAST(x AS DOUBLE))) END",
    ),
    Column(
        "charges",
        f"STRUCT(unit VARCHAR, amount {_MONEY})[]",
        "What the end of a task states as charged; NULL if it states nothing. `unit` is `video units`, `image units`,"
        " …, or a currency with its kind of cash. Different units never add up.",
        "CASE WHEN len(items) > 0 THEN list_transform(items, lambda x: {'unit': x.unit, 'amount': x.amount}) END",
        stored=False,
    ),
    Column("units", _MONEY, "Pack units charged, if all are of one pack type; else see `charges`.", _sum(*_PACK)),
    Column(
        "pack_type",
        "VARCHAR",
        f"Pack type of `units`: `video`, `image`, …; `{UNKNOWN_PACK}` if nobody knows it, `several` if there are more.",
        _only(*_PACK),
    ),
    Column("cash", _MONEY, "Cash charged, if all is in one currency; else see `charges`.", _sum(*_CASH)),
    Column(
        "currency",
        "VARCHAR",
        "Currency of `cash`; `unnamed` if the entry names none, `several` if there are more.",
        _only(*_CASH),
    ),
    Column(
        "first",
        "BOOLEAN",
        "True on the first entry with this `event_id`. Count and add up `WHERE first`: several observers of one end,"
        " and a retry, write the same id again.",
        "seq NOT IN (SELECT seq FROM {repeats})",
        stored=False,
    ),
)
"""The columns of `events`, in order."""

_TIMES: Final = ("timestamp", "logged_at")
_MEMBERS: Final = tuple(column for column in COLUMNS if column.sql is None)
_READ_AS: Final = ", ".join(
    f"{column.name}: '{'VARCHAR' if column.name in _TIMES else column.type}'" for column in _MEMBERS
)
_SHAPE: Final = (
    '[{"charge_type":"VARCHAR","amount":"JSON","package_type":"VARCHAR","currency":"VARCHAR","cash_type":"VARCHAR"}]'
)
_AMOUNT: Final = r'"-?[0-9]{1,18}(\.[0-9]{1,9})?"'
_PACKAGE: Final = f"coalesce(nullif(x.package_type, ''), '{UNKNOWN_PACK}')"
_ITEM: Final = (
    "{'unit': CASE WHEN x.charge_type = 'unit' THEN "
    f"concat({_PACKAGE}, ' units') ELSE concat_ws(' ',"
    " coalesce(nullif(x.currency, ''), nullif(x.charge_type, ''), 'unknown'), nullif(x.cash_type, '')) END,"
    f" 'amount': CASE WHEN regexp_full_match(x.amount, '{_AMOUNT}') THEN CAST(trim(x.amount, '\"') AS {_MONEY}) END,"
    f" 'pack': CASE WHEN x.charge_type = 'unit' THEN {_PACKAGE} END,"
    " 'currency': CASE WHEN x.charge_type IS DISTINCT FROM 'unit' THEN coalesce(nullif(x.currency, ''), 'unnamed') END}"
)
_TYPED: Final = ", ".join(f"CAST({name} AS TIMESTAMP) AS {name}" for name in _TIMES)
_ITEMS: Final = (
    f"list_filter(list_transform(CASE WHEN event_type IN ({_quoted(END_TYPES)}) THEN json_transform("
    f"json_extract(metadata, '$.charge'), '{_SHAPE}') END, lambda x: {_ITEM}), lambda x: x.amount IS NOT NULL)"
)
_PATHS: Final = ", ".join(f"'$.{name}'" for name in _STATED)
_STORED: Final = ", ".join(f"{column.sql or column.name} AS {column.name}" for column in COLUMNS if column.stored)
_READ: Final = (
    f"SELECT {_STORED} FROM (SELECT * REPLACE ({_TYPED}), {_ITEMS} AS items, json_extract_string(metadata, [{_PATHS}])"
    f" AS stated FROM read_json({{path}}, format='newline_delimited', auto_detect=false, maximum_object_size=1048576,"
    f" columns={{{_READ_AS}}}))"
)
_EVENTS: Final = ", ".join(
    column.name if column.stored else f"{(column.sql or column.name).replace('items', _ITEMS)} AS {column.name}"
    for column in COLUMNS
)

SCHEMA: Final = hashlib.sha256(f"{_READ} {sys.byteorder}".encode()).hexdigest()
"""Names what a segment holds; an index made under another schema is made anew."""


def read_sql(path: str) -> str:
    """Return the SELECT that reads the file of entries `path` (a literal of SQL) into the stored columns."""
    return _READ.replace("{path}", path)


def events_sql(stored: str, repeats: str) -> str:
    """Return the SELECT of all columns over `stored`, which has the stored ones.

    `repeats` has the `seq` of every entry whose event id stands in an earlier one.
    """
    return f"SELECT {_EVENTS.replace('{repeats}', repeats)} FROM {stored}"


def empty_sql() -> str:
    """Return a SELECT with the stored columns and no row."""
    columns = ", ".join(f"CAST(NULL AS {column.type}) AS {column.name}" for column in COLUMNS if column.stored)
    return f"SELECT {columns} WHERE FALSE"
