"""What was spent: groups, units that never mix, open tasks, prices, and the comparison with the ledger."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klingai_audit import acting
from klingai_audit.errors import UsageError
from klingai_audit.event.types import EventType
from klingai_audit.kling.errors import KlingOutcomeUnknown, KlingPolicyViolation
from klingai_audit.kling.simulator import Wallet
from klingai_audit.views.costs import DIMENSIONS, costs, period_of
from klingai_audit.views.prices import PriceList
from tests.support.account import DAY, HOUR, account

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


@pytest.fixture
def world():
    """Give an account and a log."""
    with account(team=None) as made:
        yield made


def order(world, team, *, model="kling-3.0", wait=True, prompt="a lake", actor="user@example.com"):
    """Order a video of 3 s for a team, and see it end."""
    with acting(actor, team=team, project="launch"), world.client() as kling:
        task = kling.text_to_video(prompt, model=model, duration=3)
        if wait:
            world.settle()
            task.refresh()
    return task


def table(found):
    """Return group → (tasks, open, amounts)."""
    return {row.group: (row.tasks, row.open, row.amounts) for row in found.rows}


def now_costs(world, by, **more):
    """Return the costs of the last days by the simulator's clock, from the log itself."""
    world.audit.flush()
    return costs(world.audit.entries(), by, since="-40d", subjects=world.audit.subjects, now=world.now, **more)


def test_costs_by_team(world):
    """Each team's tasks, exactly; units of videos and images stand apart; those without a team come last."""
    order(world, "a")
    order(world, "a", model="kling-3.0-turbo")
    order(world, "b")
    with acting("user@example.com"), world.client() as kling:
        image = kling.generate_image("a lake")
        world.settle()
        image.refresh()
    found = now_costs(world, ["team"])
    assert {
        ("a",): (2, 0, {"video units": Decimal("4.2")}),
        ("b",): (1, 0, {"video units": Decimal("1.8")}),
        (None,): (1, 0, {"image units": Decimal(8)}),
    } == table(found)
    assert ("image units", "video units") == found.units
    assert {"video units": Decimal("6.0"), "image units": Decimal(8)} == found.total.amounts
    assert ["0.588", "0.252", "0.028"] == [found.list_price(row) for row in found.rows]


def test_open_is_not_nothing(world):
    """A task that runs, one whose reply was lost and one whose end states no charge are open; a failed one is not."""
    order(world, "a", wait=False)
    order(world, "a", prompt="doomed")
    world.sim.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    world.sim.fail_next("GET", "/tasks", drop=True)
    with acting("user@example.com", team="a"), world.client(retries=1) as kling, pytest.raises(KlingOutcomeUnknown):
        kling.text_to_video("lost", model="kling-3.0")
    world.audit.log(
        EventType.VIDEO_GENERATION_COMPLETED, "tester", "video", "own", resource_id="mine-1", team="a"
    ).wait()
    found = now_costs(world, ["team"])
    assert {("a",): (4, 3, {})} == table(found)
    assert (1, 1) == (found.total.failed, found.total.completed)
    assert [] == list(found.units)


def test_an_order_counts_for_who_made_it(world):
    """Whoever sees the end, by whatever key: the charge is the orderer's, on the day of the order."""
    task = order(world, "a", wait=False)
    day = world.now.date().isoformat()
    world.clock.advance(3 * DAY)
    world.sim.add_api_key("another-key-1", "watcher")
    with acting("watcher@example.com", team="b"), world.client(api_key="another-key-1") as kling:
        kling.task(task.id)
    (row,) = now_costs(world, ["team", "day", "actor", "project", "model"]).rows
    assert ("a", day, "launch", "kling-3.0") == (row.group[0], row.group[1], row.group[3], row.group[4])
    assert {"video units": Decimal("1.8")} == row.amounts


def test_what_went_around_the_log_is_nobodys(world):
    """A list brought its end into the log: it has costs, and no team."""
    order(world, "a")
    world.around()
    world.settle()
    with acting("auditor@example.com", team="audit"):
        world.reconcile()
    found = now_costs(world, ["team", "key"])
    assert {("a", False), (None, True)} == {(row.group[0], row.group[1] is None) for row in found.rows}
    assert 1 == found.outside
    assert {"video units": Decimal(3)} == found.rows[-1].amounts


