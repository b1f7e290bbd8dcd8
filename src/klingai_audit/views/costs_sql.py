"""Costs in one SELECT over the index's view `events`: what `views.orders` does entry by entry, for large logs.

Tests compare both on random histories. Allowed caller: `views.costs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

from klingai_audit.event.types import END_TYPES
from klingai_audit.views.orders import INTENTS, TOLD_TYPES

__all__ = ["TYPES", "add_amount", "sums_sql"]

TYPES: Final = TOLD_TYPES - {"task_status_changed"}
"""Event types that are looked at."""


def _names(types: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(types))


_MEMBERS: Final = (
    "phase", "claim", "intent", "resend_of", "external_task_id", "task_id", "provider_created_at", "key_fingerprint",
)  # fmt: skip
_REFUSALS: Final = ("access_denied", "policy_violation", "rate_limit_exceeded")
_PATHS: Final = ", ".join(f"'$.{name}'" for name in _MEMBERS)
_MADE: Final = ", ".join(
    f"CASE WHEN m[{place}] NOT LIKE '{{%' AND m[{place}] NOT LIKE '[%' THEN nullif(m[{place}], '') END AS {name}"
    for place, name in enumerate(_MEMBERS, 1)
)
_WHO: Final = "{'actor': actor_id, 'team': team, 'project': project, 'key': key_fingerprint, 'model': model}"
_ENDS: Final = f"event_type IN ({_names(END_TYPES)})"
_BEGINS: Final = (
    f"(event_type LIKE '%\\_generation\\_started' ESCAPE '\\' OR event_type IN ({_names(INTENTS)})"
    f" OR ({_ENDS} AND substring(event_id, 15, 1) <> '8'))"
)
_SPENT: Final = f"""
WITH read AS (
  SELECT seq, event_id, timestamp, event_type, outcome, actor_id, team, project, model, correlation_id, resource_id,
    charges, json_extract_string(metadata, [{_PATHS}]) AS m
  FROM events WHERE event_type IN ({_names(TYPES)}) AND timestamp >= ? AND timestamp < ?),
told AS (SELECT * EXCLUDE (m), {_MADE} FROM read),
intents AS (
  SELECT coalesce(resend_of, event_id) AS oid, * FROM told WHERE phase = 'intent' AND event_type IN ({_names(INTENTS)})
  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY seq) = 1),
orders AS (
  SELECT oid, min(seq) AS seq, count(*) AS sent, arg_min(timestamp, seq) AS ordered_at, arg_min({_WHO}, seq) AS who,
    arg_min({{'id': external_task_id}}, seq).id AS external_id
  FROM intents GROUP BY oid),
names AS (
  SELECT name, oid FROM (
    SELECT external_id AS name, oid, 0 AS place, seq FROM orders WHERE external_id IS NOT NULL
    UNION ALL SELECT event_id, oid, 1, seq FROM intents)
  QUALIFY row_number() OVER (PARTITION BY name ORDER BY place, seq) = 1),
rest AS (
  SELECT told.*, intents.oid AS answers, CASE WHEN told.event_type = 'resource_created' THEN told.task_id
    WHEN told.event_type NOT IN ({_names(_REFUSALS)}) THEN told.resource_id END AS task
  FROM told LEFT JOIN intents ON told.intent = intents.event_id
  WHERE told.phase IS DISTINCT FROM 'intent' AND told.claim IS DISTINCT FROM 'true'),
seen AS (
  SELECT rest.*, coalesce(rest.answers, one.oid, two.oid) AS link
  FROM rest LEFT JOIN names AS one ON rest.external_task_id = one.name
  LEFT JOIN names AS two ON rest.correlation_id = two.name
  WHERE task IS NOT NULL),
tasks AS (
  SELECT task, arg_min(link, seq) FILTER (link IS NOT NULL) AS oid, arg_min(timestamp, seq) AS first,
    arg_min(TRY_CAST(provider_created_at AS TIMESTAMP), seq) FILTER (provider_created_at IS NOT NULL) AS created,
    arg_min({_WHO}, seq) FILTER ({_BEGINS}) AS own,
    arg_min({{'outcome': outcome, 'charges': charges}}, seq) FILTER ({_ENDS}) AS ending
  FROM seen GROUP BY task),
direct AS (
  SELECT answers, event_id, any_value(charges) AS charges, bool_or({_ENDS}) AS ends
  FROM rest WHERE answers IS NOT NULL AND task IS NULL AND outcome = 'success' GROUP BY answers, event_id),
