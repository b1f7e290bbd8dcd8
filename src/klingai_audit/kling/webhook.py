"""Callbacks of Kling: who sent them, and what they may be believed.

A callback with a valid signature (Standard Webhooks: HMAC-SHA-256 over `id.timestamp.body`) is a poll that Kling
makes. Any other is a claim: it leaves an entry that says so, and the end of a task is believed only when a client
has asked Kling itself. Source: fact sheet section 5 (vendor documentation 2026-09-20).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import math
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from klingai_audit.capture.attempt import Mark
from klingai_audit.capture.desk import Item
from klingai_audit.capture.facts import Exchange, Operation, RequestFacts
from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import UsageError
from klingai_audit.event.context import Actor, acting, current
from klingai_audit.event.record import Draft, new_event_id
from klingai_audit.event.types import EventType
from klingai_audit.kling.catalogue import Match, Row
from klingai_audit.kling.endpoints import CALLBACK, CLAIM
from klingai_audit.kling.errors import KlingError
from klingai_audit.kling.reply import FINAL, TaskRecord, read_callback
from klingai_audit.privacy import secrets

__all__ = ["Callback", "Signed", "check_signature", "decode_secret", "receive"]

WINDOW_SECONDS: Final = 300
"""How far a callback's time may be from ours, both ways."""

BAD_SECONDS: Final = 600
BAD_LIMIT: Final = 3
"""So many bad signatures in so many seconds are suspicious; further ones are only counted, told at each tenfold."""

MAX_SEEN: Final = 10_000
MAX_BODY_BYTES: Final = 8 * 1024 * 1024

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  what every secret begins with
_SENDER: Final = Actor(actor_id="callback-sender", actor_type="service")
_TIME: Final = re.compile(r"[0-9]{1,12}").fullmatch

Signed = Literal["verified", "expired", "invalid", "missing", "not_checked"]
"""What a signature is worth: right; right but too old or from the future; wrong; not there; nobody has a secret."""

_Verdict = Literal["verified", "confirmed", "claim", "repeated", "rejected"]


@dataclass(frozen=True, slots=True)
class Callback:
    """What became of one callback.

    `verdict`: `verified` (signed by Kling), `confirmed` (Kling said the same when asked), `claim` (recorded as what
    somebody says), `repeated` (this delivery was handled before, here or by another process of this log), `rejected`
    (bad signature, or no task in it). `http_status` is what to answer with. `task_id` and `status` are what it speaks
    of.
    """

    verdict: _Verdict
    signature: Signed
    http_status: int
    task_id: str | None = None
    status: str | None = None


class _Asks(Protocol):
    """What is asked of a client: `KlingAI` does it."""

    def task(self, task_id: str, *, legacy: bool | None = None, product: str | None = None) -> Any:
        """Read a task."""
        ...


def check_signature(
    headers: Mapping[str, str], body: bytes, keys: Iterable[bytes], *, now: float | None = None
) -> Signed:
    """Check a Standard Webhooks signature; header names in lower case. During a rotation any of several may match.

    `keys` are decoded secrets (`decode_secret`); `now` is in seconds since 1970 UTC.
    """
    given = [headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")]
    if not any(given):
        return "missing"
    name, moment, signatures = given
    if not name or _TIME(moment) is None:
        return "invalid"
    signed = b".".join((name.encode("utf-8", "surrogatepass"), moment.encode(), body))
    wanted = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    given = [text[3:] for text in signatures.split(" ")[:16] if text.startswith("v1,")]
    found = [text.encode("utf-8", "surrogatepass") for text in given]
    if not any(hmac.compare_digest(one, other) for one in wanted for other in found):
        return "invalid"
    return "verified" if abs((time.time() if now is None else now) - int(moment)) <= WINDOW_SECONDS else "expired"


def decode_secret(secret: str) -> bytes:
    """The key in a webhook secret: base64 after `whsec_`. Raises: UsageError, without the secret."""
    try:
        text = secret.removeprefix(_SECRET_PREFIX).rstrip("=")
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError, AttributeError):
        key = b""
    if not key:
        raise UsageError("A webhook secret is base64 after whsec_.", do="Copy it from the console again.")
    secrets.learn(secret)
    return key


