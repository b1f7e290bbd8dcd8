"""The drill catches every attack, calls it by its name, and touches nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.bundle.attacks import BUNDLE_ATTACKS, BundleAttack
from klingai_audit.config import Places
from klingai_audit.errors import LogDamaged, LogNotFound
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.upkeep.attacks import ATTACKS, Attack
from klingai_audit.upkeep.copy import LogCopy
from klingai_audit.upkeep.drill import DrillResult, drill
from klingai_audit.upkeep.quantum_attacks import quantum_attacks
from tests.support.bundles import STRANGER, WITNESS, witness
from tests.support.logsmith import Smith
from tests.support.purged import old_log


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """A closed log of two epochs."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(40):
            audit.log("x_work", f"user{number % 3}@example.com", number=number)
        audit.rotate_keys()
        for number in range(20):
            audit.log("x_work", f"user{number % 3}@example.com", number=number)
    return Places.resolve(tmp_path / "audit", environ={})


UNSEEN = {"roll_back_unseen": {"rollback"}, "thief_replaces_epochs_unseen": {"key_theft", "key_holder"},
          "thief_rewrites_present_unseen": {"fork", "key_holder", "key_theft"}}  # fmt: skip
"""What whoever looks there cannot tell from the truth, and of what the verdict has to say so."""
STRIPPED = {name: {"fork", "key_holder"} for name in ("strip_one_cosignature", "strip_cosignatures", "another_witness")}


def left_open(result: DrillResult) -> dict[str, set[str]]:
    return {attack.attack: {threat.threat for threat in attack.open} for attack in result.open}


def test_every_attack_is_caught_or_told_to_be_open(places: Places) -> None:
    """Nothing is missed; what needs stamps, witnesses or ML-DSA-44 is skipped with the reason and counts as nothing."""
    result = drill(places, others=BUNDLE_ATTACKS)
    assert () == result.missed
    assert UNSEEN == left_open(result)
    skipped = {attack.attack: attack.skipped for attack in result.attacks if attack.skipped}
    assert {
        "the log has no time stamps",
        "no witness is asked for",
        "the log has no ML-DSA-44 key",
        "no entry of the log is purged",
        "no day of the log is sealed",
    } == {str(why).partition(":")[0] for why in skipped.values()}
    assert 23 == len(skipped)
    assert (True, len(result.tried)) == (len(result.tried) >= 45, result.caught)
    told = result.to_json()
    assert (len(result.tried), 23, 3) == (told["mutations"], len(told["skipped"]), len(told["open"]))


def test_forgers_of_ed25519_are_caught_or_told_to_be_open(tmp_path: Path) -> None:
    """Whoever has not the ML-DSA-44 key shows at the next handover or closing, unless nobody knows that key."""
    with AuditLog.open(tmp_path / "audit", post_quantum=True) as audit:
        audit.log("x_work", "user@example.com")
        audit.rotate_keys()
        for number in range(5):
            audit.log("x_work", "user@example.com", number=number)
    plan = quantum_attacks(KeyFolder(tmp_path / "audit.keys"))
    result = drill(Places.resolve(tmp_path / "audit", environ={}), attacks=plan)
    assert ((), 4, {"quantum_forger_unseen": {"quantum"}}) == (result.missed, result.caught, left_open(result))
    found = {attack.attack: attack.finding.kind for attack in result.tried if attack.finding is not None}
    expected = {"strip_mldsa_line": "mldsa_missing", "other_mldsa_key": "mldsa_invalid"}
    expected |= {"quantum_forger": "mldsa_missing", "quantum_forger_own_key": "mldsa_replaced"}
    assert expected == found


def test_what_witnesses_cosigned_is_attacked_too(tmp_path: Path) -> None:
    """Rewritten, spoiled, stripped: found, or told to be open; a quorum of two is not one."""
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.rotate_keys()
        for number in range(10):
            audit.log("x_work", "user@example.com", number=number)
        witness(audit, WITNESS, STRANGER)
    lines = (f"witness {n} {one.verifier.format()}" for n, one in (("a", WITNESS), ("b", STRANGER)))
    policy = "\n".join((*lines, "group both all a b", "quorum both", ""))
    (tmp_path / "audit.keys" / "witness.policy").write_text(policy)
    result = drill(Places.resolve(tmp_path / "audit", environ={}))
    assert () == result.missed
    assert UNSEEN | STRIPPED == left_open(result)
    stripped = next(attack for attack in result.open if attack.attack == "strip_cosignatures")
    assert {True} == {"--require-witness" in threat.do for threat in stripped.open}
    kinds = {attack.attack: attack.kinds for attack in result.tried}
    assert [("witness_disagrees",), ("cosignature_invalid",), ("quorum_missing",)] == [
        tuple(set(kinds[name]) & {"witness_disagrees", "cosignature_invalid", "quorum_missing"})
        for name in ("rewrite_witnessed", "spoil_cosignature", "strip_demanded")
    ]


