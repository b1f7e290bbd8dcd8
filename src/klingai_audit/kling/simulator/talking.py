"""Faces and lips: avatar, face recognition, both lip-syncs. Source: fact sheet section 2.3."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator.fields import Field, one_of, pick
from klingai_audit.kling.simulator.inputs import MEGABYTE, assumed_seconds
from klingai_audit.kling.simulator.legacy_common import (
    LEGACY_COMMON,
    LEGACY_RESOLUTIONS,
    STD_OR_PRO,
    legacy_order,
    parent_video,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import (
    FACE_RECOGNITION,
    LIP_SYNC_PER_5_SECONDS,
    video_units,
)
from klingai_audit.kling.simulator.product import Body, Product, legacy, synchronous
from klingai_audit.kling.simulator.sessions import SESSION_MS, Session
from klingai_audit.kling.simulator.tasks import Order, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator
    from klingai_audit.kling.simulator.records import View

MAX_SOUND_BYTES = 5 * MEGABYTE
MIN_OVERLAY_MS = 2000
VIDEO_SOURCE = (Field("video_id", "string"), Field("video_url", "string", media="video"))

AVATAR_FIELDS = (
    Field("image", "string", required=True, media="image"),
    Field("audio_id", "string"),
    Field("sound_file", "string", media="audio", max_bytes=MAX_SOUND_BYTES),
    Field("prompt", "string", max_chars=2500),
    STD_OR_PRO,
    *LEGACY_COMMON,
)


def _avatar(body: Body) -> Order | Refusal:
    refusal = one_of(body, "audio_id", "sound_file")
    if refusal is not None:
        return refusal
    return _avatar_of(body, assumed_seconds(pick(body, "sound_file", "")))


def _avatar_of(body: Body, seconds: float) -> Order | Refusal:
    """An avatar speaks as long as its sound; whole seconds are paid."""
    if not 2 <= seconds <= 300:
        return Refusal(1201, "the sound must be 2 to 300 seconds long")
    length, resolution = math.ceil(seconds), LEGACY_RESOLUTIONS[pick(body, "mode", "std")]
    return legacy_order(
        body,
        model="avatar",
        version="avatar",
        seconds=length,
        resolution=resolution,
        audio=True,
        units=video_units("avatar", resolution, audio=True, seconds=length),
    )


def _bind_avatar(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    audio_id = pick(body, "audio_id")
    if audio_id is None:
        return order
    seconds = sound_seconds(audio_id, sim)
    return seconds if isinstance(seconds, Refusal) else _avatar_of(body, seconds)


def sound_seconds(audio_id: str, sim: Simulator) -> float | Refusal:
    """The length of an earlier sound of this account."""
    found = sim.book.output("audio", audio_id, sim.now_ms())
    if found is None:
        return Refusal(1201, f"Audio not found by id: {audio_id}")
    return float(found[1].facts["seconds"])


def _identify(body: Body) -> Order | Refusal:
    picture = Output("image", facts={"part": "face"})
    return one_of(body, "video_id", "video_url") or legacy_order(
        body, model="identify-face", version="identify-face", units=FACE_RECOGNITION, makes=(picture,)
    )


def bind_parent(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    """Resolve `video_id` or `video_url` to the video that the order starts from."""
    parent = parent_video(body, sim)
    return parent if isinstance(parent, Refusal) else replace(order, parent=parent)


def _bind_identify(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    bound = bind_parent(body, order, sim)
    if isinstance(bound, Refusal) or bound.parent is None:
        return bound
    return bound if 2 <= bound.parent.seconds <= 60 else Refusal(1201, "the video must be 2 to 60 seconds long")


def _faces(sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    parent = task.order.parent
    if parent is None:
        return {}
    session_id, (face,) = sim.book.new_id(task.created_ms), task.outputs
    sim.sessions.add(session_id, Session("face", parent, task.created_ms + SESSION_MS, (face.output_id,)))
    seen = {
        "face_id": face.output_id,
        "face_image": view.url(task, face),
        "start_time": 0,
        "end_time": round(parent.seconds * 1000),
    }
    return {"session_id": session_id, "face_data": [seen], **view.cost(task)}


LIP_SYNC_FIELDS = (
    Field("session_id", "string", required=True),
    Field(
        "face_choose",
        "array",
        required=True,
        least=1,
        most=1,
        items=(
            Field("face_id", "string", required=True),
            Field("audio_id", "string"),
            Field("sound_file", "string", media="audio", max_bytes=MAX_SOUND_BYTES),
            Field("sound_start_time", "integer", required=True, low=0),
            Field("sound_end_time", "integer", required=True, low=0),
            Field("sound_insert_time", "integer", required=True, low=0),
            Field("sound_volume", "number", low=0, high=2),
            Field("original_audio_volume", "number", low=0, high=2),
        ),
    ),
    *LEGACY_COMMON,
)


def _lip_sync(body: Body) -> Order | Refusal:
    (choice,) = body["face_choose"]
    refusal = one_of(choice, "audio_id", "sound_file")
    if refusal is not None:
        return refusal
    if choice["sound_end_time"] - choice["sound_start_time"] < MIN_OVERLAY_MS:
        return Refusal(1201, "the cropped sound must be at least 2 seconds long")
    return legacy_order(body, model="lip-sync", version="lip-sync", units=LIP_SYNC_PER_5_SECONDS, audio=True)


def _bind_lip_sync(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    session = sim.sessions.find("face", body["session_id"], sim.now_ms())
    if session is None:
        return Refusal(1201, "session_id is invalid or expired")
    (choice,) = body["face_choose"]
    if choice["face_id"] not in session.face_ids:
        return Refusal(1201, "face_id is invalid")
    audio_id = pick(choice, "audio_id")
    seconds = sound_seconds(audio_id, sim) if audio_id is not None else math.inf
    if isinstance(seconds, Refusal):
        return seconds
    if choice["sound_end_time"] > seconds * 1000:
        return Refusal(1201, "sound_end_time is later than the sound's end")
    return _synced(replace(order, parent=session.parent))


def _synced(order: Order) -> Order:
    """As long as the video it starts from; every 5 seconds begun are paid."""
    seconds = math.ceil(order.parent.seconds) if order.parent is not None else order.seconds
    return replace(order, seconds=seconds, units=LIP_SYNC_PER_5_SECONDS * math.ceil(seconds / 5))


OLD_LIP_SYNC_FIELDS = (
    Field("input", "object", required=True),
    Field("input.video_id", "string"),
    Field("input.video_url", "string", media="video"),
    Field("input.mode", "string", required=True, choices=("text2video", "audio2video")),
    Field("input.text", "string", max_chars=120),
    Field("input.voice_id", "string"),
    Field("input.voice_language", "string", choices=("zh", "en")),
    Field("input.voice_speed", "number", low=0.8, high=2.0),
    Field("input.audio_type", "string", choices=("file", "url")),
    Field("input.audio_file", "string", media="audio", max_bytes=MAX_SOUND_BYTES),
    Field("input.audio_url", "string", media="video"),
    *LEGACY_COMMON,
)


def _old_lip_sync(body: Body) -> Order | Refusal:
    given = body["input"]
    needed = ("text", "voice_id") if given["mode"] == "text2video" else ()
    missing = [name for name in needed if pick(given, name) is None]
    if missing:
        return Refusal(1200, f"input.{missing[0]} is required")
    refusal = one_of(given, "video_id", "video_url")
    if refusal is None and not needed:
        refusal = one_of(given, "audio_file", "audio_url")
    return refusal or legacy_order(
        body,
        model="lip-sync",
        version="lip-sync",
        units=LIP_SYNC_PER_5_SECONDS,
        audio=True,
        prompt=pick(given, "text", ""),
    )


def _bind_old_lip_sync(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    bound = bind_parent(body["input"], order, sim)
    return bound if isinstance(bound, Refusal) else _synced(bound)


TALKING = (
    legacy("/v1/videos/avatar/image2video", AVATAR_FIELDS, _avatar, "Avatar", _bind_avatar),
    synchronous("/v1/videos/identify-face", VIDEO_SOURCE, _identify, _faces, "Face Recognition", _bind_identify),
    Product(
        "/v1/videos/advanced-lip-sync", "legacy", "video", "video", LIP_SYNC_FIELDS, _lip_sync, "Lip Sync",
        _bind_lip_sync, lists=False, by_external_id=False,
    ),
    legacy("/v1/videos/lip-sync", OLD_LIP_SYNC_FIELDS, _old_lip_sync, "Lip Sync", _bind_old_lip_sync),
)  # fmt: skip
"""Rows of the product table."""
