"""What `status` rests on: answers of the index, the policy, what this machine remembers, modes of files.

Nothing is judged here. Whole entries are read only where the index says that something is to be looked at.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from klingai_audit.capture.spool import FOLDER
from klingai_audit.config import Places
from klingai_audit.errors import KlingAuditError
from klingai_audit.event.types import category_of, is_canonical
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.spool import look_at as look_at_spool
from klingai_audit.privacy.policy import Policy
from klingai_audit.report import about, data
from klingai_audit.report.ask import Asker, Rows, iso, quoted
from klingai_audit.report.leaks import leakage
from klingai_audit.report.modes import PlaceAccess, look_at
from klingai_audit.report.scope import Scope
from klingai_audit.trust.remember import recall
from klingai_audit.trust.verdict import Verdict
from klingai_audit.upkeep.holds import holds_in
from klingai_audit.views.entry import People
from klingai_audit.watch.memory import Memory, load_memory

__all__ = ["Evidence", "gather"]

_RECENT: Final = 200
_REVIEWS: Final = ("log_queried", "report_generated")
_HOLDS: Final = ("legal_hold_set", "legal_hold_released")
_AHEAD: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known; `log` are answers of the index, None where the log cannot be read, and `trouble` says why.

    `checked` is the size up to which this machine verified the log from its first entry on, and when; `waiting` records
    are in the spool, not in the log.
    """

    now: dt.datetime
    size: int
    log: Mapping[str, Any] | None
    trouble: str
    policy: Policy | None
    policy_trouble: str
    places: tuple[PlaceAccess, ...]
    memory: Memory
    watched: bool
    checked: tuple[int, dt.datetime] | None
    waiting: int = 0
    verdict: Verdict | None = field(default=None)


def gather(
    places: Places, reader: LogReader, rows: Rows | None, *, newest: int | None, now: dt.datetime,
    verdict: Verdict | None, trouble: str = "",
) -> Evidence:  # fmt: skip
    """Collect the evidence. `rows` asks the index, None if there is none; `newest` limits the search of entries."""
    answers = None
    size = 0
    if rows is not None:
        try:
            size = reader.size
            answers = _answers(reader, rows, _policy(places)[0], size, newest, now)
        except (KlingAuditError, OSError) as exc:
            trouble = exc.message if isinstance(exc, KlingAuditError) else f"the log cannot be read: {exc.strerror}"
    policy, policy_trouble = _policy(places)
    origin = ""
    with contextlib.suppress(KlingAuditError, OSError):
        origin = reader.origin
    memory = load_memory(places.state, origin)
    return Evidence(
        now=now,
        size=size,
        log=answers,
        trouble=trouble,
        policy=policy,
        policy_trouble=policy_trouble,
        places=tuple(look_at(places)),
        memory=memory,
        watched=bool(memory.done),
        checked=_checked(places),
        waiting=_waiting(places),
        verdict=verdict,
    )


def _policy(places: Places) -> tuple[Policy | None, str]:
    try:
        return Policy.load(places.keys / "policy.toml"), ""
    except KlingAuditError as exc:
        return None, exc.message
    except OSError as exc:
        return None, f"policy.toml cannot be read: {exc.strerror}"


def _waiting(places: Places) -> int:
    try:
        return look_at_spool(places.state / FOLDER).records
    except OSError:
        return 0


def _checked(places: Places) -> tuple[int, dt.datetime] | None:
    """Return what this machine remembers of its last verification, and when that was."""
    found = recall(places.state)
    if found is None:
        return None
    try:
        when = (places.state / "verified.json").stat().st_mtime
    except OSError:
        return None
    return found.size, dt.datetime.fromtimestamp(when, dt.UTC)


def _answers(
    reader: LogReader, rows: Rows, policy: Policy | None, size: int, newest: int | None, now: dt.datetime
) -> dict[str, Any]:
    scope = Scope(days=1, since=now - _AHEAD, until=now + _AHEAD, size=size, root="", origin=reader.origin,
                  people="pseudonym")  # fmt: skip
    ask = Asker(rows, scope)
    begin = 0 if newest is None else max(0, size - newest)
    return {
        "acts": _acts(ask),
        "open": data.opened(ask, People(None), scope),
        "gaps": about.life(ask)["open_gaps"],
        "reconciliation": about.reconciliation(ask),
        "leaks": leakage(reader, ask, size, begin=begin),
        "verifications": _verifications(ask),
        "anchors": _anchors(ask),
        "retention": _retention(ask, reader, policy, now),
        "reviews": _newest_of(ask, _REVIEWS),
        "users": _newest_of(ask, ("user_added", "user_removed")),
        "policy_named": _policy_named(ask),
    }