def receive(
    recorder: Recorder,
    headers: Any,
    body: bytes,
    *,
    secret: str | Sequence[str] | None = None,
    client: _Asks | None = None,
    now: float | None = None,
) -> Callback:
    """Record one callback. See `AuditLog.webhook`. Raises: UsageError."""
    if not isinstance(body, bytes):
        raise UsageError("The body of a callback is its raw bytes.", do="Pass it before anything parses it.")
    lower = {
        str(name).lower(): str(value) for name, value in (headers.items() if hasattr(headers, "items") else headers)
    }
    moment = time.time() if now is None else now
    signature: Signed = "not_checked"
    if secret is not None:
        keys = [decode_secret(item) for item in ([secret] if isinstance(secret, str) else secret)]
        signature = check_signature(lower, body, keys, now=moment)
    post = _POSTS.of(recorder)
    task = read_callback(body) if len(body) <= MAX_BODY_BYTES else None
    delivery = _delivery(lower.get("webhook-id", ""))
    if signature == "verified" and (post.seen(delivery) or recorder.memory.delivered(delivery)):
        return _told("repeated", signature, task)
    bad = post.bad(moment) if signature in ("invalid", "expired") else 0
    with acting.restore(current() or _SENDER):
        if bad <= BAD_LIMIT:
            if signature == "verified":
                _record(recorder, CALLBACK, {"signature": signature, "delivery": delivery}, body, task)
            else:  # its delivery id is anyone's
                _record(recorder, CLAIM, {"signature": signature}, body, None)
        if bad >= BAD_LIMIT and _is_tenfold(bad):
            _suspect(recorder, bad)
    if signature == "verified":
        post.keep(delivery)
        recorder.memory.keep_delivery(delivery, dt.datetime.fromtimestamp(moment, dt.UTC))
        return _told("verified" if task else "rejected", signature, task)
    if task is not None and client is not None and bad <= BAD_LIMIT and _confirmed(recorder, client, task):
        return _told("confirmed", signature, task)
    return _told("rejected" if bad or task is None else "claim", signature, task)


def _told(verdict: _Verdict, signature: Signed, task: TaskRecord | None) -> Callback:
    status = 200
    if verdict == "rejected":
        status = 400 if signature in ("verified", "not_checked", "missing") else 401
    if task is None:
        return Callback(verdict, signature, status)
    return Callback(verdict, signature, status, task.id, task.status)


def _delivery(name: str) -> str:
    """What stands for a `webhook-id` in entries and in the task table: 32 hex digits of its SHA-256."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _record(recorder: Recorder, row: Row, extra: Mapping[str, str], body: bytes, task: TaskRecord | None) -> None:
    """Tell it like a read: what it shows is an entry if it is news. That of a `task` may overtake its order's reply."""
    thing = None if task is None else task.id
    operation = Operation(name=row.action, kind=row.kind, row=Match(row, row.action), thing=thing)
    facts = RequestFacts(method="POST", url="")
    attempt = recorder.begin(facts, operation, Mark(extra=extra))
    if attempt is not None:
        attempt.finished(Exchange(request=attempt.request, body=body[:MAX_BODY_BYTES]), durably=True)


def _confirmed(recorder: Recorder, client: _Asks, task: TaskRecord) -> bool:
    """Whether Kling itself says the same; asking leaves the entries of the answer."""
    if task.status not in FINAL:
        return False
    known = recorder.memory.known(task.id)
    if known is not None and known.final:
        return known.state == task.status
    note = known.note if known is not None else {}
    product = note.get("action") if note.get("generation") == "legacy" else None
    try:
        found = client.task(task.id, product=product)
    except (KlingError, UsageError):
        return False
    if not isinstance(getattr(found, "status", None), str):
        raise UsageError("A callback is confirmed by a KlingAI, not by an AsyncKlingAI.", do="Pass client=KlingAI(…).")
    return bool(found.status == task.status)


def _is_tenfold(count: int) -> bool:
    return math.isclose(math.log10(count / BAD_LIMIT) % 1, 0, abs_tol=1e-9)


def _suspect(recorder: Recorder, count: int) -> None:
    draft = Draft(
        event_type=EventType.SUSPICIOUS_ACTIVITY,
        event_id=new_event_id(),
        resource_type="webhook",
        action="callback",
        outcome="blocked",
        metadata={"rule": "bad_callback_signatures", "count": count, "window_s": BAD_SECONDS},
    )
    recorder.desk.write([Item(draft, acting.capture(), kind="log")])


class _Post:
    """What one process remembers of the callbacks of one log. Thread-safe."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._bad_since = -math.inf
        self._bad = 0
        self._lock = threading.Lock()

    def seen(self, delivery: str) -> bool:
        """Whether this delivery was handled before."""
        with self._lock:
            return delivery in self._seen

    def keep(self, delivery: str) -> None:
        """Remember that this delivery was handled."""
        with self._lock:
            self._seen[delivery] = None
            while len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)

    def bad(self, now: float) -> int:
        """Count a bad signature; returns how many there were lately."""
        with self._lock:
            if not 0 <= now - self._bad_since <= BAD_SECONDS:
                self._bad_since, self._bad = now, 0
            self._bad += 1
            return self._bad


class _Posts:
    """What is remembered for each recorder; a forked child begins anew."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._of: weakref.WeakKeyDictionary[Recorder, _Post] = weakref.WeakKeyDictionary()

    def of(self, recorder: Recorder) -> _Post:
        with self._lock:
            return self._of.setdefault(recorder, _Post())


_POSTS: Final = _Posts()
os.register_at_fork(after_in_child=_POSTS.after_fork)
