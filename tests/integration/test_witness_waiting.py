"""Waiting until witnesses have seen an entry, and acts that do not happen before: real witnesses over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.event.context import acting
from klingai_audit.event.record import decode_event
from klingai_audit.kling import KlingAI
from klingai_audit.log import AuditLog
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.admin import Administration
from klingai_audit.upkeep.witnessing import Witnessing, read_policy, witness_now
from klingai_audit.witness.book import Book
from klingai_audit.witness.client import WitnessClient
from klingai_audit.witness.server import Witness, witness_app
from tests.integration.test_witness import SIGNERS, policy_of, serving
from tests.support.receivers import wait_until

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def witnessed(folder: Path, rules: str = "", *, quorum: str = "all", alive: bool = True) -> Iterator[AuditLog]:
    """A log with one witness that answers and perhaps one that does not, both in its policy."""
    AuditLog.open(folder / "audit").close()
    keys = folder / "audit.keys"
    key = VerifierKey.parse((keys / "log.pub").read_text().strip())
    (keys / "policy.toml").write_text(rules)
    with serving(witness_app(Witness(SIGNERS[0], [key], Book(folder / "w0.sqlite")))) as url:
        urls = {0: url} if alive else {0: url, 1: "http://127.0.0.1:9"}
        (keys / "witness.policy").write_bytes(policy_of(key, urls, quorum))
        with AuditLog.open(folder / "audit") as audit:
            yield audit


@contextlib.contextmanager
def asking(audit: AuditLog) -> Iterator[Witnessing]:
    """Have the witnesses asked, by demand only."""
    policy = read_policy(audit.places.keys)
    assert policy is not None
    runner = Witnessing(audit, WitnessClient(policy, timeout=60), every=3600)
    try:
        yield runner
    finally:
        runner.close()


def types(audit: AuditLog) -> list[str]:
    audit.flush("published")
    return [decode_event(line).event_type for line in audit.reader.entries()]


def test_an_entry_is_waited_for_and_the_runner_asks_at_once(tmp_path: Path) -> None:
    """Whoever waits wakes the runner of this process; what an earlier round covered is there at once."""
    with witnessed(tmp_path) as audit, asking(audit):
        first = audit.log("x_note", "user@example.com").wait("witnessed", timeout=120)
        asyncio.run(audit.log("x_note", "user@example.com").reached("witnessed", timeout=120))
        assert 2 == types(audit).count("checkpoint_witnessed")
        assert first is first.wait("witnessed", timeout=0)
        assert 2 == types(audit).count("checkpoint_witnessed")


def test_another_process_may_have_asked(tmp_path: Path) -> None:
    """The entry that keeps the cosignatures is enough, whoever wrote it, and covers nothing behind it."""
    with witnessed(tmp_path) as audit:
        policy = read_policy(audit.places.keys)
        assert policy is not None
        receipt = audit.log("x_note", "user@example.com").wait()
        with AuditLog.open(tmp_path / "audit") as other:
            witness_now(other, WitnessClient(policy))
        receipt.wait("witnessed", timeout=0)
        later = audit.log("x_note", "user@example.com").wait("published")
        with pytest.raises(AuditUnavailable, match=r"not witnessed by 1 of 1 \(w0\) within [0-9.e-]+ s"):
            later.wait("witnessed", timeout=0.3)


def test_fewer_than_the_quorum_are_not_enough(tmp_path: Path) -> None:
    """One of two cosigned: the wait ends with an error, threads and coroutines alike; one of any two is enough."""
    with witnessed(tmp_path, '[witness]\ntimeout = "1s"', alive=False) as audit, asking(audit):
        receipt = audit.log("x_note", "user@example.com").wait("published")
        with pytest.raises(AuditUnavailable, match="2 of 2"):
            receipt.wait("witnessed")
        with pytest.raises(AuditUnavailable, match="2 of 2"):
            asyncio.run(receipt.reached("witnessed", timeout=0.3))
        wait_until(lambda: "checkpoint_witnessed" in types(audit))
        path = audit.places.keys / "witness.policy"
        path.write_bytes(path.read_bytes().replace(b"group g all", b"group g any"))
        receipt.wait("witnessed", timeout=0)


@pytest.mark.parametrize("policy", [None, b"quorum none\n", b"nonsense\n"])
def test_without_witnesses_nobody_is_waited_for(tmp_path: Path, policy: bytes | None) -> None:
    """No policy, one that asks for nobody, one that is none: an error at once, never success."""
    with AuditLog.open(tmp_path / "audit") as audit:
        if policy is not None:
            (tmp_path / "audit.keys" / "witness.policy").write_bytes(policy)
        receipt = audit.log("x_note", "user@example.com")
        with pytest.raises(AuditUnavailable, match=r"witness\.policy"):
            receipt.wait("witnessed", timeout=60)
        with pytest.raises(AuditUnavailable, match=r"witness\.policy"):
            asyncio.run(receipt.reached("witnessed"))
        assert receipt.seq is not None
        with pytest.raises(UsageError):
            receipt.wait("seen")  # type: ignore[arg-type]


@pytest.mark.parametrize("wait", ["witnessed", "seen"])
def test_a_log_does_not_wait_for_witnesses_with_every_call(tmp_path: Path, wait: str) -> None:
    """The entries by which witnesses are asked would wait for themselves: refused before anything is made."""
    with pytest.raises(UsageError):
        AuditLog.open(tmp_path / "audit", wait=wait)  # type: ignore[arg-type]
    assert not (tmp_path / "audit").exists()


class Provider:
    """Counts what reaches the provider, and answers each order."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        data = {"task_id": "831000000000000001", "task_status": "submitted", "created_at": 1, "updated_at": 1}
        return httpx2.Response(200, json={"code": 0, "message": "ok", "request_id": "r", "data": data}, request=request)


