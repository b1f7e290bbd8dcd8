"""The simulated account: state as plain attributes, one entry point for requests. Thread-safe."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import media
from klingai_audit.kling.simulator.auth import Credentials, Identity
from klingai_audit.kling.simulator.clock import Clock, RealClock
from klingai_audit.kling.simulator.faults import Delivery, Fault, FaultScript
from klingai_audit.kling.simulator.fields import pick
from klingai_audit.kling.simulator.messages import Refusal, Request, Response, parse_object
from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.routes import Call, find_route, normalise
from klingai_audit.kling.simulator.tasks import Order, Output, Task, TaskBook

MAX_KEPT_REQUESTS = 10_000
MAX_KEPT_BODY = 64 * 1024
LINK_LIFETIME_MS = 30 * 24 * 3600 * 1000  # sheet section 6: results are cleared after 30 days
MEDIA_ROOT = "/media/"


@dataclass(slots=True)
class Received:
    """One request that reached the simulator, kept for tests to look at."""

    method: str
    path: str
    """As sent, without the query."""
    route: str
    """Normalised: without prefix, repeated and trailing slashes."""
    query: str
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(repr=False)
    """Up to 64 KiB; longer bodies are kept as `body_sha256` only and this is empty."""
    body_sha256: str
    at_ms: int
    caller: Identity | None = None
    """Who it was, if authentication succeeded."""
    status: int | None = None
    """HTTP status of the reply; None: no reply was made (dropped or held)."""
    task_id: str | None = None
    """The task that this request created."""


class Simulator:
    """A Kling account in memory.

    Set any attribute at any time; all of them take effect with the next request:
    `concurrency` (pack type -> tasks at once per model version), `blocked_words` (a prompt with
    one is refused with 1301), `failing_words` (the task ends as failed), `discontinued` (model
    names switched off), `rate_limit` ((creates, seconds) or None), `queue_seconds` and
    `render_seconds` (of each new task, divided by the clock's speed), `media_redirects`
    (redirect hops before a download's bytes), `prefix` (optional path prefix, e.g. `/kling`).
    `requests` holds the last requests, at least 5,000 of them; `book` the tasks.
    """

    def __init__(self, clock: Clock | None = None, *, prefix: str = "") -> None:
        self.clock: Clock = clock if clock is not None else RealClock()
        self.prefix = prefix.rstrip("/")
        self.credentials = Credentials.default()
        self.concurrency: dict[str, int] = {"video": 5, "image": 9, "audio": 5}
        self.blocked_words: tuple[str, ...] = ("forbidden",)
        self.failing_words: tuple[str, ...] = ("doomed",)
        self.discontinued: set[str] = set()
        self.rate_limit: tuple[int, float] | None = None
        self.queue_seconds = 2.0
        self.render_seconds = 28.0
        self.media_redirects = 0
        self.requests: list[Received] = []
        self.book = TaskBook()
        self.faults = FaultScript()
        self._lock = threading.RLock()
        self._link_key = secrets.token_bytes(32)
        self._recent_creates: deque[int] = deque()

    @property
    def tasks(self) -> list[Task]:
        """All tasks, oldest first."""
        with self._lock:
            return list(self.book)

    def task(self, any_id: str) -> Task:
        """The task with this task id or external id. Raises: UsageError: there is none."""
        with self._lock:
            found = self.book.by_id(any_id) or self.book.by_external_id(any_id)
        if found is None:
            raise UsageError(f"the simulator has no task {any_id}")
        return found

    def now_ms(self) -> int:
        """The simulator's time, ms since the epoch."""
        return self.clock.now_ms()

    def calls(self, method: str = "*", path_pattern: str = "*") -> list[Received]:
        """The received requests with this method and normalised path (`*` matches anything)."""
        wanted = Fault(method, path_pattern)
        with self._lock:
            return [seen for seen in self.requests if wanted.matches(seen.method, seen.route)]

    def revoke(self, key: str) -> None:
        """Refuse this API key or AccessKey from now on: 401 / 1002 (our choice, the real code is unknown)."""
        with self._lock:
            self.credentials.revoke(key)

    def add_api_key(self, key: str, name: str) -> None:
        """Accept a further API key under a name."""
        with self._lock:
            self.credentials.add_api_key(key, name)

    def fail_next(
        self,
        method: str,
        path_pattern: str,
        *,
        status: int | None = None,
        code: int | None = None,
        message: str | None = None,
        times: int = 1,
        after_accept: bool = False,
        delay: float = 0.0,
        body: bytes | None = None,
        content_type: str | None = None,
        drop: bool = False,
        truncate: int | None = None,
        hang: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Script trouble for the next `times` requests that match.

        `path_pattern` is a shell pattern over the path without prefix and query (`/v1/videos/*`,
        `/media/*`); `method` may be `*`. Without `after_accept` the request changes nothing; with
        it the request takes effect and only its reply is replaced. The reply is: `body` (HTTP
        `status`, by default 200), or an error envelope from `status` and `code` (each follows from
        the other; neither: 500 / 5000) with `message`, in which `{prompt}` is replaced by the
        request's prompt; `drop` closes the connection instead; `hang` holds it silently for so
        many seconds first. With only `delay` (seconds), `truncate` (bytes of the body that are
        sent) or `content_type`, the genuine reply goes out late, cut or under that type.
        Raises: UsageError: `times` < 1 or a negative number.
        """
        extra = tuple((headers or {}).items())
        self.faults.add(
            Fault(
                method, path_pattern, status, code, message, times, after_accept, delay, body, content_type,
                drop, truncate, hang, extra,
            )
        )  # fmt: skip

    def handle(self, request: Request) -> Delivery:
        """Answer one request; never waits itself (the server does what `Delivery` says)."""
        route = normalise(request.path, self.prefix)
        with self._lock:
            seen = self._record(request, route)
            fault = self.faults.take(request.method, route)
            if fault is None:
                response = self._answer(request, route, seen)
                seen.status = response.status
                return Delivery(response)
            genuine = self._answer(request, route, seen) if fault.accepts else None
            if fault.drop or fault.hang is not None:
                return Delivery(None, fault.delay, hang=fault.hang)
            if fault.keeps_reply and genuine is not None:
                response = fault.distort(genuine)
            else:
                response = fault.reply(_prompt_of(request))
            seen.status = response.status
            return Delivery(response, fault.delay, fault.truncate)

    def accept(self, product: Product, order: Order, caller: Identity) -> Task | Refusal:
        """Make a task of a valid order, or refuse it: model, policy, id, rate, concurrency, in this order."""
        now = self.now_ms()
        refusal = self._refusal(product, order, now)
        if refusal is not None:
            return refusal
        start = now + round(self.queue_seconds * 1000 / self.clock.speed)
        task = Task(
            task_id=self.book.new_id(now),
            path=product.path,
            pack=product.pack,
            product_type=product.product_type,
            order=order,
            caller=caller.name,
            created_ms=now,
            start_ms=start,
            end_ms=start + round(self.render_seconds * 1000 / self.clock.speed),
            outputs=(Output("video", self.book.new_id(now)),),
            failure=f"Failed to generate: {order.prompt}" if _has(order.prompt, self.failing_words) else "",
        )
        self.book.add(task)
        return task

    def media_path(self, task: Task, output: Output, *, marked: bool) -> str:
        """Path and query of a result's hotlink-protected address; good for 30 days."""
        name = f"{MEDIA_ROOT}{task.task_id}/{output.output_id}{'-watermark' if marked else ''}.mp4"
        expires = (task.end_ms + LINK_LIFETIME_MS) // 1000
        return f"{name}?expires={expires}&token={self._link_token(name, str(expires))}"

    def _refusal(self, product: Product, order: Order, now_ms: int) -> Refusal | None:
        if order.model in self.discontinued:
            return Refusal(1203, f"The model '{order.model}' has been discontinued and is no longer available.")
        if _has(order.prompt, self.blocked_words):
            return Refusal(1301, f"Failure to pass the risk control system: {order.prompt}")
        if order.external_id and self.book.by_external_id(order.external_id) is not None:
            return Refusal(1201, f"External_task_id {order.external_id} already exists")
        if self._too_fast(now_ms):
            return Refusal(1302)
        in_use = self.book.slots_in_use(product.pack, order.version, now_ms)
        if in_use + order.slots > self.concurrency.get(product.pack, 0):
            return Refusal(1303)
        return None

    def _too_fast(self, now_ms: int) -> bool:
        if self.rate_limit is None:
            return False
        count, seconds = self.rate_limit
        while self._recent_creates and self._recent_creates[0] <= now_ms - seconds * 1000:
            self._recent_creates.popleft()
        if len(self._recent_creates) >= count:
            return True
        self._recent_creates.append(now_ms)
        return False

    def _record(self, request: Request, route: str) -> Received:
        kept = request.body if len(request.body) <= MAX_KEPT_BODY else b""
        digest = hashlib.sha256(request.body).hexdigest()
        seen = Received(
            request.method, request.path, route, request.query, dict(request.headers), kept, digest, self.now_ms()
        )
        if len(self.requests) >= MAX_KEPT_REQUESTS:
            del self.requests[: MAX_KEPT_REQUESTS // 2]
        self.requests.append(seen)
        return seen

    def _answer(self, request: Request, path: str, seen: Received) -> Response:
        if path.startswith(MEDIA_ROOT):
            return self._media(request, path)
        route = find_route(path)
        if route is None:
            return Refusal(1203).response()
        handler = route.methods.get(request.method)
        if handler is None:
            return Refusal(1202).response()
        caller = self.credentials.authenticate(
            request.headers.get("authorization"), tokens=route.tokens, now_ms=self.now_ms()
        )
        if isinstance(caller, Refusal):
            return caller.response()
        seen.caller = caller
        before = len(self.book)
        answer = handler(Call(self, request, caller, route.rest))
        if len(self.book) > before:
            seen.task_id = next(task for _, task in self.book.newest_first()).task_id
        return answer.response() if isinstance(answer, Refusal) else answer

    def _media(self, request: Request, path: str) -> Response:
        """A result's bytes. No Authorization is asked for; the token in the query string is."""
        if request.method != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        params = request.params
        expires, token = params.get("expires", ""), params.get("token", "")
        if not hmac.compare_digest(self._link_token(path, expires).encode(), token.encode()):
            return _plain(HTTPStatus.FORBIDDEN)
        task_id, _, name = path.removeprefix(MEDIA_ROOT).partition("/")
        task, now = self.book.by_id(task_id), self.now_ms()
        if task is None or task.status(now) != "succeeded":
            return _plain(HTTPStatus.NOT_FOUND)
        if now >= int(expires) * 1000:
            return _plain(HTTPStatus.FORBIDDEN)
        hop = int(params.get("hop", "0")) if params.get("hop", "0").isdecimal() else 0
        if hop < self.media_redirects:
            target = f"{request.base_url}{path}?expires={expires}&token={token}&hop={hop + 1}"
            return Response(HTTPStatus.FOUND, b"", "text/plain", (("Location", target),))
        video = media.render(name.encode() + self._link_key, task.order.aspect_ratio, task.frames)
        return Response(HTTPStatus.OK, video, "video/mp4", (("Cache-Control", "private"),))

    def _link_token(self, path: str, expires: str) -> str:
        return hmac.new(self._link_key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def _plain(status: HTTPStatus) -> Response:
    return Response(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")


def _has(prompt: str, words: tuple[str, ...]) -> bool:
    folded = prompt.casefold()
    return any(word.casefold() in folded for word in words)


def _prompt_of(request: Request) -> str:
    body = parse_object(request.body)
    prompt = "" if isinstance(body, Refusal) else pick(body, "prompt", "")
    return prompt if isinstance(prompt, str) else ""
