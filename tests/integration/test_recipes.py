"""The page for those who come from the recipes names everything that the recipes have, and what it says holds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from klingai_audit import AuditLog, EventType, acting
from klingai_audit.event.types import canonical_type
from klingai_audit.testing import capture_events
from klingai_audit.upkeep.importing import import_files
from tests.docs.pages import read_page
from tests.support.recipes import ChainWriter, ChecksumWriter

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "from-the-recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")
FIRST, SECOND = TEXT.partition("## The second recipe")[::2]

_FIRST = """
AuditLogger log_file json_file include_pii events query log verify_integrity get_user_activity AuditEvent
event_id timestamp event_type actor_id actor_type resource_type resource_id action outcome ip_address user_agent
metadata checksum _mask_if_pii _mask_ip _sanitize_metadata _calculate_checksum _write_event start_time end_time days
period_days total_events by_type by_outcome last_activity total valid invalid integrity_ok AuditedKlingAIClient api_key
audit_logger user_id generate_video prompt duration model job_id base_url
API_KEY_USED ACCESS_DENIED GENERATION_STARTED GENERATION_COMPLETED GENERATION_FAILED VIDEO_DOWNLOADED PROMPT_SUBMITTED
SETTINGS_CHANGED USER_ADDED BUDGET_MODIFIED RATE_LIMIT_EXCEEDED POLICY_VIOLATION
api_key_used api_key_rotated access_denied video_generation_started video_generation_completed video_generation_failed
video_downloaded video_deleted prompt_submitted settings_changed quota_checked user_added user_removed budget_modified
policy_updated rate_limit_exceeded suspicious_activity policy_violation
"""
FIRST_NAMES = _FIRST.split()

_SECOND = """
AuditLogger log_dir log event_type actor details timestamp prev_hash hash genesis KlingAuditClient base_client audit
text_to_video log_auth_event event success action model duration mode prompt_hash prompt_length status video_count
access_key_prefix verify_audit_chain log_file generate_audit_report days period_days total_events event_types
unique_actors actors first_event last_event task_submitted task_status_changed task_completed auth_event
"""
SECOND_NAMES = _SECOND.split()


@pytest.mark.parametrize("name", FIRST_NAMES)
def test_first_recipe_is_covered(name: str) -> None:
    """Every class, parameter, member, type and key of the first recipe has its row."""
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", FIRST)


@pytest.mark.parametrize("name", SECOND_NAMES)
def test_second_recipe_is_covered(name: str) -> None:
    """Every class, parameter, detail, type and key of the second recipe has its row."""
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", SECOND)


@pytest.mark.parametrize("case", ["Log Write Failed", "Checksum Mismatch", "Missing Events"])
def test_error_cases_are_covered(case: str) -> None:
    """The three cases that the first recipe names."""
    assert f"**{case}**" in FIRST


def test_examples_are_enough_to_be_believed() -> None:
    """The page is run with the documentation; here: that its blocks assert something."""
    blocks = [block for block in read_page(PAGE).blocks if block.language == "python"]
    assert sum("assert" in block.code for block in blocks) >= 6


def test_log_takes_the_recipes_parameters_in_their_order() -> None:
    """A call written for the recipe's class works, positions included."""
    parameters = list(inspect.signature(AuditLog.log).parameters)[1:10]
    assert [
        "event_type", "actor_id", "resource_type", "action", "outcome", "resource_id", "actor_type", "ip_address",
        "user_agent",
    ] == parameters  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FIRST_NAMES if name.isupper() and "_" in name])
def test_members_of_the_enumeration_are_known(name: str) -> None:
    """Each member of the recipe's enumeration is a name that is accepted here."""
    assert canonical_type(name.lower()) in set(EventType)


def test_summaries_agree_with_the_recipes(tmp_path: Path) -> None:
    """What the recipe would count in its file, this log counts after the import."""
    writer = ChecksumWriter(tmp_path / "audit.json")
    for number in range(6):
        outcome = "failure" if number % 3 == 0 else "success"
        writer.log("quota_checked", f"{'ab'[number % 2]}{number % 2}@example.com", "account", "check", outcome)
    with capture_events() as captured, acting("boss@example.com"):
        import_files(captured.audit, [writer.path])
        told = captured.audit.activity("a0***@example.com", days=3650).to_json()
    assert (3, {"quota_checked": 3}) == (told["total_events"], told["by_type"])
    assert {"failure": 1, "success": 2} == told["by_outcome"]
    assert "2026-03-01T09:00:05.250000Z" == told["last_activity"]


def test_report_agrees_with_the_recipes(tmp_path: Path) -> None:
    """The second recipe's report over its files, and the page's over the import, have the same numbers."""
    writer = ChainWriter(tmp_path)
    acts = (("task_submitted", "system"), ("task_completed", "system"), ("auth_event", "user@example.com"))
    lines = [writer.log(name, actor, {}) for name, actor in acts]
    with capture_events() as captured, acting("boss@example.com"):
        import_files(captured.audit, [tmp_path / "audit-2026-03-01.jsonl"])
        events = [event for event in captured.audit.query() if not event.event_type.startswith("log_")]
        assert [line["event_type"] for line in lines] == [event.event_type for event in events]
        assert [line["actor"] for line in lines] == [event.actor("id") for event in events]
        assert [line["timestamp"] for line in lines] == [f"{event.timestamp:%Y-%m-%dT%H:%M:%S.%fZ}" for event in events]
