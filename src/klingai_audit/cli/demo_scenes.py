"""What happens in the demo: a small team makes videos, and most of what can go wrong does.

Everything runs against the local simulator. Prompts, keys, addresses and ids of people appear here and nowhere
else: not in the log, not on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from klingai_audit.event.context import acting
from klingai_audit.event.types import EventType
from klingai_audit.kling.client import KlingAI
from klingai_audit.kling.errors import (
    KlingAuthenticationError,
    KlingOutcomeUnknown,
    KlingPolicyViolation,
    KlingRateLimited,
    KlingTaskFailed,
)
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import (
    DEFAULT_ACCESS_KEY,
    DEFAULT_API_KEY,
    DEFAULT_SECRET_KEY,
    RealClock,
    Simulator,
    SimulatorServer,
)
from klingai_audit.log import AuditLog

SPEED: Final = 100.0
"""How much faster than the real service the simulator renders."""

POLL_SECONDS: Final = 0.1

_PROMPTS: Final = {
    "lake": "A serene mountain lake at sunrise, mist over the water",
    "harbour": "An old harbour in the rain, slow pan along the quay",
    "product": "A ceramic cup turning on a wooden table, soft light",
    "refused": "Something forbidden that the content policy will not have",
    "doomed": "A doomed experiment with too many mirrors",
    "city": "A city at night seen from a train window",
    "desert": "Dunes at noon, heat haze, a single tree",
}


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


class Narrator(Protocol):
    """Told what happens, as it happens; may say nothing."""

    def scene(self, person: Person, words: str) -> None:
        """A person begins something."""
        ...

    def result(self, outcome: str, words: str) -> None:
        """It ended; `outcome` is one of the log's four."""
        ...


@dataclass
class Stage:
    """The log, the simulated account and the folder for videos; `tasks` are the ids of tasks that ended well."""

    audit: AuditLog
    simulator: Simulator
    base_url: str
    videos: Path
    narrator: Narrator
    tasks: list[str] = field(default_factory=list)

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


def play(stage: Stage) -> None:
    """Play all scenes in order. Raises: AuditUnavailable, if the log cannot be written."""
    for scene in (
        _success_with_download,
        _success_in_the_other_generation,
        _content_refusal,
        _rate_limit,
        _new_epoch,
        _rejected_key,
        _failed_task,
        _reply_lost_and_found,
        _reply_lost_for_good,
        _administration,
    ):
        scene(stage)


def _as(person: Person) -> acting:
    return acting(person.id, ip=person.ip, user_agent="studio-app/2.1 (demo)", team=person.team, project=person.project)


def _success_with_download(stage: Stage) -> None:
    stage.narrator.scene(MAKER, "makes a video and downloads it")
    with _as(MAKER), stage.client() as kling:
        task = kling.text_to_video(_PROMPTS["lake"], model="kling-3.0-turbo", duration=5, resolution="1080p")
        task.wait(poll_interval=POLL_SECONDS)
        fetched = task.download(stage.videos / f"{task.id}.mp4")
    stage.tasks.append(task.id)
    stage.narrator.result("success", f"{_charge(task)}, {fetched.size:,} bytes fetched, their SHA-256 recorded")


def _success_in_the_other_generation(stage: Stage) -> None:
    stage.narrator.scene(EDITOR, "makes one with an older model, through the other API generation")
    with (
        _as(EDITOR),
        stage.client(access_key=DEFAULT_ACCESS_KEY, secret_key=DEFAULT_SECRET_KEY) as kling,
    ):
        task = kling.text_to_video(_PROMPTS["harbour"], model="kling-v2-6", duration=5)
        task.wait(poll_interval=POLL_SECONDS)
    stage.tasks.append(task.id)
    stage.narrator.result("success", _charge(task))


def _content_refusal(stage: Stage) -> None:
    stage.narrator.scene(INTERN, "asks for something that the content policy refuses")
    _refused(
        stage,
        INTERN,
        "refused",
        KlingPolicyViolation,
        "refused; the provider's message, which echoes the prompt, is withheld",
    )


