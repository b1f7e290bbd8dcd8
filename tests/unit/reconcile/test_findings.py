"""Each thing that a reconciliation can find, planted alone; and nothing where nothing is wrong."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from decimal import Decimal

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.errors import KlingOutcomeUnknown
from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, Wallet
from tests.support.account import DAY, HOUR, account

PAIR = {"access_key": DEFAULT_ACCESS_KEY, "secret_key": DEFAULT_SECRET_KEY}


@pytest.fixture
def world():
    """Give an account and a log."""
    with account() as made:
        yield made


def order(world, prompt="a lake", *, wait=True, model="kling-3.0", duration=3):
    """Order a video, let it end and look at it."""
    with world.client() as kling:
        task = kling.text_to_video(prompt, model=model, duration=duration)
        if wait:
            world.settle()
            task.refresh()
    return task.id


def lose_reply(world):
    """Order a video whose reply is lost, as are the look-ups after it."""
    world.sim.fail_next("POST", "/text-to-video/*", after_accept=True, drop=True)
    world.sim.fail_next("GET", "/tasks", drop=True)
    with world.client(retries=1) as kling, pytest.raises(KlingOutcomeUnknown) as caught:
        kling.text_to_video("lost", model="kling-3.0", duration=3)
    world.sim.faults.__init__()
    return caught.value.external_task_id


def kinds(result):
    """Return the kinds of all findings."""
    return [finding.kind for finding in result.findings]


def test_nothing_is_found_when_nothing_is_wrong(world):
    """Videos, images, sounds, failures and refusals, of both generations: all matched, the sums are equal."""
    order(world)
    order(world, "doomed")
    order(world, "an older one", model="kling-v2-6", duration=5)
    with world.client() as kling:
        made = [kling.generate_image("a lake"), kling.text_to_speech("hello", voice_id="oversea_male1")]
        world.settle()
        made[0].refresh()
    world.clock.advance(13 * HOUR)
    result = world.reconcile()
    assert ([], 5, 0) == (kinds(result), result.matched, result.exit_code)
    assert (
        result.log_sums
        == result.ledger_sums
        == {"video units": Decimal("1.8") + Decimal("1.5") + Decimal("0.05"), "image units": 8}
    )
    assert {"default"} == {name for names in result.keys.values() for name in names}


def test_a_call_around_the_log_is_found(world):
    """It is named with the key that the ledger has and the amount; a second run says the same."""
    order(world)
    world.sim.add_api_key("another-key-1", "render-farm")
    stranger = world.around(key="another-key-1")
    world.settle()
    for _ in range(2):
        result = world.reconcile()
        (found,) = result.findings
        assert ("missing_here", stranger, "render-farm") == (found.kind, found.task_id, found.key_name)
        assert {"video units": Decimal(3)} == found.amounts["ledger"]
        assert (4, 1) == (result.exit_code, result.matched)


def test_a_call_around_the_log_is_found_while_it_runs(world):
    """The list shows it before anything is charged."""
    stranger = world.around()
    (found,) = world.reconcile().findings
    assert ("missing_here", stranger, "submitted") == (found.kind, found.task_id, found.provider_state)


def test_a_call_around_the_log_that_no_list_shows(world):
    """What is answered at once is in no list, but in the ledger."""
    world.around("/v1/audio/tts", text="hello", voice_id="oversea_male1", prompt=None)
    world.settle()
    (found,) = world.reconcile().findings
    assert ("missing_here", "Text to Speech") == (found.kind, found.action)


@pytest.mark.parametrize("quietly", [False, True])
def test_a_changed_charge_is_found(world, quietly):
    """The ledger took another amount than the task's end stated, whether or not the ledger adds up."""
    changed = order(world)
    order(world)
    world.change_deduction(changed, "9.5", quietly=quietly)
    result = world.reconcile()
    (found,) = result.of("amount_differs")
    assert changed == found.task_id
    assert ({"video units": Decimal("1.8")}, {"video units": Decimal("9.5")}) == (
        found.amounts["log"],
        found.amounts["ledger"],
    )
    assert quietly == (not result.of("balance_differs"))
    assert 4 == result.exit_code


def test_a_task_unknown_to_the_provider_is_found(world):
    """A task that the provider has no record and no deduction of, though it is asked for it by id."""
    gone = order(world)
    order(world)
    book, account = world.sim.book, world.sim.account
    task = book.by_id(gone)
    book._by_id.pop(gone)
    book._tasks = {place: kept for place, kept in book._tasks.items() if kept is not task}
    account.deductions = [line for line in account.deductions if line.task is not task]
    result = world.reconcile()
    assert ["missing_there"] == [kind for kind in kinds(result) if kind != "balance_differs"]
    assert gone == result.of("missing_there")[0].task_id
    assert result.of("balance_differs") or len(account.deductions) == 1


def test_a_deduction_that_vanished_is_found(world):
    """Of three deductions the middle one is gone: the task has none, and the pack lost what no line explains."""
    order(world)
    gone = order(world)
    order(world)
    world.sim.account.deductions = [line for line in world.sim.account.deductions if line.task.task_id != gone]
    world.clock.advance(13 * HOUR)
    result = world.reconcile()
    assert {("amount_differs", gone)} == {(f.kind, f.task_id) for f in result.findings if f.kind != "balance_differs"}
    assert "lost 1.8 video units" in result.of("balance_differs")[0].message


