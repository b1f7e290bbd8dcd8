"""The drill catches every attack, calls it by its name, and touches nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.config import Places
from klingai_audit.errors import LogDamaged, LogNotFound
from klingai_audit.upkeep.attacks import ATTACKS, Attack
from klingai_audit.upkeep.copy import LogCopy
from klingai_audit.upkeep.drill import drill


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


def test_every_attack_is_caught(places: Places) -> None:
    """Nothing is missed, nothing skipped, and there are at least forty attacks."""
    result = drill(places)
    assert () == result.missed
    assert [] == [attack.attack for attack in result.attacks if attack.skipped]
    assert len(result.tried) >= 40
    assert result.caught == len(result.tried)


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
    assert {"roll_back", "thief_rewrites_past", "thief_rewrites_present"} == set(skipped)
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
