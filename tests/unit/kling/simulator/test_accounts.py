"""Who pays: packs per type, what is held and charged, cash, and the ledgers over time."""

from __future__ import annotations

from decimal import Decimal

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import ResourcePack, Wallet

DAY_MS = 24 * 3600 * 1000
CREATE = "/text-to-video/kling-3.0"


def _pack(clock, name: str = "p", total: str = "10", kind: str = "video", *, days: int = 30, begin: int = 0, **more):
    now = clock.now_ms()
    return ResourcePack(name, f"id-{name}", kind, Decimal(total), now + begin * DAY_MS, now + days * DAY_MS, **more)


def _costs(ask, clock) -> list[dict[str, object]]:
    reply = ask("GET", f"/account/costs?start_time=0&end_time={clock.now_ms() + 1000 * DAY_MS}")
    return reply.data["resource_pack_subscribe_infos"]


def _ledger(ask, which: str = "package", **body: object) -> dict[str, object]:
    return ask("POST", f"/account/billing/{which}", {"start_time": 1, "end_time": 9_000_000_000_000} | body).data


def test_running_tasks_hold_their_units(sim, ask, clock) -> None:
    """A pack of 10 units takes three videos of 3 units, not a fourth; a failed one gives its units back."""
    sim.account.packs = [_pack(clock)]
    for prompt in ("a", "b", "a doomed one"):
        ask.create(prompt)
    refused = ask("POST", CREATE, {"prompt": "a"})
    assert (refused.status, refused.code, refused.json["message"]) == (429, 1102, "Account balance not enough")
    clock.advance(30)
    assert ask.create()
    assert (sim.account.packs[0].used, sim.account.packs[0].held) == (Decimal(6), Decimal(3))


def test_a_pack_pays_only_while_it_is_valid(sim, ask, clock) -> None:
    """Before its time and after it a pack pays nothing, and says so."""
    sim.account.packs = [_pack(clock, begin=1, days=2)]
    seen = []
    for step in (0, 86400, 86400):
        clock.advance(step)
        seen.append((ask("POST", CREATE, {"prompt": "a"}).code, _costs(ask, clock)[0]["status"]))
    assert seen == [(1102, "toBeOnline"), (0, "online"), (1102, "expired")]


def test_the_pack_that_ends_first_pays(sim, ask, clock) -> None:
    """Of two packs of a type the one that expires earlier is used up first; no task is split."""
    sim.account.packs = [_pack(clock, "late", days=60), _pack(clock, "early", "4", days=30)]
    ask.create()
    ask.create()
    clock.advance(30)
    assert [line["package_id"] for line in _ledger(ask)["result"]["detail"]] == ["id-late", "id-early"]
    assert [info["remaining_quantity"] for info in _costs(ask, clock)] == [7.0, 1.0]
    sim.account.drain("video")
    assert [info["status"] for info in _costs(ask, clock)] == ["runOut", "runOut"]


def test_failed_tasks_are_free(sim, ask, clock) -> None:
    """A failed task shows a deduction of 0 and is in no ledger."""
    ask("POST", "/v1/videos/text2video", {"prompt": "a doomed one", "external_task_id": "mine"})
    clock.advance(30)
    assert ask("GET", "/v1/videos/text2video/mine").data["final_unit_deduction"] == "0"
    assert _ledger(ask)["result"] == {"detail": [], "count": 0}


def test_the_remaining_quantity_lags(sim, ask, clock) -> None:
    """With a lag of 12 hours a deduction shows in the ledger at once and in the quantity 12 hours later."""
    sim.account.packs = [_pack(clock)]
    sim.costs_lag_seconds = 12 * 3600
    ask.create()
    clock.advance(30)
    assert (_ledger(ask)["result"]["count"], _costs(ask, clock)[0]["remaining_quantity"]) == (1, 10.0)
    clock.advance(12 * 3600 - 1)
    assert _costs(ask, clock)[0]["remaining_quantity"] == 10.0
    clock.advance(1)
    assert _costs(ask, clock)[0]["remaining_quantity"] == 7.0


def test_the_ledgers_may_lag(sim, ask, clock) -> None:
    """With a lag a deduction shows that much later, in the ledger only."""
    sim.account.packs = [_pack(clock)]
    sim.ledger_lag_seconds = 3600
    ask.create()
    clock.advance(30)
    assert (_ledger(ask)["result"]["count"], _costs(ask, clock)[0]["remaining_quantity"]) == (0, 7.0)
    clock.advance(3600)
    assert _ledger(ask)["result"]["count"] == 1


def test_the_highest_concurrency_counts(sim, ask, clock) -> None:
    """Two active packs of 2 and 3 allow three at once; without figures the simulator's own table holds."""
    sim.account.packs = [_pack(clock, "a", "100", concurrency=2), _pack(clock, "b", "100", concurrency=3)]
    assert [ask("POST", CREATE, {"prompt": "a"}).code for _ in range(4)] == [0, 0, 0, 1303]