def test_another_end_is_found(world):
    """The log says that it failed, the provider that it succeeded."""
    task = order(world, wait=False)
    world.audit.log(
        "video_generation_failed", resource_type="video", resource_id=task, outcome="failure", action="mine"
    ).wait()
    world.settle()
    (found,) = world.reconcile().findings
    assert ("state_differs", "failed", "succeeded") == (found.kind, found.log_state, found.provider_state)


def test_the_lag_is_neither_a_difference_nor_a_match(world):
    """While a deduction may still come, the task is pending; when it should be there and is not, it differs."""
    world.sim.ledger_lag_seconds = 40 * HOUR
    task = order(world)
    result = world.reconcile()
    assert (["pending"], 0, 0) == (kinds(result), result.matched, result.exit_code)
    world.clock.advance(13 * HOUR)
    assert [("amount_differs", task)] == [(f.kind, f.task_id) for f in world.reconcile().findings]
    world.clock.advance(40 * HOUR)
    assert ([], 1) == (kinds(world.reconcile()), world.reconcile().matched)


def test_a_pack_may_lag(world):
    """What is left of a pack is up to 12 hours old: no difference."""
    world.sim.costs_lag_seconds = 12 * HOUR
    for _ in range(3):
        order(world)
        world.clock.advance(5 * HOUR)
    assert [] == kinds(world.reconcile())
    world.sim.account.packs[0].used += 5
    world.clock.advance(20 * HOUR)
    (found,) = world.reconcile().findings
    assert "balance_differs" == found.kind
    assert "has 999989.6 left; by the ledger it should be 999994.6" in found.message


def test_a_lost_reply_is_resolved_by_its_id(world):
    """The provider has the task: it is found, its start is in the log from then on, and the next run has a match."""
    external = lose_reply(world)
    world.settle()
    result = world.reconcile()
    (found,) = result.findings
    assert ("dangling_found", external, 0) == (found.kind, found.external_task_id, result.exit_code)
    assert [found.task_id] == [entry.resource_id for entry in world.audit.query(event_type="video_generation_started")][
        1:
    ]
    again = world.reconcile()
    assert ([], 1) == (kinds(again), again.matched)


def test_an_order_that_never_arrived_is_resolved_by_its_id(world):
    """The provider has no task of that id."""
    world.sim.fail_next("POST", "/text-to-video/*", drop=True, times=1)
    world.sim.fail_next("GET", "/tasks", drop=True)
    with world.client(retries=1) as kling, pytest.raises(KlingOutcomeUnknown):
        kling.text_to_video("lost", model="kling-3.0", duration=3)
    world.sim.faults.__init__()
    assert ["in_flight"] == kinds(world.reconcile())
    world.clock.advance(600)
    result = world.reconcile()
    assert (["dangling_absent"], 0) == (kinds(result), result.exit_code)


def intend(world, **more):
    """Leave an intent without an outcome, as a captured client that was killed leaves it."""
    world.audit.log(
        "prompt_submitted", resource_type="video", action="text_to_video",
        metadata={"phase": "intent", "deadline_s": 60, "generation": "legacy", **more},
    ).wait()  # fmt: skip


def test_an_intent_without_an_id_is_resolved_by_the_whole_list(world):
    """If nobody unknown ordered anything then, it never arrived; else it is unresolved, and the stranger is named."""
    intend(world)
    world.clock.advance(HOUR)
    assert ["dangling_absent"] == kinds(world.reconcile())
    intend(world)
    world.clock._now_ms -= int(HOUR * 1000)
    stranger = world.around()
    world.clock.advance(HOUR)
    result = world.reconcile(now=world.now)
    assert {"missing_here", "dangling_unresolved"} == set(kinds(result))
    assert f"perhaps {stranger}" == result.of("dangling_unresolved")[0].message


def test_an_intent_within_its_deadline_is_in_flight(world):
    """Just announced: not a difference."""
    intend(world, deadline_s=3600)
    world.clock.advance(5)
    result = world.reconcile()
    assert (["in_flight"], 0) == (kinds(result), result.exit_code)


def test_open_tasks(world):
    """Running ones are open; ended ones get their end from the very look; after a day of running they are overdue."""
    order(world, wait=False)
    assert ["open"] == kinds(world.reconcile())
    world.settle()
    result = world.reconcile()
    assert (["ended_there"], 0) == (kinds(result), result.exit_code)
    assert 1 == len(list(world.audit.query(event_type="video_generation_completed")))
    world.sim.render_seconds = 3 * DAY
    order(world, wait=False)
    world.clock.advance(1.5 * DAY)
    result = world.reconcile()
    assert (["open_overdue"], 4) == (kinds(result), result.exit_code)