REQUIRED = '[witness]\nrequire = ["paid_create", "admin"]\ntimeout = "{}s"'
"""With seconds: few where nobody comes, many where somebody does, on a machine that may be busy."""


@pytest.mark.parametrize("alive", [True, False])
def test_an_order_is_sent_only_when_witnesses_have_seen_it(tmp_path: Path, alive: bool) -> None:
    """By policy a paid call waits for them; where they do not come it is not sent, and the log says how it ended."""
    provider = Provider()
    rules = REQUIRED.format(60 if alive else 1)
    with witnessed(tmp_path, rules, alive=alive) as audit, asking(audit), acting("user@example.com"):
        with KlingAI(api_key="k" * 32, audit=audit, transport=httpx2.MockTransport(provider)) as kling:
            if alive:
                kling.text_to_video("A lake")
            else:
                with pytest.raises(AuditUnavailable, match=r"text_to_video was not sent\. Entry \d+ is durable, but"):
                    kling.text_to_video("A lake")
        wait_until(lambda: "checkpoint_witnessed" in types(audit))
        found = [decode_event(line) for line in audit.reader.entries()]
        intent = next(event for event in found if event.details.get("phase") == "intent")
        ends = [event for event in found if event.details.get("intent") == intent.event_id]
        assert ["success" if alive else "failure"] == [event.outcome for event in ends]
        assert int(alive) == provider.asked
        assert 0 == len([note for note in audit.verify().notes if note.kind == "intent_overdue"])
        seen = next(number for number, event in enumerate(found) if event.event_type == "checkpoint_witnessed")
        assert found.index(intent) < seen


def test_coroutines_wait_alike(tmp_path: Path) -> None:
    """The twin for coroutines refuses in the same way, and lets other tasks run meanwhile."""
    from klingai_audit.kling import AsyncKlingAI

    provider, ticks = Provider(), 0

    async def order(audit: AuditLog) -> None:
        nonlocal ticks
        async with AsyncKlingAI(api_key="k" * 32, audit=audit, transport=httpx2.MockTransport(provider)) as kling:
            waiting = asyncio.ensure_future(kling.text_to_video("A lake"))
            while not waiting.done():
                await asyncio.sleep(0.01)
                ticks += 1
            with pytest.raises(AuditUnavailable, match="was not sent"):
                await waiting

    with witnessed(tmp_path, REQUIRED.format(1), alive=False) as audit, asking(audit), acting("user@example.com"):
        asyncio.run(order(audit))
    assert 0 == provider.asked
    assert ticks > 4


@pytest.mark.parametrize("alive", [True, False])
def test_a_declaration_needs_witnesses_too(tmp_path: Path, alive: bool) -> None:
    """Where they do not come nothing is changed, and a second entry says so."""
    rules = REQUIRED.format(60 if alive else 1)
    with witnessed(tmp_path, rules, alive=alive) as audit, asking(audit), acting("boss@example.com"):
        declared = Administration(audit)
        if alive:
            declared.set_budget("account", 100)
        else:
            with pytest.raises(AuditUnavailable, match="Nothing was changed"):
                declared.set_budget("account", 100)
        outcomes = [
            event.outcome
            for event in map(decode_event, audit.reader.entries())
            if event.event_type == "budget_modified"
        ]
        assert (["success"], 1) if alive else (["success", "failure"], 0) == (outcomes, len(declared.registry.budgets))
