"""Who plays in the demo, and with what: people, the simulated account, the folder, and how they call Kling.

Ids of people, addresses and keys appear here, prompts in the scenes, and nowhere else: not in the log, not on the
screen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from klingai_audit.event.context import acting
from klingai_audit.kling.client import KlingAI
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import DEFAULT_API_KEY, RealClock, Simulator, SimulatorServer
from klingai_audit.log import AuditLog

SPEED: Final = 100.0
"""How much faster than the real service the simulator renders."""

POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Person:
    """Somebody at work: raw id, team and address, which only the log's door ever sees."""

    id: str
    team: str
    ip: str
    project: str = "launch"


MAKER: Final = Person("user@example.com", "studio-a", "192.0.2.10")
EDITOR: Final = Person("editor@example.com", "studio-a", "192.0.2.57")
ARTIST: Final = Person("artist@example.org", "studio-b", "198.51.100.7")
INTERN: Final = Person("intern@example.org", "studio-b", "198.51.100.23")
LEAD: Final = Person("lead@example.com", "operations", "203.0.113.4")
NEWCOMER: Final = "newcomer@example.org"
PEOPLE: Final = (MAKER, EDITOR, ARTIST, INTERN, LEAD)


class Narrator(Protocol):
    """Told what happens, as it happens; may say nothing."""

    def scene(self, person: Person, words: str) -> None:
        """A person begins something."""
        ...

    def aside(self, words: str) -> None:
        """What a reader should know of the scene."""
        ...

    def result(self, outcome: str, words: str) -> None:
        """It ended; `outcome` is one of the log's four, or `unseen`: the log knows nothing of it."""
        ...


@dataclass(frozen=True)
class ScriptRun:
    """One run of the script that knows nothing of the log; `entries` counts those that name its task."""

    task_id: str
    entries: int


@dataclass
class Stage:
    """The log, the simulated account and the folder for files.

    What the scenes leave: `tasks`, the ids of videos that ended well; `callbacks`, how many callbacks ended in which
    verdict; `script_library` and `script_runs`, the script without and with its added line.
    """

    audit: AuditLog
    simulator: Simulator
    base_url: str
    folder: Path
    narrator: Narrator
    tasks: list[str] = field(default_factory=list)
    callbacks: Counter[str] = field(default_factory=Counter)
    script_library: str = ""
    script_runs: list[ScriptRun] = field(default_factory=list)

    def client(
        self,
        *,
        tries: int = 3,
        api_key: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> KlingAI:
        """Return an audited client of the simulator, with its API key unless another credential is given."""
        return KlingAI(
            audit=self.audit,
            base_url=self.base_url,
            retries=Retries(attempts=tries, first=0.05, cap=0.2),
            trust_env=False,
            api_key=DEFAULT_API_KEY if api_key is None and access_key is None else api_key,
            access_key=access_key,
            secret_key=secret_key,
        )


def open_simulator() -> SimulatorServer:
    """Return a fast simulator on a free port of this machine; start it with `with`."""
    return SimulatorServer(Simulator(RealClock(SPEED)))


def as_person(person: Person) -> acting:
    """Bind a person at work, for a `with` block."""
    return acting(person.id, ip=person.ip, user_agent="studio-app/2.1 (demo)", team=person.team, project=person.project)


def charge_of(task: Any) -> str:
    """Say what a task cost."""
    charges = [f"{charge.amount} {charge.package_type or ''} units".replace("  ", " ") for charge in task.charge]
    return f"charged {', '.join(charges)}" if charges else "no charge stated"
