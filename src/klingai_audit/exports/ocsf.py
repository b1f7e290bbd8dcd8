"""OCSF 1.8.0: one JSON object for each entry. Pure.

The entry itself travels along as `raw_data`, byte for byte, and where it stands in the tree as `unmapped.proof`:
SHA-256(0x00 ‖ raw_data) is the leaf hash, at the end of the pipeline too.
Source: the OCSF schema 1.8.0; which class an event type becomes stands in `ocsf_rules`.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from klingai_audit.event.context import OWN_ACTOR
from klingai_audit.event.types import EVENT_TYPES, category_of
from klingai_audit.exports.ocsf_rules import (
    API_ACTIVITY,
    OCSF_VERSION,
    OTHER,
    UNKNOWN,
    activity_of,
    class_of,
    severity_of,
)
from klingai_audit.exports.record import Record
from klingai_audit.views.entry import EntryView
from klingai_audit.views.times import stated_instant

__all__ = ["encode", "meaning_of", "ocsf_event", "product_version"]

_ENCODE: Final = msgspec.json.Encoder().encode
_PRODUCT: Final = "klingai-audit"
_PROVIDER: Final = "Kling AI"
_USER_TYPES: Final = {"user": 1, "admin": 2, "system": 3, "service": 4}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_REFUSALS: Final = frozenset({"access_denied", "policy_violation", "rate_limit_exceeded"})
_FINDINGS: Final = frozenset({2003, 2004})

_Members = dict[str, Any]


def encode(record: Record) -> bytes:
    """Return one record as one line of JSON, without LF."""
    return _ENCODE(ocsf_event(record))


def ocsf_event(record: Record) -> _Members:
    """Return one record as an OCSF event."""
    entry = record.entry
    class_uid, activity = class_of(entry.event_type), activity_of(entry)
    event: _Members = {
        "activity_id": activity,
        "category_uid": class_uid // 1000,
        "class_uid": class_uid,
        "type_uid": class_uid * 100 + activity,
        "severity_id": severity_of(entry),
        "time": _milliseconds(entry.timestamp),
        "message": meaning_of(entry.event_type),
        "metadata": _metadata(record),
        **_status(entry, class_uid),
        **_BUILDERS[class_uid](entry),
        "raw_data": entry.raw.decode("utf-8"),
        "raw_data_size": len(entry.raw),
        "unmapped": _unmapped(record),
    }
    if activity == OTHER:
        event["activity_name"] = entry.action or entry.event_type
    profiles = _add_profiles(event, entry, class_uid)
    if profiles:
        event["metadata"]["profiles"] = profiles
    return event


@functools.cache
def product_version() -> str:
    """Return this package's version."""
    from importlib.metadata import version

    return version("klingai-audit")


def meaning_of(event_type: str) -> str:
    """Return one sentence that says what a stored event type means."""
    info = EVENT_TYPES.get(event_type)
    return f"{event_type} was recorded." if info is None else info.meaning


