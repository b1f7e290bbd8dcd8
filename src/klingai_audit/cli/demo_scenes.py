"""What happens in the demo: a small team works with Kling, and most of what can go wrong does."""

from __future__ import annotations

from typing import Final

from klingai_audit.cli.demo_callbacks import callbacks_true_and_forged
from klingai_audit.cli.demo_script import script_of_old
from klingai_audit.cli.demo_stage import (
    ARTIST,
    EDITOR,
    INTERN,
    LEAD,
    MAKER,
    NEWCOMER,
    POLL_SECONDS,
    Person,
    Stage,
    as_person,
    charge_of,
)
from klingai_audit.event.context import acting
from klingai_audit.event.types import EventType
from klingai_audit.kling.errors import (
    KlingAuthenticationError,
    KlingOutcomeUnknown,
    KlingPolicyViolation,
    KlingRateLimited,
    KlingTaskFailed,
)
from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY

PROMPTS: Final = {
    "lake": "A serene mountain lake at sunrise, mist over the water",
    "harbour": "An old harbour in the rain, slow pan along the quay",
    "poster": "A poster of a lighthouse, flat colours, no text",
    "speech": "Welcome aboard, the ferry leaves in ten minutes",
    "product": "A ceramic cup turning on a wooden table, soft light",
    "refused": "Something forbidden that the content policy will not have",
    "doomed": "A doomed experiment with too many mirrors",
    "city": "A city at night seen from a train window",
    "desert": "Dunes at noon, heat haze, a single tree",
}


def play(stage: Stage) -> None:
    """Play all scenes in order. Raises: AuditUnavailable, if the log cannot be written."""
    for scene in (
        _success_with_download,
        _success_in_the_other_generation,
        _image,
        _paid_call_that_answers_at_once,
        _content_refusal,
        _rate_limit,
        _new_epoch,
        _rejected_key,
        _failed_task,
        callbacks_true_and_forged,
        _reply_lost_and_found,
        _reply_lost_for_good,
        script_of_old,
        _administration,
    ):
        scene(stage)


def _success_with_download(stage: Stage) -> None:
    stage.narrator.scene(MAKER, "makes a video and downloads it")
    with as_person(MAKER), stage.client() as kling:
        task = kling.text_to_video(PROMPTS["lake"], model="kling-3.0-turbo", duration=5, resolution="1080p")
        task.wait(poll_interval=POLL_SECONDS)
        fetched = task.download(stage.folder / "videos" / f"{task.id}.mp4")
    stage.tasks.append(task.id)
    stage.narrator.result("success", f"{charge_of(task)}, {fetched.size:,} bytes fetched, their SHA-256 recorded")


def _success_in_the_other_generation(stage: Stage) -> None:
    stage.narrator.scene(EDITOR, "makes one with an older model, through the other API generation")
    with (
        as_person(EDITOR),
        stage.client(access_key=DEFAULT_ACCESS_KEY, secret_key=DEFAULT_SECRET_KEY) as kling,
    ):
        task = kling.text_to_video(PROMPTS["harbour"], model="kling-v2-6", duration=5)
        task.wait(poll_interval=POLL_SECONDS)
    stage.tasks.append(task.id)
    stage.narrator.result("success", charge_of(task))


def _image(stage: Stage) -> None:
    stage.narrator.scene(ARTIST, "makes an image and downloads it")
    with as_person(ARTIST), stage.client() as kling:
        task = kling.generate_image(PROMPTS["poster"], resolution="1k", aspect_ratio="16:9")
        task.wait(poll_interval=POLL_SECONDS)
        fetched = task.download(stage.folder / "images" / f"{task.id}.png")
    stage.narrator.result("success", f"{charge_of(task)}, {fetched.size:,} bytes fetched")


def _paid_call_that_answers_at_once(stage: Stage) -> None:
    stage.narrator.scene(EDITOR, "has a sentence spoken: no task to wait for, the answer is the sound")
    with as_person(EDITOR), stage.client() as kling:
        task = kling.text_to_speech(PROMPTS["speech"], "oversea_male1", language="en")
    stage.narrator.result("success", f"{charge_of(task)}; announced before, as every call that costs something")


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
        with as_person(ARTIST), stage.client(tries=1) as kling:
            first = kling.text_to_video(PROMPTS["product"], model="kling-3.0", duration=3, multi_shot=False)
            stage.simulator.concurrency["video"] = 0  # the one place is taken, however slow this machine is
            try:
                kling.text_to_video(PROMPTS["city"], model="kling-3.0", duration=3, multi_shot=False)
            except KlingRateLimited:
                stage.narrator.result("blocked", "the second is refused: too many at once")
            first.wait(poll_interval=POLL_SECONDS)
    finally:
        stage.simulator.concurrency["video"] = 5
    stage.tasks.append(first.id)
    stage.narrator.result("success", f"the first is done, {charge_of(first)}")


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
    with as_person(EDITOR), stage.client() as kling:
        task = kling.text_to_video(PROMPTS["doomed"], model="kling-2.6", duration=5)
        try:
            task.wait(poll_interval=POLL_SECONDS)
        except KlingTaskFailed:
            stage.narrator.result("failure", "the task fails after it was accepted; nothing is charged")


def _reply_lost_and_found(stage: Stage) -> None:
    stage.narrator.scene(MAKER, "orders a video, and the reply is lost on the way")
    stage.simulator.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    with as_person(MAKER), stage.client() as kling:
        task = kling.text_to_video(PROMPTS["desert"], model="kling-2.5-turbo", duration=5)
        task.wait(poll_interval=POLL_SECONDS)
    stage.tasks.append(task.id)
    stage.narrator.result("success", f"found again by the id of its intent, not ordered twice; {charge_of(task)}")


def _reply_lost_for_good(stage: Stage) -> None:
    stage.narrator.scene(ARTIST, "orders a video just before the network goes down")
    stage.simulator.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    stage.simulator.fail_next("GET", "/tasks", drop=True)
    with as_person(ARTIST), stage.client(tries=1) as kling:
        try:
            kling.text_to_video(PROMPTS["city"], model="kling-3.0-turbo", duration=3)
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
    with as_person(person), stage.client(api_key=api_key) as kling:
        try:
            kling.text_to_video(PROMPTS[prompt], model="kling-3.0-turbo", duration=5)
        except expected:
            stage.narrator.result("blocked", words)
