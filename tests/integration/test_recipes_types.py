"""Each of the recipes' 22 event types: the act that emits it, performed, and exactly the entries expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog, EventType, acting
from klingai_audit.kling import KlingAI
from klingai_audit.kling.errors import KlingError
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import ManualClock, Simulator, SimulatorServer, serve
from klingai_audit.upkeep.admin import Administration

KEY = "sim-api-key"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PROMPT = "A serene mountain lake at sunrise"

ORDERED = [("prompt_submitted", "success"), ("api_key_used", "success"), ("video_generation_started", "success")]
COMPLETED = [*ORDERED, ("video_generation_completed", "success")]
DOWNLOADED = [*COMPLETED, ("video_downloaded", "unknown"), ("video_downloaded", "success")]


class Place:
    """One log, one simulated account, one person who acts."""

    def __init__(self, folder: Path, sim: Simulator, server: SimulatorServer) -> None:
        self.folder = folder
        self.sim = sim
        self.server = server
        self.audit = AuditLog.open(folder / "log")
        self.clients: list[KlingAI] = []

    def client(self, key: str = KEY) -> KlingAI:
        """An audited client that does not try again."""
        made = KlingAI(api_key=key, audit=self.audit, base_url=self.server.base_url, retries=Retries(attempts=1))
        self.clients.append(made)
        return made

    def close(self) -> None:
        """Close what was opened."""
        for client in self.clients:
            client.close()
        self.audit.close()

    def reopen(self) -> None:
        """Close the log and open it again."""
        self.audit.close()
        self.audit = AuditLog.open(self.folder / "log")

    def events(self) -> list[dict[str, Any]]:
        """What the acts left, without what the log writes about itself."""
        self.audit.flush()
        found = [json.loads(line) for line in self.audit.entries()]
        return [event for event in found if not event["event_type"].startswith("log_")]

    def pass_time(self, seconds: float = 60) -> None:
        """Let the simulator's tasks end."""
        self.sim.clock.advance(seconds)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A fresh log and account; somebody acts."""
    sim = Simulator(ManualClock())
    with serve(sim) as server, acting("user@example.com", team="studio-a"):
        here = Place(tmp_path, sim, server)
        yield here
        here.close()


# --- the acts ------------------------------------------------------------------------------------------


def order(place: Place, prompt: str = PROMPT) -> Any:
    """Order a video."""
    return place.client().text_to_video(prompt, model="kling-3.0-turbo", duration=5)


def refused(place: Place, prompt: str = PROMPT, key: str = KEY) -> None:
    """Order a video that Kling will not make."""
    with pytest.raises(KlingError):
        place.client(key).text_to_video(prompt, model="kling-3.0-turbo", duration=5)


def denied(place: Place) -> None:
    """Order with a key that is none."""
    refused(place, key="api-key-kling-revoked-0001")


def limited(place: Place) -> None:
    """Order while the account has too many tasks under way."""
    place.sim.fail_next("POST", "/text-to-video/*", code=1303)
    refused(place)


def violating(place: Place) -> None:
    """Order what the provider's rules forbid."""
    refused(place, "something forbidden")


def failing(place: Place) -> None:
    """Order a video that cannot be made, and wait."""
    task = order(place, "a doomed attempt")
    place.pass_time()
    with pytest.raises(KlingError):
        task.wait(poll_interval=0.01)


def completing(place: Place) -> Any:
    """Order a video and wait for it."""
    task = order(place)
    place.pass_time()
    return task.wait(poll_interval=0.01)


def downloading(place: Place) -> Any:
    """Fetch what was made."""
    return completing(place).download(place.folder / "lake.mp4")


def deleting(place: Place) -> None:
    """Delete what was fetched."""
    downloading(place).delete()


def changing_settings(place: Place) -> None:
    """Edit policy.toml and open the log again."""
    (place.folder / "log.keys" / "policy.toml").write_text('[privacy]\nreads = "off"\n')
    place.reopen()


def checking_quota(place: Place) -> None:
    """Look at what is left."""
    place.client().account.costs()


def adding_user(place: Place) -> None:
    """Declare a user."""
    Administration(place.audit).add_user("editor@example.com")


def removing_user(place: Place) -> None:
    """Declare a user, then that the user is gone."""
    adding_user(place)
    Administration(place.audit).remove_user("editor@example.com")


def setting_budget(place: Place) -> None:
    """Declare a budget."""
    Administration(place.audit).set_budget("team:studio-a", 250)


def updating_policy(place: Place) -> None:
    """Change a setting of the policy."""
    Administration(place.audit).set_policy("privacy.unknown_actor", "refuse")


def rotating_key(place: Place) -> None:
    """Declare that the key was replaced."""
    Administration(place.audit).rotate_api_key("api-key-kling-fresh-0001", replaced=KEY)