def _milliseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _given(**members: Any) -> _Members:
    """Return the members that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def _text(values: Mapping[str, Any], name: str) -> str | None:
    """Return a text of metadata; None for anything else, commitments included."""
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def _number(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _moment(values: Mapping[str, Any], name: str) -> int | None:
    moment = stated_instant(values.get(name))
    return None if moment is None else _milliseconds(moment)


# --- what every class has ------------------------------------------------------------------------------


def _metadata(record: Record) -> _Members:
    entry = record.entry
    return {
        "version": OCSF_VERSION,
        "product": {"name": _PRODUCT, "vendor_name": _PRODUCT, "version": product_version()},
        "uid": entry.event_id,
        "event_code": entry.event_type,
        "sequence": record.seq,
        "logged_time": _milliseconds(entry.logged_at),
        "log_name": record.head.origin,
        "log_provider": _PRODUCT,
        **_given(correlation_uid=entry.correlation_id),
    }


def _unmapped(record: Record) -> _Members:
    entry = record.entry
    return {
        "event_type": entry.event_type,
        "category": category_of(entry.event_type),
        "outcome": entry.outcome,
        **_given(
            team=entry.team,
            project=entry.project,
            on_behalf_of=entry.on_behalf_of,
            ip_address=entry.ip_address,
            ip_ref=entry.ip_ref,
            metadata=entry.metadata or None,
        ),
        "proof": {
            "origin": record.head.origin,
            "sequence": record.seq,
            "leaf_hash": record.leaf_hash,
            "tree_size": record.head.size,
            "root": record.head.root_text,
        },
    }


def _status(entry: EntryView, class_uid: int) -> _Members:
    details = entry.metadata
    told = _given(status_detail=_text(details, "category") or _text(details, "error"))
    code = details.get("code")
    if isinstance(code, str | int) and not isinstance(code, bool):
        told["status_code"] = str(code)
    if class_uid in _FINDINGS:
        return {"status_id": 1, "status": "New", **told}
    if details.get("phase") == "intent":
        return {"status_id": OTHER, "status": "Intent", **told}
    status_id = {"success": 1, "failure": 2, "blocked": 2}.get(entry.outcome, UNKNOWN)
    return {"status_id": status_id, "status": entry.outcome, **told}


def _add_profiles(event: _Members, entry: EntryView, class_uid: int) -> list[str]:
    """Add the members that profiles bring, and return the profiles' names."""
    profiles = ["host"] if class_uid in _FINDINGS else []  # the profile that gives findings an actor
    model = _text(entry.metadata, "model")
    if class_uid == API_ACTIVITY and model is not None:
        profiles.append("ai_operation")
        event["ai_model"] = {"name": model, "ai_provider": _PROVIDER}
        if entry.event_type == "prompt_submitted":
            event["message_context"] = {"ai_role_id": 1, "service": {"name": _PROVIDER}}
    if entry.event_type in _REFUSALS:
        profiles.append("security_control")
        blocked = entry.outcome in ("blocked", "failure")
        denied = 26 if entry.event_type == "access_denied" else 2
        event.update(action_id=2 if blocked else 3, disposition_id=denied if blocked else 17)
    return profiles


# --- objects that several classes use ------------------------------------------------------------------


def _user(entry: EntryView) -> _Members:
    kind = entry.actor_type or ""
    user = {"uid": entry.actor_id or "unknown", "type_id": _USER_TYPES.get(kind, OTHER)}
    if user["type_id"] == OTHER:
        user["type"] = kind or "unknown"
    if entry.team is not None:
        user["groups"] = [{"name": entry.team, "type": "team"}]
    fingerprint = _text(entry.metadata, "key_fingerprint")
    if fingerprint is not None:
        kind = _text(entry.metadata, "key_kind") or "api_key"
        user["programmatic_credentials"] = [{"uid": fingerprint, "type": kind}]
    return user


def _actor(entry: EntryView) -> _Members:
    if entry.actor_id == OWN_ACTOR:
        return {"app_name": OWN_ACTOR}
    return {"user": _user(entry), **_given(app_name=entry.user_agent)}


def _endpoint(entry: EntryView) -> _Members:
    """Where it came from: addresses are masked in the log, so they are names here, and their keyed reference the id."""
    known = _given(name=entry.ip_address, uid=entry.ip_ref)
    return known or {"svc_name": _PRODUCT if entry.actor_id == OWN_ACTOR else "unknown"}


def _thing(entry: EntryView) -> _Members:
    """Name what was acted on: an id, or at least its kind."""
    if entry.resource_id is None:
        return {"name": entry.resource_type or entry.event_type}
    return {"uid": entry.resource_id}


def _entity(entry: EntryView) -> _Members:
    kind = "policy" if entry.event_type == "policy_updated" else entry.resource_type
    if kind == "policy":
        return {**_thing(entry), "type_id": 5, "policy": _thing(entry)}
    return {**_thing(entry), "type_id": OTHER, "type": kind or "settings"}


# --- one builder for each class ------------------------------------------------------------------------


