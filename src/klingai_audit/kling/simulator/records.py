"""Task records as the two generations show them. Source: fact sheet sections 3.2 and 3.3.

A record is what one reader sees at one moment of the simulator's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from klingai_audit.kling.simulator.messages import Refusal
from klingai_audit.kling.simulator.prices import format_units
from klingai_audit.kling.simulator.tasks import Output, Task, format_seconds

LEGACY_STATUS = {"succeeded": "succeed"}
LEGACY_GROUPS = {"video": "videos", "image": "images", "audio": "audios", "voice": "voices", "element": "elements"}
"""Type word of an output -> name of its list in `task_result`."""


@dataclass(frozen=True, slots=True)
class View:
    """Who looks when: `address` makes the download address of an output for this reader.

    Its arguments are the task, the output, the file form and which part of it is meant.
    """

    now_ms: int
    address: Callable[[Task, Output, str, str], str]
    deleted: AbstractSet[str] = frozenset()
    materials: str = "references"
    """Name of an element's sources: `references` in queries, `materials` in callbacks."""

    def url(self, task: Task, output: Output, form: str = "", part: str = "") -> str:
        """Where an output, or one part of it, can be fetched."""
        return self.address(task, output, form, part)

    def cost(self, task: Task) -> dict[str, Any]:
        """The deduction members of a legacy record that has ended."""
        paid = task.payment
        if paid is not None and paid.charge_type == "cash":
            free = bool(task.failure)
            quota, list_price = ("0", "0") if free else (format_units(paid.amount), format_units(paid.list_price))
            return {"final_balance_deduction": {"quota": quota, "list_price": list_price}}
        return {"final_unit_deduction": format_units(task.charge)}


def legacy_created(task: Task, view: View) -> dict[str, Any]:
    """`data` of a legacy create reply."""
    return {
        "task_id": task.task_id,
        "task_status": "submitted",
        "task_info": _task_info(task, view),
        "created_at": task.created_ms,
        "updated_at": task.created_ms,
    }


def legacy_record(task: Task, view: View) -> dict[str, Any]:
    """The record of a legacy query; the result only when succeeded, the charge only at the end."""
    status = task.status(view.now_ms)
    record: dict[str, Any] = {
        "task_id": task.task_id,
        "task_status": LEGACY_STATUS.get(status, status),
        "task_status_msg": task.failure if status == "failed" else "",
        "task_info": _task_info(task, view),
        "watermark_info": {"enabled": task.order.watermark},
        "created_at": task.created_ms,
        "updated_at": task.updated_ms(view.now_ms),
    }
    if status == "succeeded":
        record["task_result"] = legacy_result(task, view)
    if task.ended(view.now_ms):
        record.update(view.cost(task))
    return record


def legacy_result(task: Task, view: View) -> dict[str, Any]:
    """`task_result`: the outputs by kind."""
    result: dict[str, Any] = {"result_type": "series"} if task.order.series else {}
    if not task.order.series and task.path.endswith("/omni-image"):
        result["result_type"] = "single"
    for output in task.outputs:
        group = "series_images" if output.group else LEGACY_GROUPS[output.kind]
        result.setdefault(group, []).append(_LEGACY[output.kind](task, output, view))
    return result


def new_created(task: Task) -> dict[str, Any]:
    """`data` of a create reply of the new design."""
    return _new_head(task, "submitted", task.created_ms)


def new_record(task: Task, view: View) -> dict[str, Any]:
    """The record of `/tasks`, for tasks of either generation."""
    status = task.status(view.now_ms)
    record = _new_head(task, status, task.updated_ms(view.now_ms))
    record["message"] = task.failure if status == "failed" else ""
    record["outputs"] = []
    record["billing"] = []
    if status == "succeeded":
        record["outputs"] = [made for output in task.outputs for made in _new_outputs(task, output, view)]
        record["billing"] = [billing(task)]
    return record


def billing(task: Task) -> dict[str, Any]:
    """One member of `billing[]`."""
    paid = task.payment
    if paid is None or paid.charge_type == "unit":
        return {"charge_type": "unit", "amount": format_units(task.charge), "package_type": task.pack}
    return {
        "charge_type": "cash",
        "cash_type": paid.account,
        "amount": format_units(paid.amount),
        "currency": paid.currency,
        "list_price": format_units(paid.list_price),
    }


def not_found(any_id: str) -> Refusal:
    """What a query for an unknown task gets (sheet 3.2)."""
    return Refusal(1201, f"Task not found by id/external id: {any_id}")


def _new_head(task: Task, status: str, updated_ms: int) -> dict[str, Any]:
    head = {"id": task.task_id, "status": status, "create_time": task.created_ms, "update_time": updated_ms}
    if task.order.external_id:
        head["external_id"] = task.order.external_id
    return head


def _task_info(task: Task, view: View) -> dict[str, Any]:
    info: dict[str, Any] = {"external_task_id": task.order.external_id} if task.order.external_id else {}
    parent = task.order.parent
    if parent is not None:
        url, name = parent.address, ""
        if parent.task is not None and parent.output is not None:
            url, name = view.url(parent.task, parent.output), parent.output.output_id
        info["parent_video"] = {"id": name, "url": url, "duration": parent.duration}
    return info


