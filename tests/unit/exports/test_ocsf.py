"""OCSF: every event type, against the compiled schema of version 1.8.0."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.event.record import OUTCOMES
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.exports.ocsf import encode, ocsf_event
from klingai_audit.exports.ocsf_rules import CLASS_NAMES, OCSF_VERSION, RULES, SEVERITIES
from klingai_audit.kling.endpoints import ROWS
from tests.support.exported import HEAD, HOSTILE, filled, json_values, record, text

ocsf = pytest.importorskip("ocsf_json_schema", reason="the compiled OCSF schema is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="the validator jsonschema is not installed")

TYPES = [*EVENT_TYPES, "x_storyboard_approved"]
FACTS: dict[str, Any] = {
    "model": "kling-2.6",
    "http_status": 200,
    "elapsed_ms": 11,
    "key_fingerprint": "d2545fd413fa9328",
    "key_kind": "api_key",
    "code": 1301,
    "category": "policy",
    "provider_created_at": "2026-11-21T23:07:53.586000Z",
    "provider_updated_at": "2026-11-21T23:07:54.586000Z",
    "result_id": "179530247358663490",
    "bytes": 21202,
    "sha256": "c6" * 32,
    "type": "video/mp4",
    "command": "query",
    "rule": "burst-of-refusals",
    "what": "Many refusals",
    "finding": "0123456789abcdef",
    "severity": "low",
    "count": 7,
    "method": "saml",
    "service": "studio",
    "mfa": True,
    "role": "admin",
    "prompt": {"commitment": "x" * 43, "bytes": 3},
}


@functools.cache
def schema() -> Any:
    return ocsf.get_ocsf_schema(OCSF_VERSION)


@functools.cache
def validator(class_uid: int, profiles: tuple[str, ...]) -> Any:
    source = ocsf.OcsfJsonSchemaEmbedded(schema())
    found = source.get_class_schema(source.lookup_class_name_from_uid(class_uid), list(profiles))
    return jsonschema.Draft202012Validator(found)


def errors(event: dict[str, Any]) -> list[str]:
    """Validate what a receiver would parse, and the constraints that JSON Schema does not hold."""
    profiles = tuple(event["metadata"].get("profiles", ()))
    found = [error.message for error in validator(event["class_uid"], profiles).iter_errors(event)]
    name = ocsf.OcsfJsonSchemaEmbedded(schema()).lookup_class_name_from_uid(event["class_uid"])
    definition = schema()["classes"][name]
    return found + list(_unmet(definition, event)) + list(_enumerations(definition, event))


def _unmet(definition: dict[str, Any], value: dict[str, Any]) -> Any:
    for member, names in (definition.get("constraints") or {}).items():
        if member == "at_least_one" and not set(names) & set(value):
            yield f"{definition['caption']} has none of {names}"
    for name, inner in value.items():
        attribute = definition["attributes"].get(name, {})
        kind = attribute.get("object_type")
        if kind in (None, "object"):
            continue
        for item in inner if isinstance(inner, list) else [inner]:
            yield from _unmet(schema()["objects"][kind], item)


def _enumerations(definition: dict[str, Any], value: dict[str, Any]) -> Any:
    """An enumeration's number 99 asks for the text beside it."""
    for name, number in value.items():
        if name.endswith("_id") and number == 99 and name.removesuffix("_id") in definition["attributes"]:
            sibling = definition["attributes"][name].get("sibling", name.removesuffix("_id"))
            if sibling not in value:
                yield f"{name} is 99 and {sibling} is missing"


@pytest.mark.parametrize("event_type", TYPES)
def test_every_type_validates(event_type: str) -> None:
    """Bare and full, in every outcome, announced and done."""
    full = {
        "team": "studio-a", "project": "launch", "resource_type": "video", "resource_id": "831", "action": "download",
        "ip_address": "192.168.xxx.xxx", "ip_ref": "61df", "user_agent": "app/1", "correlation_id": "c",
        "request_id": "r", "on_behalf_of": "p_x",
    }  # fmt: skip
    for outcome in sorted(OUTCOMES):
        for members in ({}, full, {**full, "metadata": FACTS}, {"metadata": {**FACTS, "phase": "intent"}}):
            event = json.loads(encode(record(event_type, outcome=outcome, **members)))
            assert [] == errors(event), (outcome, members)


@pytest.mark.parametrize("actor_type", ["user", "admin", "service", "system", "robot"])
def test_every_kind_of_actor_validates(actor_type: str) -> None:
    """Known kinds have numbers, others are told by name; the log itself is a program."""
    assert [] == errors(ocsf_event(record("video_deleted", actor_type=actor_type)))
    assert [] == errors(ocsf_event(record("log_opened", actor_type="system", actor_id="klingai-audit")))


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(sorted(FACTS)) | text, json_values, max_size=6))
def test_metadata_of_any_shape_validates(event_type: str, metadata: dict[str, Any]) -> None:
    """What callers put under names that we look at may be anything."""
    assert [] == errors(json.loads(encode(record(event_type, outcome="failure", metadata=metadata))))


