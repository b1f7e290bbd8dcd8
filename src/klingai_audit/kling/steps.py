"""What a flow asks its driver to do, and what it is told of it. See `kling.flows`."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from klingai_audit.capture.attempt import Mark, was_sent
from klingai_audit.errors import UsageError
from klingai_audit.kling.reply import Reply, read_reply

__all__ = ["Answer", "Fetch", "Flow", "Pause", "Remove", "Retries", "Send", "Step", "Target"]


@dataclass(frozen=True, slots=True)
class Send:
    """Send one API call and read its answer whole; `path` begins with a slash, without the base URL."""

    method: str
    path: str
    mark: Mark
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a file into `target`, without any credential, following redirects."""

    url: str = field(repr=False)
    target: Target
    mark: Mark


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a file of this machine, recorded like a call."""

    path: Path
    mark: Mark


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a step: a reply, or the error of the HTTP library or of the disk."""

    reply: Reply
    error: Exception | None = None

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        """An API answer."""
        return cls(read_reply(status, body))

    @classmethod
    def failed(cls, error: Exception) -> Answer:
        """No answer, or none that could be read to its end."""
        sent = was_sent(error)
        return cls(Reply("unclear" if sent else "refused", problem=type(error).__name__), error)


class Target(Protocol):
    """Where a download goes; `kling.download.PartFile` is one."""

    def restart(self) -> None:
        """Throw away what was written so far."""
        ...

    def write(self, chunk: bytes) -> None:
        """Append."""
        ...


Step = Send | Fetch | Remove | Pause
Flow = Generator[Step, Answer | None, Any]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently: `attempts` in all, pauses doubling from `first` to `cap` seconds, with jitter."""

    attempts: int = 5
    first: float = 1.0
    cap: float = 30.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError("A call is tried at least once: retries must be 1 or more.")

    def pause(self, attempt: int) -> Pause:
        """The pause after attempt number `attempt` (from 1): half to all of the current ceiling."""
        ceiling = min(self.cap, self.first * 2 ** min(attempt - 1, 16))
        return Pause(ceiling * (0.5 + self.random() / 2))
