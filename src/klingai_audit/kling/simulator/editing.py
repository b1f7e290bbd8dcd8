"""From videos to videos: extension, effects, multi-element editing. Source: fact sheet section 2.3."""

from __future__ import annotations

import base64
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from klingai_audit.kling.simulator import picture
from klingai_audit.kling.simulator.fields import Field, one_of, pick
from klingai_audit.kling.simulator.legacy_common import (
    CFG_SCALE,
    FIVE_OR_TEN,
    LEGACY_COMMON,
    LEGACY_RESOLUTIONS,
    PROMPTS,
    STD_OR_PRO,
    legacy_order,
    unknown_model,
)
from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import EFFECT_VERSION, SELECTION_START, video_units
from klingai_audit.kling.simulator.product import Body, Product, legacy, synchronous
from klingai_audit.kling.simulator.sessions import SESSION_MS, Session
from klingai_audit.kling.simulator.talking import VIDEO_SOURCE, bind_parent
from klingai_audit.kling.simulator.tasks import FRAMES_PER_SECOND, VIDEO, Order, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator
    from klingai_audit.kling.simulator.records import View

EXTENSION_SECONDS, MAX_EXTENDED_SECONDS = 5, 180
EXTENDABLE = ("1.0", "1.5", "1.6")
EXTENDABLE_PATHS = ("/v1/videos/text2video", "/v1/videos/image2video", "/v1/videos/video-extend")
MAX_SELECTED_FRAMES = MAX_POINTS = 10
SELECTION = "/v1/videos/multi-elements"
WIDTH, HEIGHT = 1280, 720

EXTEND_FIELDS = (Field("video_id", "string", required=True), *PROMPTS, CFG_SCALE, *LEGACY_COMMON)


def _extend(body: Body) -> Order | Refusal:
    return legacy_order(body, model="video-extend", version="1.0", units=Decimal(1))


