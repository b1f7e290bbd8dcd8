"""One request from first byte to answer. What is answered with receipts is durable; all else was not acknowledged."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, StorageError, VerificationError
from klingai_audit.ingest.capacity import Capacity, Lease, Limits
from klingai_audit.ingest.intake import Intake, Taken
from klingai_audit.ingest.packing import unpack
from klingai_audit.ingest.producers import Producer, ProducerFile
from klingai_audit.ingest.proving import prove_all
from klingai_audit.ingest.reading import Given, media_type_of, read_events
from klingai_audit.ingest.wire import JSON, PROBLEM_JSON, Accepted, EventReceipt, Refused

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from starlette.requests import Request

__all__ = ["Answer", "Endpoint", "Served", "problem_of"]

_THREADS: Final = 4
_SMALL: Final = 4096
"""Bytes of a body that is read faster than handed to another thread."""
_UNAVAILABLE_S: Final = "5"
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII).fullmatch
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: HTTP status, body, media type, further headers."""

    status: int
    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()


class Served(NamedTuple):
    """What may be told of an answered request: nothing of what it held.

    `kind` is the reason of a refusal, else empty; `producer` is empty if nobody known asked.
    """

    status: int
    kind: str
    producer: str
    events: int
    repeated: int
    seconds: float


@dataclass(slots=True)
class _Course:
    """What is known of a request while it is answered."""

    producer: str = ""
    events: int = 0
    repeated: int = 0


