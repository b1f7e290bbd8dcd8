"""Replays the pairs of tests/vectors/kling, written from the fact sheet: they hold the simulator to the facts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import uuid
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from klingai_audit.kling.simulator import ManualClock, Simulator, serve

VECTORS = Path(__file__).resolve().parents[3] / "vectors" / "kling"
FILES = ("auth", "legacy-text2video", "new-text-to-video", "tasks", "refusals")
CASES = [(name, case) for name in FILES for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]]
CHARGES = json.loads((VECTORS / "charges.json").read_text())["charges"]


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


def _fill(value: Any, names: dict[str, str]) -> Any:
    """Put remembered names and repeated text into a request."""
    if isinstance(value, dict):
        return {key: _fill(member, names) for key, member in value.items()}
    if not isinstance(value, str):
        return value
    value = re.sub(r"<(\d+) x (.+?)>", lambda found: found[2] * int(found[1]), value)
    return re.sub(r"<(\w+)>", lambda found: names[found[1]], value)


def _check(expected: Any, actual: Any, names: dict[str, str], where: str = "body") -> None:
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        assert sorted(expected) == sorted(actual), where
        for key, member in expected.items():
            _check(member, actual[key], names, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(actual), where
        for index, member in enumerate(expected):
            _check(member, actual[index], names, f"{where}[{index}]")
    elif isinstance(expected, str) and re.fullmatch("<.+>", expected):
        _check_placeholder(expected[1:-1], actual, names, where)
    else:
        assert (type(expected), expected) == (type(actual), actual), where


def _check_placeholder(name: str, actual: str, names: dict[str, str], where: str) -> None:
    kind, _, rest = name.partition(":")
    assert isinstance(actual, str), where
    assert actual, where
    if kind == "uuid":
        assert str(uuid.UUID(actual)) == actual, where
    elif kind == "id":
        assert re.fullmatch("[0-9]{18}", actual), where
        names[rest] = actual
    elif kind == "url":
        parts = urlsplit(actual)
        assert (parts.scheme, names[rest] in parts.path, bool(parts.query)) == ("http", True, True), where
    elif kind != "text":
        assert actual == names[kind], where


@pytest.mark.parametrize("file, case", CASES)
def test_the_simulator_answers_like_the_fact_sheet(file: str, case: str) -> None:
    """Every golden request, sent over a socket, gets its golden reply."""
    clock, names = ManualClock(1781080778802), dict[str, str]()
    sim = Simulator(clock)
    with serve(sim) as server:
        connection = HTTPConnection("localhost", server.port, timeout=20)
        for step in json.loads((VECTORS / f"{file}.json").read_text())["cases"][case]:
            clock.advance(step.get("advance", 0))
            for name, value in step.get("set", {}).items():
                setattr(sim, name, set(value) if isinstance(value, list) else value)
            if "call" not in step:
                continue
            method, path, *body = step["call"]
            headers = _authorization(step.get("auth", "api-key"), clock.now_ms())
            sent = json.dumps(_fill(body[0], names)).encode() if body else None
            connection.request(method, _fill(path, names), sent, headers)
            reply = connection.getresponse()
            received = json.loads(reply.read())
            assert (reply.status, received["code"]) == (step["status"], step["body"]["code"]), received
            assert reply.headers["Content-Type"] == "application/json"
            _check(step["body"], received, names)
        connection.close()


@pytest.mark.parametrize("row", CHARGES, ids=lambda row: f"{row['path']}-{row['units']}")
def test_a_task_costs_what_the_price_list_says(row: dict[str, Any], ask, clock) -> None:
    """The charge and the length of the result follow from the request and the sheet's list."""
    created = ask("POST", row["path"], row["body"])
    assert created.status == 200, created.json
    clock.advance(30)
    record = ask.record(created.data.get("id") or created.data["task_id"])
    assert record["billing"] == [{"charge_type": "unit", "amount": row["units"], "package_type": "video"}]
    assert [output["duration"] for output in record["outputs"]] == [row["duration"]]
    if row["path"].startswith("/v1/"):
        single = ask("GET", f"{row['path']}/{record['id']}").data
        assert single["final_unit_deduction"] == row["units"]
