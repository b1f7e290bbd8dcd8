"""Replays the pairs of tests/vectors/kling, written from the fact sheet: they hold the simulator to the facts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any

import pytest

from klingai_audit.kling.simulator import ManualClock, ResourcePack, Simulator, Wallet, serve
from tests.unit.kling.simulator.golden import check, fill, load

FILES = (
    "auth", "legacy-text2video", "new-text-to-video", "tasks", "refusals", "synchronous", "library", "account",
)  # fmt: skip
CASES = [(name, case) for name in FILES for case in load(name)["cases"]]
CHARGES = load("charges")["charges"]


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _token(now_s: int, not_before: int, lifetime: int) -> str:
    """A token by the vendor's recipe, made here without the simulator's code."""
    head = _part(b'{"alg":"HS256","typ":"JWT"}')
    claims = {"iss": "sim-access-key", "exp": now_s + lifetime, "nbf": now_s + not_before}
    signed = f"{head}.{_part(json.dumps(claims).encode())}"
    secret = b"sim-secret-key-0123456789abcdef0123"
    return f"{signed}.{_part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _authorization(auth: str, now_ms: int) -> dict[str, str]:
    kind, _, value = auth.partition(":")
    if kind == "none":
        return {}
    if kind == "api-key":
        return {"Authorization": "Bearer sim-api-key"}
    if kind == "raw":
        return {"Authorization": value}
    assert kind == "token"
    not_before, lifetime = value.split(",")
    return {"Authorization": f"Bearer {_token(now_ms // 1000, int(not_before), int(lifetime))}"}


def _prepare(sim: Simulator, step: dict[str, Any]) -> None:
    """Set the account up as the step says."""
    for name, value in step.get("set", {}).items():
        setattr(sim, name, set(value) if isinstance(value, list) else value)
    if "pack" in step:
        sim.account.packs = [ResourcePack(**step["pack"] | {"total": Decimal(step["pack"]["total"])})]
    if "wallet" in step:
        sim.account.packs.clear()
        money = {name: Decimal(text) for name, text in step["wallet"].items() if name != "currency"}
        sim.account.wallet = Wallet(**step["wallet"] | money)
    if "drain" in step:
        sim.account.drain(step["drain"])


@pytest.mark.parametrize("file, case", CASES)
def test_the_simulator_answers_like_the_fact_sheet(file: str, case: str) -> None:
    """Every golden request, sent over a socket, gets its golden reply."""
    clock, names = ManualClock(1781080778802), dict[str, str]()
    sim = Simulator(clock)
    with serve(sim) as server:
        connection = HTTPConnection("localhost", server.port, timeout=20)
        for step in load(file)["cases"][case]:
            clock.advance(step.get("advance", 0))
            _prepare(sim, step)
            if "call" not in step:
                continue
            method, path, *body = step["call"]
            headers = _authorization(step.get("auth", "api-key"), clock.now_ms())
            sent = json.dumps(fill(body[0], names)).encode() if body else None
            connection.request(method, fill(path, names), sent, headers)
            reply = connection.getresponse()
            received = json.loads(reply.read())
            assert (reply.status, received["code"]) == (step["status"], step["body"]["code"]), received
            assert reply.headers["Content-Type"] == "application/json"
            check(step["body"], received, names)
        connection.close()


@pytest.mark.parametrize("row", CHARGES, ids=lambda row: f"{row['path']}-{row['units']}")
def test_a_task_costs_what_the_price_list_says(row: dict[str, Any], ask, clock) -> None:
    """The charge and the length of the result follow from the request and the sheet's list."""
    created = ask("POST", row["path"], row["body"])
    assert created.status == 200, created.json
    clock.advance(30)
    record = ask.record(created.data.get("id") or created.data["task_id"])
    pack = row.get("pack", "video")
    assert record["billing"] == [{"charge_type": "unit", "amount": row["units"], "package_type": pack}]
    assert {output.get("duration") for output in record["outputs"]} == {row.get("duration")}
    if row["path"].startswith("/v1/"):
        single = ask("GET", f"{row['path']}/{record['id']}").data
        assert single["final_unit_deduction"] == row["units"]
