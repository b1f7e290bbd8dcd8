"""Which OCSF 1.8.0 class, activity and severity each event type becomes: the table that docs/exports.md shows.

The class of a type stands in `event.types`. Numbers were read from the schema of version 1.8.0; a test validates an
event of every type against the compiled schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.kling.endpoints import ROWS
from klingai_audit.views.entry import EntryView

__all__ = [
    "API_ACTIVITY",
    "CLASS_NAMES",
    "OCSF_VERSION",
    "OTHER",
    "RULES",
    "SEVERITIES",
    "UNKNOWN",
    "Rule",
    "activity_of",
    "class_of",
    "rule_of",
    "severity_of",
]

OCSF_VERSION: Final = "1.8.0"

API_ACTIVITY: Final = 6003
"""The class of calls, and of own types."""

CLASS_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        1008: "Event Log Activity",
        2003: "Compliance Finding",
        2004: "Detection Finding",
        3001: "Account Change",
        3002: "Authentication",
        3004: "Entity Management",
        API_ACTIVITY: "API Activity",
        6005: "Datastore Activity",
        6006: "File Hosting Activity",
    }
)
"""The classes that events become, by number."""

SEVERITIES: Final[Mapping[int, str]] = MappingProxyType(
    {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
)

UNKNOWN: Final = 0
OTHER: Final = 99
"""Numbers that mean the same in every enumeration of OCSF."""

_CREATE, _READ, _UPDATE, _DELETE = 1, 2, 3, 4


class Rule(NamedTuple):
    """What an event type becomes. `activity` None: by what the call does (create, read, delete).

    `severity` holds where it went well or is not known yet, `failed` where the outcome is failure or blocked.
    """

    activity: int | None
    severity: int = 1
    failed: int = 2


_MEDIA: Final = ("video", "image", "audio")
_LOG_RULES: Final = {
    "log_created": Rule(9),
    "log_opened": Rule(6),
    "log_closed": Rule(7),
    "log_recovered": Rule(8, 3, 3),
    "log_heartbeat": Rule(OTHER),
    "clock_stepped": Rule(OTHER, 3, 3),
    "signing_key_rotated": Rule(OTHER),
    "checkpoint_witnessed": Rule(OTHER),
    "checkpoint_timestamped": Rule(OTHER),
    "log_exported": Rule(3, 2),
    "retention_applied": Rule(2, 3, 3),
    "legal_hold_set": Rule(OTHER, 2),
    "legal_hold_released": Rule(OTHER, 2),
    "approval_used": Rule(OTHER, 2),
    "gap_opened": Rule(10, 5, 5),
    "gap_closed": Rule(9, 2),
    "log_migrated": Rule(OTHER, 2),
    "log_imported": Rule(OTHER, 2),
    "log_verified": Rule(_CREATE, 1, 5),
    "verification_failed": Rule(_CREATE, 5, 5),
    "reconciled": Rule(_CREATE, 1, 4),
    "log_queried": Rule(4),
    "report_generated": Rule(4),
    "content_unsealed": Rule(10, 3, 3),
    "subject_erased": Rule(7, 3, 3),
}

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "api_key_used": Rule(None),
        "api_key_rotated": Rule(_UPDATE, 2),
        "access_denied": Rule(None, 3, 3),
        "auth_event": Rule(OTHER),
        **{f"{medium}_generation_started": Rule(_CREATE) for medium in _MEDIA},
        **{f"{medium}_generation_completed": Rule(_UPDATE) for medium in _MEDIA},
        **{f"{medium}_generation_failed": Rule(_UPDATE, 2, 2) for medium in _MEDIA},
        "task_submitted": Rule(_CREATE),
        "task_status_changed": Rule(_UPDATE),
        "task_completed": Rule(_UPDATE),
        **{f"{medium}_downloaded": Rule(2) for medium in _MEDIA},
        **{f"{medium}_deleted": Rule(_DELETE, 2) for medium in _MEDIA},
        "resource_created": Rule(_CREATE),
        "resource_deleted": Rule(_DELETE, 2),
        "resource_read": Rule(_READ),
        "prompt_submitted": Rule(_CREATE),
        "settings_changed": Rule(_UPDATE, 2),
        "quota_checked": Rule(_READ),
        "user_added": Rule(1, 2),
        "user_removed": Rule(6, 2),
        "budget_modified": Rule(_UPDATE, 2),
        "policy_updated": Rule(_UPDATE, 3, 3),
        "rate_limit_exceeded": Rule(None, 2, 2),
        "suspicious_activity": Rule(_CREATE, 4, 4),
        "policy_violation": Rule(_CREATE, 4, 4),
        **_LOG_RULES,
    }
)
"""Every registered event type -> its rule."""

_OWN: Final = Rule(OTHER)
_KINDS: Final = {"paid_create": _CREATE, "paid_sync": _CREATE, "read": _READ, "destructive": _DELETE, "download": _READ}
_VERBS: Final = {row.action: _KINDS[row.kind] for row in ROWS}
_RULES_SEVERITY: Final = {"low": 2, "medium": 3, "high": 4}
_LOGON_VERBS: Final = {
    "logon": 1, "login": 1, "sign_in": 1, "logoff": 2, "logout": 2, "sign_out": 2, "preauth": 6, "switch": 7,
}  # fmt: skip


def rule_of(event_type: str) -> Rule:
    """Return the rule of a stored event type; own `x_…` types have one in common."""
    return RULES.get(event_type, _OWN)


def class_of(event_type: str) -> int:
    """Return the class number of a stored event type; own types are API Activity, the one that knows an actor."""
    info = EVENT_TYPES.get(event_type)
    return API_ACTIVITY if info is None else info.ocsf_class


def activity_of(entry: EntryView) -> int:
    """Return the activity number inside the entry's class."""
    if entry.event_type == "auth_event":
        return _LOGON_VERBS.get(entry.action or "", OTHER)
    activity = rule_of(entry.event_type).activity
    return _VERBS.get(entry.action or "", OTHER) if activity is None else activity


def severity_of(entry: EntryView) -> int:
    """Return how grave it is: 1 Informational, 2 Low, 3 Medium, 4 High, 5 Critical."""
    rule = rule_of(entry.event_type)
    severity = rule.failed if entry.outcome in ("failure", "blocked") else rule.severity
    if entry.event_type.endswith("_generation_failed") and entry.metadata.get("category") == "policy":
        severity = 3
    if entry.event_type in ("user_added", "user_removed") and entry.metadata.get("role") == "admin":
        severity = 3
    if entry.event_type == "suspicious_activity":
        severity = _RULES_SEVERITY.get(str(entry.metadata.get("severity")), severity)
    return severity