class Endpoint:
    """Answers requests with events; belongs to one event loop. `told` is called with each answer."""

    def __init__(
        self,
        intake: Intake,
        producers: ProducerFile,
        limits: Limits | None = None,
        told: Callable[[Served], None] = lambda _served: None,
    ) -> None:
        self.intake = intake
        self.producers = producers
        self.capacity = Capacity(limits or Limits())
        self._told = told
        self._threads: CapacityLimiter | None = None
        self._late: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request) -> Answer:
        """Answer one request; never raises but for a client that went away and for cancellation."""
        begun, course, kind = perf_counter(), _Course(), ""
        try:
            answer = await self._answer(request, course)
        except Refused as exc:
            answer, kind = problem_of(exc), exc.kind_of
        except (StorageError, VerificationError) as exc:
            tell(logging.ERROR, "ingest_unavailable", "the log cannot record: %s", exc.message, error=exc)
            refused = _unavailable()
            answer, kind = problem_of(refused), refused.kind_of
        self._told(Served(answer.status, kind, course.producer, course.events, course.repeated, perf_counter() - begun))
        return answer

    async def _answer(self, request: Request, course: _Course) -> Answer:
        producer = self._producer(request.headers.get("authorization", ""))
        course.producer = producer.name
        state = _state_of(request.query_params.getlist("wait"))
        media_type = media_type_of(request.headers.get("content-type"), binary="ce-specversion" in request.headers)
        with self.capacity.lease() as lease:
            body = await self._body(request, lease)
            encoding = request.headers.get("content-encoding", "")
            if len(body) <= _SMALL and not encoding:
                events, unpacked = self._read(body, encoding, media_type)
            else:
                events, unpacked = await self._in_thread(self._read, body, encoding, media_type)
            lease.add_bytes(unpacked)
            lease.add_events(len(events))
            taken = await self._in_thread(self.intake.take, events, producer)
            course.events, course.repeated = len(taken), sum(one.repeated for one in taken)
            await self._durable(taken, lease)
        return await self._receipts(taken, state)

    def _producer(self, header: str) -> Producer:
        scheme, _, token = header.partition(" ")
        found = self.producers.current().of(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Refused(
                401,
                "token_unknown",
                "The request bears no token that is known here.",
                do="Send Authorization: Bearer TOKEN; klingai-audit ingest-token makes one.",
                headers=(("WWW-Authenticate", 'Bearer realm="ingest"'),),
            )
        return found

    async def _body(self, request: Request, lease: Lease) -> bytes:
        limit = self.capacity.limits.body_bytes
        length = request.headers.get("content-length")
        if length is not None and _DECIMAL(length) and int(length) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self.capacity.limits.body_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise _too_large(limit)
                    lease.add_bytes(len(chunk))
                    body += chunk
        except TimeoutError:
            raise Refused(
                408, "too_slow", "The body did not arrive in time.", headers=(("Connection", "close"),)
            ) from None
        return bytes(body)

    def _read(self, body: bytes, encoding: str, media_type: str) -> tuple[list[Given], int]:
        """Return the events and how many bytes unpacking made, counted only now: `_THREADS` unpack at a time."""
        limits = self.capacity.limits
        data = unpack(body, encoding, limits.body_bytes)
        return read_events(data, media_type, limits.events), 0 if data is body else len(data)

    async def _durable(self, taken: Sequence[Taken], lease: Lease) -> None:
        """Wait until all events are durable. Raises: AuditUnavailable."""
        try:
            async with asyncio.timeout(self.capacity.limits.wait_seconds):
                for one in taken:
                    if one.receipt is not None:
                        await one.receipt
        except TimeoutError:
            task = asyncio.create_task(self._give_back(taken, lease.keep()))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            raise AuditUnavailable("The events were not durable in time. They may still become so.") from None

    async def _give_back(self, taken: Sequence[Taken], count: int) -> None:
        for one in taken:
            if one.receipt is not None:
                await asyncio.gather(one.receipt.reached(), return_exceptions=True)
        self.capacity.events -= count

    async def _receipts(self, taken: Sequence[Taken], state: Literal["durable", "published"]) -> Answer:
        proofs = await self._proofs(taken) if state == "published" else None
        receipts = []
        for index, one in enumerate(taken):
            seq, leaf = one.place
            proof = UNSET if proofs is None else proofs[index]
            receipts.append(
                EventReceipt(event_id=one.event_id, seq=seq, leaf_hash=leaf.hex(), repeated=one.repeated, proof=proof)
            )
        reached: Literal["durable", "published"] = "durable" if proofs is None else "published"
        accepted = Accepted(origin=self.intake.audit.origin, state=reached, receipts=receipts)
        return Answer(200, _encode(accepted), JSON)

    async def _proofs(self, taken: Sequence[Taken]) -> list[str] | None:
        """Return a proof for each event under one checkpoint, or None if none comes in time that covers them all."""
        newest = max(
            (one.receipt for one in taken if one.receipt is not None), key=lambda one: one.seq or 0, default=None
        )
        try:
            if newest is not None:
                await newest.reached("published", self.capacity.limits.wait_seconds)
            proofs: list[str] | None = await self._in_thread(self._prove, [one.place[0] for one in taken])
        except StorageError:  # the events are durable all the same
            return None
        return proofs

    def _prove(self, seqs: Sequence[int]) -> list[str] | None:
        reader = self.intake.audit.reader
        proofs = prove_all(reader, seqs, reader.checkpoint_note())
        return None if proofs is None else [proof.format().decode() for proof in proofs]

    async def _in_thread(self, act: Callable[..., Any], *arguments: Any) -> Any:
        from anyio import CapacityLimiter, to_thread

        if self._threads is None:
            self._threads = CapacityLimiter(_THREADS)
        return await to_thread.run_sync(act, *arguments, limiter=self._threads)


def problem_of(refused: Refused) -> Answer:
    """Return the answer that says why nothing was recorded (RFC 9457)."""
    problem = refused.problem(HTTPStatus(refused.status).phrase)
    return Answer(refused.status, _encode(problem), PROBLEM_JSON, refused.headers)


def _unavailable() -> Refused:
    return Refused(  # the reason may name places of this machine: it is for whoever runs it
        503,
        "log_unavailable",
        "The log cannot record now.",
        do="Send it again after the time in Retry-After, with the same event ids: what was recorded is told.",
        headers=(("Retry-After", _UNAVAILABLE_S),),
    )


def _state_of(given: list[str]) -> Literal["durable", "published"]:
    if given in ([], ["durable"]):
        return "durable"
    if given == ["published"]:
        return "published"
    raise Refused(400, "malformed", "wait is durable or published.", do="Leave it out for durable.")


def _too_large(limit: int) -> Refused:
    return Refused(413, "too_large", f"The body has more than {limit:,} bytes.", do="Send fewer events at once.")