def test_cash_by_currency(world):
    """Money of each currency is a column, and has no list price of units."""
    world.sim.account.packs.clear()
    world.sim.account.wallet = Wallet(Decimal(100))
    order(world, "a")
    world.sim.account.wallet = Wallet(Decimal(100), currency="CNY")
    order(world, "a")
    found = now_costs(world, ["team"])
    assert ("CNY", "USD") == found.units
    assert ["team", "tasks", "completed", "failed", "open", "cash_cny", "cash_usd"] == found.header()[:7]
    assert [["a", "2", "2", "0", "0", "0.252", "0.252", "", "prices-2026-09-20.toml"]] == list(found.table())


def test_units_without_a_price(world, tmp_path):
    """A group with a unit that the list does not know has no list price, rather than a wrong one."""
    path = tmp_path / "mine.toml"
    path.write_text('date = 2026-01-31\nsource = "our contract"\ncurrency = "EUR"\n[units]\nvideo = 0.1\n')
    order(world, "a")
    with acting("user@example.com", team="b"), world.client() as kling:
        image = kling.generate_image("a lake")
        world.settle()
        image.refresh()
    found = now_costs(world, ["team"], prices=PriceList.load(path))
    assert ["0.18", ""] == [found.list_price(row) for row in found.rows]
    assert ("image units",) == found.unpriced
    assert ("mine.toml", "2026-01-31", "EUR") == tuple(
        found.to_json()["prices"][name] for name in ("file", "date", "currency")
    )


@pytest.mark.parametrize(
    "text",
    [
        "date = 1",
        'date = 2026-01-31\nsource = "x"\ncurrency = "euro"\n[units]\nvideo = 1',
        'date = 2026-01-31\nsource = ""\ncurrency = "EUR"\n[units]\nvideo = 1',
        'date = 2026-01-31\nsource = "x"\ncurrency = "EUR"\n[units]\nvideo = -1',
        'date = 2026-01-31\nsource = "x"\ncurrency = "EUR"\n[units]\nvideo = nan',
        'date = 2026-01-31\nsource = "x"\ncurrency = "EUR"\n[units]\nvideo = true',
        'date = 2026-01-31\nsource = "x"\ncurrency = "EUR"',
        "= nonsense",
    ],
)
def test_a_list_that_is_none(tmp_path, text):
    """A file that is no list of prices is refused with what is wrong."""
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        PriceList.load(path)
    with pytest.raises(UsageError):
        PriceList.load(tmp_path / "absent.toml")


def test_the_list_of_this_version():
    """The one that comes along: dated, sourced, exact."""
    prices = PriceList.load()
    assert {"video units": Decimal("0.14"), "image units": Decimal("0.0035")} == prices.units
    assert prices.name == f"prices-{prices.date.isoformat()}.toml"


def test_the_sum_is_compared_with_the_ledger(world):
    """Equal where nothing was changed; a changed deduction shows as a difference of the sums."""
    assert now_costs(world, ["team"]).compared is None
    first = order(world, "a")
    with acting("auditor@example.com"):
        result = world.reconcile("-2d")
    compared = now_costs(world, ["team"]).compared
    assert (True, (result.seq,)) == (compared.agrees, compared.seqs)
    assert {"video units": Decimal("1.8")} == compared.log == compared.ledger
    assert compared.settled < compared.days <= 3 < compared.of
    world.change_deduction(first.id, "2.8", quietly=True)
    world.clock.advance(2 * DAY)
    with acting("auditor@example.com"):
        world.reconcile("-30d")
    compared = now_costs(world, ["team"]).compared
    assert (False, Decimal("2.8")) == (compared.agrees, compared.ledger["video units"])
    assert compared.settled > 25


def test_only_what_was_compared_is_compared(world):
    """Tasks after the reconciliation's end count in the costs, not in the comparison."""
    order(world, "a")
    with acting("auditor@example.com"):
        world.reconcile()
    order(world, "a")
    found = now_costs(world, ["team"])
    assert ({"video units": Decimal("3.6")}, {"video units": Decimal("1.8")}) == (
        found.total.amounts,
        found.compared.log,
    )
    assert found.compared.agrees


def test_names_of_keys(world):
    """A key has the name that the ledger has, once a reconciliation told it."""
    order(world, "a")
    with acting("auditor@example.com"):
        world.reconcile()
    found = now_costs(world, ["key"])
    (row,) = found.rows
    assert f"{row.group[0]} (default)" == found.shown(row)[0]
    assert "default" == found.to_json()["rows"][0]["key_name"]


