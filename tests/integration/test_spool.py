"""The spool as clients, commands and operators meet it: real logs out of reach, a real simulator behind the client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import UnrecordedWarning
from klingai_audit.cli.run import run
from klingai_audit.errors import AuditUnavailable
from klingai_audit.kling.simulator import RealClock, Simulator, SimulatorServer, serve
from klingai_audit.kling.simulator.faults import Delivery
from klingai_audit.kling.simulator.messages import Request
from klingai_audit.ledger import publisher
from klingai_audit.upkeep.admin import Administration
from tests.support.children import Child
from tests.support.spooled import Outage, Slow, make_log
from tests.unit.kling.world import SAID, STARTED, World

ORDERED = [SAID, STARTED]


@pytest.fixture(autouse=True)
def _tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish again at once after a failure."""
    monkeypatch.setattr(publisher, "_RETRY_S", 0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorServer]:
    """Give a simulator whose tasks end at once."""
    with serve(Simulator(RealClock(speed=3000))) as made:
        yield made


@pytest.fixture
def open_world(tmp_path: Path, server: SimulatorServer) -> Iterator[Callable[..., World]]:
    """Give a function that opens the log with operations under the test's control."""
    opened: list[AuditLog] = []

    def make(ops: Outage | Slow | None = None) -> World:
        audit = AuditLog.open(tmp_path / "audit", **({} if ops is None else {"ops": ops}))
        opened.append(audit)
        return World(audit, server.simulator, server, tmp_path)

    with acting("user@example.com"):
        yield make
        (tmp_path / "away").unlink(missing_ok=True)
        for audit in opened:
            audit.close()


def outage(folder: Path) -> Outage:
    """Return operations that fail while the file `away` is there."""
    return Outage(folder / "away")


def spooled(folder: Path) -> list[Path]:
    """Return the spool's files."""
    return sorted((folder / "audit.state" / "spool").glob("*"))


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened in another thread."""
    deadline = time.monotonic() + 120
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert happened()


def order_in(story: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a story tells of orders."""
    return [one for one in story if one in ORDERED]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_orders_go_out_while_the_log_is_away(tmp_path: Path, open_world: Callable[..., World], how: str) -> None:
    """Two orders in an outage: Kling has them, their entries wait, and then stand in the log between the gap's two."""
    make_log(tmp_path)
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    before = len(world.sim.tasks)

    async def order() -> None:
        async with world.async_client() as kling:
            await kling.text_to_video("a lake")
            await kling.text_to_video("another")

    if how == "async":
        asyncio.run(order())
    else:
        with world.client() as kling:
            kling.text_to_video("a lake")
            kling.text_to_video("another")
    world.audit.recorder.desk.settle()
    assert (2, True, 0) == (len(world.sim.tasks) - before, world.audit.spool.down, world.audit.recorder.outstanding)
    assert 1 == len(spooled(tmp_path))
    with pytest.raises(AuditUnavailable, match="cannot be reached"):
        world.audit.flush("published")
    (tmp_path / "away").unlink()
    world.audit.flush("published")
    kinds = [entry.event_type for entry in world.audit.query()]
    inside = kinds[kinds.index("gap_opened") + 1 : kinds.index("gap_closed")]
    first = ["prompt_submitted", "api_key_used", "video_generation_started"]
    assert [*first, "prompt_submitted", "video_generation_started"] == inside
    verdict = world.audit.verify()
    assert (0, []) == (verdict.exit_code, [finding.kind for finding in verdict.findings])
    assert [] == spooled(tmp_path)