loose AS (
  SELECT orders.ordered_at, orders.who FROM orders
  LEFT JOIN (SELECT answers, count(*) AS n, bool_or(task IS NULL AND outcome = 'unknown') AS lost FROM rest
    WHERE answers IS NOT NULL GROUP BY answers) AS told_of ON told_of.answers = orders.oid
  WHERE orders.oid NOT IN (SELECT oid FROM tasks WHERE oid IS NOT NULL)
    AND orders.oid NOT IN (SELECT answers FROM direct)
    AND (coalesce(told_of.lost, FALSE) OR coalesce(told_of.n, 0) < orders.sent)),
spent AS (
  SELECT coalesce(tasks.created, orders.ordered_at, tasks.first) AS ordered_at, coalesce(orders.who, tasks.own) AS who,
    tasks.oid IS NOT NULL OR tasks.own IS NOT NULL AS ordered, ending.outcome = 'success' AS well,
    ending.charges AS charges
  FROM tasks LEFT JOIN orders ON tasks.oid = orders.oid
  UNION ALL SELECT orders.ordered_at, orders.who, TRUE, TRUE, direct.charges
  FROM direct JOIN orders ON direct.answers = orders.oid WHERE direct.ends
  UNION ALL SELECT ordered_at, who, TRUE, NULL, NULL FROM loose)
"""  # noqa: S608  names of ours
_GROUPS: Final = {
    "team": "who.team",
    "project": "who.project",
    "key": "who.key",
    "model": "who.model",
    "actor": "who.actor",
    "day": "CAST(CAST(ordered_at AS DATE) AS VARCHAR)",
}


def add_amount(sums: dict[str, Decimal], unit: str, amount: Decimal) -> None:
    """Add an amount of a unit, named as `events` names it, to sums whose units are named as in `views.orders`."""
    if unit.endswith(" units"):
        name = unit.lower().replace("-", "_")
    else:  # a currency with its kind of cash; without a currency the entry's word for the charge
        word = unit.partition(" ")[0]
        name = word if word.isupper() else "cash"
    sums[name] = sums.get(name, Decimal(0)) + amount.normalize() + 0


def sums_sql(by: Sequence[str], parts: int) -> str:
    """Return the SELECT of all sums of a period, read in one pass.

    Rows with a number of tasks are groups: their values, tasks, completed, failed, open, outside. Other rows are
    amounts, their last two columns a unit as `events` names it and an amount: with a part (from 0) those of a part of
    the period, without one those of the group whose values they have.
    Parameters: timestamps of entries [since, until), times of orders [since, until), begin and end of each part.
    """
    groups = ", ".join(f"g{number}" for number, _ in enumerate(by))
    named = ", ".join(f"{_GROUPS[name]} AS g{number}" for number, name in enumerate(by))
    nothing = ", ".join("NULL" for _ in by)
    counts = (
        f"SELECT {groups}, count(*), count(*) FILTER (well), count(*) FILTER (NOT well),"  # noqa: S608  names of ours
        " count(*) FILTER (charges IS NULL AND well IS DISTINCT FROM FALSE), count(*) FILTER (NOT ordered),"
        " NULL AS part, NULL AS unit, NULL AS amount FROM chosen GROUP BY ALL"
    )
    amounts = (
        f"SELECT {groups}, NULL, NULL, NULL, NULL, NULL, NULL, charge.unit, sum(charge.amount)"  # noqa: S608  names of ours
        f" FROM (SELECT {groups}, unnest(charges) AS charge FROM chosen) GROUP BY ALL"
    )
    values = ", ".join(f"({number}, CAST(? AS TIMESTAMP), CAST(? AS TIMESTAMP))" for number in range(parts))
    of_parts = (
        f" UNION ALL SELECT {nothing}, NULL, NULL, NULL, NULL, NULL, number, charge.unit, sum(charge.amount)"  # noqa: S608  names of ours
        f" FROM (SELECT number, unnest(charges) AS charge FROM chosen JOIN (VALUES {values}) AS part"
        " (number, begin, until) ON ordered_at >= part.begin AND ordered_at < part.until) GROUP BY ALL"
    )
    return (
        f"{_SPENT}, chosen AS MATERIALIZED (SELECT ordered_at, {named}, well, ordered, charges FROM spent"  # noqa: S608  names of ours
        f" WHERE ordered_at >= ? AND ordered_at < ?) {counts} UNION ALL {amounts}{of_parts if parts else ''}"
    )
