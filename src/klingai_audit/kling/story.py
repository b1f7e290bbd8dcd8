"""The entries of a generation's life: from an answer to the drafts that tell it. Pure.

Which event a refusal is, when a status is news, what the one end of a task holds: all of it is decided here
and in `kling.reply`, for the client, for captured clients, for callbacks and for whatever comes later.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from klingai_audit.capture.facts import Background, Exchange, Known, Operation, Outcome, Sight
from klingai_audit.event.record import Draft, end_event_id, format_time, is_event_id
from klingai_audit.event.types import EventType
from klingai_audit.kling.catalogue import Match, Row
from klingai_audit.kling.errors import code_info
from klingai_audit.kling.reply import Charge, Reply, TaskRecord, read_reply
from klingai_audit.kling.rows import MEDIA, RESOURCES
from klingai_audit.privacy.commitment import ToCommit

__all__ = [
    "Scene",
    "answer_facts",
    "answer_of",
    "correlation_of",
    "end_outcome",
    "ended_type",
    "opening_note",
    "refusal_of",
    "started",
    "task_outcomes",
]

_CARRIED: Final = ("generation", "model", "external_task_id", "attempt", "key_kind", "key_fingerprint")
"""Facts of the intent that its outcome repeats."""

_PACKAGES: Final = {"image": "image", **dict.fromkeys(("video", "audio", "voice", "element"), "video")}
"""Product -> the resource pack that a legacy record's units come from, which it does not name (sheet 3.3, 6)."""

_OWN_PACKAGES: Final = {"virtual_try_on": "try-on"}
"""Actions whose units come from a pack of their own, other than their product's (sheet 2.6)."""

_MS: Final = dt.timedelta(milliseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Scene:
    """One exchange to be told: what was asked, what came back, what is known already."""

    operation: Operation
    exchange: Exchange
    intent: Draft
    background: Background
    reply: Reply

    @property
    def row(self) -> Row:
        """The row of the endpoint table."""
        found: Match = self.operation.row
        return found.row


def answer_of(exchange: Exchange) -> Reply:
    """Read what came back; no answer at all is unclear, or, if nothing was sent, a refusal by the network."""
    if exchange.status is None:
        return Reply("unclear" if exchange.sent else "refused", problem=exchange.error or "no_answer")
    if exchange.error is not None:
        return Reply("unclear", http_status=exchange.status, problem=exchange.error)
    if exchange.truncated:
        return Reply("unclear", http_status=exchange.status, problem="reply_too_long")
    return read_reply(exchange.status, exchange.body)


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


def ended_type(product: str | None, *, well: bool) -> str:
    """The event type of an end: of a generation, of the making of a voice or element, or of an unknown task."""
    if product in MEDIA:
        return f"{product}_generation_{'completed' if well else 'failed'}"
    return EventType.RESOURCE_CREATED if product in RESOURCES else EventType.TASK_COMPLETED


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
        event_type=f"{product}_generation_started" if product in MEDIA else EventType.TASK_SUBMITTED,
        resource_type=product or "task",
        action=operation.name,
        correlation_id=intent.correlation_id,
        metadata=facts,
    )


def opening_note(scene: Scene) -> dict[str, str]:
    """What is to be known of a task from its create on, whoever sees it later."""
    named = {
        "product": scene.row.product, "generation": scene.row.generation, "action": scene.operation.name,
        "model": scene.intent.metadata.get("model"),
    }  # fmt: skip
    return {name: value for name, value in named.items() if isinstance(value, str)}


def correlation_of(task_id: str, external_id: str | None, background: Background, known: Known | None) -> str:
    """What joins the entries of a task: what is known of it or of the caller's id, else one made of the task's id."""
    if known is not None:
        return known.correlation_id
    if external_id is not None:
        ordered = external_id if is_event_id(external_id) else background.lost_order(external_id)
        if ordered is not None:
            return ordered
    return end_event_id(background.origin, task_id, "succeeded")