def forging_callbacks(place: Place) -> None:
    """Send callbacks that Kling did not sign."""
    headers = {"webhook-id": "m", "webhook-timestamp": "1795262400", "webhook-signature": "v1,AAAA"}
    for _ in range(3):
        place.audit.webhook(headers, b'{"task_id":"831045678901234567","task_status":"succeed"}', secret=SECRET)


def ordering_without_a_prompt(place: Place) -> None:
    """Order something paid that has no prompt: the faces of a video."""
    place.client().identify_face(video_url="https://media.example.com/a.mp4")


def seeing_another_state(place: Place) -> None:
    """Ask for a task while it is at work."""
    task = order(place)
    place.pass_time(5)
    task.refresh()


def ending_unknown(place: Place) -> None:
    """Ask for a task that another program made, when it has failed: nothing tells what it was to be."""
    with (
        AuditLog.open(place.folder / "elsewhere") as audit,
        KlingAI(api_key=KEY, audit=audit, base_url=place.server.base_url) as other,
    ):
        made = other.text_to_video("a doomed attempt", duration=5)
    place.pass_time()
    place.client().task(made.id)


def logging_on(place: Place) -> None:
    """Say that somebody logged on: Kling has no such call, your program does."""
    place.audit.log(EventType.AUTH_EVENT, resource_type="session", action="login", event="login", success=True)


ACTS: dict[str, tuple[Callable[[Place], Any], list[tuple[str, str]]]] = {
    "api_key_used": (order, ORDERED),
    "api_key_rotated": (rotating_key, [("api_key_rotated", "success")]),
    "access_denied": (denied, [("prompt_submitted", "success"), ("access_denied", "blocked")]),
    "video_generation_started": (order, ORDERED),
    "video_generation_completed": (completing, COMPLETED),
    "video_generation_failed": (failing, [*ORDERED, ("video_generation_failed", "failure")]),
    "video_downloaded": (downloading, DOWNLOADED),
    "video_deleted": (deleting, [*DOWNLOADED, ("video_deleted", "unknown"), ("video_deleted", "success")]),
    "prompt_submitted": (order, ORDERED),
    "settings_changed": (changing_settings, [("settings_changed", "success")]),
    "quota_checked": (checking_quota, [("api_key_used", "success"), ("quota_checked", "success")]),
    "user_added": (adding_user, [("user_added", "success")]),
    "user_removed": (removing_user, [("user_added", "success"), ("user_removed", "success")]),
    "budget_modified": (setting_budget, [("budget_modified", "success")]),
    "policy_updated": (updating_policy, [("policy_updated", "success")]),
    "rate_limit_exceeded": (limited, [*ORDERED[:2], ("rate_limit_exceeded", "blocked")]),
    "suspicious_activity": (
        forging_callbacks,
        [("task_status_changed", "unknown"), ("suspicious_activity", "blocked")],
    ),
    "policy_violation": (violating, [*ORDERED[:2], ("policy_violation", "blocked")]),
    "task_submitted": (
        ordering_without_a_prompt,
        [("task_submitted", "success"), ("api_key_used", "success"), ("task_completed", "success")],
    ),
    "task_status_changed": (seeing_another_state, [*ORDERED, ("task_status_changed", "success")]),
    "task_completed": (ending_unknown, [("api_key_used", "success"), ("task_completed", "failure")]),
    "auth_event": (logging_on, [("auth_event", "success")]),
}
"""Event type → the act that emits it, and all that the act leaves: type and outcome."""

_TYPES = (
    "api_key_used api_key_rotated access_denied video_generation_started video_generation_completed "
    "video_generation_failed video_downloaded video_deleted prompt_submitted settings_changed quota_checked user_added "
    "user_removed budget_modified policy_updated rate_limit_exceeded suspicious_activity policy_violation "
    "task_submitted task_status_changed task_completed auth_event"
)
RECIPE_TYPES = _TYPES.split()


def test_table_is_total() -> None:
    """Both recipes' vocabularies, every name once."""
    assert RECIPE_TYPES == list(ACTS)
    assert 22 == len(RECIPE_TYPES)


@pytest.mark.parametrize("event_type", RECIPE_TYPES)
def test_act_leaves_exactly_its_entries(place: Place, event_type: str) -> None:
    """The act leaves these entries and no other, each in the name of who acted, and the log verifies."""
    act, expected = ACTS[event_type]
    act(place)
    events = place.events()
    assert expected == [(event["event_type"], event["outcome"]) for event in events]
    assert event_type in [event["event_type"] for event in events]
    person = place.audit.subjects.resolve("user@example.com").pseudonym
    own = {"settings_changed": "klingai-audit"}
    assert {own.get(event_type, person)} == {event["actor_id"] for event in events}
    assert place.audit.verify().integrity_ok
