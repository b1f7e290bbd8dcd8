"""Both verifiers find the same in every log: good ones, every attack that is known, and damage at random."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit import AuditLog
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.attacks import Eyes
from klingai_audit.upkeep.copy import Impossible, LogCopy
from klingai_audit.upkeep.drill import all_attacks
from tests.support.both import ask_both, differences, disagreement, mutate, three_days
from tests.support.bundles import STRANGER, WITNESS, witness
from tests.support.logsmith import Smith, leaf_hash, write_files
from tests.support.several import damaged
from tests.unit.trust import attacks as trust_attacks
from tests.unit.trust import test_attacks as trust_tests
from tests.unit.trust import test_epochs as epoch_tests
from tests.unit.trust import test_lines as line_tests

GOLDEN = Path(__file__).parents[2] / "golden" / "v1"
SMITH = three_days()
GOOD = SMITH.files()
KEY = SMITH.log_key.vkey
FIRST, SECOND, THIRD = (name for name in sorted(GOOD) if name.startswith("audit"))


def differs(folder: Path, smith: Smith, **changed: bytes) -> list[str]:
    """In what the two differ about a log that its own writer made so."""
    return disagreement(folder / "audit", smith.files() | changed, smith.log_key.vkey, smith.now)


def test_golden_log():
    """The released log: whole for both."""
    package, single = ask_both(GOLDEN / "audit", (GOLDEN / "log.pub").read_text(), dt.datetime.now(dt.UTC))
    assert [] == differences(package, single)
    assert "ruled_out" == single.states["edit"]


@pytest.mark.parametrize(
    "known", [{}, {"remembered": SMITH.checkpoint(150, 1)}, {"epoch_key": SMITH.epoch_key(0).vkey}]
)
def test_good_log(tmp_path, known):
    """With and without a memory and the first epoch's key."""
    assert [] == disagreement(tmp_path / "audit", GOOD, KEY, SMITH.now, **known)


def test_good_log_without_a_key(tmp_path):
    """Trusting what the log says of itself."""
    assert [] == disagreement(tmp_path / "audit", GOOD, None, SMITH.now)


@pytest.mark.slow
@pytest.mark.parametrize("name", trust_tests.ATTACKS)
def test_attack_on_files(tmp_path, name):
    """Every attack of the package's own tests."""
    files = dict(trust_attacks.GOOD)
    trust_tests.ATTACKS[name][0](files)
    assert [] == disagreement(tmp_path / "audit", files, trust_attacks.KEY, trust_attacks.SMITH.now)


@pytest.mark.slow
def test_attacks_of_the_drill(tmp_path):
    """All of the drill, on a log that the product wrote and witnesses saw: the same names and the same answers."""
    with AuditLog.open(tmp_path / "audit", post_quantum=True) as audit:
        for number in range(30):
            audit.log("x_work", f"user{number % 3}@example.com", number=number)
        audit.rotate_keys()
        for number in range(10):
            audit.log("x_work", f"user{number % 3}@example.com", number=number)
        witness(audit, WITNESS, STRANGER)
        key = audit.vkey
    head = (tmp_path / "audit" / "checkpoint").read_bytes()
    vkeys = (WITNESS.verifier.format(), STRANGER.verifier.format())
    lines = (f"witness w{number} {vkey}\n" for number, vkey in enumerate(vkeys))
    policy = ("".join(lines) + "group both all w0 w1\nquorum both\n").encode()
    here = Eyes(head, (tmp_path / "audit.keys" / "epoch-0.pub").read_text().strip(), None, WitnessPolicy.parse(policy))
    here = replace(here, mldsa_key=(tmp_path / "audit.keys" / "mldsa.pub").read_text())
    copy = LogCopy(tmp_path / "audit", tmp_path / "drill")
    now = dt.datetime.now(dt.UTC)
    found: dict[str, list[str]] = {}
    for attack in all_attacks(KeyFolder(tmp_path / "audit.keys"), here):
        try:
            eyes = attack.act(copy) or here
        except Impossible:
            assert attack.needs in ("time stamps", "purged entries", "sealed days")
            continue
        package, single = ask_both(
            copy.log, key, now, remembered=eyes.remembered, epoch_key=eyes.epoch_key,
            mldsa_key=eyes.mldsa_key, witnesses=None if eyes.witnesses is None else policy,
        )  # fmt: skip
        found[attack.name] = differences(package, single)
        wanted = attack.expects - {"quorum_missing"}  # demanding witnesses is the package's own
        if wanted and not wanted & single.kinds:
            found[attack.name].append(f"the single file says only {sorted(single.kinds)}")
        left = {threat: single.states[threat] for threat in attack.leaves}
        if set(left.values()) - {"not_ruled_out", "not_checked"}:
            found[attack.name].append(f"the single file says {left}")
        copy.restore()
    assert {} == {name: what for name, what in found.items() if what}
    assert len(found) >= 50


