"""Audited sessions of requests: every request that is the provider's becomes entries.

The transport adapter is the place where everything passes: redirect hops, proxies, mounts, streamed bodies. The
session is asked for its adapter each time, so that adapters mounted later are audited too, and the adapters
themselves stay as they are. Tries inside urllib3's `Retry` are seen as well: a try that may have left and is
repeated is an act of its own, with an intent of its own.
Not seen: what is answered from a cache in front of the adapter, and copies of a session (pickle, `copy`).
Source: requests 2.34 (`sessions`, `adapters`), urllib3 2.8 (`connectionpool.urlopen`).
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from klingai_audit.capture import watch as limits
from klingai_audit.capture.attempt import Attempt, Mark, was_sent
from klingai_audit.capture.facts import Operation, RequestFacts, utc_now
from klingai_audit.capture.recorder import Recorder
from klingai_audit.capture.replies import watch_reply
from klingai_audit.capture.trail import Trail

__all__ = ["AuditedAdapter", "attach_session", "audited_adapter", "on_one_trail"]

TRAIL: Final = "klingai_audit"
"""Name under which a prepared request's `hooks`, which redirected requests inherit, carry their trail."""

_NOT_SENT: Final = frozenset({"InvalidHeader", "InvalidURL"})
"""Names of further exceptions, of requests alone, after which no byte of the request can have left."""

_sendings: Final[contextvars.ContextVar[tuple[_Sending, ...]]] = contextvars.ContextVar(
    "klingai_audit_sendings", default=()
)


class AuditedAdapter:
    """Records what passes through `inner`, a transport adapter; everything else, settings too, is the inner one's."""

    inner: Any
    recorder: Recorder

    def __init__(self, inner: Any, recorder: Recorder) -> None:
        vars(self).update(inner=inner, recorder=recorder)

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """Send one prepared request; its intent is durable before the first byte leaves. Raises: AuditUnavailable."""
        trail: Trail | None = request.hooks.get(TRAIL)
        attempt = None if trail is None else trail.follow(self.recorder.sink)
        operation = attempt.operation if attempt else self.recorder.recognise(request.method, request.url)
        if operation is None:
            return self.inner.send(request, *args, **options)
        facts = _facts(request)
        attempt = attempt or self.recorder.begin(facts, operation)
        if attempt is None:
            return self.inner.send(request, *args, **options)
        _tell_retries(self.inner)
        sending = _Sending(self.recorder, operation, facts, attempt)
        token = _sendings.set((*_sendings.get(), sending))
        try:
            with attempt.covering():
                response = self.inner.send(request, *args, **options)
        except BaseException as exc:
            sending.attempt.failed(exc, sent=was_sent(exc, _NOT_SENT))
            raise
        finally:
            _sendings.reset(token)
        if getattr(response, "connection", None) is self.inner:
            response.connection = self  # challenges are answered through it
        self._watch(response, sending.attempt, trail)
        return response

    def _watch(self, response: Any, attempt: Attempt, trail: Trail | None) -> None:
        if attempt.ended:  # by an inner capture of the same act
            return
        watch = watch_reply(attempt, response)
        if trail is not None:
            trail.wait(self.recorder.sink, attempt, watch)

    def close(self) -> None:
        """Close the inner adapter."""
        self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


def audited_adapter(inner: Any, recorder: Recorder) -> AuditedAdapter:
    """Wrap an adapter, unless this recorder has done so."""
    if isinstance(inner, AuditedAdapter) and inner.recorder is recorder:
        return inner
    kind: Any = inner.__class__
    return _adapter_class(kind)(inner, recorder)


@functools.cache
def _adapter_class(kind: Any) -> type[AuditedAdapter]:
    """An audited adapter that passes for one of `kind` where somebody asks."""
    return type(kind.__name__, (AuditedAdapter,), {"__class__": property(lambda _: kind), "__doc__": kind.__doc__})


def attach_session(session: Any, recorder: Recorder) -> None:
    """Audit an existing `requests.Session` in place: every adapter, also those mounted later. Twice changes nothing."""
    attached = session.__dict__.setdefault("_klingai_audit", [])
    if any(sink is recorder.sink for sink in attached):
        return
    attached.append(recorder.sink)
    find, send = session.get_adapter, session.send

    @functools.wraps(find)
    def get_adapter(*args: Any, **kwargs: Any) -> AuditedAdapter:
        return audited_adapter(find(*args, **kwargs), recorder)

    @functools.wraps(send)
    def send_on_trail(request: Any, **kwargs: Any) -> Any:
        return on_one_trail(request, lambda: send(request, **kwargs))

    session.get_adapter, session.send = get_adapter, send_on_trail


def on_one_trail(request: Any, send: Callable[[], Any]) -> Any:
    """Run a session's `send`; the outermost of nested calls ends what its redirects left open."""
    hooks = getattr(request, "hooks", None)
    if not isinstance(hooks, dict) or TRAIL in hooks:
        return send()
    trail = hooks[TRAIL] = Trail()
    try:
        return send()
    finally:
        hooks.pop(TRAIL, None)
        trail.settle()


