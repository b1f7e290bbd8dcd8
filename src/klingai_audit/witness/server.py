"""A witness: cosigns checkpoints of the logs it knows, each only if it extends what it cosigned before.

Order of checks and answers: C2SP tlog-witness, `add-checkpoint`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.errors import InvalidProof, InvalidSignature, Malformed, MissingExtra, StorageError, UsageError
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.merkle import EMPTY_ROOT, verify_consistency
from klingai_audit.tlog.note import format_note, open_note, parse_note
from klingai_audit.tlog.submission import MAX_REQUEST_BYTES, SIZE_TYPE, AddCheckpoint
from klingai_audit.witness.book import Book, Held, Turn

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Answer", "Witness", "witness_app"]

_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request: HTTP status, body, content type, and for our own journal what happened."""

    status: int
    body: bytes
    type: str = _TEXT
    forked: bool = False


class Witness:
    """One witness: its key (type 0x04 or 0x06), the keys of the logs it knows by origin, its memory."""

    def __init__(
        self,
        signer: SignerKey,
        logs: Sequence[VerifierKey],
        book: Book,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.signer = signer
        self.book = book
        self._clock = clock
        self._keys: dict[str, list[VerifierKey]] = {}
        for key in logs:
            self._keys.setdefault(key.name, []).append(key)
        if not self._keys:
            raise UsageError("The witness knows no log.", do="Name at least one log's public key.")

    @property
    def origins(self) -> tuple[str, ...]:
        """The logs that are witnessed."""
        return tuple(self._keys)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer one `add-checkpoint` request; what is cosigned is durable on return. Raises: StorageError."""
        if len(body) > MAX_REQUEST_BYTES:
            return _refused(400, "the request is too long")
        try:
            request = AddCheckpoint.parse(body)
        except Malformed as exc:
            if self._is_rooted_nothing(body):
                return _refused(422, "the root of an empty tree is another one")
            return _refused(400, exc.message)
        origin = request.checkpoint.origin
        keys = self._keys.get(origin)
        if keys is None:
            return _refused(404, "this log is not witnessed here")
        try:
            open_checkpoint(request.data, origin, keys)
        except (InvalidSignature, Malformed):
            return _refused(403, "the checkpoint is not signed by the log")
        if request.old > request.checkpoint.size:
            return _refused(400, "the old size is above the checkpoint's")
        with self.book.turn(origin) as turn:
            return self._weigh(turn, request)

    def latest(self, name: str) -> bytes | None:
        """Return the latest cosigned checkpoint of the log whose origin has the SHA-256 `name` (64 hex digits)."""
        for origin in self._keys:
            if hashlib.sha256(origin.encode()).hexdigest() == name:
                held = self.book.held(origin)
                return None if held is None else held.note
        return None

    def _is_rooted_nothing(self, body: bytes) -> bool:
        """Tell whether a log we know signed an empty tree with a root, which is no checkpoint to our parser."""
        try:
            note = parse_note(body.partition(b"\n\n")[2])
            origin, size, *_ = note.text.split("\n")
            keys = self._keys.get(origin, ())
            return size == "0" and bool(keys) and bool(open_note(format_note(note), keys))
        except (Malformed, InvalidSignature, ValueError):
            return False

    def _weigh(self, turn: Turn, request: AddCheckpoint) -> Answer:
        held, new = turn.held(), request.checkpoint
        size, root = (0, EMPTY_ROOT) if held is None else (held.size, held.root)
        if request.old != size:
            return Answer(409, f"{size}\n".encode(), SIZE_TYPE)
        now = int(self._clock())
        try:
            if size == 0:
                if request.proof:
                    raise InvalidProof("a proof from an empty tree is empty")
            else:
                verify_consistency(size, new.size, root, new.root, request.proof)
        except InvalidProof:
            reason = "another root at the same size" if new.size == size else "no proof that it extends what is held"
            turn.keep(reason, request.format(), now)
            return Answer(422, f"{reason}\n".encode(), forked=True)
        moment = now if held is None else max(now, held.time)
        line = cosign(request.note.text, self.signer, moment).format().encode()
        turn.put(Held(new.size, new.root, request.data + line, moment))
        return Answer(200, line)


def _refused(status: int, reason: str) -> Answer:
    return Answer(status, f"{reason}\n".encode())


def witness_app(witness: Witness, told: Callable[[str, Answer], Any] = lambda _path, _answer: None) -> Starlette:
    """Return the ASGI application: `POST /add-checkpoint`, `GET /<SHA-256 of the origin>/checkpoint`.

    `told` is called with the path and answer of each request. Raises: MissingExtra.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError as exc:
        raise MissingExtra("Serving needs starlette and uvicorn.", do="pip install 'klingai-audit[serve]'") from exc

    async def add_checkpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_REQUEST_BYTES:
                break
        answer = await run_in_threadpool(witness.add_checkpoint, bytes(body))
        told(request.url.path, answer)
        return Response(answer.body, answer.status, headers={"Content-Type": answer.type, "Cache-Control": "no-store"})

    def checkpoint(request: Request) -> Response:
        note = witness.latest(request.path_params["name"])
        if note is None:
            return PlainTextResponse("nothing is held of such a log\n", 404)
        return Response(note, headers={"Content-Type": _TEXT, "Cache-Control": "no-cache"})

    def failed(_request: Request, exc: Exception) -> Response:
        message = exc.message if isinstance(exc, StorageError) else "the witness cannot answer"
        return PlainTextResponse(f"{message}\n", 503, headers={"Cache-Control": "no-store"})

    handlers: dict[Any, Callable[[Request, Exception], Response]] = {StorageError: failed}
    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{name}/checkpoint", checkpoint, methods=["GET"]),
        ],
        exception_handlers=handlers,
    )