def rounds(folder: Path, seeds: range, edits: int) -> list[tuple[int, list[str], list[str]]]:
    """Damage the good log at random and return where the two differ."""
    found = []
    for seed in seeds:
        luck, files = random.Random(seed), dict(GOOD)
        what = [mutate(files, luck) for _ in range(luck.randint(1, edits))]
        if any(name.startswith("checkpoint") for name in files):  # else nothing is signed: docs/format.md, 10.1
            differing = disagreement(folder / str(seed) / "audit", files, KEY, SMITH.now)
            found += [(seed, what, differing)] if differing else []
    return found


@pytest.mark.slow
def test_one_damage_at_random(tmp_path):
    """Bits, truncations, lines and files."""
    assert [] == rounds(tmp_path, range(12), 1)


@pytest.mark.slow
def test_one_damage_at_random_often(tmp_path):
    """The same, a thousand times."""
    assert [] == rounds(tmp_path, range(1000, 2000), 1)


@pytest.mark.slow
@pytest.mark.parametrize("edits", [2, 3])
def test_several_damages_at_random(tmp_path, edits):
    """Two or three at once, stray copies beside damaged originals among them."""
    assert [] == damaged(tmp_path, SMITH, GOOD, range(5000, 5250), edits)


def test_a_copy_beside_a_zeroed_original(tmp_path):
    """The copy counts where its day belongs, behind the original: nothing was moved, and zeros are an added file."""
    for name in sorted(name for name in GOOD if name.startswith("audit"))[1:]:
        files = GOOD | {name + "0": GOOD[name], name: bytes(len(GOOD[name]))}
        assert [] == disagreement(tmp_path / name / "audit", files, KEY, SMITH.now)
        found = ask_both(tmp_path / name / "audit", KEY, SMITH.now)[0]
        assert {"file_added", "file_renamed"} == found.kinds


def test_the_only_day_renamed_and_its_lines_swapped(tmp_path):
    """What stands last then has no seal, which nobody asks of a line that was signed."""
    files = one_day().files()
    lines = files.pop(FIRST).splitlines(keepends=True)
    files[FIRST + "1"] = b"".join([*lines[:4], *lines[-2:], *lines[4:-2]])
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert {"file_renamed"} == ask_both(tmp_path / "audit", KEY, SMITH.now)[1].kinds


steps = st.lists(
    st.sampled_from(
        ["work", "work", "day", "rotate", "close", "open", "heartbeat", "gap", "wait", "step", "out", "in"]
    ),
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(steps=steps, late=st.integers(0, 100))
def test_any_life_of_a_log(steps, late):
    """Logs of any history: rotations, days, silences, gaps, migrations."""
    smith = Smith().create()
    for step in steps:
        if step == "work":
            smith.work(7)
        elif step == "day":
            smith.next_day()
        elif step == "rotate":
            smith.rotate()
        elif step == "close":
            smith.closed()
        elif step == "open":
            smith.opened("w2")
        elif step == "heartbeat":
            smith.batch(smith.event("log_heartbeat", {}))
        elif step == "gap":
            smith.batch(smith.event("gap_opened", {}))
        elif step == "wait":
            smith.now += dt.timedelta(minutes=90)
        elif step in ("out", "in"):
            smith.batch(smith.event("log_migrated", {"phase": step}))
        else:
            smith.batch(smith.event("clock_stepped", {}))
    with tempfile.TemporaryDirectory() as folder:
        now = smith.now + dt.timedelta(minutes=late)
        assert [] == disagreement(Path(folder) / "audit", smith.files(), smith.log_key.vkey, now)


@pytest.mark.parametrize("name", epoch_tests.BAD_ROTATIONS)
def test_bad_rotations(tmp_path, name):
    """Every departure from section 7 by somebody with all keys."""
    assert [] == differs(tmp_path, epoch_tests.BAD_ROTATIONS[name](Smith().create().work(5)).work(3).closed())


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"policy": None}, {"epoch": 1}, {"more": 1}, {"origin": "log.example.com/other"}, {"log_key": "x"}],
    ids=str,
)
def test_bad_first_entries(tmp_path, changes):
    """Every departure of entry 0 from section 7."""
    assert [] == differs(tmp_path, epoch_tests.begin(Smith(), **changes))