def task_outcomes(task: TaskRecord, scene: Scene, known: Known | None) -> list[Outcome]:
    """What a task record is worth: its start if nobody knew of it, then its end, or its status if that is news."""
    background, reply = scene.background, scene.reply
    correlation = correlation_of(task.id, task.external_id, background, known)
    lost = background.unresolved(correlation) if known is None else None
    # A callback may be faster than the reply to the order.
    note = dict(known.note if known else lost or background.ordered(correlation) or {})
    product = note.get("product") or scene.row.product or task.product
    if product:
        note["product"] = product
    facts = {**_task_facts(task), **answer_facts(scene.exchange, reply, scene.intent, kind=scene.operation.kind)}
    facts |= {name: note[name] for name in ("generation", "model") if name in note}
    outcomes: list[Outcome] = []
    if lost is not None:
        draft = started(scene.operation, scene.intent, product, {**facts, "found_by": scene.operation.name})
        draft = draft.replace(
            resource_id=task.id, correlation_id=correlation, request_id=reply.request_id,
            action=note.get("action", "create"),
        )  # fmt: skip
        # A task that has ended is seen as submitted first, so that its end is news.
        state = "submitted" if task.final else task.status
        sight = Sight(
            thing=task.id, correlation_id=correlation, state=state, opens=True, found=True, note=note, shared=True
        )  # fmt: skip
        outcomes.append(Outcome(draft=draft, sight=sight))
        if not task.final:
            return outcomes
    if task.final:
        outcomes.append(end_outcome(task, scene, product, correlation, facts, note))
        return outcomes
    draft = Draft(
        event_type=EventType.TASK_STATUS_CHANGED,
        resource_type=product or "task",
        resource_id=task.id,
        action=scene.operation.name,
        correlation_id=correlation,
        request_id=reply.request_id,
        metadata=facts,
    )
    return [Outcome(draft=draft, sight=_sight(task, task.id, correlation, note))]


def end_outcome(
    task: TaskRecord,
    scene: Scene,
    product: str | None,
    correlation: str,
    facts: dict[str, Any],
    note: dict[str, str],
) -> Outcome:
    """The one end of a task, with the id that every observer of it computes.

    What a synchronous call did without making a task of it has an end as well, which nobody else can see.
    """
    well = task.status == "succeeded"
    metadata = dict(facts)
    if task.results:
        metadata["results"] = [
            {name: value for name in ("kind", "id", "duration") if (value := getattr(result, name)) is not None}
            for result in task.results
        ]
    if task.charges:
        package = _OWN_PACKAGES.get(note.get("action", "")) or _PACKAGES.get(product or "")
        metadata["charge"] = [_charge_facts(charge, package) for charge in task.charges]
    if not well:
        metadata["category"] = "task"
        if task.message:
            metadata["provider_message"] = ToCommit(task.message)
    resource = task.id or None
    if product in RESOURCES:
        made = [result.id for result in task.results if result.kind == product and result.id]
        resource = made[0] if len(made) == 1 else resource
        if task.id:
            metadata["task_id"] = task.id
    draft = Draft(
        event_type=ended_type(product, well=well),
        resource_type=product or "task",
        resource_id=resource,
        action=scene.operation.name,
        outcome="success" if well else "failure",
        correlation_id=correlation,
        request_id=scene.reply.request_id,
        event_id=end_event_id(scene.background.origin, task.id, "succeeded" if well else "failed") if task.id else None,
        metadata=metadata,
    )
    thing = task.id or scene.reply.request_id or scene.intent.event_id or ""
    return Outcome(draft=draft, once=bool(task.id), sight=_sight(task, thing, correlation, note))


def _charge_facts(charge: Charge, package: str | None) -> dict[str, str]:
    facts = charge.facts()
    if charge.charge_type == "unit" and package is not None:
        facts.setdefault("package_type", package)
    return facts


def _sight(task: TaskRecord, thing: str, correlation: str, note: dict[str, str]) -> Sight:
    links = [
        (url, result.id or str(index))
        for index, result in enumerate(task.results)
        for url in (result.url, result.watermark_url, result.wav_url)
        if url is not None
    ]
    return Sight(
        thing=thing, correlation_id=correlation, state=task.status, final=task.final, note=note, links=links,
        shared=bool(task.id),
    )  # fmt: skip


def _task_facts(task: TaskRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": task.status}
    for name, millis in (("provider_created_at", task.created_ms), ("provider_updated_at", task.updated_ms)):
        if millis is not None:
            facts[name] = format_time(_EPOCH + millis * _MS)
    if task.external_id is not None:
        facts["external_task_id"] = task.external_id
    if task.parent_id is not None:
        facts["parent_video"] = task.parent_id
    return facts
