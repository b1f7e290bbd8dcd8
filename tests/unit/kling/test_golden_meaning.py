"""The golden pairs of the fact sheet, told by the interpreter: no reply of them is silent, no charge is misread."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from klingai_audit.capture.facts import Exchange, RequestFacts
from klingai_audit.capture.memory import Memory
from klingai_audit.event.record import new_event_id
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.kling.meaning import PROVIDER

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "kling"
HOST = "https://api-singapore.klingai.com"


def cases():
    """Give each case of each file of golden pairs."""
    for path in sorted(VECTORS.glob("*.json")):
        for name, steps in json.loads(path.read_text()).get("cases", {}).items():
            yield pytest.param(steps if isinstance(steps, list) else steps.get("steps", []), id=f"{path.stem}: {name}")


def filled(text: str) -> str:
    """Put real values in the place of the marks of the vectors."""
    text = text.replace("<uuid>", "01a20014-3398-77f1-87a9-48d02febd02d").replace("<text>", "some text")
    text = re.sub(r"<url:(\w+)>", r"https://cdn.example/\1.mp4?t=1", text)
    return re.sub(r"<(?:id:)?(\w+)>", lambda found: str(8_000_000 + sum(found[1].encode()) * 31), text)


def outcomes_of(call, status: int, body: object, memory: Memory):
    """Interpret one golden pair."""
    method, path, *sent = json.loads(filled(json.dumps(call)))
    operation = PROVIDER.classify(method, HOST + path, memory)
    request = RequestFacts(method=method, url=HOST + path, body=json.dumps(sent[0]).encode() if sent else None)
    intent = PROVIDER.intent(operation, request, new_event_id(), {})
    event_id = new_event_id()
    intent = intent.replace(event_id=event_id, correlation_id=intent.correlation_id or event_id)
    reply = filled(json.dumps(body)).encode()
    return PROVIDER.outcome(operation, Exchange(request=request, status=status, body=reply), intent, memory)


def deductions(data: object) -> list[str]:
    """Return the deductions that records of either generation state, as text."""
    if isinstance(data, list):
        return [amount for item in data for amount in deductions(item)]
    if not isinstance(data, dict):
        return []
    own = [data["final_unit_deduction"]] if data.get("final_unit_deduction") else []
    own += [data["final_balance_deduction"]["quota"]] if data.get("final_balance_deduction") else []
    own += [item["amount"] for item in data.get("billing", ()) if isinstance(item, dict)]
    return own + deductions(data.get("result") if isinstance(data.get("result"), list) else None)


@pytest.mark.parametrize("steps", list(cases()))
def test_every_pair_is_told(steps):
    """Each reply gives registered events; each deduction is the charge of one of them, digit by digit."""
    memory = Memory("o")
    for step in steps:
        if "call" not in step or not isinstance(step.get("body"), dict):
            continue
        outcomes = outcomes_of(step["call"], step["status"], step["body"], memory)
        data = step["body"].get("data")
        silent = isinstance(data, list) and data and not outcomes
        assert outcomes
        assert not silent
        assert all(str(outcome.draft.event_type) in EVENT_TYPES for outcome in outcomes)
        charges = [charge["amount"] for outcome in outcomes for charge in outcome.draft.metadata.get("charge", ())]
        offered = "presets" in step["call"][1]  # what Kling offers to all was charged to nobody
        assert charges == ([] if offered else deductions(data))
        if step["status"] >= 400:
            assert {outcome.draft.outcome for outcome in outcomes} <= {"failure", "blocked", "unknown"}
