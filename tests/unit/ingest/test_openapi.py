"""The OpenAPI document: valid JSON Schema, and saying of requests what the parsers do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from klingai_audit.cli.run import run
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.ingest.openapi import EVENTS_PATH, STATUSES, document
from klingai_audit.ingest.reading import read_events
from klingai_audit.ingest.wire import JSON, Refused
from klingai_audit.log import AuditLog
from klingai_audit.testing.faulty import QuickOps
from tests.support.ingesting import IDS, PRODUCERS, validator_of


def test_every_schema_is_one() -> None:
    """By the meta-schema of JSON Schema 2020-12, which OpenAPI 3.1 uses."""
    for schema in document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(document())
    assert text == json.dumps(json.loads(text))
    assert "3.1.0" == document()["openapi"]


def test_the_example_is_an_event() -> None:
    """By the schema and by the parser."""
    described = document()["paths"][EVENTS_PATH]["post"]["requestBody"]["content"][JSON]
    validator_of(described["schema"]).validate(described["example"])
    assert 1 == len(read_events(json.dumps(described["example"]).encode(), JSON, 1))


@pytest.mark.parametrize(
    "event",
    [
        {"event_type": "x_a"},
        {"event_type": "x_a", "event_id": IDS[0], "actor_id": None, "metadata": {"a": [1]}},
        {"event_type": "x_a", "timestamp": "2026-11-21T19:28:23.123456Z"},
        {"event_type": "x_a", "event_id": IDS[0].replace("-7", "-8")},
        {"event_type": "x_a", "event_id": "17"},
        {"event_type": 1},
        {"event_type": "x_a", "outcome": "good"},
        {"event_type": "x_a", "outcome": None},
        {"event_type": "x_a", "colour": 1},
        {"event_type": "x_a", "metadata": []},
        {},
    ],
)
def test_schema_and_parser_agree(event: dict[str, Any]) -> None:
    """What one takes the other takes."""
    taken = True
    try:
        read_events(json.dumps(event).encode(), JSON, 1)
    except Refused:
        taken = False
    assert taken == validator_of({"$ref": "#/components/schemas/Event"}).is_valid(event)


def test_types_of_the_log_are_not_offered() -> None:
    """The schema names every type that somebody may be let claim, and none of the log's."""
    schema = document()["components"]["schemas"]["Event"]["properties"]["event_type"]
    offered = set(schema["anyOf"][0]["enum"])
    own = {name for name, info in EVENT_TYPES.items() if info.own or info.category == "log"}
    assert set() == offered & own
    assert set(EVENT_TYPES) - own <= offered


def test_the_command_prints_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a log and without producers."""
    assert 0 == run(["ingest", "--openapi"])
    assert document() == json.loads(capfd.readouterr().out)
    assert {str(status) for status in STATUSES} == set(document()["paths"][EVENTS_PATH]["post"]["responses"])


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2 instead of a server."""
    AuditLog.open(tmp_path / "audit", ops=QuickOps()).close()
    (tmp_path / "producers.toml").write_text(PRODUCERS)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    argv = ["ingest", "--log", str(tmp_path / "audit"), "--producers", str(tmp_path / "producers.toml")]
    assert 2 == run([*argv, "--listen", "127.0.0.1:0"])
