"""Both verifiers find the same in logs with sealed days and purged entries: good ones, wrong ones, damaged ones."""

from __future__ import annotations

import datetime as dt
import gzip
import random
import tracemalloc
import zlib

import pytest

from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.verify import verify
from tests.support.both import ask_both, differences, disagreement, mutate
from tests.support.logsmith import Smith, write_files
from tests.support.retained import RETAINED, WRONG, Keeper, keeper, pack
from tests.support.several import contradictions
from tests.unit.standalone.test_witnesses import POLICY, after, seen_at

pytestmark = pytest.mark.slow


def wrong(name: str) -> Keeper:
    """A log that is wrong in this way."""
    made = keeper()
    for step in WRONG[name][0]:
        step(made)
    return made.done()


def files_of(made: Keeper) -> dict[str, bytes]:
    """The files, blank lines (where the test put several lines into one) left out."""
    found = {}
    for name, data in made.files().items():
        found[name] = data
        while name.endswith(".jsonl") and b"\n\n" in found[name]:
            found[name] = found[name].replace(b"\n\n", b"\n")
    return found


@pytest.mark.parametrize("name", RETAINED)
def test_good_logs(tmp_path, name):
    """Nothing is broken for either, and both count the same lines and list the same purges."""
    made = RETAINED[name]()
    files, key, now = made.files(), made.smith.log_key.vkey, made.smith.now
    assert [] == disagreement(tmp_path / "audit", files, key, now)
    package = verify(DirectoryStore(tmp_path / "audit", tmp_path / "mark"), key=key, now=now, patience=0.0)
    single = alone.verify_log(str(tmp_path / "audit"), key, now=now)
    assert ([], []) == (list(package.broken), list(single.broken))
    assert (len(made.smith.entries), package.total) == (single.total, single.total)
    assert package.to_json()["purged"] == single.as_json()["purged"]
    runs = [seq for run in single.as_json()["purged"] for seq in range(run["seq"], run["seq_end"])]
    assert sorted(made.lines) == runs


@pytest.mark.parametrize("name", WRONG)
def test_wrong_logs(tmp_path, name):
    """What retention can have got wrong has one name, whoever looks."""
    made = wrong(name)
    assert [] == disagreement(tmp_path / "audit", files_of(made), made.smith.log_key.vkey, made.smith.now)
    found = ask_both(tmp_path / "audit", made.smith.log_key.vkey, made.smith.now)[1]
    assert WRONG[name][1] <= found.kinds
    if {"purge_unauthorised", "file_unreadable"} & found.kinds:
        assert "ruled_out" != found.states["delete"]


def test_silences(tmp_path):
    """A silence is told between whole neighbours only: between others nobody knows how long it was."""
    found = {}
    for name in (name for name in RETAINED if "silence" in name or "listed" in name):
        made = RETAINED[name]()
        folder = write_files(tmp_path / name / "audit", made.files())
        found[name] = ask_both(folder, made.smith.log_key.vkey, made.smith.now)[1].kinds
    assert {"a silence"} == {name for name, kinds in found.items() if "heartbeat_gap" in kinds}
    assert {"listed and whole"} == {name for name, kinds in found.items() if "purge_unfinished" in kinds}


@pytest.mark.parametrize(("seq", "told"), [(4, True), (9, False)])
def test_an_act_without_outcome(tmp_path, seq, told):
    """An intent is overdue only if no entry behind it is purged, which might have been its outcome."""
    made = keeper()
    intent = {"phase": "intent", "deadline_s": 1}
    late = made.smith.event("prompt_submitted", intent, outcome="unknown", correlation_id=made.smith.event_id())
    made.smith.batch(late)
    made.purge((seq, seq) if told else (len(made.smith.entries) - 2, len(made.smith.entries) - 2))
    at = len(made.smith.entries)
    if not told:
        made.smith.work(3)
        made.purge((at, at))
    now = made.done().smith.now + dt.timedelta(hours=1)
    assert [] == disagreement(tmp_path / "audit", made.files(), made.smith.log_key.vkey, now)
    package, single = ask_both(tmp_path / "audit", made.smith.log_key.vkey, now)
    assert (told, told) == ("intent_overdue" in package.kinds, "intent_overdue" in single.kinds)


def test_an_older_sealed_form(tmp_path):
    """A run that was stopped before it put the newer form in its place is a note."""
    made = keeper()
    made.seal(made.days()[0])
    name, before = next(iter(made.packed.items()))
    made.purge((12, 14))
    made.seal(made.days()[0])
    files = made.done().files() | {name: before}
    assert [] == disagreement(tmp_path / "audit", files, made.smith.log_key.vkey, made.smith.now)
    found = ask_both(tmp_path / "audit", made.smith.log_key.vkey, made.smith.now)[1]
    assert {"purge_unfinished", "seal_unfinished"} == found.kinds


@pytest.mark.parametrize("known", [True, False])
def test_both_files_of_a_day(tmp_path, known):
    """The file that is not sealed counts; the sealed one is a note if an entry names it, else it does not belong."""
    made = keeper()
    made.seal(made.days()[0])
    name, data = next(iter(made.packed.items()))
    files = made.done().files() | {name.removesuffix(".gz"): made.day(made.days()[0])}
    files |= {} if known else {name: pack(gzip.decompress(data), 1)}
    assert [] == disagreement(tmp_path / "audit", files, made.smith.log_key.vkey, made.smith.now)
    found = ask_both(tmp_path / "audit", made.smith.log_key.vkey, made.smith.now)[1]
    assert {"seal_unfinished" if known else "file_unexpected"} == found.kinds


