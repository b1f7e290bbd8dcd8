"""One small log for all tests of reports, and what a report says of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.config import Places, open_reader
from klingai_audit.report import Report, build
from klingai_audit.testing import HandClock
from tests.support.reportlog import PEOPLE, START, Hasty, Team, cash, units

UNTIL = START + dt.timedelta(days=10)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of ten days: five generations, a refusal, an open task, a dangling act, an administrator."""
    team = Team(tmp_path_factory.mktemp("report"))
    user, info, artist, service = PEOPLE
    team.audit.log("budget_modified", "boss@example.com", "budget", "raise", resource_id="studio-a", actor_type="admin",
                   ip_address="192.168.1.7", team="studio-a", old=100, new=250)  # fmt: skip
    team.generation(user, "kling-3.0-turbo", "success", units("5"))
    team.generation(user, "kling-3.0-turbo", "success", units("1.25"))
    team.clock.advance(86_400)
    team.generation(info, "kling-v2-master", "success", cash("0.35"))
    team.generation(info, "kling-v2-master", "success")
    team.generation(artist, "kling-image-3", "failure", product="image")
    team.generation(service, "kling-image-3", "refused", product="image")
    team.clock.advance(86_400)
    team.generation(user, "kling-3.0-turbo", "open")
    team.generation(info, "kling-v2-master", "dangling")
    team.audit.log("log_queried", "auditor@example.com", "log", "query", actor_type="user", ip_address="192.168.1.8")
    return team.close()


def opened(folder: Path) -> AuditLog:
    """Open the log again, on its own calendar."""
    return AuditLog.open(folder, clock=HandClock(UNTIL - dt.timedelta(days=1)), ops=Hasty())


@pytest.fixture(scope="session")
def report(small: Path) -> Report:
    """The report on the small log as it was closed, made by the library while it is open again."""
    size = open_reader(Places.resolve(small)).size
    with opened(small) as audit:
        return build(audit, days=10, until=UNTIL, at=size)