def _acts(ask: Asker) -> dict[str, Any]:
    counts = ask.ask(
        "E1",
        "acts, and what they lack",
        "SELECT count(*), count(*) FILTER (coalesce(actor_id, '') IN ('', 'unknown')), "
        "count(*) FILTER (coalesce(action, '') = ''), count(*) FILTER (timestamp IS NULL), "
        "count(*) FILTER (phase = 'intent'), count(*) FILTER (operation IS NOT NULL), max(seq), max(timestamp) "
        "{all} AND category <> 'log'",
        "all",
    )[0]
    via = ask.ask(
        "E2",
        "how calls were seen",
        "SELECT via, count(*) FROM (SELECT CASE WHEN contains(CAST(metadata AS VARCHAR), '\"via\"') "
        "THEN json_extract_string(metadata, '$.via') END AS via {all} AND operation IS NOT NULL AND phase IS NULL) "
        "GROUP BY 1 ORDER BY 1",
        "all",
    )
    names = ("acts", "unknown_actor", "without_action", "without_time", "announced", "calls", "last_seq", "last")
    found: dict[str, Any] = dict(zip(names, counts, strict=True))
    found["last"] = iso(found["last"])
    found["via"] = {"transport" if name is None else str(name)[:32]: count for name, count in via}
    return found


def _verifications(ask: Asker) -> list[dict[str, Any]]:
    """Return the newest recorded verifications, newest first."""
    rows = ask.ask(
        "E3",
        "verifications, newest first",
        "SELECT seq, timestamp, event_type, TRY_CAST(json_extract_string(metadata, '$.tree_size') AS UBIGINT) {all} "
        f"AND event_type IN ('log_verified', 'verification_failed') ORDER BY seq DESC LIMIT {_RECENT}",
        "all",
    )
    return [{"seq": seq, "at": iso(at), "holds": kind == "log_verified", "tree_size": size}
            for seq, at, kind, size in rows]  # fmt: skip


def _anchors(ask: Asker) -> dict[str, Any]:
    rows = ask.ask(
        "E4",
        "the newest witness and the newest time stamp",
        "SELECT event_type, count(*), max(seq), max(timestamp) {all} "
        "AND event_type IN ('checkpoint_witnessed', 'checkpoint_timestamped') GROUP BY event_type ORDER BY 1",
        "all",
    )
    return {kind: {"entries": count, "seq": seq, "at": iso(at)} for kind, count, seq, at in rows}


def _newest_of(ask: Asker, kinds: tuple[str, ...]) -> dict[str, Any]:
    rows = ask.ask(
        f"E-{kinds[0]}",
        "the newest entries of some types",
        f"SELECT event_type, count(*), max(timestamp) {{all}} AND event_type IN {quoted(kinds)} GROUP BY event_type",
        "all",
    )
    return {kind: {"entries": count, "last": iso(at)} for kind, count, at in rows}


def _policy_named(ask: Asker) -> str | None:
    rows = ask.ask(
        "E5",
        "the policy that the log names last",
        "SELECT coalesce(json_extract_string(metadata, '$.digest_new'), json_extract_string(metadata, '$.policy')) "
        "{all} AND (event_type = 'log_opened' OR (event_type = 'policy_updated' "
        "AND json_extract_string(metadata, '$.digest_new') IS NOT NULL)) ORDER BY seq DESC LIMIT 1",
        "all",
    )
    return rows[0][0] if rows else None


def _retention(ask: Asker, reader: LogReader, policy: Policy | None, now: dt.datetime) -> dict[str, Any]:
    kinds = ask.ask(
        "E6",
        "entries by type, with the oldest of each",
        "SELECT event_type, count(*), min(logged_at), max(logged_at) {all} GROUP BY event_type ORDER BY 1",
        "all",
    )
    purges = ask.ask(
        "E7",
        "purges",
        "SELECT count(*), sum(TRY_CAST(json_extract_string(metadata, '$.entries') AS UBIGINT)), max(timestamp) {all} "
        "AND event_type = 'retention_applied' AND action = 'purge'",
        "all",
    )[0]
    held = ask.ask("E8", "holds", f"SELECT seq {{all}} AND event_type IN {quoted(_HOLDS)} ORDER BY seq", "all")
    newest = max((row[3] for row in kinds), default=None)
    return {
        "oldest": iso(min((row[2] for row in kinds if category_of(row[0]) != "log"), default=None)),
        "types": [row[0] for row in kinds],
        "due": None if policy is None else _due(ask, policy, kinds, newest, now),
        "purges": purges[0],
        "purged": int(purges[1] or 0),
        "last_purge": iso(purges[2]),
        "holds": [hold.name for hold in holds_in(reader.entry(int(seq)) for (seq,) in held)],
    }


def _due(ask: Asker, policy: Policy, kinds: list[tuple[Any, ...]], newest: dt.datetime | None, now: dt.datetime) -> int:
    """Count the entries whose day is older than their type's maximum; the newest day waits, as for `retention plan`."""
    total = 0
    for kind, _, oldest, _ in kinds:
        most = policy.retention.period(kind).maximum if is_canonical(kind) and category_of(kind) != "log" else None
        if most is None or newest is None:
            continue
        day = min(now.date() - dt.timedelta(days=most), newest.date())
        if oldest.date() < day:
            sql = f"SELECT count(*) {{all}} AND event_type = '{kind}' AND logged_at < TIMESTAMP '{day} 00:00:00'"
            total += ask.ask("E9", "entries that are due", sql, "all")[0][0]
    return total