@pytest.mark.parametrize("change", ["zero", "cut", "link"])
def test_a_damaged_day_beside_its_sealed_form(tmp_path, change):
    """It stands for a copy under another name if it begins with what is gone, and alone if the other is no file."""
    made = keeper()
    made.purge((5, 9))
    made.seal(made.days()[1])
    name = next(iter(made.packed))
    plain, data = name.removesuffix(".gz"), made.day(made.days()[1])
    files = made.done().files() | {plain: bytes(99) if change == "zero" else data[: len(data) // 2]}
    if change == "link":
        del files[plain]
    folder = write_files(tmp_path / "audit", files)
    if change == "link":
        (folder / plain).symlink_to(folder / "checkpoint")
    package, single = ask_both(folder, made.smith.log_key.vkey, made.smith.now)
    assert [] == differences(package, single)
    expected = {"zero": {"file_added", "file_renamed"}, "cut": {"entry_changed", "entry_missing"}}
    assert expected.get(change, {"file_unexpected"}) == single.kinds


@pytest.mark.parametrize("name", ["old.gz", "audit-2026-11-21.jsonl.gz1", "audit-2026-11-25.jsonl.gz"])
def test_a_sealed_day_under_another_name(tmp_path, name):
    """Its entries are found there if the name says that it is packed."""
    made = RETAINED["purged and sealed"]()
    files = made.files()
    files[name] = files.pop("audit-2026-11-21.jsonl.gz")
    assert [] == disagreement(tmp_path / "audit", files, made.smith.log_key.vkey, made.smith.now)
    found = ask_both(tmp_path / "audit", made.smith.log_key.vkey, made.smith.now)[1]
    expected = {
        "o": {"file_renamed"},
        "1": {"file_unexpected", "file_missing"},
        "z": {"file_renamed", "sealed_changed"},
    }
    assert expected["o" if name == "old.gz" else name[-1]] == found.kinds


@pytest.mark.slow
def test_a_bomb_is_let_go(tmp_path):
    """64 MB of nothing in some kilobytes are read in small pieces."""
    made = RETAINED["sealed"]()
    files = made.files()
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(64)]) + packer.flush()
    files["audit-2026-11-21.jsonl.gz"] = bomb
    folder = write_files(tmp_path / "audit", files)
    tracemalloc.start()
    try:
        found = alone.verify_log(str(folder), made.smith.log_key.vkey, now=made.smith.now)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "sealed_changed" in {finding.kind for finding in found.findings}
    assert peak < 30 << 20


@pytest.mark.parametrize(
    ("purge", "state"), [((3, 3), "not_ruled_out"), ((3, 21), "not_ruled_out"), ((3, 22), "ruled_out")]
)
def test_dates_that_are_left(tmp_path, purge, state):
    """What is purged has no date left to doubt; what is whole behind it has: witnesses saw it two days later."""
    smith = Smith().create()
    seen_at(smith, after(smith, hours=1), after(smith, hours=1)).work(20)
    seen_at(smith, after(smith, hours=49), after(smith, hours=49))
    smith.now += dt.timedelta(hours=50)
    made = Keeper(smith)
    made.purge(purge)
    folder = write_files(tmp_path / "audit", made.done().files())
    package, single = ask_both(folder, smith.log_key.vkey, smith.now, witnesses=POLICY)
    assert ([], state) == (differences(package, single), package.states["back_dating"])


DAMAGED = ("purged", "purged and sealed", "several purges", "a whole day", "several days")
LOGS = {name: RETAINED[name]() for name in DAMAGED}


def damages(tmp_path, seeds: range, edits: int) -> list[object]:
    """Damage logs at random and return where the two differ, or with several damages mislead."""
    found = []
    for seed in seeds:
        luck = random.Random(seed)
        name = sorted(LOGS)[seed % len(LOGS)]
        made, files = LOGS[name], LOGS[name].files()
        packed = {name for name in files if name.endswith(".gz") and luck.random() < 0.5}
        files |= {name: gzip.decompress(files[name]) for name in packed}
        what = [mutate(files, luck) for _ in range(edits)]
        files |= {name: pack(files[name]) for name in packed & set(files)}
        if edits == 1 and not any(one.startswith("checkpoint") for one in files):
            continue
        folder = write_files(tmp_path / str(seed) / "audit", files)
        compared = differences if edits == 1 else contradictions
        told = compared(*ask_both(folder, made.smith.log_key.vkey, made.smith.now))
        found += [(seed, name, what, told)] if told else []
    return found


def test_one_damage(tmp_path):
    """A few, fast."""
    assert [] == damages(tmp_path, range(5), 1)


@pytest.mark.slow
def test_one_damage_often(tmp_path):
    """Bits, truncations, lines and files, sealed ones among them."""
    assert [] == damages(tmp_path, range(1000, 1800), 1)


@pytest.mark.slow
@pytest.mark.parametrize("edits", [2, 3])
def test_several_damages(tmp_path, edits):
    """At once; where one proves less, neither may mislead."""
    assert [] == damages(tmp_path, range(4000, 4300), edits)
