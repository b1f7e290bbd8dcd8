"""Every command, event type and environment variable is written about, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klingai_audit import EventType
from klingai_audit.cli.app import COMMANDS, KEY_COMMANDS
from tests.docs.pages import documentation

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in documentation(ROOT))
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
_VARIABLE = re.compile(r"\bKLINGAI_[A-Z_]+[A-Z]\b")


@pytest.mark.parametrize("command", [*COMMANDS, *(f"keys {name}" for name in KEY_COMMANDS)])
def test_command_is_documented(command: str) -> None:
    """Some page shows each command as it is typed."""
    assert re.search(rf"klingai-audit {command}\b", TEXT)


def test_documented_commands_exist() -> None:
    """No example of a console names a command that there is not."""
    shown = set(re.findall(r"^\s*\$ (?:\S+=\S+ )*klingai-audit ([a-z][a-z-]*)", TEXT, re.MULTILINE))
    assert set() == shown - {*(name.split(" ")[0] for name in COMMANDS), "keys"}


@pytest.mark.parametrize("event_type", [str(event_type) for event_type in EventType])
def test_event_type_is_documented(event_type: str) -> None:
    """The page of events names each type."""
    assert f"`{event_type}`" in (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


def test_environment_variables_are_documented() -> None:
    """Each variable that the source reads is on some page, and each one on a page is read."""
    assert set(_VARIABLE.findall(SOURCES)) == set(_VARIABLE.findall(TEXT))