def test_an_image_takes_as_many_slots_as_pictures(sim, ask) -> None:
    """`n` counts against the image concurrency, a series with its amount, video slots are apart."""
    assert ask("POST", "/v1/images/generations", {"prompt": "a", "n": 9}).code == 0
    assert ask("POST", "/v1/images/generations", {"prompt": "a"}).code == 1303
    series = {"model_name": "kling-v3-omni", "prompt": "a", "result_type": "series"}
    assert [ask("POST", "/v1/images/omni-image", series).code for _ in range(3)] == [0, 0, 1303]
    assert ask.create()


def test_a_ledger_is_read_in_pages(sim, ask, clock) -> None:
    """The cursor carries times, filters and limit; every line comes once, newest first, also if new ones come."""
    made = []
    for number in range(5):
        made.append(ask.create(str(number)))
        clock.advance(30)
    seen, body = [], {"limit": 2, "filters": [{"key": "product_type", "values": ["video"]}]}
    while True:
        data = _ledger(ask, **body)
        seen += [line["task_id"] for line in data["result"]["detail"]]
        if not data["has_more"]:
            assert data["next_cursor"] == ""
            break
        ask.create()
        clock.advance(30)
        body = {"cursor": data["next_cursor"], "limit": 500, "start_time": 8, "end_time": 7}
    assert seen == made[::-1]


def test_a_ledger_knows_the_key(sim, ask, clock) -> None:
    """Lines carry the API key's name; those of AccessKey tokens carry none."""
    from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, mint_token

    sim.add_api_key("sim-second-key", "render-farm")
    token = mint_token(DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, now_ms=clock.now_ms())
    for auth in ("sim-second-key", token):
        ask("POST", "/v1/audio/tts", {"text": "a", "voice_id": "oversea_male1"}, auth=auth)
    assert [line["api_key_name"] for line in _ledger(ask)["result"]["detail"]] == ["", "render-farm"]
    only = _ledger(ask, filters=[{"key": "api_key_name", "values": ["render-farm"]}])
    assert only["result"]["count"] == 1


def test_every_line_tells_what_was_made(sim, ask, clock) -> None:
    """Reference video, kept sound and voice show in the line of a video; a speech has no video members."""
    contents = [{"type": "prompt", "text": "a"}, {"type": "base_video", "url": "https://example.com/a.mp4"}]
    ask("POST", "/omni-video/kling-o1", {"contents": contents, "settings": {"audio": "original"}})
    clock.advance(30)
    ask("POST", "/v1/audio/tts", {"text": "a", "voice_id": "oversea_male1"})
    speech, film = _ledger(ask)["result"]["detail"]
    shown = [film[name] for name in ("refer_video_input", "video_sound", "voice_control", "resolution")]
    assert shown == [True, "original", False, "720p"]
    assert ("duration" in speech, speech["product_function"], speech["deduction_amount"]) == (
        False,
        "Text to Speech",
        0.05,
    )


def test_a_test_balance_is_used_first(sim, ask, clock) -> None:
    """Cash comes from the test quota while it lasts, then from the balance, which may run into arrears once."""
    sim.account.packs.clear()
    sim.account.wallet = Wallet(Decimal("0.1"), test_balance=Decimal("0.5"))
    for _ in range(2):
        ask.create()
        clock.advance(30)
    assert ask("POST", CREATE, {"prompt": "a"}).code == 0
    assert [line["cash_type"] for line in _ledger(ask, "balance")["result"]["detail"]] == ["balance", "test_balance"]
    sim.account.wallet.test_balance = Decimal(0)
    assert (sim.account.wallet.balance, ask("POST", CREATE, {"prompt": "a"}).code) == (Decimal("-0.32"), 1101)


def test_units_come_before_cash(sim, ask, clock) -> None:
    """A pack that can pay does; only when it cannot is the wallet opened."""
    sim.account.packs = [_pack(clock, total="4")]
    sim.account.wallet = Wallet(Decimal(100), "CNY")
    ask.create()
    ask.create()
    clock.advance(30)
    assert [_ledger(ask, which)["result"]["count"] for which in ("package", "balance")] == [1, 1]
    assert _ledger(ask, "balance")["result"]["detail"][0]["currency"] == "CNY"


def test_a_synchronous_call_is_charged_at_once(sim, ask) -> None:
    """Its line is in the ledger before anything else is asked."""
    ask("POST", "/v1/videos/image-recognize", {"image": "QUJD"})
    (line,) = sim.account.deductions
    assert (line.payment.amount, line.before - line.after, line.task.path) == (
        Decimal("0.1"),
        Decimal("0.1"),
        "/v1/videos/image-recognize",
    )
    assert (sim.tasks, sim.requests[-1].task_id) == ([], line.task.task_id)


def test_asking_for_a_missing_pack_is_a_mistake(sim) -> None:
    """`pack` finds by type and says so when there is none."""
    assert sim.account.pack("image").pack_id == "pack-image-1"
    with pytest.raises(UsageError):
        sim.account.pack("music")