def test_refused_classes_are_refused_and_late_reads_hold_nothing_up(
    tmp_path: Path, open_world: Callable[..., World]
) -> None:
    """In an outage a deletion does not happen, a read of class `warn` does and is late, and orders go on."""
    make_log(tmp_path, paid_create="spool", read="warn", download="refuse")
    world = open_world(outage(tmp_path))
    with world.client() as kling:
        task = kling.text_to_video("a lake")
        wait_until(lambda: task.refresh().done)
        world.audit.flush()
        (tmp_path / "away").touch()
        kling.text_to_video("another")
        third = kling.text_to_video("a third")
        with pytest.warns(UnrecordedWarning, match="could not be recorded"):
            wait_until(lambda: third.refresh().done)
        kling.text_to_video("a fourth")
        with pytest.raises(AuditUnavailable, match="not yet written"):
            task.download(tmp_path / "lake.mp4")
        (tmp_path / "away").unlink()
        task.download(tmp_path / "lake.mp4")
    assert 8 == len(order_in(world.story()))
    assert 0 == world.audit.recorder.outstanding


@pytest.mark.slow
def test_a_log_that_does_not_answer(tmp_path: Path, open_world: Callable[..., World]) -> None:
    """A write that hangs: after the policy's time the act goes on, and when the write ends nothing is there twice."""
    make_log(tmp_path, after="1s")
    slow = Slow()
    world = open_world(slow)
    with world.client() as kling:
        slow.away.set()
        begun = time.monotonic()
        kling.text_to_video("a lake")
        kling.text_to_video("another")
        assert time.monotonic() - begun < 20
        assert world.audit.spool.down
        slow.away.clear()
        wait_until(lambda: not world.audit.spool.down)
    world.audit.flush()
    entries = [json.loads(line) for line in world.audit.entries()]
    assert len(entries) == len({entry["event_id"] for entry in entries})
    assert ORDERED * 2 == order_in(world.story())
    assert 0 == world.audit.verify().exit_code


