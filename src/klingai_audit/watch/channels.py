"""How alerts reach people: webhooks and syslog. What was not delivered waits, and is sent again under the same id.

A message holds kinds, ranges of entries and states of threats; no content of entries. Webhooks are signed as
Standard Webhooks asks: HMAC-SHA-256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import urlsplit

import msgspec

from klingai_audit.durable import is_private, read_optional
from klingai_audit.errors import StorageError, UnsafePermissions, UsageError
from klingai_audit.exports.connection import Peer, SyslogSink
from klingai_audit.exports.formats import find_format, parse_destination
from klingai_audit.exports.record import Position
from klingai_audit.exports.syslog import encode_told
from klingai_audit.kling.webhook import decode_secret
from klingai_audit.watch.memory import Message
from klingai_audit.watch.problems import Level

if TYPE_CHECKING:
    import httpx2

__all__ = ["Channel", "Context", "Syslog", "Webhook", "read_secret"]

TIMEOUT_S: Final = 5.0
ATTEMPTS: Final = 3
FIRST_PAUSE_S: Final = 0.3
MAX_ALERTS: Final = 100
"""Alerts that one message names; `more` says how many there are besides."""

_GOOD: Final = range(200, 300)
_SEVERITIES: Final[Mapping[Level, int]] = {"broken": 2, "unreachable": 3, "finding": 4, "note": 5}
_GONE: Final = 5
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every message says beside its alerts: the log's origin, threats and their states, how much is open."""

    origin: str
    threats: dict[str, str] = {}
    open: int = 0


class Channel(Protocol):
    """One receiver of messages; `name` is its address without what is secret."""

    name: str

    def send(self, message: Message, context: Context) -> None:
        """Deliver one message. Raises: StorageError if it did not arrive."""
        ...


class Webhook:
    """POSTs messages as JSON. `secret` is the decoded signing secret, None for none; `plain` allows http:// anywhere.

    Raises: UsageError for an address that is none.
    """

    def __init__(
        self,
        url: str,
        secret: bytes | None = None,
        *,
        plain: bool = False,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError("--webhook is no address.", do="Give https://host/path, without credentials in it.")
        if parts.scheme == "http" and not plain and parts.hostname not in _LOCAL:
            raise UsageError(
                "http:// would send alerts in the clear to another machine.",
                do="Use https://, or say --plain if that is meant.",
            )
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._url = url
        self._secret = secret
        self._pause = pause
        self._clock = clock

    def send(self, message: Message, context: Context) -> None:
        body = self._body(message, context)
        pause = FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            why, final = self._post(message, body)
            if why is None:
                return
            if final or attempt == ATTEMPTS - 1:
                raise StorageError(f"The webhook {self.name} did not take an alert: {why}.", do="It is sent again.")
            self._pause(pause)
            pause *= 3

    def _post(self, message: Message, body: bytes) -> tuple[str | None, bool]:
        """Return why it did not arrive, None if it did, and whether trying again at once is useless."""
        import httpx2

        headers = {"Content-Type": "application/json", "User-Agent": "klingai-audit", **self._signed(message, body)}
        try:
            with httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False) as http:
                reply: httpx2.Response = http.post(self._url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            return type(exc).__name__, False
        if reply.status_code in _GOOD:
            return None, True
        return f"it answers {reply.status_code}", reply.status_code < 500 and reply.status_code not in (408, 429)

    def _signed(self, message: Message, body: bytes) -> dict[str, str]:
        stamp = str(int(self._clock()))
        headers = {"webhook-id": message.id, "webhook-timestamp": stamp}
        if self._secret is not None:
            signed = b".".join((message.id.encode(), stamp.encode(), body))
            value = base64.b64encode(hmac.digest(self._secret, signed, hashlib.sha256)).decode()
            headers["webhook-signature"] = f"v1,{value}"
        return headers

    def _body(self, message: Message, context: Context) -> bytes:
        alerts = [
            {"change": alert.change, **{name: getattr(alert.problem, name) for name in _TOLD}}
            for alert in message.alerts[:MAX_ALERTS]
        ]
        told = {
            "type": "klingai_audit.watch",
            "id": message.id,
            "time": _moment(message).isoformat().replace("+00:00", "Z"),
            "origin": context.origin,
            "alerts": alerts,
            "more": max(0, len(message.alerts) - MAX_ALERTS),
            "open": context.open,
            "threats": context.threats,
        }
        return msgspec.json.encode(told)


_TOLD: Final = ("source", "kind", "level", "seq", "seq_end", "text")


class Syslog:
    """Sends messages as RFC 5424 to a receiver at `tls://host:6514` or `tcp://host:601`, one for each alert.

    Raises: UsageError for an address that is none, or one without encryption on another machine unless `plain`.
    """

    def __init__(self, url: str, *, ca: str | None = None, plain: bool = False) -> None:
        to = parse_destination(find_format("syslog"), url, plain=plain)
        self.name = to.url
        self._peer = Peer(to.host, to.port, tls=to.encrypted, ca=ca)
        self._peer.context()

    def send(self, message: Message, context: Context) -> None:
        lines = [_line(message, number, context) for number in range(len(message.alerts[:MAX_ALERTS]))]
        sink = SyslogSink(self._peer, cast("Any", bytes))  # what is handed over is encoded already
        try:
            sink.open(Position(0, None))
            sink.send(cast("Any", lines), Position(0, None))
            sink.finish(cast("Any", None))
        finally:
            sink.abandon()


def _line(message: Message, number: int, context: Context) -> bytes:
    alert = message.alerts[number]
    problem = alert.problem
    severity = _GONE if alert.change == "gone" else _SEVERITIES[problem.level]
    values = {
        "id": message.id,
        "origin": context.origin,
        "change": alert.change,
        "source": problem.source,
        "finding": problem.kind,
        "level": problem.level,
        "seq": None if problem.seq is None else str(problem.seq),
        "seq_end": None if problem.seq_end is None else str(problem.seq_end),
    }
    return encode_told(severity, _moment(message), "watch", values, f"{alert.change}: {problem.kind}: {problem.text}")


def read_secret(path: Path) -> bytes:
    """Return the signing secret that a file holds (base64, with or without `whsec_`). Raises: UsageError."""
    try:
        data = read_optional(path, limit=4096)
        private = data is None or is_private(path)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from exc
    if data is None:
        raise UsageError(
            f"There is no secret at {path}.", do="Make one: openssl rand -base64 32 > FILE; chmod 600 FILE"
        )
    if not private:
        raise UnsafePermissions(f"{path} may be read by others.", do=f"chmod 600 {path}")
    return decode_secret(data.decode("utf-8", "replace").strip())


def _moment(message: Message) -> dt.datetime:
    return dt.datetime.fromtimestamp(message.time, dt.UTC)