PERIODS = [
    ({"month": "2026-10"}, "2026-10-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00"),
    ({"month": "2026-12"}, "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
    ({}, "2026-11-01T00:00:00+00:00", "2026-11-22T12:00:00+00:00"),
    ({"since": "2026-11-02"}, "2026-11-02T00:00:00+00:00", "2026-11-22T12:00:00+00:00"),
    ({"since": "-1d", "until": "today"}, "2026-11-21T12:00:00+00:00", "2026-11-23T00:00:00+00:00"),
]


@pytest.mark.parametrize("asked, since, until", PERIODS)
def test_periods(asked, since, until):
    """A month is that month of UTC; without one it is this month up to now."""
    period = period_of(asked.get("month"), asked.get("since"), asked.get("until"), NOW)
    assert (since, until) == (period.since.isoformat(), period.until.isoformat())


@pytest.mark.parametrize(
    "asked",
    [
        ("2026-13", None, None),
        ("2026-1", None, None),
        ("0000-01", None, None),
        ("2026-10", "-1d", None),
        (None, "today", "yesterday"),
    ],
)
def test_periods_that_are_none(asked):
    """What is no month, a month beside other times, an empty period: refused."""
    with pytest.raises(UsageError):
        period_of(*asked, NOW)


@pytest.mark.parametrize("by", [["teams"], [], ["team", "colour"]])
def test_dimensions_that_are_none(by):
    """Costs are grouped by what there is."""
    with pytest.raises(UsageError):
        costs([], by)


def test_an_empty_log():
    """No entries, no rows."""
    found = costs([], DIMENSIONS, now=NOW)
    assert ((), 0) == (found.rows, found.total.tasks)
    assert json.loads(json.dumps(found.to_json()))["rows"] == []


STEPS = ["a", "b", "wait", "image", "speech", "around", "look", "lost", "unseen", "refused", "own", "day"]


@pytest.mark.slow
def test_the_index_says_the_same_as_the_log():
    """Costs by the index are those that a scan of the log gives, for every way of grouping."""
    check_index([*STEPS, "a", "look", "b"])


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STEPS), min_size=3, max_size=12))
def test_the_index_says_the_same_of_many_histories(steps):
    """The same, of random histories."""
    check_index(steps)


def check_index(steps):
    """Live a history and compare."""
    with account(team=None) as world:
        for step in steps:
            if step in ("a", "b"):
                order(world, step, wait=step == "a")
            elif step == "wait":
                world.clock.advance(HOUR)
            elif step == "day":
                world.clock.advance(DAY)
            elif step == "image":
                with world.client() as kling:
                    kling.generate_image("a lake")
            elif step == "speech":
                with acting("other@example.com", team="c"), world.client() as kling:
                    kling.text_to_speech("hello", voice_id="oversea_male1")
            elif step == "refused":
                with world.client() as kling, pytest.raises(KlingPolicyViolation):
                    kling.text_to_video("forbidden", model="kling-3.0")
            elif step == "own":
                end = EventType.VIDEO_GENERATION_COMPLETED
                charge = [{"charge_type": "cash", "amount": "0.7", "currency": "EUR"}]
                world.audit.log(end, resource_type="video", resource_id="own", metadata={"charge": charge})
            elif step == "around":
                world.around()
            elif step == "look":
                world.reconcile()
            else:
                world.sim.fail_next("POST", "/text-to-video/*", drop=True, after_accept=step == "unseen")
                world.sim.fail_next("GET", "/tasks", drop=True)
                with world.client(retries=1) as kling, pytest.raises(KlingOutcomeUnknown):
                    kling.text_to_video("lost", model="kling-3.0")
        since, until = world.began - dt.timedelta(days=1), world.now + dt.timedelta(days=1)
        for by in (["team"], list(DIMENSIONS)):
            by_index = world.audit.costs(by, since=since, until=until)
            world.audit.flush()
            by_scan = costs(world.audit.entries(), by, since=since, until=until, subjects=world.audit.subjects)
            assert by_scan.to_json() == by_index.to_json()


def test_units_of_an_unknown_pack_are_added_to_no_others(world):
    """A call whose record names no pack, and whose product tells none, stands apart and has no list price."""
    order(world, "a")
    with acting("user@example.com", team="a"), world.client() as kling:
        kling.identify_face(video_url="https://example.com/clip.mp4")
    found = now_costs(world, ["team"])
    (amounts,) = (amounts for _, _, amounts in table(found).values())
    assert {"video units", "unknown pack units"} == set(amounts)
    assert ("unknown pack units",) == found.unpriced
