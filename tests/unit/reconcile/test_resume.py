"""Interrupted runs: what was read is not read again, and what is wrong with a journal costs a fresh start, no more."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling import flows
from klingai_audit.kling.errors import KlingServerError
from klingai_audit.reconcile import journal as journals
from klingai_audit.reconcile.journal import Journal
from tests.support.account import HOUR, account


@pytest.fixture
def world(monkeypatch):
    """Give an account with 50 strangers, which are three pages of the list."""
    monkeypatch.setattr(flows, "MAX_PAGE", 20)
    with account() as made:
        for _ in range(50):
            made.around()
        made.settle()
        yield made


def interrupt(world, *, at):
    """Run until page number `at` of the list, which the provider then answers with an error."""
    world.clock.advance(1)
    asked = 0
    answer = world.sim.handle

    def handle(request, **more):
        nonlocal asked
        asked += request.path == "/tasks"
        if request.path == "/tasks" and asked == at:
            world.sim.fail_next("POST", "/tasks", code=5000, times=9)
        return answer(request, **more)

    world.sim.handle = handle
    with pytest.raises(KlingServerError) as caught:
        world.reconcile()
    world.sim.handle = answer
    world.sim.faults.__init__()
    assert "--resume" in caught.value.do


def listed(world):
    """Return how often the list was asked for so far."""
    return len(world.sim.calls("POST", "/tasks"))


def test_a_stopped_run_goes_on(world):
    """Two pages are in the journal; only the third is asked for, and everything is found."""
    interrupt(world, at=3)
    before = listed(world)
    result = world.reconcile(resume=True)
    assert 1 == listed(world) - before
    assert 50 == len(result.of("missing_here"))
    assert not Journal(world.audit.places.state).path.exists()


def test_without_resume_a_run_begins_anew(world):
    """The journal of the stopped run is dropped."""
    interrupt(world, at=2)
    before = listed(world)
    world.reconcile()
    assert 3 == listed(world) - before


def test_resume_without_a_stopped_run(world):
    """There is nothing to go on with: a whole run."""
    assert 50 == len(world.reconcile(resume=True).findings)


def test_another_question_is_refused(world):
    """A stopped run is gone on with as it was asked for, or not at all."""
    interrupt(world, at=2)
    with pytest.raises(UsageError):
        world.reconcile("-2d", resume=True)
    assert Journal(world.audit.places.state).path.exists()


def test_the_same_words_are_the_same_question(world):
    """`-7d` said again means the seven days that the stopped run meant."""
    world.clock.advance(1)
    world.sim.fail_next("POST", "/account/billing/package", code=5000, times=9)
    with pytest.raises(KlingServerError):
        world.reconcile("-7d")
    world.sim.faults.__init__()
    began = world.now
    world.clock.advance(600)
    before = listed(world)
    result = world.reconcile("-7d", resume=True)
    assert (0, dt.timedelta(days=7)) == (listed(world) - before, began - result.begin)
    assert 50 == len(result.of("missing_here"))


def test_an_old_run_is_not_gone_on_with(world):
    """What was read a day ago may be otherwise now."""
    interrupt(world, at=3)
    world.clock.advance(25 * HOUR)
    before = listed(world)
    world.reconcile(resume=True)
    assert 3 == listed(world) - before


def test_a_cursor_that_expired(world):
    """The provider does not know the journal's cursor any more: this list is read again from its beginning."""
    interrupt(world, at=2)
    path = Journal(world.audit.places.state).path
    lines = path.read_bytes().split(b"\n")
    spoilt = [line.replace(b'"next":"', b'"next":"x') for line in lines]
    assert spoilt != lines
    path.write_bytes(b"\n".join(spoilt))
    before = listed(world)
    result = world.reconcile(resume=True)
    assert 4 == listed(world) - before
    assert 50 == len(result.findings)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"{}\n", b'{"origin":'])
def test_a_spoilt_journal_is_a_fresh_start(world, damage):
    """Whatever stands there is no reason to fail, nor is it believed."""
    interrupt(world, at=2)
    Journal(world.audit.places.state).path.write_bytes(damage)
    assert 50 == len(world.reconcile(resume=True).findings)


def test_a_torn_line_is_dropped(world):
    """A crash in the middle of a line costs that line."""
    interrupt(world, at=3)
    path = Journal(world.audit.places.state).path
    path.write_bytes(path.read_bytes()[:-10])
    before = listed(world)
    result = world.reconcile(resume=True)
    assert 2 == listed(world) - before
    assert 50 == len(result.findings)


def test_one_run_at_a_time(world):
    """A second run is refused while the first is at work."""
    with Journal(world.audit.places.state), pytest.raises(UsageError):
        world.reconcile()


def test_the_journal_is_private_and_durable(world, tmp_path):
    """Only the owner reads it, and every page is synced before the next is asked for."""
    synced = []

    class Watched(journals.FileOps):
        def sync(self, fd):
            synced.append(fd)
            super().sync(fd)

    terms = journals.Terms(
        origin="o", begin=dt.datetime.now(dt.UTC), end=dt.datetime.now(dt.UTC), as_of=dt.datetime.now(dt.UTC),
        base_url="http://localhost", new_design=True, legacy_lists=False,
    )  # fmt: skip
    with Journal(tmp_path, Watched()) as journal:
        journal.begin(terms)
        before = len(synced)
        journal.add(journals.Page(source="tasks", next="x"))
        assert 1 == len(synced) - before
        assert 0o600 == journal.path.stat().st_mode & 0o777
    with Journal(tmp_path) as again:
        assert (terms, [journals.Page(source="tasks", next="x")]) == (again.terms, again.pages)
