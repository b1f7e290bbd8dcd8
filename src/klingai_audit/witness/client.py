"""The log's side of witnessing: submit a checkpoint to every witness of a policy, keep only what verifies.

Nothing that a witness answers is believed: its line must verify with the key of the policy, its time must be near
ours, its reply is bounded in size and time. Source: C2SP tlog-witness.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import Note, SignatureLine, format_note, parse_note
from klingai_audit.tlog.policy import PolicyItem, WitnessPolicy
from klingai_audit.tlog.strict import parse_decimal
from klingai_audit.tlog.submission import SIZE_TYPE, AddCheckpoint

if TYPE_CHECKING:
    import httpx2

__all__ = ["MAX_REPLY_BYTES", "MAX_SKEW_S", "Consistency", "Result", "State", "Submission", "WitnessClient"]

MAX_REPLY_BYTES: Final = 64 * 1024
MAX_SKEW_S: Final = 300
"""How far a witness's time may lie from ours, in seconds."""

Consistency = Callable[[int, int], tuple[bytes, ...]]
"""`(old, new)` -> the consistency proof between two sizes of the log."""

State = Literal["cosigned", "ahead", "refused", "invalid", "unreachable"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one witness did.

    `cosigned`: `line` is its verified line, `time` what it states (POSIX seconds). `ahead`: it holds `held`
    entries, more than were submitted: an older state was put back here, or another history was shown there.
    `refused`: it does not see that the log extends what it holds. `invalid`: what it answered is worth nothing.
    `unreachable`: no answer in time. `detail` says more, in our words.
    """

    name: str
    state: State
    detail: str = ""
    line: SignatureLine | None = None
    time: int | None = None
    held: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """One round with all witnesses: `note` is the checkpoint with every line that verified, `satisfied` the quorum."""

    size: int
    note: bytes
    results: tuple[Result, ...]
    satisfied: bool

    @property
    def alarming(self) -> tuple[Result, ...]:
        """Results that speak of two histories."""
        return tuple(result for result in self.results if result.state in ("ahead", "refused"))


class WitnessClient:
    """Asks the witnesses of one policy that have an address. `timeout` is in seconds, for one witness altogether."""

    def __init__(
        self,
        policy: WitnessPolicy,
        *,
        timeout: float = 10.0,
        http: Callable[[], httpx2.Client] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._timeout = timeout
        self._http = http or self._default_http
        self._clock = clock

    def submit(self, data: bytes, consistency: Consistency, known: Mapping[str, int] | None = None) -> Submission:
        """Submit the signed checkpoint `data` to all witnesses at once.

        `known` are sizes that witnesses are believed to hold, by name; a wrong one costs one more request.
        Never raises for what a witness does. Raises: Malformed if `data` is no checkpoint.
        """
        note = parse_note(data)
        size = parse_checkpoint(note.text).size
        asked = [witness for witness in self.policy.witnesses if witness.url is not None]
        believed = known or {}
        if asked:
            with ThreadPoolExecutor(len(asked), thread_name_prefix="klingai-audit-witness") as pool:
                results = list(
                    pool.map(lambda one: self._ask(one, data, consistency, believed.get(one.name, 0)), asked)
                )
        else:
            results = []
        lines = [result.line for result in results if result.line is not None]
        signed = {self._key(result.name) for result in results if result.line is not None}
        cosigned = format_note(Note(note.text, (*note.signatures, *lines)))
        return Submission(size, cosigned, tuple(results), self.policy.is_satisfied(signed))

    def _key(self, name: str) -> VerifierKey:
        return next(witness.key for witness in self.policy.witnesses if witness.name == name)

    def _ask(self, witness: PolicyItem, data: bytes, consistency: Consistency, believed: int) -> Result:
        import httpx2

        deadline = time.monotonic() + self._timeout
        size = parse_checkpoint(parse_note(data).text).size
        old = believed if believed <= size else 0
        try:
            with self._http() as http, _ended_by(self._timeout, http.close):
                reply = self._post(http, witness, old, size, data, consistency, deadline)
                if reply.status == 409:
                    held = self._held(reply)
                    if held is None or held == old:
                        return Result(witness.name, "invalid", "it answers 409 with no size, or with ours")
                    if held > size:
                        return Result(witness.name, "ahead", f"it holds {held} entries, we have {size}", held=held)
                    reply = self._post(http, witness, held, size, data, consistency, deadline)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as exc:
            if time.monotonic() >= deadline:
                return Result(witness.name, "unreachable", f"no whole answer within {self._timeout:g} s")
            return Result(witness.name, "unreachable", type(exc).__name__)
        return self._weigh(witness, data, reply)

    def _weigh(self, witness: PolicyItem, data: bytes, reply: _Reply) -> Result:
        if reply.body is None:
            return Result(witness.name, "invalid", f"its answer is longer than {MAX_REPLY_BYTES} bytes")
        if reply.status == 422:
            return Result(witness.name, "refused", "it does not accept that this log extends what it holds")
        if reply.status != 200:
            state: State = "unreachable" if reply.status >= 500 else "invalid"
            return Result(witness.name, state, f"it answers {reply.status}")
        text = parse_note(data).text
        detail = "it sent no line by its key"
        for raw in reply.body.decode("utf-8", "replace").split("\n"):
            try:
                line = SignatureLine.parse(raw + "\n")
                if (line.name, line.key_id) != (witness.key.name, witness.key.key_id):
                    continue
                stated = verify_cosignature(text, line, witness.key)
            except (Malformed, InvalidSignature):
                detail = "its line does not verify"
                continue
            if abs(stated - self._clock()) > MAX_SKEW_S:
                detail = f"its time is over {MAX_SKEW_S} s from ours"
                continue
            return Result(witness.name, "cosigned", line=line, time=stated)
        return Result(witness.name, "invalid", detail)

    def _post(
        self,
        http: httpx2.Client,
        witness: PolicyItem,
        old: int,
        size: int,
        data: bytes,
        consistency: Consistency,
        deadline: float,
    ) -> _Reply:
        proof = consistency(old, size) if 0 < old < size else ()
        url = (witness.url or "").rstrip("/") + "/add-checkpoint"
        body = AddCheckpoint.of(old, proof, data).format()
        headers = {"Content-Type": "text/plain; charset=utf-8", "Accept-Encoding": "identity"}
        left = max(deadline - time.monotonic(), 0.001)
        with http.stream("POST", url, content=body, headers=headers, timeout=left) as reply:
            got = bytearray()
            for chunk in reply.iter_raw():
                got += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(got) > MAX_REPLY_BYTES:
                    return _Reply(reply.status_code, "", None)
            return _Reply(reply.status_code, reply.headers.get("content-type", ""), bytes(got))

    @staticmethod
    def _held(reply: _Reply) -> int | None:
        if reply.body is None or reply.type.partition(";")[0].strip() != SIZE_TYPE:
            return None
        try:
            return parse_decimal(reply.body.decode("ascii", "replace").removesuffix("\n"), "The size")
        except Malformed:
            return None

    def _default_http(self) -> httpx2.Client:
        import httpx2

        return httpx2.Client(timeout=self._timeout, follow_redirects=False)


@contextlib.contextmanager
def _ended_by(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` if the block is not left within `seconds`: time-outs of single reads do not bound their number."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True, slots=True)
class _Reply:
    """Status, content type and body of an answer; no body if it was too long."""

    status: int
    type: str
    body: bytes | None
