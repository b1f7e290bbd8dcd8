"""Looks at replies of requests while they are read, on the very objects that the caller reads from.

What is read decoded is seen decoded, so that a download's digest is that of the file. Nothing is read that the
caller does not read. Source: requests 2.34 (`Response`), urllib3 2.8 (`HTTPResponse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from klingai_audit.capture.attempt import Attempt
from klingai_audit.capture.trail import HopWatch

__all__ = ["watch_reply"]

_READS: Final = ("read", "read1")
_STREAMS: Final = ("stream", "read_chunked")


def watch_reply(attempt: Attempt, response: Any) -> HopWatch:
    """Let `attempt` end with the reading of a `requests.Response`, at once if there is nothing left to read."""
    watch = HopWatch(attempt, response)
    unread = getattr(response, "_content", False) is False
    if unread and _Tap(response.raw, watch).is_set():
        attempt.left_open()
    else:
        attempt.finished(watch.loaded(response.content or b""))
    return watch


class _Tap:
    """Sits on the reading methods of a urllib3 response until its body has ended."""

    def __init__(self, raw: Any, watch: HopWatch) -> None:
        self._raw = raw
        self._watch = watch
        self._started = False
        self._inside = False
        self._names: list[str] = []
        try:
            for name in (*_READS, *_STREAMS, "close"):
                if callable(original := getattr(raw, name, None)):
                    setattr(raw, name, self._tapped(name, original))
                    self._names.append(name)
        except AttributeError:  # an object that takes no attributes, such as io.BytesIO
            self._names.clear()

    def is_set(self) -> bool:
        """Whether reading will be seen."""
        return bool(self._names)

    def _tapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        if name in _STREAMS:
            return lambda amt=2**16, decode_content=None: self._stream(original, amt, decode_content)
        if name == "close":
            return lambda: self._close(original)
        return lambda amt=None, decode_content=None, **more: self._read(original, amt, decode_content, more)

    def _read(self, original: Callable[..., Any], amt: Any, decode_content: Any, more: dict[str, Any]) -> Any:
        if self._inside:
            return original(amt, **_given(decode_content), **more)
        self._inside = True
        try:
            data = original(amt, **_given(decode_content), **more)
        except BaseException as exc:
            self._broken(exc)
            raise
        finally:
            self._inside = False
        self._feed(data or b"", decode_content)
        if amt is None or amt < 0 or (not data and amt != 0):
            self._ended()
        return data

    def _stream(self, original: Callable[..., Any], amt: Any, decode_content: Any) -> Iterator[bytes]:
        if self._inside:
            yield from original(amt, **_given(decode_content))
            return
        source = original(amt, **_given(decode_content))
        while True:
            self._inside = True
            try:
                chunk = next(source, None)
            except BaseException as exc:
                self._broken(exc)
                raise
            finally:
                self._inside = False
            if chunk is None:
                break
            self._feed(chunk, decode_content)
            yield chunk
        self._ended()

    def _close(self, original: Callable[[], Any]) -> Any:
        # The garbage collector closes, too, at moments when a log must not be asked to write.
        collected = getattr(self._raw, "_finalizing", False)
        try:
            return original()
        finally:
            if not (self._inside or self._watch.over or collected):
                self._lift()
                self._watch.attempt.finished(self._watch.closed())

    def _feed(self, data: bytes, decode_content: Any) -> None:
        if not self._started:
            self._started = True
            decodes = getattr(self._raw, "decode_content", False) if decode_content is None else decode_content
            if decodes:
                self._watch.reads_decoded()
        self._watch.feed(data)

    def _ended(self) -> None:
        if not self._watch.over:
            self._lift()
            self._watch.attempt.finished(self._watch.ended())

    def _broken(self, exc: BaseException) -> None:
        if not self._watch.over:
            self._lift()
            self._watch.attempt.finished(self._watch.broken(exc))

    def _lift(self) -> None:
        """Leave the methods as they were."""
        for name in self._names:
            vars(self._raw).pop(name, None)


def _given(decode_content: Any) -> dict[str, Any]:
    return {} if decode_content is None else {"decode_content": decode_content}