def _bind_extend(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    """An extension has its parent's model; it costs 5 seconds of it in std (choice)."""
    bound = bind_parent(body, order, sim)
    if isinstance(bound, Refusal) or bound.parent is None or bound.parent.task is None:
        return bound
    task = bound.parent.task
    version, seconds = task.order.version, task.order.seconds + EXTENSION_SECONDS
    if task.path not in EXTENDABLE_PATHS or version not in EXTENDABLE:
        return Refusal(1201, "only videos of the models V1, V1.5 and V1.6 can be extended")
    if seconds > MAX_EXTENDED_SECONDS:
        return Refusal(1201, f"an extended video is at most {MAX_EXTENDED_SECONDS} seconds long")
    units = video_units(version, "720p", seconds=EXTENSION_SECONDS)
    return replace(bound, version=version, seconds=seconds, units=units, aspect_ratio=task.order.aspect_ratio)


EFFECT_FIELDS = (
    Field("effect_scene", "string", required=True),
    Field("input", "object", required=True),
    Field("input.image", "string", media="image"),
    Field("input.images", "array", least=2, most=2),
    Field("input.duration", "string", choices=("5", "10"), as_string=True),
    Field("input.model_name", "string"),
    Field("input.mode", "string", choices=("std", "pro")),
    *LEGACY_COMMON,
)


def _effect(body: Body) -> Order | Refusal:
    """The list of effects is open: any name is taken."""
    given = body["input"]
    refusal = one_of(given, "image", "images")
    if refusal is not None:
        return refusal
    if any(not isinstance(image, str) for image in pick(given, "images", [])):
        return Refusal(1200, "input.images must hold strings")
    seconds, resolution = int(pick(given, "duration", "5")), LEGACY_RESOLUTIONS[pick(given, "mode", "std")]
    return legacy_order(
        body,
        model=body["effect_scene"],
        version="effects",
        seconds=seconds,
        resolution=resolution,
        prompt="",
        timeless=True,
        units=video_units(EFFECT_VERSION, resolution, seconds=seconds),
    )


EDIT_FIELDS = (
    Field("model_name", "string"),
    Field("session_id", "string", required=True),
    Field("edit_mode", "string", required=True, choices=("addition", "swap", "removal")),
    Field("image_list", "array", items=(Field("image", "string", required=True, media="image"),)),
    Field("prompt", "string", required=True, max_chars=2500),
    Field("negative_prompt", "string", max_chars=2500),
    STD_OR_PRO,
    FIVE_OR_TEN,
    *LEGACY_COMMON,
)


def _edit(body: Body) -> Order | Refusal:
    name = pick(body, "model_name", "kling-v1-6")
    if name != "kling-v1-6":
        return unknown_model(name)
    seconds, resolution = int(pick(body, "duration", "5")), LEGACY_RESOLUTIONS[pick(body, "mode", "std")]
    return legacy_order(
        body,
        model=name,
        version="1.6",
        seconds=seconds,
        resolution=resolution,
        session_id=body["session_id"],
        refer_video=True,
        makes=(replace(VIDEO, facts={"session_id": body["session_id"]}),),
        units=video_units(EFFECT_VERSION, resolution, seconds=seconds),
    )


def _session(body: Body, sim: Simulator) -> Session | Refusal:
    session = sim.sessions.find("selection", body["session_id"], sim.now_ms())
    return Refusal(1201, "session_id is invalid or expired") if session is None else session


def _bind_session(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    session = _session(body, sim)
    if isinstance(session, Refusal):
        return session
    return replace(order, session_id=body["session_id"])


def _selection_order(name: str, units: Decimal, makes: tuple[Output, ...], body: Body) -> Order:
    return legacy_order(body, model=name, version=name, units=units, makes=makes)


def _start(body: Body) -> Order | Refusal:
    return one_of(body, "video_id", "video_url") or _selection_order("init-selection", SELECTION_START, (VIDEO,), body)


def _bind_start(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    bound = bind_parent(body, order, sim)
    if isinstance(bound, Refusal) or bound.parent is None:
        return bound
    return replace(bound, seconds=max(1, int(bound.parent.seconds)))


def _started(sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    parent = task.order.parent
    if parent is None:
        return {}
    session_id = sim.book.new_id(task.created_ms)
    sim.sessions.add(session_id, Session("selection", parent, task.created_ms + SESSION_MS))
    return {
        "status": 0,
        "session_id": session_id,
        "fps": float(FRAMES_PER_SECOND),
        "original_duration": round(parent.seconds * 1000),
        "width": WIDTH,
        "height": HEIGHT,
        "total_frame": round(parent.seconds * FRAMES_PER_SECOND),
        "normalized_video": view.url(task, task.outputs[0]),
        **view.cost(task),
    }


POINT_FIELDS = (
    Field("session_id", "string", required=True),
    Field("frame_index", "integer", required=True, low=0),
    Field(
        "points",
        "array",
        required=True,
        least=1,
        most=MAX_POINTS,
        items=(
            Field("x", "number", required=True, low=0, high=1),
            Field("y", "number", required=True, low=0, high=1),
        ),
    ),
)
SESSION_FIELDS = (Field("session_id", "string", required=True),)


def _points(body: Body) -> list[tuple[float, float]]:
    return [(float(point["x"]), float(point["y"])) for point in body["points"]]


def _bind_add(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    session = _session(body, sim)
    if isinstance(session, Refusal):
        return session
    frame, points = body["frame_index"], _points(body)
    if frame not in session.frames and len(session.frames) >= MAX_SELECTED_FRAMES:
        return Refusal(1201, f"at most {MAX_SELECTED_FRAMES} frames can hold selections")
    if len(session.frames.get(frame, ())) + len(points) > MAX_POINTS:
        return Refusal(1201, f"at most {MAX_POINTS} points can be selected in a frame")
    session.frames.setdefault(frame, []).extend(points)
    return replace(order, session_id=body["session_id"], makes=(_mask(frame),))


def _bind_delete(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    session = _session(body, sim)
    if isinstance(session, Refusal):
        return session
    frame, points = body["frame_index"], _points(body)
    kept = session.frames.get(frame, [])
    if any(point not in kept for point in points):
        return Refusal(1201, "points must be the same as when they were added")
    left = [point for point in kept if point not in points]
    if left:
        session.frames[frame] = left
    else:
        del session.frames[frame]
    return replace(order, session_id=body["session_id"], makes=(_mask(frame),))


def _bind_clear(body: Body, order: Order, sim: Simulator) -> Order | Refusal:
    session = _session(body, sim)
    if isinstance(session, Refusal):
        return session
    session.frames.clear()
    return replace(order, session_id=body["session_id"])


def _mask(frame: int) -> Output:
    return Output("image", index=frame)


def _selected(sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    """One object with its mask, both as runs and as a picture."""
    (mask,) = task.outputs
    session = sim.sessions.find("selection", task.order.session_id, task.created_ms)
    points = session.frames.get(mask.index, []) if session is not None else []
    objects = [
        {
            "object_id": 0,
            "rle_mask": {"size": [HEIGHT, WIDTH], "counts": f"{len(points)}"},
            "png_mask": {
                "size": [HEIGHT, WIDTH],
                "base64": base64.b64encode(picture.render(mask.output_id.encode(), "16:9")).decode(),
            },
        }
    ]
    found = {"frame_index": mask.index, "rle_mask_list": objects if points else []}
    return {"status": 0, "session_id": task.order.session_id, "res": found, **view.cost(task)}


def _cleared(_sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    return {"status": 0, "session_id": task.order.session_id, **view.cost(task)}


def _previewed(_sim: Simulator, task: Task, view: View) -> dict[str, Any]:
    video, cover, tracking = task.outputs
    found = {
        "video": view.url(task, video),
        "video_cover": view.url(task, cover),
        "tracking_output": view.url(task, tracking),
    }
    return {"status": 0, "session_id": task.order.session_id, "res": found, **view.cost(task)}


def _selection(name: str, fields: tuple[Field, ...], bind: Any, reply: Any, makes: tuple[Output, ...] = ()) -> Product:
    """One of the selection calls of a session; free (choice)."""
    order = partial(_selection_order, name, Decimal(0), makes)
    return synchronous(f"{SELECTION}/{name}", fields, order, reply, "Multi-Elements Selection", bind)


EDITING = (
    legacy("/v1/videos/video-extend", EXTEND_FIELDS, _extend, "Video Extension", _bind_extend),
    legacy("/v1/videos/effects", EFFECT_FIELDS, _effect, "Video Effects"),
    legacy(SELECTION, EDIT_FIELDS, _edit, "Multi-Elements", _bind_session),
    synchronous(f"{SELECTION}/init-selection", VIDEO_SOURCE, _start, _started, "Multi-Elements Selection", _bind_start),
    _selection("add-selection", POINT_FIELDS, _bind_add, _selected),
    _selection("delete-selection", POINT_FIELDS, _bind_delete, _selected),
    _selection("clear-selection", SESSION_FIELDS, _bind_clear, _cleared),
    _selection(
        "preview-selection", SESSION_FIELDS, _bind_session, _previewed, (VIDEO, Output("image"), VIDEO)
    ),
)  # fmt: skip
"""Rows of the product table."""