def _marked(task: Task, output: Output, view: View) -> dict[str, Any]:
    return {"watermark_url": view.url(task, output, part="watermark")} if task.order.watermark else {}


def _video(task: Task, output: Output, view: View) -> dict[str, Any]:
    video = {"id": output.output_id, "url": view.url(task, output), **_marked(task, output, view)}
    if "session_id" in output.facts:
        video["session_id"] = output.facts["session_id"]
    return video if task.order.timeless else {**video, "duration": task.duration}


def _image(task: Task, output: Output, view: View) -> dict[str, Any]:
    views = output.facts.get("views", 0)
    if views:
        parts = {f"url_{n}": view.url(task, output, part=str(n)) for n in range(1, views + 1)}
        return {"index": output.index, **parts}
    return {"index": output.index, "url": view.url(task, output), **_marked(task, output, view)}


def _audio(task: Task, output: Output, view: View) -> dict[str, Any]:
    length = format_seconds(output.facts["seconds"])
    return {
        "id": output.output_id,
        "url_mp3": view.url(task, output, "mp3"),
        "url_wav": view.url(task, output, "wav"),
        "duration_mp3": length,
        "duration_wav": length,
    }


def _voice(task: Task, output: Output, view: View) -> dict[str, Any]:
    return {
        "voice_id": output.output_id,
        "voice_name": output.facts["name"],
        "trial_url": view.url(task, output, "wav"),
        "owned_by": output.facts["owned_by"],
    }


def _element(task: Task, output: Output, view: View) -> dict[str, Any]:
    facts = output.facts
    element: dict[str, Any] = {
        "element_id": output.output_id,
        "element_name": facts["name"],
        "element_description": facts["description"],
        "reference_type": facts["reference_type"],
        "tag_list": _tags(output),
        "owned_by": facts["owned_by"],
        "status": "deleted" if output.output_id in view.deleted else "succeed",
    }
    urls = [view.url(task, output, part=str(number)) for number, _ in enumerate(facts["sources"])]
    if facts["reference_type"] == "video_refer":
        element["element_video_list"] = {"refer_videos": [{"video_url": url} for url in facts["sources"]]}
    else:
        refers = [{"image_url": url} for url in urls[1:]]
        element["element_image_list"] = {"frontal_image": urls[0], "refer_images": refers}
    if facts["voice_id"]:
        element["element_voice_info"] = {"voice_id": facts["voice_id"]}
    return element


def _tags(output: Output) -> list[dict[str, Any]]:
    return [{"id": tag, "name": name, "description": name} for tag, name in output.facts["tags"]]


_LEGACY: dict[str, Callable[[Task, Output, View], dict[str, Any]]] = {
    "video": _video,
    "image": _image,
    "audio": _audio,
    "voice": _voice,
    "element": _element,
}


def _new_outputs(task: Task, output: Output, view: View) -> list[dict[str, Any]]:
    """What one output is in the record of `/tasks`; one of several views is several images there."""
    state = "deleted" if output.output_id in view.deleted else "succeeded"
    facts, made = output.facts, {"type": output.kind, "id": output.output_id}
    if output.kind == "video":
        return [{"type": "video", **_video(task, output, view)}]
    if output.kind == "image":
        group = {"group_id": task.outputs[0].output_id} if output.group else {}
        parts = [str(n) for n in range(1, facts.get("views", 0) + 1)] or [""]
        return [
            {"type": "image", "url": view.url(task, output, part=part), **_marked(task, output, view), **group}
            for part in parts
        ]
    if output.kind == "audio":
        old = _audio(task, output, view)
        return [
            {
                **made,
                "mp3_url": old["url_mp3"],
                "wav_url": old["url_wav"],
                "mp3_duration": old["duration_mp3"],
                "wav_duration": old["duration_wav"],
            }
        ]
    named = {**made, "name": facts["name"], "owned_by": facts["owned_by"], "status": state}
    if output.kind == "voice":
        return [{**named, "url": view.url(task, output, "wav")}]
    return [
        {
            **named,
            "description": facts["description"],
            "element_type": facts["element_type"],
            view.materials: _materials(task, output, view),
            "tags": [
                {"id": int(tag.removeprefix("o_")), "name": name, "description": name} for tag, name in facts["tags"]
            ],
        }
    ]


def _materials(task: Task, output: Output, view: View) -> list[dict[str, Any]]:
    sources, voice_id = output.facts["sources"], output.facts["voice_id"]
    if output.facts["reference_type"] == "video_refer":
        made = [{"type": "video", "role": "refer", "url": url} for url in sources]
    else:
        made = [
            {"type": "image", "role": "refer" if number else "frontal", "url": view.url(task, output, part=str(number))}
            for number, _ in enumerate(sources)
        ]
    return [*made, {"type": "voice", "role": "refer", "id": voice_id}] if voice_id else made