@pytest.mark.slow
def test_what_retention_left_is_attacked_too(tmp_path: Path) -> None:
    """Sealed days and purged entries: nothing is missed, and purging without authority is called that."""
    log, _ = old_log(tmp_path)
    result = drill(Places.resolve(log.path, environ={}), others=BUNDLE_ATTACKS)
    assert () == result.missed
    kinds = {attack.attack: attack.kinds for attack in result.tried}
    assert {("purge_unauthorised",)} == {kinds[name] for name in ("purge_unlisted", "purge_more", "purge_in_advance")}
    assert [("entry_changed",), ("entry_changed",), ("entry_missing",), ("sealed_changed",)] == [
        kinds[name] for name in ("invent_purged", "change_purged", "drop_purged", "repack_sealed")
    ]
    assert {"purge_unauthorised", "sealed_changed"} == set(kinds["purge_sealed"])
    assert {"thief_replaces_epochs_unseen", "thief_rewrites_present_unseen"} <= set(left_open(result))
    assert {"delete", "swap", "edit_and_fit_tree", "roll_back", "thief_rewrites_past", "remove_day"} <= set(kinds)


def test_a_threat_that_the_verdict_rules_out_is_a_miss(places: Places) -> None:
    """Where nobody could detect it, a verdict that rules it out is wrong, and the drill says so."""
    claimed = Attack("claimed", "changes nothing", frozenset(), lambda _copy: None, frozenset({"edit"}))
    assert ("claimed",) == drill(places, attacks=[claimed]).missed


def test_a_bundle_that_is_believed_is_a_miss(places: Places) -> None:
    """What is handed out unchanged holds, so as an attack it is missed."""
    harmless = BundleAttack("harmless", "hands out the truth", lambda evidence, _at: evidence)
    result = drill(places, attacks=[], others=[*BUNDLE_ATTACKS, harmless])
    assert (2, ("harmless",)) == (result.caught, result.missed)


def test_names_are_unique_and_every_finding_has_a_place(places: Places) -> None:
    """Each caught attack says where: an entry, a file or both."""
    result = drill(places)
    names = [attack.attack for attack in result.attacks]
    assert len(names) == len(set(names))
    for attack in result.tried:
        assert attack.finding is not None
        assert attack.finding.file is not None or attack.finding.seq is not None, attack.attack


def test_the_log_is_only_read(places: Places, tmp_path: Path) -> None:
    """Log, keys and state are byte for byte what they were."""
    before = digests(tmp_path)
    drill(places)
    assert before == digests(tmp_path)


def test_an_attack_without_effect_is_missed(places: Places) -> None:
    """The drill can fail: what verification does not notice is named."""

    def nothing(copy: LogCopy) -> None:
        copy.put("checkpoint", copy.read("checkpoint"))

    harmless = Attack("harmless", "changes nothing", frozenset({"entry_changed"}), nothing)
    result = drill(places, attacks=[harmless, ATTACKS[0]])
    assert ("harmless",) == result.missed
    assert 1 == result.caught


def test_a_wrong_name_is_a_miss(places: Places) -> None:
    """Detection alone is not enough: the finding has to be of the expected kind."""
    misnamed = Attack(
        "misnamed", "removes the checkpoint", frozenset({"head_cut"}), lambda copy: copy.drop("checkpoint")
    )
    result = drill(places, attacks=[misnamed])
    assert ("misnamed",) == result.missed


def test_without_private_keys_and_memory_thefts_are_skipped_with_reasons(places: Places, tmp_path: Path) -> None:
    """A reader drills what a reader can; what was left out says why."""
    vkey = (places.keys / "log.pub").read_text().strip()
    shutil.rmtree(places.keys)
    shutil.rmtree(places.state)
    result = drill(places, key=vkey)
    skipped = {attack.attack: attack.skipped or "" for attack in result.attacks if attack.skipped}
    thefts = {name for name in skipped if name.startswith(("roll", "thief", "show"))}
    assert {
        "roll_back",
        "thief_rewrites_past",
        "thief_deletes_past",
        "thief_rewrites_present",
        "thief_rewrites_present_unseen",
        "thief_replaces_epochs",
        "thief_replaces_epochs_unseen",
        "show_another",
    } == thefts
    assert all(len(why) > 20 for why in skipped.values())
    assert () == result.missed


def test_a_damaged_log_is_refused(places: Places, tmp_path: Path) -> None:
    """A drill on a broken log would show nothing."""
    day = next((tmp_path / "audit").glob("audit-*.jsonl"))
    day.write_bytes(day.read_bytes().replace(b'"number":7}', b'"number":8}', 1))
    with pytest.raises(LogDamaged) as caught:
        drill(places)
    assert "entry_changed" == caught.value.kind_of_damage


def test_no_log(tmp_path: Path) -> None:
    """There has to be a log."""
    with pytest.raises(LogNotFound):
        drill(Places.resolve(tmp_path / "nowhere", environ={}))


def test_an_entry_at_the_beginning_of_a_day_is_moved_too(tmp_path: Path) -> None:
    """On a day whose first entry is the only one of somebody: an attack that changes nothing would count as missed."""
    smith = Smith().create().next_day().work(1)
    for _ in range(3):
        smith.closed().opened()
    copy = LogCopy(smith.write(tmp_path / "audit"), tmp_path / "drill")
    (move,) = [attack for attack in ATTACKS if attack.name == "move"]
    move.act(copy)
    day = copy.longest_day()
    assert copy.days[-1] == day
    assert copy.read(day) != copy.attacked(day)
