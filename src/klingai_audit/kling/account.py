"""The account: resource packs and billing ledgers, as callers hold them and as entries tell of them.

Source: fact sheet section 2.6 (vendor documentation 2026-09-20).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from klingai_audit.kling.reply import Reply, clean_id

__all__ = [
    "Deduction",
    "ResourcePack",
    "inner_reply",
    "ledger_facts",
    "pack_facts",
    "read_deductions",
    "read_packs",
]

MAX_PACKS: Final = 20
"""Packs that one entry names."""


@dataclass(frozen=True, slots=True)
class ResourcePack:
    """A bought pack of units. `remaining` lags up to 12 hours; times in ms since 1970 UTC.

    `type` is `decreasing_total` or `constant_period`; `status` is `toBeOnline`, `online`, `expired` or `runOut`.
    """

    id: str | None
    name: str | None
    type: str | None
    status: str | None
    total: Decimal | None
    remaining: Decimal | None
    purchased_ms: int | None = None
    effective_ms: int | None = None
    invalid_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Deduction:
    """One line of a billing ledger: which task, ordered with which key, cost how much.

    `amount`, `before` and `after` are units of a pack, or money in `currency`; `time_ms` is in ms since 1970 UTC.
    `raw` is the line as Kling sent it, with resolution, duration and the like.
    """

    task_id: str | None
    api_key_name: str | None
    amount: Decimal | None
    before: Decimal | None
    after: Decimal | None
    time_ms: int | None
    product_type: str | None = None
    product_function: str | None = None
    model: str | None = None
    package_id: str | None = None
    cash_type: str | None = None
    currency: str | None = None
    list_price: Decimal | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def inner_reply(reply: Reply) -> Reply:
    """Unwrap `data{code, msg, …}`: the answer of `/account/costs` is wrapped twice and may fail inside."""
    data = reply.data
    code = data.get("code") if isinstance(data, dict) else None
    if reply.verdict != "ok" or not isinstance(code, int) or isinstance(code, bool) or code == 0:
        return reply
    message = data.get("msg")
    return replace(reply, verdict="refused", code=code, message=message if isinstance(message, str) else "")


def read_packs(data: Any) -> list[ResourcePack]:
    """Read the resource packs of `GET /account/costs`."""
    items = data.get("resource_pack_subscribe_infos") if isinstance(data, dict) else None
    return [_pack(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def read_deductions(data: Any) -> tuple[list[Deduction], str | None]:
    """Read a page of a billing ledger and the cursor of the next one; None after the last."""
    result = data.get("result") if isinstance(data, dict) else None
    items = result.get("detail") if isinstance(result, dict) else None
    cursor = data.get("next_cursor") if isinstance(data, dict) else None
    more = isinstance(cursor, str) and bool(cursor) and bool(data.get("has_more"))
    lines = [_deduction(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return lines, cursor if more else None


def pack_facts(data: Any) -> dict[str, Any]:
    """What an entry says of a look at the packs: how many, and of each what was left."""
    packs = read_packs(data)
    shown = [
        {name: str(value) for name in ("id", "type", "status", "total", "remaining") if (value := getattr(pack, name))}
        for pack in packs[:MAX_PACKS]
    ]
    return {"packs": len(packs), **({"remaining": shown} if shown else {})}


def ledger_facts(data: Any) -> dict[str, Any]:
    """What an entry says of a look at a ledger: how many lines, and whether there are more."""
    lines, cursor = read_deductions(data)
    return {"deductions": len(lines), "more": cursor is not None}


def _pack(item: Mapping[str, Any]) -> ResourcePack:
    return ResourcePack(
        id=clean_id(item.get("resource_pack_id")),
        name=_text(item.get("resource_pack_name")),
        type=clean_id(item.get("resource_pack_type")),
        status=clean_id(item.get("status")),
        total=_decimal(item.get("total_quantity")),
        remaining=_decimal(item.get("remaining_quantity")),
        purchased_ms=_millis(item.get("purchase_time")),
        effective_ms=_millis(item.get("effective_time")),
        invalid_ms=_millis(item.get("invalid_time")),
    )


def _deduction(item: Mapping[str, Any]) -> Deduction:
    unit = "unit" if "unit_before_deduction" in item else "balance"
    return Deduction(
        task_id=clean_id(item.get("task_id")),
        api_key_name=_text(item.get("api_key_name")),
        amount=_decimal(item.get("deduction_amount")),
        before=_decimal(item.get(f"{unit}_before_deduction")),
        after=_decimal(item.get(f"{unit}_after_deduction")),
        time_ms=_millis(item.get("deduction_time")),
        product_type=clean_id(item.get("product_type")),
        product_function=_text(item.get("product_function")),
        model=_text(item.get("model_name")),
        package_id=clean_id(item.get("package_id")),
        cash_type=clean_id(item.get("cash_type")),
        currency=clean_id(item.get("currency")),
        list_price=_decimal(item.get("list_price")),
        raw=item,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _millis(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 15:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
