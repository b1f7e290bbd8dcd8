"""What capture hands around: the facts of a request and its end, and the protocols on both sides.

`Provider` (below: what an exchange means) and `Sink` (above: where events go) are all that the recorder
knows of Kling and of the log. Credentials never get further than `RequestFacts.authorization`, which the
recorder turns into a fingerprint and drops.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from klingai_audit.capture.spool import Spool
from klingai_audit.event.context import Actor
from klingai_audit.event.record import Draft, EncodedEvent
from klingai_audit.privacy.policy import Policy

__all__ = [
    "Background",
    "Credential",
    "Exchange",
    "Filed",
    "Kind",
    "Known",
    "Media",
    "Operation",
    "Outcome",
    "PendingReceipt",
    "Provider",
    "RequestFacts",
    "Shelf",
    "Sight",
    "Sink",
    "utc_now",
]

Kind = Literal["paid_create", "paid_sync", "read", "destructive", "download"]

FAILURE_CLASS: Final[Mapping[Kind, str]] = {
    "paid_create": "paid_create",
    "paid_sync": "paid_create",
    "read": "read",
    "destructive": "delete",
    "download": "download",
}
"""Kind of operation -> class of the failure policy (docs/reference, table `failure`)."""

KEPT_REQUEST_HEADERS: Final = frozenset({"content-type", "content-length", "range", "user-agent"})
KEPT_REPLY_HEADERS: Final = frozenset({"content-type", "content-length", "content-range", "content-encoding"})


def utc_now() -> dt.datetime:
    """The wall clock, in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Credential:
    """What authenticated a request: `kind` is `api_key`, `access_key` or `other`; `secret` is what to fingerprint."""

    kind: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """One request as it is about to leave.

    `headers` keeps only harmless names, in lower case; `authorization` is taken out of them and lives until
    the recorder has its fingerprint (`credential`: kind and fingerprint). `body` is None when it was not
    captured; `body_bytes` is then what is known of its length.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    body_bytes: int = 0
    started: dt.datetime = field(default_factory=utc_now)
    authorization: str | None = field(default=None, repr=False)
    credential: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        lower = {name.lower(): value for name, value in self.headers.items()}
        if self.authorization is None:
            object.__setattr__(self, "authorization", lower.get("authorization"))
        kept = {name: value for name, value in lower.items() if name in KEPT_REQUEST_HEADERS}
        object.__setattr__(self, "headers", kept)
        if self.body is not None:
            object.__setattr__(self, "body_bytes", len(self.body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A delivered file: SHA-256 (hex) and length of the bytes as delivered so far, `complete` if that is all."""

    sha256: str
    bytes: int
    type: str | None = None
    encoding: str | None = None
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """How a request ended.

    `status` is None if no reply came; `error` is then (or for a reply that broke off) the class name of what
    happened. `sent` is False only where no byte of the request can have left. `body` is decoded and None if
    it was not read, or longer than what is kept (`truncated`). `hops` counts redirects that were followed.
    """

    request: RequestFacts
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    error: str | None = None
    finished: dt.datetime = field(default_factory=utc_now)
    sent: bool = True
    media: Media | None = None
    hops: int = 0
    truncated: bool = False

    def __post_init__(self) -> None:
        lower = {name.lower(): value for name, value in self.headers.items()}
        object.__setattr__(self, "headers", {name: lower[name] for name in lower if name in KEPT_REPLY_HEADERS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a request is for: `name` is the action, `row` the provider's own table row, `thing` the id it addresses."""

    name: str
    kind: Kind
    row: Any = field(default=None, repr=False)
    thing: str | None = None
    part: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def failure_class(self) -> str:
        """The class of the failure policy that decides what happens if this cannot be recorded."""
        return FAILURE_CLASS[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What an exchange showed of a thing that lives longer than one exchange (a task).

    `state` None: nothing was seen, `problem` says why. `correlation_id` joins its entries in a process that
    does not know it. `note` is what a provider wants back with the next sight, `links` are the URLs of its
    results with their ids. `opens`: its beginning, as the act's own reply or, `found`, as what somebody sees later of
    an act that nobody answered. `shared`: other processes may see the same thing.
    """

    thing: str
    correlation_id: str
    state: str | None = None
    final: bool = False
    problem: str | None = None
    opens: bool = False
    found: bool = False
    note: Mapping[str, str] = field(default_factory=dict)
    links: Sequence[tuple[str, str]] = field(default=(), repr=False)
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One entry to write: `once` for the end of a thing; with a `sight` it is written only if that is news.

    `unresolved` says that the act may have made a thing that nobody saw: it is what the thing's note would be.
    """

    draft: Draft
    once: bool = False
    sight: Sight | None = None
    unresolved: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this process remembers of a thing."""

    correlation_id: str
    state: str | None
    final: bool
    problem: str | None
    note: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """What the log tells of a thing, or of an order whose thing it does not name; `token` is who ordered it.

    `lost`: nobody knows whether the order took effect; `open`: its reply may still come.
    """

    correlation_id: str
    token: Actor | None = None
    state: str | None = None
    final: bool = False
    note: Mapping[str, str] = field(default_factory=dict)
    lost: bool = False
    open: bool = False


class Shelf(Protocol):
    """What all processes of a log know of its things; derived from the log, and never a reason to fail."""

    def find(self, thing: str) -> Filed | None:
        """What the log tells of a thing."""
        ...

    def order(self, correlation_id: str) -> Filed | None:
        """What the log tells of an order."""
        ...

    def ordered_as(self, external_id: str) -> str | None:
        """The correlation of the order that a caller gave this id of its own; of several, that which was lost."""
        ...

    def expects(self) -> bool:
        """Whether an order waits for its reply, and nothing but that reply will tell its thing."""
        ...

    def add_poll(self, thing: str, when: dt.datetime) -> bool:
        """Count a poll that was no news; False if it could not be counted."""
        ...

    def take_polls(self, thing: str, *, ends: bool = False) -> tuple[int, dt.datetime, dt.datetime] | None:
        """Hand over, once, how many polls no entry has told of, the first and the last of them.

        With `ends` to all that see the thing's end, until an end is in the log: it keeps one of them.
        """
        ...

    def delivered(self, delivery: str) -> bool:
        """Whether some process has handled a delivery; False where nobody knows."""
        ...

    def keep_delivery(self, delivery: str, when: dt.datetime) -> None:
        """Remember that a delivery was handled."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...

    def after_fork(self) -> None:
        """In a forked child: drop what was inherited."""
        ...


class Background(Protocol):
    """What a provider may ask while it interprets; answers come from this process's memory only."""

    @property
    def origin(self) -> str:
        """The log's name."""
        ...

    def known(self, thing: str) -> Known | None:
        """What is remembered of a thing."""
        ...

    def linked(self, url: str) -> tuple[str, str] | None:
        """The thing and the result id that a URL was seen to deliver."""
        ...

    def unresolved(self, correlation_id: str) -> Mapping[str, str] | None:
        """The note of an act that ended without anyone knowing if it took effect; None if there is none."""
        ...

    def lost_order(self, external_id: str) -> str | None:
        """The correlation of an act without a known end that a caller gave this id of its own, or None."""
        ...

    def ordered(self, correlation_id: str) -> Mapping[str, str] | None:
        """The note of an act that was announced, whatever became of it; None if nobody knows of one."""
        ...


class Provider(Protocol):
    """What exchanges with one provider mean; pure: same arguments, same answers, no I/O, no clock."""

    def classify(self, method: str, url: str, background: Background) -> Operation | None:
        """Name the operation, or None for a request that is not this provider's."""
        ...

    def credential(self, authorization: str) -> Credential | None:
        """Name who an `Authorization` header speaks for, without what makes it valid (a token's signature)."""
        ...

    def intent(self, operation: Operation, request: RequestFacts, event_id: str, extra: Mapping[str, Any]) -> Draft:
        """Build the entry that stands before the act; also for reads, where it is only the pattern of the rest.

        `extra` comes from the caller and goes into the metadata of the intent.
        """
        ...

    def outcome(self, operation: Operation, exchange: Exchange, intent: Draft, background: Background) -> list[Outcome]:
        """Build what the end of an exchange is worth: at least one outcome for every exchange."""
        ...

    def key_used(self, operation: Operation, exchange: Exchange, intent: Draft) -> Draft | None:
        """Build the entry for the use of a credential, or None if it was refused or no answer came."""
        ...


class PendingReceipt(Protocol):
    """What `Sink.record` returns: waited for by threads, awaited by coroutines; both raise if not durable."""

    def wait(
        self, state: Literal["durable", "published", "witnessed"] = "durable", timeout: float | None = None
    ) -> Any:
        """Block until durable, or published, or until witnesses have seen it; at most `timeout` seconds."""
        ...

    async def reached(
        self, state: Literal["durable", "published", "witnessed"] = "durable", timeout: float | None = None
    ) -> Any:
        """Do the same without blocking the loop."""
        ...

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when `wait` would return or raise at once, maybe by another thread."""
        ...

    def __await__(self) -> Generator[Any, Any, Any]: ...


class Sink(Protocol):
    """Where events go; `AuditLog` is one. Fills in who is acting from the context of the call."""

    @property
    def origin(self) -> str:
        """The log's name."""
        ...

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...

    @property
    def spool(self) -> Spool | None:
        """Where entries wait while the log cannot be reached."""
        ...

    def admit(self, draft: Draft, *, warn: bool = True) -> EncodedEvent:
        """Apply privacy and make the bytes of an event, in the name of who acts; nothing is queued.

        Without `warn` it may be an act of nobody.
        """
        ...

    def record(self, draft: Draft, *, once: bool = False) -> PendingReceipt:
        """Queue an event; with `once` an equal event id that is already logged is not logged again."""
        ...

    def append(self, event: EncodedEvent, *, once: bool = False) -> PendingReceipt:
        """Queue an entry that the log makes about itself."""
        ...

    def fingerprint(self, credential: str) -> str:
        """Return 16 hex digits that stand for a credential in this log."""
        ...