def signed(entry: bytes) -> Smith:
    """A log whose writer signed this line as its third entry."""
    smith = Smith().create()
    smith.entries.append(entry)
    smith.days.append(smith.last_logged[:10])
    smith.tree.append(leaf_hash(entry))
    return smith.work(4).closed()


@pytest.mark.parametrize("name", line_tests.FAULTY)
def test_signed_entries_of_another_form(tmp_path, name):
    """What a writer of one's own could sign: the same kind from both, and never called changed (but if too long)."""
    smith = signed(line_tests.FAULTY[name][0])
    assert [] == differs(tmp_path, smith)
    _, single = ask_both(tmp_path / "audit", smith.log_key.vkey, smith.now)
    assert ("too large" in name) == ("entry_changed" in single.kinds)


@pytest.mark.parametrize(
    ("number", "fine"),
    [
        (b"9007199254740992", True),
        (b"9007199254740993", False),
        (b"-9007199254740993", False),
        (b"1" + b"0" * 400, False),
        (b"1e16", True),
        (b"1e+16", False),
        (b"0.00001", True),
        (b"1e-5", False),
        (b"1e-6", True),
        (b"1000000000000000.0", True),
        (b"-0", False),
        (b"-0.0", True),
        (b"1e400", False),
        (b"0.1000000000000000055", False),
        (b"5e-324", True),
        (b"1.50", False),
    ],
)
def test_numbers_have_one_spelling(tmp_path, number, fine):
    """Integers within 2^53, doubles in their shortest form; the package once took any integer."""
    smith = Smith().create()
    smith.batch(smith.event("x_note", {"a": 1}).replace(b'"a":1', b'"a":' + number))
    assert [] == differs(tmp_path, smith.closed())
    _, single = ask_both(tmp_path / "audit", smith.log_key.vkey, smith.now)
    assert fine == ("entry_malformed" not in single.kinds)


def test_a_link_that_was_signed_wrong(tmp_path):
    """Root and leaves agree, the link does not: named by both as that."""
    smith = Smith().create().work(8)
    entry = smith.event("x_note", {})[:-1] + b',"seq":10,"logged_at":"%b","prev_hash":"%b"}' % (
        smith.last_logged.encode(),
        b"0" * 64,
    )
    smith.entries.append(entry)
    smith.days.append(smith.last_logged[:10])
    smith.tree.append(leaf_hash(entry))
    assert [] == differs(tmp_path, smith.work(4).closed())
    assert {"link_broken"} == ask_both(tmp_path / "audit", smith.log_key.vkey, smith.now)[0].kinds


def test_first_day_under_another_name_accuses_no_epoch(tmp_path):
    """Entry 0 is read where it stands; once the package read the first line of what was left."""
    files = dict(GOOD)
    files[FIRST + ".bak"] = files.pop(FIRST)
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert {"file_renamed"} == ask_both(tmp_path / "audit", KEY, SMITH.now)[0].kinds


def test_end_of_a_day_is_no_missing_file(tmp_path):
    """Between two neighbouring days no file can be gone."""
    lines = GOOD[SECOND].splitlines(keepends=True)
    files = GOOD | {SECOND: b"".join(lines[:-1])}
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert {"entry_missing"} == ask_both(tmp_path / "audit", KEY, SMITH.now)[0].kinds


