"""Scripted trouble: refusals, lost replies, slow, cut and malformed ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator.messages import CODE_OF_STATUS, ERROR_CODES, JSON_TYPE, Refusal, Response


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests that match; see `Simulator.fail_next`."""

    method: str
    path_pattern: str
    status: int | None = None
    code: int | None = None
    message: str | None = field(default=None, repr=False)
    times: int = 1
    after_accept: bool = False
    delay: float = 0.0
    body: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    drop: bool = False
    truncate: int | None = None
    hang: float | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def keeps_reply(self) -> bool:
        """Whether the genuine reply goes out, only late, cut, or under another type."""
        replaced = self.status is not None or self.code is not None or self.body is not None
        distorted = bool(self.delay) or self.truncate is not None or self.content_type is not None
        return distorted and not replaced and not self.drop and self.hang is None and self.message is None

    @property
    def accepts(self) -> bool:
        """Whether the request takes effect in the simulator's state before the trouble."""
        return self.after_accept or self.keeps_reply

    def matches(self, method: str, path: str) -> bool:
        """Whether `method` and the normalised `path` are meant; `*` matches anything."""
        return self.method in ("*", method) and fnmatchcase(path, self.path_pattern)

    def reply(self, prompt: str) -> Response:
        """The scripted reply; `{prompt}` in the message is replaced by the request's prompt."""
        if self.body is not None:
            return Response(self.status or 200, self.body, self.content_type or JSON_TYPE, self.headers)
        code = self.code if self.code is not None else CODE_OF_STATUS.get(self.status or 500, 5000)
        message = (self.message or ERROR_CODES.get(code, (0, ""))[1]).replace("{prompt}", prompt)
        made = Refusal(code, message, self.status).response()
        return Response(made.status, made.body, self.content_type or JSON_TYPE, self.headers)

    def distort(self, genuine: Response) -> Response:
        """The genuine reply under the scripted content type and with the scripted headers."""
        content_type = self.content_type or genuine.content_type
        return Response(genuine.status, genuine.body, content_type, genuine.headers + self.headers)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the server hands a reply to the client; times in seconds."""

    response: Response | None
    """None: the connection is closed without a reply."""
    delay: float = 0.0
    truncate: int | None = None
    """Send only this many bytes of the body under the full Content-Length, then close."""
    hang: float | None = None
    """Hold the connection silently for this long, then close it."""
    task_id: str | None = None
    """The task that the request created."""


class FaultScript:
    """Faults waiting for their request, taken in the order they were written; thread-safe."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Queue a fault. Raises: UsageError: `times` or a duration is out of range."""
        if fault.times < 1 or fault.delay < 0 or (fault.truncate or 0) < 0 or (fault.hang or 0) < 0:
            raise UsageError("a fault needs times >= 1 and no negative delay, truncate or hang")
        with self._lock:
            self._waiting.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that matches, used up once; None if none does."""
        with self._lock:
            for fault in self._waiting:
                if fault.matches(method, path):
                    fault.times -= 1
                    if fault.times == 0:
                        self._waiting.remove(fault)
                    return fault
            return None

    def clear(self) -> None:
        """Forget all faults that have not happened."""
        with self._lock:
            self._waiting.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)