@pytest.mark.parametrize("text_", ["yesterday", "2026-11-21T23:07:53", ""])
def test_times_that_are_none_are_left_out(text_: str) -> None:
    """What is no instant is no time of the event."""
    event = ocsf_event(record("video_generation_completed", metadata={"provider_created_at": text_}))
    assert "start_time" not in event


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_validate_and_stay_what_they_are(value: str) -> None:
    """JSON carries any text; the output is one line."""
    encoded = encode(filled(value))
    event = json.loads(encoded)
    assert [] == errors(event)
    assert b"\n" not in encoded
    assert b"\x1b" not in encoded
    assert value == event["unmapped"]["team"]


def test_the_proof_survives() -> None:
    """From the event alone the leaf hash can be computed, and it names its place in the tree."""
    exported = record("video_generation_completed", seq=41)
    event = json.loads(encode(exported))
    assert hashlib.sha256(b"\0" + event["raw_data"].encode()).hexdigest() == event["unmapped"]["proof"]["leaf_hash"]
    assert {
        "origin": HEAD.origin,
        "sequence": 41,
        "leaf_hash": exported.leaf_hash,
        "tree_size": 1000,
        "root": HEAD.root_text,
    } == event["unmapped"]["proof"]


def test_rules_are_total_and_agree_with_the_schema() -> None:
    """Every type has a rule; its activity is one of its class, and the class is called as we call it."""
    assert set(EVENT_TYPES) == set(RULES)
    by_uid = {definition["uid"]: definition for definition in schema()["classes"].values()}
    for name, rule in RULES.items():
        definition = by_uid[EVENT_TYPES[name].ocsf_class]
        assert CLASS_NAMES[definition["uid"]] == definition["caption"]
        allowed = definition["attributes"]["activity_id"]["enum"]
        assert rule.activity is None or str(rule.activity) in allowed, name
    assert {str(number): caption for number, caption in SEVERITIES.items()}.items() <= {
        number: told["caption"] for number, told in by_uid[6003]["attributes"]["severity_id"]["enum"].items()
    }.items()


@pytest.mark.parametrize(
    "event_type,members,expected",
    [
        ("video_generation_started", {}, (600301, 1, 1)),
        ("video_generation_failed", {"outcome": "failure"}, (600303, 2, 2)),
        ("video_generation_failed", {"outcome": "failure", "metadata": {"category": "policy"}}, (600303, 3, 2)),
        ("video_downloaded", {"outcome": "unknown"}, (600602, 1, 0)),
        ("video_downloaded", {"outcome": "unknown", "metadata": {"phase": "intent"}}, (600602, 1, 99)),
        ("access_denied", {"outcome": "failure", "action": "query_tasks"}, (600302, 3, 2)),
        ("rate_limit_exceeded", {"outcome": "blocked", "action": "text_to_video"}, (600301, 2, 2)),
        ("user_added", {"resource_type": "user", "resource_id": "p_x"}, (300101, 2, 1)),
        ("user_removed", {"resource_id": "p_x", "metadata": {"role": "admin"}}, (300106, 3, 1)),
        ("suspicious_activity", {"metadata": {"severity": "medium"}}, (200401, 3, 1)),
        ("suspicious_activity", {"metadata": {"severity": ["high"]}}, (200401, 4, 1)),
        ("policy_violation", {"outcome": "blocked"}, (200401, 4, 1)),
        ("verification_failed", {"outcome": "failure"}, (200401, 5, 1)),
        ("log_exported", {}, (100803, 2, 1)),
        ("auth_event", {"action": "logout"}, (300202, 1, 1)),
        ("x_own", {"action": "approve"}, (600399, 1, 1)),
    ],
)
def test_type_severity_and_status(event_type: str, members: dict[str, Any], expected: tuple[int, int, int]) -> None:
    """A sample of the table, number by number: type, severity, status."""
    event = ocsf_event(record(event_type, **members))
    assert expected == (event["type_uid"], event["severity_id"], event["status_id"])


def test_every_call_of_kling_has_a_verb() -> None:
    """A refused call is a create, a read or a delete, whatever row of the catalogue it is."""
    for row in ROWS:
        assert ocsf_event(record("access_denied", action=row.action))["activity_id"] in {1, 2, 4}


def test_refusals_say_what_was_done_about_them() -> None:
    """The profile security_control: denied and why, or only observed."""
    blocked = ocsf_event(record("policy_violation", outcome="blocked"))
    seen = ocsf_event(record("policy_violation"))
    denied = ocsf_event(record("access_denied", outcome="failure"))
    assert (2, 2) == (blocked["action_id"], blocked["disposition_id"])
    assert (3, 17) == (seen["action_id"], seen["disposition_id"])
    assert (2, 26) == (denied["action_id"], denied["disposition_id"])
