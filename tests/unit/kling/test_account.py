"""Packs and ledgers as Kling sends them, and as nobody should."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.kling.account import inner_reply, ledger_facts, pack_facts, read_deductions, read_packs
from klingai_audit.kling.reply import Reply

PACK = {
    "resource_pack_name": "Video 1000",
    "resource_pack_id": "p1",
    "resource_pack_type": "decreasing_total",
    "total_quantity": 1000,
    "remaining_quantity": 997.6,
    "purchase_time": 1781080778802,
    "effective_time": "1781080778802",
    "invalid_time": 1781080778803,
    "status": "online",
}
UNITS = {
    "package_id": "p1",
    "product_type": "video",
    "task_id": "831",
    "api_key_name": "studio",
    "model_name": "kling-v3",
    "deduction_time": "1781080778802",
    "unit_before_deduction": "10",
    "deduction_amount": "2.4",
    "unit_after_deduction": "7.6",
}
MONEY = {
    "task_id": "832",
    "cash_type": "balance",
    "balance_before_deduction": "10",
    "deduction_amount": "0.33",
    "balance_after_deduction": "9.67",
    "list_price": "0.34",
    "currency": "USD",
}


def test_packs():
    """Amounts are exact decimals, times milliseconds."""
    (pack,) = read_packs({"code": 0, "resource_pack_subscribe_infos": [PACK]})
    assert (pack.id, pack.name, pack.total, pack.remaining) == ("p1", "Video 1000", Decimal(1000), Decimal("997.6"))
    assert (pack.type, pack.status) == ("decreasing_total", "online")
    assert (pack.purchased_ms, pack.effective_ms, pack.invalid_ms) == (1781080778802, 1781080778802, 1781080778803)


def test_ledgers():
    """Units and money have the same shape; a cursor counts only while there is more."""
    page = {"result": {"detail": [UNITS, MONEY], "count": 2}, "next_cursor": "c", "has_more": True}
    (units, money), cursor = read_deductions(page)
    assert cursor == "c"
    assert (units.task_id, units.amount, units.before, units.after) == ("831", Decimal("2.4"), 10, Decimal("7.6"))
    assert (units.api_key_name, units.model, units.time_ms) == ("studio", "kling-v3", 1781080778802)
    assert (money.amount, money.currency, money.list_price) == (Decimal("0.33"), "USD", Decimal("0.34"))
    assert units.raw == UNITS
    assert read_deductions({**page, "has_more": False})[1] is None


@pytest.mark.parametrize("data", [{"code": 1201, "msg": "no"}, {"code": 5000}])
def test_an_error_inside(data):
    """The inner wrapping may hold another code than the outer."""
    inner = inner_reply(Reply("ok", 0, 200, data=data))
    assert (inner.verdict, inner.code) == ("refused", data["code"])
    assert inner_reply(Reply("ok", 0, 200, data={"code": 0})).verdict == "ok"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["result", "detail", "resource_pack_subscribe_infos", "next_cursor", "has_more", *PACK, *UNITS]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(anything)
def test_nothing_is_too_odd(data):
    """Any JSON gives packs, lines and facts, perhaps none."""
    assert isinstance(pack_facts(data)["packs"], int)
    assert isinstance(ledger_facts(data)["deductions"], int)
