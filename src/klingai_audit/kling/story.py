"""The entries of a generation's life: from an answer to the drafts that tell it. Pure.

Which event a refusal is, when a status is news, what the one end of a task holds: all of it is decided here
and in `kling.reply`, for the client, for captured clients and for whatever comes later.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from klingai_audit.capture.facts import Background, Exchange, Known, Operation, Outcome, Sight
from klingai_audit.event.record import Draft, end_event_id, format_time, is_event_id
from klingai_audit.event.types import EventType
from klingai_audit.kling.catalogue import Match
from klingai_audit.kling.errors import code_info
from klingai_audit.kling.reply import Charge, Reply, TaskRecord
from klingai_audit.privacy.commitment import ToCommit

__all__ = ["answer_facts", "correlation_of", "end_outcome", "refusal_of", "started", "task_outcomes"]

_CARRIED: Final = ("generation", "model", "external_task_id", "attempt", "key_kind", "key_fingerprint")
"""Facts of the intent that its outcome repeats."""

_MS: Final = dt.timedelta(milliseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def refusal_of(reply: Reply, otherwise: str) -> tuple[str, str]:
    """The event type and outcome of an answer that is an error; `otherwise` if it is none with a type of its own."""
    info = code_info(reply.code)
    category = info.category if info else {401: "authentication", 403: "permission", 429: "rate_limit"}.get(
        reply.http_status or 0 if reply.code is None else 0, ""
    )  # fmt: skip
    match category:
        case "rate_limit":
            return EventType.RATE_LIMIT_EXCEEDED, "blocked"
        case "policy":
            return EventType.POLICY_VIOLATION, "blocked"
        case "authentication" | "permission":
            return EventType.ACCESS_DENIED, "blocked"
        case _:
            return otherwise, "failure"


def answer_facts(exchange: Exchange, reply: Reply | None, intent: Draft, *, kind: str) -> dict[str, Any]:
    """The metadata that every outcome has: which intent, what came back, how long it took."""
    facts: dict[str, Any] = {}
    if kind != "read":
        facts["intent"] = intent.event_id
        facts["elapsed_ms"] = max(0, (exchange.finished - exchange.request.started) // _MS)
    for name in _CARRIED if kind != "read" or reply is None or reply.verdict != "ok" else ():
        if isinstance(intent.metadata.get(name), str | int):
            facts[name] = intent.metadata[name]
    if exchange.status is not None:
        facts["http_status"] = exchange.status
    if exchange.error is not None:
        facts["error"] = exchange.error
        facts["sent"] = exchange.sent
    if exchange.hops:
        facts["redirects"] = exchange.hops
    if exchange.truncated:
        facts["truncated"] = True
    if reply is not None and reply.code:
        info = code_info(reply.code)
        facts["code"] = reply.code
        facts["category"] = info.category if info else "not_documented"
    if reply is not None and reply.verdict != "ok":
        if reply.problem not in (None, exchange.error):
            facts["problem"] = reply.problem
        if reply.message:
            facts["provider_message"] = ToCommit(reply.message)
    return facts


def started(operation: Operation, intent: Draft, product: str | None, facts: dict[str, Any]) -> Draft:
    """The entry that a create took effect, as far as its outcome says so."""
    return Draft(
        event_type=f"{product}_generation_started" if product else EventType.TASK_SUBMITTED,
        resource_type=product or "task",
        action=operation.name,
        correlation_id=intent.correlation_id,
        metadata=facts,
    )


def correlation_of(task_id: str, external_id: str | None, background: Background, known: Known | None) -> str:
    """What joins the entries of a task: what this process knows, else the caller's id, else one made of the task's."""
    if known is not None:
        return known.correlation_id
    if external_id is not None and is_event_id(external_id):
        return external_id
    return end_event_id(background.origin, task_id, "succeeded")


def task_outcomes(
    task: TaskRecord,
    operation: Operation,
    exchange: Exchange,
    reply: Reply,
    intent: Draft,
    background: Background,
    known: Known | None,
) -> list[Outcome]:
    """What a task record is worth: its start if nobody knew of it, then its end, or its status if that is news."""
    correlation = correlation_of(task.id, task.external_id, background, known)
    lost = background.unresolved(correlation) if known is None else None
    note = dict(known.note if known else lost or {})
    product = note.get("product") or _row_product(operation) or task.product
    if product:
        note["product"] = product
    facts = {**_task_facts(task), **answer_facts(exchange, reply, intent, kind=operation.kind)}
    facts |= {name: note[name] for name in ("generation", "model") if name in note}
    outcomes: list[Outcome] = []
    if lost is not None:
        draft = started(operation, intent, product, {**facts, "found_by": operation.name})
        outcomes.append(
            Outcome(
                draft=draft.replace(
                    resource_id=task.id, correlation_id=correlation, request_id=reply.request_id, action=_create(note)
                ),
                sight=Sight(thing=task.id, correlation_id=correlation, state=task.status, opens=True, note=note),
            )
        )
        if not task.final:
            return outcomes
        outcomes[0] = _as_submitted(outcomes[0])
    if task.final:
        outcomes.append(end_outcome(task, product, correlation, facts, background, reply, operation, note))
        return outcomes
    draft = Draft(
        event_type=EventType.TASK_STATUS_CHANGED,
        resource_type=product or "task",
        resource_id=task.id,
        action=operation.name,
        correlation_id=correlation,
        request_id=reply.request_id,
        metadata=facts,
    )
    return [Outcome(draft=draft, sight=_sight(task, correlation, note))]


def end_outcome(
    task: TaskRecord,
    product: str | None,
    correlation: str,
    facts: dict[str, Any],
    background: Background,
    reply: Reply,
    operation: Operation,
    note: dict[str, str],
) -> Outcome:
    """The one end of a task, with the id that every observer of it computes."""
    well = task.status == "succeeded"
    ending = "completed" if well else "failed"
    metadata = dict(facts)
    if task.results:
        metadata["results"] = [
            {name: value for name in ("kind", "id", "duration") if (value := getattr(result, name)) is not None}
            for result in task.results
        ]
    if task.charges:
        metadata["charge"] = [_charge_facts(charge, product) for charge in task.charges]
    if not well:
        metadata["category"] = "task"
        if task.message:
            metadata["provider_message"] = ToCommit(task.message)
    draft = Draft(
        event_type=f"{product}_generation_{ending}" if product else EventType.TASK_COMPLETED,
        resource_type=product or "task",
        resource_id=task.id,
        action=operation.name,
        outcome="success" if well else "failure",
        correlation_id=correlation,
        request_id=reply.request_id,
        event_id=end_event_id(background.origin, task.id, "succeeded" if well else "failed"),
        metadata=metadata,
    )
    return Outcome(draft=draft, once=True, sight=_sight(task, correlation, note))


def _charge_facts(charge: Charge, product: str | None) -> dict[str, str]:
    """A legacy record names no package; videos and images each have their own (fact sheet section 6)."""
    facts = charge.facts()
    if charge.charge_type == "unit" and product in {"video", "image"}:
        facts.setdefault("package_type", product)
    return facts


def _sight(task: TaskRecord, correlation: str, note: dict[str, str]) -> Sight:
    links = [
        (url, result.id or str(index))
        for index, result in enumerate(task.results)
        for url in (result.url, result.watermark_url)
        if url is not None
    ]
    return Sight(thing=task.id, correlation_id=correlation, state=task.status, final=task.final, note=note, links=links)


def _as_submitted(outcome: Outcome) -> Outcome:
    """The start of a task whose end follows at once: seen as submitted, so that the end is news."""
    sight = outcome.sight
    if sight is None:
        return outcome
    opened = Sight(
        thing=sight.thing, correlation_id=sight.correlation_id, state="submitted", opens=True, note=sight.note
    )
    return Outcome(draft=outcome.draft, sight=opened)


def _task_facts(task: TaskRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": task.status}
    for name, millis in (("provider_created_at", task.created_ms), ("provider_updated_at", task.updated_ms)):
        if millis is not None:
            facts[name] = format_time(_EPOCH + millis * _MS)
    if task.external_id is not None:
        facts["external_task_id"] = task.external_id
    return facts


def _row_product(operation: Operation) -> str | None:
    found: Match = operation.row
    return found.row.product


def _create(note: dict[str, str]) -> str:
    return note.get("action", "create")