def one_day() -> Smith:
    return Smith().create().work(30).closed()


def test_the_only_day_under_another_name(tmp_path):
    """No day file is left, and every entry is there."""
    files = one_day().files()
    files[FIRST + "1"] = files.pop(FIRST)
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert {"file_renamed"} == ask_both(tmp_path / "audit", KEY, SMITH.now)[1].kinds


def test_the_last_entries_moved(tmp_path):
    """What stands last then has no seal, which nobody asks of a line that was signed."""
    files = one_day().files()
    lines = files[FIRST].splitlines(keepends=True)
    files[FIRST] = b"".join([*lines[:4], *lines[-2:], *lines[4:-2]])
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert {"entry_moved"} == ask_both(tmp_path / "audit", KEY, SMITH.now)[1].kinds


def unsealed(smith: Smith, count: int) -> Smith:
    """Append entries in a batch without a seal, as a database or a bucket takes them."""
    smith.batch(*itertools.islice(smith.stream, count), sealed=False)
    return smith


def test_signed_lines_need_no_seal(tmp_path):
    """What a published checkpoint covers is whole without any seal, and rules out the same."""
    smith = unsealed(one_day(), 5)
    package, single = ask_both(write_files(tmp_path / "audit", smith.files()), smith.log_key.vkey, smith.now)
    assert [] == differences(package, single)
    assert (frozenset(), "ruled_out") == (package.kinds, package.states["insert"])


def test_lines_beyond_the_checkpoint_need_a_seal(tmp_path):
    """A line that no checkpoint covers and no writer sealed is told as such by both."""
    smith = one_day()
    folder = write_files(tmp_path / "audit", unsealed(smith, 5).files(smith.checkpoint(31)))
    said = [f.message for f in verify(DirectoryStore(folder, tmp_path / "mark"), key=KEY, patience=0.0).findings]
    alone_said = [f.message for f in alone.verify_log(str(folder), KEY).findings]
    assert [True, True] == [any("has no seal" in text for text in texts) for texts in (said, alone_said)]
    assert [] == disagreement(tmp_path / "again", smith.files(smith.checkpoint(31)), KEY, smith.now)


def test_joined_lines_and_no_tree(tmp_path):
    """The links tell what was signed where the stored hashes are zeros."""
    files = one_day().files()
    files["tree/0"] = bytes(len(files["tree/0"]))
    files[FIRST] = files[FIRST].replace(b"\n", b"", 12).replace(b"}{", b"}\n{", 11)
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    kinds = ask_both(tmp_path / "audit", KEY, SMITH.now)[1].kinds
    assert {"entry_changed", "entry_missing", "tree_changed"} == kinds


def test_rubbish_of_a_larger_size_is_no_rollback(tmp_path):
    """Only what the log's key signed can say that there was more."""
    files = GOOD | {f"checkpoints/{4096:020}": b"rubbish\n"}
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    package, _ = ask_both(tmp_path / "audit", KEY, SMITH.now)
    assert ({"checkpoint_malformed", "kept_unexpected"}, "not_ruled_out") == (package.kinds, package.states["rollback"])


def test_nothing_signed_rules_no_foreign_key_out(tmp_path):
    """A pinned key that signed nothing here proves nothing."""
    files = {name: data for name, data in GOOD.items() if not name.startswith("checkpoint")}
    assert [] == disagreement(tmp_path / "audit", files, KEY, SMITH.now)
    assert "not_ruled_out" == ask_both(tmp_path / "audit", KEY, SMITH.now)[0].states["foreign_key"]


def test_both_can_differ(tmp_path):
    """The comparison itself notices other kinds and other states."""
    package, _ = ask_both(write_files(tmp_path / "a", GOOD), KEY, SMITH.now)
    _, single = ask_both(write_files(tmp_path / "b", GOOD | {"notes": b""}), KEY, SMITH.now)
    assert ["only the single file says file_unexpected"] == differences(package, single)[:1]
    assert 2 == len(differences(package, single))
