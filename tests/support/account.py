"""A simulated account without a network: a log in memory, clients that speak to the simulator in this process."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import httpx2

from klingai_audit import AuditLog, acting
from klingai_audit.kling import KlingAI
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import DEFAULT_API_KEY, ManualClock, Request, Simulator
from klingai_audit.reconcile import Result, reconcile
from klingai_audit.testing import memory_log

HOUR = 3600.0
DAY = 24 * HOUR
RETRIES = Retries(attempts=3, first=0.001, cap=0.002)


class Inside(httpx2.BaseTransport):
    """Hands requests to a simulator in this process."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        path, query = request.url.path, request.url.query.decode()
        asked = Request(request.method, path, query, headers, request.read(), "http://localhost")
        answer = self._simulator.handle(asked).response
        if answer is None:
            raise httpx2.ReadError("the connection was closed")
        return httpx2.Response(answer.status, content=answer.body, headers={"content-type": answer.content_type})


@dataclass
class Account:
    """One account and one log; `began` is when both began, by the real clock."""

    audit: AuditLog
    sim: Simulator
    clock: ManualClock
    began: dt.datetime

    def client(self, **more: Any) -> KlingAI:
        """Return an audited client with an API key, unless `more` says otherwise."""
        key = {} if "access_key" in more else {"api_key": DEFAULT_API_KEY}
        return KlingAI(
            audit=self.audit, base_url="http://localhost:1", transport=Inside(self.sim), trust_env=False,
            **{"retries": RETRIES, **key, **more},
        )  # fmt: skip

    def around(self, path: str = "/text-to-video/kling-3.0", key: str = DEFAULT_API_KEY, **body: Any) -> str:
        """Order something without the log; returns the task's id."""
        content = json.dumps({"prompt": "nobody knows", **body}).encode()
        asked = Request("POST", path, "", {"authorization": f"Bearer {key}"}, content, "http://localhost")
        answer = self.sim.handle(asked).response
        assert answer is not None
        assert answer.status == 200, answer.body
        data = json.loads(answer.body)["data"]
        return str(data.get("id") or data["task_id"])

    @property
    def now(self) -> dt.datetime:
        """The simulator's time."""
        return dt.datetime.fromtimestamp(self.clock.now_ms() / 1000, dt.UTC)

    def settle(self) -> None:
        """Let every task end and its deduction be written."""
        self.clock.advance(120)
        self.sim.account.settle(self.clock.now_ms())

    def reconcile(self, begin: Any = None, end: Any = None, *, client: KlingAI | None = None, **more: Any) -> Result:
        """Compare, at the simulator's time, which is a second later than ours if it was not later anyway."""
        behind = (dt.datetime.now(dt.UTC) - self.now).total_seconds()
        self.clock.advance(max(0.0, behind) + 1)
        made = client or self.client()
        with made:
            return reconcile(self.audit, made, begin, end, now=more.pop("now", self.now), **more)

    def change_deduction(self, task_id: str, amount: str, *, quietly: bool = False) -> None:
        """Change a line of the ledger; `quietly` also what it left, and everything after it."""
        lines = self.sim.account.deductions
        (position,) = [n for n, line in enumerate(lines) if line.task.task_id == task_id]
        line = lines[position]
        shift = Decimal(amount) - line.payment.amount
        lines[position] = replace(line, payment=replace(line.payment, amount=Decimal(amount)))
        if not quietly:
            return
        lines[position] = replace(lines[position], after=line.after - shift)
        for later in range(position + 1, len(lines)):
            other = lines[later]
            if other.pack is line.pack:
                lines[later] = replace(other, before=other.before - shift, after=other.after - shift)
        if line.pack is not None:
            line.pack.used += shift


@contextmanager
def account(*, actor: str = "tester", team: str | None = "studio-a") -> Iterator[Account]:
    """Give an account whose tasks all fit, and someone acting."""
    clock = ManualClock()
    sim = Simulator(clock)
    sim.concurrency = dict.fromkeys(sim.concurrency, 10_000)
    with memory_log() as audit, acting(actor, team=team):
        yield Account(audit, sim, clock, dt.datetime.now(dt.UTC))