def test_what_is_older_than_the_provider_keeps(world):
    """After 30 days the ledger alone decides; what was free cannot be verified any more."""
    order(world)
    order(world, "doomed")
    world.clock.advance(32 * DAY)
    result = world.reconcile("-40d")
    assert (["unverifiable"], 1, 0) == (kinds(result), result.matched, result.exit_code)
    world.sim.account.deductions.clear()
    assert "amount_differs" in kinds(world.reconcile("-40d"))


def test_what_was_before_the_log_is_no_difference(world):
    """A task ordered a day before the log began went around nothing."""
    world.clock._now_ms -= int(DAY * 1000)
    world.around()
    world.clock.advance(DAY + 60)
    result = world.reconcile()
    assert (["before_log"], 0) == (kinds(result), result.exit_code)


def test_only_the_period_counts(world):
    """Tasks ordered outside [begin, end) are not compared."""
    order(world)
    world.clock.advance(DAY)
    world.around()
    assert ([], 1) == (kinds(world.reconcile(end=world.now - dt.timedelta(hours=1))), 1)
    assert ["missing_here"] == kinds(world.reconcile(world.now - dt.timedelta(hours=1), world.now + dt.timedelta(1)))
    with pytest.raises(UsageError):
        world.reconcile(world.now + dt.timedelta(hours=1))


def test_cash(world):
    """A postpaid account: the balance ledger is compared, a payment in between is no difference, a hole is one."""
    world.sim.account.packs.clear()
    world.sim.account.wallet = wallet = Wallet(Decimal(100), discount=Decimal("0.9"))
    order(world)
    wallet.balance += 50
    order(world)
    result = world.reconcile()
    assert ([], 2) == (kinds(result), result.matched)
    assert result.ledger_sums == result.log_sums == {"USD": Decimal("0.4536")}
    wallet.balance -= 7
    order(world)
    result = world.reconcile()
    assert ["balance_differs"] == kinds(result)


def test_an_access_key_reads_the_older_lists(world):
    """With an AccessKey there is no /tasks: each older list is read, and strangers are found in them."""
    with world.client(**PAIR) as kling:
        task = kling.text_to_video("a lake", model="kling-v2-6", duration=5)
        world.settle()
        task.refresh()
    stranger = world.around("/v1/videos/text2video", model_name="kling-v2-6")
    world.settle()
    result = world.reconcile(client=world.client(**PAIR))
    assert [("missing_here", stranger)] == [(f.kind, f.task_id) for f in result.findings]
    assert (1, "legacy_lists") == (result.matched, result.lists[0])


def test_what_an_access_key_cannot_see(world):
    """Tasks of the new generation are in no older list: the ledger decides, and what is not there stays open."""
    order(world)
    order(world, "doomed")
    intend(world, generation="new")
    world.clock.advance(600)
    result = world.reconcile(client=world.client(**PAIR))
    assert (["unverifiable", "dangling_unresolved"], 1) == (kinds(result), result.matched)


def test_refusals_for_being_too_fast_are_waited_out(world):
    """Lists, ledgers and packs are asked for again."""
    order(world)
    for method, path in (("POST", "/tasks"), ("POST", "/account/billing/package"), ("GET", "/account/costs")):
        world.sim.fail_next(method, path, code=1302, times=2)
    assert ([], 1) == (kinds(world.reconcile()), 1)
    assert 3 == len(world.sim.calls("GET", "/account/costs"))


def test_many_pages(world):
    """More tasks and deductions than one page holds; single tasks are asked for twenty at a time."""
    with world.client() as kling:
        for _ in range(12):
            kling.text_to_video("a lake", model="kling-3.0", duration=3)
    strangers = {world.around() for _ in range(520)}
    world.settle()
    result = world.reconcile()
    assert strangers == {finding.task_id for finding in result.of("missing_here")}
    assert 12 == len(result.of("ended_there"))
    assert 2 == len(world.sim.calls("POST", "/tasks"))
    assert 2 == len(world.sim.calls("POST", "/account/billing/package"))


def test_the_entry(world):
    """The result is recorded with its digest, counts and evidence, and read back as it was."""
    order(world)
    stranger = world.around()
    result = world.reconcile()
    (entry,) = world.audit.query(event_type="reconciled")
    assert (result.seq, "failure") == (entry.seq, entry.outcome)
    told = entry.metadata
    assert (result.digest, result.counts, 1) == (told["digest"], told["counts"], told["unexplained"])
    assert [{"kind": "missing_here", "task_id": stranger}] == told["evidence"]
    shown = result.to_json()
    assert json.loads(json.dumps(shown)) == shown
    assert (True, 4, entry.seq) == (shown["recorded"], shown["exit"], shown["seq"])
    content = {name: shown[name] for name in list(shown)[: list(shown).index("exit")]}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert shown["digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_units_of_each_pack_stand_apart(world):
    """A try-on draws on a pack of its own: in the log, in the ledger and in the sums."""
    with world.client() as kling:
        task = kling.virtual_try_on("https://example.com/human.jpg", cloth="https://example.com/cloth.jpg")
        world.settle()
        task.refresh()
    result = world.reconcile()
    assert ([], 1) == (kinds(result), result.matched)
    assert result.log_sums == result.ledger_sums == {"try_on units": 1}
