"""A log as a small team leaves it in some weeks, for tests of reports: generations, refusals, charges, open ends.

Made through `AuditLog` with a clock that the script moves; everything follows from the seed but pseudonyms and keys.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klingai_audit import AuditLog
from klingai_audit.durable import FileOps
from klingai_audit.event.record import Draft, end_event_id
from klingai_audit.testing import HandClock

START = dt.datetime(2026, 9, 1, 8, tzinfo=dt.UTC)
PEOPLE = (
    ("user@example.com", "studio-a"),
    ("info@example.org", "studio-b"),
    ("artist@example.org", "studio-b"),
    ("render-service", None),
)
MODELS = ("kling-3.0-turbo", "kling-v2-5-turbo", "kling-v2-master")


class Hasty(FileOps):
    """The real operations, but nobody waits for the disk."""

    def sync(self, fd: int) -> None:
        """Do nothing."""


class Team:
    """Writes what a team does, in order; `clock` is the log's."""

    def __init__(self, folder: Path, seed: int = 7, start: dt.datetime = START) -> None:
        self.folder = folder
        self.clock = HandClock(start)
        self.random = random.Random(seed)
        self.audit = AuditLog.open(folder / "audit", clock=self.clock, ops=Hasty())
        self.tasks = 0

    def close(self) -> Path:
        self.audit.close()
        return self.folder / "audit"

    def put(self, event_type: str, who: tuple[str, str | None], **members: Any) -> Any:
        actor, team = who
        kind = "user" if "@" in actor else "service"
        draft = Draft(
            event_type=event_type, actor_id=actor, actor_type=kind, team=team, ip_address="192.168.1.100", **members
        )
        return self.audit.record(draft)

    def generation(
        self, who: tuple[str, str | None], model: str, end: str = "success", charge: Any = None, product: str = "video"
    ) -> str:
        """One generation: `end` is success, failure, refused, open, dangling or lost."""
        self.tasks += 1
        task = f"8312{self.tasks:08d}"
        act = f"text_to_{product}"
        facts: Mapping[str, Any] = {"phase": "intent", "deadline_s": 300, "model": model, "prompt": "a lake at dawn"}
        intent = self.put("prompt_submitted", who, resource_type=product, action=act, metadata=facts)
        intent.wait()
        about = {"correlation_id": intent.event_id}
        self.clock.advance(2)
        if end == "dangling":
            return task
        named = {"intent": intent.event_id, "model": model}
        if end == "refused":
            kind = self.random.choice(("rate_limit_exceeded", "policy_violation", "policy_violation", "access_denied"))
            code = {"rate_limit_exceeded": 1302, "policy_violation": 1301, "access_denied": 1103}[kind]
            self.put(
                kind,
                who,
                resource_type=product,
                action=act,
                outcome="blocked",
                metadata={**named, "code": code},
                **about,
            )
            return task
        if end == "lost":
            kind = f"{product}_generation_started"
            self.put(kind, who, resource_type=product, action=act, outcome="unknown", metadata=named, **about)
            return task
        self.put(
            f"{product}_generation_started", who, resource_type=product, resource_id=task, action=act,
            metadata={**named, "elapsed_ms": 800}, **about,
        )  # fmt: skip
        self.clock.advance(self.random.randint(60, 400))
        if end == "open":
            return task
        well = end == "success"
        more = {} if charge is None else {"charge": charge}
        self.audit.record(
            Draft(
                event_type=f"{product}_generation_{'completed' if well else 'failed'}",
                actor_id=who[0], actor_type="user", team=who[1], ip_address="192.168.1.100",
                resource_type=product, resource_id=task, action="get_task", outcome="success" if well else "failure",
                correlation_id=intent.event_id,
                metadata={"model": model, "status": "succeed" if well else "failed", **more},
                event_id=end_event_id(self.audit.origin, task, "succeeded" if well else "failed"),
            ),
            once=True,
        )  # fmt: skip
        if well and self.random.random() < 0.8:
            self.put(
                f"{product}_downloaded", who, resource_type=product, resource_id=task, action="download",
                metadata={"bytes": 31798, "sha256": f"{self.tasks:064x}"}, **about,
            )  # fmt: skip
        return task


def units(amount: str, package: str = "video") -> list[dict[str, str]]:
    """What an end states as charged to a pack."""
    return [{"charge_type": "unit", "amount": amount, "package_type": package}]


def cash(amount: str) -> list[dict[str, str]]:
    """What an end states as charged in money."""
    return [{"charge_type": "cash", "amount": amount, "currency": "USD"}]


def busy_log(folder: Path, days: int = 80, *, calm: bool = False) -> Path:
    """Write some weeks of a team's work and return the log's folder; `calm` leaves out what is odd."""
    team = Team(folder)
    people = PEOPLE
    for who in people[:3]:
        team.audit.log(
            "user_added", "boss@example.com", "user", "add", resource_id=who[0], actor_type="admin", team=who[1]
        )
    for day in range(days):
        team.clock.advance(3600 * team.random.uniform(0.4, 1))
        busy = team.random.randint(0, 5 if day % 7 < 5 else 1)
        for _ in range(busy):
            who = team.random.choices(people, weights=(5, 3, 2, 4))[0]
            model = team.random.choices(MODELS, weights=(6, 3, 1))[0]
            chance = team.random.random()
            end = "success" if calm or chance < 0.8 else "failure" if chance < 0.88 else "refused"
            if team.random.random() < 0.25:
                team.generation(who, "kling-image-3", end, units("0.5", "image") if end == "success" else None, "image")
            else:
                charge = units("5") if model != "kling-v2-master" else cash("0.35")
                team.generation(who, model, end, charge if end == "success" and day % 9 else None)
        if day % 30 == 10:
            team.audit.log(
                "budget_modified", "boss@example.com", "budget", "raise", resource_id="studio-a", actor_type="admin",
                ip_address="192.168.1.7", old=100, new=250,
            )  # fmt: skip
        team.audit.flush()
        midnight = (START + dt.timedelta(days=day + 1)) - team.clock.now
        team.audit.close()
        team.clock.advance(max(60.0, midnight.total_seconds()))
        team.audit = AuditLog.open(folder / "audit", clock=team.clock, ops=Hasty())
    if not calm:
        team.generation(people[0], MODELS[0], "open")
        team.generation(people[1], MODELS[1], "dangling")
        team.audit.log("suspicious_activity", "detector", "log", "detect", outcome="success",
                       actor_type="system", rule="refusal-burst", finding="studio-b 2026-11-18")  # fmt: skip
        team.audit.log("report_generated", "auditor@example.com", "log", "report", actor_type="user")
        team.clock.advance(3000)
    team.audit.log("log_queried", "auditor@example.com", "log", "query", actor_type="user", tree_size=10)
    return team.close()
