"""The registry of event types."""

from __future__ import annotations

import pytest

from klingai_audit.errors import UnknownEventType
from klingai_audit.event.record import MEMBERS
from klingai_audit.event.types import (
    ALIASES,
    CATEGORIES,
    EVENT_TYPES,
    EventType,
    canonical_type,
    category_of,
    is_canonical,
)

BY_CATEGORY = {
    "authentication": "api_key_used api_key_rotated access_denied auth_event",
    "operations": (
        "video_generation_started video_generation_completed video_generation_failed image_generation_started "
        "image_generation_completed image_generation_failed audio_generation_started audio_generation_completed "
        "audio_generation_failed task_submitted task_status_changed task_completed video_downloaded video_deleted "
        "image_downloaded image_deleted audio_downloaded audio_deleted resource_created resource_deleted resource_read"
    ),
    "user": "prompt_submitted settings_changed quota_checked",
    "admin": "user_added user_removed budget_modified policy_updated",
    "security": "rate_limit_exceeded suspicious_activity policy_violation",
    "log": (
        "log_created log_opened log_closed log_recovered log_heartbeat clock_stepped signing_key_rotated "
        "checkpoint_witnessed checkpoint_timestamped log_verified verification_failed log_queried log_exported "
        "report_generated content_unsealed subject_erased retention_applied legal_hold_set legal_hold_released "
        "approval_used "
        "gap_opened gap_closed reconciled log_migrated log_imported"
    ),
}
"""The vocabulary of the two published recipes and of the design, in documented order."""

OCSF = {
    "api_key_used": 6003, "api_key_rotated": 3004, "access_denied": 6003, "video_generation_started": 6003,
    "video_generation_completed": 6003, "video_generation_failed": 6003, "video_downloaded": 6006,
    "video_deleted": 6006, "prompt_submitted": 6003, "settings_changed": 3004, "quota_checked": 6003,
    "user_added": 3001, "user_removed": 3001, "budget_modified": 3004, "policy_updated": 3004,
    "rate_limit_exceeded": 6003, "suspicious_activity": 2004, "policy_violation": 2004, "task_submitted": 6003,
    "task_status_changed": 6003, "task_completed": 6003, "auth_event": 3002, "log_queried": 6005,
    "report_generated": 6005, "log_exported": 1008, "log_verified": 2003, "verification_failed": 2004,
    "content_unsealed": 6005, "subject_erased": 6005, "log_opened": 1008, "log_closed": 1008,
}  # fmt: skip


def test_registry_is_the_documented_vocabulary() -> None:
    """Every documented name is registered under its category, in order, and nothing else is."""
    found = {category: [n for n, info in EVENT_TYPES.items() if info.category == category] for category in CATEGORIES}
    assert {category: names.split() for category, names in BY_CATEGORY.items()} == found
    assert [str(name) for name in EventType] == list(EVENT_TYPES)


@pytest.mark.parametrize("name", list(EventType))
def test_every_type_is_explained(name: EventType) -> None:
    """Each type has a one-line meaning, an act, an OCSF class and required fields that exist."""
    info = EVENT_TYPES[name]
    assert name.value == info.name
    assert info.meaning.endswith(".")
    assert "\n" not in info.meaning
    assert info.act
    for required in info.required:
        assert required.startswith("metadata.") or required in MEMBERS


@pytest.mark.parametrize("name, ocsf_class", OCSF.items())
def test_ocsf_classes_are_those_of_the_compliance_map(name: str, ocsf_class: int) -> None:
    """The OCSF class numbers are the mapped ones of version 1.8.0."""
    assert ocsf_class == EVENT_TYPES[name].ocsf_class


def test_what_the_log_writes_itself() -> None:
    """Exactly these types are refused from anyone but the log."""
    expected = (
        "log_created log_opened log_closed log_recovered log_heartbeat clock_stepped signing_key_rotated "
        "checkpoint_witnessed checkpoint_timestamped gap_opened gap_closed log_migrated"
    )
    assert expected.split() == [name for name, info in EVENT_TYPES.items() if info.own]


def test_canonical_names_are_stored_as_they_are() -> None:
    """A registered name, as text or as EventType, comes back as plain text."""
    found = canonical_type(EventType.VIDEO_DOWNLOADED)
    assert ("video_downloaded", str) == (found, type(found))
    assert "video_downloaded" == canonical_type("video_downloaded")


def test_aliases_resolve_to_the_video_types() -> None:
    """`generation_*` of the published recipes means the video types and is never stored."""
    for alias, name in ALIASES.items():
        assert name == canonical_type(alias)
        assert f"video_{alias}" == name
        assert not is_canonical(alias)
    assert 3 == len(ALIASES)


def test_own_names_begin_with_x() -> None:
    """A user's own `x_…` name is accepted, up to 64 characters."""
    assert "x_render_farm_2" == canonical_type("x_render_farm_2")
    assert is_canonical("x_" + "a" * 62)
    assert "custom" == category_of("x_render_farm_2")
    assert "admin" == category_of("user_added")


@pytest.mark.parametrize(
    "name", ["video_generated", "x_", "x_A", "x_a b", "x_" + "a" * 63, "X_a", "", "x_a\n", "log_created ", "x_é"]
)
def test_unknown_names_are_refused(name: str) -> None:
    """Anything else is refused."""
    assert not is_canonical(name)
    with pytest.raises(UnknownEventType):
        canonical_type(name)


def test_a_near_name_is_suggested_and_the_given_text_is_not_repeated() -> None:
    """The error names registered names that are near, and never what was given: it may be content."""
    with pytest.raises(UnknownEventType) as caught:
        canonical_type("video_generation_startd")
    assert "video_generation_started" in caught.value.do
    assert "startd" not in str(caught.value).replace("started", "")
    with pytest.raises(UnknownEventType) as caught:
        canonical_type("user@example.com wants a serene lake")
    assert "example" not in str(caught.value)
    assert "docs/events.md" in caught.value.do


def test_a_name_that_is_no_text_is_refused() -> None:
    """A type that is not text is named by its kind only."""
    with pytest.raises(UnknownEventType, match="int"):
        canonical_type(5)  # type: ignore[arg-type]
