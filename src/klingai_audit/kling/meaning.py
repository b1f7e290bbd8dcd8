"""The interpreter: what an HTTP exchange with Kling means, as entries. Pure; see `capture.facts.Provider`.

Every exchange gives at least one outcome (a read may then turn out to be no news, which the recorder counts).
docs/events.md lists catalogue row × outcome → event types; a test proves the table total.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from klingai_audit.capture.facts import (
    Background,
    Credential,
    Exchange,
    Known,
    Operation,
    Outcome,
    RequestFacts,
    Sight,
)
from klingai_audit.event.record import Draft, is_event_id
from klingai_audit.event.types import EventType
from klingai_audit.kling import auth
from klingai_audit.kling.catalogue import DOWNLOAD, LEGACY_LIST, LEGACY_ONE, SEARCH_TASKS, TASKS_BY_ID, Match, match
from klingai_audit.kling.errors import code_info
from klingai_audit.kling.intent import intent_draft
from klingai_audit.kling.reply import Reply, clean_id, read_reply, read_task, read_tasks
from klingai_audit.kling.story import answer_facts, correlation_of, refusal_of, started, task_outcomes

__all__ = ["PROVIDER", "KlingProvider"]

_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,32}/[A-Za-z0-9.+-]{1,64}").match
_ENCODING: Final = re.compile(r"[a-z][a-z0-9-]{0,15}").fullmatch
_RANGE: Final = re.compile(r"bytes [0-9*]{1,19}(?:-[0-9]{1,19})?/[0-9*]{1,19}").fullmatch

_LISTS: Final = frozenset({LEGACY_LIST, SEARCH_TASKS})
"""Rows whose reply holds whatever the account has, not what was asked for by id."""


class KlingProvider:
    """Implements `capture.facts.Provider` for Kling; holds nothing."""

    def classify(self, method: str, url: str, background: Background) -> Operation | None:
        linked = background.linked(url) if method.upper() == "GET" else None
        if linked is not None:
            row = Match(DOWNLOAD, DOWNLOAD.action)
            return Operation(name=row.action, kind="download", row=row, thing=linked[0], part=linked[1])
        try:
            found = match(method, url)
        except ValueError:  # an authority that is no authority; the library will say so
            return None
        if found is None:
            return None
        return Operation(
            name=found.action, kind=found.row.kind, row=found, thing=_addressed(found, url), variables=found.variables
        )

    def credential(self, authorization: str) -> Credential | None:
        return auth.credential_of(authorization)

    def intent(self, operation: Operation, request: RequestFacts, event_id: str, extra: Mapping[str, Any]) -> Draft:
        return intent_draft(operation, request, extra)

    def outcome(self, operation: Operation, exchange: Exchange, intent: Draft, background: Background) -> list[Outcome]:
        match operation.kind:
            case "download":
                return [Outcome(draft=_download(operation, exchange, intent))]
            case "read":
                return _read(operation, exchange, intent, background)
            case _:
                return _create(operation, exchange, intent, background)

    def key_used(self, operation: Operation, exchange: Exchange, intent: Draft) -> Draft | None:
        used = exchange.request.credential
        if used is None or exchange.status is None:
            return None
        reply = read_reply(exchange.status, exchange.body)
        info = code_info(reply.code)
        if (info is not None and info.category == "authentication") or (reply.code is None and exchange.status == 401):
            return None
        return Draft(
            event_type=EventType.API_KEY_USED,
            resource_type="api_key",
            resource_id=used["fingerprint"],
            action=operation.name,
            correlation_id=intent.correlation_id,
            metadata={f"key_{name}": value for name, value in used.items()},
        )


PROVIDER: Final = KlingProvider()


def _addressed(found: Match, url: str) -> str | None:
    """The one task that a query asks for."""
    if found.row is LEGACY_ONE:
        return clean_id(found.variables["id"])
    if found.row is TASKS_BY_ID:
        query = parse_qs(urlsplit(url).query)
        ids = ",".join(query.get("task_ids", []) + query.get("external_task_ids", [])).split(",")
        return clean_id(ids[0]) if len(ids) == 1 else None
    return None


def _answer(exchange: Exchange) -> Reply:
    """Read what came back; no answer at all is unclear, or, if nothing was sent, a refusal by the network."""
    if exchange.status is None:
        return Reply("unclear" if exchange.sent else "refused", problem=exchange.error or "no_answer")
    if exchange.error is not None:
        return Reply("unclear", http_status=exchange.status, problem=exchange.error)
    if exchange.truncated:
        return Reply("unclear", http_status=exchange.status, problem="reply_too_long")
    return read_reply(exchange.status, exchange.body)


def _create(operation: Operation, exchange: Exchange, intent: Draft, background: Background) -> list[Outcome]:
    row = operation.row.row
    reply = _answer(exchange)
    facts = answer_facts(exchange, reply, intent, kind=operation.kind)
    begun = started(operation, intent, row.product, facts).replace(request_id=reply.request_id)
    note = {
        name: value
        for name, value in (
            ("product", row.product), ("generation", row.generation), ("action", operation.name),
            ("model", intent.metadata.get("model")),
        )
        if isinstance(value, str)
    }  # fmt: skip
    unknown = begun.replace(outcome="unknown")
    if reply.verdict == "refused":
        if _exists_already(reply, intent):
            return [Outcome(draft=unknown.with_metadata(duplicate=True), unresolved=note)]
        failed = f"{row.product}_generation_failed" if row.product else EventType.TASK_COMPLETED
        event_type, outcome = refusal_of(reply, failed)
        return [Outcome(draft=begun.replace(event_type=event_type, outcome=outcome))]
    if reply.verdict == "unclear":
        return [Outcome(draft=unknown, unresolved=note)]
    task = read_task(reply.data)
    if task is None:
        if row.reply == "task":
            return [Outcome(draft=unknown.with_metadata(problem="reply_without_task"), unresolved=note)]
        return [Outcome(draft=begun)]
    correlation = intent.correlation_id or correlation_of(task.id, task.external_id, background, None)
    draft = begun.replace(resource_id=task.id).with_metadata(status=task.status)
    sight = Sight(thing=task.id, correlation_id=correlation, state="submitted", opens=True, note=note)
    if not task.final:
        sight = Sight(thing=task.id, correlation_id=correlation, state=task.status, opens=True, note=note)
        return [Outcome(draft=draft, sight=sight)]
    return [
        Outcome(draft=draft, sight=sight),
        *task_outcomes(
            task,
            operation,
            exchange,
            reply,
            intent,
            background,
            Known(correlation_id=correlation, state="submitted", final=False, problem=None, note=note),
        ),
    ]


def _exists_already(reply: Reply, intent: Draft) -> bool:
    """Whether a create that was sent again is refused because the first sending did take effect."""
    external = intent.metadata.get("external_task_id")
    if "resend_of" not in intent.metadata or not isinstance(external, str):
        return False
    return reply.code == 1201 and external in reply.message and "already exists" in reply.message


def _read(operation: Operation, exchange: Exchange, intent: Draft, background: Background) -> list[Outcome]:
    found: Match = operation.row
    row = found.row
    reply = _answer(exchange)
    if not found.sure and not reply.like_kling:
        return []
    if reply.verdict != "ok":
        return [_problem(operation, exchange, intent, background, reply)]
    if row.reply == "any":
        return [_list_read(operation, exchange, intent, background, reply, ())]
    tasks = read_tasks(reply.data)
    if row.reply == "task" and not tasks:
        unread = Reply("unclear", None, exchange.status, reply.request_id, problem="reply_without_task")
        return [_problem(operation, exchange, intent, background, unread)]
    outcomes: list[Outcome] = []
    for task in tasks:
        known = background.known(task.id)
        if row in _LISTS and known is None and not task.final:
            correlation = correlation_of(task.id, task.external_id, background, None)
            if background.unresolved(correlation) is None:
                continue  # someone else's running task: its own watchers write about it
        outcomes += task_outcomes(task, operation, exchange, reply, intent, background, known)
    if row in _LISTS or not outcomes:
        states = tuple(f"{task.id}={task.status}" for task in tasks)
        outcomes.append(_list_read(operation, exchange, intent, background, reply, states))
    return outcomes


def _list_read(
    operation: Operation,
    exchange: Exchange,
    intent: Draft,
    background: Background,
    reply: Reply,
    states: tuple[str, ...],
) -> Outcome:
    """A list or an unknown read: an entry when its content differs from the last time the same was asked."""
    facts = answer_facts(exchange, reply, intent, kind="read")
    if operation.row.row.reply != "any":
        facts["tasks"] = len(states)
    shown = "\n".join(sorted(states)).encode() if operation.row.row.reply != "any" else exchange.body or b""
    thing, correlation = _query(operation, exchange, intent, background)
    draft = intent.replace(
        event_id=None, timestamp=None, correlation_id=correlation, request_id=reply.request_id, metadata=facts
    )
    return Outcome(draft=draft, sight=Sight(thing=thing, correlation_id=correlation, state=_digest(shown)))


def _problem(operation: Operation, exchange: Exchange, intent: Draft, background: Background, reply: Reply) -> Outcome:
    """A read that brought nothing; equal ones in a row are one entry."""
    event_type, outcome = refusal_of(reply, EventType.RESOURCE_READ)
    no_answer = exchange.status is None and exchange.sent
    thing, correlation = _query(operation, exchange, intent, background)
    draft = intent.replace(
        event_type=event_type,
        outcome="unknown" if no_answer else outcome,
        event_id=None,
        timestamp=None,
        correlation_id=correlation,
        request_id=reply.request_id,
        metadata=answer_facts(exchange, reply, intent, kind="read"),
    )
    return Outcome(draft=draft, sight=Sight(thing=thing, correlation_id=correlation, problem=reply.key))


def _query(operation: Operation, exchange: Exchange, intent: Draft, background: Background) -> tuple[str, str]:
    """What a read is about, for telling news from repetition, and what joins its entry to others."""
    if operation.thing is not None:
        known = background.known(operation.thing)
        external = operation.thing if is_event_id(operation.thing) else None
        return operation.thing, correlation_of(operation.thing, external, background, known)
    asked = f"{operation.name}\n{exchange.request.url}\n".encode("utf-8", "surrogatepass")
    return f"query:{_digest(asked + (exchange.request.body or b''))}", intent.correlation_id or ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _download(operation: Operation, exchange: Exchange, intent: Draft) -> Draft:
    facts = answer_facts(exchange, None, intent, kind=operation.kind)
    facts |= {name: intent.metadata[name] for name in ("result_id",) if name in intent.metadata}
    media = exchange.media
    if media is not None:
        facts["bytes"] = media.bytes
        facts["sha256" if media.complete else "sha256_so_far"] = media.sha256
        facts["complete"] = media.complete
        words = (
            ("type", _MEDIA_TYPE(media.type or "")), ("encoding", _ENCODING(media.encoding or "")),
            ("range", _RANGE(exchange.headers.get("content-range", ""))),
        )  # fmt: skip
        facts |= {name: found.group() for name, found in words if found}
    if media is not None and media.complete:
        outcome = "success"
    elif exchange.status is None and exchange.sent:
        outcome = "unknown"
    else:
        outcome = "failure"
    return Draft(
        event_type=intent.event_type,
        resource_type=intent.resource_type,
        resource_id=intent.resource_id,
        action=intent.action,
        outcome=outcome,
        correlation_id=intent.correlation_id,
        metadata=facts,
    )