class _Sending:
    """One call of an adapter: the attempt that is under way, and the next one if urllib3 tries again."""

    def __init__(self, recorder: Recorder, operation: Operation, facts: RequestFacts, attempt: Attempt) -> None:
        self.attempt = attempt
        self._recorder = recorder
        self._operation = operation
        self._facts = facts
        self._first = attempt.intent
        self._tries = 1

    def again(self, response: Any, error: BaseException | None) -> None:
        """A try has failed and another one follows: the first ends, the second begins. Raises: AuditUnavailable."""
        if self.attempt.ended or (error is not None and not was_sent(error, _NOT_SENT)):
            return
        self.attempt.finished(self.attempt.failure(error, sent=True) if error is not None else self._answer(response))
        self._tries += 1
        mark = Mark(
            correlation_id=self._first.correlation_id,
            extra={"attempt": self._tries, "resend_of": self._first.event_id},
        )
        following = self._recorder.begin(replace(self._facts, started=utc_now()), self._operation, mark)
        if following is not None:
            self.attempt = following

    def _answer(self, response: Any) -> Any:
        """The facts of an answer that urllib3 is about to throw away."""
        try:
            body = response.read(limits.MAX_REPLY_BYTES, decode_content=True)
        except Exception:  # noqa: BLE001  urllib3 drains the connection next and meets the same error
            body = None
        return self.attempt.reply(response.status, dict(response.headers), body=body)


def _tell_retries(adapter: Any) -> None:
    """Let an adapter's `Retry`, if it retries at all, tell of each try; it keeps all its settings."""
    retries: Any = getattr(adapter, "max_retries", None)
    if isinstance(adapter, AuditedAdapter) or getattr(retries, "total", 0) in (0, False):
        return
    kind: Any = type(retries)
    told = _telling(kind)
    if kind is not told:
        adapter.max_retries = copy.copy(retries)
        adapter.max_retries.__class__ = told


@functools.cache
def _telling(cls: Any) -> Any:
    if "klingai_audit" in vars(cls):
        return cls

    class Telling(cls):  # type: ignore[misc]
        klingai_audit = True

        def increment(self, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(cls.increment).bind(self, *args, **kwargs).arguments
            following = super().increment(*args, **kwargs)
            for sending in reversed(_sendings.get()):
                sending.again(given.get("response"), given.get("error"))
            return following

    Telling.__name__, Telling.__qualname__ = cls.__name__, cls.__qualname__
    return Telling


def _facts(request: Any) -> RequestFacts:
    body, size = _read_body(request)
    headers = {_text(name): _text(value) for name, value in request.headers.items()}
    return RequestFacts(method=request.method, url=request.url, headers=headers, body=body, body_bytes=size)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _read_body(request: Any) -> tuple[bytes | None, int]:
    """The request's body, put back if it had to be read; None and what was seen of its length if it is too long."""
    body = request.body
    if body is None or isinstance(body, str | bytes | bytearray):
        whole = _bytes(body or b"")
        return whole, len(whole)
    if hasattr(body, "read"):
        return _read_file(request, body)
    chunks, size, iterator = _take(body)
    request.body = itertools.chain(chunks, iterator)
    return (None if size > limits.MAX_REQUEST_BYTES else b"".join(map(_bytes, chunks))), size


def _read_file(request: Any, file: Any) -> tuple[bytes | None, int]:
    try:
        position = file.tell()
        file.seek(position)
    except (AttributeError, OSError, ValueError):
        chunks, size, rest = _take(iter(functools.partial(file.read, limits.MAX_REPLY_BYTES), file.read(0)))
        request.body = _Reread(chunks, rest, file)
        return (None if size > limits.MAX_REQUEST_BYTES else b"".join(map(_bytes, chunks))), size
    data = _bytes(file.read(limits.MAX_REQUEST_BYTES + 1))
    file.seek(position)
    return (None if len(data) > limits.MAX_REQUEST_BYTES else data), len(data)


def _take(body: Iterable[Any]) -> tuple[list[Any], int, Iterator[Any]]:
    """Read chunks until the body ends or is too long; chunks, bytes, and what is left to read."""
    iterator, chunks, size = iter(body), [], 0
    for chunk in iterator:
        chunks.append(chunk)
        size += len(_bytes(chunk))
        if size > limits.MAX_REQUEST_BYTES:
            break
    return chunks, size, iterator


def _bytes(chunk: Any) -> bytes:
    return chunk.encode() if isinstance(chunk, str) else bytes(chunk)


class _Reread:
    """A file that cannot be rewound, as it was before it was read; its other attributes are the file's."""

    def __init__(self, chunks: list[Any], rest: Iterator[Any], file: Any) -> None:
        self._chunks = itertools.chain(chunks, rest)
        self._left: Any = file.read(0)
        self._file = file

    def read(self, size: int | None = -1) -> Any:
        wanted = float("inf") if size is None or size < 0 else size
        while len(self._left) < wanted:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._left += chunk
        cut = min(len(self._left), wanted)
        data, self._left = self._left[: int(cut)], self._left[int(cut) :]
        return data

    def __iter__(self) -> Iterator[Any]:
        return iter(functools.partial(self.read, limits.MAX_REPLY_BYTES), self._left[:0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
