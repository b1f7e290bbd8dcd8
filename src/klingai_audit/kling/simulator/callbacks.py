"""Callbacks: what is sent to `callback_url` when a task's status changes. Source: fact sheet section 5.

What the sheet leaves open is decided here: a callback is tried three times, 1 and 5 seconds
apart (`retry_after`); any reply but 200, and none within `timeout` seconds, counts as a failure;
callbacks of legacy paths are signed like the others (`sign_legacy`); the body's shape follows
from the path of the create call. States that a task passed in no time are not told.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import records
from klingai_audit.kling.simulator.courier import post
from klingai_audit.kling.simulator.signing import PREFIX, SecretRing, signature_headers
from klingai_audit.kling.simulator.tasks import RETENTION_MS, Status, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

CallbackFault = Literal["duplicate", "reorder", "early", "drop", "unsigned", "forged", "tampered", "stale"]
FAULTS: tuple[CallbackFault, ...] = (
    "duplicate", "reorder", "early", "drop", "unsigned", "forged", "tampered", "stale",
)  # fmt: skip
STALE_SECONDS = 600
TEST_INTERVAL_MS = 6000
POLL_SECONDS = 0.02
MAX_KEPT = 10_000


@dataclass(slots=True)
class SentCallback:
    """One attempt to deliver a callback, kept for tests to look at."""

    task_id: str
    state: str
    """The status that is told, in the words of the new design."""
    url: str = field(repr=False)
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)
    attempt: int
    """Counts from 1."""
    status: int | None
    """HTTP status of the receiver's reply; None: no reply."""
    at_ms: int
    fault: str = ""


@dataclass(slots=True)
class _Tracked:
    """A task that wants callbacks, and how far it has been told."""

    task: Task
    told: int = 0
    """How many of its status changes have been sent."""
    waiting: list[_Notice] = field(default_factory=list)
    """Notices that were put behind the next one."""
    held: bool = False
    """The create reply is not out yet."""


@dataclass(slots=True)
class _Notice:
    """One callback with its headers; a repeated delivery is the same notice."""

    task_id: str
    state: str
    url: str
    headers: dict[str, str]
    body: bytes
    fault: str = ""
    attempt: int = 1
    due: float = 0.0
    """Monotonic seconds before which it is not tried again."""


@dataclass(slots=True)
class _Script:
    fault: CallbackFault
    state: str
    path_pattern: str
    times: int