@pytest.mark.slow
def test_an_outcome_that_is_not_acknowledged(
    tmp_path: Path, open_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log stops answering behind an intent: the outcome, for which nobody waits, is in the spool in time."""
    make_log(tmp_path, after="1s")
    slow = Slow()
    world = open_world(slow)
    with world.client() as kling:
        handle = world.sim.handle

        def then_silence(request: Request, *, hold: bool = False) -> Delivery:
            slow.away.set()
            return handle(request, hold=hold)

        monkeypatch.setattr(world.sim, "handle", then_silence)
        kling.text_to_video("a lake")
        assert slow.away.is_set()
        wait_until(lambda: world.audit.spool.waiting >= 1)
        slow.away.clear()
        wait_until(lambda: not world.audit.spool.down)
    assert ORDERED == order_in(world.story())


def test_a_log_that_is_away_at_the_start(tmp_path: Path, open_world: Callable[..., World]) -> None:
    """A service starts without its log: orders go out; when the log is back, it is opened and gets them."""
    make_log(tmp_path)
    open_world().audit.close()
    (tmp_path / "away").touch()
    world = open_world(outage(tmp_path))
    with world.client() as kling:
        kling.text_to_video("a lake")
        with pytest.raises(AuditUnavailable):
            world.audit.log("x_own", "user@example.com")
        (tmp_path / "away").unlink()
        kling.text_to_video("another")
    world.audit.flush("published")
    assert ORDERED * 2 == order_in(world.story())
    kinds = [entry.event_type for entry in world.audit.query()]
    assert kinds.index("gap_opened") == len(kinds) - 1 - kinds[::-1].index("log_opened") + 1
    assert 0 == world.audit.verify().exit_code


@pytest.mark.parametrize("spools", [True, False])
def test_who_may_not_start_without_the_log(tmp_path: Path, spools: bool) -> None:
    """Without the policy, or where this machine has never seen the log, opening fails as ever."""
    make_log(tmp_path, paid_create="spool" if spools else "refuse")
    (tmp_path / "away").touch()
    if spools:
        (tmp_path / "audit.state" / "heads" / "head").unlink()
    with pytest.raises(AuditUnavailable):
        AuditLog.open(tmp_path / "audit", ops=outage(tmp_path))


@pytest.mark.slow
def test_closed_in_an_outage(
    tmp_path: Path, open_world: Callable[..., World], capsys: pytest.CaptureFixture[str]
) -> None:
    """What a process could not get rid of is there for the next one, also for a command."""
    make_log(tmp_path)
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    with world.client() as kling:
        kling.text_to_video("a lake")
    with pytest.raises(AuditUnavailable):  # its last word could not be written
        world.audit.close()
    assert 1 == len(spooled(tmp_path))
    (tmp_path / "away").unlink()
    said = []
    for words in (["verify"], ["verify", "--json"], ["status", "--json"], ["keys", "rotate"], ["verify"]):
        assert 0 == run(["--log", str(tmp_path / "audit"), *words])
        said.append(capsys.readouterr())
    assert "4 records wait in the spool" in said[0].err
    assert 4 == json.loads(said[1].err.splitlines()[-1])["spool"]["records"]
    (line,) = [line for line in json.loads(said[2].out)["lines"] if line["id"] == "calls_logged"]
    assert ("yellow", 4) == (line["state"], line["evidence"]["in_spool"])
    assert "spool" not in said[4].err
    assert [] == spooled(tmp_path)


def test_a_forked_child_has_its_own(tmp_path: Path, open_world: Callable[..., World]) -> None:
    """What waits in the parent is the parent's; a child puts what it has into a file of its own."""
    make_log(tmp_path)
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    with world.client() as kling:
        kling.text_to_video("a lake")
    world.audit.recorder.desk.settle()

    def act(tell: Callable[[str], None]) -> None:
        tell(str(world.audit.spool.waiting))
        with world.client() as kling:
            kling.text_to_video("from the child")
        world.audit.recorder.desk.settle()
        tell(str(len(spooled(tmp_path))))

    child = Child(act)
    assert 0 == child.wait()
    assert ["0", "2"] == child.lines
    (tmp_path / "away").unlink()
    world.audit.flush()
    assert ORDERED * 2 == order_in(world.story())


def test_declarations_wait_too(tmp_path: Path, open_world: Callable[..., World]) -> None:
    """With policy `spool` for administrative acts a user is declared at once, and the entry follows."""
    make_log(tmp_path, admin="spool", export="spool")
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    declared = Administration(world.audit).add_user("someone@example.com", role="user")
    assert (True, 1, 1) == (declared.late, len(Administration(world.audit).registry.users), len(spooled(tmp_path)))
    (tmp_path / "away").unlink()
    world.audit.flush()
    kinds = [entry.event_type for entry in world.audit.query()]
    assert ["gap_opened", "user_added", "gap_closed"] == kinds[-3:]


def test_the_ceiling_refuses_orders(tmp_path: Path, open_world: Callable[..., World]) -> None:
    """At the ceiling an order is not sent and says why; those before it are complete."""
    make_log(tmp_path, more="max_records = 6\n")
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    before = len(world.sim.tasks)
    with world.client() as kling:
        with pytest.raises(AuditUnavailable, match=r"was not sent.*spool is full") as caught:
            for _ in range(9):
                kling.text_to_video("a lake")
                world.audit.recorder.desk.settle()
        assert "[spool]" in caught.value.do
        sent = len(world.sim.tasks) - before
        (tmp_path / "away").unlink()
        world.audit.flush()
        assert ORDERED * sent == order_in(world.story())
        kling.text_to_video("a lake")


def test_no_content_in_what_is_told(
    tmp_path: Path, open_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the diagnostics nor the spool itself hold a prompt, an address or a person's id."""
    make_log(tmp_path)
    world = open_world(outage(tmp_path))
    (tmp_path / "away").touch()
    with world.client() as kling:
        kling.text_to_video("Wombat-7731 dances")
    world.audit.recorder.desk.settle()
    (path,) = spooled(tmp_path)
    for word in ("Wombat-7731", "user@example.com", "sim-api-key"):
        assert word not in caplog.text
        assert word.encode() not in path.read_bytes()
    assert 0o600 == path.stat().st_mode & 0o777
