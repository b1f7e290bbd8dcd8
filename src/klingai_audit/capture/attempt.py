"""One act from intent to outcome: a small state machine that ends exactly once.

Capture adapters hold an `Attempt`; what its end means is the recorder's business.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from klingai_audit.capture.desk import Desk, Item
from klingai_audit.capture.facts import Exchange, Media, Operation, RequestFacts, Sink
from klingai_audit.event.context import Actor, acting
from klingai_audit.event.record import Draft

__all__ = ["Attempt", "Keeper", "Mark", "covering_attempt", "was_sent"]

NOT_SENT: Final = frozenset(
    {
        "AuditUnavailable", "ConnectError", "ConnectTimeout", "ConnectTimeoutError", "NewConnectionError",
        "PoolTimeout", "ProxyError", "SSLCertVerificationError", "UnsupportedProtocol",
    }
)  # fmt: skip
"""Names of exceptions (of httpx, urllib3 and their kin) after which no byte of the request can have left."""

MAX_CAUSES: Final = 8
_URLLIB3: Final = frozenset({"requests", "urllib3"})
_NO_TUNNEL: Final = "Tunnel connection failed"
"""How http.client begins to say that a proxy has refused; it has no class for it."""


def was_sent(exc: BaseException, also: frozenset[str] = frozenset()) -> bool:
    """Whether bytes of the request may have left before `exc`; True where that is not certain.

    Errors of urllib3 hold the reasons in their arguments. `also`: more names of errors that come before the first byte.
    """
    waiting: list[BaseException] = [exc]
    for _ in range(MAX_CAUSES):
        if not waiting:
            break
        cause = waiting.pop(0)
        if any(_is_early(cls, also) for cls in type(cause).__mro__):
            return False
        inner = [*cause.args, getattr(cause, "reason", None)]
        if type(cause) is OSError and str(cause).startswith(_NO_TUNNEL):
            return False
        waiting += [one for one in inner if isinstance(one, BaseException)]
    return True


def _is_early(cls: type, also: frozenset[str]) -> bool:
    """Whether errors of a class come before the first byte.

    urllib3 calls a reply that is lost behind a proxy a ProxyError, too: it looks at the connection after closing it.
    """
    if cls.__name__ == "ProxyError" and cls.__module__.partition(".")[0] in _URLLIB3:
        return False
    return cls.__name__ in NOT_SENT or cls.__name__ in also


@dataclass(slots=True)
class Mark:
    """What a caller knows about its request beforehand; travels with it, over redirects too.

    `event_id` becomes the intent's, `correlation_id` joins several sendings of one act (both are made here
    if None), `extra` goes into the intent's metadata, `operation` overrides the catalogue.
    """

    event_id: str | None = None
    correlation_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    operation: Operation | None = None
    attempts: dict[int, Attempt] = field(default_factory=dict, repr=False)


class Keeper(Protocol):
    """What an attempt asks of the recorder that made it."""

    sink: Sink
    desk: Desk

    def judge(self, attempt: Attempt, exchange: Exchange, token: Actor | None) -> list[Item]:
        """Turn the end of an attempt into entries."""
        ...

    def leave_open(self, attempt: Attempt) -> None:
        """Keep an attempt so that it is written as ended if nothing more is heard of it."""
        ...

    def close_open(self, attempt: Attempt) -> None:
        """Forget an attempt that ended by itself."""
        ...


class Attempt:
    """One act from intent to outcome. Made by `Recorder.begin` only; safe to end from any thread.

    `declared` and `retell` are for acts that are known by a method's name and words instead of an exchange:
    `retell` changes the entries of an end that no inner capture has seen.
    """

    def __init__(self, recorder: Keeper, operation: Operation, request: RequestFacts, intent: Draft) -> None:
        self.operation = operation
        self.request = request
        self.intent = intent
        self.hops = 0
        self.waits_for_hop = False
        self._recorder = recorder
        self._token = acting.capture()
        self._outer: Attempt | None = None
        self.declared = False
        self.retell: Callable[[Draft], Draft] | None = None
        self._claimed = False
        self._ended = False
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether the outcome has been taken down."""
        return self._ended

    def reply(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        media: Media | None = None,
        error: str | None = None,
        truncated: bool = False,
    ) -> Exchange:
        """Put the facts of an answer together; `error` names what broke it off."""
        return Exchange(
            request=self.request, status=status, headers=headers, body=body, media=media, error=error, hops=self.hops,
            truncated=truncated,
        )  # fmt: skip

    def finished(self, exchange: Exchange | None, *, durably: bool = False) -> None:
        """Record how the act ended; None: it has not ended.

        The entries stand in the queue on return, before those of any later act of this process; the caller does not
        wait for the disk unless `durably`. What cannot be written is told as soon as that is known (`capture.desk`).
        """
        items = self.conclude(exchange)
        if durably:
            self._recorder.desk.write(items)
        else:
            self._recorder.desk.hand_over(items)

    def failed(self, exc: BaseException, *, sent: bool | None = None) -> None:
        """Record that the act ended with `exc` and no answer."""
        self.finished(self.failure(exc, sent=sent))

    def left_open(self) -> None:
        """The answer is being read by the caller; an act with an intent must not vanish if that never ends."""
        if self.operation.kind != "read" or self.joined:
            self._recorder.leave_open(self)

    def await_hop(self) -> None:
        """The answer was a redirect that may still be followed: the act is open until the next hop ends."""
        self.waits_for_hop = True
        self._recorder.leave_open(self)

    def next_hop(self) -> None:
        """A redirect is being followed."""
        self.waits_for_hop = False
        self.hops += 1

    @contextlib.contextmanager
    def covering(self) -> Iterator[None]:
        """While the block runs, an inner capture of the same act in this context adds its facts to this attempt."""
        token = _covering.set(self)
        try:
            yield
        finally:
            _covering.reset(token)

    def adopt(self, sink: Sink, operation: Operation) -> bool:
        """Whether an inner attempt at `operation` is this act (once); its end is then this one's.

        A `declared` act was named by a person, who may have meant another operation of the same kind.
        """
        with self._lock:
            same = operation.name == self.operation.name or (self.declared and operation.kind == self.operation.kind)
            if not same or sink is not self._recorder.sink or self._ended or self._claimed:
                return False
            self._claimed = True
            return True

    def inside(self, outer: Attempt) -> Attempt:
        """Make this the inner view of `outer`: when it ends, `outer` ends with its exchange."""
        self._outer = outer
        return self

    @property
    def joined(self) -> bool:
        """Whether this is the inner view of another attempt."""
        return self._outer is not None

    def conclude(self, exchange: Exchange | None) -> list[Item]:
        """End the attempt and return what is to be written; nothing if it has ended already, or has not yet."""
        if exchange is None:
            return []
        with self._lock:
            if self._ended:
                return []
            self._ended = True
        self._recorder.close_open(self)
        if self._outer is not None:
            return self._outer.conclude(exchange)
        items = self._recorder.judge(self, exchange, self._token)
        if self.retell is None or exchange.request is not self.request:
            return items
        return [replace(item, entry=self.retell(item.entry)) for item in items if isinstance(item.entry, Draft)]

    def abandon(self) -> None:
        """End the attempt without a word: nothing was sent and the caller is told so."""
        self._ended = True

    def failure(self, exc: BaseException, *, sent: bool | None = None) -> Exchange:
        """Put the facts of an act without an answer together; `sent` None: told by the class of `exc`."""
        left = was_sent(exc) if sent is None else sent
        return Exchange(request=self.request, error=type(exc).__name__, sent=left or self.hops > 0, hops=self.hops)


_covering: Final[contextvars.ContextVar[Attempt | None]] = contextvars.ContextVar(
    "klingai_audit_covering", default=None
)


def covering_attempt() -> Attempt | None:
    """The attempt whose `covering` block this context is in."""
    return _covering.get()
