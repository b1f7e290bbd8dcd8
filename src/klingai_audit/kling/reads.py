"""The entries of reads: polls, lists, the account's quota, and callbacks, which are polls that Kling makes. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from klingai_audit.capture.facts import Outcome, Sight
from klingai_audit.event.record import is_event_id
from klingai_audit.event.types import EventType
from klingai_audit.kling.account import inner_reply, ledger_facts, pack_facts
from klingai_audit.kling.endpoints import CALLBACK, CLAIM
from klingai_audit.kling.reply import Reply, TaskRecord, read_callback, read_tasks
from klingai_audit.kling.story import Scene, answer_facts, correlation_of, refusal_of, task_outcomes

__all__ = ["read_outcomes"]


def read_outcomes(scene: Scene) -> list[Outcome]:
    """What a read is worth. A list also leaves an entry of its own; a query that nobody can answer is one, too."""
    row, reply = scene.row, scene.reply
    if row is CALLBACK or row is CLAIM:
        return _callback(scene)
    if not scene.operation.row.sure and not reply.like_kling:
        return []
    if row.product == "account":
        return [_account(scene)]
    if reply.verdict != "ok":
        return [_problem(scene)]
    if row.reply == "any":
        return [_list_read(scene, None)]
    tasks = read_tasks(reply.data)
    if row.reply == "task" and not tasks:
        unread = Reply("unclear", None, scene.exchange.status, reply.request_id, problem="reply_without_task")
        return [_problem(_with(scene, unread))]
    listing = row.reply == "page" or (row.reply == "tasks" and row.generation == "legacy")
    outcomes: list[Outcome] = []
    for task in tasks:
        known = scene.background.known(task.id)
        if listing and known is None and not task.final:
            correlation = correlation_of(task.id, task.external_id, scene.background, None)
            if scene.background.unresolved(correlation) is None:
                continue  # someone else's running task: its own watchers write about it
        outcomes += task_outcomes(task, scene, known)
    if listing or not outcomes:
        outcomes.append(_list_read(scene, tasks))
    return outcomes


def _with(scene: Scene, reply: Reply) -> Scene:
    return Scene(scene.operation, scene.exchange, scene.intent, scene.background, reply)


def _list_read(scene: Scene, tasks: list[TaskRecord] | None) -> Outcome:
    """A list or an unknown read: an entry when its content differs from the last time the same was asked."""
    facts = answer_facts(scene.exchange, scene.reply, scene.intent, kind="read")
    if tasks is None:
        shown = _content(scene.exchange.body or b"")
    else:
        facts["tasks"] = len(tasks)
        shown = "\n".join(sorted(f"{task.id}={task.status}" for task in tasks)).encode()
    thing, correlation = _query(scene)
    draft = scene.intent.replace(
        event_id=None, timestamp=None, correlation_id=correlation, request_id=scene.reply.request_id, metadata=facts
    )
    return Outcome(draft=draft, sight=Sight(thing=thing, correlation_id=correlation, state=_digest(shown)))


def _problem(scene: Scene) -> Outcome:
    """A read that brought nothing; equal ones in a row are one entry."""
    event_type, outcome = refusal_of(scene.reply, EventType.RESOURCE_READ)
    no_answer = scene.exchange.status is None and scene.exchange.sent
    thing, correlation = _query(scene)
    draft = scene.intent.replace(
        event_type=event_type,
        outcome="unknown" if no_answer else outcome,
        event_id=None,
        timestamp=None,
        correlation_id=correlation,
        request_id=scene.reply.request_id,
        metadata=answer_facts(scene.exchange, scene.reply, scene.intent, kind="read"),
    )
    return Outcome(draft=draft, sight=Sight(thing=thing, correlation_id=correlation, problem=scene.reply.key))


def _account(scene: Scene) -> Outcome:
    """A look at quota, balance or deductions: each is an entry, since who looked when is the point."""
    reply = inner_reply(scene.reply)
    event_type: str = EventType.QUOTA_CHECKED
    outcome = "success"
    if reply.verdict != "ok":
        event_type, outcome = refusal_of(reply, event_type)
        outcome = "unknown" if scene.exchange.status is None and scene.exchange.sent else outcome
    facts = answer_facts(scene.exchange, reply, scene.intent, kind="read")
    if reply.verdict == "ok":
        facts |= pack_facts(reply.data) if scene.row.reply == "packs" else ledger_facts(reply.data)
    return Outcome(
        draft=scene.intent.replace(
            event_type=event_type,
            outcome=outcome,
            event_id=None,
            timestamp=None,
            request_id=reply.request_id,
            metadata=facts,
        )
    )


def _callback(scene: Scene) -> list[Outcome]:
    """What came by itself. A claim tells what somebody said of a task, and changes nothing that is known of it."""
    task = read_callback(scene.exchange.body)
    held = scene.intent.metadata
    said = {name: held[name] for name in ("signature", "delivery") if name in held}
    if task is None:
        return [_unreadable(scene, said)]
    known = scene.background.known(task.id)
    if scene.row is CALLBACK:
        told = task_outcomes(task, _with(scene, Reply("ok", 0)), known)
        return [_adding(outcome, {**said, "via": "callback"}) for outcome in told]
    correlation = correlation_of(task.id, task.external_id, scene.background, known)
    product = known.note.get("product") if known else None
    draft = scene.intent.replace(
        event_type=EventType.TASK_STATUS_CHANGED, resource_type=product or "task", resource_id=task.id, event_id=None,
        timestamp=None, outcome="unknown", correlation_id=correlation,
        metadata={**said, "via": "callback", "claim": True, "status": task.status},
    )  # fmt: skip
    sight = Sight(thing=f"claim:{task.id}", correlation_id=correlation, state=task.status)
    return [Outcome(draft=draft, sight=sight)]


def _unreadable(scene: Scene, said: dict[str, Any]) -> Outcome:
    draft = scene.intent.replace(
        event_type=EventType.TASK_STATUS_CHANGED, event_id=None, timestamp=None, outcome="unknown",
        metadata={**said, "via": "callback", "problem": "callback_not_read", "bytes": len(scene.exchange.body or b"")},
    )  # fmt: skip
    sight = Sight(thing="claim:", correlation_id=scene.intent.correlation_id or "", problem="callback_not_read")
    return Outcome(draft=draft, sight=sight)


def _adding(outcome: Outcome, facts: dict[str, Any]) -> Outcome:
    draft = outcome.draft.with_metadata(**facts)
    return Outcome(
        draft=draft, once=outcome.once, sight=outcome.sight,
        unresolved=outcome.unresolved,
    )  # fmt: skip


def _query(scene: Scene) -> tuple[str, str]:
    """What a read is about, for telling news from repetition, and what joins its entry to others."""
    thing = scene.operation.thing
    if thing is not None:
        known = scene.background.known(thing)
        external = thing if is_event_id(thing) else None
        return thing, correlation_of(thing, external, scene.background, known)
    asked = f"{scene.operation.name}\n{scene.exchange.request.url}\n".encode("utf-8", "surrogatepass")
    return f"query:{_digest(asked + (scene.exchange.request.body or b''))}", scene.intent.correlation_id or ""


def _content(body: bytes) -> bytes:
    """A reply without the id that is new with every request, so that equal content is equal."""
    envelope = _decode(body)
    if not isinstance(envelope, dict) or "request_id" not in envelope:
        return body
    del envelope["request_id"]
    return msgspec.json.encode(envelope)


def _decode(body: bytes | None) -> Any:
    try:
        return msgspec.json.decode(body or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
