"""Every create path: one life of a task by the hand-written table, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, mint_token
from klingai_audit.kling.simulator.products import PRODUCTS
from tests.unit.kling.simulator.golden import check, fill, load

TABLE = load("products")
ROWS = TABLE["products"]
OTHER_TABLES = ("/v1/videos/text2video", "/text-to-video/")
SYNCHRONOUS = {path for path, product in PRODUCTS.items() if product.reply is not None}


def _names(row: dict[str, Any], ask, clock) -> dict[str, str]:
    """Do what the row needs beforehand; remember the ids of it."""
    if "setup" not in row:
        return {}
    method, path, body = TABLE["setup"][row["setup"]]["call"]
    data = ask(method, path, body).data
    clock.advance(30)
    names = {"session": data.get("session_id", "")}
    if "face_data" in data:
        names["face"] = data["face_data"][0]["face_id"]
    if "task_result" in data:
        names["audio"] = data["task_result"]["audios"][0]["id"]
    elif "session_id" not in data:
        names["video"] = ask.record(data.get("id") or data["task_id"])["outputs"][0]["id"]
    return names


def _id(row: dict[str, Any], index: int) -> str:
    return f"{index}-{row['path']}"


@pytest.mark.parametrize("row", ROWS, ids=[_id(row, index) for index, row in enumerate(ROWS)])
def test_a_task_lives_as_the_sheet_says(row: dict[str, Any], ask, clock) -> None:
    """Create reply, both record shapes, outputs and charge of one task follow from the hand-written row."""
    names = _names(row, ask, clock)
    created = ask("POST", row["path"], fill(row["body"], names))
    assert created.status == 200, created.json
    now, legacy = clock.now_ms(), row["path"].startswith("/v1/")
    info = row.get("task_info", {})
    if legacy:
        head = {"task_status": "submitted", "task_info": info, "created_at": now, "updated_at": now}
        check({"task_id": "<id:T>", **head}, created.data, names)
    else:
        check({"id": "<id:T>", "status": "submitted", "create_time": now, "update_time": now}, created.data, names)
    clock.advance(30)
    if legacy:
        single = {
            "task_id": "<T>",
            "task_status": "succeed",
            "task_status_msg": "",
            "task_info": info,
            "watermark_info": {"enabled": "watermark_info" in row["body"]},
            "task_result": row["task_result"],
            "final_unit_deduction": row["units"],
            "created_at": now,
            "updated_at": now + 30_000,
        }
        check(single, ask("GET", f"{row['path']}/{names['T']}").data, names)
        if not row.get("no_list"):
            check([single], ask("GET", f"{row['path']}?pageNum=1&pageSize=500").data, names)
    new = {
        "id": "<T>",
        "status": "succeeded",
        "message": "",
        "create_time": now,
        "update_time": now + 30_000,
        "outputs": row["outputs"],
        "billing": [{"charge_type": "unit", "amount": row["units"], "package_type": row.get("pack", "video")}],
    }
    check(new, ask.record(names["T"]), names)


@pytest.mark.parametrize(
    "row, refused",
    [(row, refused) for row in ROWS for refused in row["refused"]],
    ids=[f"{index}-{row['path']}-{n}" for index, row in enumerate(ROWS) for n, _ in enumerate(row["refused"])],
)
def test_a_wrong_body_is_refused(row: dict[str, Any], refused: dict[str, Any], ask, sim, clock) -> None:
    """Each refusal of the table has its code, makes no task and costs nothing."""
    names = _names(row, ask, clock)
    before = len(sim.tasks), len(sim.account.deductions)
    reply = ask("POST", row["path"], fill(refused["body"], names))
    status = 404 if refused["code"] == 1203 else 400
    assert (reply.status, reply.code, "data" in reply.json) == (status, refused["code"], False), reply.json
    assert before == (len(sim.tasks), len(sim.account.deductions))


def test_the_table_is_complete() -> None:
    """Every asynchronous create path of the simulator has a row here or in the text-to-video tables."""
    listed = {row["path"] for row in ROWS}
    assert {path for path in PRODUCTS if not path.startswith(OTHER_TABLES)} - SYNCHRONOUS == listed
    assert [path for path in listed if not any(row["refused"] for row in ROWS if row["path"] == path)] == []


@pytest.mark.parametrize("path", sorted(PRODUCTS))
def test_tokens_open_the_legacy_paths_only(path: str, ask, clock) -> None:
    """An AccessKey token is good on every legacy create and on none of the new design."""
    token = mint_token(DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, now_ms=clock.now_ms())
    reply = ask("POST", path, {}, auth=token)
    assert (reply.status, reply.code) == ((400, 1200) if path.startswith("/v1/") else (401, 1002))


@pytest.mark.parametrize("row", ROWS, ids=[_id(row, index) for index, row in enumerate(ROWS)])
def test_no_product_goes_round_the_account(row: dict[str, Any], sim, ask, clock) -> None:
    """A frozen account is 429 / 1100 on every create, free ones included; reads go on."""
    names = _names(row, ask, clock)
    sim.account.frozen = True
    assert ask("POST", row["path"], fill(row["body"], names)).code == 1100
    assert ask("GET", "/tasks?task_ids=1").code == 0
