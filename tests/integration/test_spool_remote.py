"""The spool before real servers: PostgreSQL and a bucket, and a proxy that lets nobody through, or cuts in a commit."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import Item
from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.record import Draft
from klingai_audit.testing.proxy import Cut, FaultProxy

pytestmark = pytest.mark.slow


@dataclass
class Away:
    """A log behind a proxy; `direct` and `proxied` open it past it and through it."""

    folder: Path
    proxy: FaultProxy
    direct: Callable[[str], AuditLog]
    proxied: Callable[[str], AuditLog]
    told: list[str] = field(default_factory=list)

    def act(self, audit: AuditLog) -> float:
        """Announce an order; returns how long that took, in seconds."""
        begun = time.monotonic()
        one = audit.admit(Draft(event_type="prompt_submitted", actor_id="user@example.com", action="text_to_video"))
        audit.recorder.desk.announce(Item(one, None, kind="paid_create"))
        self.told.append(one.event_id)
        return time.monotonic() - begun

    def close_door(self) -> None:
        self.proxy.refuse()
        self.proxy.sever()

    def check(self) -> list[str]:
        """Everything is there once, in order, and the log verifies; returns the event types."""
        with self.direct("judge") as audit:
            entries = [json.loads(line) for line in audit.entries()]
            verdict = audit.verify()
        ids = [entry["event_id"] for entry in entries]
        assert [] == [one for one, times in Counter(ids).items() if times > 1]
        assert self.told == [one for one in ids if one in set(self.told)]
        assert (0, []) == (verdict.exit_code, [one.kind for one in verdict.findings if one.severity == "broken"])
        gaps = Counter(entry["event_type"] for entry in entries if entry["event_type"].startswith("gap_"))
        assert gaps["gap_opened"] == gaps["gap_closed"]
        return [entry["event_type"] for entry in entries]


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened in another thread."""
    deadline = time.monotonic() + 90
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert happened()


@pytest.fixture(params=["postgres", "bucket"])
def away(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """Give a log on a server behind a proxy, whose orders may wait."""
    server = request.getfixturevalue("postgres" if request.param == "postgres" else "objects")
    url = request.getfixturevalue("postgres_url" if request.param == "postgres" else "bucket_url")
    with FaultProxy("127.0.0.1", server.port) as proxy, acting("user@example.com"):

        def open_at(port: int, where: str) -> AuditLog:
            if request.param == "postgres":
                place = url.replace(f":{server.port}/", f":{port}/")
            else:
                from tests.support.objects import use

                use(server, monkeypatch, port=port)
                place = url
            return AuditLog.open(place, keys=tmp_path / "keys", state=tmp_path / where)

        with open_at(server.port, "state"):
            pass
        (tmp_path / "keys" / "policy.toml").write_text('[failure]\npaid_create = "spool"\n[spool]\nafter = "3s"\n')
        yield Away(tmp_path, proxy, lambda where: open_at(server.port, where), lambda where: open_at(proxy.port, where))


def test_out_of_reach_and_back(away: Away) -> None:
    """Acts go on, soon without a try, others write meanwhile, and all of it gets into the log when it is back."""
    audit = away.proxied("state")
    away.act(audit)
    away.close_door()
    assert away.act(audit) < 60
    assert min(away.act(audit) for _ in range(3)) < 3
    assert audit.spool.down
    with pytest.raises(AuditUnavailable):
        audit.log("x_own").wait(timeout=60)
    with away.direct("elsewhere") as other:
        other.log("x_other").wait()
    away.proxy.admit()
    wait_until(lambda: not audit.spool.down)
    away.act(audit)
    audit.close()
    kinds = away.check()
    opened = kinds.index("gap_opened")
    assert ["gap_opened", *["prompt_submitted"] * 4, "gap_closed"] == kinds[opened : opened + 6]
    assert kinds.index("x_other") < opened


def test_cut_off_in_a_commit(away: Away) -> None:
    """Wherever a commit is cut, before it, in it or before its answer, and nobody can ask what became of it:
    the entry is there once.
    """
    audit = away.proxied("state")
    away.act(audit)
    with away.proxy.watched() as traffic:
        away.act(audit)
    for side in ("up", "down"):
        size = getattr(traffic, side)
        for place in range(0, size, size // 4 + 1):
            away.proxy.arm(Cut(side, place))  # type: ignore[arg-type]
            away.proxy._refusing = True  # the link that is there stays, until it is cut
            away.act(audit)
            away.proxy.admit()
            away.proxy.disarm()
            away.proxy.sever()
            wait_until(audit.spool.settle)
            away.act(audit)
    audit.close()
    assert "gap_opened" in away.check()


def test_away_at_the_start(away: Away) -> None:
    """Where the log was open before, a process starts without it, and one elsewhere does not."""
    away.close_door()
    audit = away.proxied("state")
    assert audit.spool.down
    away.act(audit)
    with pytest.raises(AuditUnavailable):
        away.proxied("unknown")
    away.proxy.admit()
    wait_until(lambda: not audit.spool.down)
    away.act(audit)
    audit.close()
    kinds = away.check()
    assert 2 == kinds.count("prompt_submitted")


def test_left_by_a_process_that_ended(away: Away) -> None:
    """A process that ends while the server is away leaves its entries to the next one."""
    audit = away.proxied("state")
    away.act(audit)
    away.close_door()
    away.act(audit)
    away.act(audit)
    with pytest.raises(AuditUnavailable):
        audit.close()
    assert 1 == len(list((away.folder / "state" / "spool").iterdir()))
    away.proxy.admit()
    with away.proxied("state") as audit:
        assert [] == list((away.folder / "state" / "spool").iterdir())
        away.act(audit)
    away.check()
