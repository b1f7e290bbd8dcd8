"""A log whose key is elsewhere, and a signer that fails in every way: checkpoints wait, entries never do."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, SignerUnavailable
from klingai_audit.ledger import keys as keys_module
from klingai_audit.ledger import publisher, rotation
from klingai_audit.ledger.external import SignerSettings
from klingai_audit.trust.verify import verify
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, event
from tests.support.receivers import wait_until
from tests.support.settle import check_verdict, settle
from tests.support.signers import Signer

DAY_S = 86_400

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer is asked again soon."""
    monkeypatch.setattr(keys_module, "SIGNING_INTERVAL_S", 0.02)
    monkeypatch.setattr(publisher, "_RETRY_S", 0.05)
    monkeypatch.setattr(publisher, "_MAX_RETRY_S", 0.05)


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[Signer]:
    """A program that signs; a new log below `tmp_path` is to use it."""
    signer = Signer(tmp_path / "signer")
    signer.plan(tmp_path)
    yield signer
    signer.mode = "sign"


def opened(base: Path, clock: HandClock | None = None) -> Ledger:
    return Ledger(base, ops=QuickOps(), clock=clock or HandClock()).open()


def log(ledger: Ledger) -> dict[str, int]:
    """Append an entry; returns where it stands."""
    receipt = ledger.appender.append(event()).wait(timeout=60)
    return {receipt.event_id: receipt.seq or 0}


def give_up_after(signer: Signer, base: Path, timeout_s: float) -> None:
    """Have the signer given up after another time."""
    settings = SignerSettings(signer.settings.command, timeout_s)
    (base / "audit.keys" / "log.signer").write_bytes(settings.format())


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exit", "ended with exit code 1"),
        ("killed", "was ended by signal 9"),
        ("garbage", "something that is no signature"),
        ("oversize", "more than 4096 bytes"),
        ("wrong key", "does not verify"),
        ("hang", "gave no answer within 8 s"),
    ],
)
def test_entries_are_durable_while_nobody_signs(tmp_path: Path, signer: Signer, mode: str, words: str) -> None:
    """Writing goes on, waiting for a checkpoint ends with a clear error, verification tells what is unsigned."""
    give_up_after(signer, tmp_path, 8 if mode == "hang" else 60)
    ledger = opened(tmp_path)
    acknowledged = log(ledger)
    until_published(ledger)
    signed = ledger.head.published
    signer.mode = mode
    for _ in range(3):
        acknowledged |= log(ledger)
    with pytest.raises(SignerUnavailable, match=words):
        ledger.appender.wait_published(ledger.head.size, 60)
    verdict = verify(ledger.store, key=ledger.vkey, remembered=ledger.state.read_head(), processes=1, patience=0)
    assert {"unsigned_tail"} == {finding.kind for finding in verdict.findings}
    assert (signed, 3) == (verdict.size, verdict.unsigned.entries)
    signer.mode = "sign"
    acknowledged |= log(ledger)
    until_published(ledger)
    ledger.close()
    settle(tmp_path, acknowledged, clock=HandClock())


def until_published(ledger: Ledger) -> None:
    """Wait as a patient caller does: an attempt that failed is made again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ledger.appender.wait_published(ledger.head.size, 60)
        except SignerUnavailable:
            assert time.monotonic() < deadline


def test_a_program_that_is_gone(tmp_path: Path, signer: Signer) -> None:
    """Somebody uninstalls the signer: closing says how much stays unsigned; the next opening writes and signs it."""
    ledger = opened(tmp_path)
    acknowledged = log(ledger)
    until_published(ledger)
    program = signer.folder / "program.py"
    program.rename(signer.folder / "moved.py")
    acknowledged |= log(ledger)
    with pytest.raises(SignerUnavailable, match=r"its last 2 entries are durable, and no signed checkpoint covers"):
        ledger.close()
    again = opened(tmp_path)
    acknowledged |= log(again)
    (signer.folder / "moved.py").rename(program)
    until_published(again)
    again.close()
    settle(tmp_path, acknowledged, clock=HandClock())


def test_a_wait_that_ends_before_the_signer_answers(tmp_path: Path, signer: Signer) -> None:
    """A time-out shorter than the signer's says that the entry is durable; it is published later all the same."""
    ledger = opened(tmp_path)
    signer.mode = "slow"
    acknowledged = log(ledger)
    with pytest.raises(AuditUnavailable, match=r"within 0\.01 s\.") as late:
        ledger.appender.wait_published(ledger.head.size, 0.01)
    assert "durable" in str(late.value)
    ledger.appender.wait_published(ledger.head.size, 60)
    ledger.close()
    settle(tmp_path, acknowledged, clock=HandClock())


