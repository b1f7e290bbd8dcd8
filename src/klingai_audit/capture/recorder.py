"""Intent, request, outcome: the recorder makes an act and its record inseparable.

For one act::

    attempt = recorder.begin(facts)        # the intent is durable on return, or AuditUnavailable
    ...                                    # the request
    attempt.finished(attempt.reply(...))   # or attempt.failed(exc); the outcome is on its way to the disk

An attempt ends exactly once; what comes later is ignored. Reads leave no intent, and an entry only when they
show something new. No ending raises for what the log does wrong, nor waits for the disk: see `capture.desk`. `abegin`
is the twin of `begin` for coroutines.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from dataclasses import replace
from typing import Final

from klingai_audit.capture.attempt import Attempt, Mark, covering_attempt
from klingai_audit.capture.desk import Desk, Item
from klingai_audit.capture.facts import (
    Exchange,
    Operation,
    Outcome,
    PendingReceipt,
    Provider,
    RequestFacts,
    Shelf,
    Sink,
    utc_now,
)
from klingai_audit.capture.memory import Memory
from klingai_audit.errors import AuditUnavailable, KlingAuditError, UsageError
from klingai_audit.event.context import Actor, acting
from klingai_audit.event.record import Draft, EncodedEvent, new_event_id
from klingai_audit.privacy import secrets

__all__ = ["HOP_SECONDS", "Attempt", "Mark", "Recorder"]

HOP_SECONDS: Final = 60.0
"""How long a redirect may wait to be followed before its act is written as ended there."""

ORDER_SECONDS: Final = 0.5
"""How long the first look at an unknown thing waits for an order under way that may tell whose it is."""

_LOOK_SECONDS: Final = 0.005

MAX_KEPT_BODY: Final = 64 * 1024
"""Request bodies up to this many bytes stay with the attempt until it ends; longer ones only until the intent."""

SECONDS_PER_HOUR: Final = 3600


class Recorder:
    """Turns requests and their ends into entries of one log. Thread-safe; one per log and process.

    It has itself as `recorder`, so that whatever takes an `AuditLog` for capture takes a recorder too.
    """

    def __init__(self, sink: Sink, provider: Provider, shelf: Shelf | None = None) -> None:
        self.sink = sink
        self.provider = provider
        self.memory = Memory(sink.origin, shelf)
        self.desk = Desk(sink)
        self._keys: dict[str, int] = {}
        self._open: dict[int, tuple[Attempt, float]] = {}
        self._lock = threading.Lock()
        _ALIVE.add(self)

    @property
    def recorder(self) -> Recorder:
        """The recorder itself."""
        return self

    @property
    def outstanding(self) -> int:
        """How many entries of acts that happened are not known to be in the log; 0 is the normal state."""
        return self.desk.outstanding

    def recognise(self, method: str, url: str) -> Operation | None:
        """Name the operation, or None for a request that is none of ours and passes untouched."""
        return self.provider.classify(method, url, self.memory)

    def begin(
        self, request: RequestFacts, operation: Operation | None = None, mark: Mark | None = None
    ) -> Attempt | None:
        """Open an attempt; the intent is durable on return. None: not ours, send it unrecorded.

        Raises: AuditUnavailable: it cannot be recorded and policy refuses the act, or policy asks for witnesses and
        they have not seen it; nothing may be sent.
        UsageError: the caller's context contradicts the act (`ActorConflict`), nothing may be sent.
        """
        attempt = self._prepare(request, operation, mark)
        if attempt is None or attempt.joined:
            return attempt
        self._write_open(older_than=HOP_SECONDS)
        try:
            self.desk.prepare(attempt.operation.failure_class)
        except AuditUnavailable as exc:
            raise _not_sent(attempt, exc) from exc
        self.desk.catch_up()
        self._check_nothing_is_late(attempt)
        if attempt.operation.kind == "read":
            deadline = time.monotonic() + ORDER_SECONDS
            while self._is_early(attempt) and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            return attempt
        item = self._intent_item(attempt)
        try:
            receipt = self.desk.announce(item)
        except Exception as exc:  # noqa: BLE001  whatever the log does wrong, policy decides about the act
            self._not_recorded(attempt, item, exc)
            return attempt
        except BaseException as exc:
            self._break_off(attempt, exc)
            raise
        try:
            if receipt is not None and self._needs_witnesses(attempt):
                receipt.wait("witnessed")
        except BaseException as exc:
            self._break_off(attempt, exc)
            raise
        return attempt

    async def abegin(
        self, request: RequestFacts, operation: Operation | None = None, mark: Mark | None = None
    ) -> Attempt | None:
        """Do the same as `begin` without blocking the loop."""
        attempt = self._prepare(request, operation, mark)
        if attempt is None or attempt.joined:
            return attempt
        self._write_open(older_than=HOP_SECONDS)
        try:
            await self.desk.aprepare(attempt.operation.failure_class)
        except AuditUnavailable as exc:
            raise _not_sent(attempt, exc) from exc
        await self.desk.acatch_up()
        self._check_nothing_is_late(attempt)
        if attempt.operation.kind == "read":
            deadline = time.monotonic() + ORDER_SECONDS
            while self._is_early(attempt) and time.monotonic() < deadline:  # noqa: ASYNC110  no process sets an event
                await asyncio.sleep(_LOOK_SECONDS)
            return attempt
        item = self._intent_item(attempt)
        try:
            receipt = await self.desk.aannounce(item)
        except Exception as exc:  # noqa: BLE001  see `begin`
            self._not_recorded(attempt, item, exc)
            return attempt
        except BaseException as exc:
            self._break_off(attempt, exc)
            raise
        try:
            if receipt is not None and self._needs_witnesses(attempt):
                await receipt.reached("witnessed")
        except BaseException as exc:
            self._break_off(attempt, exc)
            raise
        return attempt

    def announce(self, event: EncodedEvent, cls: str) -> PendingReceipt | None:
        """Write an admitted event before an act of a class of the failure policy that is no request; durable on return.

        None if it waits in the spool. Raises: AuditUnavailable; then the act may not happen.
        """
        self.desk.prepare(cls)
        return self.desk.announce(Item(event, None, kind=cls))

    def close(self) -> None:
        """Write what is still open as ended unknown, and what is late.

        Raises: AuditUnavailable: entries of acts that happened could not be written and are lost with this process.
        """
        self._write_open(older_than=None)
        self.desk.settle()
        self.desk.catch_up()
        self.memory.close()
        if self.outstanding:
            raise AuditUnavailable(
                f"Entries of acts that happened and could not be written: {self.outstanding}.",
                do="Their intents, if written, stand in the log without an outcome: klingai-audit verify names them.",
            ) from self.desk.cause

    def after_fork(self) -> None:
        """In a forked child: its acts are its own, and so is its use of keys."""
        self._lock = threading.Lock()
        self._open.clear()
        self._keys.clear()
        self.memory.after_fork()
        self.desk.after_fork()

    def leave_open(self, attempt: Attempt) -> None:
        """Keep an attempt so that it is written as ended if nothing more is heard of it."""
        with self._lock:
            self._open[id(attempt)] = (attempt, time.monotonic())

    def close_open(self, attempt: Attempt) -> None:
        """Forget an attempt that ended by itself."""
        with self._lock:
            self._open.pop(id(attempt), None)

    def judge(self, attempt: Attempt, exchange: Exchange, token: Actor | None) -> list[Item]:
        """Turn the end of an attempt into entries: the credential's use, if it is due, then what happened."""
        operation, intent = attempt.operation, attempt.intent
        try:
            outcomes = self.provider.outcome(operation, exchange, intent, self.memory)
            key = None if self._key_is_told(exchange) else self.provider.key_used(operation, exchange, intent)
        except Exception as exc:  # noqa: BLE001  an interpreter that fails must not make an act silent
            outcomes, key = [Outcome(draft=_unreadable(intent, exchange, exc))], None
        items = []
        for outcome in outcomes:
            if outcome.unresolved is not None:
                self.memory.leave_unresolved(intent.correlation_id or "", outcome.unresolved)
            item = self._news(outcome, operation, exchange, token)
            if item is not None:
                items.append(item)
        if key is not None and self._key_is_due(key, exchange):
            told = items[0].entry if items else None
            if isinstance(told, Draft):
                key = key.replace(correlation_id=told.correlation_id)
            items.insert(0, _item(_ended(key, exchange), operation, exchange.request, token))
        return items

    def _prepare(self, request: RequestFacts, operation: Operation | None, mark: Mark | None) -> Attempt | None:
        mark = mark or Mark()
        operation = operation or mark.operation or self.recognise(request.method, request.url)
        if operation is None:
            return None
        request = self._identified(request)
        event_id, mark.event_id = mark.event_id or new_event_id(), None  # a request sent again is another intent
        intent = self.provider.intent(operation, request, event_id, mark.extra)
        known = None if operation.thing is None else self.memory.known(operation.thing)
        correlation_id = mark.correlation_id or (known.correlation_id if known else None) or intent.correlation_id
        intent = intent.replace(event_id=event_id, timestamp=request.started, correlation_id=correlation_id or event_id)
        if request.body_bytes > MAX_KEPT_BODY:
            request = replace(request, body=None)
        attempt = Attempt(self, operation, request, intent)
        outer = covering_attempt()
        if outer is not None and outer.adopt(self.sink, operation):
            return attempt.inside(outer)
        return attempt

    def _is_early(self, attempt: Attempt) -> bool:
        """Whether a look at a thing comes before the log knows whose it is."""
        thing = attempt.operation.thing
        return thing is not None and self.memory.awaits(thing)

    def _identified(self, request: RequestFacts) -> RequestFacts:
        """Replace the credential by its fingerprint."""
        if request.authorization is None or request.credential is not None:
            return replace(request, authorization="") if request.authorization else request
        found = self.provider.credential(request.authorization)
        if found is None:
            return replace(request, authorization="")
        secrets.learn(found.secret)
        facts = {"kind": found.kind, "fingerprint": self.sink.fingerprint(found.secret)}
        return replace(request, authorization="", credential=facts)

    def _check_nothing_is_late(self, attempt: Attempt) -> None:
        """Refuse the act while earlier ones are not recorded."""
        late = self.desk.waits_before(attempt.operation.failure_class)
        if late:
            raise AuditUnavailable(
                f"{attempt.operation.name} was not sent. Entries of earlier acts not yet written: {late}.",
                do="Make the log writable again; they are written before the next act. See docs/when-it-fails.md.",
            ) from self.desk.cause

    def _refuses(self, attempt: Attempt) -> bool:
        return bool(self.sink.policy.failure.for_class(attempt.operation.failure_class) != "warn")

    def _not_recorded(self, attempt: Attempt, item: Item, exc: Exception) -> None:
        if isinstance(exc, UsageError | Warning):  # the caller's to solve, or what the caller made an error of
            attempt.abandon()
            raise exc
        if self._refuses(attempt):
            attempt.abandon()
            do = exc.do if isinstance(exc, KlingAuditError) else ""
            raise AuditUnavailable(
                f"{attempt.operation.name} was not sent, because its intent could not be recorded.",
                do=do or "Make the log writable again and repeat the call. See docs/when-it-fails.md.",
            ) from exc
        self.desk.missed(item, exc)

    def _needs_witnesses(self, attempt: Attempt) -> bool:
        return attempt.operation.failure_class in self.sink.policy.witness.require

    def _break_off(self, attempt: Attempt, exc: BaseException) -> None:
        """End an act that was announced and is not sent, without waiting for the disk. Raises: AuditUnavailable."""
        self.desk.post(attempt.conclude(Exchange(request=attempt.request, error=type(exc).__name__, sent=False)))
        if isinstance(exc, AuditUnavailable):
            raise _not_sent(attempt, exc) from exc

    def _intent_item(self, attempt: Attempt) -> Item:
        return _item(attempt.intent, attempt.operation, attempt.request, acting.capture())

    def _news(self, outcome: Outcome, operation: Operation, exchange: Exchange, token: Actor | None) -> Item | None:
        draft, sight = outcome.draft, outcome.sight
        if sight is None:
            told = self.memory.take_polls(operation.thing) if operation.thing else {}
            draft = _ended(draft.with_metadata(**told), exchange)
            return _item(draft, operation, exchange.request, token, once=outcome.once)
        news = self.memory.observe(
            sight, token, exchange.finished, poll=operation.kind == "read",
            all_reads=self.sink.policy.privacy.record_reads == "all",
        )  # fmt: skip
        if not news.fresh:
            return None
        draft = draft.replace(correlation_id=news.correlation_id).with_metadata(**news.polls)
        return _item(_ended(draft, exchange), operation, exchange.request, news.token, once=outcome.once)

    def _key_is_told(self, exchange: Exchange) -> bool:
        """Whether the use of the credential in this hour is written already, so that nobody need read the answer."""
        name = (exchange.request.credential or {}).get("fingerprint")
        return name is not None and self._keys.get(name) == int(exchange.finished.timestamp()) // SECONDS_PER_HOUR

    def _key_is_due(self, draft: Draft, exchange: Exchange) -> bool:
        """Once per credential, process and hour."""
        name = str((exchange.request.credential or {}).get("fingerprint", draft.resource_id))
        hour = int(exchange.finished.timestamp()) // SECONDS_PER_HOUR
        with self._lock:
            if self._keys.get(name) == hour:
                return False
            self._keys[name] = hour
            return True

    def _write_open(self, *, older_than: float | None) -> None:
        if not self._open:
            return
        now = time.monotonic()
        with self._lock:
            due = [attempt for attempt, since in self._open.values() if older_than is None or now - since > older_than]
        for attempt in due:
            if older_than is None or attempt.waits_for_hop:
                error = "RedirectNotFollowed" if attempt.waits_for_hop else "NeverEnded"
                exchange = Exchange(request=attempt.request, error=error, hops=attempt.hops, finished=utc_now())
                self.desk.post(attempt.conclude(exchange))