def _rate_limit(stage: Stage) -> None:
    stage.narrator.scene(ARTIST, "orders two videos at once where the plan allows one")
    stage.simulator.concurrency["video"] = 1
    try:
        with _as(ARTIST), stage.client(tries=1) as kling:
            first = kling.text_to_video(_PROMPTS["product"], model="kling-3.0", duration=3, multi_shot=False)
            try:
                kling.text_to_video(_PROMPTS["city"], model="kling-3.0", duration=3, multi_shot=False)
            except KlingRateLimited:
                stage.narrator.result("blocked", "the second is refused: too many at once")
            first.wait(poll_interval=POLL_SECONDS)
    finally:
        stage.simulator.concurrency["video"] = 5
    stage.tasks.append(first.id)
    stage.narrator.result("success", f"the first is done, {_charge(first)}")


def _new_epoch(stage: Stage) -> None:
    stage.narrator.scene(LEAD, "lets the log change its signing key, as it does each day")
    stage.audit.rotate_keys()
    stage.narrator.result(
        "success", "the old private key is overwritten and removed: with today's, that past cannot be signed anew"
    )


def _rejected_key(stage: Stage) -> None:
    stage.narrator.scene(INTERN, "uses a key that was revoked")
    stage.simulator.add_api_key("api-key-kling-demo-revoked", "old")
    stage.simulator.revoke("api-key-kling-demo-revoked")
    _refused(
        stage, INTERN, "city", KlingAuthenticationError, "the provider rejects the key; the log holds its fingerprint",
        api_key="api-key-kling-demo-revoked",
    )  # fmt: skip


def _failed_task(stage: Stage) -> None:
    stage.narrator.scene(EDITOR, "orders a video that cannot be rendered")
    with _as(EDITOR), stage.client() as kling:
        task = kling.text_to_video(_PROMPTS["doomed"], model="kling-2.6", duration=5)
        try:
            task.wait(poll_interval=POLL_SECONDS)
        except KlingTaskFailed:
            stage.narrator.result("failure", "the task fails after it was accepted; nothing is charged")


def _reply_lost_and_found(stage: Stage) -> None:
    stage.narrator.scene(MAKER, "orders a video, and the reply is lost on the way")
    stage.simulator.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    with _as(MAKER), stage.client() as kling:
        task = kling.text_to_video(_PROMPTS["desert"], model="kling-2.5-turbo", duration=5)
        task.wait(poll_interval=POLL_SECONDS)
    stage.tasks.append(task.id)
    stage.narrator.result("success", f"found again by the id of its intent, not ordered twice; {_charge(task)}")


def _reply_lost_for_good(stage: Stage) -> None:
    stage.narrator.scene(ARTIST, "orders a video just before the network goes down")
    stage.simulator.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    stage.simulator.fail_next("GET", "/tasks", drop=True)
    with _as(ARTIST), stage.client(tries=1) as kling:
        try:
            kling.text_to_video(_PROMPTS["city"], model="kling-3.0-turbo", duration=3)
        except KlingOutcomeUnknown:
            stage.narrator.result("unknown", "nobody knows whether it was accepted, and the log says exactly that")


def _administration(stage: Stage) -> None:
    stage.narrator.scene(LEAD, "adds a person and raises a budget")
    with acting(LEAD.id, actor_type="admin", ip=LEAD.ip, team=LEAD.team):
        stage.audit.log(
            EventType.USER_ADDED, resource_type="user", resource_id=NEWCOMER, action="add", metadata={"role": "artist"}
        )
        stage.audit.log(
            EventType.BUDGET_MODIFIED,
            resource_type="budget",
            resource_id="studio-b",
            action="raise",
            metadata={"unit": "video units", "old": 100, "new": 250},
        ).wait()
    stage.narrator.result("success", "acts of people are entries too, not only calls to the provider")


def _refused(
    stage: Stage, person: Person, prompt: str, expected: type[Exception], words: str, *, api_key: str | None = None
) -> None:
    with _as(person), stage.client(api_key=api_key) as kling:
        try:
            kling.text_to_video(_PROMPTS[prompt], model="kling-3.0-turbo", duration=5)
        except expected:
            stage.narrator.result("blocked", words)


def _charge(task: Any) -> str:
    charges = [f"{charge.amount} {charge.package_type or ''} units".replace("  ", " ") for charge in task.charge]
    return f"charged {', '.join(charges)}" if charges else "no charge stated"