def _api(entry: EntryView) -> _Members:
    details = entry.metadata
    api: _Members = {"operation": entry.action or entry.event_type, "service": {"name": _PROVIDER}}
    if entry.request_id is not None:
        api["request"] = {"uid": entry.request_id}
    status = _number(details, "http_status")
    event: _Members = {"actor": _actor(entry), "api": api, "src_endpoint": _endpoint(entry)}
    if status is not None:
        event["http_response"] = {"code": status}
    if entry.resource_id is not None or entry.resource_type is not None:
        event["resources"] = [{**_thing(entry), **_given(type=entry.resource_type)}]
    event |= _given(
        duration=_number(details, "elapsed_ms"),
        start_time=_moment(details, "provider_created_at"),
        end_time=_moment(details, "provider_updated_at"),
    )
    return event


def _file(entry: EntryView) -> _Members:
    details = entry.metadata
    uid = _text(details, "result_id") or entry.resource_id
    file: _Members = {
        "name": uid or entry.resource_type or "result",
        "type_id": 1,
        **_given(uid=uid, size=_number(details, "bytes"), mime_type=_text(details, "type")),
    }
    digest = _text(details, "sha256")
    if digest is not None:
        file["hashes"] = [{"algorithm_id": 3, "value": digest}]
    return {
        "actor": _actor(entry),
        "file": file,
        "src_endpoint": _endpoint(entry),
        **_given(duration=_number(details, "elapsed_ms")),
    }


def _datastore(entry: EntryView) -> _Members:
    asked = hashlib.sha256(_ENCODE(entry.metadata)).hexdigest()
    return {
        "actor": _actor(entry),
        "src_endpoint": _endpoint(entry),
        "type_id": 3,
        "table": {"name": "events"},
        "query_info": {
            "name": _text(entry.metadata, "command") or entry.action or entry.event_type,
            "query_string": f"sha256:{asked}",
        },
    }


def _event_log(entry: EntryView) -> _Members:
    return {"actor": _actor(entry), "log_type_id": OTHER, "log_type": "audit", "log_provider": _PRODUCT}


def _entities(entry: EntryView) -> _Members:
    return {"actor": _actor(entry), "entity": _entity(entry), "src_endpoint": _endpoint(entry)}


def _account(entry: EntryView) -> _Members:
    return {"actor": _actor(entry), "user": {"uid": entry.resource_id or "unknown"}, "src_endpoint": _endpoint(entry)}


def _logon(entry: EntryView) -> _Members:
    details = entry.metadata
    mfa = details.get("mfa")
    return {
        "actor": _actor(entry),
        "user": _user(entry),
        "service": {"name": _text(details, "service") or _PROVIDER},
        "src_endpoint": _endpoint(entry),
        "auth_protocol_id": OTHER,
        "auth_protocol": _text(details, "method") or "unknown",
        **({"is_mfa": mfa} if isinstance(mfa, bool) else {}),
    }


def _finding_info(entry: EntryView) -> _Members:
    details = entry.metadata
    info: _Members = {
        "uid": _text(details, "finding") or entry.event_id,
        "title": meaning_of(entry.event_type),
        "created_time": _milliseconds(entry.timestamp),
        **_given(desc=_text(details, "what"), related_events_count=_number(details, "count")),
    }
    rule = _text(details, "rule")
    if rule is not None:
        info["analytic"] = {"uid": rule, "type_id": 1}
    return info


def _detection(entry: EntryView) -> _Members:
    return {
        "is_alert": True,
        "finding_info": _finding_info(entry),
        "actor": _actor(entry),
        "evidences": [{"actor": _actor(entry), "src_endpoint": _endpoint(entry)}],
    }


def _compliance(entry: EntryView) -> _Members:
    control = "Completeness of the log" if entry.event_type == "reconciled" else "Integrity of the log"
    passed = {"success": 1, "failure": 3, "blocked": 3}.get(entry.outcome, UNKNOWN)
    return {
        "finding_info": _finding_info(entry),
        "compliance": {"control": control, "standards": ["klingai-audit self-check"], "status_id": passed},
        "actor": _actor(entry),
    }


_BUILDERS: Final[Mapping[int, Callable[[EntryView], _Members]]] = {
    1008: _event_log,
    2003: _compliance,
    2004: _detection,
    3001: _account,
    3002: _logon,
    3004: _entities,
    6003: _api,
    6005: _datastore,
    6006: _file,
}
