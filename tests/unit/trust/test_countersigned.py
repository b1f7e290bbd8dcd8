"""The ML-DSA-44 line: where it must stand, what is wrong with it, and what it proves against quantum forgers."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.tlog import keys as tlog_keys
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.anchors import read_anchor
from klingai_audit.trust.countersigned import check_countersigned, is_demanded
from klingai_audit.trust.verdict import Threat, Verdict
from klingai_audit.trust.verify import verify
from tests.support.both import three_days
from tests.support.logsmith import SecondKey, Smith, write_files
from tests.unit.trust.attacks import broken, check
from tests.unit.trust.test_epochs import begin

SMITH = three_days(post_quantum=True)
GOOD = SMITH.files()
SECOND = SMITH.second
assert SECOND is not None
VKEY = SECOND.vkey
KEPT = sorted(name for name in GOOD if name.startswith("checkpoints/"))
OTHER = SecondKey(SMITH.origin, b"o" * 32)


def judged(smith: Smith, folder, **changed: bytes | str | None) -> Verdict:
    """The verdict on this log with some files changed, its ML-DSA-44 key given unless told otherwise."""
    options = {name: changed.pop(name) for name in ("mldsa_key",) if name in changed}
    files = smith.files() | {name: data for name, data in changed.items() if isinstance(data, bytes)}
    given = {"key": smith.log_key.vkey, "now": smith.now, "mldsa_key": smith.second and smith.second.vkey} | options
    return check(folder / "audit", files, **given)


def quantum(verdict: Verdict) -> tuple[list[str], str]:
    """Kinds of broken findings, and the answer about quantum forgers."""
    return [kind for kind, *_ in broken(verdict)], verdict.threat("quantum").state


def lines_of(note: bytes) -> list[bytes]:
    return note.splitlines(keepends=True)


def test_a_closed_log_is_ruled_out(tmp_path):
    """The last checkpoint has the line: nothing in the log can be changed by a quantum forger."""
    verdict = judged(SMITH, tmp_path)
    assert ([], "ruled_out") == quantum(verdict)
    assert f"entries below {len(SMITH.entries)} are under" in verdict.threat("quantum").by


def test_what_follows_the_last_line_is_open(tmp_path):
    """The answer says from which entry on, and what to do."""
    smith = Smith(post_quantum=True).create().work(7).rotate().work(5)
    threat = judged(smith, tmp_path).threat("quantum")
    expected = "entries below 10 are under an ML-DSA-44 signature by the key from --mldsa-key"
    expected += "; the 5 entries after them are under Ed25519 alone"
    assert Threat("quantum", "not_ruled_out", expected, "Close the log, or run: klingai-audit keys rotate") == threat


def test_a_line_on_the_newest_checkpoint_counts(tmp_path):
    """Once a minute it stands there, though no rule asks for it at this size."""
    smith = Smith(post_quantum=True).create().work(7)
    assert ([], "not_ruled_out") == quantum(judged(smith, tmp_path))
    assert ([], "ruled_out") == quantum(judged(smith, tmp_path, checkpoint=smith.checkpoint(second=True)))


def test_nothing_is_signed_by_it_yet(tmp_path):
    """A key alone proves nothing."""
    threat = judged(Smith(post_quantum=True).create().work(7), tmp_path).threat("quantum")
    assert ("not_ruled_out", True) == (threat.state, "nothing is signed by it yet" in threat.by)


def test_a_key_that_only_the_log_names(tmp_path):
    """Whoever forges Ed25519 writes entry 0 anew: nothing is ruled out without the key from elsewhere."""
    verdict = judged(SMITH, tmp_path, mldsa_key=None)
    assert ([], "not_ruled_out") == quantum(verdict)
    assert "verify --mldsa-key VKEY" in verdict.threat("quantum").do


def test_a_log_without_the_key(tmp_path):
    """The answer names what to switch on."""
    verdict = judged(Smith().create().work(3).closed(), tmp_path)
    assert ([], "not_ruled_out") == quantum(verdict)
    assert "klingai-audit init --post-quantum" in verdict.threat("quantum").do


def test_where_the_line_must_stand():
    """Multiples of 4,096, handovers and closings."""
    assert [True, True, False, False] == [is_demanded(size, {7}) for size in (4096, 7, 8, 4097)]


@pytest.mark.parametrize("name", ["checkpoint", *KEPT])
def test_a_stripped_line_is_found(tmp_path, name):
    """On every handover, on every closing, and on `checkpoint` if it is one."""
    verdict = judged(SMITH, tmp_path, **{name: b"".join(lines_of(GOOD[name])[:-1])})
    assert (["mldsa_missing"], "detected") == quantum(verdict)
    assert [(name, 7)] == [(finding.file, finding.line) for finding in verdict.broken]


def flipped(note: bytes) -> bytes:
    """One bit of the signature changed, in the middle of the line."""
    at = len(note) - 1000
    return note[:at] + (b"B" if note[at : at + 1] == b"A" else b"A") + note[at + 1 :]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "another key": lambda note: b"".join(lines_of(note)[:-1]) + OTHER.line(text_of(note), 1).encode(),
    "a changed signature": flipped,
    "of another size": lambda note: b"".join(lines_of(note)[:-1]) + lines_of(GOOD[KEPT[0]])[-1],
}


def text_of(note: bytes) -> str:
    return note.decode().partition("\n\n")[0] + "\n"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_found(tmp_path, name):
    """By another key, changed, moved."""
    assert (["mldsa_invalid"], "detected") == quantum(judged(SMITH, tmp_path, **{KEPT[1]: WRONG[name](GOOD[KEPT[1]])}))


@pytest.mark.slow
def test_any_changed_byte_of_a_line_is_found():
    """One bit of every byte, in turn: out of form, or not by the key."""
    note = GOOD[KEPT[0]]
    begin = len(b"".join(lines_of(note)[:-1]))
    key = VerifierKey.parse(VKEY)
    missed = []
    for at in range(begin, len(note)):
        changed = note[:at] + bytes([note[at] ^ 1 << at % 8]) + note[at + 1 :]
        anchor, faults = read_anchor("checkpoint", changed, VerifierKey.parse(SMITH.log_key.vkey), None)
        if anchor is not None:
            faults = [*check_countersigned([anchor], lambda _: None, key, set(), "").findings]
        missed += [] if faults else [at]
    assert [] == missed


def test_a_line_of_a_log_that_names_no_key(tmp_path):
    """It is not of this log."""
    smith = Smith().create().work(3).closed()
    note = smith.checkpoint() + OTHER.line(text_of(smith.checkpoint()), 1).encode()
    assert (["mldsa_invalid"], "detected") == quantum(judged(smith, tmp_path, checkpoint=note))


OUT_OF_FORM: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "before the epoch's": lambda lines: [*lines[:5], lines[6], lines[5]],
    "twice": lambda lines: [*lines, lines[6]],
    "short": lambda lines: [*lines[:6], lines[6][:-5] + b"\n"],
    "by another name": lambda lines: [*lines[:6], lines[6].replace(SMITH.origin.encode(), b"example.com", 1)],
    "alone": lambda lines: [*lines[:4], lines[6]],
    "an Ed25519 line": lambda lines: [*lines[:6], lines[4]],
    "an impossible time": lambda lines: [
        *lines[:6],
        OTHER.line("".join(map(bytes.decode, lines[:3])), 1 << 63).encode(),
    ],
}


@pytest.mark.parametrize("name", OUT_OF_FORM)
def test_lines_out_of_form(tmp_path, name):
    """Order, number, length and name are those of the format."""
    changed = b"".join(OUT_OF_FORM[name](lines_of(GOOD[KEPT[0]])))
    assert ["checkpoint_malformed"] == quantum(judged(SMITH, tmp_path, **{KEPT[0]: changed}))[0]


def test_a_log_with_another_key_than_the_one_kept(tmp_path):
    """Or with none: a forger of Ed25519 began anew."""
    assert (["mldsa_replaced"], "detected") == quantum(judged(SMITH, tmp_path / "a", mldsa_key=OTHER.vkey))
    plain = Smith().create().work(3).closed()
    assert (["mldsa_replaced"], "detected") == quantum(judged(plain, tmp_path / "b", mldsa_key=VKEY))


@pytest.mark.parametrize(
    "vkey",
    [SMITH.log_key.vkey, SecondKey("log.example.com/other", b"x" * 32).vkey, "", 7],
    ids=["kind", "name", "", "7"],
)
def test_first_entries_with_a_key_that_is_none(tmp_path, vkey):
    """Of another kind, another name, or no key."""
    smith = begin(Smith(), policy=None, mldsa_key=vkey, more=None)
    assert "first_entry" in quantum(judged(smith, tmp_path))[0]


def test_a_forger_of_both_ed25519_lines(tmp_path):
    """Everything after a closing is signed anew by the true Ed25519 keys: the next handover shows it."""
    forger = Smith(post_quantum=True).create().work(99).closed()
    forger.second = None
    forger.next_day().opened().rotate().work(5)
    verdict = judged(forger, tmp_path, mldsa_key=VKEY)
    assert SMITH.log_key.vkey == forger.log_key.vkey
    assert (["mldsa_missing"], "detected") == quantum(verdict)
    assert f"checkpoints/{104:020}" == verdict.broken[0].file


def test_quick_keeps_the_key_in_mind(tmp_path):
    """A quick verification demands the line, too."""
    store = DirectoryStore(write_files(tmp_path / "audit", GOOD), tmp_path / "mark")
    known = {"key": SMITH.log_key.vkey, "mldsa_key": VKEY, "now": SMITH.now, "patience": 0.0}
    memory = verify(store, **known).memory
    quick = verify(store, quick_from=memory, **known)
    assert ([], "ruled_out", len(SMITH.entries)) == (*quantum(quick), quick.quick_from)
    (tmp_path / "audit" / "checkpoint").write_bytes(SMITH.checkpoint(second=False))
    assert (["mldsa_missing"], "detected") == quantum(verify(store, quick_from=memory, **known))


def test_an_installation_without_ml_dsa(tmp_path, monkeypatch):
    """The lines are there and cannot be checked: that is not ruled out, and no finding."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    tlog_keys._load_public.cache_clear()
    verdict = judged(SMITH, tmp_path)
    assert ([], "not_checked") == quantum(verdict)
    assert "newest release of cryptography" in verdict.threat("quantum").do