class Callbacks:
    """The callbacks of one simulator. `sent` holds every attempt, `secrets` signs (none: unsigned)."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self.secrets = SecretRing()
        self.sign_legacy = True
        self.retry_after: tuple[float, ...] = (1.0, 5.0)
        """Seconds of real time after each failed attempt; one more attempt than members."""
        self.timeout = 5.0
        self.ca_file: str | None = None
        """Certificate authority to trust for https receivers, besides the system's."""
        self.sent: list[SentCallback] = []
        self._tracked: list[_Tracked] = []
        self._retries: list[_Notice] = []
        self._scripts: list[_Script] = []
        self._last_test_ms: int | None = None
        self._sending = threading.Lock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._users = 0

    def use_secret(self, secret: str) -> None:
        """Sign callbacks with this secret (`whsec_…`) from now on. Raises: UsageError: it is malformed."""
        self.secrets.create(secret)

    def rotate_secret(self, secret: str = "", *, emergency: bool = False) -> str:
        """Change to another secret (default: a fresh one) and return it.

        For 7 days both sign; in an emergency the old one is dropped at once.
        """
        fresh = secret or _fresh_secret()
        self.secrets.rotate(fresh, now_ms=self._sim.now_ms(), emergency=emergency)
        return fresh

    def script(self, fault: CallbackFault, *, state: str = "*", path_pattern: str = "*", times: int = 1) -> None:
        """Script trouble for the next `times` callbacks of this state and create path.

        `state` is a status of the new design or `*`. `duplicate` sends the same callback twice;
        `reorder` puts it behind the task's next one; `early` sends it before the create reply goes
        out (needs a task that has got so far by then); `drop` never sends it; `unsigned` leaves the
        signature out; `forged` signs with another secret; `tampered` changes the body after signing;
        `stale` carries and signs a time ten minutes ago. Raises: UsageError: no such fault or `times` < 1.
        """
        if fault not in FAULTS or times < 1:
            raise UsageError(f"a callback fault is one of {', '.join(FAULTS)}, with times >= 1")
        with self._sim.lock:
            self._scripts.append(_Script(fault, state, path_pattern, times))

    def deliver(self) -> list[SentCallback]:
        """Send everything that is due now, retries included, and return the attempts."""
        return self._deliver(lambda _: True)

    def wait(self, count: int, timeout: float = 10.0) -> list[SentCallback]:
        """Wait until at least `count` attempts were made, then return all of them.

        Raises: UsageError: `timeout` seconds were not enough.
        """
        deadline = time.monotonic() + timeout
        while len(self.sent) < count:
            if time.monotonic() >= deadline:
                raise UsageError(f"{len(self.sent)} of {count} callbacks were sent within {timeout} seconds")
            time.sleep(POLL_SECONDS / 2)
        return list(self.sent)

    def send_test(self, url: str) -> SentCallback:
        """The console's test callback. Raises: UsageError: less than 6 seconds after the last one."""
        now, last = self._sim.now_ms(), self._last_test_ms
        if last is not None and now - last < TEST_INTERVAL_MS:
            raise UsageError("a test callback can be sent once in 6 seconds")
        self._last_test_ms = now
        task_id = self._sim.book.new_id(now)
        record = {"id": task_id, "status": "submitted", "message": "", "create_time": now, "update_time": now}
        body = json.dumps({**record, "outputs": [], "billing": []}, separators=(",", ":")).encode()
        return self._send(self._notice(task_id, "submitted", url, body, self.secrets.valid(now)))

    def forge(self, url: str, record: Mapping[str, Any], *, secret: str = "") -> SentCallback:
        """Send somebody else's callback: any body, unsigned or signed with `secret`."""
        body = json.dumps(record, separators=(",", ":")).encode()
        known = record.get("id") or record.get("task_id") or ""
        state = record.get("status") or record.get("task_status") or ""
        notice = self._notice(str(known), str(state), url, body, (secret,) if secret else ())
        notice.fault = "forged"
        return self._send(notice)

    def track(self, task: Task, *, hold: bool) -> None:
        """Tell of this task's changes from now on; `hold` waits for `release`. Callers hold the lock."""
        if task.order.callback_url:
            self._tracked.append(_Tracked(task, held=hold))
            self._work.set()

    def before_reply(self, task_id: str) -> None:
        """Send what was scripted to come before the create reply of this task."""
        with self._sim.lock:
            early = any(
                script.fault == "early" and fnmatchcase(tracked.task.path, script.path_pattern)
                for tracked in self._tracked
                if tracked.task.task_id == task_id
                for script in self._scripts
            )
        if early:
            self._deliver(lambda tracked: tracked.task.task_id == task_id)

    def release(self, task_id: str) -> None:
        """The create reply is out: the task's callbacks may go."""
        with self._sim.lock:
            for tracked in self._tracked:
                if tracked.task.task_id == task_id:
                    tracked.held = False
        self._work.set()

    def start(self) -> None:
        """Deliver in the background; called by each server that serves the simulator."""
        self._users += 1
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="kling-callbacks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the background delivery when the last server stops; waits for the attempt under way."""
        self._users -= 1
        thread = self._thread
        if self._users > 0 or thread is None:
            return
        self._thread = None
        self._stopping.set()
        self._work.set()
        thread.join(self.timeout + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._tracked and not self._retries:
                self._work.wait()
            self._work.clear()
            self._deliver(lambda tracked: not tracked.held, background=True)
            self._stopping.wait(POLL_SECONDS)

    def _deliver(self, wanted: Callable[[_Tracked], bool], *, background: bool = False) -> list[SentCallback]:
        """Collect under the simulator's lock, send without it."""
        with self._sending:
            with self._sim.lock:
                notices = [*self._due_retries(), *self._due_notices(wanted)]
            done = []
            for notice in notices:
                if background and self._stopping.is_set():
                    break
                attempt = self._send(notice)
                done.append(attempt)
                if attempt.status != 200 and notice.attempt <= len(self.retry_after):
                    notice.due = time.monotonic() + self.retry_after[notice.attempt - 1]
                    notice.attempt += 1
                    self._retries.append(notice)
            return done

    def _due_retries(self) -> list[_Notice]:
        now = time.monotonic()
        due = [notice for notice in self._retries if notice.due <= now]
        self._retries = [notice for notice in self._retries if notice.due > now]
        return due

    def _due_notices(self, wanted: Callable[[_Tracked], bool]) -> list[_Notice]:
        now, notices = self._sim.now_ms(), []
        for tracked in self._tracked:
            if not wanted(tracked):
                continue
            changes = _changes(tracked.task)
            while tracked.told < len(changes) and changes[tracked.told][1] <= now:
                state, at_ms = changes[tracked.told]
                tracked.told += 1
                notices += self._made(tracked, state, at_ms, last=tracked.told == len(changes))
        self._tracked = [
            tracked
            for tracked in self._tracked
            if tracked.told < len(_changes(tracked.task)) and now < tracked.task.end_ms + RETENTION_MS
        ]
        return notices

    def _made(self, tracked: _Tracked, state: Status, at_ms: int, *, last: bool) -> list[_Notice]:
        """The notices that one status change leads to, after its scripted trouble."""
        task = tracked.task
        fault = self._take(state, task.path)
        body = json.dumps(self._record(task, at_ms), ensure_ascii=False, separators=(",", ":")).encode()
        keys = self.secrets.valid(self._sim.now_ms()) if self.sign_legacy or task.generation == "new" else ()
        if fault == "drop":
            return []
        notice = self._notice(task.task_id, state, task.order.callback_url, body, keys, fault)
        if fault == "reorder" and not last:
            tracked.waiting.append(notice)
            return []
        made = [notice, *tracked.waiting]
        tracked.waiting = []
        return [notice, *made] if fault == "duplicate" else made

    def _record(self, task: Task, at_ms: int) -> dict[str, Any]:
        """The bare record at the moment of the change: no envelope."""
        view = self._sim.view(task.base_url, at_ms, "materials")
        if task.generation == "new":
            return records.new_record(task, view)
        record = records.legacy_record(task, view)
        record.pop("watermark_info")
        return record

    def _notice(
        self, task_id: str, state: str, url: str, body: bytes, keys: tuple[str, ...], fault: str = ""
    ) -> _Notice:
        message_id, timestamp = self._sim.book.new_id(self._sim.now_ms()), self._sim.now_ms() // 1000
        if fault == "stale":
            timestamp -= STALE_SECONDS
        if fault == "unsigned":
            keys = ()
        elif fault == "forged":
            keys = (_fresh_secret(),)
        headers = signature_headers(keys, message_id, timestamp, body)
        if fault == "tampered":
            body = body[:-1] + b',"tampered":true}'
        return _Notice(task_id, state, url, headers, body, fault)

    def _send(self, notice: _Notice) -> SentCallback:
        headers = {"content-type": "application/json", **notice.headers}
        status = post(notice.url, headers, notice.body, timeout=self.timeout, ca_file=self.ca_file)
        made = SentCallback(
            notice.task_id, notice.state, notice.url, headers, notice.body, notice.attempt, status,
            self._sim.now_ms(), notice.fault,
        )  # fmt: skip
        if len(self.sent) >= MAX_KEPT:
            del self.sent[: MAX_KEPT // 2]
        self.sent.append(made)
        return made

    def _take(self, state: str, path: str) -> str:
        for script in self._scripts:
            if script.state in ("*", state) and fnmatchcase(path, script.path_pattern):
                script.times -= 1
                if script.times == 0:
                    self._scripts.remove(script)
                return script.fault
        return ""


def _changes(task: Task) -> list[tuple[Status, int]]:
    """The states that the task is in for some time, and when each begins."""
    changes: list[tuple[Status, int]] = []
    if task.start_ms > task.created_ms:
        changes.append(("submitted", task.created_ms))
    if task.end_ms > task.start_ms:
        changes.append(("processing", task.start_ms))
    return [*changes, (task.status(task.end_ms), task.end_ms)]


def _fresh_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
