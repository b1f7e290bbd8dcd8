"""Task records as the two generations show them. Source: fact sheet sections 3.2 and 3.3.

A record is what one reader sees at one moment of the simulator's clock.
"""

from __future__ import annotations

from typing import Any, Protocol

from klingai_audit.kling.simulator.prices import format_units
from klingai_audit.kling.simulator.tasks import Output, Task


class UrlMaker(Protocol):
    """Makes the download address of an output."""

    def __call__(self, task: Task, output: Output, *, marked: bool) -> str:
        """`marked`: the version with the watermark."""
        ...


LEGACY_STATUS = {"succeeded": "succeed"}
LEGACY_GROUPS = {"video": "videos"}
"""Type word of an output -> name of its list in `task_result`."""


def legacy_created(task: Task) -> dict[str, Any]:
    """`data` of a legacy create reply."""
    return {
        "task_id": task.task_id,
        "task_status": "submitted",
        "task_info": _task_info(task),
        "created_at": task.created_ms,
        "updated_at": task.created_ms,
    }


def legacy_record(task: Task, now_ms: int, url: UrlMaker) -> dict[str, Any]:
    """The record of a legacy query at `now_ms`; the result only when succeeded, the charge only at the end."""
    status = task.status(now_ms)
    record: dict[str, Any] = {
        "task_id": task.task_id,
        "task_status": LEGACY_STATUS.get(status, status),
        "task_status_msg": task.failure if status == "failed" else "",
        "task_info": _task_info(task),
        "watermark_info": {"enabled": task.order.watermark},
        "created_at": task.created_ms,
        "updated_at": task.updated_ms(now_ms),
    }
    if status == "succeeded":
        result: dict[str, list[dict[str, Any]]] = {}
        for output in task.outputs:
            result.setdefault(LEGACY_GROUPS[output.kind], []).append(_video(task, output, url))
        record["task_result"] = result
    if task.ended(now_ms):
        record["final_unit_deduction"] = format_units(task.charge)
    return record


def new_created(task: Task) -> dict[str, Any]:
    """`data` of a create reply of the new design."""
    return _new_head(task, "submitted", task.created_ms)


def new_record(task: Task, now_ms: int, url: UrlMaker) -> dict[str, Any]:
    """The record of `/tasks` at `now_ms`, for tasks of either generation."""
    status = task.status(now_ms)
    record = _new_head(task, status, task.updated_ms(now_ms))
    record["message"] = task.failure if status == "failed" else ""
    record["outputs"] = []
    record["billing"] = []
    if status == "succeeded":
        record["outputs"] = [{"type": output.kind, **_video(task, output, url)} for output in task.outputs]
        record["billing"] = [{"charge_type": "unit", "amount": format_units(task.charge), "package_type": task.pack}]
    return record


def _new_head(task: Task, status: str, updated_ms: int) -> dict[str, Any]:
    head = {"id": task.task_id, "status": status, "create_time": task.created_ms, "update_time": updated_ms}
    if task.order.external_id:
        head["external_id"] = task.order.external_id
    return head


def _task_info(task: Task) -> dict[str, Any]:
    return {"external_task_id": task.order.external_id} if task.order.external_id else {}


def _video(task: Task, output: Output, url: UrlMaker) -> dict[str, Any]:
    video = {"id": output.output_id, "url": url(task, output, marked=False), "duration": task.duration}
    if task.order.watermark:
        video["watermark_url"] = url(task, output, marked=True)
    return video
