"""The simulated account: state as plain attributes, one entry point for requests. Thread-safe."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator.accounts import Accounts
from klingai_audit.kling.simulator.auth import Credentials, Identity
from klingai_audit.kling.simulator.callbacks import Callbacks
from klingai_audit.kling.simulator.calls import Call
from klingai_audit.kling.simulator.clock import Clock, RealClock
from klingai_audit.kling.simulator.downloads import MEDIA_ROOT, Downloads
from klingai_audit.kling.simulator.faults import Delivery, Fault, FaultScript
from klingai_audit.kling.simulator.fields import pick
from klingai_audit.kling.simulator.messages import Refusal, Request, Response, parse_object
from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.records import View
from klingai_audit.kling.simulator.routes import find_route, normalise
from klingai_audit.kling.simulator.sessions import SessionBook
from klingai_audit.kling.simulator.tasks import Order, Output, Payment, Task, TaskBook

MAX_KEPT_REQUESTS = 10_000
MAX_KEPT_BODY = 64 * 1024


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
    `concurrency` (pack type -> tasks at once per model version), `account` (resource packs, wallet,
    deductions), `blocked_words` (a prompt with one is refused with 1301), `failing_words` (the task
    ends as failed), `discontinued` (model names switched off), `rate_limit` ((creates, seconds) or
    None), `queue_seconds` and `render_seconds` (of each new task, divided by the clock's speed),
    `media_redirects` (redirect hops before a download's bytes), `media_origin` (scheme and host of the
    addresses of results, e.g. `https://films.example`; empty: as the simulator was asked), `prefix`
    (optional path prefix, e.g. `/kling`), `strict_media` (base64 pictures must be real, 300 pixels wide
    and high), `costs_lag_seconds`
    (how old the remaining quantity of `/account/costs` is; up to 12 hours at the real one),
    `ledger_lag_seconds` (how late deductions appear in the ledgers; not documented of the real ones),
    `costs_per_second` (calls of `/account/costs` per second, or None), `clock_offset_seconds` (how far
    the provider's clock is ahead of `clock`, in records, tokens and callbacks; set it before the first task).
    `requests` holds the last requests, at least 5,000 of them; `book` the tasks; `callbacks` what is
    sent to `callback_url`, its secrets and scripted trouble. `lock` guards all of it.
    """

    def __init__(self, clock: Clock | None = None, *, prefix: str = "") -> None:
        self.clock: Clock = clock if clock is not None else RealClock()
        self.clock_offset_seconds = 0.0
        self.prefix = prefix.rstrip("/")
        self.credentials = Credentials.default()
        self.concurrency: dict[str, int] = {"video": 5, "image": 9, "audio": 5, "try-on": 5}
        self.account = Accounts.default(self.now_ms())
        self.blocked_words: tuple[str, ...] = ("forbidden",)
        self.failing_words: tuple[str, ...] = ("doomed",)
        self.discontinued: set[str] = set()
        self.rate_limit: tuple[int, float] | None = None
        self.queue_seconds = 2.0
        self.render_seconds = 28.0
        self.media_redirects = 0
        self.media_origin = ""
        self.strict_media = False
        self.costs_lag_seconds = 0.0
        self.ledger_lag_seconds = 0.0
        self.costs_per_second: float | None = None
        self.requests: list[Received] = []
        self.book = TaskBook()
        self.faults = FaultScript()
        self.lock = threading.RLock()
        self.sessions = SessionBook()
        self.deleted: set[str] = set()
        self.downloads = Downloads(self)
        self.callbacks = Callbacks(self)
        self._recent_creates: deque[int] = deque()
        self._last_costs_ms = 0
        self._made: Task | None = None
        self._hold = False

    @property
    def tasks(self) -> list[Task]:
        """All tasks, oldest first."""
        with self.lock:
            return list(self.book)

    def task(self, any_id: str) -> Task:
        """The task with this task id or external id. Raises: UsageError: there is none."""
        with self.lock:
            found = self.book.by_id(any_id) or self.book.by_external_id(any_id)
        if found is None:
            raise UsageError(f"the simulator has no task {any_id}")
        return found

    def now_ms(self) -> int:
        """The provider's time, ms since the epoch."""
        return self.clock.now_ms() + round(self.clock_offset_seconds * 1000)

    def calls(self, method: str = "*", path_pattern: str = "*") -> list[Received]:
        """The received requests with this method and normalised path (`*` matches anything)."""
        wanted = Fault(method, path_pattern)
        with self.lock:
            return [seen for seen in self.requests if wanted.matches(seen.method, seen.route)]

    def revoke(self, key: str) -> None:
        """Refuse this API key or AccessKey from now on: 401 / 1002 (our choice, the real code is unknown)."""
        with self.lock:
            self.credentials.revoke(key)

    def add_api_key(self, key: str, name: str) -> None:
        """Accept a further API key under a name."""
        with self.lock:
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

    def handle(self, request: Request, *, hold: bool = False) -> Delivery:
        """Answer one request; never waits itself (the server does what `Delivery` says).

        `hold` keeps the callbacks of a new task back until `callbacks.release`.
        """
        route = normalise(request.path, self.prefix)
        with self.lock:
            self._hold = hold
            seen = self._record(request, route)
            fault = self.faults.take(request.method, route)
            if fault is None:
                response = self._answer(request, route, seen)
                seen.status = response.status
                return Delivery(response, task_id=seen.task_id)
            genuine = self._answer(request, route, seen) if fault.accepts else None
            if fault.drop or fault.hang is not None:
                return Delivery(None, fault.delay, hang=fault.hang, task_id=seen.task_id)
            if fault.keeps_reply and genuine is not None:
                response = fault.distort(genuine)
            else:
                response = fault.reply(_prompt_of(request))
            seen.status = response.status
            return Delivery(response, fault.delay, fault.truncate, task_id=seen.task_id)

    def accept(self, product: Product, order: Order, caller: Identity, base_url: str = "") -> Task | Refusal:
        """Make a task of a valid order, or refuse it: model, policy, id, account, rate, concurrency, in this order."""
        now = self.now_ms()
        payment = self.account.payment(product.pack, order.units, now)
        refusal = self._refusal(order) or payment
        if isinstance(refusal, Refusal):
            return refusal
        at_once = product.reply is not None
        limit = self._limit(product, order, now)
        if limit is not None:
            return limit
        start = now if at_once else now + round(self.queue_seconds * 1000 / self.clock.speed)
        fails = not at_once and _has(order.prompt, self.failing_words)
        task = Task(
            task_id=self.book.new_id(now),
            path=product.path,
            pack=product.pack,
            product_type=product.product_type,
            order=order,
            caller=caller.name,
            created_ms=now,
            start_ms=start,
            end_ms=start if at_once else start + round(self.render_seconds * 1000 / self.clock.speed),
            outputs=tuple(replace(made, output_id=self.book.new_id(now)) for made in order.makes),
            failure=f"Failed to generate: {order.prompt}" if fails else "",
            function=product.function,
            generation=product.generation,
            api_key_name=caller.name if caller.kind == "api_key" else "",
            base_url=base_url,
            payment=payment if isinstance(payment, Payment) else None,
        )
        self.book.add(task, listed=not at_once)
        self.account.accept(task)
        self.account.settle(now)
        self.callbacks.track(task, hold=self._hold)
        self._made = task
        return task

    def view(self, base_url: str, now_ms: int | None = None, materials: str = "references") -> View:
        """What a reader who reached the simulator under `base_url` sees, by default now."""

        def address(task: Task, output: Output, form: str, part: str) -> str:
            return (self.media_origin or base_url) + self.downloads.path(task, output, form, part)

        return View(self.now_ms() if now_ms is None else now_ms, address, frozenset(self.deleted), materials)

    def media_path(self, task: Task, output: Output, *, marked: bool = False) -> str:
        """Path and query of a result's hotlink-protected address; good for 30 days."""
        return self.downloads.path(task, output, part="watermark" if marked else "")

    def costs_too_fast(self) -> bool:
        """Whether `/account/costs` is asked for more often than `costs_per_second` allows."""
        now, last = self.now_ms(), self._last_costs_ms
        self._last_costs_ms = now
        return self.costs_per_second is not None and now - last < 1000 / self.costs_per_second

    def _refusal(self, order: Order) -> Refusal | None:
        if order.model in self.discontinued:
            return Refusal(1203, f"The model '{order.model}' has been discontinued and is no longer available.")
        if _has(order.prompt, self.blocked_words):
            return Refusal(1301, f"Failure to pass the risk control system: {order.prompt}")
        if order.external_id and self.book.by_external_id(order.external_id) is not None:
            return Refusal(1201, f"External_task_id {order.external_id} already exists")
        return None

    def _limit(self, product: Product, order: Order, now_ms: int) -> Refusal | None:
        if self._too_fast(now_ms):
            return Refusal(1302)
        if product.reply is not None:
            return None
        in_use = self.book.slots_in_use(product.pack, order.version, now_ms)
        most = self.account.concurrency(product.pack, self.concurrency.get(product.pack, 0), now_ms)
        return Refusal(1303) if in_use + order.slots > most else None

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
        now = self.now_ms()
        self.account.settle(now)
        self.book.clear(now)
        if path.startswith(MEDIA_ROOT):
            return self.downloads.serve(request, path)
        route = find_route(path)
        if route is None:
            return Refusal(1203).response()
        handler = route.methods.get(request.method)
        if handler is None:
            return Refusal(1202).response()
        caller = self.credentials.authenticate(request.headers.get("authorization"), tokens=route.tokens, now_ms=now)
        if isinstance(caller, Refusal):
            return caller.response()
        seen.caller = caller
        answer = handler(Call(self, request, caller, route.rest))
        made, self._made = self._made, None
        if made is not None:
            seen.task_id = made.task_id
        return answer.response() if isinstance(answer, Refusal) else answer


def _has(prompt: str, words: tuple[str, ...]) -> bool:
    folded = prompt.casefold()
    return any(word.casefold() in folded for word in words)


def _prompt_of(request: Request) -> str:
    body = parse_object(request.body)
    prompt = "" if isinstance(body, Refusal) else pick(body, "prompt", "")
    return prompt if isinstance(prompt, str) else ""