def test_a_new_log_is_signed_before_it_is_one(tmp_path: Path, signer: Signer) -> None:
    """Without a first signature there is no log; the creation is completed once there is one."""
    signer.mode = "exit"
    with pytest.raises(SignerUnavailable, match="exit code 1"):
        opened(tmp_path)
    assert (tmp_path / "audit.keys" / "init.pending").exists()
    signer.mode = "sign"
    ledger = opened(tmp_path)
    acknowledged = log(ledger)
    ledger.close()
    settle(tmp_path, acknowledged, clock=HandClock())


def test_at_most_once_a_second(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries come and whoever waits, the signer is asked once in the interval."""
    monkeypatch.setattr(keys_module, "SIGNING_INTERVAL_S", 0.5)
    ledger = opened(tmp_path)
    begun, entries = time.monotonic(), 0
    while time.monotonic() - begun < 2:
        entries += len(log(ledger))
    before = len(signer.asked())
    took = time.monotonic() - begun
    ledger.close()
    assert before <= took / 0.5 + 2  # the opening is one, and the first interval has a beginning and an end
    assert before < entries
    check_verdict(ledger)


# --- rotation -----------------------------------------------------------------------------------------


def test_midnight_without_a_signer(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch goes on while nobody signs, entries too; it ends once the signer answers, and once only."""
    monkeypatch.setattr(rotation, "RETRY_S", 0.0)
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    acknowledged = log(ledger)
    signer.mode = "exit"
    clock.advance(DAY_S)
    acknowledged |= log(ledger) | log(ledger)
    assert 0 == ledger.keys.current.epoch
    signer.mode = "sign"
    acknowledged |= log(ledger) | log(ledger)
    assert 1 == ledger.keys.current.epoch
    until_published(ledger)
    ledger.close()
    judged = settle(tmp_path, acknowledged, clock=clock)
    assert 1 == judged.types().count("signing_key_rotated")


def test_a_rotation_on_demand_without_a_signer(tmp_path: Path, signer: Signer) -> None:
    """It is refused before anything of it is in the log."""
    ledger = opened(tmp_path)
    acknowledged = log(ledger)
    signer.mode = "exit"
    with pytest.raises(SignerUnavailable):
        ledger.appender.rotate()
    acknowledged |= log(ledger)
    signer.mode = "sign"
    ledger.close()
    assert "signing_key_rotated" not in settle(tmp_path, acknowledged, clock=HandClock()).types()


@pytest.mark.parametrize("living", [True, False])
def test_a_signer_that_dies_within_a_rotation(tmp_path: Path, signer: Signer, *, living: bool) -> None:
    """It signed what came before and not the handover: entries are refused until it does, and nothing is lost."""
    ledger = opened(tmp_path)
    acknowledged = log(ledger)
    until_published(ledger)
    signer.mode = "only 1"
    with pytest.raises(SignerUnavailable):
        ledger.appender.rotate()
    assert b"signing_key_rotated" in ledger.lines()[-1]
    with pytest.raises(AuditUnavailable, match="exit code 1"):
        log(ledger)
    if not living:
        ledger.die()
        with pytest.raises(SignerUnavailable):
            opened(tmp_path)
    signer.mode = "sign"
    writer = ledger if living else opened(tmp_path)
    acknowledged |= log(writer)
    writer.close()
    judged = settle(tmp_path, acknowledged, clock=HandClock())
    assert 1 == judged.types().count("signing_key_rotated")
    assert 1 == writer.keys.current.epoch


def test_a_writer_killed_at_any_moment_beside_its_signer(tmp_path: Path, signer: Signer) -> None:
    """Writers that rotate and are killed while the signer works leave nothing that the next one cannot take up."""
    acknowledged: dict[str, int] = {}
    for number in range(12):

        def write(tell: Tell) -> None:
            ledger = opened(tmp_path)
            while True:
                for event_id, seq in log(ledger).items():
                    tell(f"{event_id} {seq}")
                ledger.appender.rotate()

        child = Child(write)
        time.sleep(0.15 + 0.13 * number)
        if number == 11:
            wait_until(lambda child=child: len(child.lines) > 4)  # type: ignore[misc]
        child.kill()
        for line in child.lines:
            event_id, _, seq = line.partition(" ")
            acknowledged[event_id] = int(seq)
    judged = settle(tmp_path, acknowledged, clock=HandClock())
    assert len(acknowledged) > 3
    assert judged.types().count("signing_key_rotated") > 2


# --- the reference signer -----------------------------------------------------------------------------


@pytest.fixture
def reference(tmp_path: Path, signer: Signer) -> Signer:
    """The signer that we ship, with its memory, in place of the other."""
    key = signer.folder / "log.key"
    key.write_text(signer.key.format() + "\n")
    key.chmod(0o600)
    command = [sys.executable, "-c", "from klingai_audit.cli import main; main()", "keys", "signer", "--key", str(key)]
    signer.settings = SignerSettings(command, 60)
    signer.plan(tmp_path)
    return signer


def test_kept_checkpoints_before_the_newest(tmp_path: Path, reference: Signer) -> None:
    """A signer that never goes back is asked in the order of sizes."""
    ledger = opened(tmp_path)
    receipts = [ledger.appender.append(event()) for _ in range(9000)]
    acknowledged = {receipt.event_id: receipt.wait(timeout=60).seq or 0 for receipt in receipts}
    until_published(ledger)
    ledger.close()
    settle(tmp_path, acknowledged, clock=HandClock())
    assert {4096, 8192} <= {int(path.name) for path in (tmp_path / "audit" / "checkpoints").iterdir()}


def test_a_writer_behind_what_was_signed_for_one_that_died(tmp_path: Path, reference: Signer) -> None:
    """The signer refuses the smaller tree; the living writer takes over the larger one and has that signed."""
    first = opened(tmp_path)
    acknowledged = log(first)
    first.close()
    before = (first.log / "checkpoint").read_bytes()
    living = Ledger(tmp_path, ops=QuickOps(), clock=HandClock())
    with living.store.transaction() as txn:
        living.head.load(txn)
        living.head.append(txn, [(event(), False)])
    other = opened(tmp_path)
    acknowledged |= log(other)
    other.close()
    (first.log / "checkpoint").write_bytes(before)
    assert living.head.size < other.head.size
    living.head.publish()
    assert other.head.size == living.head.published
    check_verdict(living)
    assert settle(tmp_path, acknowledged, clock=HandClock())


def test_a_restored_log_is_refused_by_the_signer(tmp_path: Path, reference: Signer) -> None:
    """Log, keys and memory are put back together: no writer can tell, the signer on its host can."""
    ledger = opened(tmp_path)
    log(ledger)
    ledger.close()
    names = ("audit", "audit.keys", "audit.state")
    for name in names:
        shutil.copytree(tmp_path / name, tmp_path / "old" / name)
    again = opened(tmp_path)
    log(again)
    again.close()
    for name in names:
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "old" / name, tmp_path / name)
    second = opened(tmp_path)
    with pytest.raises(SignerUnavailable, match="exit code 4"):
        second.appender.wait_published(second.head.size, 60)
    with pytest.raises(SignerUnavailable):
        second.close()
    old = judge(tmp_path / "old" / "audit", ledger.vkey).lines
    assert old == list(second.store.read_entries(0))[: len(old)]
