"""`/account/costs` and the two billing ledgers. Source: fact sheet section 2.6."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from klingai_audit.kling.simulator.accounts import Deduction, ResourcePack
from klingai_audit.kling.simulator.calls import Call, make_cursor, read_body, read_cursor, time_window
from klingai_audit.kling.simulator.fields import Field, check_fields, pick
from klingai_audit.kling.simulator.messages import Refusal, Response, success
from klingai_audit.kling.simulator.task_queries import Filters, read_filters

MAX_LIMIT = LIMIT = 500
LEDGER_FIELDS = (
    Field("cursor", "string"),
    Field("limit", "integer", low=1, high=MAX_LIMIT),
    Field("filters", "array"),
)
PACKAGE_FILTERS: Mapping[str, tuple[str, ...]] = {
    "api_key_name": (),
    "product_type": ("video", "image", "try-on"),
    "package_name": (),
    "package_id": (),
}
BALANCE_FILTERS: Mapping[str, tuple[str, ...]] = {"api_key_name": ()}


def costs(call: Call) -> Response | Refusal:
    """`GET /account/costs`: the packs that were valid at some time of the window; doubly wrapped."""
    sim, now = call.sim, call.sim.now_ms()
    if sim.costs_too_fast():
        return Refusal(1302)
    window = time_window(call.request.params, None, None)
    if isinstance(window, Refusal):
        return window
    start, end = window
    name = call.request.params.get("resource_pack_name", "")
    seen_at = now - round(sim.costs_lag_seconds * 1000)
    infos = [
        _info(pack, sim.account.remaining(pack, seen_at), now)
        for pack in sim.account.packs
        if pack.effective_ms <= end and pack.invalid_ms > start and name in ("", pack.name)
    ]
    return success({"code": 0, "msg": "SUCCEED", "resource_pack_subscribe_infos": infos})


def _info(pack: ResourcePack, remaining: Decimal, now_ms: int) -> dict[str, Any]:
    return {
        "resource_pack_name": pack.name,
        "resource_pack_id": pack.pack_id,
        "resource_pack_type": pack.kind,
        "total_quantity": float(pack.total),
        "remaining_quantity": float(remaining),
        "purchase_time": pack.effective_ms,
        "effective_time": pack.effective_ms,
        "invalid_time": pack.invalid_ms,
        "status": pack.status(now_ms),
    }


def package_ledger(call: Call) -> Response | Refusal:
    """`POST /account/billing/package`: what was taken from resource packs, newest first."""
    return _ledger(call, PACKAGE_FILTERS, [line for line in call.sim.account.deductions if line.pack is not None])


def balance_ledger(call: Call) -> Response | Refusal:
    """`POST /account/billing/balance`: what was taken from the cash balance, newest first."""
    return _ledger(call, BALANCE_FILTERS, [line for line in call.sim.account.deductions if line.pack is None])


def _ledger(call: Call, allowed: Mapping[str, tuple[str, ...]], lines: list[Deduction]) -> Response | Refusal:
    asked = _read(call, allowed)
    if isinstance(asked, Refusal):
        return asked
    start, end, filters, limit, before = asked
    shown_until = call.sim.now_ms() - round(call.sim.ledger_lag_seconds * 1000)
    found = [
        (position, line)
        for position, line in reversed(list(enumerate(lines)))
        if (before is None or position < before)
        and start <= line.task.created_ms <= end
        and line.at_ms <= shown_until
        and all(_member(line, key) in values for key, values in filters if values)
    ]
    shown, more = found[:limit], len(found) > limit
    detail = [_unit_detail(line) if line.pack is not None else _cash_detail(line) for _, line in shown]
    cursor = make_cursor([start, end, filters, limit, shown[-1][0]]) if more else ""
    return success({"result": {"detail": detail, "count": len(detail)}, "next_cursor": cursor, "has_more": more})


def _read(call: Call, allowed: Mapping[str, tuple[str, ...]]) -> tuple[int, int, Filters, int, int | None] | Refusal:
    """Start, end, filters, limit and position; a cursor overrides everything else."""
    body = read_body(call)
    if isinstance(body, Refusal):
        return body
    refusal = check_fields(body, LEDGER_FIELDS)
    if refusal is not None:
        return refusal
    if pick(body, "cursor"):
        content = read_cursor(body["cursor"])
        if isinstance(content, Refusal):
            return content
        if not isinstance(content, list) or len(content) != 5 or not _is_cursor(content):
            return Refusal(1201, "cursor is invalid")
        return content[0], content[1], content[2], content[3], content[4]
    window = time_window(body, None, None)
    if isinstance(window, Refusal):
        return window
    filters = read_filters(pick(body, "filters", []), allowed)
    if isinstance(filters, Refusal):
        return filters
    if {"package_name", "package_id"} <= {key for key, values in filters if values}:
        return Refusal(1201, "package_name and package_id cannot be used simultaneously")
    return *window, filters, pick(body, "limit", LIMIT), None


def _is_cursor(content: list[Any]) -> bool:
    numbers = [content[0], content[1], content[3], content[4]]
    return all(type(part) is int for part in numbers) and isinstance(content[2], list) and all(
        isinstance(row, list) and len(row) == 2 and row[0] in PACKAGE_FILTERS and isinstance(row[1], list)
        for row in content[2]
    )  # fmt: skip


def _member(line: Deduction, key: str) -> str:
    if key == "api_key_name":
        return line.task.api_key_name
    if line.pack is None:
        return ""
    return {
        "product_type": line.pack.product_type,
        "package_name": line.pack.name,
        "package_id": line.pack.pack_id,
    }[key]


def _detail(line: Deduction) -> dict[str, Any]:
    task, order = line.task, line.task.order
    detail: dict[str, Any] = {
        "task_id": task.task_id,
        "api_key_name": task.api_key_name,
        "product_function": task.function,
        "model_name": order.model,
        "resolution": order.resolution,
        "deduction_time": str(line.at_ms),
    }
    if any(output.kind == "video" for output in task.outputs):
        detail |= {
            "duration": task.duration,
            "refer_video_input": order.refer_video,
            "video_sound": order.sound or ("native" if order.audio else "off"),
            "voice_control": order.voice_control,
        }
    return detail


def _unit_detail(line: Deduction) -> dict[str, Any]:
    pack = line.pack
    head = {"package_id": pack.pack_id, "product_type": pack.product_type} if pack is not None else {}
    return {
        **head,
        **_detail(line),
        "unit_before_deduction": float(line.before),
        "deduction_amount": float(line.payment.amount),
        "unit_after_deduction": float(line.after),
    }


def _cash_detail(line: Deduction) -> dict[str, Any]:
    return {
        **_detail(line),
        "cash_type": line.payment.account,
        "balance_before_deduction": float(line.before),
        "deduction_amount": float(line.payment.amount),
        "balance_after_deduction": float(line.after),
        "list_price": float(line.payment.list_price),
        "currency": line.payment.currency,
    }
