"""The registry of event types: what each means, what it needs, which act emits it.

Names are those of the two published Kling audit-logging recipes and ours. A user's own types are `x_…`.
OCSF class numbers are those of version 1.8.0 (0: base event).
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from klingai_audit.errors import UnknownEventType

__all__ = [
    "ALIASES",
    "CATEGORIES",
    "END_TYPES",
    "EVENT_TYPES",
    "TASK_TYPES",
    "EventInfo",
    "EventType",
    "canonical_type",
    "category_of",
    "is_canonical",
]

CATEGORIES: Final = ("authentication", "operations", "user", "admin", "security", "log")
"""Categories of registered types, in the order in which they are documented; own types have `custom`."""

_OWN_TYPE: Final = re.compile(r"x_[a-z0-9_]{1,62}").fullmatch


class EventType(enum.StrEnum):
    """Every registered event type."""

    API_KEY_USED = "api_key_used"
    API_KEY_ROTATED = "api_key_rotated"
    ACCESS_DENIED = "access_denied"
    AUTH_EVENT = "auth_event"
    VIDEO_GENERATION_STARTED = "video_generation_started"
    VIDEO_GENERATION_COMPLETED = "video_generation_completed"
    VIDEO_GENERATION_FAILED = "video_generation_failed"
    IMAGE_GENERATION_STARTED = "image_generation_started"
    IMAGE_GENERATION_COMPLETED = "image_generation_completed"
    IMAGE_GENERATION_FAILED = "image_generation_failed"
    AUDIO_GENERATION_STARTED = "audio_generation_started"
    AUDIO_GENERATION_COMPLETED = "audio_generation_completed"
    AUDIO_GENERATION_FAILED = "audio_generation_failed"
    TASK_SUBMITTED = "task_submitted"
    TASK_STATUS_CHANGED = "task_status_changed"
    TASK_COMPLETED = "task_completed"
    VIDEO_DOWNLOADED = "video_downloaded"
    VIDEO_DELETED = "video_deleted"
    IMAGE_DOWNLOADED = "image_downloaded"
    IMAGE_DELETED = "image_deleted"
    AUDIO_DOWNLOADED = "audio_downloaded"
    AUDIO_DELETED = "audio_deleted"
    RESOURCE_CREATED = "resource_created"
    RESOURCE_DELETED = "resource_deleted"
    RESOURCE_READ = "resource_read"
    PROMPT_SUBMITTED = "prompt_submitted"
    SETTINGS_CHANGED = "settings_changed"
    QUOTA_CHECKED = "quota_checked"
    USER_ADDED = "user_added"
    USER_REMOVED = "user_removed"
    BUDGET_MODIFIED = "budget_modified"
    POLICY_UPDATED = "policy_updated"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    SUSPICIOUS_ACTIVITY = "suspicious_activity"
    POLICY_VIOLATION = "policy_violation"
    LOG_CREATED = "log_created"
    LOG_OPENED = "log_opened"
    LOG_CLOSED = "log_closed"
    LOG_RECOVERED = "log_recovered"
    LOG_HEARTBEAT = "log_heartbeat"
    CLOCK_STEPPED = "clock_stepped"
    SIGNING_KEY_ROTATED = "signing_key_rotated"
    CHECKPOINT_WITNESSED = "checkpoint_witnessed"
    CHECKPOINT_TIMESTAMPED = "checkpoint_timestamped"
    LOG_VERIFIED = "log_verified"
    VERIFICATION_FAILED = "verification_failed"
    LOG_QUERIED = "log_queried"
    LOG_EXPORTED = "log_exported"
    REPORT_GENERATED = "report_generated"
    CONTENT_UNSEALED = "content_unsealed"
    SUBJECT_ERASED = "subject_erased"
    RETENTION_APPLIED = "retention_applied"
    LEGAL_HOLD_SET = "legal_hold_set"
    LEGAL_HOLD_RELEASED = "legal_hold_released"
    APPROVAL_USED = "approval_used"
    GAP_OPENED = "gap_opened"
    GAP_CLOSED = "gap_closed"
    RECONCILED = "reconciled"
    LOG_MIGRATED = "log_migrated"
    LOG_IMPORTED = "log_imported"


@dataclass(frozen=True, slots=True)
class EventInfo:
    """What the registry knows of one event type.

    `required` names members, or keys of metadata as `metadata.<key>`, that must have a value. `act` says
    what emits the event. `ocsf_class` is the OCSF 1.8.0 class number. `own` types are written by the log
    itself and refused from anyone else.
    """

    name: str
    category: str
    meaning: str
    required: tuple[str, ...]
    act: str
    ocsf_class: int
    own: bool


_API, _FILES, _STORE, _LOG = 6003, 6006, 6005, 1008
_ENTITY, _LOGON, _ACCOUNT, _FINDING, _COMPLIANCE = 3004, 3002, 3001, 2004, 2003
_OBJECT: Final = ("resource_type", "action")


def _registry() -> dict[str, EventInfo]:
    table: dict[str, EventInfo] = {}

    def add(
        category: str, name: EventType, ocsf: int, meaning: str, act: str, *required: str, own: bool = False
    ) -> None:
        table[name.value] = EventInfo(name.value, category, meaning, required, act, ocsf, own)

    def own(name: EventType, ocsf: int, meaning: str, act: str, *required: str) -> None:
        add("log", name, ocsf, meaning, act, *required, own=True)

    t = EventType
    auth, operations, user, admin, security, log = CATEGORIES
    add(auth, t.API_KEY_USED, _API, "A credential was used.", "first call with a key in a process and hour")
    add(auth, t.API_KEY_ROTATED, _ENTITY, "A credential was replaced.", "api-key rotate, or a caller's own log()")
    denied = "codes 1000 to 1004, 1103 and 1304; acts that the policy refuses"
    add(auth, t.ACCESS_DENIED, _API, "The provider, or the policy, refused the caller.", denied)
    add(auth, t.AUTH_EVENT, _LOGON, "Someone logged on, off, or failed to.", "a caller's own log()")
    for medium in ("video", "image", "audio"):
        started, completed, failed = (t(f"{medium}_generation_{end}") for end in ("started", "completed", "failed"))
        add(operations, started, _API, f"A task for {medium} was accepted.", "a create call that succeeded")
        add(operations, completed, _API, f"A task for {medium} ended well.", "the first sight of the task's end")
        add(
            operations,
            failed,
            _API,
            f"A task for {medium} or its create call failed.",
            "an error code or a failed task",
        )
    add(
        operations,
        t.TASK_SUBMITTED,
        _API,
        "A paid call without a prompt is about to be sent, or one that makes no medium was accepted.",
        "a paid call",
    )
    add(operations, t.TASK_STATUS_CHANGED, _API, "A task is seen in another state.", "a poll or a callback")
    add(operations, t.TASK_COMPLETED, _API, "A task ended whose product is not known.", "the first sight of its end")
    for medium in ("video", "image", "audio"):
        downloaded, deleted = t(f"{medium}_downloaded"), t(f"{medium}_deleted")
        add(operations, downloaded, _FILES, f"A file with {medium} was fetched.", "a result download, with its SHA-256")
        add(
            operations,
            deleted,
            _FILES,
            f"A result with {medium} was deleted.",
            "a delete call, or a caller's own log()",
        )
    add(operations, t.RESOURCE_CREATED, _API, "A voice, element or the like was made.", "a create call", _OBJECT[0])
    add(operations, t.RESOURCE_DELETED, _API, "A voice, element or the like was deleted.", "a delete call", _OBJECT[0])
    add(operations, t.RESOURCE_READ, _API, "A voice, element or list was read.", "a read call", _OBJECT[0])
    add(user, t.PROMPT_SUBMITTED, _API, "A prompt is about to be sent.", "the intent of a create call with a prompt")
    add(user, t.SETTINGS_CHANGED, _ENTITY, "A setting was changed.", "open or ingest otherwise, a caller's own log()")
    add(user, t.QUOTA_CHECKED, _API, "The account's balance or cost was read.", "an account call")
    add(admin, t.USER_ADDED, _ACCOUNT, "A user was given access.", "users add, or a caller's own log()", *_OBJECT)
    add(admin, t.USER_REMOVED, _ACCOUNT, "A user lost access.", "users remove, or a caller's own log()", *_OBJECT)
    add(admin, t.BUDGET_MODIFIED, _ENTITY, "A budget was changed.", "budget set, or a caller's own log()", *_OBJECT)
    add(admin, t.POLICY_UPDATED, _ENTITY, "A policy was changed.", "policy set, or a caller's own log()", *_OBJECT)
    add(security, t.RATE_LIMIT_EXCEEDED, _API, "The provider asked to slow down.", "codes 1302 and 1303")
    add(
        security,
        t.SUSPICIOUS_ACTIVITY,
        _FINDING,
        "A detection rule fired.",
        "bad callback signatures, or a caller's own log()",
    )
    add(security, t.POLICY_VIOLATION, _FINDING, "The provider refused the content.", "codes 1300 and 1301")

    own(
        t.LOG_CREATED, _LOG, "The log begins; names its keys.", "init, or the first open", "metadata.format",
        "metadata.origin", "metadata.log_key", "metadata.epoch", "metadata.epoch_key", "metadata.policy",
    )  # fmt: skip
    own(t.LOG_OPENED, _LOG, "A writer opened the log.", "open", "metadata.policy")
    own(t.LOG_CLOSED, _LOG, "A writer closed the log.", "close")
    own(t.LOG_RECOVERED, _LOG, "Unacknowledged lines were set aside, or evidence was missing.", "open or recover")
    own(t.LOG_HEARTBEAT, _LOG, "Nothing happened for an hour and a writer is open.", "an open writer, hourly")
    own(t.CLOCK_STEPPED, _LOG, "The wall clock jumped.", "a commit that sees it")
    own(
        t.SIGNING_KEY_ROTATED, _LOG, "The next epoch key takes over.", "the first append of a day, or keys rotate",
        "metadata.epoch", "metadata.epoch_key", "metadata.handover",
    )  # fmt: skip
    own(t.CHECKPOINT_WITNESSED, _LOG, "A witness cosigned a checkpoint.", "witness")
    own(t.CHECKPOINT_TIMESTAMPED, _LOG, "A time stamp authority stamped a checkpoint.", "timestamp")
    add(log, t.LOG_VERIFIED, _COMPLIANCE, "The log was verified and holds.", "verify, watch with --record")
    add(log, t.VERIFICATION_FAILED, _FINDING, "The log was verified and does not hold.", "verify, watch with --record")
    add(log, t.LOG_QUERIED, _STORE, "Someone read the log.", "query, show, tail or activity when reads are recorded")
    add(log, t.LOG_EXPORTED, _LOG, "Entries were exported.", "export")
    add(log, t.REPORT_GENERATED, _STORE, "A report was made.", "report")
    add(log, t.CONTENT_UNSEALED, _STORE, "Sealed content was opened.", "unseal", "resource_id")
    add(log, t.SUBJECT_ERASED, _STORE, "A person's data was made unreadable.", "erase", "resource_id")
    add(log, t.RETENTION_APPLIED, _LOG, "Entries past their period were purged.", "retention")
    add(log, t.LEGAL_HOLD_SET, _LOG, "A legal hold began.", "hold", "resource_id")
    add(log, t.LEGAL_HOLD_RELEASED, _LOG, "A legal hold ended.", "hold", "resource_id")
    add(
        log, t.APPROVAL_USED, _LOG, "A second person's approval let an act happen.", "acts under the two-person rule",
        "resource_id", "action",
    )  # fmt: skip
    own(t.GAP_OPENED, _LOG, "Entries waited in a spool from here on.", "the spool, by policy")
    own(t.GAP_CLOSED, _LOG, "Recording works again; states the count.", "the recorder and the spool, by policy")
    add(log, t.RECONCILED, _COMPLIANCE, "The log was compared with the provider's records.", "reconcile")
    own(t.LOG_MIGRATED, _LOG, "The log goes on in another store, or came from one.", "migrate", "metadata.phase")
    add(log, t.LOG_IMPORTED, _LOG, "A file of an older log was taken over.", "import", "resource_id")
    return table


EVENT_TYPES: Final[Mapping[str, EventInfo]] = MappingProxyType(_registry())
"""Every registered type by name, in the order of `EventType`."""

END_TYPES: Final = frozenset(
    {"task_completed", "resource_created"}
    | {name for name in EVENT_TYPES if name.endswith(("_generation_completed", "_generation_failed"))}
)
"""Event types that end a task; only these state a charge."""

TASK_TYPES: Final = frozenset({name for name in EVENT_TYPES if "_generation_" in name or name.startswith("task_")})
"""Event types whose `resource_id` is a provider task id."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {f"generation_{end}": f"video_generation_{end}" for end in ("started", "completed", "failed")}
)
"""Names accepted on input and in queries, never stored."""

_CANONICAL: Final[dict[str, str]] = {**{name: name for name in EVENT_TYPES}, **ALIASES}


def canonical_type(name: str) -> str:
    """Return the stored name of an event type: aliases resolved, own `x_…` names as they are.

    Raises: UnknownEventType naming registered names that are near, never the given text.
    """
    if not isinstance(name, str):
        raise UnknownEventType(f"/event_type: a value of type {type(name).__name__}, expected str")
    found = _CANONICAL.get(name)
    if found is not None:
        return found
    if _OWN_TYPE(name) is not None:
        return str.__str__(name)
    near = difflib.get_close_matches(name[:64].lower(), _CANONICAL, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else "docs/events.md lists them; your own types are x_…"
    raise UnknownEventType("/event_type: not a registered name and not an own x_… name.", do=hint)


def is_canonical(name: str) -> bool:
    """Tell whether `name` may be stored as an event type: registered, or an own `x_…` of at most 64 characters."""
    return name in EVENT_TYPES or _OWN_TYPE(name) is not None


def category_of(name: str) -> str:
    """Return the category of a stored type name; `custom` for own and unregistered names."""
    info = EVENT_TYPES.get(name)
    return "custom" if info is None else info.category
