"""The interpreter: what an HTTP exchange with Kling means, as entries. Pure; see `capture.facts.Provider`.

Every exchange gives at least one outcome (a read may then turn out to be no news, which the recorder counts).
docs/events.md lists catalogue row × outcome → event types; a test proves the table total.
"""

from __future__ import annotations

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
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType
from klingai_audit.kling import auth
from klingai_audit.kling.catalogue import DOWNLOAD, TASKS_BY_ID, Match, match
from klingai_audit.kling.endpoints import DELETE_FILE
from klingai_audit.kling.errors import code_info
from klingai_audit.kling.files import deletion, download
from klingai_audit.kling.intent import intent_draft
from klingai_audit.kling.reads import read_outcomes
from klingai_audit.kling.reply import Reply, clean_id, read_done, read_reply, read_task
from klingai_audit.kling.rows import MEDIA, RESOURCES
from klingai_audit.kling.story import (
    Scene,
    answer_facts,
    answer_of,
    correlation_of,
    end_outcome,
    ended_type,
    opening_note,
    refusal_of,
    started,
    task_outcomes,
)

__all__ = ["PROVIDER", "KlingProvider"]


class KlingProvider:
    """Implements `capture.facts.Provider` for Kling; holds nothing."""

    def classify(self, method: str, url: str, background: Background) -> Operation | None:
        linked = background.linked(url) if method.upper() == "GET" else None
        if linked is not None:
            row = Match(DOWNLOAD, DOWNLOAD.action)
            return Operation(
                name=row.action, kind="download", row=row, thing=linked[0], part=linked[1],
                variables=_medium(background.known(linked[0])),
            )  # fmt: skip
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
        scene = Scene(operation, exchange, intent, background, answer_of(exchange))
        match operation.kind:
            case "download":
                return [Outcome(draft=download(operation, exchange, intent))]
            case "read":
                return read_outcomes(scene)
            case "destructive":
                return [_deletion(scene)]
            case _:
                return _create(scene)

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


def _medium(known: Known | None) -> dict[str, str]:
    """The medium of a task's files, for links that do not tell by their name."""
    product = known.note.get("product") if known else None
    return {"product": product} if product in MEDIA else {}


def _addressed(found: Match, url: str) -> str | None:
    """The one task that a query asks for."""
    if found.row.reply == "task" and found.row.kind == "read":
        return clean_id(found.variables["id"])
    if found.row is TASKS_BY_ID:
        query = parse_qs(urlsplit(url).query)
        ids = ",".join(query.get("task_ids", []) + query.get("external_task_ids", [])).split(",")
        return clean_id(ids[0]) if len(ids) == 1 else None
    return None


def _create(scene: Scene) -> list[Outcome]:
    row, reply, intent = scene.row, scene.reply, scene.intent
    facts = answer_facts(scene.exchange, reply, intent, kind=row.kind)
    begun = started(scene.operation, intent, row.product, facts).replace(request_id=reply.request_id)
    note = opening_note(scene)
    external = intent.metadata.get("external_task_id")
    lost = {**note, "external_id": external} if isinstance(external, str) else note
    unknown = begun.replace(outcome="unknown")
    if reply.verdict == "refused":
        if _exists_already(reply, intent):
            return [Outcome(draft=unknown.with_metadata(duplicate=True), unresolved=lost)]
        event_type, outcome = refusal_of(reply, ended_type(row.product, well=False))
        return [Outcome(draft=begun.replace(event_type=event_type, outcome=outcome))]
    if reply.verdict == "unclear":
        return [Outcome(draft=unknown, unresolved=lost)]
    task = read_done(reply.data) if row.kind == "paid_sync" else read_task(reply.data)
    if task is None or (not task.id and not task.final):
        return [_without_task(begun, scene, lost)]
    correlation = intent.correlation_id or correlation_of(task.id, task.external_id, scene.background, None)
    if row.kind == "paid_sync" and task.final:
        facts["status"] = task.status
        return [end_outcome(task, scene, row.product or _resource(task.product), correlation, facts, note)]
    draft = begun.replace(resource_id=task.id).with_metadata(status=task.status)
    state = "submitted" if task.final else task.status
    sight = Sight(thing=task.id, correlation_id=correlation, state=state, opens=True, note=note, shared=True)
    begin = Outcome(draft=draft, sight=sight)
    if not task.final:
        return [begin]
    known = Known(correlation_id=correlation, state="submitted", final=False, problem=None, note=note)
    return [begin, *task_outcomes(task, scene, known)]


def _resource(product: str | None) -> str | None:
    """What a call without a product of its own made, if that belongs to the library."""
    return product if product in RESOURCES else None


def _without_task(begun: Draft, scene: Scene, note: dict[str, str]) -> Outcome:
    """A success that names no task: unclear where a task was ordered, the whole answer where not."""
    if scene.row.kind == "paid_sync":
        return Outcome(draft=begun.replace(event_type=ended_type(scene.row.product, well=True)))
    if scene.row.reply == "task":
        problem = begun.replace(outcome="unknown").with_metadata(problem="reply_without_task")
        return Outcome(draft=problem, unresolved=note)
    return Outcome(draft=begun)


def _exists_already(reply: Reply, intent: Draft) -> bool:
    """Whether a create that was sent again is refused because the first sending did take effect."""
    external = intent.metadata.get("external_task_id")
    if "resend_of" not in intent.metadata or not isinstance(external, str):
        return False
    return reply.code == 1201 and external in reply.message and "already exists" in reply.message


def _deletion(scene: Scene) -> Outcome:
    if scene.row is DELETE_FILE:
        return Outcome(draft=deletion(scene.operation, scene.exchange, scene.intent))
    reply, intent = scene.reply, scene.intent
    facts = answer_facts(scene.exchange, reply, intent, kind=scene.row.kind)
    event_type, outcome = intent.event_type, "success"
    if reply.verdict == "refused":
        event_type, outcome = refusal_of(reply, intent.event_type)
    elif reply.verdict == "unclear":
        outcome = "unknown"
    else:
        task = read_task(reply.data)
        facts |= {} if task is None else {"task_id": task.id, "status": task.status}
        outcome = "failure" if task is not None and task.status == "failed" else outcome
    return Outcome(
        draft=intent.replace(
            event_type=event_type,
            outcome=outcome,
            event_id=None,
            timestamp=None,
            request_id=reply.request_id,
            metadata=facts,
        )
    )