_ALIVE: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_ALIVE):
        recorder.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _not_sent(attempt: Attempt, cause: AuditUnavailable) -> AuditUnavailable:
    return AuditUnavailable(f"{attempt.operation.name} was not sent. {cause.message}", do=cause.do)


def _ended(draft: Draft, exchange: Exchange) -> Draft:
    """The draft with an id, so that writing it late or again writes the same entry, and the time of the end."""
    return draft.replace(event_id=draft.event_id or new_event_id(), timestamp=draft.timestamp or exchange.finished)


def _item(
    draft: Draft, operation: Operation, request: RequestFacts, token: Actor | None, *, once: bool = False
) -> Item:
    """The entry in the name of who acts; the request's own user agent unless the actor has a better one."""
    agent = request.headers.get("user-agent")
    if agent and not draft.user_agent and (token is None or token.user_agent is None):
        draft = draft.replace(user_agent=agent)
    return Item(draft, token, once, operation.failure_class)


def _unreadable(intent: Draft, exchange: Exchange, exc: Exception) -> Draft:
    """What is written when the provider's interpreter itself fails: the act, its end unknown."""
    return Draft(
        event_type="task_submitted",
        resource_type=intent.resource_type,
        action=intent.action,
        outcome="unknown",
        correlation_id=intent.correlation_id,
        metadata={"intent": intent.event_id, "error": type(exc).__name__, "http_status": exchange.status},
    )
